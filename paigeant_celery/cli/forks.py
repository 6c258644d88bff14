"""The command that begins a workflow at a step of another one."""

from __future__ import annotations

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.output import command, shown, tell

__all__ = ["fork"]


@command()
@click.argument("correlation_id")
@click.option("--from", "from_step", required=True, metavar="STEP", help="The step to begin with, by its id.")
@click.option("--prompt", help="What the agent of this step is asked now.")
@click.option("--id", "own_id", metavar="ID", help="The id of the fork; the same id is the same fork.")
@click.pass_context
def fork(context: click.Context, correlation_id: str, from_step: str, prompt: str | None, own_id: str | None) -> None:
    """Begin a new workflow at a step of another one, with the recorded outputs before it.

    The other one stays as it is, and may go on. Nothing before the step is run or paid for again.
    """
    from paigeant_celery.client.handle import WorkflowHandle

    handle = WorkflowHandle(correlation_id, transport_of_app(context))
    begun = handle.fork_sync(from_step, prompt=prompt, correlation_id=own_id)
    text = f"workflow {begun} begins at {shown(from_step)} of {correlation_id}"
    tell({"correlation_id": begun, "from": {"correlation_id": correlation_id, "step": from_step}}, [text])
