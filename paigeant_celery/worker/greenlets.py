"""What a worker whose pool runs greenlets needs.

Its steps run in real threads, and a connection that gevent has made belongs to one thread. A step that sends a task
must not take one from the pool that the tasks of the worker share: it would stop all of them.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from paigeant_celery.activities.real_threads import OfThread, in_real_thread

__all__ = ["keep_producers_apart"]


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
