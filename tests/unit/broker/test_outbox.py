"""What is published for a hop: whose limits apply, and how the hops of a workflow are linked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paigeant_celery.activities.functions import activity
from paigeant_celery.activities.port import Activity
from paigeant_celery.broker.outbox import delivery_of
from paigeant_celery.broker.port import Delivery
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import FunctionSpec
from paigeant_celery.hop.service import step_policy

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
