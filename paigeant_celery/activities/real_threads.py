"""Real threads, also in a process in which gevent has made greenlets of those of `threading`.

Greenlets share one thread. An event loop in a greenlet would take `asyncio.run` from every other one, and a step that
computes would keep all of them from going on, the renewing of the lease included. So what must go on by itself runs in
threads of the operating system:

- threads, locks, conditions, events and thread-locals come from `real()`; a greenlet must not block on them;
- a `RealFuture` can be waited for by greenlets, while others go on, and by real threads;
- a socket of gevent belongs to the thread that made it, so no two real threads share a connection (`OfThread`).

Without gevent all of this is what the standard library has.
"""

from __future__ import annotations

import asyncio
import atexit
import queue
import selectors
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, Generic, TypeVar

__all__ = [
    "OfThread",
    "RealFuture",
    "are_greenlets",
    "end_at_exit",
    "in_real_thread",
    "let_others_go_on",
    "new_loop",
    "new_thread",
    "real",
    "real_queue",
    "run_on",
    "start_thread",
]

T = TypeVar("T")

END_WITHIN = 2.0  # seconds for which a process that ends waits for each of these threads
LONGEST_WAIT = 60.0  # seconds; without any end to its wait, gevent refuses a greenlet that only another thread can wake


def are_greenlets() -> bool:
    """Say whether `threading` starts greenlets in this process. It may be patched after we are imported."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def in_real_thread() -> bool:
    """Say whether the current thread is one that was started here."""
    return _here.is_real


def real() -> Any:
    """Return the module `threading` whose threads are real."""
    return _unpatched_threading() if are_greenlets() else threading


def real_queue() -> Any:
    """Return a `SimpleQueue` for real threads to wait at; greenlets may put into it."""
    return _original("queue", "SimpleQueue")() if are_greenlets() else queue.SimpleQueue()


def new_thread(call: Callable[[], object], *, name: str) -> threading.Thread:
    """Return a real thread that makes a call once it is started. The process does not wait for it when it ends."""
    _have_hub()  # the first one of a process imports modules, which must not happen in two threads at once
    thread: threading.Thread = real().Thread(target=partial(_within, call), name=name, daemon=True)
    return thread


def start_thread(call: Callable[[], object], *, name: str) -> threading.Thread:
    """Make a call in a real thread, and return the thread."""
    thread = new_thread(call, name=name)
    thread.start()
    return thread


def let_others_go_on() -> None:
    """Let whoever waits for a lock of gevent that this thread has released go on.

    gevent only notes at the release that they are to be told, and tells them when the thread waits the next time in
    gevent's way. Without this they would wait until it does, or for good if the thread ends first.
    """
    if are_greenlets():
        import_module("gevent").sleep(0)


def end_at_exit(thread: threading.Thread, tell: Callable[[], object]) -> None:
    """Have a real thread told to end when the process ends, before the interpreter is taken down.

    With gevent, a thread that wakes while that happens ends the process with a crash. Without, nothing is done.
    """
    if are_greenlets():
        atexit.register(_end, weakref.ref(thread), tell)


def _end(thread: weakref.ref[threading.Thread], tell: Callable[[], object]) -> None:
    if (alive := thread()) is not None and alive.is_alive():
        tell()
        alive.join(END_WITHIN)


def new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop for a real thread."""
    return asyncio.SelectorEventLoop(_patient_selector()) if are_greenlets() else asyncio.new_event_loop()


def run_on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> RealFuture[T]:
    """Run a coroutine on the loop of another thread, as `asyncio.run_coroutine_threadsafe` does.

    If it is given up before the loop gets to it, it does not begin.
    """
    future: RealFuture[T] = RealFuture()

    def begin() -> None:
        if future.cancelled():
            coroutine.close()
            return
        task = loop.create_task(coroutine)
        task.add_done_callback(partial(_tell, future))
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(task.cancel) if future.cancelled() else None)

    loop.call_soon_threadsafe(begin)
    return future


