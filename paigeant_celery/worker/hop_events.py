"""The events of hops, which Flower and `celery events` read: many in one message.

Celery has a name for such a message, `task.multi`, and uses it if its worker has an event loop: for what comes within
one turn of the loop, which seldom is more than one event. What is sent of a task of the host stays as Celery sends it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import bootsteps
from celery.events.event import Event
from celery.utils.time import utcoffset

__all__ = ["EventsTogether", "HopEvents", "sending_together"]

TOGETHER_WITHIN = 0.1  # seconds that an event waits for others; what a killed worker loses
MOST_TOGETHER = 50
HELD_BY = "paigeant_events"  # the attribute of a consumer


class HopEvents:
    """Stands in for Celery's dispatcher of events, to which it hands what came within a moment."""

    def __init__(self, consumer: Any) -> None:
        self.dispatcher: Any = None  # that of the current connection
        self._consumer = consumer
        self._lock = threading.Lock()  # also while it publishes, so that nothing overtakes
        self._held: list[dict[str, Any]] = []
        self._due = threading.Event()
        self._sender: threading.Thread | None = None
        self._ending = True

    @property
    def enabled(self) -> bool:
        """Whether the worker sends events at all."""
        return self.dispatcher is not None and bool(self.dispatcher.enabled)

    def send(self, type: str, **fields: Any) -> None:  # noqa: A002  # Celery's name
        """Send an event of a task with others, or at once in a worker that ends.

        Its time and its place in the order of events are those of this call.
        """
        dispatcher = self.dispatcher
        if not self.enabled or (dispatcher.groups and "task" not in dispatcher.groups):
            return
        with self._lock:
            clock = dispatcher.clock.forward()
            self._held.append(
                Event(
                    type, hostname=dispatcher.hostname, utcoffset=utcoffset(), pid=dispatcher.pid, clock=clock, **fields
                )
            )
            if self._ending or len(self._held) >= MOST_TOGETHER:
                self._publish()
            elif len(self._held) == 1:
                self._wake()

    def begin(self) -> None:
        """Let events wait for others, and send what is left from before a connection was lost."""
        self.dispatcher = self._consumer.event_dispatcher
        self._ending = False
        self.flush()

    def end(self) -> None:
        """Let no event wait any longer."""
        self._ending = True
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        with self._lock:
            self._publish()

    def _publish(self) -> None:
        dispatcher = self.dispatcher
        producer = dispatcher and dispatcher.producer
        if not self._held or producer is None:  # none while there is no connection
            return
        events, self._held = self._held, []
        dispatcher.publish("task-multi", {}, producer, blind=True, Event=lambda *_, **__: events)

    def _wake(self) -> None:
        """Have what waits sent in a moment, by the worker's event loop or else by a thread."""
        if self._consumer.hub is not None:
            self._consumer.timer.call_after(TOGETHER_WITHIN, self.flush)
            return
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_when_due, name="paigeant-events", daemon=True)
            self._sender.start()
        self._due.set()

    def _send_when_due(self) -> None:
        pause = threading.Event()
        while True:
            self._due.wait()
            self._due.clear()
            pause.wait(TOGETHER_WITHIN)
            self.flush()


class EventsTogether(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Lets events of hops wait for each other while the worker is connected.

    It stops before Celery says that the worker is offline.
    """

    requires = ("celery.worker.consumer.heart:Heart",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._events = HopEvents(consumer)
        setattr(consumer, HELD_BY, self._events)

    def start(self, consumer: Any) -> None:
        """Begin once events can be sent."""
        self._events.begin()

    def stop(self, consumer: Any) -> None:
        """Send what waits because the connection is gone or the worker ends."""
        self._events.end()


@contextmanager
def sending_together(consumer: Any) -> Iterator[None]:
    """Let what is made of a consumer meanwhile send its events together with others.

    Celery reads the dispatcher of a consumer once for each task, while it builds how its messages are taken in.
    """
    events: HopEvents | None = getattr(consumer, HELD_BY, None)
    dispatcher = consumer.event_dispatcher
    if events is None or dispatcher is None:
        yield
        return
    events.dispatcher = dispatcher
    consumer.event_dispatcher = events
    try:
        yield
    finally:
        consumer.event_dispatcher = dispatcher
