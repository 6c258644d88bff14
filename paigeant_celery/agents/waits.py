"""Waiting for a provider's job (a batch, a response in the background): what a later attempt goes on with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models._continuation import merge_mode, merge_responses

from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.record import CallKey
from paigeant_celery.journal.scope import current_journal

__all__ = ["Standing", "polled", "recorded_sleep"]


def recorded_sleep(journal: HopJournal, run_id: str) -> Callable[[float], Awaitable[None]]:
    """Return how a run sleeps between two polls: until the time that was recorded when it first went to sleep.

    If it was cut off there in an earlier attempt, and gave up its job, it sleeps until it is cut off again.
    """

    async def sleep(delay: float) -> None:
        if current_journal() is not journal:  # inside a recorded call, which is made again as a whole
            await pause(delay)
            return
        journal.check_not_lost()
        with journal.asleep():
            if journal.is_given_up(run_id):
                await asyncio.Event().wait()  # what cut the run off then does so again
            try:
                until = await journal.wake_at(run_id, delay, journal.waits.now())
                await journal.waits.sleep_until(until, name="a provider", quiet=True)
            except asyncio.CancelledError:
                journal.cut_off_asleep(run_id)
                raise

    return sleep


async def pause(seconds: float) -> None:
    """Sleep; not at all if the time is over."""
    await asyncio.sleep(max(0.0, seconds))


@dataclass(frozen=True)
class Standing:
    """The latest answer of a run's model: the key and fingerprint of its record, and what the run got."""

    key: CallKey
    answer: Any
    fingerprint: Mapping[str, str]


def polled(before: Standing | None, key: CallKey, asked: Sequence[ModelMessage], answer: Any) -> Standing | None:
    """Return how a provider's job stands if a request only found that it is not done; None for any other answer.

    Such a poll brings the answer `before` it up to date, whose record it replaces: a journal keeps one record of a job,
    however often its run polls. That holds if all that the run has of the job is in that one answer.
    """
    last = asked[-1] if asked else None
    if before is None or before.key != replace(key, occurrence=key.occurrence - 1):
        return None
    if not all(isinstance(each, ModelResponse) and each.state == "suspended" for each in (last, before.answer, answer)):
        return None
    assert isinstance(last, ModelResponse)
    if last.parts != before.answer.parts or merge_mode(last, answer) != "replace-same-id":
        return None
    return replace(before, answer=merge_responses(last, answer))
