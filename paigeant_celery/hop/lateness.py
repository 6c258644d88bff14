"""Ending workflows whose deadline passed while nobody ran their hop, for example on a queue that no worker serves."""

from __future__ import annotations

import logging
from contextlib import suppress

from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.core.errors import HopUnknown, NewerMessage
from paigeant_celery.core.flow import Begun, Fail, Failure, Limits, decide, end_of_failed, late_unread
from paigeant_celery.core.message import PaigeantMessage, reread
from paigeant_celery.core.names import block_of
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop.claims import Claims
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.sending import send_on
from paigeant_celery.store.port import Claimed, HopRecord, HopStore

__all__ = ["Lateness"]

NO_ATTEMPTS = 0  # a claim that may begin none is granted only to close the hop

logger = logging.getLogger(__name__)


class Lateness:
    """Claims hops that are late and closes them as `decide` says. No step is run, and none needs to be loaded."""

    def __init__(self, *, store: HopStore, claims: Claims, outbox: Outbox, settings: Settings) -> None:
        self._store, self._claims, self._outbox = store, claims, outbox
        self._limits = Limits(max_steps=settings.max_steps, max_message_size=settings.max_message_size)

    def end(self, hop: HopRecord) -> None:
        """Fail the workflow of a hop, or its branch. Whoever holds its message drops it later.

        Raises `MessageError` if the envelope is damaged, and `TransientError`. The store then returns the hop once
        more.
        """
        message = _read(hop)
        activity = message.step.activity if message is not None else ""
        arrival = Arrival(hop_id=hop.hop_id, activity=activity, envelope=hop.envelope)
        claimed = self._claims.claim(arrival, message, digest=hop.digest, max_attempts=NO_ATTEMPTS)
        if not isinstance(claimed, Claimed):
            return  # somebody was faster
        failure = self._failure(message, claimed)
        closing = self._claims.closing_of(arrival, claimed)
        with suppress(HopUnknown):  # the message brings the hop back, and it is judged then
            if failure is None:
                self._store.release(closing)  # the store's record of the deadline is not that of the envelope
            elif closed := self._store.fail(closing, failure, end=_end_of(hop, message, failure)):
                fields = {"action": "hop_failed", "hop": hop.hop_id, "error": failure.error_class}
                whose = "the workflow" if block_of(hop.hop_id) is None else "its branch"
                text = "hop %s did not begin before the deadline; %s has failed"
                logger.error(text, hop.hop_id, whose, extra={**fields, "step": failure.step_id})
                send_on(self._outbox, closed.hops)

    def _failure(self, message: PaigeantMessage | None, claimed: Claimed) -> Failure | None:
        if message is None:
            return late_unread()
        begun = Begun(place=message.place, attempt=claimed.attempt)
        decision = decide(message, begun, now=claimed.now, limits=self._limits)
        return decision.failure if isinstance(decision, Fail) else None


def _end_of(hop: HopRecord, message: PaigeantMessage | None, failure: Failure) -> str:
    """Return how the branch of a hop ended; "" if it is in none."""
    return end_of_failed(message, failure).encode() if block_of(hop.hop_id) is not None else ""


def _read(hop: HopRecord) -> PaigeantMessage | None:
    """Return the message of a hop, or None if only a newer version can read it."""
    try:
        return reread(hop.envelope)
    except NewerMessage:
        return None
