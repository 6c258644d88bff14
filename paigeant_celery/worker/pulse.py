"""Signs of the processes of a worker, which its main process reads: when their loop turned and their lease was renewed,
and since when no claim was answered.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from paigeant_celery.hop.liveness import exists

__all__ = ["BEAT", "REMEMBERED", "Beat", "Pulse"]

BEAT = 1.0  # seconds between two signs of an event loop
# Seconds for which a claim that failed says something of the next one. A process that gets no more messages cannot show
# that its store is back. One whose claims fail puts its messages back, and soon gets another.
REMEMBERED = 60.0
MOST = 1024  # processes; more children than this give no signs
_SLOT = struct.Struct("qdddd")  # a process, then times on the monotonic clock; 0 for none
_AT = {"loop": 8, "lease": 16, "failing": 24, "failed": 32}  # in a slot: the latest signs, the first and latest failure
_TIME = struct.Struct("d")
_PID = struct.Struct("q")

Sign = Literal["loop", "lease"]


@dataclass(frozen=True, kw_only=True)
class Beat:
    """The latest signs of a process, in seconds from now; None for what has not begun there.

    `failing` is for how long each of its claims has failed, None if one was answered since, or none was tried lately.
    """

    pid: int
    loop: float | None
    lease: float | None
    failing: float | None = None


class Pulse:
    """The latest signs of each process, in memory that is shared with processes forked later.

    All clocks are the monotonic one, which all processes of a host share.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, MOST * _SLOT.size)
        self._own: tuple[int, int] | None = None  # a process, and where its signs are

    def give(self, sign: Sign) -> None:
        """Say that this process goes on."""
        self._note(sign, time.monotonic())

    def take_back(self, sign: Sign) -> None:
        """Say that nothing in this process gives such a sign now, so that nobody waits for the next one."""
        self._note(sign, 0.0)

    def of(self, pids: Collection[int]) -> Iterator[Beat]:
        """Yield the latest signs of these processes, of those that have given any."""
        now = time.monotonic()
        for number in range(MOST):
            pid, loop, lease, failing, failed = _SLOT.unpack_from(self._memory, number * _SLOT.size)
            if pid in pids:
                yield Beat(
                    pid=pid,
                    loop=now - loop if loop else None,
                    lease=now - lease if lease else None,
                    failing=now - failing if failing and now - failed <= REMEMBERED else None,
                )

    def claim_failed(self) -> None:
        """Say that a claim of this process was not answered."""
        offset, now = self._offset(), time.monotonic()
        if offset is not None:
            (failing,) = _TIME.unpack_from(self._memory, offset + _AT["failing"])
            (failed,) = _TIME.unpack_from(self._memory, offset + _AT["failed"])
            _TIME.pack_into(self._memory, offset + _AT["failed"], now)
            if not failing or now - failed > REMEMBERED:
                _TIME.pack_into(self._memory, offset + _AT["failing"], now)

    def claim_answered(self) -> None:
        """Say that one was answered, whatever the answer."""
        self._note("failing", 0.0)

    def _note(self, sign: str, at: float) -> None:
        offset = self._offset()
        if offset is not None:
            _TIME.pack_into(self._memory, offset + _AT[sign], at)

    def _offset(self) -> int | None:
        pid = os.getpid()
        if self._own is None or self._own[0] != pid:  # the first sign, or the first one after a fork
            found = self._free(pid)
            if found is None:
                return None
            _SLOT.pack_into(self._memory, found, pid, 0.0, 0.0, 0.0, 0.0)
            self._own = pid, found
        return self._own[1]

    def _free(self, pid: int) -> int | None:
        """Return a place that nobody uses. Processes that begin together look at different ones first."""
        for number in range(MOST):
            offset = (pid + number) % MOST * _SLOT.size
            (taken,) = _PID.unpack_from(self._memory, offset)
            if taken in (0, pid) or not exists(taken):
                return offset
        return None
