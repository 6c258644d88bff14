"""What steps may not do to each other: wait for other workflows in their own pool, or hold up its event loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, WorkflowFailed, WorkflowHandle
from paigeant_celery.broker.transport import CeleryTransport
from tests.support.processes import deployment

WITHIN = 20.0  # seconds; a step that waits for its child would wait until its timeout, 60 s

pytestmark = pytest.mark.together

WAYS = [
    *(
        FunctionSpec("waits", {"how": how})
        for how in (
            "for its result",
            "its events",
            "in a loop of its own",
            "in a pool",
            "while it yields",
            "for itself",
        )
    ),
    *(
        FunctionSpec("waits_too", {"how": how})
        for how in ("for its result", "its events", "in a thread", "in the loop's pool", "in a task")
    ),
    ActivitySpec("asking", "please"),
]


@pytest.fixture(scope="module")
def transport(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryTransport]:
    """A worker whose pool has two processes."""
    with deployment(redis_url, tmp_path_factory.mktemp("waiting")) as made:
        made.ready_worker("impatient", pool="prefork", slots=2)
        yield made.transport()


def dispatch(transport: CeleryTransport, step: ActivitySpec | FunctionSpec) -> WorkflowHandle:
    dispatcher = WorkflowDispatcher()
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=[step]), transport)


def test_a_step_that_would_wait_for_a_workflow_is_told_so_and_blocks_nobody(transport: CeleryTransport) -> None:
    """Two of them fill a pool of two, and the steps that they wait for never get a slot."""
    handles = [dispatch(transport, step) for step in WAYS]
    failures = []
    for handle in handles:
        with pytest.raises(WorkflowFailed) as caught:
            handle.result_sync(WITHIN)
        failures.append(caught.value)

    assert [failure.error_class for failure in failures] == ["WaitInsideStep"] * len(WAYS)
    assert all("end the step" in failure.text for failure in failures)
    assert dispatch(transport, FunctionSpec("child", {})).result_sync(WITHIN).output == "done"


def test_celery_itself_refuses_to_wait_for_its_tasks_inside_a_step(transport: CeleryTransport) -> None:
    """Its guard holds in our threads as well."""
    with pytest.raises(WorkflowFailed, match=r"result\.get\(\) within a task"):
        dispatch(transport, FunctionSpec("waits", {"how": "for a Celery task"})).result_sync(WITHIN)


def test_a_step_may_look_at_a_workflow_and_read_one_that_has_ended(transport: CeleryTransport) -> None:
    """A step can pass an id on, and a later one can pick up what became of it."""
    looked = dispatch(transport, FunctionSpec("looks", {})).result_sync(WITHIN).output
    ended = dispatch(transport, FunctionSpec("child", {}))
    ended.result_sync(WITHIN)

    read = dispatch(transport, FunctionSpec("reads", {"correlation_id": ended.correlation_id})).result_sync(WITHIN)

    assert looked == ["not yet", "child", "started", True]
    assert read.output == ["done", "workflow_completed"]


def test_what_a_step_yields_is_read_in_its_thread(transport: CeleryTransport) -> None:
    """The event loop of a worker process belongs to all its steps."""
    assert dispatch(transport, FunctionSpec("yields", {})).result_sync(WITHIN).output == ["paigeant-function", "0", "1"]
