"""What the agent of a step asks of whoever answers from outside: approvals and results that no handler gave.

The run waits for them as for those of a `RequestInput` that asks nobody: they are found with `pending()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pydantic_ai.tools import DeferredToolResults, RunContext

from paigeant_celery.agents.asked_calls import AskedCalls, read_results
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.waiting import ended_wait

__all__ = ["answers_from_outside", "asking_outside", "beginning_run", "is_asked_outside"]

NAME = "deferred_tool_calls"  # as `RequestInput` calls its waits

_asks: ContextVar[bool] = ContextVar("paigeant_asks_outside", default=False)  # of the next run that begins
_asking: ContextVar[str] = ContextVar("paigeant_asking_run", default="")


@contextmanager
def asking_outside() -> Iterator[None]:
    """Let the next durable run that begins in the block wait for what nobody answers within it."""
    token = _asks.set(True)
    try:
        yield
    finally:
        _asks.reset(token)


@contextmanager
def beginning_run(run_id: str) -> Iterator[None]:
    """Surround a run; those in its code are not that of the step."""
    asks = _asks.set(False)
    asking = _asking.set(run_id) if asks.old_value is True else None
    try:
        yield
    finally:
        if asking is not None:
            _asking.reset(asking)
        _asks.reset(asks)


def is_asked_outside(ctx: RunContext[Any]) -> bool:
    """Say whether a run waits for what nobody answers within it."""
    return _asking.get() == ctx.run_id


async def answers_from_outside(
    journal: HopJournal, calls: AskedCalls, *, run_id: str, step: int
) -> DeferredToolResults:
    """Wait for the answers to all these calls, of a run and its step."""
    key = journal.key(run_id, step, "wait", name=NAME, call_id=" ".join(sorted(calls.parts)))
    ended = await ended_wait(
        journal,
        key,
        kind="token",
        name=NAME,
        parts=calls.parts,
        about=calls.told,
        is_of_use=lambda ended: calls.can_use(ended.answers),
    )
    return read_results(calls.joined(ended.answers))
