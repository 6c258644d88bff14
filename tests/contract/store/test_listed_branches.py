"""What a list says of a workflow that waits for its branches: a list looks at few of them, and says what it sees."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from paigeant_celery.core.queries import WorkflowQuery
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.query_port import ListedWorkflow
from tests.contract.store.bench import Bench, RedisBench
from tests.contract.store.blocks import asks, at, nested_block, run, succeed, wait_in, waiting_block
from tests.contract.store.given import FAILURE
from tests.contract.store.test_redis_blocks import commands_of


def listed(bench: Bench, correlation_id: str = "w") -> ListedWorkflow:
    (found,) = bench.store.listed(WorkflowQuery(prefix=correlation_id)).items
    assert found == bench.store.standing(correlation_id)
    return found


def test_a_list_says_on_which_queues_branches_wait(bench: Bench) -> None:
    """Twenty branches on a queue that nobody serves look like a workflow that waits for people."""
    waiting_block(bench, 20, queue="mails")

    found = listed(bench)

    assert (found.state, found.queues_below, found.waits_for) == ("suspended", ("mails",), ())
    succeed(bench.store, *[at(number) for number in range(18)])
    assert listed(bench).queues_below == ("mails",)
    bench.store.retry_at(run(bench.store, at(18)), FAILURE, delay=60_000)
    run(bench.store, at(19))
    assert listed(bench).queues_below == ("mails",), "one is to be tried again"
    bench.store.cancel("w")
    assert (listed(bench).state, listed(bench).queues_below) == ("cancelled", ())


def test_a_branch_that_runs_has_ended_or_is_not_opened_waits_on_no_queue(bench: Bench) -> None:
    """It would be said to be stuck, although nobody has sent it, or somebody has it."""
    waiting_block(bench, 5, window=2)
    found = listed(bench)
    assert found.queues_below == (f"q-{at(0)}", f"q-{at(1)}")

    succeed(bench.store, at(0))
    run(bench.store, at(1))

    assert listed(bench).queues_below == (f"q-{at(2)}",)


def test_a_list_names_what_some_branches_wait_for(bench: Bench) -> None:
    """Whoever reads it sees that people are asked."""
    waiting_block(bench, 4)
    wait_in(bench.store, at(0), asks(at(0), "legal"), asks(at(0), "manager"))
    wait_in(bench.store, at(1), asks(at(1), "manager"))
    nested_block(bench.store, at(2), 1)
    run(bench.store, at(3))

    found = listed(bench)

    assert (found.state, found.queues_below) == ("suspended", ())
    assert set(found.waits_for) == {"legal", "manager"}


def test_a_list_looks_at_few_branches(bench: Bench) -> None:
    """A page has many workflows, and some of them thousands of branches."""
    size = LIMITS.looked_below + 3
    waiting_block(bench, size, window=size)
    for number in range(LIMITS.looked_below):
        run(bench.store, at(number))

    assert listed(bench).queues_below == ()
    succeed_all = [at(number) for number in range(LIMITS.looked_below, size)]
    assert [bench.store.hop(each).state for each in succeed_all] == ["queued"] * 3  # type: ignore[union-attr]


def unchecked(bench: Bench) -> Any:
    """Return the bench without what looks over all records after each call, for tests with hundreds of branches."""
    return SimpleNamespace(store=getattr(bench, "raw", bench.store))


def test_the_first_and_the_last_of_many_branches_are_seen(bench: Bench) -> None:
    """Those between them have ended, most of the time."""
    many, size = unchecked(bench), 2 * LIMITS.numbers_below + 5
    waiting_block(many, size, window=size, queue="mails")
    succeed(many.store, *[at(number) for number in range(size - 1)])

    assert listed(bench).queues_below == ("mails",)


def test_a_page_of_blocks_is_read_in_a_bounded_script(own_redis: Callable[..., Any]) -> None:
    """A script keeps everybody else waiting."""
    bench = RedisBench(own_redis().url, "p")
    store = bench.raw
    for number in range(50):
        waiting_block(unchecked(bench), 12, correlation_id=f"w-{number}")
        for each in range(8):
            hop_id = at(each, of=f"w-{number}.0")
            wait_in(store, hop_id, asks(hop_id))
    while not store.list_older():
        pass
    pages = []

    commands = commands_of(bench, lambda: pages.append(store.listed(WorkflowQuery(limit=50))))

    (page,) = pages
    assert len(page.items) == 50
    assert all(each.waits_for == ("manager",) and len(each.queues_below) == 2 for each in page.items)
    assert 50 * LIMITS.looked_below < commands < 1000
