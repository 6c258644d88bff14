"""The threads that the sync code of steps runs in, and what a host keeps for them and lets go of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future
from contextvars import Context, ContextVar, Token
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from paigeant_celery.activities.real_threads import (
    RealFuture,
    let_others_go_on,
    new_thread,
    real,
    real_queue,
    start_thread,
)

__all__ = [
    "HostResources",
    "NoResources",
    "OwnThread",
    "SharedThreads",
    "ThreadPerCall",
    "call_in_step",
    "released",
    "thread_of_step",
]

P = ParamSpec("P")
T = TypeVar("T")


class HostResources(Protocol):
    """What a host keeps for each context and thread, such as Django's caches and connections. Nothing here raises."""

    def enter_context(self) -> None:
        """Let the current thread see what the host keeps in the current context, which another thread may have set."""
        ...

    def release_context(self) -> None:
        """Let go of what it keeps in the current context."""
        ...

    def release_thread(self) -> None:
        """Let go of what it keeps for the current thread."""
        ...


class NoResources:
    """A host that keeps nothing."""

    def enter_context(self) -> None: ...

    def release_context(self) -> None: ...

    def release_thread(self) -> None: ...


class OwnThread(Executor):
    """A thread that makes calls one after the other. It starts with the first and ends once it is closed.

    Nothing waits for it when the process ends, as it would for the threads of a `ThreadPoolExecutor`: a function that
    hangs keeps its thread for ever.
    """

    def __init__(self, host: HostResources, *, name: str = "paigeant-function") -> None:
        self._host, self._name = host, name
        self._lock = real().Lock()
        self._calls = real_queue()
        self._open_calls = 0
        self._ended: Future[None] | None = None  # once it is closed
        self.thread: threading.Thread | None = None  # most steps make no call in it

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Make a call after those before it; raises `RuntimeError` if the thread is closed.

        A call from the thread itself, which may wait for it, is made in a thread beside it.
        """
        if real().current_thread() is self.thread:
            other = self.beside()
            try:
                return other.submit(call, *args, **kwargs)
            finally:
                other.close()
        future: Future[T] = RealFuture()
        with self._lock:
            if self._ended is not None:
                raise RuntimeError("the step to which this thread belongs has ended")
            self._open_calls += 1
            self._calls.put(partial(_make, future, partial(call, *args, **kwargs), over=self._over))
            if self.thread is None:
                self.thread = new_thread(self._serve, name=self._name)
            if self.thread.ident is None:
                self.thread.start()
        return future

    @property
    def free(self) -> bool:
        """Whether no call is in it or waits for it, and calls may still be made."""
        return self._ended is None and self._open_calls == 0

    def make_inside(self, context: Context, call: Callable[[], T]) -> Future[T]:
        """Make a call inside a context of which the host keeps nothing afterwards."""
        return self.submit(context.run, _inside, self._host, call)

    def beside(self) -> OwnThread:
        """Return another thread of the same host."""
        return OwnThread(self._host, name=self._name)

    def close(self) -> Future[None]:
        """End the thread after its calls; the future ends when the host has let go of what it kept for it."""
        with self._lock:
            if self._ended is None:
                self._ended = RealFuture()
                self._calls.put(None)
                if self.thread is None or self.thread.ident is None:
                    self._ended.set_result(None)
            return self._ended

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # and with it the arguments, before the next one comes
        self._host.release_thread()
        assert self._ended is not None
        self._ended.set_result(None)

    def _over(self) -> None:
        with self._lock:
            self._open_calls -= 1


class ThreadPerCall(Executor):
    """Makes each call in a thread of its own, for which the host keeps nothing after the call."""

    def __init__(self, host: HostResources, *, name: str) -> None:
        self._host, self._name = host, name

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Make a call; its thread ends with it."""
        thread = OwnThread(NoResources(), name=self._name)
        future = thread.submit(released(self._host, call, *args, **kwargs))
        thread.close()
        return future


