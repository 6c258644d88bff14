"""The parts of Celery and Kombu that are wrapped and not promised: a release that changes them fails here first."""

from __future__ import annotations

import inspect

import pytest
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu import Connection
from kombu.transport import redis, virtual


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("create_task_handler", ["self", "promise"]),
        ("on_unknown_message", ["self", "body", "message"]),
        ("on_unknown_task", ["self", "body", "message", "exc"]),
        ("on_invalid_task", ["self", "body", "message", "exc"]),
        ("on_decode_error", ["self", "message", "exc"]),
        ("ensure_connected", ["self", "conn"]),
    ],
)
def test_the_consumer_has_the_methods_that_the_intake_wraps(name: str, expected: list[str]) -> None:
    """They are looked up on the consumer whenever it connects, so that a wrapped one is used."""
    assert parameters(getattr(Consumer, name)) == expected


def test_the_consumer_connects_through_the_method_that_is_wrapped() -> None:
    """The class of the channels is replaced before the first of them is made."""
    source = inspect.getsource(Consumer.connection_for_read)
    assert "self.ensure_connected(" in source


def test_the_redis_channel_reads_items_in_the_method_that_is_wrapped() -> None:
    """The item is popped and handed on in one call; between the two, nobody else sees it."""
    source = inspect.getsource(redis.Channel._brpop_read)

    assert parameters(redis.Channel._brpop_read) == ["self", "options"]
    assert "self.client.parse_response(" in source
    assert "self.connection._deliver(" in source


def test_a_transport_makes_its_channels_of_the_class_it_names() -> None:
    """Replacing it on one connection changes no other connection of the process."""
    transport = Connection("redis://127.0.0.1:1").transport

    assert "self.Channel(" in inspect.getsource(virtual.Transport.create_channel)
    assert (transport.driver_type, transport.Channel) == ("redis", redis.Channel)


def test_a_request_is_terminated_and_described_by_the_methods_that_are_replaced() -> None:
    """Flower's Terminate ends up in the one, `inspect active` in the other."""
    assert parameters(Request.terminate) == ["self", "pool", "signal"]
    assert parameters(Request.info) == ["self", "safe"]
