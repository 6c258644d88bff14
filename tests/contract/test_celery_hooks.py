"""The parts of Celery and Kombu that we wrap although they are not promised: a release that changes them fails here."""

from __future__ import annotations

import inspect
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task, canvas, chain, chord, group
from celery.app.defaults import _TO_NEW_KEY, SETTING_KEYS
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.apps.worker import Worker
from celery.worker import control
from celery.worker.consumer import Consumer
from celery.worker.consumer.consumer import Evloop
from celery.worker.request import Request
from kombu import Connection, Producer, Queue
from kombu import Consumer as Consumers
from kombu.message import Message
from kombu.transport import memory, pyamqp, redis, virtual

from paigeant_celery.core.names import Names
from paigeant_celery.worker.intake import Intake
from tests.support.servers import RedisDatabase

WRAPPED = (
    "loop", "add_task_queue", "create_task_handler", "on_unknown_message", "on_unknown_task", "on_invalid_task",
    "on_decode_error",
)  # fmt: skip


class NoQueues(set[str]):
    """The queues of ours that a worker reads: none."""

    def shared(self, queue: str) -> bool:
        return False

    def look(self) -> None:
        pass


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
    """They are looked up on the consumer whenever it connects, so that wrapped ones are used."""
    assert parameters(getattr(Consumer, name)) == expected


def test_a_queue_is_added_by_the_method_that_is_wrapped() -> None:
    """The remote command `add_consumer` ends there."""
    assert parameters(Consumer.add_task_queue)[:2] == ["self", "queue"]
    assert "state.consumer.add_task_queue," in inspect.getsource(control.add_consumer)


def test_a_queue_is_left_as_the_remote_command_leaves_it() -> None:
    """It is called from another thread, and the queue must not be taken again when the worker reconnects."""
    assert "consumer.call_soon(" in inspect.getsource(control.cancel_consumer)
    assert "consumer.cancel_task_queue, queue," in inspect.getsource(control.cancel_consumer)
    assert "queues.deselect(queue)" in inspect.getsource(Consumer.cancel_task_queue)


def test_the_consumer_connects_through_the_method_that_is_wrapped() -> None:
    """The class of the channels is replaced before the first of them is made."""
    source = inspect.getsource(Consumer.connection_for_read)
    assert "self.ensure_connected(" in source


def test_a_consumer_waits_for_messages_in_the_loop_that_is_wrapped() -> None:
    """What that loop raises decides whether Celery connects again or ends the worker."""
    assert "c.loop(*c.loop_args())" in inspect.getsource(Evloop.start)
    assert issubclass(ConnectionResetError, Connection("amqp://127.0.0.1:1").connection_errors)


def test_the_messages_in_memory_can_be_looked_at() -> None:
    """They are as they were sent, in one place for the whole process."""
    with Celery("shop", broker="memory://", set_as_current=False) as app:
        app.send_task("paigeant.writer", task_id="w.0", queue="looked-at")
        (message,) = memory.Channel.queues["looked-at"].queue
        memory.Channel.queues["looked-at"].queue.clear()

    assert (message["headers"]["id"], message["headers"]["task"]) == ("w.0", "paigeant.writer")


def test_an_app_tells_whether_its_worker_was_given_queues() -> None:
    """`-Q` and `-X` become these calls; without the first the attribute is None."""
    with Celery("shop", set_as_current=False) as app:
        queues = app.amqp.queues
        before = queues._consume_from
        queues.deselect(["celery"])
        excluded = set(queues.consume_from)
        queues.select(["mail"])

    assert (before, excluded) == (None, set())
    assert set(queues._consume_from) == set(queues.consume_from) == {"mail"}
    assert "options=kwargs" in inspect.getsource(Worker.on_before_init)


def test_celery_knows_the_present_names_of_its_old_settings() -> None:
    """The stand-alone app reads files in which both are mixed."""
    old = {"BROKER_URL": "broker_url", "CELERYD_CONCURRENCY": "worker_concurrency", "CELERY_QUEUES": "task_queues"}

    assert {name: _TO_NEW_KEY[name] for name in old} == old
    assert set(_TO_NEW_KEY.values()) <= SETTING_KEYS


