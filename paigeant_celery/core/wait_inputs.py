"""What a caller gives for a wait: its name, how long it may take, and times."""

from __future__ import annotations

from datetime import datetime, timedelta

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.names import conversation_fault

__all__ = [
    "LONGEST_WAIT",
    "checked_by",
    "checked_delay",
    "checked_moment",
    "checked_question",
    "checked_seconds",
    "checked_signal_id",
    "checked_wait_name",
]

LONGEST_WAIT = 366 * 86400.0 * 10  # seconds; ten years


def checked_wait_name(name: object) -> str:
    """Return the name of a wait or a signal; raises `InvalidInput`. It is shown in events and in Flower."""
    return _checked_word(name, "name")


def checked_question(question: object) -> str | None:
    """Return what whoever answers is asked; raises `InvalidInput`."""
    if question is not None and not isinstance(question, str):
        raise InvalidInput("invalid_wait", "question", f"must be a text, not a {type(question).__name__}")
    return question


def checked_by(by: object) -> str:
    """Return who answers, "" if nobody says; raises `InvalidInput`. It is shown in events."""
    return "" if by == "" else _checked_word(by, "by")


def checked_signal_id(signal_id: object) -> str:
    """Return what tells a signal from others; raises `InvalidInput`."""
    return _checked_word(signal_id, "signal_id")


def _checked_word(word: object, path: str) -> str:
    if not isinstance(word, str):
        raise InvalidInput("invalid_wait", path, f"must be a text, not a {type(word).__name__}")
    if fault := conversation_fault(word):
        raise InvalidInput("invalid_wait", path, f"it {fault}")
    return word


def checked_seconds(given: object, path: str) -> float | None:
    """Return how many seconds a wait may take, None for any time; raises `InvalidInput`."""
    return None if given is None else checked_delay(given, path)


def checked_delay(given: object, path: str) -> float:
    """Return how many seconds something takes; raises `InvalidInput`."""
    if isinstance(given, timedelta):
        given = given.total_seconds()
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InvalidInput("invalid_wait", path, f"must be seconds or a `timedelta`, not a {type(given).__name__}")
    if not 0 <= given <= LONGEST_WAIT:  # which no NaN is
        raise InvalidInput("invalid_wait", path, f"must be from 0 to {LONGEST_WAIT:.0f} seconds, which is ten years")
    return float(given)


def checked_moment(given: object, path: str) -> datetime:
    """Return a time with its zone; raises `InvalidInput`."""
    if not isinstance(given, datetime):
        raise InvalidInput("invalid_wait", path, f"must be a `datetime`, not a {type(given).__name__}")
    if given.utcoffset() is None:
        raise InvalidInput("naive_datetime", path, "give it a time zone, as in `datetime.now(UTC)`")
    return given
