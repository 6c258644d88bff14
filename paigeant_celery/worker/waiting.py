"""Runs that a task body waits for, and what gives them up when their worker ends: one thread, whatever their number."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from paigeant_celery.activities.real_threads import end_at_exit, real, start_thread
from paigeant_celery.worker.shutdown import Shutdown

__all__ = ["LookOut", "Waiting"]

LOOK_UP = 0.25  # seconds until it is noticed that the worker ends; Celery tells the processes of a pool nothing


@dataclass(eq=False, kw_only=True)
class Waiting:
    """A run, and whether it was given up; `at_rest` says whether everything that it did is recorded."""

    future: Future[Any]
    at_rest: Callable[[], bool]
    given_up: bool = field(default=False)

    def give_up(self) -> None:
        """Cancel the run unless it has just ended."""
        self.given_up = True  # first, because whoever waits for it goes on at once
        self.given_up = self.future.cancel()


class LookOut:
    """Gives up runs when the worker ends: those that are at rest, and when the grace is over the others as well.

    The bodies themselves sleep until their runs end. If each looked up every quarter of a second, hundreds of them
    would keep a processor busy by waiting.
    """

    def __init__(self, shutdown: Callable[[], Shutdown]) -> None:
        self._shutdown = shutdown
        self._runs: set[Waiting] = set()
        self._lock = real().Lock()
        self._pid: int | None = None
        os.register_at_fork(after_in_child=self._forget)

    @contextmanager
    def over(self, run: Waiting) -> Iterator[None]:
        """Look after a run inside the block."""
        self._begin()
        self._runs.add(run)
        try:
            yield
        finally:
            self._runs.discard(run)

    def _begin(self) -> None:
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid != os.getpid():
                self._pid, ended = os.getpid(), real().Event()
                end_at_exit(start_thread(lambda: self._look(ended), name="paigeant-look-out"), ended.set)

    def _look(self, ended: threading.Event) -> None:
        while not ended.wait(LOOK_UP):
            if self._shutdown().asked:
                self._give_up()

    def _give_up(self) -> None:
        for run in self._runs.copy():
            if self._shutdown().over or run.at_rest():
                run.give_up()

    def _forget(self) -> None:
        # The parent's thread does not exist in the child, and its lock may have been held at the fork.
        self._lock, self._pid, self._runs = real().Lock(), None, set()
