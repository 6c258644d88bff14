"""What both stores do alike about waits: cursors of the index, and refusals."""

from __future__ import annotations

from datetime import timedelta

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.hops import EPOCH
from paigeant_celery.core.waits import Wait

__all__ = ["after_cursor", "cursor_of", "too_many_waits"]


def cursor_of(wait: Wait) -> tuple[int, str]:
    """Return where a wait stands among the open ones: since when, in milliseconds, and its token."""
    return (wait.since - EPOCH) // timedelta(milliseconds=1), wait.token


def after_cursor(cursor: str | None) -> tuple[int, str]:
    """Return the place that a cursor names; raises `InvalidInput` if it is none."""
    if cursor is None:
        return -1, ""
    since, space, token = cursor.partition(" ")
    if not (space and token and since.isascii() and since.isdecimal() and len(since) <= 15):
        raise InvalidInput("bad_cursor", "after", "is no cursor; pass the `cursor` of an entry that was read before")
    return int(since), token


def too_many_waits(most: int) -> InvalidInput:
    """Return what refuses a wait of a hop that has too many."""
    text = f"the step has {most} open waits; await some of them first, or ask for several things at once"
    return InvalidInput("too_many_waits", "wait", text)
