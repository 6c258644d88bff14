"""Events of hops: which messages they become, in which order, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.bootsteps import CLOSE, RUN
from celery.events.receiver import EventReceiver
from celery.utils.imports import symbol_by_name
from celery.worker.consumer.heart import Heart
from kombu import Connection

from paigeant_celery.worker.hop_events import (
    MOST_HELD,
    MOST_TOGETHER,
    TOGETHER_WITHIN,
    EventsTogether,
    HopEvents,
    sending_together,
)
from paigeant_celery.worker.request import HopRequest

WITHIN = 10.0


class Producer:
    """Keeps what Celery's dispatcher publishes."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any]] = []
        self.sent = threading.Event()
        self.broken = False
        self.meanwhile: Callable[[], None] = lambda: None

    def publish(self, body: Any, *, routing_key: str, **_: Any) -> None:
        if self.broken:
            raise ConnectionError
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        self.messages.append((routing_key, body))
        self.sent.set()


class Hub:
    """An event loop that calls at once what it is to call soon, and later what the test has it call."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.timer = SimpleNamespace(call_after=lambda delay, call: self.calls.append((delay, call)))

    def call_soon(self, call: Callable[..., None], *arguments: Any) -> None:
        call(*arguments)


class Worker:
    """What of a Celery consumer is read here, with Celery's own dispatcher of events."""

    def __init__(self, app: Celery, *, hub: bool) -> None:
        self.app, self.hub = app, Hub() if hub else None
        self.blueprint = SimpleNamespace(state=RUN)
        self.event_dispatcher: Any = None
        self.producer = Producer()
        self.step = EventsTogether(self)
        self.events: HopEvents = self.paigeant_events  # type: ignore[attr-defined]

    def connect(self) -> None:
        self.event_dispatcher = self.app.events.Dispatcher(Connection("memory://"), hostname="desk@here")
        self.event_dispatcher.producer = self.producer
        self.step.start(self)

    def lose_connection(self) -> None:
        """Do what Celery does then: the steps stop, and the one for events closes its dispatcher when it starts."""
        self.step.stop(self)
        self.event_dispatcher.disable()

    def end(self) -> None:
        self.blueprint.state = CLOSE
        self.step.stop(self)

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.producer.messages]

    @property
    def types(self) -> list[str]:
        bodies = [body if isinstance(body, list) else [body] for _, body in self.producer.messages]
        return [event["type"] for events in bodies for event in events]


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("shop", broker="memory://", set_as_current=False) as made:
        yield made


@pytest.fixture
def worker(app: Celery) -> Worker:
    """A connected worker with an event loop, whose timer the test is."""
    made = Worker(app, hub=True)
    made.connect()
    return made


def test_events_of_a_moment_are_one_message(worker: Worker) -> None:
    """Each says when it happened and in which order, and one call of the timer sends all."""
    for type_ in ("task-received", "task-started", "task-succeeded"):
        worker.events.send(type_, uuid="w.0")

    assert worker.keys == []
    ((_, flush),) = worker.hub.calls
    flush()
    ((key, events),) = worker.producer.messages
    assert key == "task.multi"
    assert [event["type"] for event in events] == ["task-received", "task-started", "task-succeeded"]
    assert sorted({event["clock"] for event in events}) == [event["clock"] for event in events]
    assert all(event["timestamp"] and event["hostname"] == "desk@here" and event["uuid"] == "w.0" for event in events)


def test_what_reads_events_reads_each_of_them(app: Celery, worker: Worker) -> None:
    """Celery's own receiver, which Flower has as well, hands them on one by one."""
    seen: list[str] = []
    worker.events.send("task-started", uuid="w.0")
    worker.events.send("task-succeeded", uuid="w.0")
    worker.events.flush()
    receiver = EventReceiver(Connection("memory://"), handlers={"*": lambda event: seen.append(event["type"])}, app=app)

    receiver._receive(worker.producer.messages[0][1], SimpleNamespace(headers={}))

    assert seen == ["task-started", "task-succeeded"]


def test_many_events_do_not_wait(worker: Worker) -> None:
    """A message stays small."""
    for _ in range(MOST_TOGETHER):
        worker.events.send("task-started", uuid="w.0")
    (later, _), (now, flush) = worker.hub.calls
    flush()

    assert (later, now) == (TOGETHER_WITHIN, 0)
    assert worker.keys == ["task.multi"]
    assert len(worker.types) == MOST_TOGETHER


def test_a_worker_that_ends_sends_what_waits_and_then_each_at_once(worker: Worker) -> None:
    """Its hops that still run end after it has said that it is offline, and nothing would send them later."""
    worker.events.send("task-started", uuid="w.0")
    worker.end()
    assert worker.types == ["task-started"]

    worker.events.send("task-succeeded", uuid="w.0")

    assert worker.types == ["task-started", "task-succeeded"]


def test_the_step_stops_before_a_worker_says_that_it_is_offline() -> None:
    """Celery stops its steps in the reverse of the order in which they start."""
    assert [symbol_by_name(step) for step in EventsTogether.requires] == [Heart]  # Celery replaces names by classes


