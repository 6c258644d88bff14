"""Messages that cannot be run: what is said and kept of them."""

from __future__ import annotations

import logging

from paigeant_celery.core.errors import MessageError
from paigeant_celery.hop.guard import Arrival, refusal_of

__all__ = ["log_refusal"]

logger = logging.getLogger(__name__)


def log_refusal(arrival: Arrival, fault: MessageError) -> None:
    """Log what may be told of a message that cannot be run."""
    fields = refusal_of(arrival, fault)
    logger.error(
        "message refused: %s (hop %s, %d bytes, sha256 %s)",
        fault, fields["hop"], fields["size"], fields["sha256"],
        extra={"action": "message_refused", **fields},
    )  # fmt: skip
