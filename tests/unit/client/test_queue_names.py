"""The names of queues: what no broker can have is refused before anything is recorded, whoever gives the name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from paigeant_celery import (
    ActivitySpec,
    FunctionSpec,
    InvalidInput,
    PaigeantAgent,
    Store,
    WorkflowDispatcher,
    activity,
    register_agent,
)
from paigeant_celery.broker.transport import CeleryTransport, transport_of
from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.worker.serving import queues_of, start_checks

LONG = "é" * 130  # 130 characters, 260 bytes

BAD = {
    LONG: "260 bytes", "q" * 256: "256 bytes", "\U0001f600" * 64: "256 bytes", "": "empty", " \t ": "empty",
    "a\nb": "control character", "a\x06\x16b": "control character", "a\0b": "NUL", "a\ud800": "surrogate",
    "amq.first": "'amq.'",
}  # fmt: skip
GOOD = ["é" * 127, "q" * 255, "\U0001f600" * 63, "with space", "amqp", "paigeant-dead-letters"]


@pytest.fixture
def transport_with() -> Iterator[Callable[..., CeleryTransport]]:
    """Make the transports of hosts with these settings."""
    with ExitStack() as stack:

        def make(**settings: object) -> CeleryTransport:
            app = stack.enter_context(Celery("shop", broker="memory://localhost//", set_as_current=False))
            app.conf.update({"paigeant_store_url": "memory://", **settings})
            return transport_of(app)

        yield make


def unfinished(transport: CeleryTransport) -> list[str]:
    store: Store | None = transport.store
    assert store is not None
    return list(store.unfinished())


WAYS: dict[str, Callable[[str], object]] = {
    "step of an agent": lambda name: ActivitySpec("a", "x", queue=name),
    "step of a function": lambda name: FunctionSpec("a", queue=name),
    "agent": lambda name: PaigeantAgent("test", name="a", queue=name),
    "registered agent": lambda name: register_agent(PaigeantAgent("test", name="x"), name="a", queue=name),
    "function": lambda name: activity(name="a", queue=name)(lambda: None),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_name_is_refused_where_it_is_declared(way: str, name: str) -> None:
    """The text says how many bytes it has, because characters may have several."""
    with pytest.raises(InvalidInput) as caught:
        WAYS[way](name)

    assert caught.value.reason in {"invalid_queue", "invalid_text"}
    assert BAD[name] in caught.value.text
    assert "1 to 255 bytes" in caught.value.text or caught.value.reason == "invalid_text"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_a_name_that_every_broker_takes_is_accepted(way: str, name: str) -> None:
    """Also where it has as many bytes as may be."""
    WAYS[way](name)


ROUTES: dict[str, Callable[[str], dict[str, Any]]] = {
    "a route": lambda name: {"task_routes": {"paigeant.there": {"queue": name}}},
    "a text": lambda name: {"task_routes": {"paigeant.*": name}},
    "a queue": lambda name: {"task_routes": {"paigeant.there": {"queue": Queue(name)}}},
    "a function": lambda name: {"task_routes": (lambda *_, **__: {"queue": name},)},
    "an exchange": lambda name: {
        "task_routes": {"paigeant.there": "sound"}, "task_queues": [Queue("sound", Exchange(name, type="topic"), "key")]
    },
    "a routing key": lambda name: {
        "task_routes": {"paigeant.there": "sound"}, "task_queues": [Queue("sound", Exchange("x", type="topic"), name)]
    },
}  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("place", [0, 1])
def test_what_a_host_routes_to_is_refused_before_anything_is_recorded(
    transport_with: Callable[..., CeleryTransport], route: str, place: int
) -> None:
    """A later step would be parked only when all before it were paid for."""
    transport = transport_with(**ROUTES[route](LONG))
    steps = [FunctionSpec("here", queue="sound-too"), FunctionSpec("there")]
    dispatcher = WorkflowDispatcher()

    with pytest.raises(InvalidInput, match="260 bytes") as caught:
        dispatcher.dispatch_workflow_sync(transport, itinerary=steps[1 - place :])

    assert (caught.value.reason, caught.value.path) == ("invalid_queue", f"itinerary[{place}].queue")
    assert unfinished(transport) == []


@pytest.mark.parametrize("length", [126, 127])
def test_prefix_and_name_together_name_a_queue_too(transport_with: Callable[..., CeleryTransport], length: int) -> None:
    """Each alone may be as long as it may; a queue of its own is another remedy."""
    transport = transport_with(paigeant_prefix="p" * length)
    name, dispatcher = "n" * 128, WorkflowDispatcher()

    dispatcher.dispatch_workflow_sync(transport, itinerary=[FunctionSpec(name, queue="own")])
    if length == 126:
        dispatcher.dispatch_workflow_sync(transport, itinerary=[FunctionSpec(name)])
        return

    with pytest.raises(InvalidInput, match="256 bytes"):
        dispatcher.dispatch_workflow_sync(transport, itinerary=[FunctionSpec(name)])
    assert len(unfinished(transport)) == 1


def test_a_worker_says_which_activity_has_no_queue(transport_with: Callable[..., CeleryTransport]) -> None:
    """It would otherwise lose its connection when it declares the queue, again and again."""
    held = [activity(name="there")(lambda: 1), activity(name="n" * 128, queue="own")(lambda: 1)]
    routed = transport_with(**ROUTES["a route"](LONG))
    longer = transport_with(paigeant_prefix="p" * 128)

    with pytest.raises(ConfigurationError, match="the activity 'there' has no queue: the queue's name is 260 bytes"):
        start_checks(routed, embedded=True)

    assert [queue.name for queue in queues_of(longer, ["n" * 128])] == ["own"]
    assert len(held) == 2
