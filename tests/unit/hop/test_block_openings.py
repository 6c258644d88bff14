"""What the step of a block does before its branches are live and after its join: pages, items, sizes, attempts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from paigeant_celery import (
    InvalidInput,
    StepPolicy,
    StoreRequired,
    Unreachable,
    WorkflowContext,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowParked,
    activity,
    for_each,
    parallel,
)
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop import step_blocks
from paigeant_celery.store.branch_port import BranchPage
from paigeant_celery.store.port import Closing
from paigeant_celery.testing import WorkflowHarness

SHORT = "x" * 100


def delivered(harness: WorkflowHarness) -> list[str]:
    return asyncio.run(harness.deliver())


def parked(handle: WorkflowHandle) -> tuple[str | None, str, str]:
    with pytest.raises(WorkflowParked) as error:
        handle.result_sync(timeout=0)
    return error.value.step_id, error.value.error_class, error.value.text


def use(harness: WorkflowHarness, settings: Settings) -> None:
    """Have the hops of a harness run with other settings from now on, as after a restart of its workers."""
    service = WorkflowHarness(settings)._service
    effects: Any = service._effects
    effects._store = effects._outputs._store = effects._claims._store = harness.store
    effects._outbox = effects._claims._outbox = harness._outbox
    effects._refusals._store = harness.store
    harness._service = service


@pytest.fixture
def seen() -> Any:
    """A function that returns what it gets."""

    @activity(policy=StepPolicy(max_attempts=1))
    async def seen(context: WorkflowContext) -> Any:
        before = context.previous_output
        return before.output if before is not None else None

    return seen


@pytest.fixture
def plan() -> Any:
    """A function that returns its argument."""

    @activity
    async def plan(given: Any) -> Any:
        return given

    return plan


# Items.


def test_a_block_over_nothing_gives_nothing(workflow_harness: WorkflowHarness, seen: Any, plan: Any) -> None:
    """A search that found nothing is no error, unless so many had to succeed."""
    steps = [plan.activity({"given": []}), for_each(seen.activity(), over="plan#/given"), seen.activity()]
    assert asyncio.run(workflow_harness.run(steps)).output == []

    with pytest.raises(WorkflowFailed, match="JoinMissed: too few branches for the join: 0, of which 1 must succeed"):
        asyncio.run(workflow_harness.run([for_each(seen.activity(), over=[], join="any")]))


@pytest.mark.parametrize("size", [10, 5000], ids=["inline", "by reference"])
def test_each_item_is_the_previous_output_of_its_branch(
    workflow_harness: WorkflowHarness, seen: Any, plan: Any, size: int
) -> None:
    """Whether it travels or not; the records of the block name it."""
    items = [{"text": str(number) * size} for number in range(3)]
    steps = [
        plan.activity({"a/b": items}),
        for_each(seen.activity(), over="plan#/a~1b", step_id="there"),
        for_each(seen.activity(), over=items, step_id="here"),
    ]

    result = asyncio.run(workflow_harness.run(steps))

    assert result.outputs["there"] == result.outputs["here"] == items
    largest = max(len(delivery.envelope) for delivery in workflow_harness.delivered if "-" in delivery.hop_id[-6:])
    assert largest < 20_000 + 3 * size


@pytest.mark.parametrize(
    ("over", "reason", "text"),
    [
        ("plan#/sources", "invalid_over", "has nothing at '/sources'"),
        ("plan#/given/7", "invalid_over", "has nothing at '/given/7'"),
        ("plan#/given/0", "invalid_over", "where the output has no list but a JSON str"),
        ("plan", "invalid_over", "where the output has no list but a JSON dict"),
        ("plan#/many", "too_many_branches", "`over` has 4 items, and a block may have 3 branches"),
    ],
)
def test_a_block_that_has_no_good_items_is_parked(seen: Any, plan: Any, over: str, reason: str, text: str) -> None:
    """A model that forgot a field may be asked once more; the reason says what was wrong."""
    harness = WorkflowHarness(Settings(max_branches=3))
    given = {"given": ["a"], "many": [1, 2, 3, 4]}
    handle = harness.dispatch([plan.activity(given), for_each(seen.activity(), over=over, step_id="all")])
    assert delivered(harness) == ["completed", "parked"]

    step, error, said = parked(handle)
    assert (step, error) == ("all", reason)
    assert text in said


def test_a_block_that_had_too_many_items_opens_them_once_the_limit_is_raised(seen: Any, plan: Any) -> None:
    """An operator decides, and the workflow goes on."""
    harness = WorkflowHarness(Settings(max_branches=3))
    steps = [plan.activity([1, 2, 3, 4]), for_each(seen.activity(), over="plan", step_id="all")]
    handle = harness.dispatch(steps, correlation_id="w")
    assert delivered(harness) == ["completed", "parked"]

    use(harness, Settings())
    assert handle.redrive_sync()
    harness.sweep()
    delivered(harness)

    assert handle.result_sync(timeout=0).output == [1, 2, 3, 4]


# Pages.


def test_branches_are_recorded_in_pages_and_a_store_that_is_away_is_waited_for(
    workflow_harness: WorkflowHarness, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that restarts costs a block a moment; no branch is missing, and none is there twice."""
    hold, pages, away = workflow_harness.store.hold, list[tuple[int, int]](), [True, False, True, True, False, False]

    def held(closing: Closing, page: BranchPage) -> int | None:
        if away and away.pop(0):
            raise Unreachable("the store", "memory://", "it restarts")
        written = hold(closing, page)
        pages.append((page.first, len(page.hops)))
        if away and away.pop(0):
            raise Unreachable("the store", "memory://", "the reply is lost")
        return written

    monkeypatch.setattr(workflow_harness.store, "hold", held)
    items = list(range(250))
    result = asyncio.run(workflow_harness.run([for_each(seen.activity(), over=items, max_at_once=7)]))

    assert result.output == items
    assert {first for first, _ in pages} == {0, 100, 200}
    assert len({delivery.hop_id for delivery in workflow_harness.delivered}) == 251