def test_what_comes_while_there_is_no_connection_is_sent_by_the_next(worker: Worker) -> None:
    """A hop that ends in a thread meanwhile tries no broker that is gone, and its events are not lost."""
    worker.events.send("task-started", uuid="w.0")
    worker.producer.broken = True
    worker.lose_connection()
    assert worker.events.enabled
    for _ in range(MOST_TOGETHER):
        worker.events.send("task-succeeded", uuid="w.0")
    worker.events.flush()  # the loop calls what it was to call for the old connection
    worker.producer.broken = False

    worker.connect()

    assert worker.types == ["task-started", *["task-succeeded"] * MOST_TOGETHER]
    assert [len(events) for _, events in worker.producer.messages] == [MOST_TOGETHER, 1]


def test_events_without_a_connection_fill_no_memory(worker: Worker) -> None:
    """The latest say how the hops stand."""
    worker.lose_connection()
    for number in range(MOST_HELD + 1):
        worker.events.send("task-started", uuid=f"w.{number}")

    worker.connect()

    assert len(worker.types) == MOST_HELD
    assert worker.producer.messages[-1][1][-1]["uuid"] == f"w.{MOST_HELD}"


def test_a_request_from_before_goes_on_with_the_same_sender(worker: Worker) -> None:
    """Celery hands it the new dispatcher, which would overtake what waits."""
    request = HopRequest.__new__(HopRequest)
    request._eventer = worker.events

    request.eventer = worker.event_dispatcher

    assert request.eventer is worker.events


def test_events_that_the_broker_does_not_take_come_before_the_next(worker: Worker) -> None:
    """Celery's dispatcher keeps them until something is sent again, and that goes for a new connection too."""
    worker.producer.broken = True
    worker.events.send("task-received", uuid="w.0")
    worker.events.flush()
    worker.producer.broken = False
    worker.events.send("task-started", uuid="w.0")

    worker.events.flush()

    assert worker.types == ["task-received", "task-started"]


def test_an_event_that_comes_while_others_are_sent_is_awaited(worker: Worker) -> None:
    """Nothing else would send it."""
    worker.producer.meanwhile = partial(worker.events.send, "task-started", uuid="w.0")
    worker.events.send("task-received", uuid="w.0")
    while worker.hub.calls:
        worker.hub.calls.pop()[1]()

    assert worker.types == ["task-received", "task-started"]


def test_a_signal_that_comes_while_events_are_sent_sends_some_as_well(worker: Worker) -> None:
    """A cold shutdown does, in the thread that it interrupts; it neither hangs nor overtakes."""
    worker.end()

    def interrupted() -> None:
        worker.events.send("task-cancelled", uuid="w.0")
        worker.events.end()

    worker.producer.meanwhile = interrupted
    thread = threading.Thread(target=worker.events.send, args=("task-started",), kwargs={"uuid": "w.0"}, daemon=True)
    thread.start()
    thread.join(WITHIN)

    assert worker.types == ["task-started", "task-cancelled"]


def test_events_of_many_threads_all_come_and_in_their_order(worker: Worker) -> None:
    """Hops end in threads while the worker's loop sends."""
    events = worker.events

    def run(number: int) -> None:
        for place in range(200):
            events.send("task-started", uuid=f"{number}.{place}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        events.flush()
    worker.end()

    told = [event["uuid"] for _, sent in worker.producer.messages for event in sent]
    by_thread = [[uuid for uuid in told if uuid.startswith(f"{number}.")] for number in range(4)]
    assert by_thread == [[f"{number}.{place}" for place in range(200)] for number in range(4)]


def test_without_an_event_loop_a_thread_sends_them(app: Celery) -> None:
    """Pools of greenlets have none, and Celery's timer there may sleep for long. No thread is left behind."""
    worker = Worker(app, hub=False)
    worker.connect()
    for _ in range(2):
        worker.producer.sent.clear()
        worker.events.send("task-received", uuid="w.0")
        worker.events.send("task-started", uuid="w.0")
        assert worker.producer.sent.wait(WITHIN)

    assert worker.types == ["task-received", "task-started"] * 2
    assert set(worker.keys) == {"task.multi"}
    for thread in threading.enumerate():
        if thread.name == "paigeant-events":
            thread.join(WITHIN)
            assert not thread.is_alive()


@pytest.mark.parametrize("groups", [{"worker"}, {"worker", "task"}])
def test_events_are_sent_if_the_host_wants_them(worker: Worker, groups: set[str]) -> None:
    """Without `-E` none are, until `enable_events` asks for them."""
    worker.event_dispatcher.groups = groups
    worker.events.send("task-started", uuid="w.0")
    worker.events.flush()

    assert worker.types == (["task-started"] if "task" in groups else [])


def test_only_our_tasks_get_the_other_sender(worker: Worker) -> None:
    """What Celery builds for the host's tasks has the dispatcher of Celery."""
    celerys = worker.event_dispatcher
    with sending_together(worker):
        ours = worker.event_dispatcher

    assert ours is worker.events
    assert ours.enabled
    assert worker.event_dispatcher is celerys
