"""Flower's Revoke and Terminate: for one of our hops they cancel its workflow."""

from __future__ import annotations

import logging
from typing import Any

from celery.signals import task_revoked
from celery.worker import state

from paigeant_celery.broker.called_off import asleep_in, begin_calling_off
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.core.errors import StoreCorrupt, TransientError
from paigeant_celery.core.hops import ENDED
from paigeant_celery.core.names import block_of, blocks_above, hop_id, next_place, split_hop_id
from paigeant_celery.store.port import Store, WorkflowRecord

__all__ = ["Revocations"]

EVERY = 1.0  # seconds

logger = logging.getLogger(__name__)


class Revocations:
    """Cancels the workflows whose current hop was revoked on this worker.

    Celery tells every worker about a revoked task, but a worker forgets it when it ends; the store does not. Only one
    of the workers that are told changes anything. From then on the store has copies of the message dropped, and Celery
    no longer: the copy that tells of a cancelled sleeper must reach its task.
    """

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self._store, self._outbox = store, outbox
        self._timer: Any = None
        self._seen: set[str] = set()
        task_revoked.connect(self._forget_expired, weak=True)

    def watch(self, timer: Any) -> Any:
        """Look each second, from a worker's timer, at what was revoked; return the timer entry that can stop this."""
        self._timer = timer
        return timer.call_repeatedly(EVERY, self.look)

    def _forget_expired(self, request: Any = None, expired: bool = False, **_: object) -> None:
        # Celery also treats an expired message as revoked, whatever id a stranger gave it, and tells other workers. If
        # the message is delivered again, it just expires again.
        if expired:
            state.revoked.discard(request.id)

    def look(self) -> None:
        """Cancel what was revoked since the last look; if the store is away, the next look does the rest."""
        revoked = {str(task_id) for task_id in list(state.revoked)}
        self._seen &= revoked  # Celery forgets after some hours, and so do we
        for task_id in revoked - self._seen:
            try:
                self._cancel(task_id)
            except TransientError as error:
                logger.warning("not cancelled yet: %s", error, extra={"action": "waiting_for_server"})
                return
            except StoreCorrupt as error:
                logger.error("not cancelled: %s", error, extra={"action": "store_corrupt"})
            self._seen.add(task_id)

    def _cancel(self, task_id: str) -> None:
        ids = split_hop_id(task_id)  # other tasks have no such id, or one that the store does not know
        record = self._store.workflow(ids[0]) if ids is not None else None
        if ids is None or record is None or not self._is_current(record, task_id):
            return
        asleep = asleep_in(self._store, record) if record.state in ("running", "parked") else []
        if self._store.cancel(ids[0]) == "cancelled":
            logger.warning("workflow %s is cancelled: its hop was revoked", ids[0], extra={"action": "cancelled"})
            state.revoked.discard(task_id)
            if record.state != "cancelled" and self._timer is not None:  # the other workers have looked by then
                args = (self._store, self._outbox, ids[0], asleep)
                self._timer.call_after(3 * EVERY, begin_calling_off, args)

    def _is_current(self, record: WorkflowRecord, task_id: str) -> bool:
        """Say whether a hop, or the one after it in its slip, is one that its workflow stands at.

        The hop may have ended since it was revoked, so that the next one is current.
        """
        following = _after(task_id)
        if block_of(task_id) is None:
            return record.hop_id in (task_id, following)
        goes_on = record.state != "cancelled"
        for block in blocks_above(task_id) if goes_on else ():
            above = self._store.hop(block)
            if above is None or above.state in ENDED:
                return False
        return any(
            found is not None and (found.state not in ENDED or (found.state == "cancelled" and not goes_on))
            for found in map(self._store.hop, (task_id, following))
        )


def _after(task_id: str) -> str:
    correlation_id, _, place = task_id.partition(".")
    return hop_id(correlation_id, next_place(place))
