"""Runs that a task body waits for, and what gives them up when their worker ends: one thread, whatever their number."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
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
        os.register_at_fork(after_in_child=partial(_forget, weakref.ref(self)))  # which the process keeps for good

    def over(self, run: Waiting) -> AbstractContextManager[None]:
        """Look after a run inside the block."""
        return _Over(self, run)

    def add(self, run: Waiting) -> None:
        """Look after a run."""
        self._begin()
        self._runs.add(run)

    def discard(self, run: Waiting) -> None:
        """Look after a run no longer."""
        self._runs.discard(run)

    def _begin(self) -> None:
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid != os.getpid():
                ended = real().Event()
                thread = start_thread(partial(_look, weakref.ref(self), ended), name="paigeant-look-out")
                end_at_exit(thread, ended.set)
                self._pid = os.getpid()  # last, so that the next run tries again if no thread can be started

    def look(self) -> None:
        """Give up what must be given up now."""
        if not self._shutdown().asked:
            return
        for run in self._runs.copy():
            if self._shutdown().over or run.at_rest():
                run.give_up()

    def forget(self) -> None:
        """Begin anew in a forked child: the parent's thread is not there, and its lock may have been held."""
        self._lock, self._pid, self._runs = real().Lock(), None, set()


class _Over:
    """The block in which a run is looked after; a generator would take ten times its memory while the run waits."""

    __slots__ = ("_look_out", "_run")

    def __init__(self, look_out: LookOut, run: Waiting) -> None:
        self._look_out, self._run = look_out, run

    def __enter__(self) -> None:
        self._look_out.add(self._run)

    def __exit__(self, *error: object) -> None:
        self._look_out.discard(self._run)


# Neither the thread nor the process keeps an app whose runs are looked after.


def _look(found: weakref.ref[LookOut], ended: threading.Event) -> None:
    while not ended.wait(LOOK_UP):
        if (look_out := found()) is None:
            return
        look_out.look()
        del look_out


def _forget(found: weakref.ref[LookOut]) -> None:
    if (look_out := found()) is not None:
        look_out.forget()
