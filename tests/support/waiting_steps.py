"""Steps that wait, driven in memory: somebody answers what they ask, and their worker dies where a test says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeAlias

from paigeant_celery import WorkflowHandle
from paigeant_celery.core.waits import Wait
from paigeant_celery.testing import WorkflowHarness

__all__ = ["TIME_IS_OVER", "Answers", "asked_for", "dying_at", "failed", "payload", "played", "reply"]

Answers: TypeAlias = Callable[[Wait], Mapping[str, Any] | None]

TIME_IS_OVER: Mapping[str, Any] = {}
WRITES: Mapping[str, object] = {
    "wait": None,
    "record": False,
    "suspend": None,
    "complete": False,
}  # and what a dead one gets
MOST_ROUNDS = 30


def payload(value: object) -> Mapping[str, Any]:
    """Return the answer to a wait as a whole."""
    return {"": {"payload": value}}


def failed(reason: str) -> Mapping[str, Any]:
    """Return the answer that there will be none."""
    return {"": {"failed": reason}}


def asked_for(harness: WorkflowHarness, hop_id: str = "w.0") -> list[Wait]:
    """Return what a hop waits for now."""
    return [found.wait for found in harness.store.asked(after=None, limit=100) if found.hop_id == hop_id]


def reply(harness: WorkflowHarness, wait: Wait, answers: Mapping[str, Any], *, by: str = "ann") -> str:
    """Answer parts of a wait as a client does, and say what became of that."""
    texts = {part: json.dumps(answer) for part, answer in answers.items()}
    found = harness.store.resolve(wait.token, texts, by=by, call=f"{wait.token} {sorted(answers)}")
    if found.hop is not None:
        harness._outbox.send(found.hop)
    return found.outcome


def played(
    harness: WorkflowHarness,
    handle: WorkflowHandle,
    answers: Answers,
    *,
    is_asked: Callable[[str], bool] = lambda token: True,
) -> list[str]:
    """Deliver a workflow and answer what it asks for until it ends, and return what became of the deliveries.

    Nobody answers a token before it `is_asked` for. A worker that dies is found out by its lease. `TIME_IS_OVER` lets
    the time of a wait pass.
    """
    outcomes: list[str] = []
    answered: set[str] = set()
    for _ in range(MOST_ROUNDS):
        with suppress(asyncio.CancelledError):  # of an attempt that has lost its hop
            outcomes += asyncio.run(harness.deliver())
        if handle.status_sync().state in ("completed", "failed", "parked", "cancelled"):
            return outcomes
        for wait in asked_for(harness):
            if wait.token in answered or not is_asked(wait.token) or (given := answers(wait)) is None:
                continue
            answered.add(wait.token)
            if given is TIME_IS_OVER:
                assert wait.until is not None
                harness._skipped += max(timedelta(), wait.until - harness._now())
            else:
                assert reply(harness, wait, given) in ("settled", "recorded")
        for _ in range(40):  # a lease, and what a sweep waits after a gap
            if harness.pending:
                break
            harness.sweep()
    raise AssertionError(f"the workflow did not end: {outcomes}")


@contextmanager
def dying_at(harness: WorkflowHarness, write: int, *, done: bool) -> Iterator[list[str]]:
    """Let the worker die at its write of this number, before the store does it or after; yield the writes so far."""
    store: Any = harness.store
    met: list[str] = []
    dead: set[int] = set()  # claims whose worker has died

    def dying(real: Callable[..., Any], name: str, lost: object) -> Callable[..., Any]:
        def call(closing: Any, *arguments: Any) -> Any:
            fence = getattr(closing, "closing", closing).fence
            if fence in dead:
                return lost
            met.append(name)
            if len(met) - 1 != write:
                return real(closing, *arguments)
            dead.add(fence)
            if done:
                real(closing, *arguments)
            return lost

        return call

    for name, lost in WRITES.items():
        setattr(store, name, dying(getattr(store, name), name, lost))
    try:
        yield met
    finally:
        for name in WRITES:
            delattr(store, name)
