"""The intake: messages of ours that cannot be handled are kept; other messages are left alone."""

from __future__ import annotations

import base64
import json
import zlib
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from kombu.message import Message

from paigeant_celery.core.errors import OutdatedVersion, PaigeantError, Unreachable
from paigeant_celery.core.names import Names
from paigeant_celery.hop.effects import Drop, Refused
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.worker.intake import Intake
from tests.support.damage import damaged, drawn

MAX_SIZE = 4096  # bytes of an envelope; a body may have three times as much plus 64 KiB
MAX_BODY = 3 * MAX_SIZE + 64 * 1024


class ChannelClosed(Exception):
    """What AMQP says when it closes a channel."""

    def __init__(self, reply_code: int, text: str) -> None:
        super().__init__(text)
        self.reply_code = reply_code


class Ours(set[str]):
    """Queues of ours, of which one is the host's as well."""

    def shared(self, queue: str) -> bool:
        return queue == "shared"

    def look(self) -> None:
        pass


class Line:
    """A consumer that records what reaches Celery, with an intake in front of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("paigeant_celery.worker.intake.STORE_WAIT", 0)
        self.passed: list[object] = []
        self.discarded: list[Arrival] = []
        self.away: PaigeantError | None = None
        self.raises: list[Exception] = []
        self.ours = Ours({"ours", "shared"})
        self.answer: Refused | Drop = Refused(reason="unknown_agent")
        self.events: list[str] = []
        self.consumer = SimpleNamespace(
            create_task_handler=lambda: self.passed.append,
            on_unknown_message=lambda body, message: self.passed.append(message),
            on_unknown_task=lambda body, message, error: self.passed.append(message),
            on_invalid_task=lambda body, message, error: self.passed.append(message),
            on_decode_error=lambda message, error: self.passed.append(message),
            ensure_connected=lambda connection: connection,
            add_task_queue=lambda queue: None,
            loop=self._loop,
            connection_errors=(OSError,),
            channel_errors=(ChannelClosed,),
            event_dispatcher=SimpleNamespace(send=lambda event, **fields: self.events.append(event)),
            strategies={"shop.send_mail": object()},
            app=SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from={"ours": None}))),
        )
        self.intake = Intake(
            self.consumer,
            names=Names(),
            service=lambda: self,
            ours=self.ours,
            max_size=MAX_SIZE,  # type: ignore[arg-type,return-value]
        )
        self.intake.guard()
        self.handle = self.consumer.create_task_handler()

    def _loop(self, *_: object) -> str:
        if self.raises:
            raise self.raises.pop()
        return "ended"

    def discard(self, arrival: Arrival) -> None:
        if self.away is not None:
            raise self.away
        self.discarded.append(arrival)

    def refuse_unknown(self, arrival: Arrival) -> Refused | Drop:
        return self.answer

    refuse_unread = discard


class Sent(Message):
    """A message that records how it was answered."""

    def __init__(self, queue: str, **fields: Any) -> None:
        given: dict[str, Any] = {
            "body": '[["x"], {}, {}]',
            "headers": {"task": "paigeant.draft", "id": "w.0"},
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "accept": {"application/json"},
            **fields,
        }
        super().__init__(delivery_info={"routing_key": queue}, **given)
        self.answers: list[bool] = []

    def reject_log_error(self, logger: object, errors: object, requeue: bool = False) -> None:
        self.answers.append(requeue)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(monkeypatch)


@pytest.mark.parametrize("fields", [{}, {"body": "null"}, {"headers": {}}, {"content_type": "application/x-odd"}])
def test_a_message_of_another_queue_is_left_to_celery(line: Line, fields: dict[str, Any]) -> None:
    """A worker also serves other applications and does not judge their messages."""
    message = Sent("theirs", **{"headers": {"task": "shop.print", "id": "1"}, **fields})

    line.handle(message)
    line.consumer.on_unknown_message(None, message)
    line.consumer.on_unknown_task(None, message, KeyError())
    line.consumer.on_invalid_task(None, message, ValueError())
    line.consumer.on_decode_error(message, ValueError())

    assert line.passed == [message] * 5
    assert line.discarded == []


def test_a_sound_message_passes(line: Line) -> None:
    """This holds for what a dispatcher sends, and for a task of the host that is routed to our queue."""
    later = {"eta": "2100-01-01T00:00:00+00:00", "expires": "2100-01-01T00:00:00+00:00"}
    messages = [
        Sent("ours"),
        Sent("ours", headers={"task": "shop.send_mail", "id": "1"}),
        Sent("theirs", headers={"task": "paigeant.dispatch", "id": "1", **later}),  # a document that is tried again
    ]

    for message in messages:
        line.handle(message)

    assert line.passed == messages
    assert line.discarded == []


@pytest.mark.parametrize(
    "fields",
    [
        {"body": '{"task": "shop.send_mail", "id": "1", "args": []}', "headers": {}},
        {"body": b"text", "content_type": "application/x-odd", "accept": set()},
        {"body": "x" * (MAX_BODY + 1)},
    ],
    ids=["of the first protocol", "of another content type", "large"],
)
@pytest.mark.parametrize("queue", ["ours", "shared", "theirs"])
def test_a_task_of_the_host_is_left_to_celery_on_every_queue(line: Line, fields: dict[str, Any], queue: str) -> None:
    """An agent was routed to the host's queue; its mails are sent as before, and its errors are told as before."""
    message = Sent(queue, **{"headers": {"task": "shop.send_mail", "id": "1"}, **fields})

    line.handle(message)
    line.consumer.on_invalid_task(None, message, ValueError())
    line.consumer.on_decode_error(message, ValueError())

    assert line.passed == [message] * 3
    assert line.discarded == []


