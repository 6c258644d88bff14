"""Steps with temporary failures, workflows that wait for a person, and workflows that nobody wants any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paigeant_celery import (
    ActivitySpec,
    FunctionSpec,
    StepPolicy,
    WorkflowCancelled,
    WorkflowDispatcher,
    WorkflowHandle,
    WorkflowParked,
)
from tests.support.processes import GEVENT, Deployment, deployment, eventually
from tests.support.servers import RedisServer

WITHIN = 20.0

pytestmark = pytest.mark.together("made")


@pytest.fixture(scope="module", params=["prefork", "threads", GEVENT])
def made(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """One worker with one slot."""
    with deployment(redis_url, tmp_path_factory.mktemp("retries"), paigeant_retry_backoff=0.1) as made:
        made.ready_worker("press", "troubles", pool=request.param, slots=1)
        yield made


def dispatch(made: Deployment, *steps: ActivitySpec | FunctionSpec) -> WorkflowHandle:
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)


def test_a_step_that_fails_in_passing_completes(made: Deployment, tmp_path: Path) -> None:
    """A provider is down for some seconds; the workflow takes that much longer."""
    calls = tmp_path / "calls"

    handle = dispatch(made, FunctionSpec("flaky", {"path": str(calls), "times": 2}), ActivitySpec("draft", "then"))

    assert handle.result_sync(WITHIN).output == "draft(then|done)"
    assert calls.read_text().count("called") == 3
    assert [event.type for event in handle.events_so_far()].count("retrying") == 2


def test_a_step_that_waits_for_its_retry_holds_no_slot(made: Deployment, tmp_path: Path) -> None:
    """Meanwhile the worker's only slot runs other workflows."""
    waits = StepPolicy(backoff=3600.0)
    handle = dispatch(made, FunctionSpec("flaky", {"path": str(tmp_path / "calls"), "times": 1}, policy=waits))
    eventually(lambda: handle.status_sync().retry_at, within=WITHIN)

    assert dispatch(made, ActivitySpec("draft", "beside")).result_sync(WITHIN).output == "draft(beside|)"
    assert handle.status_sync().retry_at is not None

    handle.cancel_sync()
    assert handle.status_sync().state == "cancelled"


def test_a_parked_workflow_completes_when_it_is_redriven(made: Deployment, tmp_path: Path) -> None:
    """The step before it does not run again."""
    calls = tmp_path / "calls"
    twice = StepPolicy(max_attempts=2)
    failing = FunctionSpec("flaky", {"path": str(calls), "times": 3}, policy=twice)
    handle = dispatch(made, ActivitySpec("draft", "first"), failing)
    with pytest.raises(WorkflowParked, match="ConnectionError: the provider is down"):
        handle.result_sync(WITHIN)
    assert calls.read_text().count("called") == 2

    assert handle.redrive_sync()

    assert handle.result_sync(WITHIN).output == "done"
    assert calls.read_text().count("called") == 4
    assert made.runs().count(f"{handle.correlation_id}.0") == 1


def test_a_cancelled_workflow_stays_cancelled_when_everything_is_started_anew(
    own_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Nothing depends on a worker's memory: the cancellation stays, and the message does not come back."""
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    with deployment(server.url, tmp_path / "made") as made:
        queued = dispatch(made, ActivitySpec("draft", "queued"))
        assert queued.cancel_sync()

        server.stop()
        server.start()
        made.ready_worker("press", "troubles", slots=1)

        assert dispatch(made, ActivitySpec("draft", "behind it")).result_sync(WITHIN).output == "draft(behind it|)"
        assert queued.status_sync().state == "cancelled"
        assert f"{queued.correlation_id}.0" not in made.runs()


def test_a_step_that_runs_is_cancelled_with_its_workflow(made: Deployment, tmp_path: Path) -> None:
    """It ends within one renewal of the lease, and its slot becomes free."""
    handle = dispatch(made, ActivitySpec("gated", str(tmp_path / "gate")), ActivitySpec("draft", "never"))
    eventually(lambda: handle.status_sync().running, within=WITHIN)

    assert handle.cancel_sync()

    with pytest.raises(WorkflowCancelled):
        handle.result_sync(WITHIN)
    assert dispatch(made, ActivitySpec("draft", "next")).result_sync(WITHIN).output == "draft(next|)"
    assert made.runs().count(f"{handle.correlation_id}.1") == 0
