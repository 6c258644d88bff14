"""Telling a worker that a workflow was cancelled while its hop slept: no run is there that would cancel what it left.

The worker gets one more copy of the hop's message. It is dropped as any copy, and what the hop slept for, such as a job
at a provider, is cancelled then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from itertools import islice

from paigeant_celery.broker.outbox import Outbox, Recorded
from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.errors import PaigeantError
from paigeant_celery.store.port import HopRecord, Store, WorkflowRecord
from paigeant_celery.store.tree import hops_below

__all__ = ["asleep_in", "begin_calling_off"]

MOST_CALLED_OFF = 1000  # hops of one workflow

logger = logging.getLogger(__name__)


def asleep_in(store: Store, record: WorkflowRecord) -> list[HopRecord]:
    """Return the hops in branches of a workflow that sleep until some time, so that they can be called off later.

    It is read before the workflow is cancelled, after which no store has their messages. At most 1000 are returned.
    """
    asleep = (
        hop
        for hop in hops_below(store, record.hop_id)
        if hop.state == "suspended" and hop.wake_at is not None and not hop.on_branches
    )
    return [hop.to_send() for hop in islice(asleep, MOST_CALLED_OFF)]


def begin_calling_off(
    store: Store, outbox: Outbox, correlation_id: str, asleep: Iterable[HopRecord] = ()
) -> list[Sending[None]]:
    """Have a copy of the message sent if the workflow was cancelled while its hop slept until some time.

    So have those of its branches that were `asleep`. Nothing is raised: the workflow is cancelled all the same. If a
    hop went on at that moment, its own message or run does what the copy would have done, and the copy changes nothing.
    """
    try:
        record = store.workflow(correlation_id)
    except PaigeantError as error:
        _tell(correlation_id, error)
        return []
    if record is None or record.state != "cancelled":
        return []
    own: list[Recorded] = [record] if record.wake_at is not None else []
    sendings: list[Sending[None]] = []
    for hop in [*own, *asleep]:
        try:
            sendings.append(outbox.begin(hop))
        except PaigeantError as error:
            _tell(correlation_id, error)
        else:
            sendings[-1].when_ended(partial(_tell, correlation_id))
    return sendings


def _tell(correlation_id: str, error: BaseException | None) -> None:
    if error is None:
        return
    logger.warning(
        "workflow %s is cancelled, but no worker could be told: a job at a provider that it waited for goes on: %s",
        correlation_id, error if isinstance(error, PaigeantError) else type(error).__name__,
        extra={"action": "job_left"},
    )  # fmt: skip
