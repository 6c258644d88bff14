"""`celery -A … paigeant …`: activities and workflows from a shell."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from textwrap import indent
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from paigeant_celery.client.dead_letters import DeadLetters
    from paigeant_celery.store.port import Store

__all__ = ["paigeant"]

T = TypeVar("T")

STILL_SWEPT = 10.0  # seconds; a worker that serves steps looks every second

discard_journal = click.option(
    "--discard-journal", is_flag=True, help="Make and pay for all calls of the step again, even recorded ones."
)


@click.group(name="paigeant")
def paigeant() -> None:
    """Look at paigeant_celery's activities and workflows; cancel workflows or let them go on."""
    # Otherwise a character that the terminal's encoding lacks, in an error's text for example, would end the output.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@paigeant.command()
@click.option("-I", "--include", multiple=True, metavar="MODULE", help="Also load this module; may be repeated.")
@click.pass_context
def activities(context: click.Context, include: tuple[str, ...]) -> None:
    """List the activities that this app loads, with their queues."""
    from paigeant_celery.worker.serving import banner

    transport = _transport(context)
    for module in include:
        try:
            context.obj.app.loader.import_from_cwd(module)
        except ImportError as error:
            raise click.ClickException(f"cannot import {module!r}: {error}") from error
    click.echo(banner(transport))


@paigeant.command()
@click.argument("correlation_id")
@click.option("--events/--no-events", default=True, help="Also list what happened to it.")
@click.pass_context
def show(context: click.Context, correlation_id: str, events: bool) -> None:
    """Show where a workflow stands and why a step of it failed."""
    from paigeant_celery.client.handle import WorkflowHandle

    handle = WorkflowHandle(correlation_id, _transport(context))
    status = _reading(handle.status_sync)
    happened = _reading(handle.events_so_far) if events else []
    happened = [
        event for event in happened if event.type != "agent"
    ]  # there are thousands, and what models say is confidential
    click.echo(f"workflow {correlation_id}: {status.state}")
    click.echo(f"  executed:  {', '.join(status.executed) or '-'}")
    click.echo(f"  remaining: {', '.join(status.remaining) or '-'}")
    where = {"queued": f"waits on queue {status.queue} for a worker", "running": "runs"}.get(status.state)
    if status.retry_at is not None:
        where = f"is tried again at {status.retry_at:%Y-%m-%d %H:%M:%S} UTC"
    if where is not None:
        click.echo(f"  current:   {status.step_id} {where} (begun {status.attempt} times)")
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
        details = " ".join(f"{name}={value}" for name, value in event.fields.items())
        click.echo(f"  {event.at:%Y-%m-%d %H:%M:%S} {event.type} {event.hop_id} {details}".rstrip())


@paigeant.command()
@click.argument("correlation_id")
@click.pass_context
def cancel(context: click.Context, correlation_id: str) -> None:
    """Cancel a workflow; nothing that a running step does is recorded any more."""
    if not _asked(context, correlation_id, "cancel_sync"):
        raise click.ClickException(f"workflow {correlation_id} has already ended")
    click.echo(f"workflow {correlation_id} is cancelled")


@paigeant.command()
@click.argument("correlation_id")
@discard_journal
@click.pass_context
def retry(context: click.Context, correlation_id: str, discard_journal: bool) -> None:
    """Let a parked workflow go on, with all attempts of its step available again."""
    if not _asked(context, correlation_id, "redrive_sync", discard_journal=discard_journal):
        raise click.ClickException(f"workflow {correlation_id} is not parked")
    click.echo(f"workflow {correlation_id} goes on")


@paigeant.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def rebind(context: click.Context, yes: bool) -> None:
    """Let this app's broker take the place of the one that the store belongs to."""
    from paigeant_celery.core.errors import StoreRequired

    transport = _transport(context)
    if (store := transport.store) is None:
        raise click.ClickException(str(StoreRequired("rebind")))
    old = _reading(transport.binding.other_broker)
    if old is None:
        click.echo(f"the store {store.address} belongs to no other broker than {transport.broker}; nothing is changed")
        return
    click.echo(f"store:      {store.address}, prefix {transport.settings.prefix!r}")
    click.echo(f"old broker: {old.address}")
    click.echo(f"new broker: {transport.broker_identity}")
    for line in _reading(lambda: list(_consequences(store))):
        click.echo(line)
    if not yes:
        click.confirm("Let the store belong to the new broker?", abort=True)
    if not _reading(lambda: transport.binding.rebind(instead_of=old)):
        raise click.ClickException("the store belongs to another broker by now; look, and run this again if it must be")
    click.echo("the store belongs to the new broker; start its workers")


