"""Messages that cannot be run: what is said and kept of them."""

from __future__ import annotations

import logging

from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.hop.answers import Refused
from paigeant_celery.hop.guard import Arrival, refusal_of

__all__ = ["log_refusal", "refused_for"]

logger = logging.getLogger(__name__)


def refused_for(fault: MessageError, message: PaigeantMessage | None) -> Refused:
    """Return the answer to a message that cannot be run."""
    step = message.slip.next_step if message is not None else None
    return Refused(reason=fault.reason, step_id=step.step_id or "" if step is not None else "")


def log_refusal(arrival: Arrival, fault: MessageError) -> None:
    """Log what may be told of a message that cannot be run."""
    fields = refusal_of(arrival, fault)
    logger.error(
        "message refused: %s (hop %s, %d bytes, sha256 %s)",
        fault, fields["hop"], fields["size"], fields["sha256"],
        extra={"action": "message_refused", **fields},
    )  # fmt: skip
