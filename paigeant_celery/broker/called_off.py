"""Telling a worker that a workflow was cancelled while its hop slept: no run is there that would cancel what it left.

The worker gets one more copy of the hop's message. It is dropped as any copy, and what the hop slept for, such as a job
at a provider, is cancelled then.
"""

from __future__ import annotations

import logging
from functools import partial

from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.errors import PaigeantError
from paigeant_celery.store.port import HopStore

__all__ = ["begin_calling_off"]

logger = logging.getLogger(__name__)


def begin_calling_off(store: HopStore, outbox: Outbox, correlation_id: str) -> Sending[None] | None:
    """Have a copy of the message sent if the workflow was cancelled while its hop slept until some time.

    Nothing is raised: the workflow is cancelled all the same. If the hop went on at that moment, its own message or run
    does what the copy would have done, and the copy changes nothing.
    """
    try:
        record = store.workflow(correlation_id)
        if record is None or record.state != "cancelled" or record.wake_at is None:
            return None
        sending = outbox.begin(record)
    except PaigeantError as error:
        _tell(correlation_id, error)
        return None
    sending.when_ended(partial(_tell, correlation_id))
    return sending


def _tell(correlation_id: str, error: BaseException | None) -> None:
    if error is None:
        return
    logger.warning(
        "workflow %s is cancelled, but no worker could be told: a job at a provider that it waited for goes on: %s",
        correlation_id, error if isinstance(error, PaigeantError) else type(error).__name__,
        extra={"action": "job_left"},
    )  # fmt: skip
