"""The command that prints what a workflow gave."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.output import Exit, Refused, command, shown, shown_json, shown_text, tell
from paigeant_celery.cli.seconds import SECONDS_OR_INF

if TYPE_CHECKING:
    from pydantic import JsonValue

    from paigeant_celery.client.handle import WorkflowHandle
    from paigeant_celery.client.outline import OutlinedStep
    from paigeant_celery.client.readings import WorkflowResult
    from paigeant_celery.core.errors import WorkflowError
    from paigeant_celery.core.slip import ExecutedStep
    from paigeant_celery.store.port import Store

__all__ = ["result"]


@command()
@click.argument("correlation_id")
@click.option(
    "--timeout",
    default=0.0,
    type=SECONDS_OR_INF,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for its end; or `inf`.",
)
@click.option("--step", metavar="PATH", help="Print the output of this step, as in readings/3/reader; else the last.")
@click.pass_context
def result(context: click.Context, correlation_id: str, timeout: float, step: str | None) -> None:
    """Print what a workflow gave; it may be confidential."""
    from paigeant_celery.client.handle import WorkflowHandle
    from paigeant_celery.core.errors import WorkflowError

    transport = transport_of_app(context)
    handle = WorkflowHandle(correlation_id, transport)
    if step is not None and _tell_recorded(handle, transport.store, step):
        return
    try:
        found = handle.result_sync(timeout)
    except WorkflowError as error:
        if step is None:
            raise _not_completed(error) from error
        if _tell_recorded(handle, transport.store, step):  # it ran while this waited
            return
        raise _without_output(correlation_id, step, _recorded(transport.store, correlation_id)) from error
    except TimeoutError as error:
        raise TimeoutError(_for_shells(str(error))) from error
    if step is not None and step not in found.outputs:
        raise _without_output(correlation_id, step, found.outputs)
    output = found.outputs[step] if step is not None else found.output
    tell(_document(correlation_id, found, output), [_text(output)])


def _tell_recorded(handle: WorkflowHandle, store: Store | None, step: str) -> bool:
    """Print what a step gave that ran in a workflow which has not completed; False if there is none."""
    from paigeant_celery.client.outputs import outputs_by_path

    ran = _recorded(store, handle.correlation_id)
    if store is None or step not in ran:
        return False
    status = handle.status_sync()
    outputs = outputs_by_path(store, handle.correlation_id, {step: ran[step]})
    document = {
        "correlation_id": handle.correlation_id,
        "state": status.state,
        "output": outputs[step],
        "outputs": outputs,
        "usage": status.usage,
        "cost": status.cost,
    }
    tell(document, [_text(outputs[step])])
    return True


def _recorded(store: Store | None, correlation_id: str) -> dict[str, ExecutedStep]:
    """Return the steps that gave something, by their paths; none if the workflow has completed: its result has them."""
    from paigeant_celery.client.outline import outline_of
    from paigeant_celery.core.names import is_correlation_id

    workflow = store.workflow(correlation_id) if store is not None and is_correlation_id(correlation_id) else None
    if store is None or workflow is None or workflow.state == "completed":
        return {}
    steps = _all(outline_of(store, correlation_id))
    return {step.path: step.record for step in steps if step.record is not None and step.record.gives_output}


def _all(steps: Sequence[OutlinedStep]) -> Iterator[OutlinedStep]:
    for step in steps:
        if step.block is not None:
            for branch in step.block.branches:
                yield from _all(branch.steps)
        yield step


def _without_output(correlation_id: str, step: str, known: Collection[str]) -> Refused:
    these = ", ".join(map(shown, known)) or "none"
    text = f"no step {shown(step)} of workflow {correlation_id} has an output; these have: {these}"
    return Refused(text, code="unknown_path", ends=Exit.UNKNOWN)


def _for_shells(text: str) -> str:
    """Return a text that names commands, and no calls of Python."""
    from paigeant_celery.client.standing import ANSWERABLE

    again = text.replace("; call `result` again", "; ask again")
    return again.replace(ANSWERABLE, "`celery … paigeant inbox` has what can be answered")


def _document(correlation_id: str, found: WorkflowResult, output: JsonValue) -> dict[str, object]:
    return {
        "correlation_id": correlation_id,
        "state": found.status,
        "output": output,
        "outputs": found.outputs,
        "usage": found.usage,
        "cost": found.cost,
    }


def _text(output: JsonValue) -> str:
    return shown_text(output) if isinstance(output, str) else shown_json(output, indent=2)


def _not_completed(error: WorkflowError) -> Refused:
    """Return what ends the command if the workflow failed, is parked or was cancelled."""
    from paigeant_celery.core.errors import WorkflowFailed, WorkflowParked

    correlation_id, text = error.correlation_id, str(error)
    if not isinstance(error, WorkflowFailed):
        return Refused(text, code="workflow_cancelled", more=_ended(correlation_id, "cancelled"))
    parked = isinstance(error, WorkflowParked)
    if parked:
        text = f"{text.rpartition(';')[0]}; fix the cause and `celery … paigeant retry {correlation_id}`, or cancel it"
    failure = {"step_id": error.step_id, "error_class": error.error_class, "text": error.text}
    state = "parked" if parked else "failed"
    return Refused(shown(text), code=f"workflow_{state}", more=_ended(correlation_id, state, failure))


def _ended(correlation_id: str, state: str, failure: object = None) -> dict[str, object]:
    return {"correlation_id": correlation_id, "state": state, "failure": failure}