@pytest.mark.parametrize(("queue", "reasons"), [("ours", ["unknown_task"]), ("shared", []), ("theirs", [])])
def test_an_unknown_task_is_the_hosts_on_a_queue_of_the_host(line: Line, queue: str, reasons: list[str]) -> None:
    """Celery tells whoever waits for it that nobody knows it; a letter would let them wait."""
    message = Sent(queue, headers={"task": "shop.new", "id": "1"})

    line.handle(message)

    assert [arrival.fault.reason for arrival in line.discarded if arrival.fault] == reasons
    assert line.passed == ([] if reasons else [message])


@pytest.mark.parametrize(("queue", "kept"), [("ours", True), ("shared", True), ("theirs", False)])
@pytest.mark.parametrize("fields", [{"headers": None}, {"headers": {}, "body": "null"}])
def test_what_names_no_task_is_kept_on_every_queue_of_ours(
    line: Line, fields: dict[str, Any], queue: str, kept: bool
) -> None:
    """Nobody can say whose it was, and the worker runs our steps, too."""
    message = Sent(queue, **fields)

    line.handle(message)

    assert [arrival.fault.reason for arrival in line.discarded if arrival.fault] == ["malformed"] * kept
    assert line.passed == ([] if kept else [message])


@pytest.mark.parametrize("queue", ["ours", "shared", "theirs"])
def test_what_names_a_task_of_ours_is_judged_on_every_queue(line: Line, queue: str) -> None:
    """A step may name any queue, also one that this worker does not know as ours."""
    bad, good = Sent(queue, body="null"), Sent(queue)

    line.handle(bad)
    line.handle(good)

    assert [(arrival.queue, arrival.fault.reason) for arrival in line.discarded if arrival.fault] == [
        (queue, "malformed")
    ]
    assert line.passed == [good]


def test_a_message_that_celery_cannot_handle_ends_no_worker_that_runs_steps(line: Line) -> None:
    """Celery judges what the host shares with us; what it falls over is kept, because our steps would end with it."""

    def broken(_: object) -> None:
        raise KeyError("id")

    line.consumer.create_task_handler = lambda: broken
    Intake(line.consumer, names=Names(), service=lambda: line, ours=line.ours, max_size=MAX_SIZE).guard()  # type: ignore[arg-type,return-value]
    handle, messages = line.consumer.create_task_handler(), [Sent("shared", headers={"task": "shop.new"})]

    handle(messages[0])

    assert [arrival.fault.reason for arrival in line.discarded if arrival.fault] == ["malformed"]
    with pytest.raises(KeyError):
        handle(Sent("theirs", headers={"task": "shop.new"}))


