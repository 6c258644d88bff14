"""`celery -A … paigeant …`: activities and workflows from a shell."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["paigeant"]


@click.group(name="paigeant")
def paigeant() -> None:
    """Look at paigeant_celery's activities and workflows, cancel these or let them go on."""


@paigeant.command()
@click.option("-I", "--include", multiple=True, metavar="MODULE", help="Load this module, too; may be repeated.")
@click.pass_context
def activities(context: click.Context, include: tuple[str, ...]) -> None:
    """List the activities that this app loads, with their queues."""
    from paigeant_celery.worker import banner, served_activities

    transport = _transport(context)
    for module in include:
        try:
            context.obj.app.loader.import_from_cwd(module)
        except ImportError as error:
            raise click.ClickException(f"cannot import {module!r}: {error}") from error
    click.echo(banner(transport, served_activities(transport)))


@paigeant.command()
@click.argument("correlation_id")
@click.option("--events/--no-events", default=True, help="Also list what happened to it.")
@click.pass_context
def show(context: click.Context, correlation_id: str, events: bool) -> None:
    """Show where a workflow stands, and why a step of it failed."""
    from paigeant_celery.errors import PaigeantError
    from paigeant_celery.handle import WorkflowHandle

    handle = WorkflowHandle(correlation_id, _transport(context))
    try:
        status = handle.status_sync()
        happened = handle.events_so_far() if events else []
    except PaigeantError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"workflow {correlation_id}: {status.state}")
    click.echo(f"  executed:  {', '.join(status.executed) or '-'}")
    click.echo(f"  remaining: {', '.join(status.remaining) or '-'}")
    if status.state == "running":
        where = "runs" if status.running else f"waits on queue {status.queue}"
        if status.retry_at is not None:
            where = f"is tried again at {status.retry_at:%Y-%m-%d %H:%M:%S} UTC"
        click.echo(f"  current:   {status.step_id} {where} (begun {status.attempt} times)")
    if status.failure is not None:
        click.echo(f"  failed at: {status.failure.step_id or '-'}: {status.failure.error_class}: {status.failure.text}")
    for event in happened:
        details = " ".join(f"{name}={value}" for name, value in event.fields.items())
        click.echo(f"  {event.at:%Y-%m-%d %H:%M:%S} {event.type} {event.hop_id} {details}".rstrip())


@paigeant.command()
@click.argument("correlation_id")
@click.pass_context
def cancel(context: click.Context, correlation_id: str) -> None:
    """End a workflow; what a running step of it does is not recorded."""
    if not _asked(context, correlation_id, "cancel_sync"):
        raise click.ClickException(f"workflow {correlation_id} has ended already")
    click.echo(f"workflow {correlation_id} is cancelled")


@paigeant.command()
@click.argument("correlation_id")
@click.pass_context
def retry(context: click.Context, correlation_id: str) -> None:
    """Let a parked workflow go on; its step has all its attempts again."""
    if not _asked(context, correlation_id, "redrive_sync"):
        raise click.ClickException(f"workflow {correlation_id} is not parked")
    click.echo(f"workflow {correlation_id} goes on")


def _asked(context: click.Context, correlation_id: str, question: str) -> bool:
    from paigeant_celery.errors import PaigeantError
    from paigeant_celery.handle import WorkflowHandle

    handle = WorkflowHandle(correlation_id, _transport(context))
    try:
        return bool(getattr(handle, question)())
    except PaigeantError as error:
        raise click.ClickException(str(error)) from error


def _transport(context: click.Context) -> Any:
    from paigeant_celery.errors import ConfigurationError
    from paigeant_celery.transport import transport_of

    app = context.obj.app
    app.loader.import_default_modules()
    transport = transport_of(app)
    if transport.faults:
        raise click.ClickException(str(ConfigurationError(transport.faults)))
    return transport
