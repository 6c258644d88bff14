"""The commands about dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import discard_journal, transport_of_app
from paigeant_celery.cli.output import Exit, Group, Refused, Table, shown, shown_lines, tell

if TYPE_CHECKING:
    from paigeant_celery.client.dead_letters import DeadLetters
    from paigeant_celery.store.port import DeadLetter

__all__ = ["letters"]

FIELDS = ("letter_id", "at", "reason", "text", "hop_id", "activity", "queue", "size", "sha256", "worker", "sample")


@click.group(cls=Group)
def letters() -> None:
    """Look at dead letters: refused messages, and hops that wait for a person."""


@letters.command(name="list")
@click.option("--limit", default=100, show_default=True, help="List at most this many, newest first.")
@click.option("--after", metavar="CURSOR", help="List those that come after the cursor of an earlier list.")
@click.pass_context
def list_letters(context: click.Context, limit: int, after: str | None) -> None:
    """List dead letters, newest first."""
    found = _dead_letters(context).list(after=after, limit=limit)
    further = found[-1].cursor if found and len(found) == limit else None
    tell({"letters": [_document(letter) for letter in found], "next": further}, _listed(found, further))


def _listed(found: Sequence[DeadLetter], further: str | None) -> Iterator[str | Table]:
    if not found:
        yield "no dead letters"
        return
    yield Table(
        ("letter", "at (UTC)", "reason", "about"),
        [
            (each.letter_id, f"{each.at:%Y-%m-%d %H:%M:%S}", each.reason, each.hop_id or each.queue or "-")
            for each in found
        ],
    )
    if further is not None:
        yield f"there may be more; add --after '{shown(further)}'"


@letters.command(name="show")
@click.argument("letter_id")
@click.pass_context
def show_letter(context: click.Context, letter_id: str) -> None:
    """Show everything kept of a letter, and the beginning of its message without values."""
    letter = _dead_letters(context).show(letter_id)
    if letter is None:
        raise _unknown(letter_id)
    tell(_document(letter), _shown(letter))


def _shown(letter: DeadLetter) -> Iterator[str]:
    at = f"{letter.at:%Y-%m-%d %H:%M:%S} UTC" if letter.at is not None else "-"
    for name in FIELDS:
        value = at if name == "at" else getattr(letter, name)
        yield f"{name:<10} {shown(str(value)) if value not in (None, '') else '-'}"
    if letter.trace:
        yield "trace"
        yield from shown_lines(letter.trace, "    ")


def _document(letter: DeadLetter) -> dict[str, object]:
    return {name: getattr(letter, name) for name in (*FIELDS, "trace")}


@letters.command(name="redrive")
@click.argument("letter_id")
@discard_journal
@click.pass_context
def redrive_letter(context: click.Context, letter_id: str, discard_journal: bool) -> None:
    """Let the hop of a letter go on with all its attempts and delete the letter."""
    letters = _dead_letters(context)
    if not letters.redrive(letter_id, discard_journal=discard_journal):
        if letters.show(letter_id) is None:
            raise _unknown(letter_id)
        text = f"no parked hop belongs to the dead letter {letter_id!r}; nothing was sent"
        raise Refused(text, code="not_parked")
    tell({"letter_id": letter_id, "redriven": True}, [f"the hop of dead letter {letter_id} goes on"])


@letters.command(name="drop")
@click.argument("letter_id")
@click.pass_context
def drop_letter(context: click.Context, letter_id: str) -> None:
    """Delete a letter; a parked workflow stays parked."""
    if not _dead_letters(context).drop(letter_id):
        raise _unknown(letter_id)
    tell({"letter_id": letter_id, "dropped": True}, [f"dead letter {letter_id} is deleted"])


def _unknown(letter_id: str) -> Refused:
    return Refused(f"no dead letter {letter_id!r}", code="unknown_letter", ends=Exit.UNKNOWN)


def _dead_letters(context: click.Context) -> DeadLetters:
    from paigeant_celery.client.dead_letters import DeadLetters

    return DeadLetters(transport_of_app(context))
