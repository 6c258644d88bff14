"""How waits are written on Redis and read from it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, cast, get_args

from paigeant_celery.core.hops import EPOCH
from paigeant_celery.core.waits import Answer, Wait, WaitKind, WaitState
from paigeant_celery.store.port import AskedWait, HopRecord, NewWait, Resolution, Standing
from paigeant_celery.store.redis_records import hops_of, moment_of

__all__ = [
    "asked_page",
    "only_hop",
    "only_wait",
    "resolution_of",
    "standing_arguments",
    "wait_arguments",
    "waits_in",
]

OF_WAIT = ":wait_id:"  # begins the name of a field that each wait has


def wait_arguments(new: NewWait) -> tuple[str | int, ...]:
    """Return a new wait as scripts take it."""
    timeout = "" if new.timeout is None else round(new.timeout * 1000)
    return (
        new.wait_id, new.token, new.kind, new.name, timeout, new.about, new.instead_of or "", *new.parts,
    )  # fmt: skip


def standing_arguments(standing: Standing) -> tuple[str | int, ...]:
    """Return what a hop stands at as scripts take it."""
    # It is never woken before that time.
    wake_at = "" if standing.wake_at is None else -((EPOCH - standing.wake_at) // timedelta(milliseconds=1))
    flags = ("1" if flag else "" for flag in (standing.quiet, standing.branches))
    return wake_at, *flags, ", ".join(standing.names), *standing.tokens


def waits_in(flat: Sequence[str]) -> tuple[Wait, ...]:
    """Read waits from their fields, by since."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    tokens = [name[len(OF_WAIT) :] for name in fields if name.startswith(OF_WAIT)]
    in_order = sorted(tokens, key=lambda token: (int(fields[f":since:{token}"]), int(fields[f":number:{token}"])))
    return tuple(_wait(fields, token) for token in in_order)


def only_wait(flat: Sequence[str]) -> Wait | None:
    """Read one wait; None if there is none."""
    return next(iter(waits_in(flat)), None)


def only_hop(flat: Sequence[str]) -> HopRecord | None:
    """Read one hop; None if there is none."""
    return next(iter(hops_of(flat)), None)


def resolution_of(reply: Sequence[Any]) -> Resolution:
    """Read what an answer or a signal did."""
    outcome, fields, hop = reply
    return Resolution(outcome=outcome, wait=only_wait(fields), hop=only_hop(hop))


def asked_page(reply: Sequence[Any]) -> tuple[list[AskedWait], tuple[int, str] | None]:
    """Read some open waits of all workflows, and after which place there may be more; None at the end."""
    entries, place = reply
    found: list[AskedWait] = []
    for token, hop_id, fields in entries:
        wait = only_wait(fields)
        if wait is None:
            raise ValueError("it lists a wait that has no fields")
        found.append(AskedWait(cursor=f"{_milliseconds(wait.since)} {token}", hop_id=hop_id, wait=wait))
    return found, (int(place[0]), place[1]) if place else None


def _wait(fields: dict[str, str], token: str) -> Wait:
    def of(name: str) -> str:
        return fields[f":{name}:{token}"]

    kind, state, until = of("kind"), of("state"), of("until")
    if kind not in get_args(WaitKind) or state not in get_args(WaitState):
        raise ValueError("its kind or state is unknown to this version")
    places = range(1, int(of("parts")) + 1)
    answered = [place for place in places if f":call:{token}:{place}" in fields]

    def answer_at(place: int) -> Answer:
        text, by, at, call = (fields[f":{name}:{token}:{place}"] for name in ("text", "by", "at", "call"))
        return Answer(text=text, by=by, at=moment_of(at), call=call)

    part = {place: fields[f":part:{token}:{place}"] for place in places}
    return Wait(
        token=token,
        wait_id=of("wait_id"),
        kind=cast("WaitKind", kind),
        name=of("name"),
        since=moment_of(of("since")),
        until=moment_of(until) if until else None,
        state=cast("WaitState", state),
        parts=tuple(part.values()),
        answers=MappingProxyType({part[place]: answer_at(place) for place in answered}),
        about=of("about"),
    )


def _milliseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)
