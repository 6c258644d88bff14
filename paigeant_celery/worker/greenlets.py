"""What a worker whose pool runs greenlets needs, and which one cannot run steps.

Its steps run in real threads, and a connection that gevent has made belongs to one thread. A step that sends a task
must not take one from the pool that the tasks of the worker share: it would stop all of them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

from celery import Celery

from paigeant_celery.activities.real_threads import OfThread, are_greenlets, in_real_thread, real

__all__ = ["keep_log_flowing", "keep_producers_apart", "pool_mistakes"]


def pool_mistakes() -> Iterator[str]:
    """Yield why no step can run in this process, if none can."""
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        yield (
            "steps cannot run under eventlet: they need threads beside its greenlets, and its locks fail for good if "
            "both use one, such as that of a log handler (`Cannot switch to a different thread`); use `-P gevent`, "
            "`-P threads` or `-P prefork`, and give other tasks that need eventlet a worker of their own"
        )


class ProducersOfThreads:
    """The producers of an app: for greenlets those that it has, for each real thread one of its own."""

    def __init__(self, app: Celery) -> None:
        self._app, self._shared = app, app.producer_pool
        self._own: OfThread[Any] = OfThread(lambda producer: producer.connection.release())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared, name)

    def acquire(self, *args: Any, **kwargs: Any) -> Any:
        """Return a producer that only this thread uses meanwhile."""
        if not in_real_thread():
            return self._shared.acquire(*args, **kwargs)
        if self._own.value is None:
            self._own.value = self._app.amqp.Producer(self._app.connection_for_write(), auto_declare=False)
        return self._own.value


def keep_producers_apart(app: Celery) -> None:
    """Let code in real threads, such as that of steps, send tasks beside the greenlets of a worker."""
    if not isinstance(app.producer_pool, ProducersOfThreads):
        app.amqp._producer_pool = ProducersOfThreads(app)  # Celery has no other way to name one


def keep_log_flowing() -> None:
    """Give the handlers of the log locks that threads and greenlets can share.

    Those that gevent has made may be free, but taken from a thread that computes, whoever waits for them goes on only
    when it has ended; and that may be the greenlet that takes the messages. Here each is held for moments.
    """
    if not are_greenlets():
        return
    logging._lock = real().RLock()  # type: ignore[attr-defined]
    for reference in list(logging._handlerList):  # type: ignore[attr-defined]
        handler = reference()
        if handler is not None and handler.lock is not None:
            handler.lock = real().RLock()
