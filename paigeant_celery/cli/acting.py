"""The commands that end a workflow, or let it go on."""

from __future__ import annotations

import click

from paigeant_celery.cli.asking import discard_journal, transport_of_app
from paigeant_celery.cli.output import Refused, command, shown, tell

__all__ = ["cancel", "retry"]


@command()
@click.argument("correlation_id")
@click.pass_context
def cancel(context: click.Context, correlation_id: str) -> None:
    """Cancel a workflow; nothing that a running step does is recorded any more."""
    from paigeant_celery.client.handle import WorkflowHandle

    if not WorkflowHandle(correlation_id, transport_of_app(context)).cancel_sync():
        raise Refused(f"workflow {correlation_id} has already ended", code="workflow_ended")
    tell({"correlation_id": correlation_id, "cancelled": True}, [f"workflow {correlation_id} is cancelled"])


@command()
@click.argument("correlation_id")
@click.argument("path", required=False)
@discard_journal
@click.pass_context
def retry(context: click.Context, correlation_id: str, path: str | None, discard_journal: bool) -> None:
    """Let a parked workflow go on, with all attempts of its step available again.

    PATH names a step or a branch, as in readings/3/reader: only what is parked there goes on. Without it, the current
    step does or, if that waits for branches, all that are parked.
    """
    from paigeant_celery.client.handle import WorkflowHandle

    handle = WorkflowHandle(correlation_id, transport_of_app(context))
    if not handle.redrive_sync(path, discard_journal=discard_journal):
        what = f"nothing in {shown(path)} is parked" if path is not None else f"workflow {correlation_id} is not parked"
        raise Refused(what, code="not_parked")
    what = shown(path) if path is not None else f"workflow {correlation_id}"
    tell({"correlation_id": correlation_id, "path": path, "retried": True}, [f"{what} goes on"])