def test_a_queue_that_is_added_later_is_looked_at_first(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """`celery control add_consumer` and executors add queues to a worker that runs."""
    looked: list[bool] = []
    monkeypatch.setattr(Ours, "look", lambda ours: looked.append(True))

    line.consumer.add_task_queue("paigeant.late")

    assert looked == [True]


def test_a_queue_is_known_by_its_consumer_where_its_routing_key_is_another(line: Line) -> None:
    """A host binds queues of a topic exchange to keys of its own."""
    line.consumer.task_consumer = SimpleNamespace(_active_tags={"ours": "tag-1", "theirs": "tag-2"})
    mine, other = (Sent("work.agents", headers={}, body="null") for _ in range(2))
    mine.delivery_info["consumer_tag"], other.delivery_info["consumer_tag"] = "tag-1", "tag-2"

    line.handle(mine)
    line.handle(other)

    assert [arrival.queue for arrival in line.discarded] == ["ours"]
    assert line.passed == [other]


@pytest.mark.parametrize("name", ["eta", "expires"])
@pytest.mark.parametrize(("value", "reason"), [("2001-01-01T00:00:00+00:00", "bad_envelope"), ("soon", "invalid_task")])
def test_a_message_with_a_time_of_its_own_is_refused_before_celery_sees_it(
    line: Line, name: str, value: str, reason: str
) -> None:
    """Celery would hold a slot until an `eta`, and revoke whatever has the id after `expires`."""
    message = Sent("ours", headers={"task": "paigeant.draft", "id": "w.0", name: value})

    line.handle(message)

    assert line.passed == []
    assert [arrival.fault.reason for arrival in line.discarded if arrival.fault] == [reason]


AROUND = {"task": "paigeant.draft", "id": "w.0", "timelimit": [60.0, 30], "retries": 0, "root_id": "w.0", "stamps": {}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timelimit", [60.0, ["text"]]), ("timelimit", [60.0]), ("timelimit", "60"), ("timelimit", [-1, 5]),
        ("timelimit", [float("nan"), 5]), ("timelimit", [10**400, 5]), ("timelimit", [True, 5]),
        ("retries", "text"), ("retries", True), ("root_id", ["text"]), ("stamps", "text"), ("ignore_result", 1),
    ],
)  # fmt: skip
def test_a_header_of_celery_with_a_wrong_type_is_refused_before_a_pool_has_it(
    line: Line, name: str, value: object
) -> None:
    """The worker's timer adds up time limits, and whatever that raises ends the worker."""
    good, bad = Sent("ours", headers=AROUND), Sent("ours", headers={**AROUND, name: value})

    for message in (good, bad):
        line.handle(message)

    assert line.passed == [good]
    assert [str(arrival.fault).partition(":")[0] for arrival in line.discarded] == [f"malformed at `headers.{name}`"]


@drawn(100)
@given(damaged({"headers": AROUND, "body": [["x"], {}, {"chain": None}]}), st.sampled_from(["ours", "shared"]))
def test_a_damaged_message_either_reaches_celery_whole_or_is_kept(tree: object, queue: str) -> None:
    """Whatever part is missing or of another type: nothing is raised, and nothing is lost."""
    with pytest.MonkeyPatch.context() as patch:
        line = Line(patch)
        found = tree if isinstance(tree, dict) else {}
        message = Sent(queue, body=json.dumps(found.get("body")))
        message.headers = found.get("headers")

        line.handle(message)

        assert len(line.passed) + len(line.discarded) == 1


def test_an_item_whose_tag_redis_could_not_write_is_no_message(line: Line) -> None:
    """Kombu notes each message under its tag before anybody sees it, and Redis refuses a tag of such a type."""
    made = {"body": "e30=", "headers": AROUND, "properties": {"delivery_info": {}, "body_encoding": "base64"}}
    connection = line.consumer.ensure_connected(Connection("redis://127.0.0.1:1"))
    message = connection.transport.Channel.Message
    channel = SimpleNamespace(decode_body=lambda body, encoding: base64.b64decode(body))

    for tag in (None, True, [], {}):
        made["properties"]["delivery_tag"] = tag  # type: ignore[index]
        with pytest.raises(TypeError, match="delivery tag"):
            message(made, channel=channel)
    made["properties"]["delivery_tag"] = "t"  # type: ignore[index]

    assert message(made, channel=channel).delivery_tag == "t"


