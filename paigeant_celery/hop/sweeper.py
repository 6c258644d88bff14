"""The sweeper: puts a hop back on its queue if its message is lost or its owner is gone, and ends it if it is too late.

Every worker has one, and none leads: the store gives each hop to the first that asks. A message that is sent
once too often runs nothing, because its hop is claimed only once.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

from paigeant_celery.activities.real_threads import end_at_exit, real, start_thread
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.causes import cause_of
from paigeant_celery.core.errors import MessageError, NewerMessage, OutdatedVersion, PaigeantError, TransientError
from paigeant_celery.core.message import is_newer
from paigeant_celery.core.names import is_queue_name, queue_fault
from paigeant_celery.hop.failures import traced
from paigeant_celery.hop.liveness import host_id, is_gone
from paigeant_celery.store.port import HopRecord, HopStore, Sweep

__all__ = ["Sweeper"]

LOOK_FOR = 1.0  # seconds for which one pass looks at queues; a look takes milliseconds unless something is wrong
SEND_FOR = 1.0  # seconds for which a pass waits for what it sends; the rest goes on
MOST_PASSES = 50  # that follow one another at once, if there is more than one takes
MOST_SAID = 10_000  # hops, queues and records about which it is known what was said

# What the text of an action names, as a field of its record.
FIELDS = {
    "end_failed": ("hop",), "hop_left_to_newer": ("hop",), "look_over_failed": (), "queue_not_seen": ("queue",),
    "resend_failed": ("hop",), "store_corrupt": ("key",), "sweep_failed": (),
}  # fmt: skip

EVERY = (0.95, 1.25)  # seconds from one pass to the next; random, so that workers do not all ask at once

logger = logging.getLogger(__name__)


class Sweeper:
    """Sweeps in a daemon thread from `start` to `stop`; both may be called repeatedly.

    Whatever fails concerns one queue or one hop: it is said once, and the rest of the pass goes on. A broker that
    blocks holds a pass up for a moment. `set_aside` parks a hop that can never be sent, and says whether it could.
    `end_late` ends the workflow of a hop that is past its deadline.
    """

    def __init__(
        self,
        *,
        store: HopStore,
        outbox: Outbox,
        set_aside: Callable[[HopRecord, MessageError], bool] | None = None,
        end_late: Callable[[HopRecord], object] | None = None,
    ) -> None:
        self._store, self._outbox, self._set_aside, self._end_late = store, outbox, set_aside, end_late
        self._stopping: Any = None  # an event between real threads
        self._served: Callable[[], Iterable[str]] = tuple
        self._on_their_way: dict[str, Sending[None]] = {}  # by hop
        self.swept_at: float | None = None  # when the store answered last, or the start, on the monotonic clock
        self._said: dict[tuple[str, str], str] = {}  # what was said last about a hop, a queue or a record

    def start(self, on_outdated: Callable[[], object], served: Callable[[], Iterable[str]] = tuple) -> None:
        """Begin to sweep in this process; a forked child does not sweep.

        `on_outdated` is called, in another thread, if a newer worker has begun. Nothing is swept here then. `served`
        tells which queues this process reads; the store notes that.
        """
        if self._stopping is None:
            self._served = served
            self._stopping = real().Event()
            self.swept_at = time.monotonic()
            thread = start_thread(partial(self._sweep_until, self._stopping, on_outdated), name="paigeant-sweeper")
            end_at_exit(thread, self._stopping.set)

    def stop(self) -> None:
        """Stop sweeping after the current pass."""
        if self._stopping is not None:
            self._stopping.set()
            self._stopping, self.swept_at = None, None

    def sweep(self) -> None:
        """Make one pass unless someone has made one within this second, and more if it is full.

        Raises `PaigeantError`.
        """
        host = host_id() or ""
        found = first = self._store.sweep(host=host, served=self._reads())
        self._note_pass()
        self._send(found)
        for _ in range(MOST_PASSES):
            if not found.full:
                break
            found = self._store.sweep(host=host)
            self._note_pass()
            self._send(found)
        dead = [owner for owner in found.owners if is_gone(owner)]
        for owner in dead:
            logger.warning("the process of %s is gone; its hops are sent again", owner, extra={"action": "owner_gone"})
        if dead:  # before any queue is looked at, which may take a while
            self._send(self._store.sweep(host=host, dead=dead))
        # The store knows no broker, so queues are looked at here, and the store is asked once more.
        if queues := self._looked_at(found.queues):
            self._send(self._store.sweep(host=host, queues=queues))
        if first.made_pass:
            self._look_over()

    def _look_over(self) -> None:
        """See to the list of workflows, behind all that is sent: no hop waits for it, or is lost with it."""
        try:
            self._store.look_over()
            self._forget("look_over_failed", "")
        except Exception as error:  # noqa: BLE001 - whoever makes the next pass tries again
            self._say(logging.WARNING, "look_over_failed", "", "the list of workflows is not looked over", error=error)

    def _reads(self) -> Collection[str]:
        """Return which queues this process reads."""
        try:
            return tuple(self._served())
        except RuntimeError:  # they changed in the meantime; the next sweep tells them
            return ()

    @property
    def failure(self) -> str:
        """Why the last pass ended early; empty if it did not."""
        return self._said.get(("sweep_failed", ""), "")

    def _note_pass(self) -> None:
        if self.swept_at is not None:  # not stopped meanwhile
            self.swept_at = time.monotonic()

    def _looked_at(self, queues: Sequence[str]) -> dict[str, bool]:
        """Return which queues are empty, of those that can be looked at within a moment; the others come later."""
        empty, end = dict[str, bool](), time.monotonic() + LOOK_FOR
        for queue in random.sample(queues, len(queues)):  # so that none is always behind one that is stuck
            if not is_queue_name(queue):
                empty[queue] = True  # no message can be on it; sending its hops parks them
                continue
            if time.monotonic() > end:
                break
            try:
                empty[queue] = self._outbox.waiting(queue) == 0
                self._forget("queue_not_seen", queue)
            except Exception as error:  # noqa: BLE001 - it concerns this queue alone
                self._say(logging.WARNING, "queue_not_seen", queue, "cannot look at queue %s", queue, error=error)
        return empty

    def _end(self, late: Iterable[HopRecord]) -> None:
        if (end := self._end_late) is None:
            return
        for hop in late:
            try:
                end(hop)
                self._forget("end_failed", hop.hop_id)
            except Exception as error:  # noqa: BLE001 - the store returns it once more, and others are late as well
                text = "hop %s is past its deadline, but its workflow is not ended yet"
                self._say(logging.WARNING, "end_failed", hop.hop_id, text, hop.hop_id, error=error)
                if isinstance(error, TransientError):
                    return  # the others would wait for the same server, one after the other

    def _send(self, found: Sweep) -> None:
        self._end(found.late)
        for key in found.corrupted:
            text = "the record %r cannot be read; its hop is not sent again"
            self._say(logging.ERROR, "store_corrupt", key, text, key)
        self._on_their_way = {hop: sending for hop, sending in self._on_their_way.items() if not sending.is_over}
        begun = [
            sending
            for hop in found.overdue
            if (sending := self._begin(hop, as_expected=hop.hop_id in found.woken)) is not None
        ]
        end = time.monotonic() + SEND_FOR
        for sending in begun:
            sending.ends_within(max(0.0, end - time.monotonic()))

    def _begin(self, hop: HopRecord, *, as_expected: bool) -> Sending[None] | None:
        if hop.hop_id in self._on_their_way:
            return None
        try:
            if not is_queue_name(hop.queue):
                raise MessageError("invalid_queue", "queue", queue_fault(hop.queue))
            # Somebody accepted it. If the limits here are lower, it is parked when it arrives, not lost.
            sending = self._outbox.begin(hop)
        except Exception as error:  # noqa: BLE001 - nobody else sends the hops after it, as the store has noted
            self._ended(hop, error)
            return None
        self._on_their_way[hop.hop_id] = sending
        sending.when_ended(partial(self._ended, hop, as_expected=as_expected))
        return sending

    def _ended(self, hop: HopRecord, error: BaseException | None, *, as_expected: bool = False) -> None:
        if error is None:
            self._forget("resend_failed", hop.hop_id, hop.queue)
            level = logging.INFO if as_expected else logging.WARNING  # a time that is over is no fault
            logger.log(level, "hop %s is sent again", hop.hop_id, extra=_fields("resent", hop.hop_id))
        elif isinstance(error, NewerMessage):
            text = "hop %s is left to newer workers"
            self._say(logging.WARNING, "hop_left_to_newer", hop.hop_id, text, hop.hop_id, error=error)
        elif isinstance(error, MessageError) and self._is_parked(hop, error):
            self._forget("resend_failed", hop.hop_id)
        else:  # it becomes overdue again later and is sent by the worker that sweeps then
            level = logging.WARNING if isinstance(error, TransientError) else logging.ERROR
            about = hop.queue if isinstance(error, TransientError) else hop.hop_id
            self._say(level, "resend_failed", about, "hop %s is not sent again yet", hop.hop_id, error=error)

    def _is_parked(self, hop: HopRecord, fault: MessageError) -> bool:
        """Set aside a hop that can never be sent. What only a newer version can read is left to it."""
        if self._set_aside is None or is_newer(hop.envelope):
            return False
        try:
            return self._set_aside(hop, fault)
        except Exception as error:  # noqa: BLE001 - it is tried again when the hop is overdue again
            self._say(logging.ERROR, "resend_failed", hop.hop_id, "hop %s is not parked", hop.hop_id, error=error)
            return False

    def _say(
        self, level: int, action: str, about: str, text: str, *values: object, error: BaseException | None = None
    ) -> None:
        """Log what is wrong with a hop, a queue or a record, unless that was the last thing said about it."""
        ours = isinstance(error, PaigeantError)
        said = str(error) if ours else type(error).__name__
        if self._said.get((action, about)) == said:
            return
        if len(self._said) >= MOST_SAID:
            self._said.clear()
        self._said[action, about] = said
        detail = "" if error is None else f": {error}" if ours else traced(cause_of(error))
        logger.log(
            level,
            f"{text}%s",
            *values,
            detail,
            extra={"action": action, **dict(zip(FIELDS[action], values, strict=True))},
        )

    def _forget(self, action: str, *about: str) -> None:
        """Say it again if it goes wrong again."""
        for each in about:
            self._said.pop((action, each), None)

    def _sweep_until(self, stopping: Any, on_outdated: Callable[[], object]) -> None:
        while not stopping.wait(random.uniform(*EVERY)):  # noqa: S311 - nothing secret
            try:
                self.sweep()
            except OutdatedVersion as error:
                text = "this worker takes no more steps; those that it runs go on, and are recorded: %s"
                logger.critical(text, error, extra={"action": "outdated"})
                on_outdated()
                return
            except Exception as error:  # noqa: BLE001 - nobody else does the work of this thread
                self._say(logging.WARNING, "sweep_failed", "", "the sweep failed", error=error)
            else:
                self._forget("sweep_failed", "")


def _fields(action: str, hop_id: str) -> dict[str, str]:
    return {"action": action, "hop": hop_id}
