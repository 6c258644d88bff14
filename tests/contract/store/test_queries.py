"""Which workflows a store has, how many, and in which order they come."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.queries import WorkflowQuery
from paigeant_celery.store.port import NewWorkflow
from paigeant_celery.store.query_port import ListedPage
from tests.contract.store.bench import Bench
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, new


def at(activity: str, hop_id: str) -> Any:
    """Return a hop of an activity; its step has the same name."""
    return replace(hop(hop_id), activity=activity, step_id=activity)


def start(bench: Bench, *names: str, activity: str = "draft") -> None:
    for name in names:
        bench.store.start(NewWorkflow(correlation_id=name, content="c", hop=at(activity, f"{name}.0")))


def ids(page: ListedPage) -> list[str]:
    return [each.correlation_id for each in page.items]


def listed(bench: Bench, **query: Any) -> list[str]:
    states = frozenset(query.pop("states", ()))
    return ids(bench.store.listed(WorkflowQuery(states=states, **query)))


def test_a_page_follows_another_without_a_gap(bench: Bench) -> None:
    """Whoever looks through thousands of workflows sees each of them once."""
    names = [f"w{number}" for number in range(7)]
    start(bench, *names)

    seen, after = [], None
    for _ in range(10):
        page = bench.store.listed(WorkflowQuery(after=after, limit=3))
        seen.append(ids(page))
        if (after := page.next) is None:
            break

    assert sorted(name for page in seen for name in page) == names
    assert [len(each) for each in seen] == [3, 3, 1]
    created = [each.created_at for each in bench.store.listed(WorkflowQuery()).items]
    assert created == sorted(created, reverse=True)


def test_workflows_are_found_by_the_state_of_their_current_step(bench: Bench) -> None:
    """A person looks for what failed, and not through what is well."""
    start(bench, "queued", "running", "retrying", "parked", "failed", "cancelled", "completed")
    claimed = {name: bench.store.claim(claim(f"{name}.0")) for name in ("running", "retrying", "parked", "failed")}
    bench.store.retry_at(closing(claimed["retrying"], "retrying.0"), FAILURE, delay=60)
    bench.store.park(closing(claimed["parked"], "parked.0"), FAILURE)
    bench.store.fail(closing(claimed["failed"], "failed.0"), FAILURE)
    bench.store.cancel("cancelled")
    bench.store.complete(completion(closing(bench.store.claim(claim("completed.0")), "completed.0")))

    assert {state: listed(bench, states=[state]) for state in claimed} == {state: [state] for state in claimed}
    assert listed(bench, states=["queued"]) == ["queued"]
    assert listed(bench, states=["cancelled"]) == ["cancelled"]
    assert set(listed(bench, states=["cancelled", "parked"])) == {"cancelled", "parked"}


def test_workflows_come_by_a_prefix_in_the_order_of_their_ids(bench: Bench) -> None:
    """An id that begins with the customer's number finds all workflows of that customer."""
    start(bench, "order-2", "order-1", "other", "order-10")

    first = bench.store.listed(WorkflowQuery(prefix="order-", limit=2))
    rest = bench.store.listed(WorkflowQuery(prefix="order-", limit=2, after=first.next))

    assert (ids(first), ids(rest), rest.next) == (["order-1", "order-10"], ["order-2"], None)


def test_workflows_are_found_by_their_age(bench: Bench) -> None:
    """What began before the deploy is told from what began after it."""
    start(bench, "w")
    (found,) = bench.store.listed(WorkflowQuery()).items

    assert listed(bench, since=found.created_at) == ["w"]
    assert listed(bench, before=found.created_at) == []
    assert listed(bench, since=found.created_at + timedelta(milliseconds=1)) == []


def test_a_cursor_of_something_else_is_refused(bench: Bench) -> None:
    """A page that silently began at the top would be read again and again."""
    with pytest.raises(InvalidInput):
        bench.store.listed(WorkflowQuery(after="elsewhere"))


def test_an_empty_store_lists_nothing(bench: Bench) -> None:
    """A dashboard is opened before the first workflow."""
    assert bench.store.listed(WorkflowQuery()) == ListedPage(items=())
    assert bench.store.counted() == {}


def test_a_new_workflow_without_an_activity_is_listed(bench: Bench) -> None:
    """An older version recorded it."""
    bench.store.start(new())

    assert listed(bench) == ["w"]
