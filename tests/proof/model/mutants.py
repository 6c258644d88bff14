"""The protocol without one of its rules, which the search must notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime
from functools import partial
from types import MappingProxyType, ModuleType
from typing import Any
from unittest import mock

from paigeant_celery.core import hops, waits
from paigeant_celery.core.hops import Change, Hop
from paigeant_celery.core.waits import Answer, Answered, Wait
from tests.proof.model.records import Rules

__all__ = ["OF_WAITS", "RULES", "without"]

# A rule of the protocol: the function that keeps it, and its constant answer if the protocol lacks the rule.
OF_THE_PROTOCOL: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        "fence": ("is_of", True),  # closing operations compare owner and fence
        "dedupe": ("is_leased", False),  # a claim respects the lease of the hop's owner
        "cap": ("is_spent", False),  # a claim after `max_attempts` may only close
        "idempotent": ("is_repeated", False),  # a claim repeated with its token gets the first answer again
        "once": ("is_open", True),  # a hop that is closed is not closed again
    }
)
# A rule of waits: the function that keeps it, and that function without the rule.
OF_WAITS: Mapping[str, tuple[ModuleType, str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = MappingProxyType(
    {
        "leaves": (hops, "suspend", lambda suspend: _with_its_owner(suspend)),  # a suspended hop has no owner
        "alone": (hops, "wake", lambda wake: _with_its_suspender(wake)),  # nor has one that was woken
        "looks": (hops, "suspend", lambda suspend: partial(_without_a_look, suspend)),  # at what has come meanwhile
        "wakes": (hops, "wake", lambda _: lambda *_, **__: None),  # whoever ends a wait queues the hop
        "first": (waits, "answer", lambda _: _settled_again),  # the first answer counts
        "compares": (waits, "time_out", lambda _: _given_up),  # only an open wait is given up
    }
)
OF_ITS_USERS = frozenset(
    field.name for field in fields(Rules) if field.type == "bool" and not field.metadata.get("size")
)

RULES = (*OF_THE_PROTOCOL, *OF_WAITS, *sorted(OF_ITS_USERS))


@contextmanager
def without(rule: str, rules: Rules) -> Iterator[Rules]:
    """Remove a rule for a while, and give the rules for a search meanwhile."""
    if rule in OF_ITS_USERS:
        yield replace(rules, **{rule: False})
        return
    if rule in OF_WAITS:
        module, name, mutant = OF_WAITS[rule]
        with mock.patch.object(module, name, mutant(getattr(module, name))):
            yield rules
        return
    function, answer = OF_THE_PROTOCOL[rule]

    def lacking(*_: object, **__: object) -> bool:
        return answer

    with mock.patch.object(hops, function, lacking):
        yield rules


def _with_its_owner(suspend: Callable[..., Change | bool]) -> Callable[..., Change | bool]:
    def suspended(hop: Hop, *, owner: str, **more: Any) -> Change | bool:
        change = suspend(hop, owner=owner, **more)
        return replace(change, hop=replace(change.hop, owner=owner)) if isinstance(change, Change) else change

    return suspended


def _with_its_suspender(wake: Callable[..., Change | None]) -> Callable[..., Change | None]:
    def woken(hop: Hop, **more: Any) -> Change | None:
        change = wake(hop, **more)
        if change is None or hop.suspended_by is None:
            return change
        return replace(change, hop=replace(change.hop, owner=hop.suspended_by[0]))

    return woken


def _without_a_look(suspend: Callable[..., Change | bool], hop: Hop, **more: Any) -> Change | bool:
    return suspend(hop, **{**more, "over": False})


def _given_up(wait: Wait, *, now: datetime) -> Wait:
    return replace(wait, state="timed_out") if wait.until is not None and wait.until <= now else wait


def _settled_again(
    wait: Wait, given: Mapping[str, str], *, by: str, call: str, now: datetime, ended: bool = False
) -> tuple[Wait, Answered]:
    if ended or wait.state == "timed_out":
        return wait, "late"
    answers = {part: Answer(text=text, by=by, at=now, call=call) for part, text in given.items()}
    return replace(wait, state="settled", answers=answers), "settled"