def test_the_redis_channel_reads_items_in_the_method_that_is_wrapped() -> None:
    """The item is popped and passed on in one call; nobody else sees it in between."""
    source = inspect.getsource(redis.Channel._brpop_read)

    assert parameters(redis.Channel._brpop_read) == ["self", "options"]
    assert "self.client.parse_response(" in source
    assert "self.connection._deliver(" in source


def test_a_connection_makes_its_transports_in_the_method_that_is_wrapped() -> None:
    """One that fails over to another broker makes a new transport, which must read as carefully."""
    assert "self._transport = self.create_transport()" in inspect.getsource(Connection.transport.fget)


def test_a_redis_channel_asks_for_its_address_in_the_method_that_is_wrapped() -> None:
    """A channel whose connection was lost has none; Kombu also treats what is raised instead as a lost connection."""
    source = inspect.getsource(redis.Channel._connparams)

    assert parameters(redis.Channel._connparams) == ["self", "asynchronous"]
    assert "conninfo = self.connection.client" in source
    assert issubclass(ConnectionResetError, Connection("redis://127.0.0.1:1").connection_errors)


def test_a_redis_channel_makes_a_client_for_each_command_in_the_method_that_is_wrapped(redis_db: RedisDatabase) -> None:
    """Once Kombu keeps its client itself, ours need not do it any more."""
    assert parameters(redis.Channel._create_client) == ["self", "asynchronous"]
    with Connection(redis_db.url) as connection:
        channel = connection.default_channel
        with channel.conn_or_acquire() as one, channel.conn_or_acquire() as other:
            assert one is not other
            assert one.connection_pool is other.connection_pool is channel.pool


def test_a_transport_makes_its_channels_of_the_class_it_names() -> None:
    """Replacing it on one connection changes no other connection of the process."""
    transport = Connection("redis://127.0.0.1:1").transport

    assert "self.Channel(" in inspect.getsource(virtual.Transport.create_channel)
    assert (transport.driver_type, transport.Channel) == ("redis", redis.Channel)


def test_a_plain_channel_falls_over_the_connection_that_it_lost(redis_db: RedisDatabase) -> None:
    """It ends a plain worker when the server restarts; once this test fails, the intake no longer has to fix it."""
    channel, _ = holding_a_message(Connection(redis_db.url), f"{redis_db.prefix}-held")

    with pytest.raises(AttributeError, match="hostname"):
        channel.close()


@pytest.mark.parametrize("forgotten", ["by its transport", "by the channel"])
def test_behind_the_intake_a_lost_connection_is_one_that_celery_knows(redis_db: RedisDatabase, forgotten: str) -> None:
    """Such errors are logged when a message is acknowledged, and the worker goes on."""
    connection = Connection(redis_db.url)
    consumer = SimpleNamespace(**dict.fromkeys(WRAPPED), ensure_connected=lambda connection: connection)
    Intake(
        consumer, names=Names(), service=lambda: pytest.fail("nothing is refused"), ours=NoQueues(), max_size=4096
    ).guard()
    channel, message = holding_a_message(consumer.ensure_connected(connection), f"{redis_db.prefix}-held")
    if forgotten == "by the channel":
        channel.connection = None
    channel._disconnect_pools()
    channel.qos._on_collect.cancel()  # nothing is given back when the tests end

    with pytest.raises(ConnectionResetError):
        message.ack()
    message.ack_log_error(logging.getLogger(__name__), connection.connection_errors)


def holding_a_message(connection: Connection, queue: str) -> tuple[Any, Any]:
    """Return a channel and an unacknowledged message of a connection that forgot its address."""
    channel = connection.default_channel
    Producer(channel).publish("x", exchange="", routing_key=queue, declare=[Queue(queue)])
    message = channel.basic_get(queue)
    connection.transport.client = None  # as when Celery closes a connection while the server is unavailable
    return channel, message


