"""What is published for a hop: whose limits apply, and how the hops of a workflow are linked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paigeant_celery.activities.functions import activity
from paigeant_celery.activities.port import Activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox, delivery_of
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.message import PaigeantMessage, encode
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import FunctionSpec
from paigeant_celery.hop.service import step_policy
from paigeant_celery.store.port import HopRecord

MakeMessage = Callable[..., PaigeantMessage]

SETTINGS = Settings(step_timeout=60, max_attempts=4, retry_backoff=7)


def works(policy: StepPolicy | None = None) -> Activity:
    @activity(policy=policy)
    def work() -> None: ...

    return work


@pytest.mark.parametrize(
    ("step", "own", "expected"),
    [
        (None, None, StepPolicy(timeout=60, max_attempts=4, backoff=7)),
        (None, StepPolicy(timeout=9), StepPolicy(timeout=9, max_attempts=4, backoff=7)),
        (StepPolicy(max_attempts=1), StepPolicy(timeout=9), StepPolicy(timeout=9, max_attempts=1, backoff=7)),
        (
            StepPolicy(timeout=3, backoff=0),
            StepPolicy(timeout=9, max_attempts=2, retry_on=[OSError]),
            StepPolicy(timeout=3, max_attempts=2, backoff=0, retry_on=[OSError]),
        ),
    ],
)
def test_a_steps_limits_come_before_its_activitys_and_those_before_the_settings(
    step: StepPolicy | None, own: StepPolicy | None, expected: StepPolicy
) -> None:
    """Whoever is closer to the step knows better how long it takes."""
    assert step_policy(FunctionSpec("work", policy=step), works(own), SETTINGS) == expected


def test_steps_that_set_no_limit_share_their_policy() -> None:
    """Hundreds of them may wait at once in a process."""
    assert step_policy(FunctionSpec("work"), works(None), SETTINGS) is step_policy(
        FunctionSpec("other"), None, SETTINGS
    )


def test_an_activity_that_is_not_loaded_here_has_the_limits_of_its_step() -> None:
    """A worker forwards to agents that only other workers have."""
    step = FunctionSpec("elsewhere", policy=StepPolicy(timeout=3))

    assert step_policy(step, None, SETTINGS) == StepPolicy(timeout=3, max_attempts=4, backoff=7)


def test_a_later_hop_hangs_on_the_one_before_it_and_on_the_first(make_message: MakeMessage) -> None:
    """Flower shows the hops of one workflow as one tree and says how far it is."""
    message = make_message(
        FunctionSpec("work", {"token": "hunter2"}, "third"), FunctionSpec("rest"), outputs=("a", "b")
    )

    delivery = delivery_of(message, "the envelope", "a queue", works())

    assert delivery == Delivery(
        activity="work",
        hop_id="w-1.2",
        root_id="w-1.0",
        parent_id="w-1.1",
        queue="a queue",
        envelope="the envelope",
        summary="workflow w-1, step 3 of 4: third",
        timeout=None,
    )


def test_a_time_limit_that_nobody_here_knows_is_left_to_the_worker(make_message: MakeMessage) -> None:
    """The sender's settings must not cut off an activity whose own limit is higher."""
    unknown = delivery_of(make_message(FunctionSpec("elsewhere")), "", "", None)
    limited = delivery_of(make_message(FunctionSpec("elsewhere", policy=StepPolicy(timeout=3))), "", "", None)
    loaded = delivery_of(make_message(FunctionSpec("work")), "", "", works(StepPolicy(timeout=9)))

    assert (unknown.timeout, limited.timeout, loaded.timeout) == (None, 3.0, 9.0)


class Publisher:
    """Keeps what it is given to publish."""

    def __init__(self) -> None:
        self.sent: list[Delivery] = []

    def queue_for(self, activity: str, queue: str | None) -> str:
        return queue or f"q-{activity}"

    def begin(self, delivery: Delivery) -> Sending[None]:
        return Sending.made(lambda: self.publish(delivery))

    def publish(self, delivery: Delivery) -> None:
        self.sent.append(delivery)

    def waiting(self, queue: str) -> int:
        return len(self.sent)


def test_what_was_recorded_is_sent_as_it_was_recorded(make_message: MakeMessage) -> None:
    """Whoever sends a hop, a worker, a sweep or a person: the same record gives the same message."""
    activity = works(StepPolicy(timeout=9))
    message = make_message(FunctionSpec("work"), FunctionSpec("rest"), outputs=("a",))
    publisher = Publisher()
    outbox = Outbox(publisher, registry)
    record = outbox.record_of(message, encode(message))

    outbox.send(record)
    outbox.send(record, message=message)

    assert publisher.sent == [delivery_of(message, encode(message), "q-work", activity)] * 2
    assert publisher.sent[0].timeout == 9.0


def test_a_hop_beyond_the_limits_of_this_process_is_sent(make_message: MakeMessage) -> None:
    """Somebody with higher limits accepted it, and may run it."""
    message = make_message(*(FunctionSpec("work") for _ in range(SETTINGS.max_steps + 1)))
    publisher = Publisher()
    outbox = Outbox(publisher, registry)

    outbox.send(outbox.record_of(message, encode(message)), attempt=3)

    assert [(sent.hop_id, sent.attempt) for sent in publisher.sent] == [("w-1.0", 3)]


def test_a_record_that_is_no_envelope_is_not_sent() -> None:
    """Its message could only be refused."""
    publisher = Publisher()

    with pytest.raises(MessageError):
        Outbox(publisher, registry).send(HopRecord(hop_id="w-1.0", queue="q", envelope="{", digest="d"))

    assert publisher.sent == []
