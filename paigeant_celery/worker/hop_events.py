"""The events of hops, which Flower and `celery events` read: many in one message.

Celery has a name for such a message, `task.multi`, and uses it if its worker has an event loop: for what comes within
one turn of the loop, which seldom is more than one event. Its buffer is none to wait in for longer: no version hands it
on when a connection is lost, and those before 5.7 empty it also of what the broker has not taken, and of what came
meanwhile. What is sent of a task of the host stays as Celery sends it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any

from celery import bootsteps
from celery.events.event import Event
from celery.utils.time import utcoffset

__all__ = ["EventsTogether", "HopEvents", "sending_together"]

TOGETHER_WITHIN = 0.1  # seconds that an event waits for others; what a killed worker loses
MOST_TOGETHER = 50
MOST_HELD = 10_000  # while there is no connection; of more, the oldest are dropped
HELD_BY = "paigeant_events"  # the attribute of a consumer


class _Now(Enum):
    """What becomes of an event."""

    WAITS_FOR_OTHERS = auto()
    WAITS_FOR_CONNECTION = auto()  # a broker that is gone would hold up each hop that ends
    IS_SENT = auto()  # a worker that ends has nothing that would send it later


class HopEvents:
    """Stands in for Celery's dispatcher of events, to which it hands what came within a moment."""

    def __init__(self, consumer: Any) -> None:
        self.enabled = False  # whether the worker sends events at all
        self._consumer = consumer
        self._dispatcher: Any = None
        self._now = _Now.WAITS_FOR_CONNECTION
        self._held: deque[dict[str, Any]] = deque(maxlen=MOST_HELD)
        self._awaited = False  # whether a call of `flush` is to come
        # Nothing overtakes what is being sent. A cold shutdown sends events in the handler of a signal, which may have
        # come in the midst of that.
        self._sending = threading.RLock()
        self._is_sending = False

    def use(self, dispatcher: Any) -> None:
        """Send by the dispatcher of the current connection; there is none if the worker sends no events."""
        self._dispatcher, self.enabled = dispatcher, dispatcher is not None and bool(dispatcher.enabled)

    def send(self, type: str, **fields: Any) -> None:  # noqa: A002  # Celery's name
        """Send an event of a task with others, or at once in a worker that ends.

        Its time and its place in the order of events are those of this call.
        """
        dispatcher = self._dispatcher
        if not self.enabled or (dispatcher.groups and "task" not in dispatcher.groups):
            return
        clock = dispatcher.clock.forward()
        self._held.append(
            Event(type, hostname=dispatcher.hostname, utcoffset=utcoffset(), pid=dispatcher.pid, clock=clock, **fields)
        )
        if self._now is _Now.IS_SENT:
            self.flush()
        elif len(self._held) == MOST_TOGETHER:
            self._flush_after(0)
        elif not self._awaited:
            self._awaited = True
            self._flush_after(TOGETHER_WITHIN)

    def begin(self) -> None:
        """Let events wait for others, and send what is left from before a connection was lost."""
        self.use(self._consumer.event_dispatcher)
        self._now = _Now.WAITS_FOR_OTHERS
        self.flush()

    def lose(self) -> None:
        """Let events wait for the next connection."""
        self._now = _Now.WAITS_FOR_CONNECTION

    def end(self) -> None:
        """Let no event wait any longer."""
        self._now = _Now.IS_SENT
        self.flush()

    def flush(self) -> None:
        """Send what waits, if there is a connection."""
        self._awaited = False  # before anything is taken, so that what comes meanwhile is awaited again
        with self._sending:
            if self._is_sending:  # whoever was interrupted by the signal sends it
                return
            self._is_sending = True
            try:
                while self._held and self._now is not _Now.WAITS_FOR_CONNECTION and self._dispatcher.producer:
                    self._publish([self._held.popleft() for _ in range(min(len(self._held), MOST_TOGETHER))])
            finally:
                self._is_sending = False

    def _publish(self, events: list[dict[str, Any]]) -> None:
        dispatcher = self._dispatcher
        dispatcher.flush(groups=False)  # what the broker did not take before
        dispatcher.publish("task-multi", {}, dispatcher.producer, blind=True, Event=lambda *_, **__: events)

    def _flush_after(self, seconds: float) -> None:
        """Have the worker's event loop send what waits, or a thread in workers without one.

        The loop also reads from the connection, which no other thread should use meanwhile.
        """
        hub = self._consumer.hub
        if hub is not None:  # a call of its timer alone would not wake it
            hub.call_soon(hub.timer.call_after, seconds, self.flush)
            return
        thread = threading.Timer(seconds, self.flush)  # Celery's own may sleep for long
        thread.name, thread.daemon = "paigeant-events", True
        try:
            thread.start()
        except RuntimeError:  # the process may have no more threads
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
        """Wait for the next connection, or send what waits because the worker ends."""
        if consumer.blueprint.state == bootsteps.RUN:
            self._events.lose()
        else:
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
    events.use(dispatcher)
    consumer.event_dispatcher = events
    try:
        yield
    finally:
        consumer.event_dispatcher = dispatcher