class SharedThreads(Executor):
    """Makes each call in the first thread that is free, with at most so many threads, which stay."""

    def __init__(self, most: int, *, name: str) -> None:
        self._most, self._name = most, name
        self._lock = real().Lock()
        self._calls = real_queue()
        self._threads = self._open_calls = 0

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Make a call as soon as a thread is free; raises `RuntimeError` if there is none and none can be started."""
        future: Future[T] = RealFuture()
        with self._lock:
            if self._threads < min(self._open_calls + 1, self._most):
                self._start_thread()
            self._open_calls += 1
        self._calls.put(partial(_make, future, partial(call, *args, **kwargs), over=self._over))
        return future

    def _start_thread(self) -> None:
        try:
            start_thread(self._serve, name=self._name)
        except RuntimeError:  # the process may have no more threads; those that are there do it
            if not self._threads:
                raise
            return
        self._threads += 1

    def _serve(self) -> None:
        while True:
            call = self._calls.get()
            call()
            del call  # and with it the arguments, before the next one comes

    def _over(self) -> None:
        with self._lock:
            self._open_calls -= 1


def _make(future: Future[T], call: Callable[[], T], *, over: Callable[[], None]) -> None:
    """Make a call for a future, and tell that it is over."""
    if not future.set_running_or_notify_cancel():
        over()
        return
    try:
        result = _made_by(call)
    except BaseException as error:  # noqa: BLE001 - the waiting caller gets what it raised
        over()
        future.set_exception(_carried(error))
    else:
        over()  # before the caller hears of it, who may look for a free thread
        future.set_result(result)


def _made_by(call: Callable[[], T]) -> T:
    try:
        return call()
    finally:
        let_others_go_on()


def released(host: HostResources, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
    """Return the call with its arguments; after it, the host lets go of what it keeps for its thread and context."""

    def make() -> T:
        own = _context_of(call)
        context = own if own is not None else Context()  # one of its own is false as long as nothing is set in it
        context.run(host.enter_context)
        try:
            return call(*args, **kwargs)
        finally:
            context.run(host.release_context)
            host.release_thread()

    return _noted(make)


_own: ContextVar[OwnThread | None] = ContextVar("paigeant_thread", default=None)
# The threads in which calls of a step are now, the oldest one first. The keys of a dictionary are an ordered set.
_working: ContextVar[dict[threading.Thread, None] | None] = ContextVar("paigeant_working", default=None)


class thread_of_step:  # noqa: N801 - used as a phrase: `with thread_of_step(thread):`
    """Make a thread the one in which sync code of the step inside the block runs; give those that it is in."""

    __slots__ = ("_noted", "_own", "_thread")
    _own: Token[OwnThread | None]
    _noted: Token[dict[threading.Thread, None] | None]

    def __init__(self, thread: OwnThread) -> None:
        self._thread = thread

    def __enter__(self) -> Collection[threading.Thread]:
        working: dict[threading.Thread, None] = {}
        self._own, self._noted = _own.set(self._thread), _working.set(working)
        return working

    def __exit__(self, *error: object) -> None:
        _working.reset(self._noted)
        _own.reset(self._own)


def _noted(call: Callable[[], T]) -> Callable[[], T]:
    """Return a call that is noted, while it is made, as one of the step that asks for it now."""
    working = _working.get()
    if working is None:
        return call

    def make() -> T:
        here = real().current_thread()
        working[here] = None
        try:
            return call()
        finally:
            working.pop(here, None)

    return make


def call_in_step(context: Context, call: Callable[[], T]) -> tuple[Future[T], threading.Thread]:
    """Make a call inside a context, in the thread of this step, or in another one if that is not free."""
    thread, call = _own.get(), _noted(call)
    if thread is not None and thread.free:
        future = thread.make_inside(context, call)
    else:
        thread = OwnThread(NoResources()) if thread is None else thread.beside()
        future = thread.make_inside(context, call)
        thread.close()
    assert thread.thread is not None
    return future, thread.thread


def _inside(host: HostResources, call: Callable[[], T]) -> T:
    host.enter_context()
    try:
        return call()
    finally:
        host.release_context()


def _context_of(call: Callable[..., Any]) -> Context | None:
    """Return the context that a call is made in, if it is `context.run`, as it is for those who carry their context."""
    while isinstance(call, partial):
        call = call.func
    owner = getattr(call, "__self__", None)
    return owner if isinstance(owner, Context) else None


def _carried(error: BaseException) -> BaseException:
    """Return the error in a form that a future can carry to a coroutine, to which two kinds of error mean its own end.

    An error with the same class name stands in for one of them.
    """
    if not isinstance(error, (StopIteration, GeneratorExit)):
        return error
    stand_in: type[RuntimeError] = type(type(error).__name__, (RuntimeError,), {})
    carried = stand_in(*error.args)
    carried.__cause__ = error
    return carried
