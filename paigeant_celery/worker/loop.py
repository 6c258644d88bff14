"""One event loop per process, in a daemon thread, for everything that steps await.

Model clients and pools belong to the loop that made them, so a process keeps one loop for its whole life. A loop
per task would break them ("Event loop is closed").
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from paigeant_celery.activities.real_threads import (
    RealFuture,
    are_greenlets,
    end_at_exit,
    new_loop,
    real,
    run_on,
    start_thread,
)
from paigeant_celery.activities.stacks import still_running
from paigeant_celery.activities.threads import HostResources, NoResources, SharedThreads, released
from paigeant_celery.core.causes import Cause, cause_of
from paigeant_celery.hop.failures import traced
from paigeant_celery.worker.pulse import BEAT

__all__ = ["ProcessLoop"]

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


class ProcessLoop:
    """Runs coroutines for threads that wait for them; a forked child starts with a new loop.

    `turned` is called on the loop about every second, unless something blocks it; `left` when a loop is given up, and
    the next one is made only when something is to run.
    """

    def __init__(
        self,
        host: HostResources | None = None,
        *,
        turned: Callable[[], object] = lambda: None,
        left: Callable[[], object] = lambda: None,
    ) -> None:
        self._host, self._turned, self._left = host or NoResources(), turned, left
        self._lock = real().Lock()
        self._pid: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._forget)

    def running(self, coroutine: Coroutine[Any, Any, T]) -> AbstractContextManager[concurrent.futures.Future[T]]:
        """Run a coroutine in a copy of the caller's context; leaving the block before it ends cancels it."""
        return _Running(run_on(self._own(), coroutine))

    def doing(self) -> Cause | None:
        """Return where the code on the loop is, None if there is no loop."""
        seen = still_running(self._thread) if self._thread is not None else None
        return cause_of(seen) if seen is not None else None

    def leave_if_blocked(self, patience: float) -> bool:
        """Say whether code blocks the loop; if so, coroutines that begin later get a new one.

        The steps on a blocked loop stay there. Within `patience` seconds the loop must show a sign of life.
        """
        loop = self._own()
        alive: RealFuture[None] = RealFuture()
        loop.call_soon_threadsafe(alive.set_result, None)
        with suppress(TimeoutError):
            alive.result(patience)
            return False
        with self._lock:
            if self._loop is loop:
                self._loop = None
                self._left()
        return True

    def _own(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = new_loop(), os.getpid()
                self._loop.set_default_executor(_Threads(self._host))
                self._loop.set_exception_handler(_tell)
                self._thread = start_thread(partial(_serve, self._loop), name="paigeant-loop")
                end_at_exit(self._thread, partial(self._loop.call_soon_threadsafe, self._loop.stop))
                self._loop.call_soon_threadsafe(self._turn, self._loop)
            return self._loop

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is self._loop:  # one that was given up because it was blocked says nothing of its successor
            self._turned()
            loop.call_later(BEAT, self._turn, loop)

    def _forget(self) -> None:
        # The parent's thread does not exist in the child, and its lock may have been held at the fork.
        self._lock, self._loop, self._thread, self._pid = real().Lock(), None, None, None


class _Running(Generic[T]):
    """The block in which something runs; a generator would take ten times its memory while the block waits."""

    __slots__ = ("_future",)

    def __init__(self, future: concurrent.futures.Future[T]) -> None:
        self._future = future

    def __enter__(self) -> concurrent.futures.Future[T]:
        return self._future

    def __exit__(self, *error: object) -> None:
        self._future.cancel()


class _Threads(ThreadPoolExecutor):
    """The threads of a loop, for which the host keeps nothing after a call."""

    def __init__(self, host: HostResources) -> None:
        super().__init__(thread_name_prefix="asyncio")
        self._host = host
        # asyncio takes no executor of another class, and the threads of this one may be greenlets.
        self._real = SharedThreads(self._max_workers, name="asyncio") if are_greenlets() else None

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[T]:
        submit = super().submit if self._real is None else self._real.submit
        return submit(released(self._host, call, *args, **kwargs))


def _tell(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Log what failed on the loop without anybody waiting for it, such as a task that a step started and left.

    asyncio itself would log the text of the error and the arguments of callbacks.
    """
    error, future = context.get("exception"), context.get("task", context.get("future"))
    coroutine = future.get_coro() if isinstance(future, asyncio.Task) else None
    name = getattr(coroutine, "__qualname__", "a callback")
    cause = cause_of(error) if isinstance(error, BaseException) else None
    what = f"failed{traced(cause)}" if cause is not None else "was given up before it ended"
    logger.error("%s, which a step left on the event loop, %s", name, what, extra={"action": "left_task_failed"})


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while not loop.is_closed():
        try:
            loop.run_forever()
            return
        except BaseException as error:  # noqa: BLE001
            # A task that outlives its step may raise SystemExit, which asyncio lets out of the loop. The other steps of
            # this process go on.
            logger.error("loop_interrupted", extra={"action": "loop_interrupted", "error": type(error).__name__})