def test_a_message_with_errors_is_not_decompressed_and_goes_to_the_handler_of_decoding_errors() -> None:
    """A body that is too large is refused by an error that is set before Kombu looks at it."""
    error = ValueError("too large")
    made = type("Made", (Message,), {"errors": [(ValueError, error, None)]})
    message = made(body=b"no gzip", headers={"compression": "gzip"}, channel=None)
    handled: list[object] = []

    def handle(message: object, error: Exception) -> None:
        handled.extend((message, error))

    message._reraise_error(handle)

    assert message.body == b"no gzip"
    assert handled == [message, error]
    assert "message._reraise_error(self.on_decode_error)" in inspect.getsource(Consumers._receive_callback)


@pytest.mark.parametrize(
    ("module", "makes"),
    [
        (virtual.base, [virtual.Channel.basic_consume, virtual.Channel.message_to_python]),
        (pyamqp, [pyamqp.Channel.message_to_python]),
    ],
)
def test_channels_make_messages_of_the_class_they_name_which_hands_on_to_kombus_own(module: Any, makes: Any) -> None:
    """The class that measures bodies sits between the two."""
    for make in makes:
        assert "self.Message(" in inspect.getsource(make)
    source = inspect.getsource(module.Message.__init__)
    assert module.Message.__bases__ == (Message,)
    for name in ("super().__init__(", "body=", "headers=", "delivery_info=", "**kwargs"):
        assert name in source


def test_an_amqp_connection_makes_its_channels_of_the_class_it_names() -> None:
    """Replacing it on one connection changes no other connection of the process."""
    assert "self.Channel(" in inspect.getsource(pyamqp.Connection.channel)
    assert "self.Connection(" in inspect.getsource(pyamqp.Transport.establish_connection)
    assert pyamqp.Connection.Channel is pyamqp.Channel


def test_a_request_is_terminated_and_described_by_the_methods_that_are_replaced() -> None:
    """Flower's Terminate ends up in the first, `inspect active` in the second."""
    assert parameters(Request.terminate) == ["self", "pool", "signal"]
    assert parameters(Request.info) == ["self", "safe"]


def test_kombu_takes_the_oldest_redis_that_we_allow() -> None:
    """It refuses an older one when it connects, long after pip was content with the pair."""
    refused = re.findall(r"redis\.VERSION < \((\d+), (\d+)", inspect.getsource(redis))
    dependencies = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    ours = re.search(r'"redis>=(\d+)\.(\d+)"', dependencies)

    assert ours is not None
    assert refused
    assert all((int(major), int(minor)) <= (int(ours[1]), int(ours[2])) for major, minor in refused)


def test_a_consumer_connects_again_after_an_error_of_its_blueprint() -> None:
    """A broker's refusal is raised there as a lost connection."""
    source = inspect.getsource(Consumer.start)

    assert source.count("blueprint.start(self)") == 1
    assert "self.connection_errors" in source
    assert "blueprint = self.blueprint" in source


def test_a_task_that_is_called_for_a_step_has_the_stacks_that_are_used() -> None:
    """Celery's tracer pushes the request there, so `self.request` and `current_task` are those of the hop."""
    source = inspect.getsource(build_tracer)

    for line in ("push_request = request_stack.push", "push_task = _task_stack.push", "push_request(task_request)"):
        assert line in source
    assert Context(id="w.0", retries=2, args=(1,)).id == "w.0"


def test_an_eager_retry_says_when_and_sends_nothing() -> None:
    """And one that is not left to the task raises from a frame that knows the signature."""
    source = inspect.getsource(Task.retry)
    eager, sent = source.index("if is_eager:"), source.index("S.apply_async()")

    assert source.index("request.called_directly") < source.index("S = self.signature_from_request(") < eager < sent
    assert "Retry(exc=exc, when=eta or countdown, is_eager=is_eager, sig=S)" in source
    assert source.index("if max_retries is not None and retries > max_retries:") < eager


def test_the_classes_of_signatures_have_the_names_that_they_are_known_by() -> None:
    """A process that dispatches looks at nothing else: this package's core imports no Celery."""
    forms = [chain, group, chord, canvas.xmap, canvas.xstarmap, canvas.chunks]

    assert (canvas.Signature.__name__, canvas.Signature.__module__) == ("Signature", "celery.canvas")
    assert all(issubclass(form, canvas.Signature) for form in forms)
    assert {"task", "args", "kwargs", "options", "subtask_type", "immutable"} <= set(canvas.signature("shop.charge"))
