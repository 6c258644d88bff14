"""The events of hops, as they come from a real worker with threads."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery.events.receiver import EventReceiver

from paigeant_celery import ActivitySpec, WorkflowDispatcher
from tests.support.processes import deployment, eventually
from tests.support.servers import RedisDatabase

WITHIN = 20.0
PLACES = 3


class Messages(EventReceiver):
    """Keeps the events of each message."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: list[list[dict[str, Any]]] = []
        self.ready = threading.Event()

    def on_consume_ready(self, *_: Any, **__: Any) -> None:
        self.ready.set()

    def _receive(self, body: Any, message: Any, *_: Any, **__: Any) -> None:
        self.seen.append(body if isinstance(body, list) else [body])


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


def ends(seen: list[list[dict[str, Any]]]) -> bool:
    """Say whether all hops have succeeded and the worker is offline."""
    told = [event["type"] for events in seen for event in events]
    return told.count("task-succeeded") == PLACES and "worker-offline" in told


def test_all_events_of_a_worker_that_ends_arrive(redis_db: RedisDatabase, tmp_path: Path) -> None:
    """Each hop shows as received, started and succeeded, although the worker ends as soon as the result is there."""
    with deployment(redis_db.url, tmp_path) as made:
        worker, transport = made.ready_worker("desk", "press", pool="threads"), made.transport()
        with watching(transport.app) as messages:
            dispatcher = WorkflowDispatcher()
            steps = [ActivitySpec(name, "marzipan") for name in ("draft", "review", "publish")]
            workflow = dispatcher.dispatch_workflow_sync(transport, itinerary=steps)
            dispatcher.handle(workflow, transport).result_sync(WITHIN)
            assert worker.terminate() == 0
            eventually(lambda: ends(messages.seen), within=WITHIN)

    of_hops = [sent for sent in messages.seen if sent[0]["type"].startswith("task-")]
    by_hop = defaultdict(list)
    for event in sorted((event for sent in of_hops for event in sent), key=lambda event: event["clock"]):
        by_hop[event["uuid"]].append(event["type"].removeprefix("task-"))
    shown = {hop: [type_ for type_ in types if type_ != "sent"] for hop, types in by_hop.items()}
    assert shown == {f"{workflow}.{place}": ["received", "started", "succeeded"] for place in range(PLACES)}
