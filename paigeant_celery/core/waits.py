"""Waits: what a hop waits for from outside, and what an answer, a signal or the time makes of it.

A hop that waits for nothing but its waits holds no worker (`core/hops.py`: suspended). Every store keeps these rules:
the store in memory runs them, and the scripts on Redis are compared with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal, TypeAlias

__all__ = [
    "WHOLE",
    "Answer",
    "Answered",
    "Signalled",
    "Wait",
    "WaitKind",
    "WaitState",
    "answer",
    "hop_of_token",
    "is_over",
    "make_token",
    "mark_of",
    "next_look",
    "time_out",
    "without_tokens",
]

WaitKind: TypeAlias = Literal["token", "signal"]
WaitState: TypeAlias = Literal["open", "settled", "timed_out"]
Answered: TypeAlias = Literal["settled", "recorded", "answered", "late", "unknown"]
Signalled: TypeAlias = Literal["settled", "kept", "repeated", "ended", "too_many", "unknown"]

WHOLE = ""  # the part of a wait that one answer settles
_SECRETS = re.compile(r"(\.\d+(?:~|%7[Ee]))[\w-]{8,}")  # after the number at the end of a hop's id
SEPARATOR = "~"  # in a token, after the id of its hop; no id has it, and addresses keep it as it is
NO_ANSWERS: Mapping[str, Answer] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What somebody answered: JSON text, who and when. `call` names the call that brought it, which may be repeated."""

    text: str = field(repr=False)
    by: str
    at: datetime
    call: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Something that a hop waits for.

    `wait_id` is the same in every attempt of the hop, and `token` is what an answer needs. A wait of the kind `token`
    is answered with it; one of the kind `signal` also by a signal of its `name`. It is settled when each of its `parts`
    has an answer: the whole, or one call of a tool each. `about` is JSON for whoever answers.
    """

    token: str = field(repr=False)
    wait_id: str
    kind: WaitKind
    name: str
    since: datetime
    until: datetime | None = None
    state: WaitState = "open"
    parts: tuple[str, ...] = (WHOLE,)
    answers: Mapping[str, Answer] = field(default_factory=lambda: NO_ANSWERS)
    about: str = field(default="", repr=False)

    @property
    def unanswered(self) -> tuple[str, ...]:
        """The parts that have no answer yet."""
        return tuple(part for part in self.parts if part not in self.answers)


def make_token(hop_id: str, secret: str) -> str:
    """Return the token of a wait: it leads to its hop, and `secret` makes sure that nobody can guess it."""
    return f"{hop_id}{SEPARATOR}{secret}"


def mark_of(token: str) -> str:
    """Return what tells a token from others, and leads nowhere."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def without_tokens(text: str) -> str:
    """Return a text without the secrets of tokens, such as that of an error that names the link it could not send."""
    return _SECRETS.sub(r"\1…", text)


def hop_of_token(token: str) -> str:
    """Return the id of the hop that a token leads to; any text if it is no token of ours."""
    return token.partition(SEPARATOR)[0]


def is_over(wait: Wait, *, now: datetime) -> bool:
    """Say whether a hop that waits for it need wait no longer."""
    return wait.state != "open" or _has_passed(wait, now)


def answer(
    wait: Wait, given: Mapping[str, str], *, by: str, call: str, now: datetime, ended: bool = False
) -> tuple[Wait, Answered]:
    """Answer parts of a wait, all or none; the first answer of each part counts.

    `settled` and `recorded` (other parts are open) are told again to the repetition of a call. `answered`: another call
    was first. `late`: the time is over, which this notes, or the hop has `ended`. `unknown`: there is no such part.
    """
    if any(part not in wait.parts for part in given):
        return wait, "unknown"
    if all(part in wait.answers and wait.answers[part].call == call for part in given):
        return wait, "settled" if wait.state == "settled" else "recorded"
    if any(part in wait.answers for part in given):
        return wait, "answered"
    if ended:
        return wait, "late"
    if (passed := time_out(wait, now=now)).state != "open":
        return passed, "late"
    added = {part: Answer(text=text, by=by, at=now, call=call) for part, text in given.items()}
    wait = replace(wait, answers=MappingProxyType({**wait.answers, **added}))
    return (wait, "recorded") if wait.unanswered else (replace(wait, state="settled"), "settled")


def time_out(wait: Wait, *, now: datetime) -> Wait:
    """Give an open wait up if its time is over."""
    return replace(wait, state="timed_out") if wait.state == "open" and _has_passed(wait, now) else wait


def next_look(
    waits: Iterable[Wait], *, wake_at: datetime | None, deadline: datetime | None, now: datetime, at_most: timedelta
) -> datetime:
    """Return when a suspended hop is looked at: when the first of its times is over, and now and then in any case."""
    times = [wait.until for wait in waits if wait.state == "open"]
    return min(time for time in (*times, wake_at, deadline, now + at_most) if time is not None)


def _has_passed(wait: Wait, now: datetime) -> bool:
    return wait.until is not None and wait.until <= now
