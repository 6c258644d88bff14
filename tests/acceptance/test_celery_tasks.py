"""Celery tasks of a host as steps on real workers: their retries, their ends, and the crashes in the middle of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signature

from paigeant_celery import ActivitySpec, TaskSpec, WorkflowDispatcher, WorkflowHandle, WorkflowParked
from tests.support.processes import GEVENT, Deployment, deployment, eventually

WITHIN = 30.0
SOON = 8.0  # less than the default lease, because on the same host nobody waits for it

pytestmark = pytest.mark.together("made")


@pytest.fixture(scope="module", params=["prefork", "threads", "solo", GEVENT])
def made(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """One worker that also runs the tasks as what they are; a retry of ours would come only after ten minutes."""
    with deployment(
        redis_url, tmp_path_factory.mktemp("tasks"), paigeant_retry_backoff=600.0, paigeant_consume="also"
    ) as made:
        made.settings["task_default_queue"] = f"{made.prefix}-own"
        made.ready_worker("press", "till", pool=request.param, slots=2)
        yield made


def dispatch(made: Deployment, *steps: Any) -> WorkflowHandle:
    """Start a workflow as a process does that has loaded none of the tasks."""
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)


def calls(path: Path) -> list[tuple[str, int]]:
    """The task ids and numbers of retries that the body saw."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def pauses(path: Path) -> list[float]:
    """The seconds between the calls."""
    times = [float(line.split()[2]) for line in path.read_text().splitlines()]
    return [later - earlier for earlier, later in pairwise(times)]


def test_tasks_follow_each_other_as_in_a_chain(made: Deployment) -> None:
    """What one returns is the first argument of the next, unless its signature is immutable."""
    handle = dispatch(
        made,
        signature("shop.told", args=(1,), kwargs={"order": 17}),
        signature("shop.told", args=(2,)),
        signature("shop.told", args=(3,), immutable=True),
        ActivitySpec("draft", "of an agent"),
        signature("shop.told"),
        signature("shop.ignoring", immutable=True),
        signature("shop.told", kwargs={"last": True}),
    )

    assert list(handle.result_sync(WITHIN).outputs.values()) == [
        [1, {"order": 17}],
        [[1, {"order": 17}], 2, {}],
        [3, {}],
        'draft(of an agent|[3,{}])',
        ['draft(of an agent|[3,{}])', {}],
        None,
        [None, {"last": True}],
    ]  # fmt: skip


def test_a_retry_comes_after_its_countdown_and_holds_no_slot(made: Deployment, tmp_path: Path) -> None:
    """The hop waits in the store; the same worker runs the next attempt of the same hop, with the next number."""
    path = tmp_path / "calls"

    handle = dispatch(made, signature("shop.retrying", args=(str(path), 2, 0.5)))

    assert handle.result_sync(WITHIN).output == "charged"
    assert calls(path) == [(f"{handle.correlation_id}.0", number) for number in range(3)]
    assert all(pause >= 0.5 for pause in pauses(path))
    assert [event.type for event in handle.events_so_far()].count("retrying") == 2


def test_max_retries_ends_the_attempts_and_parks_the_workflow(made: Deployment, tmp_path: Path) -> None:
    """A person looks at it; redriven, it has all its retries again."""
    path = tmp_path / "calls"
    handle = dispatch(made, signature("shop.automatic", args=(str(path),)))

    with pytest.raises(WorkflowParked, match="ConnectionError: the bank is away"):
        handle.result_sync(WITHIN)
    assert [number for _, number in calls(path)] == [0, 1, 2]
    assert all(pause >= 0.2 for pause in pauses(path))

    assert handle.redrive_sync()
    eventually(lambda: len(calls(path)) == 6, within=WITHIN)
    assert [number for _, number in calls(path)] == [0, 1, 2] * 2


def test_reject_parks_the_workflow_at_once(made: Deployment, tmp_path: Path) -> None:
    """As a dead letter of a broker, but where somebody sees it."""
    path = tmp_path / "calls"
    handle = dispatch(made, signature("shop.rejecting", args=(str(path),)), ActivitySpec("draft", "never"))

    with pytest.raises(WorkflowParked, match="Reject: the card is stolen"):
        handle.result_sync(WITHIN)

    assert calls(path) == [(f"{handle.correlation_id}.0", 0)]


def test_a_task_that_nobody_registered_is_an_unknown_activity(made: Deployment) -> None:
    """It may be a task of the worker's app all the same."""
    handle = dispatch(made, TaskSpec("celery.backend_cleanup", queue=f"{made.prefix}.shop.told"))

    with pytest.raises(WorkflowParked, match="unknown_agent"):
        handle.result_sync(WITHIN)


def test_the_same_task_still_runs_by_messages_of_its_own(made: Deployment, tmp_path: Path) -> None:
    """Its retries then are messages, as ever: the code has one body for both ways."""
    path = tmp_path / "calls"
    with Celery("sending", set_as_current=False) as app:
        made.configure(app)
        sent = app.send_task("shop.retrying", (str(path), 1, 0.1))

    eventually(lambda: len(calls(path)) == 2, within=WITHIN)
    assert calls(path) == [(sent.id, 0), (sent.id, 1)]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", GEVENT])
@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see processes die")
def test_a_task_whose_worker_is_killed_runs_again_with_one_retry(redis_url: str, tmp_path: Path, pool: str) -> None:
    """The attempt counts as one; a task that looks at its retries knows that it may have begun before."""
    path, gate = tmp_path / "calls", tmp_path / "gate"
    with deployment(redis_url, tmp_path / "made") as made:
        first = made.ready_worker("till", pool=pool, slots=1, name="first")
        handle = dispatch(made, signature("shop.held", args=(str(path), str(gate))))
        hop = f"{handle.correlation_id}.0"
        eventually(lambda: calls(path) == [(hop, 0)], within=SOON)
        made.ready_worker("till", pool=pool, slots=1, name="second")

        first.kill()

        eventually(lambda: calls(path) == [(hop, 0), (hop, 1)], within=SOON)
        gate.touch()
        assert handle.result_sync(WITHIN).output == [hop, 1]
