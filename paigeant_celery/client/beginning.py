"""The beginning of a workflow: it is recorded, and its first message is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox, Recorded
from paigeant_celery.broker.port import Transport
from paigeant_celery.broker.sending import Sending
from paigeant_celery.broker.spans import HopSpan
from paigeant_celery.core.errors import (
    InvalidInput,
    MessageError,
    NotPublished,
    NotRecorded,
    NotSent,
    PaigeantError,
    StoreCorrupt,
    TransientError,
    UnknownWorkflow,
    Unreachable,
    WorkflowConflict,
)
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import NewWorkflow, Said, WorkflowOrigin

__all__ = ["Beginning"]


@dataclass(kw_only=True)
class Beginning:
    """A checked workflow that is about to be recorded and sent."""

    transport: Transport
    message: PaigeantMessage
    envelope: str
    blobs: Mapping[str, str]
    content: str
    others: Callable[[], Sequence[str]] = tuple  # digests under which the same content may have been recorded
    origin: WorkflowOrigin | None = None  # if it is a fork, and then what it has of that workflow
    traced: Mapping[str, str] = field(default_factory=dict)  # the trace of that one
    copied: Sequence[str] = ()
    said: Sequence[Said] = ()
    give_back: Callable[[], None] = lambda: None  # what it was made of, because nothing was sent
    looked: float = 0.0  # seconds for which it was looked at the broker; the message has so much less

    def named_in(self, span: HopSpan) -> None:
        """Say in the span of its dispatch which workflow it is, and link that to the one that it forks."""
        span.note("messaging.message.conversation_id", self.message.correlation_id)
        span.link_original(self.traced)

    def send(self) -> str:
        """Record it, send its first message, and return its correlation id."""
        first = self._begin()
        with self._telling():
            if first is not None:
                first.wait()
        return self.message.correlation_id

    async def sent(self) -> str:
        """Do what `send` does. The event loop waits neither for the store nor for the broker."""
        first = await asyncio.to_thread(self._begin)
        with self._telling():
            if first is not None:
                await first.arrived()
        return self.message.correlation_id

    def _begin(self) -> Sending[None] | None:
        """Record the workflow and have its first message sent; None if there is nothing to send."""
        outbox = Outbox(self.transport.publisher, registry)
        recorded = self._record(outbox)
        if recorded is None:
            return None
        try:
            known = self.message if recorded.envelope == self.envelope else None
            return outbox.begin(recorded, message=known).sooner(self.looked)
        except MessageError as error:  # only an envelope that the store returned is read again
            self.give_back()
            raise StoreCorrupt(f"{self.message.correlation_id}: envelope", str(error)) from error

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say of a message that was not sent whether its workflow is recorded."""
        try:
            yield
        except TransientError as error:
            refused = isinstance(error, Unreachable) and error.refused
            if self.transport.store is not None:
                raise NotPublished(self.message.correlation_id, str(error), refused) from error
            self.give_back()
            if isinstance(error, Unreachable):
                raise NotSent(*error.args) from error
            raise

    def _record(self, outbox: Outbox) -> Recorded | None:
        """Record the workflow and return what must be sent, or None if it has already begun.

        An existing workflow keeps its own envelope and queue.
        """
        store, correlation_id = self.transport.store, self.message.correlation_id
        hop = outbox.record_of(self.message, self.envelope)
        if store is None:
            return hop
        new = NewWorkflow(
            correlation_id=correlation_id,
            content=self.content,
            hop=hop,
            deadline=self.message.deadline,
            blobs=self.blobs,
            origin=self.origin,
            copied=self.copied,
            said=self.said,
        )
        try:
            begun = time.monotonic()
            self.transport.check_broker()
            self.looked = time.monotonic() - begun
            answer = store.start(new)
            others = list(self.others()) if answer == "conflict" else []
            while answer == "conflict" and others:
                answer = store.start(replace(new, content=others.pop(0)))
            if answer == "conflict":
                raise WorkflowConflict(correlation_id)
            if answer == "gone" and self.origin is not None:
                raise UnknownWorkflow(self.origin.workflow, store.address)
            if answer == "too_large":
                most = LIMITS.max_copied // 2**20
                text = f"the outputs and files before this step have more than the {most} MiB that a fork may copy"
                raise InvalidInput("fork_too_large", "from_step", f"{text}; fork at an earlier one, or dispatch anew")
            existing = store.workflow(correlation_id) if answer == "exists" else None
        except TransientError as error:
            self.give_back()
            raise NotRecorded(correlation_id, str(error)) from error
        except PaigeantError:
            self.give_back()
            raise
        if existing is None:
            return hop
        waits = existing.awaits_message and existing.hop_id == self.message.message_id
        return existing if waits else None
