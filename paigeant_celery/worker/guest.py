"""A Celery worker that is a guest in its process: it runs in a thread and leaves the process alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery.concurrency.thread import TaskPool
from celery.worker import WorkController

__all__ = ["GuestThreads", "GuestWorker"]

IDLE_POLL = 0.1  # seconds until an idle embedded worker notices that it must serve or stop


class GuestThreads(TaskPool):  # type: ignore[misc]  # Celery ships no types
    """Celery's thread pool for a worker that is a guest in its process."""

    # Otherwise `AsyncResult.get()` would be refused in the whole process.
    task_join_will_block = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A new thread has no current app, in which Celery's tracer looks up the task.
        self.executor = ThreadPoolExecutor(
            max_workers=self.limit, thread_name_prefix="paigeant-hop", initializer=self.app.set_current
        )


class GuestWorker(WorkController):  # type: ignore[misc]
    """A Celery worker in a thread. It installs no signal handlers, sets up no logging and joins no cluster."""

    def __init__(self, **arguments: Any) -> None:
        self.ready = threading.Event()
        super().__init__(**arguments)

    def on_consumer_ready(self, consumer: Any) -> None:
        drain = consumer.connection.drain_events
        # Celery's loop wakes only every two seconds while nothing arrives; a guest must be able to stop sooner.
        consumer.connection.drain_events = lambda timeout=IDLE_POLL: drain(timeout=min(timeout, IDLE_POLL))
        self.ready.set()

    def start(self) -> None:
        self.app.set_current()
        super().start()
