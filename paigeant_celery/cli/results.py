"""The command that prints what a workflow gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.output import Exit, Refused, command, shown, shown_json, shown_text, tell
from paigeant_celery.cli.seconds import SECONDS_OR_INF

if TYPE_CHECKING:
    from pydantic import JsonValue

    from paigeant_celery.client.readings import WorkflowResult
    from paigeant_celery.core.errors import WorkflowError

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

    try:
        found = WorkflowHandle(correlation_id, transport_of_app(context)).result_sync(timeout)
    except WorkflowError as error:
        raise _not_completed(error) from error
    except TimeoutError as error:
        raise TimeoutError(_for_shells(str(error))) from error
    if step is not None and step not in found.outputs:
        known = ", ".join(map(shown, found.outputs)) or "none"
        text = f"no step {shown(step)} of workflow {correlation_id} has an output; these have: {known}"
        raise Refused(text, code="unknown_path", ends=Exit.UNKNOWN)
    output = found.outputs[step] if step is not None else found.output
    tell(_document(correlation_id, found, output), [_text(output)])


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
