"""The command that begins a workflow at a step of another one."""

from __future__ import annotations

from typing import Any

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.documents import changed, named, of_document, text_of, told_changes, with_values
from paigeant_celery.cli.output import Exit, Refused, command, shown, tell

__all__ = ["fork"]


@command()
@click.argument("correlation_id")
@click.option("--from", "from_step", required=True, metavar="STEP", help="The step to begin with, by its id.")
@click.option("--prompt", help="What the agent of this step is asked now.")
@click.option(
    "--document", "file", metavar="FILE", help="Run the steps of this document, from STEP on; - is the standard input."
)
@click.option("--id", "own_id", metavar="ID", help="The id of the fork; a second call with it returns the same fork.")
@with_values
@click.pass_context
def fork(
    context: click.Context,
    correlation_id: str,
    from_step: str,
    prompt: str | None,
    file: str | None,
    own_id: str | None,
    values: bool,
) -> None:
    """Begin a new workflow at a step of another one, with the recorded outputs before it.

    The other one stays as it is, and may go on. Nothing before the step is run or paid for again. A document is one
    that was exported from the other workflow; what it says before the step must be as it was.
    """
    from paigeant_celery.client.document_forks import fork_workflow_sync
    from paigeant_celery.client.handle import WorkflowHandle

    transport, about, lines = transport_of_app(context), dict[str, Any](), list[str]()
    if file is None:
        handle = WorkflowHandle(correlation_id, transport)
        begun = handle.fork_sync(from_step, prompt=prompt, correlation_id=own_id)
    elif prompt is not None:
        raise Refused("a document has the prompts of its steps; leave `--prompt` out", code="usage", ends=Exit.USAGE)
    else:
        text = text_of(file)
        done = of_document(
            lambda: fork_workflow_sync(correlation_id, text, transport, from_step=from_step, fork_id=own_id),
            about=named(file),
        )
        begun, about = done.correlation_id, {"changes": told_changes(done.changes, values=values)}
        lines = changed(done.changes, values=values) or ["the document changes nothing"]
    lines.append(f"workflow {begun} begins at {shown(from_step)} of {correlation_id}")
    tell({"correlation_id": begun, "from": {"correlation_id": correlation_id, "step": from_step}, **about}, lines)