@pytest.mark.parametrize(
    ("answer", "events"),
    [(Refused(reason="unknown_agent"), ["task-failed"]), (Drop(reason="running"), []), (Drop(reason="altered"), [])],
)
def test_only_a_hop_that_cannot_be_run_is_shown_as_failed(
    line: Line, answer: Refused | Drop, events: list[str]
) -> None:
    """A copy at a worker without the agent changes nothing on screen if its hop goes on elsewhere."""
    line.answer = answer
    message = Sent("ours", headers={"task": "paigeant.late", "id": "w.0"})

    line.consumer.on_unknown_task(None, message, KeyError())

    assert line.events == events
    assert message.answers == [False]


def test_what_is_refused_leaves_the_queue_with_a_letter(line: Line) -> None:
    """Otherwise it would come back forever, or end the worker."""
    message = Sent("ours", body="null")

    line.handle(message)

    assert message.answers == [False]
    assert line.passed == []
    assert [(arrival.hop_id, arrival.queue, str(arrival.fault)) for arrival in line.discarded] == [
        ("w.0", "ours", "malformed at `body`: is not a list of arguments, named arguments and embed")
    ]


@pytest.mark.parametrize(
    "why", [Unreachable("store", "redis://host", "ConnectionError"), OutdatedVersion("redis://host", "p", 2, 1)]
)
def test_what_is_refused_while_the_store_is_away_or_newer_goes_back(line: Line, why: PaigeantError) -> None:
    """Nothing is dropped that nobody has noted."""
    message = Sent("ours", body="null")
    line.away = why

    line.handle(message)

    assert message.answers == [True]


def test_an_error_of_celerys_own_handling_is_a_letter(line: Line) -> None:
    """What the checks do not foresee does not end a worker either."""

    def broken(_: object) -> None:
        raise KeyError("id")

    line.consumer.create_task_handler = lambda: broken
    Intake(line.consumer, names=Names(), service=lambda: line, ours=line.ours, max_size=MAX_SIZE).guard()  # type: ignore[arg-type,return-value]
    message = Sent("ours")

    line.consumer.create_task_handler()(message)

    assert [str(arrival.fault) for arrival in line.discarded] == ["malformed: KeyError"]
    assert message.answers == [False]


def body_of(size: int) -> bytes:
    """A body of so many bytes."""
    frame = b'["%s",{},{}]'
    return frame % (b"text " * size)[: size - len(frame) + 2]


@pytest.mark.parametrize(("size", "refused"), [(MAX_BODY, []), (MAX_BODY + 1, ["too_large at `body`"])])
def test_a_body_that_no_envelope_fills_is_refused_before_it_is_read(line: Line, size: int, refused: list[str]) -> None:
    """Reading it would cost a multiple of its size; the longest envelope in the widest script still passes."""
    message = Sent("ours", body=body_of(size), headers={"task": "paigeant.draft", "id": "w.0"})
    message._decode = lambda: [[], {}, {}] if not refused else pytest.fail("it was read")  # type: ignore[method-assign]

    line.handle(message)

    assert [str(arrival.fault).partition(":")[0] for arrival in line.discarded] == refused
    assert line.passed == ([] if refused else [message])


class Wire:
    """A message as each kind of transport makes it from what the broker delivers, with the given classes."""

    def __init__(self, line: Line) -> None:
        redis, amqp = Connection("redis://127.0.0.1:1"), Connection("amqp://127.0.0.1:1")
        for connection in (redis, amqp):
            line.consumer.ensure_connected(connection)
        self._virtual = redis.transport.Channel.Message
        self._amqp = amqp.transport.Connection.Channel.Message

    def virtual(self, body: bytes, headers: dict[str, Any], queue: str) -> Any:
        channel = SimpleNamespace(decode_body=lambda body, encoding: base64.b64decode(body))
        info = {"routing_key": queue}
        properties = {"delivery_tag": "t", "body_encoding": "base64", "delivery_info": info}
        return self._virtual(
            {"body": base64.b64encode(body).decode(), "headers": headers, "properties": properties}, channel=channel
        )

    def amqp(self, body: bytes, headers: dict[str, Any], queue: str) -> Any:
        info = {"routing_key": queue}
        raw = SimpleNamespace(
            body=body, properties={"application_headers": headers}, delivery_tag=1, delivery_info=info
        )
        return self._amqp(raw)