def test_an_attempt_goes_on_from_the_pages_of_the_one_before(
    workflow_harness: WorkflowHarness, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may die inside the pages; the branches that are recorded are not recorded anew."""
    hold, firsts, broken = workflow_harness.store.hold, list[int](), [100, 200]

    def held(closing: Closing, page: BranchPage) -> int | None:
        if page.first in broken:
            broken.remove(page.first)
            raise RuntimeError("the process dies here")
        firsts.append(page.first)
        return hold(closing, page)

    monkeypatch.setattr(workflow_harness.store, "hold", held)
    items = list(range(250))
    result = asyncio.run(workflow_harness.run([for_each(seen.activity(), over=items)], correlation_id="w"))

    assert result.output == items
    assert firsts == [0, 100, 200]
    events = WorkflowHandle("w", workflow_harness.transport).events_so_far()
    assert [event.type for event in events].count("branches_opened") == 1


def test_a_page_of_large_items_has_fewer_branches(
    workflow_harness: WorkflowHarness, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request to the store is larger than it takes well."""
    hold, sizes = workflow_harness.store.hold, list[int]()

    def held(closing: Closing, page: BranchPage) -> int | None:
        sizes.append(sum(len(hop.envelope) for hop in page.hops) + sum(map(len, page.blobs.values())))
        return hold(closing, page)

    monkeypatch.setattr(workflow_harness.store, "hold", held)
    items = [str(number) * 300_000 for number in range(8)]

    @activity
    async def many() -> list[str]:
        return items

    steps = [many.activity(), for_each(seen.activity(), over="many", step_id="all")]
    result = asyncio.run(workflow_harness.run(steps))

    assert result.output == items
    assert len(sizes) == 3
    assert max(sizes) < 2**20 + 10_000


def test_many_branches_do_not_hold_the_event_loop(
    workflow_harness: WorkflowHarness, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents run on it as well: what takes time for each branch is done beside it, and so are calls of the store."""
    threads: set[int] = set()

    def noting(call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **options: Any) -> Any:
            threads.add(threading.get_ident())
            return call(*args, **options)

        return noted

    for name in ("first_message", "manifest_of"):
        monkeypatch.setattr(step_blocks, name, noting(getattr(step_blocks, name)))
    for name in ("hold", "open_block", "block", "branches"):
        monkeypatch.setattr(workflow_harness.store, name, noting(getattr(workflow_harness.store, name)))

    async def run() -> int:
        workflow_harness.dispatch([for_each(seen.activity(), over=[1, 2, 3])])
        await workflow_harness.deliver()
        return threading.get_ident()

    loop = asyncio.run(run())

    assert threads != set()
    assert loop not in threads


def test_a_block_that_would_have_too_many_hops_is_parked(workflow_harness: WorkflowHarness, seen: Any) -> None:
    """Blocks in blocks multiply; the workflow stops before its records fill the server."""
    inner = for_each(seen.activity(), over=list(range(1000)), step_id="inner", max_at_once=1)
    outer = for_each(inner, over=list(range(11)), step_id="outer", max_at_once=11)
    handle = workflow_harness.dispatch([outer], correlation_id="w")
    outcomes = asyncio.run(workflow_harness.deliver(hops=20))

    assert "parked" in outcomes
    letters = workflow_harness.store.dead_letters(after=None, limit=10)
    assert {letter.reason for letter in letters} == {"too_many_hops"}
    assert handle.cancel_sync()


def test_branches_belong_to_the_trace_of_their_block(
    workflow_harness: WorkflowHarness, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace shows the fan-out below the step that made it."""
    traces = iter([{"traceparent": "of the block"}])
    monkeypatch.setattr(step_blocks, "current_trace", lambda: next(traces))
    workflow_harness.dispatch([for_each(seen.activity(), over=[1, 2])], correlation_id="w")
    asyncio.run(workflow_harness.deliver(1))

    assert [delivery.trace_context for delivery in workflow_harness.pending] == [{"traceparent": "of the block"}] * 2
    assert [delivery.parent_id for delivery in workflow_harness.pending] == ["w.0"] * 2


# Sizes and names.


def test_a_branch_whose_message_is_too_large_parks_its_block(seen: Any, plan: Any) -> None:
    """A worker with a higher limit sent the block; with that limit it goes on after a redrive."""
    harness = WorkflowHarness()
    steps = [
        plan.activity([SHORT * 9, SHORT * 9]),
        for_each([seen.activity(), plan.activity(SHORT * 50)], over="plan", step_id="all"),
    ]
    handle = harness.dispatch(steps, correlation_id="w")
    asyncio.run(harness.deliver(1))
    (block,) = harness.pending
    use(harness, Settings(max_message_size=len(block.envelope.encode()) + 1))
    assert delivered(harness) == ["parked"]
    step, error, text = parked(handle)
    assert (step, error) == ("all", "too_large")
    assert "the envelope of branch 0 has" in text
    assert "raise `paigeant_max_message_size`" in text

    use(harness, Settings())
    assert handle.redrive_sync()
    harness.sweep()
    delivered(harness)
    assert handle.result_sync(timeout=0).output == [SHORT * 50] * 2


def test_what_branches_gave_together_may_be_too_large_for_one_output(seen: Any, plan: Any) -> None:
    """Each is within the limit; the block is parked, and once the limit is raised nothing runs again."""
    harness = WorkflowHarness(Settings(max_output_size=1500))
    handle = harness.dispatch([for_each(seen.activity(), over=[SHORT * 7, SHORT * 8], step_id="all")])
    delivered(harness)
    step, error, text = parked(handle)
    assert (step, error) == ("all", "output_too_large")
    assert "have 1504 bytes; raise `paigeant_max_output_size` (1500)" in text

    ran = len(harness.delivered)
    use(harness, Settings())
    assert handle.redrive_sync()
    harness.sweep()
    assert delivered(harness) == ["workflow_completed"]
    assert len(harness.delivered) == ran + 1
    assert handle.result_sync(timeout=0).output == [SHORT * 7, SHORT * 8]


def test_a_queue_that_no_broker_can_have_is_refused_wherever_it_stands(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At dispatch, or where a branch is sent to it: nothing retries what no broker will ever take."""

    @activity
    async def routed() -> int:
        return 1

    def queue_for(activity: str, queue: str | None) -> str:
        if activity == "routed":
            raise InvalidInput("invalid_queue", "queue", "no broker can have it")
        return activity

    steps = [parallel({"a": routed.activity()}, step_id="both")]
    handle = workflow_harness.dispatch(steps)
    monkeypatch.setattr(workflow_harness.transport.publisher, "queue_for", queue_for)
    with pytest.raises(InvalidInput, match=r"invalid_queue at `itinerary\[0\]\.branches\[0\]\.steps\[0\]\.queue`"):
        workflow_harness.dispatch(steps)
    assert delivered(workflow_harness) == ["parked"]
    assert parked(handle)[:2] == ("both", "invalid_queue")


# Redrives.


def test_a_block_that_is_begun_anew_without_its_journal_opens_nothing_anew(seen: Any) -> None:
    """What its branches did stands beside it, and is not paid for twice."""
    harness = WorkflowHarness(Settings(max_output_size=1500))
    steps = [for_each(seen.activity(), over=[SHORT * 7, SHORT * 8], step_id="all")]
    handle = harness.dispatch(steps, correlation_id="w")
    delivered(harness)
    assert parked(handle)[1] == "output_too_large"

    use(harness, Settings())
    assert handle.redrive_sync(discard_journal=True)
    harness.sweep()
    assert delivered(harness) == ["workflow_completed"]
    assert [event.type for event in handle.events_so_far()].count("branches_opened") == 1


# Without a store.


def test_a_block_needs_a_store(workflow_harness: WorkflowHarness, seen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else could count its branches; the dispatcher says so before anything is sent."""
    monkeypatch.setattr(workflow_harness.transport, "store", None)

    with pytest.raises(StoreRequired):
        workflow_harness.dispatch([seen.activity(), parallel({"a": seen.activity()})])

    assert list(workflow_harness.pending) == []
