"""The owner: this process, which may write for the hops that it runs.

One daemon thread renews one lease for all of them. The owner's id is made after a fork, so each child of a prefork
pool is a separate owner.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from paigeant_celery.activities.real_threads import end_at_exit, real, start_thread
from paigeant_celery.core.errors import HopUnknown, PaigeantError
from paigeant_celery.hop.liveness import new_owner_id
from paigeant_celery.store.port import Closing, HopStore

__all__ = ["NoLease", "Owner"]

RENEWALS_PER_LEASE = 4  # three may fail before the lease expires

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    fence: int
    cancel: Callable[[], object]
    ends: float  # on the monotonic clock
    settled: Callable[[int], object]


class _Holding:
    """The block in which a hop is held; a generator would take ten times its memory while the step waits."""

    __slots__ = ("_held", "_hop_id", "_owner")

    def __init__(self, owner: Owner, hop_id: str, held: _Held) -> None:
        self._owner, self._hop_id, self._held = owner, hop_id, held

    def __enter__(self) -> None:
        self._owner.hold(self._hop_id, self._held)

    def __exit__(self, *error: object) -> None:
        self._owner.let_go(self._hop_id, self._held)


class Owner:
    """Keeps the lease of this process alive while it runs hops, and cancels the runs of hops that it has lost.

    `renewed` is called after each renewal that went well, also while there is nothing to renew.
    """

    def __init__(self, store: HopStore, *, lease: float, renewed: Callable[[], object] = lambda: None) -> None:
        self._store, self._renewed = store, renewed
        self._interval = lease / RENEWALS_PER_LEASE
        self._lock = real().Lock()
        self._id: str | None = None
        self._held: dict[str, _Held] = {}
        self._stray: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._reset)

    @property
    def id(self) -> str:
        """Host, process id, start and a nonce: another process on the host can tell from it whether this one lives."""
        with self._lock:
            if self._id is None:
                self._id = new_owner_id()
            return self._id

    def holding(
        self,
        hop_id: str,
        *,
        fence: int,
        cancel: Callable[[], object],
        ends: float = 0.0,
        settled: Callable[[int], object] = lambda count: None,
    ) -> AbstractContextManager[None]:
        """Renew the lease for a hop inside the block; `cancel` is called once if the hop is lost.

        It returns False if there is nothing to cancel: the run has ended, and a hop that waits has no owner any more.
        `cancel` runs in the renewing thread, or in the one that holds the hop next. `ends` is when the timeout of the
        step is over, on the monotonic clock: until then its lease may also be extended from outside. `settled` is
        told at each renewal how many waits of the hop are settled, if any.
        """
        return _Holding(self, hop_id, _Held(fence, cancel, ends, settled))

    def hold(self, hop_id: str, held: _Held) -> None:
        """Renew the lease for a hop from now on."""
        with self._lock:
            overtaken = self._held.get(hop_id)
            self._held[hop_id] = held
            if self._thread is None:
                ending = real().Event()
                self._thread = start_thread(partial(self._renew_until, ending), name="paigeant-lease")
                end_at_exit(self._thread, ending.set)
        try:
            if overtaken is not None and overtaken.fence < held.fence:
                overtaken.cancel()  # this process took over its own expired hop; only the new run is renewed
        except BaseException:
            self.let_go(hop_id, held)
            raise

    def let_go(self, hop_id: str, held: _Held) -> None:
        """Renew it no longer, unless another run holds the hop by now."""
        with self._lock:
            if self._held.get(hop_id) is held:
                del self._held[hop_id]

    def renew(self) -> None:
        """Renew once if hops are held, and cancel the runs that the store reports as lost."""
        with self._lock:
            held = dict(self._held)
        if not held:
            return
        fences = {hop_id: hop.fence for hop_id, hop in held.items()}
        touchable = max(0.0, max(hop.ends for hop in held.values()) - time.monotonic())
        answer = self._store.renew(self.id, fences, touchable=touchable)
        self._release(answer.stray)
        for hop_id, count in answer.settled.items():
            held[hop_id].settled(count)
        for hop_id in answer.lost | answer.cancelled | answer.unknown:
            with self._lock:
                # A hop claimed again since the store was asked is not lost: the answer is about the earlier run.
                lost = self._held.pop(hop_id) if self._held.get(hop_id) is held[hop_id] else None
            if lost is not None and lost.cancel() is not False:
                if hop_id in answer.cancelled:
                    logger.warning("workflow cancelled, and its run too", extra=_fields("hop_cancelled", hop_id))
                elif hop_id in answer.unknown:
                    text = "the store has lost its record of the hop, and its run here is cancelled"
                    logger.warning(text, extra=_fields("hop_unknown", hop_id))
                else:
                    logger.warning("hop lost to another owner; its run is cancelled", extra=_fields("hop_lost", hop_id))

    def _release(self, stray: Mapping[str, int]) -> None:
        """Give back hops that nobody ran at two renewals: the reply to their claim never arrived."""
        with self._lock:
            again = {hop_id: fence for hop_id, fence in stray.items() if self._stray.get(hop_id) == fence}
            self._stray = {hop_id: fence for hop_id, fence in stray.items() if hop_id not in self._held}
            mine = {hop_id: fence for hop_id, fence in again.items() if hop_id not in self._held}
        for hop_id, fence in mine.items():
            with suppress(HopUnknown):  # its message brings it back
                if self._store.release(Closing(hop_id=hop_id, owner=self.id, fence=fence)):
                    logger.warning("hop given back because nobody ran it here", extra=_fields("hop_released", hop_id))

    def _renew_until(self, ending: Any) -> None:
        self._renewed()  # a claim gives a whole lease
        while not ending.wait(self._interval):  # unlike a sleep, it is not cut short by a signal
            try:
                self.renew()
                self._renewed()
            except PaigeantError as error:
                # The lease may expire while the store is away; the fence then decides who may write.
                logger.warning("lease not renewed: %s", error, extra=_fields("renew_failed", None))
            except Exception as error:  # noqa: BLE001 - this thread keeps every hop of the process alive
                logger.error("lease not renewed: %s", type(error).__name__, extra=_fields("renew_failed", None))

    def _reset(self) -> None:
        self._lock = real().Lock()
        self._id, self._held, self._stray, self._thread = None, {}, {}, None


class NoLease:
    """Stands for the owner of hops without a store: no lease is renewed, and nobody takes the hops over."""

    id = ""

    def holding(
        self,
        hop_id: str,
        *,
        fence: int,
        cancel: Callable[[], object],
        ends: float = 0.0,
        settled: Callable[[int], object] = lambda count: None,
    ) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()


def _fields(action: str, hop_id: str | None) -> dict[str, str | None]:
    return {"action": action, "hop": hop_id}
