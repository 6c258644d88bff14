"""Sending hops that are recorded, and leaving what a broker does not take at once to a sweep."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import partial

from paigeant_celery.broker.outbox import Outbox, Recorded
from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.causes import cause_of
from paigeant_celery.core.errors import TransientError
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.hop.failures import traced

__all__ = ["send_on"]

MOMENT = 0.25  # seconds; sending a message takes milliseconds unless something is wrong

logger = logging.getLogger(__name__)


def send_on(
    outbox: Outbox, hops: Iterable[Recorded], *, message: PaigeantMessage | None = None, attempt: int = 1
) -> None:
    """Have the messages of recorded hops sent, and wait for a moment, in all; nothing is raised.

    Usually they are sent by then. If the broker blocks or refuses, the slot is needed for other workflows, and the
    effect is the same as if the process had died here: a sweep sends them. `message` is that of the only hop, if it is
    at hand.
    """
    begun = [_begun(outbox, hop, message, attempt) for hop in hops]
    end = time.monotonic() + MOMENT
    for sending in begun:
        if sending is not None:
            sending.ends_within(max(0.0, end - time.monotonic()))


def _begun(outbox: Outbox, hop: Recorded, message: PaigeantMessage | None, attempt: int) -> Sending[None] | None:
    try:
        sending = outbox.begin(hop, message=message, attempt=attempt)
    except Exception as error:  # noqa: BLE001 - it is recorded, and others are sent whatever is wrong with this one
        _tell(hop.hop_id, error)
        return None
    sending.when_ended(partial(_tell, hop.hop_id))
    return sending


def _tell(hop_id: str, error: BaseException | None) -> None:
    if error is None:
        return
    transient = isinstance(error, TransientError)
    logger.log(
        logging.WARNING if transient else logging.ERROR,
        "hop %s is recorded, but could not be sent; a sweep will send it%s",
        hop_id, f": {error}" if transient else traced(cause_of(error)),
        extra={"action": "send_failed", "hop": hop_id},
    )  # fmt: skip
