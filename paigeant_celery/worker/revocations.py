"""Flower's Revoke and Terminate: on a hop of ours they cancel its workflow."""

from __future__ import annotations

import logging
from typing import Any

from celery.signals import task_revoked
from celery.worker import state

from paigeant_celery.core.errors import StoreCorrupt, TransientError
from paigeant_celery.core.names import hop_id, next_place, split_hop_id
from paigeant_celery.store.port import HopStore

__all__ = ["Revocations"]

EVERY = 1.0  # seconds

logger = logging.getLogger(__name__)


class Revocations:
    """Cancels the workflows whose current hop was revoked on this worker.

    Celery tells every worker of a revoked task and lets each forget it at its end; the store keeps it. Of the workers
    that hear of it, one changes something.
    """

    def __init__(self, store: HopStore) -> None:
        self._store = store
        self._seen: set[str] = set()
        task_revoked.connect(self._forget_expired, weak=True)

    def watch(self, timer: Any) -> Any:
        """Look at what was revoked each second, from a worker's timer; returns what cancels that."""
        return timer.call_repeatedly(EVERY, self.look)

    def _forget_expired(self, request: Any = None, expired: bool = False, **_: object) -> None:
        # Celery takes a message that comes after its time for revoked, too, whatever id a stranger gave it, and hands
        # that on to other workers; delivered again, it only expires again.
        if expired:
            state.revoked.discard(request.id)

    def look(self) -> None:
        """Cancel what was revoked since the last look; what the store is away for, at the next one."""
        revoked = {str(task_id) for task_id in list(state.revoked)}
        self._seen &= revoked  # Celery forgets after hours, and so do we
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
        ids = split_hop_id(task_id)  # tasks of others have no such ids, or are no hops that the store knows
        record = self._store.workflow(ids[0]) if ids is not None else None
        if ids is None or record is None:
            return
        # Since it was revoked, the hop may have ended and handed over to the next one.
        if record.hop_id not in (task_id, hop_id(ids[0], next_place(ids[1]))):
            return
        if self._store.cancel(ids[0]) == "cancelled":
            logger.warning("workflow %s is cancelled, as its hop was revoked", ids[0], extra={"action": "cancelled"})