def _consequences(store: Store) -> Iterator[str]:
    """Yield what a change of the broker means for the workflows under way."""
    hops, unswept = store.open_hops(), store.unswept()
    yield (
        f"{hops.due} workflows wait for a worker or a retry, {hops.running} are running, {hops.parked} are parked. "
        "Their messages stay on the old broker. Workers of the new one send those that wait again, 100 a second, and "
        "those that are running when their worker is gone. Nothing that is recorded is lost."
    )
    if unswept is not None and unswept < STILL_SWEPT:
        yield f"A worker used the store {unswept:.0f} s ago: stop all workers and programs of the old broker first."


@paigeant.group()
def letters() -> None:
    """Look at dead letters: refused messages, and hops that wait for a person."""


@letters.command(name="list")
@click.option("--limit", default=100, show_default=True, help="List at most this many, newest first.")
@click.pass_context
def list_letters(context: click.Context, limit: int) -> None:
    """List dead letters, newest first."""
    found = _reading(lambda: _dead_letters(context).list(limit=limit))
    for letter in found:
        about = letter.hop_id or letter.queue or "-"
        click.echo(f"{letter.letter_id}  {letter.at:%Y-%m-%d %H:%M:%S}  {letter.reason}  {about}")
    if not found:
        click.echo("no dead letters")


@letters.command(name="show")
@click.argument("letter_id")
@click.pass_context
def show_letter(context: click.Context, letter_id: str) -> None:
    """Show everything kept of a letter, and the beginning of its message without values."""
    letter = _reading(lambda: _dead_letters(context).show(letter_id))
    if letter is None:
        raise click.ClickException(f"no dead letter {letter_id!r}")
    for name in (
        "letter_id",
        "at",
        "reason",
        "text",
        "hop_id",
        "activity",
        "queue",
        "size",
        "sha256",
        "worker",
        "sample",
    ):
        click.echo(f"{name:<10} {getattr(letter, name)}")
    if letter.trace:
        click.echo(f"trace\n{indent(letter.trace, '    ')}")


@letters.command(name="redrive")
@click.argument("letter_id")
@discard_journal
@click.pass_context
def redrive_letter(context: click.Context, letter_id: str, discard_journal: bool) -> None:
    """Let the hop of a letter go on with all its attempts and delete the letter."""
    if not _reading(lambda: _dead_letters(context).redrive(letter_id, discard_journal=discard_journal)):
        raise click.ClickException(f"no parked hop belongs to a dead letter {letter_id!r}; nothing was sent")
    click.echo(f"the hop of dead letter {letter_id} goes on")


@letters.command(name="drop")
@click.argument("letter_id")
@click.pass_context
def drop_letter(context: click.Context, letter_id: str) -> None:
    """Delete a letter; a parked workflow stays parked."""
    if not _reading(lambda: _dead_letters(context).drop(letter_id)):
        raise click.ClickException(f"no dead letter {letter_id!r}")
    click.echo(f"dead letter {letter_id} is deleted")


def _dead_letters(context: click.Context) -> DeadLetters:
    from paigeant_celery.client.dead_letters import DeadLetters

    return DeadLetters(_transport(context))


def _reading(ask: Callable[[], T]) -> T:
    from paigeant_celery.core.errors import PaigeantError

    try:
        return ask()
    except PaigeantError as error:
        raise click.ClickException(str(error)) from error


def _asked(context: click.Context, correlation_id: str, question: str, **more: bool) -> bool:
    from paigeant_celery.client.handle import WorkflowHandle

    handle = WorkflowHandle(correlation_id, _transport(context))
    return bool(_reading(lambda: getattr(handle, question)(**more)))


def _transport(context: click.Context) -> Any:
    from paigeant_celery.broker.transport import transport_of
    from paigeant_celery.core.errors import ConfigurationError

    app = context.obj.app
    app.loader.import_default_modules()
    transport = transport_of(app)
    if transport.faults:
        raise click.ClickException(str(ConfigurationError(transport.faults)))
    return transport
