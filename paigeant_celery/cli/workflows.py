"""The commands about workflows and activities."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.drawing import flowchart, tree_lines
from paigeant_celery.cli.output import Exit, Refused, command, shown, tell
from paigeant_celery.cli.step_documents import steps_document

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["activities", "graph", "show"]


@command()
@click.option("-I", "--include", multiple=True, metavar="MODULE", help="Also load this module; may be repeated.")
@click.pass_context
def activities(context: click.Context, include: tuple[str, ...]) -> None:
    """List the activities that this app loads, with their queues."""
    from paigeant_celery.worker.serving import banner

    transport = transport_of_app(context)
    for module in include:
        try:
            context.obj.app.loader.import_from_cwd(module)
        except ImportError as error:
            raise Refused(f"cannot import {module!r}: {error}", code="import_failed", ends=Exit.USAGE) from error
    tell(_served(transport), [banner(transport)])


def _served(transport: CeleryTransport) -> dict[str, object]:
    from paigeant_celery.activities.registry import registry
    from paigeant_celery.worker.serving import queue_names, served_activities

    served = served_activities(transport)
    return {
        "mode": transport.mode,
        "store": transport.store_address,
        "activities": [
            {"name": name, "kind": activity.kind, "queue": queue_names(transport, name)[0]}
            for name, activity in sorted(served.items())
        ],
        "nameless": list(registry.nameless()),
    }


@command()
@click.argument("correlation_id")
@click.option("--events/--no-events", default=True, help="Also list what happened to it.")
@click.pass_context
def show(context: click.Context, correlation_id: str, events: bool) -> None:
    """Show where a workflow and its branches stand, and why a step of it failed."""
    from paigeant_celery.client.handle import WorkflowHandle

    handle = WorkflowHandle(correlation_id, transport_of_app(context))
    status = handle.status_sync()
    happened = handle.events_so_far() if events else []
    happened = [
        event for event in happened if event.type != "agent"
    ]  # there are thousands, and what models say is confidential
    click.echo(f"workflow {correlation_id}: {status.state}")
    click.echo(f"  executed:  {', '.join(status.executed) or '-'}")
    click.echo(f"  remaining: {', '.join(status.remaining) or '-'}")
    where = {
        "queued": f"waits on queue {status.queue} for a worker",
        "running": "runs",
        "suspended": "is suspended",
    }.get(status.state)
    if status.retry_at is not None:
        where = f"is tried again at {status.retry_at:%Y-%m-%d %H:%M:%S} UTC"
    if where is not None:
        click.echo(f"  current:   {status.step_id} {where} (attempts spent: {status.attempt})")
    for wait in status.waiting_for:
        if not wait.path:  # those of branches stand in the tree
            click.echo(f"  waits for: {shown(str(wait))}")
    if status.branches:
        click.echo("  branches:")
        for line in tree_lines(status.branches, "    "):
            click.echo(line)
    if status.usage:
        cost = [f"cost=${status.cost}"] if status.cost is not None else []
        used = [f"{name}={count}" for name, count in status.usage.items()]
        click.echo(f"  used:      {' '.join([*used, *cost])}")
    if status.failure is not None:
        said = "given back" if status.state == "queued" else "failed at"
        click.echo(f"  {said}: {status.failure.step_id or '-'}: {status.failure.error_class}: {status.failure.text}")
        if status.failure.cause is not None:
            click.echo(indent(str(status.failure.cause), "    "))
    for event in happened:
        details = " ".join(f"{name}={shown(value)}" for name, value in event.fields.items())
        about = f" ({shown(event.path)})" if "/" in event.path else ""  # a hop id alone says little of a branch
        click.echo(f"  {event.at:%Y-%m-%d %H:%M:%S} {event.type} {event.hop_id}{about} {details}".rstrip())


@command()
@click.argument("correlation_id")
@click.pass_context
def graph(context: click.Context, correlation_id: str) -> None:
    """Print what ran and what is planned as a flowchart in Mermaid's language, without prompts and outputs."""
    from paigeant_celery.client.outline import outline_of
    from paigeant_celery.core.errors import StoreRequired

    transport = transport_of_app(context)
    if (store := transport.store) is None:
        raise StoreRequired("graph")
    outline = outline_of(store, correlation_id)
    tell({"workflow": correlation_id, "steps": steps_document(outline, failures=False)}, flowchart(outline))