@pytest.mark.parametrize("kind", ["virtual", "amqp"])
@pytest.mark.parametrize(
    ("queue", "task", "compression", "size", "fault"),
    [
        ("ours", "paigeant.draft", "application/x-gzip", MAX_BODY, None),
        ("ours", "paigeant.draft", "application/x-gzip", MAX_BODY + 1, "too_large"),
        ("ours", None, "gzip", MAX_BODY + 1, "too_large"),
        ("ours", "paigeant.draft", "application/x-odd", 100, "content_disallowed"),
        ("ours", "shop.send_mail", "application/x-gzip", MAX_BODY + 1, None),
        ("theirs", "paigeant.draft", "application/x-gzip", MAX_BODY + 1, "too_large"),
        ("theirs", "shop.new", "application/x-gzip", MAX_BODY + 1, None),
        ("theirs", None, "application/x-gzip", MAX_BODY + 1, None),
    ],
    ids=[
        "the longest",
        "too long",
        "no task",
        "another compression",
        "a task of the host",
        "another queue",
        "another task on another queue",
        "no task on another queue",
    ],
)
def test_a_compressed_body_is_measured_before_it_is_decompressed(
    line: Line, kind: str, queue: str, task: str | None, compression: str, size: int, fault: str | None
) -> None:
    """A message is small beside what it unpacks to; messages that are not ours are unpacked as usual."""
    packed = zlib.compress(body_of(size))

    message = getattr(Wire(line), kind)(packed, {"compression": compression, "task": task}, queue)

    assert [error.reason for _, error, _ in message.errors] == ([] if fault is None else [fault])
    assert len(message.body) == (size if fault is None else len(packed))


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_another_broker_of_several_is_read_as_carefully(line: Line, scheme: str) -> None:
    """A connection that fails over makes new channels and messages."""
    brokers = [f"{scheme}://127.0.0.1:{port}" for port in (1, 2)]
    connection = Connection(";".join(brokers))
    line.consumer.ensure_connected(connection)
    first = connection.transport

    connection.switch(brokers[1])

    assert connection.transport is not first
    made = connection.transport if scheme == "redis" else connection.transport.Connection
    message = made.Channel.Message
    assert "Measured" in [base.__name__ for base in message.__mro__]
    if scheme == "redis":
        assert "Reading" in [base.__name__ for base in made.Channel.__mro__]


def test_what_cannot_be_decompressed_is_left_to_kombu_to_say(line: Line) -> None:
    """It becomes a dead letter like any other body that cannot be read."""
    message = Wire(line).virtual(b"no gzip", {"compression": "application/x-gzip"}, "ours")

    assert [type(error) for _, error, _ in message.errors] == [zlib.error]


def test_a_message_that_is_too_large_is_refused_with_that_reason(line: Line) -> None:
    """Kombu hands a message with errors to the handler of what cannot be decoded."""
    message = Sent("ours", headers={"task": "paigeant.draft", "id": "w.0"})
    fault = line.intake.unpacking_fault(
        zlib.compress(body_of(MAX_BODY + 1)), {"compression": "gzip"}, {"routing_key": "ours"}
    )
    assert fault is not None

    line.consumer.on_decode_error(message, fault)

    assert [(arrival.hop_id, arrival.fault) for arrival in line.discarded] == [("w.0", fault)]
    assert message.answers == [False]


TIMED_OUT = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms."


def test_a_channel_that_was_closed_under_a_long_step_is_a_lost_connection(line: Line) -> None:
    """Celery reconnects after a lost connection, and ends its worker for anything else."""
    line.raises.append(ChannelClosed(406, TIMED_OUT))

    with pytest.raises(ConnectionResetError, match="timed out"):
        line.consumer.loop("consumer")

    assert line.consumer.loop("consumer") == "ended"


@pytest.mark.parametrize(
    ("code", "text", "ours"),
    [(406, "PRECONDITION_FAILED - unknown delivery tag 7", True), (404, TIMED_OUT, True), (406, TIMED_OUT, False)],
)
def test_a_channel_that_was_closed_for_another_reason_is_left_to_celery(
    line: Line, code: int, text: str, ours: bool
) -> None:
    """It would recur, and a worker that serves none of our steps is not ours to judge."""
    line.raises.append(ChannelClosed(code, text))
    if not ours:
        line.consumer.app.amqp.queues.consume_from.clear()

    with pytest.raises(ChannelClosed):
        line.consumer.loop("consumer")
