"""Asking the store for hops, and telling it about workflows that are known only from their messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeGuard

from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.core.budget import Usage, used_by
from paigeant_celery.core.conversations import conversation_of
from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.files import first_stored
from paigeant_celery.core.flow import Completed, Event
from paigeant_celery.core.message import PaigeantMessage, content_digest
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.steps import BlockSpec
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.store.port import Claim, ClaimAnswer, Claimed, Closing, HopRecord, HopStore, NewWorkflow

__all__ = ["Claims", "is_limited", "used_by_step"]

logger = logging.getLogger(__name__)


class Claims:
    """What one owner asks of the store for a delivery, whether it can be run or not."""

    def __init__(self, *, store: HopStore, outbox: Outbox, settings: Settings, owner: Callable[[], str]) -> None:
        self._store, self._outbox, self._settings, self._owner = store, outbox, settings, owner

    def claim(
        self,
        arrival: Arrival,
        message: PaigeantMessage | None,
        *,
        digest: str,
        max_attempts: int,
        timeout: float = 0.0,
        wanted: Sequence[str] = (),
    ) -> ClaimAnswer:
        """Claim the hop of a delivery; `digest` must be that of the envelope that was recorded for it.

        The answer brings the `wanted` blobs. One that is not as the store writes it raises `StoreCorrupt`, so whoever
        claims a hop only to set it aside wants none.
        """
        step = message.slip.next_step if message is not None else None
        claim = Claim(
            hop_id=arrival.hop_id,
            owner=self._owner(),
            token=arrival.token,
            max_attempts=max_attempts,
            digest=digest,
            step=message.path if message is not None and step is not None else "",
            timeout=timeout,
            conversation=conversation_of(message) if message is not None else None,
            wanted=wanted,
            used=used_by(message.slip.executed, earlier=message.slip.earlier) if is_limited(message) else None,
            trace=arrival.trace,
            activity=step.activity if step is not None else "",
        )
        return self._store.claim(claim)

    def closing_of(self, arrival: Arrival, claimed: Claimed) -> Closing:
        """Return what the claimed hop is closed with."""
        return Closing(hop_id=arrival.hop_id, owner=self._owner(), fence=claimed.fence)

    def adopt(self, arrival: Arrival, message: PaigeantMessage, *, begun: int) -> HopRecord | None:
        """Record a workflow that is known only from its message; the store's clock decides how old it is.

        `begun` is how many attempts of its hop were begun. Returns the record of the hop, or None if the workflow is
        known. Raises `MessageError` if the message is too old for that (`expired`), or if it does not carry all that
        its workflow needs (`store_lost`).
        """
        try:
            _check_whole(message)
        except MessageError:
            if self._store.workflow(message.correlation_id) is not None:
                return None
            raise
        hop = self._outbox.record_of(message, str(arrival.envelope))
        new = NewWorkflow(
            correlation_id=message.correlation_id,
            content=content_digest(message),
            hop=hop,
            deadline=message.deadline,
        )
        oldest = timedelta(seconds=min(self._settings.max_message_age, self._settings.result_ttl))
        answer = self._store.adopt(new, sent_at=message.sent_at, max_age=oldest, begun=begun)
        if answer == "expired":
            raise MessageError(
                "expired", "sent_at",
                f"{message.sent_at:%Y-%m-%d %H:%M:%S} is longer ago than `paigeant_max_message_age` "
                f"({oldest.total_seconds():g} s), and the store does not know the workflow",
            )  # fmt: skip
        if answer == "adopted":
            logger.warning(
                "workflow %s was not known to this store and is adopted from its message; the store has lost its "
                "data, or the dispatcher has no store, or another one, and cannot see it", message.correlation_id,
                extra={"action": "workflow_adopted", "hop": arrival.hop_id},
            )  # fmt: skip
        return hop if answer == "adopted" else None


def is_limited(message: PaigeantMessage | None) -> TypeGuard[PaigeantMessage]:
    """Say whether the workflow of a message has limits, so that the store counts what it uses."""
    return message is not None and message.usage_limits is not None and bool(message.usage_limits.set_limits())


def used_by_step(message: PaigeantMessage, event: Event) -> Usage | None:
    """Return what a step used that has ended well; what the branches of a block used is counted by their hops."""
    if not isinstance(event, Completed) or isinstance(message.step, BlockSpec):
        return None
    return Usage(counters=event.usage, cost=event.cost)


def _check_whole(message: PaigeantMessage) -> None:
    """Raise `MessageError` (`store_lost`) if something is only in a store that does not know the workflow."""
    if message.slip.branch is not None:
        raise _lost("the block of a branch", "slip.branch")
    if message.slip.earlier is not None:
        raise _lost("the record of earlier steps", "slip.earlier")
    for index, step in enumerate(message.slip.executed):
        if step.output_ref is not None:
            raise _lost("the output of an earlier step", f"slip.executed[{index}].output_ref")
        spoken = conversation_of(message, step)
        if spoken is not None and any(conversation_of(message, left) == spoken for left in message.slip.itinerary):
            raise _lost("what an earlier step said in a conversation", f"slip.executed[{index}].conversation")
    if (path := first_stored(message)) is not None:
        raise _lost("a file of a prompt", path)


def _lost(what: str, path: str) -> MessageError:
    text = f"{what} was only in the store, which has lost it; dispatch the workflow again"
    return MessageError("store_lost", path, text)
