"""What workers say about their hops, message by message, and what Celery and Flower make of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.events.receiver import EventReceiver
from celery.events.state import State

from paigeant_celery import WorkflowHandle

__all__ = ["WHOLE", "Messages", "watching"]

WITHIN = 20.0  # seconds
WHOLE = ["received", "started", "succeeded"]  # of a hop that went well


class Messages(EventReceiver):
    """Keeps the events of each message, and what Celery and Flower make of them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.state = State()
        super().__init__(*arguments, handlers={"*": self.state.event}, **options)
        self.seen: list[list[dict[str, Any]]] = []
        self.ready = threading.Event()

    def on_consume_ready(self, *_: Any, **__: Any) -> None:
        self.ready.set()

    def _receive(self, body: Any, message: Any, *_: Any, **__: Any) -> None:
        super()._receive(body, message)
        self.seen.append(body if isinstance(body, list) else [body])

    @property
    def types(self) -> list[str]:
        """The types of all events, in the order in which they came."""
        return [event["type"] for events in self.seen for event in events]

    @property
    def repeated(self) -> list[tuple[Any, ...]]:
        """The events of tasks that came more than once."""
        tasks = [event for events in self.seen for event in events if "uuid" in event and event["type"] != "task-sent"]
        times = Counter((event["uuid"], event["type"], event["hostname"], event["clock"]) for event in tasks)
        return [event for event, count in times.items() if count > 1]

    def of(self, handle: WorkflowHandle, place: int) -> list[str]:
        """What its worker said about a hop, in the order in which it came."""
        hop = f"{handle.correlation_id}.{place}"
        told = [event["type"] for events in self.seen for event in events if event.get("uuid") == hop]
        return [type_.removeprefix("task-") for type_ in told if type_ != "task-sent"]

    def states(self, handle: WorkflowHandle) -> list[str | None]:
        """How the hops stand in Flower."""
        tasks = [self.state.tasks.get(f"{handle.correlation_id}.{place}") for place in range(3)]
        return [task and task.state for task in tasks]


@contextmanager
def watching(app: Any) -> Iterator[Messages]:
    with app.connection_for_read() as connection:
        messages = Messages(connection, app=app)
        thread = threading.Thread(target=messages.capture, kwargs={"wakeup": False})
        thread.start()
        try:
            assert messages.ready.wait(WITHIN)
            yield messages
        finally:
            messages.should_stop = True
            thread.join()
