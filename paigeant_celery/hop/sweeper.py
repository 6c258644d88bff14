"""The sweeper: puts a hop back on its queue if its message is lost or its owner is gone, and ends it if it is too late.

Every worker has one, and none leads: the store gives each hop to the first that asks. A message that is sent
once too often runs nothing, because its hop is claimed only once.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterable

from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.core.causes import cause_of
from paigeant_celery.core.errors import MessageError, TransientError
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop.claims import Claims
from paigeant_celery.hop.failures import traced
from paigeant_celery.hop.lateness import Lateness
from paigeant_celery.hop.liveness import host_id, is_gone
from paigeant_celery.store.port import HopRecord, HopStore, Sweep

__all__ = ["Sweeper"]

EVERY = (0.95, 1.25)  # seconds from one pass to the next; random, so that workers do not all ask at once

logger = logging.getLogger(__name__)


class Sweeper:
    """Sweeps in a daemon thread from `start` to `stop`; both may be called repeatedly."""

    def __init__(self, *, store: HopStore, outbox: Outbox, claims: Claims, settings: Settings) -> None:
        self._store, self._outbox = store, outbox
        self._lateness = Lateness(store=store, claims=claims, settings=settings)
        self._stopping: threading.Event | None = None

    def start(self) -> None:
        """Begin to sweep in this process; a forked child does not sweep."""
        if self._stopping is None:
            self._stopping = threading.Event()
            thread = threading.Thread(
                target=self._sweep_until, args=(self._stopping,), name="paigeant-sweeper", daemon=True
            )
            thread.start()

    def stop(self) -> None:
        """Stop sweeping after the current pass."""
        if self._stopping is not None:
            self._stopping.set()
            self._stopping = None

    def sweep(self) -> None:
        """Make one pass unless someone has made one within this second. Raises `PaigeantError`."""
        host = host_id() or ""
        found = self._store.sweep(host=host)
        self._act_on(found)
        dead = [owner for owner in found.owners if is_gone(owner)]
        for owner in dead:
            logger.warning("the process of %s is gone; its hops are sent again", owner, extra={"action": "owner_gone"})
        # The store knows no broker, so queues are looked at here, and the store is asked a second time.
        queues = {queue: waiting == 0 for queue in found.queues if (waiting := self._waiting(queue)) is not None}
        if dead or queues:
            self._act_on(self._store.sweep(host=host, dead=dead, queues=queues))

    def _act_on(self, found: Sweep) -> None:
        self._end(found.late)
        self._send(found.overdue, found.corrupted)

    def _end(self, hops: Iterable[HopRecord]) -> None:
        for hop in hops:
            try:
                self._lateness.end(hop)
            except Exception as error:  # noqa: BLE001 - the store returns it once more, and others are late as well
                logger.warning(
                    "hop %s is late, but its workflow is not ended yet: %s", hop.hop_id, error,
                    extra={"action": "end_failed", "hop": hop.hop_id},
                )  # fmt: skip

    def _waiting(self, queue: str) -> int | None:
        try:
            return self._outbox.waiting(queue)
        except TransientError as error:
            logger.warning("cannot look at queue %s: %s", queue, error, extra={"action": "queue_not_seen"})
            return None

    def _send(self, hops: Iterable[HopRecord], corrupted: Iterable[str]) -> None:
        for key in corrupted:
            logger.error("the record %r cannot be read; its hop is not sent again", key, extra=_fields(key))
        for hop in hops:
            try:
                # Somebody accepted it. If the limits here are lower, it is parked when it arrives, not lost.
                self._outbox.send(hop)
            except MessageError as error:
                logger.error(
                    "hop %s is not sent again: %s",
                    hop.hop_id,
                    error,
                    extra={"action": "resend_failed", "hop": hop.hop_id},
                )
            except TransientError as error:
                # It becomes overdue again later and is sent by the worker that sweeps then.
                logger.warning(
                    "hop %s is not sent again yet: %s", hop.hop_id, error,
                    extra={"action": "resend_failed", "hop": hop.hop_id},
                )  # fmt: skip
            except Exception as error:  # noqa: BLE001 - nobody else sends the hops after it, as the store has noted
                logger.error(
                    "hop %s is not sent again%s", hop.hop_id, traced(cause_of(error)),
                    extra={"action": "resend_failed", "hop": hop.hop_id},
                )  # fmt: skip
            else:
                logger.warning("hop %s is sent again", hop.hop_id, extra={"action": "resent", "hop": hop.hop_id})

    def _sweep_until(self, stopping: threading.Event) -> None:
        while not stopping.wait(random.uniform(*EVERY)):  # noqa: S311 - nothing secret
            try:
                self.sweep()
            except Exception as error:  # noqa: BLE001 - nobody else does the work of this thread
                logger.warning("the sweep failed: %s", error, extra={"action": "sweep_failed"})


def _fields(key: str) -> dict[str, str]:
    return {"action": "store_corrupt", "key": key}
