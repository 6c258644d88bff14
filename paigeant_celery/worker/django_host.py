"""What a Django project needs around steps: what Celery's Django fixup does for tasks, where the code of steps runs.

Django keeps connections for each thread and caches in each context. Celery's fixup closes them in the thread of the
task, in which no code of a step runs. So each place where it does run is left clean:

- the thread of a step, in which a sync function runs (`activities/threads.py`): at the end of the step;
- a thread for the calls that asgiref makes in one thread (`thread_sensitive`, as all of Django's async calls are). Each
  step has its own, so that nothing is closed in the middle of a neighbour's transaction: at the end of the step;
- threads for sync tools of agents, each for one call: after the call;
- the threads of the event loop (`asyncio.to_thread`, `sync_to_async(thread_sensitive=False)`): after each call.

Connections are always closed, whatever `CONN_MAX_AGE` and `CELERY_DB_REUSE_MAX` say, because such threads end.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any

from paigeant_celery.activities.threads import OwnThread, ThreadPerCall
from paigeant_celery.hop.surroundings import NoHost, ended

__all__ = ["DjangoContexts", "DjangoHost"]

logger = logging.getLogger(__name__)


class DjangoContexts(NoHost):
    """A process in which nothing of Django is closed after a step, such as that of a test."""

    def step(self) -> AbstractAsyncContextManager[None]:
        """Let agents run sync tools in threads that see what Django keeps in the step's context.

        They do so without Django, too: pydantic-ai's own threads cannot be given up, so a step whose tool hangs would
        not end when its time is over.
        """
        return _SyncToolsIn(ThreadPerCall(self, name="paigeant-tool"))

    def enter_context(self) -> None:
        """Let this thread see the language and the time zone of the context; newer asgiref notes whose they are."""
        if "asgiref.local" not in sys.modules:
            return
        try:
            from asgiref.local import _rehome, _Storage
        except ImportError:
            return  # an older one shows them to each thread
        for variable, value in copy_context().items():
            if isinstance(value, _Storage) and not _holds_caches(value.data):
                variable.set(_rehome(value))


class DjangoHost(DjangoContexts):
    """Does nothing as long as the process has not loaded and configured Django."""

    def __init__(self, app: Any) -> None:  # a Celery app; the test kit loads this module without Celery
        self._app = weakref.ref(app)  # the event loop of a process is never given up, but an app may be

    def step(self) -> AbstractAsyncContextManager[None]:
        """Give a step also a thread of its own for the calls of asgiref, and leave everything clean."""
        return self._clean() if _is_used() else super().step()

    @asynccontextmanager
    async def _clean(self) -> AsyncIterator[None]:
        from django.core.cache import caches

        thread = OwnThread(self, name="paigeant-django")
        try:
            async with super().step():
                with _calls_of_asgiref_in(thread):
                    yield
        finally:
            if os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):  # then there may be connections of the loop's own thread
                self.release_thread()
            kept = caches.all(initialized_only=True)
            await ended(thread, last=partial(self._close, kept) if kept or _pools() else None)

    def release_context(self) -> None:
        """Close the caches of this context."""
        if _is_used():
            from django.core.cache import close_caches

            _quietly(close_caches)

    def release_thread(self) -> None:
        """Close the connections of this thread."""
        if _is_used():
            from django.db import connections

            for connection in connections.all(initialized_only=True):
                _quietly(connection.close)

    def _close(self, kept: list[Any]) -> None:
        """Close caches, and the pools of connections if Celery's fixup does, as in the processes of a prefork pool."""
        from django.db import connections

        for cache in kept:
            _quietly(cache.close)
        pools, app = _pools(), self._app()
        for alias in pools:
            connections[alias]  # the fixup closes only the pools of connections that this thread has
        for fixup in app._fixups if pools and app is not None else ():
            if hasattr(fixup, "worker_fixup"):
                _quietly(fixup.worker_fixup.close_database)


def _is_used() -> bool:
    conf = sys.modules.get("django.conf")
    return "django.db" in sys.modules and conf is not None and bool(conf.settings.configured)


def _holds_caches(data: Mapping[str, Any]) -> bool:
    """Say whether these are caches. Not every client of one may be used in two threads, so each thread has its own."""
    base = sys.modules.get("django.core.cache.backends.base")
    return base is not None and any(isinstance(value, base.BaseCache) for value in data.values())


def _pools() -> list[str]:
    from django.db import connections

    return [alias for alias, settings in connections.settings.items() if settings.get("OPTIONS", {}).get("pool")]


def _quietly(close: Callable[[], object]) -> None:
    """Close something; an error is logged, because the step it was used for has already ended."""
    try:
        close()
    except Exception as error:  # noqa: BLE001 - each backend has its own
        text = "something of Django could not be closed after a step: %s"
        logger.warning(text, type(error).__name__, extra={"action": "close_of_host_failed"})


@contextmanager
def _calls_of_asgiref_in(thread: OwnThread) -> Iterator[None]:
    """Let `sync_to_async` make its `thread_sensitive` calls in a thread.

    `ThreadSensitiveContext` takes an executor of ours only in the newest versions. Otherwise it makes one that waits
    for a call that hangs, and a task that goes on after its step could make no call any more.
    """
    from asgiref.sync import SyncToAsync, ThreadSensitiveContext

    own = ThreadSensitiveContext()
    SyncToAsync.context_to_thread_executor[own] = thread
    token = SyncToAsync.thread_sensitive_context.set(own)
    try:
        yield
    finally:
        SyncToAsync.thread_sensitive_context.reset(token)
        SyncToAsync.context_to_thread_executor.pop(own, None)


class _SyncToolsIn:
    """The block in which agents run sync functions in an executor."""

    __slots__ = ("_executor", "_using")
    _using: AbstractContextManager[None]

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def __aenter__(self) -> None:
        self._using = _sync_tools_in(self._executor)
        self._using.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._using.__exit__(kind, error, trace)


def _sync_tools_in(executor: Executor) -> AbstractContextManager[None]:
    if "pydantic_ai" not in sys.modules:
        return nullcontext()
    from pydantic_ai import Agent

    return Agent.using_thread_executor(executor)
