"""Answering waits by their tokens: a token leads to its hop, so that nothing else needs to be known."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Mapping

from pydantic import JsonValue

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.port import Transport
from paigeant_celery.client.readings import Answered
from paigeant_celery.client.waits import answered
from paigeant_celery.core.about import read_about
from paigeant_celery.core.answers import answers_of, approval_of, decisions_of, denial_of, failure_answers
from paigeant_celery.core.errors import InvalidInput, MessageError, StoreRequired, TransientError
from paigeant_celery.core.names import split_hop_id
from paigeant_celery.core.wait_errors import InvalidAnswer, UnknownWait
from paigeant_celery.core.wait_inputs import checked_by
from paigeant_celery.core.waits import Wait, hop_of_token
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import HopRecord, Store

__all__ = ["AnswersWaits", "check_size", "send_on"]

TOKEN = re.compile(r"[A-Za-z0-9_.-]{1,255}~[A-Za-z0-9_-]{1,128}")

logger = logging.getLogger(__name__)

Make = Callable[[Wait, str], Mapping[str, str]]  # the answers to parts of a wait, by somebody


class AnswersWaits:
    """The calls that answer a wait. All check the answer before it settles anything, and tell what it did.

    Each raises `UnknownWait` if the store has no such wait, `InvalidAnswer` if the answer does not fit it, and
    `Unreachable` if the store is away. If only the broker is away, the answer counts, and a sweep sends the step.
    """

    _transport: Transport
    _workflow: str | None = None  # the only one whose waits may be answered here

    async def approve(
        self, token: str, call: str | None = None, *, override_args: Mapping[str, object] | None = None, by: str = ""
    ) -> Answered:
        """Approve a call of a tool by its id, or all calls of the wait that are open; with other arguments if given.

        `by` says who did; it is kept with the answer and in the event `answered`.
        """
        return await asyncio.to_thread(self.approve_sync, token, call, override_args=override_args, by=by)

    def approve_sync(
        self, token: str, call: str | None = None, *, override_args: Mapping[str, object] | None = None, by: str = ""
    ) -> Answered:
        """Do what `approve` does, for code without an event loop."""
        return self._decide(token, call, lambda: approval_of(override_args), by=by, operation="approve")

    async def deny(self, token: str, call: str | None = None, *, message: str | None = None, by: str = "") -> Answered:
        """Deny a call of a tool by its id, or all calls of the wait that are open; the model reads the `message`."""
        return await asyncio.to_thread(self.deny_sync, token, call, message=message, by=by)

    def deny_sync(self, token: str, call: str | None = None, *, message: str | None = None, by: str = "") -> Answered:
        """Do what `deny` does, for code without an event loop."""
        return self._decide(token, call, lambda: denial_of(message), by=by, operation="deny")

    async def resolve(self, token: str, payload: object, *, by: str = "") -> Answered:
        """Answer a wait with JSON.

        One that is about calls of tools takes the JSON form of pydantic-ai's `DeferredToolResults`: `{"approvals": …,
        "calls": …, "metadata": …}`, each by the ids of the calls.
        """
        return await asyncio.to_thread(self.resolve_sync, token, payload, by=by)

    def resolve_sync(self, token: str, payload: object, *, by: str = "") -> Answered:
        """Do what `resolve` does, for code without an event loop."""

        def make(wait: Wait, by: str) -> Mapping[str, str]:
            return answers_of(payload, parts=wait.parts, about=read_about(wait.about), by=by)

        return self._answer(token, make, by=by, operation="resolve")

    async def fail(self, token: str, reason: str, *, by: str = "") -> Answered:
        """Say that there will be no answer, and why: the step gets an error, a call of a tool fails or is denied."""
        return await asyncio.to_thread(self.fail_sync, token, reason, by=by)

    def fail_sync(self, token: str, reason: str, *, by: str = "") -> Answered:
        """Do what `fail` does, for code without an event loop."""

        def make(wait: Wait, by: str) -> Mapping[str, str]:
            return failure_answers(reason, parts=wait.unanswered or wait.parts, about=read_about(wait.about))

        return self._answer(token, make, by=by, operation="fail")

    def _decide(
        self, token: str, call: str | None, decide: Callable[[], JsonValue], *, by: str, operation: str
    ) -> Answered:
        def make(wait: Wait, by: str) -> Mapping[str, str]:
            return decisions_of(
                decide(),
                call=call,
                parts=wait.parts,
                unanswered=wait.unanswered,
                about=read_about(wait.about),
                by=by,
            )

        return self._answer(token, make, by=by, operation=operation)

    def _answer(self, token: str, make: Make, *, by: str, operation: str) -> Answered:
        by, store = checked_by(by), self._store(operation)
        wait = self._find(store, token)
        answers = make(wait, by)
        check_size(answers.values(), LIMITS.max_answer)
        self._transport.check_broker()
        resolution = store.resolve(token, answers, by=by, call=uuid.uuid4().hex)
        if resolution.wait is None:  # it ended meanwhile
            raise UnknownWait(store.address)
        if resolution.hop is not None:
            send_on(self._transport, resolution.hop)
        return answered(resolution, parts=answers)

    def _store(self, operation: str) -> Store:
        if self._transport.store is None:
            raise StoreRequired(operation)
        return self._transport.store

    def _find(self, store: Store, token: str) -> Wait:
        """Return the wait of a token, and ask the store for no token that nobody can have."""
        if not isinstance(token, str):
            raise InvalidInput("invalid_input", "token", f"must be a text, not a {type(token).__name__}")
        hop = split_hop_id(hop_of_token(token)) if TOKEN.fullmatch(token) is not None else None
        if hop is None or self._workflow not in (None, hop[0]):
            raise UnknownWait(store.address)
        for wait in store.waits(hop_of_token(token)):
            if wait.token == token:
                return wait
        raise UnknownWait(store.address)


def check_size(texts: Iterable[str], most: int) -> None:
    """Raise `InvalidAnswer` if what would be kept is larger than the store takes."""
    size = sum(len(text.encode()) for text in texts)
    if size > most:
        text = f"{size} bytes exceed the {most} that one answer or signal may have; pass a reference instead"
        raise InvalidAnswer("answer_too_large", "payload", text)


def send_on(transport: Transport, hop: HopRecord) -> None:
    """Send a hop that goes on; what cannot be sent now is sent by a sweep."""
    try:
        Outbox(transport.publisher, registry).send(hop)
    except (TransientError, MessageError) as error:
        text, fields = "hop %s goes on, but could not be sent; a sweep will send it: %s", {"hop": hop.hop_id}
        logger.warning(text, hop.hop_id, error, extra={"action": "send_failed", **fields})
