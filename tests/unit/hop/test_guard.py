"""The guard: a delivery whose parts contradict each other is refused, and no log repeats its content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.message import PaigeantMessage, encode, sha256
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import ActivitySpec
from paigeant_celery.hop.guard import Arrival, check_address, is_misaddressed, read, refusal_of

MakeMessage = Callable[..., PaigeantMessage]


@pytest.fixture
def make_arrival(make_message: MakeMessage) -> Callable[..., Arrival]:
    """Make deliveries of a writer's step that are right except for the given fields."""

    def make(**fields: Any) -> Arrival:
        envelope = encode(make_message(ActivitySpec("writer", "write"), ActivitySpec("critic", "judge")))
        return Arrival(**{"hop_id": "w-1.0", "activity": "writer", "envelope": envelope, **fields})

    return make


def admit(arrival: Arrival, settings: Settings) -> PaigeantMessage:
    """Take a delivery through the guard."""
    message = read(arrival, settings)
    check_address(arrival, message)
    return message


def test_a_message_that_says_what_its_headers_say_is_admitted(
    make_arrival: Callable[..., Arrival], make_message: MakeMessage
) -> None:
    """What was sent is what is run."""
    sent = make_message(ActivitySpec("writer", "write"), ActivitySpec("critic", "judge"))

    assert admit(make_arrival(), Settings()) == sent


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"hop_id": "w-1.1"}, MessageError("inconsistent_slip", "message_id", "sent as task 'w-1.1'")),
        ({"hop_id": "w-2.0"}, MessageError("inconsistent_slip", "message_id", "sent as task 'w-2.0'")),
        ({"hop_id": "x" * 9999}, MessageError("inconsistent_slip", "message_id", f"sent as task '{'x' * 160}'")),
        (
            {"activity": "critic"},
            MessageError("inconsistent_slip", "slip.itinerary[0]", "sent to the activity 'critic'"),
        ),
        ({"envelope": 7}, MessageError("bad_envelope", "", "the envelope is a int, not a string")),
    ],
    ids=["other-place", "other-workflow", "long-id", "other-activity", "no-text"],
)
def test_a_message_that_contradicts_its_headers_is_refused(
    make_arrival: Callable[..., Arrival], fields: dict[str, Any], error: MessageError
) -> None:
    """A copied or misrouted envelope must not run as another hop, or on another agent."""
    with pytest.raises(MessageError) as caught:
        admit(make_arrival(**fields), Settings())

    assert caught.value.args == error.args


def test_a_fault_of_the_receiver_comes_before_anything_is_read(make_arrival: Callable[..., Arrival]) -> None:
    """Mistakes in the message around the envelope are reported first, whatever the envelope holds."""
    fault = MessageError("bad_envelope", "embed", "carries chain")

    for envelope in ({}, "{", {"envelope": object()}):
        with pytest.raises(MessageError) as caught:
            admit(make_arrival(envelope=envelope, fault=fault), Settings())
        assert caught.value is fault


@pytest.mark.parametrize(
    ("fields", "misaddressed"),
    [
        ({}, False),
        ({"activity": "critic"}, True),
        ({"fault": MessageError("bad_envelope", "embed", "carries chain")}, True),
    ],
)
def test_what_is_wrong_around_an_envelope_is_told_from_what_is_wrong_in_it(
    make_arrival: Callable[..., Arrival], make_message: MakeMessage, fields: dict[str, Any], misaddressed: bool
) -> None:
    """The same envelope may also be on its way correctly."""
    sent = make_message(ActivitySpec("writer", "write"))

    assert is_misaddressed(make_arrival(**fields), sent) is misaddressed


@pytest.mark.parametrize(
    ("settings", "reason"),
    [(Settings(max_steps=1), "too_many_steps"), (Settings(max_message_size=4096), "too_large")],
    ids=["steps", "size"],
)
def test_the_limits_of_this_deployment_hold(
    make_arrival: Callable[..., Arrival], settings: Settings, reason: str
) -> None:
    """Whoever sent it, a worker runs no more than its own operator allows."""
    padding = " " * 4096 if reason == "too_large" else ""
    arrival = make_arrival()

    with pytest.raises(MessageError) as caught:
        admit(make_arrival(envelope=f"{arrival.envelope}{padding}"), settings)

    assert caught.value.reason == reason


def test_each_delivery_has_a_token_of_its_own(make_arrival: Callable[..., Arrival]) -> None:
    """A copy can be told from one delivery that asks again because the answer was lost."""
    assert len({make_arrival().token for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("envelope", "size", "digest"),
    [
        ("prompt: hunter2 é", 18, sha256("prompt: hunter2 é")),
        ("hunter2 \ud800", 11, sha256("hunter2 \ud800")),
        ({"prompt": "hunter2"}, 21, sha256("{'prompt': 'hunter2'}")),
        (None, 4, sha256("None")),
    ],
    ids=["text", "surrogate", "object", "nothing"],
)
def test_a_refusal_is_logged_with_ids_size_and_digest_alone(envelope: object, size: int, digest: str) -> None:
    """An operator can tell copies and senders apart, and reads no prompt."""
    arrival = Arrival(hop_id="w.0" * 200, activity="writer" * 100, envelope=envelope)

    fields = refusal_of(arrival, MessageError("too_large", "", "text that may quote hunter2"))

    assert fields == {
        "reason": "too_large",
        "hop": ("w.0" * 200)[:300],
        "activity": ("writer" * 100)[:200],
        "size": size,
        "sha256": digest,
    }
