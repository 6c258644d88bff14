"""The end of a worker: how long its runs may go on, as each of its processes sees it."""

from __future__ import annotations

import mmap
import struct
import time
from typing import Any, ClassVar

from celery import bootsteps
from celery.signals import worker_shutting_down

from paigeant_celery.worker.guest import GuestWorker

__all__ = ["Ending", "Shutdown", "ending"]

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


class Ending(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Lets the grace of the steps that run begin when the worker is told to end, by a signal or remotely."""

    shutdown: ClassVar[Shutdown]

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._embedded = isinstance(worker, GuestWorker)
        self.shutdown.begin()
        # Sent by a signal handler at once; a task of the solo pool keeps the worker from being closed meanwhile.
        worker_shutting_down.connect(self._told, sender=worker.hostname)  # held weakly

    def close(self, worker: Any) -> None:
        """Tell the steps before the pool waits for them."""
        self._told()

    def _told(self, **_: object) -> None:
        if not self._embedded:  # an executor lets its steps end, and its process may serve again
            self.shutdown.ask()


def ending(shutdown: Shutdown) -> type[Ending]:
    """Return the boot step of the app whose runs look at `shutdown`."""
    return type("Ending", (Ending,), {"__module__": __name__, "shutdown": shutdown})
