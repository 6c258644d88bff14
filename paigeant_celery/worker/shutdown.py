"""The end of a worker: how long its runs may go on, seen from each of its processes.

From SIGTERM to the last hop that is given back:

1. Celery sends `worker_shutting_down`, or closes its boot steps. `Ending` hears it and calls `Shutdown.ask`.
2. Nothing more is begun: `HopRuntime.perform` rejects what arrives, so that the broker has it again.
3. A run goes on, but waits before its next call (`HopJournal.making`). If no call is in progress it is `at_rest`.
4. `LookOut` sees that within a quarter of a second and cancels the run, whose hop `HopRuntime` gives back. When the
   grace is over (`Shutdown.over`), it does so with every other run.
5. With a store, `RecordedEffects.release` queues the hop by `release.lua`, without an attempt spent. The task ends with
   `Ignore`, which acknowledges the message. A sweep of another worker sends the hop again.
6. Without a store, the task ends with `Reject`: the broker has the message again.

This worker's sweeping ends with its boot step (`AgentQueues.stop` in `worker/bootsteps.py`). The process ends when its
tasks have ended; Celery waits for them. An executor inside a program is not told, and lets its steps finish.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import Any, ClassVar

from celery import bootsteps
from celery.signals import worker_shutting_down

from paigeant_celery.worker.guest import GuestWorker

__all__ = ["Ending", "Shutdown", "ending"]

_DEADLINE = struct.Struct("d")  # on the monotonic clock, which all processes of a host share; 0 means none


class Shutdown:
    """Whether the worker has been told to end, and when its runs are cut short.

    It is kept in memory that is shared with processes forked later. Celery does not tell the processes of a prefork
    pool; it waits for their tasks, however long they take.
    """

    def __init__(self, *, grace: float) -> None:
        self._grace = grace
        self._memory = mmap.mmap(-1, _DEADLINE.size)

    def ask(self) -> None:
        """Start the grace period; asking again does not prolong it."""
        if not self.asked:
            _DEADLINE.pack_into(self._memory, 0, time.monotonic() + self._grace)

    def begin(self) -> None:
        """Forget an earlier end, because another worker of this process begins."""
        _DEADLINE.pack_into(self._memory, 0, 0.0)

    @property
    def asked(self) -> bool:
        """Whether the worker is ending, so that nothing more is begun."""
        return self._deadline != 0

    @property
    def over(self) -> bool:
        """Whether the grace period has ended as well."""
        return self.asked and time.monotonic() >= self._deadline

    @property
    def _deadline(self) -> float:
        return float(_DEADLINE.unpack_from(self._memory, 0)[0])


class Ending(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Starts the grace period of running steps when the worker is told to end, by a signal or remotely."""

    shutdown: ClassVar[Shutdown]

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._embedded = isinstance(worker, GuestWorker)
        self.shutdown.begin()
        # A signal handler sends it at once; while a task of the solo pool runs, the worker is not closed.
        worker_shutting_down.connect(self._told, sender=worker.hostname)  # held weakly

    def close(self, worker: Any) -> None:
        """Tell the running steps before the pool waits for them."""
        self._told()

    def _told(self, **_: object) -> None:
        if not self._embedded:  # an executor lets its steps finish, and its process may serve again
            self.shutdown.ask()


def ending(shutdown: Shutdown) -> type[Ending]:
    """Return the boot step of the app whose runs look at `shutdown`."""
    return type("Ending", (Ending,), {"__module__": __name__, "shutdown": shutdown})
