"""Waits inside a run for something outside it, such as those of `RequestInput`: recorded, and without a worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from pydantic import JsonValue
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import UserError

from paigeant_celery.activities.pauses import IN_CALL, NO_STORE
from paigeant_celery.agents.asked_calls import AskedCalls, about_step
from paigeant_celery.core.about import write_about
from paigeant_celery.core.errors import Paused
from paigeant_celery.core.wait_errors import InvalidAnswer
from paigeant_celery.core.wait_inputs import checked_seconds, checked_wait_name
from paigeant_celery.core.waits import WHOLE
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.record import CallKey
from paigeant_celery.journal.scope import can_wait_here, surrounding_call, surrounding_journal, surrounding_run
from paigeant_celery.journal.waiting import Ended, ended_wait

try:  # since pydantic-ai 2.68; before that, no run waits
    from pydantic_ai.capabilities import RequestInput
    from pydantic_ai.external_events import ExternalEventError, ExternalEventWaiter, external_event_scope
except ImportError:

    def waiting() -> AbstractContextManager[object]:
        """Do nothing: there are no waits."""
        return nullcontext()

    def waits_refused() -> AbstractContextManager[object]:
        """Refuse nothing."""
        return nullcontext()

    def asking_about(capability: Any, requests: Any) -> AbstractContextManager[None]:
        """Note nothing."""
        return nullcontext()

else:
    Ask = Callable[[str], Awaitable[JsonValue]]

    _asked: ContextVar[AskedCalls | None] = ContextVar("paigeant_asked_calls", default=None)

    class _Waiter(ExternalEventWaiter):
        """Records each part of a wait in the journal of the hop: its token, that it was asked for, and its answer."""

        async def wait(self, name: str, *, ask: Ask, timeout: timedelta | None) -> JsonValue:  # noqa: ASYNC109 - as the base class has it
            journal = surrounding_journal()
            if journal is None or not can_wait_here():
                raise Paused("tools_deferred", IN_CALL)
            run_id = surrounding_run()
            name, seconds = checked_wait_name(name), checked_seconds(timeout, "timeout")
            key = journal.key(run_id, journal.step_of(run_id), "wait", name=name, call_id=surrounding_call())
            if (calls := _asked.get()) is not None:
                ended = await _answers(journal, key, calls, ask=ask, timeout=seconds)
            else:
                ended = await _answer(journal, key, ask=ask, timeout=seconds)
            if ended.state == "timed_out":
                raise ExternalEventError(f"No resolution arrived within {timeout}.")
            if calls is not None:
                return calls.joined(ended.answers)
            if "failed" in ended.answers[WHOLE]:
                raise ExternalEventError(ended.answers[WHOLE]["failed"])
            payload: JsonValue = ended.answers[WHOLE]["payload"]
            return payload

    class _Refusing(ExternalEventWaiter):
        async def wait(self, name: str, *, ask: Ask, timeout: timedelta | None) -> JsonValue:  # noqa: ASYNC109 - as the base class has it
            raise Paused("store_required", NO_STORE)

    async def _answer(journal: HopJournal, key: CallKey, *, ask: Ask, timeout: float | None) -> Ended:  # noqa: ASYNC109
        """Wait for one answer, which may be any JSON."""

        async def ask_for(token: str) -> Mapping[str, JsonValue] | None:
            answer = await ask(token)
            return None if answer is None else {WHOLE: {"payload": answer}}

        about = write_about(about_step())
        return await ended_wait(journal, key, kind="token", name=key.name, ask=ask_for, timeout=timeout, about=about)

    async def _answers(
        journal: HopJournal, key: CallKey, calls: AskedCalls, *, ask: Ask, timeout: float | None  # noqa: ASYNC109
    ) -> Ended:  # fmt: skip
        """Wait for the answers to calls of tools."""

        async def ask_for(token: str) -> Mapping[str, JsonValue] | None:
            answer = await ask(token)
            try:
                return None if answer is None else calls.split(answer)
            except InvalidAnswer as error:
                text = f"what `ask` of `RequestInput` returned does not answer the pending calls: {error}"
                raise UserError(text) from error

        return await ended_wait(
            journal,
            key,
            kind="token",
            name=key.name,
            ask=ask_for,
            timeout=timeout,
            parts=calls.parts,
            about=calls.told,
            is_of_use=lambda ended: calls.can_use(ended.answers),
        )

    def waiting() -> AbstractContextManager[object]:
        """Let the waits of the block be waits of its hop."""
        return external_event_scope(_Waiter())

    def waits_refused() -> AbstractContextManager[object]:
        """Refuse the waits of the block before anybody is asked, because no store would remember them."""
        return external_event_scope(_Refusing())

    def asking_about(capability: Any, requests: Any) -> AbstractContextManager[None]:
        """Note what the waits of the block are about, if it asks a `RequestInput`: each call gets its own answer."""
        return _asking(AskedCalls(requests) if _is_request_input(capability) else None)

    @contextmanager
    def _asking(calls: AskedCalls | None) -> Iterator[None]:
        token = _asked.set(calls)
        try:
            yield
        finally:
            _asked.reset(token)

    def _is_request_input(capability: AbstractCapability[object]) -> bool:
        found: list[object] = []
        capability.apply(found.append)
        return any(isinstance(leaf, RequestInput) for leaf in found)


__all__ = ["asking_about", "waiting", "waits_refused"]
