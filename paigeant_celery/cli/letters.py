"""The commands about dead letters."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import discard_journal, reading, transport_of_app

if TYPE_CHECKING:
    from paigeant_celery.client.dead_letters import DeadLetters

__all__ = ["letters"]


@click.group()
def letters() -> None:
    """Look at dead letters: refused messages, and hops that wait for a person."""


@letters.command(name="list")
@click.option("--limit", default=100, show_default=True, help="List at most this many, newest first.")
@click.pass_context
def list_letters(context: click.Context, limit: int) -> None:
    """List dead letters, newest first."""
    found = reading(lambda: _dead_letters(context).list(limit=limit))
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
    letter = reading(lambda: _dead_letters(context).show(letter_id))
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
    if not reading(lambda: _dead_letters(context).redrive(letter_id, discard_journal=discard_journal)):
        raise click.ClickException(f"no parked hop belongs to a dead letter {letter_id!r}; nothing was sent")
    click.echo(f"the hop of dead letter {letter_id} goes on")


@letters.command(name="drop")
@click.argument("letter_id")
@click.pass_context
def drop_letter(context: click.Context, letter_id: str) -> None:
    """Delete a letter; a parked workflow stays parked."""
    if not reading(lambda: _dead_letters(context).drop(letter_id)):
        raise click.ClickException(f"no dead letter {letter_id!r}")
    click.echo(f"dead letter {letter_id} is deleted")


def _dead_letters(context: click.Context) -> DeadLetters:
    from paigeant_celery.client.dead_letters import DeadLetters

    return DeadLetters(transport_of_app(context))
