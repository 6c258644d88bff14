"""The intake: what is ours and cannot be digested is kept, what is not ours is none of our business."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kombu.message import Message

from paigeant_celery.errors import Unreachable
from paigeant_celery.guard import Arrival
from paigeant_celery.intake import Intake
from paigeant_celery.names import Names


class Line:
    """A consumer that notes what reaches Celery, with an intake before it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("paigeant_celery.intake.STORE_WAIT", 0)
        self.passed: list[object] = []
        self.discarded: list[Arrival] = []
        self.away = False
        self.consumer = SimpleNamespace(
            create_task_handler=lambda: self.passed.append,
            on_unknown_message=lambda body, message: self.passed.append(message),
            on_unknown_task=lambda body, message, error: self.passed.append(message),
            on_invalid_task=lambda body, message, error: self.passed.append(message),
            on_decode_error=lambda message, error: self.passed.append(message),
            ensure_connected=lambda connection: connection,
            connection_errors=(OSError,),
            strategies={"shop.send_mail": object()},
        )
        Intake(self.consumer, names=Names(), service=lambda: self, ours={"ours"}).guard()  # type: ignore[arg-type,return-value]
        self.handle = self.consumer.create_task_handler()

    def discard(self, arrival: Arrival) -> None:
        if self.away:
            raise Unreachable("store", "redis://host", "ConnectionError")
        self.discarded.append(arrival)


class Sent(Message):
    """A message that notes how it was answered."""

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


@pytest.mark.parametrize(
    "fields", [{}, {"body": "null"}, {"headers": {}}, {"content_type": "application/x-python-serialize"}]
)
def test_a_message_of_another_queue_is_left_to_celery(line: Line, fields: dict[str, Any]) -> None:
    """A worker serves other applications, too, and judges nothing of theirs."""
    message = Sent("theirs", **{"headers": {"task": "shop.print", "id": "1"}, **fields})

    line.handle(message)
    line.consumer.on_unknown_message(None, message)
    line.consumer.on_unknown_task(None, message, KeyError())
    line.consumer.on_invalid_task(None, message, ValueError())
    line.consumer.on_decode_error(message, ValueError())

    assert line.passed == [message] * 5
    assert line.discarded == []


def test_a_sound_message_passes(line: Line) -> None:
    """What a dispatcher sends, and a task of the host that is routed to our queue."""
    messages = [Sent("ours"), Sent("ours", headers={"task": "shop.send_mail", "id": "1"})]

    for message in messages:
        line.handle(message)

    assert line.passed == messages
    assert line.discarded == []


def test_what_is_refused_leaves_the_queue_with_a_letter(line: Line) -> None:
    """It would come back for ever, or end the worker."""
    message = Sent("ours", body="null")

    line.handle(message)

    assert message.answers == [False]
    assert line.passed == []
    assert [(arrival.hop_id, arrival.queue, str(arrival.fault)) for arrival in line.discarded] == [
        ("w.0", "ours", "malformed at `body`: is no list of arguments, named arguments and embed")
    ]


def test_what_is_refused_while_the_store_is_away_goes_back(line: Line) -> None:
    """Nothing is dropped that nobody has noted."""
    message = Sent("ours", body="null")
    line.away = True

    line.handle(message)

    assert message.answers == [True]


def test_an_error_of_celerys_own_handling_is_a_letter(line: Line) -> None:
    """What the checks do not foresee ends no worker either."""

    def broken(_: object) -> None:
        raise KeyError("id")

    line.consumer.create_task_handler = lambda: broken
    Intake(line.consumer, names=Names(), service=lambda: line, ours={"ours"}).guard()  # type: ignore[arg-type,return-value]
    message = Sent("ours")

    line.consumer.create_task_handler()(message)

    assert [str(arrival.fault) for arrival in line.discarded] == ["malformed: KeyError"]
    assert message.answers == [False]
