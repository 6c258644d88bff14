"""Work that is done and paid for is never lost to a limit, and never paid for twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from paigeant_celery import (
    ActivitySpec,
    FunctionSpec,
    PendingWait,
    WorkflowDispatcher,
    WorkflowHandle,
    WorkflowParked,
)
from tests.support.processes import Deployment, Process, deployment, eventually

WITHIN = 20.0

# Outputs travel, so that an envelope can become too large.
NARROW = {
    "paigeant_inline_output_size": 100_000, "paigeant_max_message_size": 8192, "paigeant_max_output_size": 50_000,
}  # fmt: skip

pytestmark = pytest.mark.together("made")

WIDE = {"paigeant_max_message_size": 100_000, "paigeant_max_output_size": 10 * 2**20}

# Each with the length of its output, and the reason that it is parked for at first. One is kept in pieces.
STEPS: dict[str, tuple[ActivitySpec | FunctionSpec, int, str]] = {
    "an agent's output that no envelope holds": (ActivitySpec("essay", "20000"), 20_000, "too_large"),
    "a function's output that no envelope holds": (FunctionSpec("print_out", {"characters": 9999}), 9999, "too_large"),
    "an agent's output over its limit": (ActivitySpec("essay", "60000"), 60_000, "output_too_large"),
    "a function's output over its limit": (
        FunctionSpec("print_out", {"characters": 5 * 2**20}), 5 * 2**20, "output_too_large",
    ),
    "what a generator yields over the limit": (
        FunctionSpec("print_pages", {"pages": 60}), len(str(["x" * 1000] * 60)), "output_too_large",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment with narrow limits."""
    with deployment(redis_url, tmp_path_factory.mktemp("paid"), **NARROW) as made:
        yield made


def dispatch(made: Deployment, *steps: ActivitySpec | FunctionSpec, **options: bool) -> WorkflowHandle:
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps, **options), transport)


def parked(handle: WorkflowHandle) -> WorkflowParked:
    with pytest.raises(WorkflowParked) as caught:
        handle.result_sync(WITHIN)
    return caught.value


def pending(handle: WorkflowHandle) -> Sequence[PendingWait]:
    """Return what a workflow waits for, as soon as it is suspended."""
    eventually(lambda: handle.status_sync().state == "suspended", within=WITHIN)
    return handle.pending_sync()


@pytest.fixture(scope="module")
def worker(made: Deployment) -> Process:
    """A worker with those limits; the last test ends it."""
    return made.ready_worker("essays", slots=2)


def test_text_with_a_nul_reaches_everybody_and_a_lone_surrogate_is_replaced(made: Deployment, worker: Process) -> None:
    """A tool read it from a page; the answer, its events and the command show it."""
    handle = dispatch(made, ActivitySpec("lookup", "a\0b"), FunctionSpec("count", {"text": "\0"}), stream=True)

    result = handle.result_sync(WITHIN)

    assert result.outputs["lookup"] == "<\0>\0\0\ufffd"
    events = handle.events_so_far()
    assert "text_replaced" in [event.type for event in events]
    assert any("\\u0000" in event.fields.get("data", "") for event in events)
    command = ("-A", "paigeant_celery", "paigeant", "show", handle.correlation_id)
    shown = made.run(*command, folder=made.configured("show"), name="show")
    assert shown.ended(within=WITHIN) == 0
    assert "completed" in shown.log()


def test_a_run_that_asks_for_an_approval_waits_and_tells_nobody_what_it_asks(made: Deployment, worker: Process) -> None:
    """The model is asked once, and the arguments are the business of whoever decides."""
    handle = dispatch(made, ActivitySpec("guarded", "clean up"), FunctionSpec("count"))

    (wait,) = pending(handle)
    assert [call.tool for call in wait.calls] == ["delete"]
    assert "hunter2" not in str(handle.status_sync().waiting_for)
    assert handle.deny_sync(wait.token).outcome == "settled"
    handle.result_sync(WITHIN)

    assert "hunter2" not in worker.log()
    assert made.runs().count(f"{handle.correlation_id}.0") == 1


def test_a_raised_limit_and_a_redrive_go_on_without_a_call(made: Deployment, worker: Process) -> None:
    """Somebody raises the setting, restarts the workers and redrives; agents and functions are not run again.

    Until then each redrive parks the workflow again, and that costs nothing either.
    """
    handles = {what: dispatch(made, step, FunctionSpec("count")) for what, (step, _, _) in STEPS.items()}
    for what, handle in handles.items():
        error = parked(handle)
        assert error.error_class == STEPS[what][2]
        assert "is kept, so a redrive goes on from there without a call" in error.text
    for handle in handles.values():
        assert handle.redrive_sync()
    for what, handle in handles.items():
        assert parked(handle).error_class == STEPS[what][2]

    assert worker.terminate() == 0
    made.settings |= WIDE
    made.ready_worker("essays", slots=2, name="wide")
    for handle in handles.values():
        assert handle.redrive_sync()

    for what, handle in handles.items():
        first, last = handle.result_sync(WITHIN).outputs.values()
        assert (len(str(first)), last) == (STEPS[what][1], "counted")
        assert made.runs().count(f"{handle.correlation_id}.0") == 1
