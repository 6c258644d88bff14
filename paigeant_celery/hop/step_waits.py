"""What the code of a step may wait for, whatever library it uses: `WorkflowContext.wait_for` and its sleeps."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from pydantic import JsonValue

from paigeant_celery.activities.context import AskFor
from paigeant_celery.activities.pauses import IN_CALL, NO_STORE
from paigeant_celery.core.errors import Paused
from paigeant_celery.core.wait_errors import WaitFailed, WaitTimedOut
from paigeant_celery.core.waits import WHOLE
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.scope import can_wait_here, surrounding_call, surrounding_run
from paigeant_celery.journal.waiting import ended_wait

__all__ = ["StepWaits"]


class StepWaits:
    """Waits of the step whose hop has this journal; None if there is no store."""

    def __init__(self, journal: HopJournal | None) -> None:
        self._journal = journal

    async def wait_for(self, name: str, *, ask: AskFor | None, timeout: float | None, about: str) -> JsonValue:  # noqa: ASYNC109
        """Wait for a signal, or for the answer to what `ask` asks; the same in each attempt.

        Raises `WaitTimedOut`, and `WaitFailed` if whoever was asked says that there will be no answer.
        """
        journal = self._journal_here()

        async def ask_for(token: str) -> Mapping[str, JsonValue] | None:
            assert ask is not None
            answer = await ask(token)
            return None if answer is None else {WHOLE: {"payload": answer}}

        key = journal.key(surrounding_run(), 0, "wait", name=name, call_id=surrounding_call())
        ended = await ended_wait(
            journal,
            key,
            kind="signal" if ask is None else "token",
            name=name,
            ask=ask_for if ask is not None else None,
            timeout=timeout,
            about=about,
        )
        if ended.state == "timed_out":
            raise WaitTimedOut(name)
        answer = ended.answers[WHOLE]
        if "failed" in answer:
            raise WaitFailed(name, answer["failed"])
        payload: JsonValue = answer["payload"]
        return payload

    async def sleep_until(self, when: datetime, *, name: str) -> None:
        """Sleep without a worker until the time that the step first gave here; not at all if it is over."""
        journal = self._journal_here()
        await journal.waits.check_may_wait()
        key = journal.key(surrounding_run(), 0, "wait", name=name, call_id=surrounding_call())
        until = await journal.noted_until(key, when)
        await journal.waits.sleep_until(until, name=name)

    async def sleep_for(self, seconds: float, *, name: str) -> None:
        """Sleep for so long, counted from when the step first came here."""
        await self.sleep_until(self._journal_here().waits.now() + timedelta(seconds=seconds), name=name)

    def _journal_here(self) -> HopJournal:
        if self._journal is None:
            raise Paused("store_required", NO_STORE)
        if not can_wait_here():
            raise Paused("tools_deferred", IN_CALL)
        return self._journal