class RealFuture(Future[T]):
    """A future that a real thread ends, and that threads and greenlets wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._for_greenlets: Any = None
        if are_greenlets():
            self._condition = real().Condition()  # a greenlet that computes may hold the lock of the stand-in for long

    def result(self, timeout: float | None = None) -> T:
        """Return the result. Raises `TimeoutError` if there is none in time, and the error if there is one."""
        return super().result(self._left_after_waiting(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error, or None. Raises `TimeoutError` if the future has not ended in time."""
        return super().exception(self._left_after_waiting(timeout))

    def _left_after_waiting(self, timeout: float | None) -> float | None:
        """Wait while other greenlets go on; return how long to wait after that, which is nothing at all."""
        if not are_greenlets() or in_real_thread():
            return timeout
        ended = self._ended_for_greenlets()
        while not ended.wait(LONGEST_WAIT if timeout is None else timeout) and timeout is None:
            pass
        return 0

    def _ended_for_greenlets(self) -> Any:
        if self._for_greenlets is None:
            ended = self._for_greenlets = import_module("gevent.event").Event()
            in_hub = import_module("gevent").get_hub().loop.run_callback_threadsafe
            self.add_done_callback(lambda _: in_hub(ended.set))
        return self._for_greenlets


class OfThread(Generic[T]):
    """What a real thread has for itself because it holds connections. Without gevent all threads have the same."""

    def __init__(self, close: Callable[[T], object]) -> None:
        self._close, self._own = close, _Local()
        self._shared: T | None = None

    @property
    def value(self) -> T | None:
        """What this thread has, None if it has nothing. It is closed when a thread of ours ends."""
        return getattr(self._own, "value", None) if are_greenlets() else self._shared

    @value.setter
    def value(self, value: T | None) -> None:
        if not are_greenlets():
            self._shared = value
            return
        self._own.value = value
        if value is not None and in_real_thread():
            _here.closing.append(partial(self._close, value))


def _tell(future: Future[T], task: asyncio.Task[T]) -> None:
    if task.cancelled():
        future.cancel()
    if not future.set_running_or_notify_cancel():
        return
    if (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _within(call: Callable[[], object]) -> None:
    """Make the call of a real thread, and let go of what was kept for the thread."""
    _here.is_real = True
    _have_hub()
    try:
        call()
    finally:
        for close in _here.closing:
            with suppress(Exception):
                close()
        let_others_go_on()
        if are_greenlets():
            import_module("gevent").get_hub().destroy(destroy_loop=True)


def _have_hub() -> None:
    """Give this thread what lets its greenlets go on when it waits. Locks of gevent are quicker in one that has it."""
    if are_greenlets():
        import_module("gevent").get_hub()


def _original(module: str, name: str) -> Any:
    """Return what a module of the standard library had under a name before gevent replaced it."""
    monkey = sys.modules.get("gevent.monkey")
    return getattr(import_module(module), name) if monkey is None else monkey.get_original(module, name)


_Local: Any = _original("_thread", "_local")


class _Here(_Local):  # type: ignore[misc]  # its class is known only at run time
    """What is known of the current thread."""

    def __init__(self) -> None:
        self.is_real = False
        self.closing: list[Callable[[], object]] = []


_here = _Here()


@cache
def _unpatched_threading() -> ModuleType:
    """Return a copy of the module `threading`, made of what gevent has replaced."""
    native, patched = ModuleType("_thread"), sys.modules["_thread"]
    vars(native).update({name: _original("_thread", name) for name in vars(patched) if not name.startswith("__")})
    spec = find_spec("threading")
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    sys.modules["_thread"] = native
    try:
        spec.loader.exec_module(made)
    finally:
        sys.modules["_thread"] = patched
    return made


def _patient_selector() -> selectors.BaseSelector:
    """Return the system's own selector, which lets greenlets of the loop's thread go on while the loop waits.

    Libraries start threads from the loop, as anyio does; those are greenlets. While there are none, the loop is as fast
    as without gevent; with gevent's own selector it always takes four times as long.
    """
    gevent, wait_read = import_module("gevent"), import_module("gevent.socket").wait_read
    native: Any = _original("selectors", "DefaultSelector")

    class PatientSelector(native):  # type: ignore[misc]  # its class is known only at run time
        def select(self, timeout: float | None = None) -> Any:
            if gevent.get_hub().loop.activecnt == 0:
                return super().select(timeout)
            with suppress(TimeoutError):
                wait_read(self.fileno(), timeout)
            return super().select(0)

    made: selectors.BaseSelector = PatientSelector()
    return made
