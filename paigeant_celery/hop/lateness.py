"""Ending workflows whose deadline passed while nobody ran their hop, for example on a queue that no worker serves."""

from __future__ import annotations

import logging
from contextlib import suppress

from paigeant_celery.core.errors import HopUnknown
from paigeant_celery.core.flow import Begun, Fail, Limits, decide
from paigeant_celery.core.message import reread
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop.claims import Claims
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.store.port import Claimed, HopRecord, HopStore

__all__ = ["Lateness"]

NO_ATTEMPTS = 0  # a claim that may begin none is granted only to close the hop

logger = logging.getLogger(__name__)


class Lateness:
    """Claims hops that are late and closes them as `decide` says. No step is run, and none needs to be loaded."""

    def __init__(self, *, store: HopStore, claims: Claims, settings: Settings) -> None:
        self._store, self._claims = store, claims
        self._limits = Limits(max_steps=settings.max_steps, max_message_size=settings.max_message_size)

    def end(self, hop: HopRecord) -> None:
        """Fail the workflow of a hop. Whoever holds its message drops it later.

        Raises `MessageError` if this version cannot read the envelope, and `TransientError`. The store then returns the
        hop once more.
        """
        message = reread(hop.envelope)
        arrival = Arrival(hop_id=hop.hop_id, activity=message.step.activity, envelope=hop.envelope)
        claimed = self._claims.claim(arrival, message, digest=hop.digest, max_attempts=NO_ATTEMPTS)
        if not isinstance(claimed, Claimed):
            return  # somebody was faster
        begun = Begun(place=message.place, attempt=claimed.attempt)
        decision = decide(message, begun, now=claimed.now, limits=self._limits)
        closing = self._claims.closing_of(arrival, claimed)
        with suppress(HopUnknown):  # the message brings the hop back, and it is judged then
            if not isinstance(decision, Fail):
                self._store.release(closing)  # the store's record of the deadline is not that of the envelope
            elif self._store.fail(closing, decision.failure):
                fields = {"action": "hop_failed", "hop": hop.hop_id, "error": decision.failure.error_class}
                text = "hop %s did not begin before the deadline; the workflow has failed"
                logger.error(text, hop.hop_id, extra={**fields, "step": decision.failure.step_id})
