"""The end of a worker: how long its runs may go on, as each of its processes sees it."""

from __future__ import annotations

import mmap
import struct
import time

__all__ = ["Shutdown"]

_DEADLINE = struct.Struct("d")  # of the system's monotonic clock, which all processes of a host share; 0 is none


class Shutdown:
    """Whether the worker is told to end, and when its runs are cut short.

    It lives in memory that is shared with the processes forked later: those of a prefork pool are not told by Celery,
    which waits for their tasks however long they take.
    """

    def __init__(self, *, grace: float) -> None:
        self._grace = grace
        self._memory = mmap.mmap(-1, _DEADLINE.size)

    def ask(self) -> None:
        """Let the grace begin, in seconds; asking again does not prolong it."""
        if not self.asked:
            _DEADLINE.pack_into(self._memory, 0, time.monotonic() + self._grace)

    def begin(self) -> None:
        """Forget an earlier end: another worker of this process begins."""
        _DEADLINE.pack_into(self._memory, 0, 0.0)

    @property
    def asked(self) -> bool:
        """Whether the worker ends, so that nothing more is begun."""
        return self._deadline != 0

    @property
    def over(self) -> bool:
        """Whether the grace is over, too."""
        return self.asked and time.monotonic() >= self._deadline

    @property
    def _deadline(self) -> float:
        return float(_DEADLINE.unpack_from(self._memory, 0)[0])
