"""What is logged about a failed attempt: classes and frames, but no texts, which may quote confidential values."""

from __future__ import annotations

import logging

from paigeant_celery.core.causes import Cause
from paigeant_celery.core.flow import Failure
from paigeant_celery.hop.run import Opened

__all__ = ["log_failure", "traced"]

logger = logging.getLogger(__name__)


def log_failure(level: int, action: str, hop: Opened, failure: Failure, then: str) -> None:
    """Log in one record that an attempt of a hop failed, where in the code, and what is done about it."""
    fields = {
        "action": action,
        "hop": hop.closing.hop_id,
        "step": failure.step_id,
        "attempt": hop.claimed.attempt,
        "error": failure.error_class,
        "where": failure.where,
    }
    logger.log(
        level, "hop %s: attempt %d failed with %s%s; %s%s",
        hop.closing.hop_id, hop.claimed.attempt, failure.error_class,
        f" at {failure.where}" if failure.where else "", then, traced(failure.cause),
        extra=fields | {"trace": failure.cause.without_texts if failure.cause is not None else ""},
    )  # fmt: skip


def traced(cause: Cause | None) -> str:
    """Return classes and frames as further lines of a message."""
    return f"\n{cause.without_texts}" if cause is not None else ""
