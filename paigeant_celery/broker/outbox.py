"""What is published for a hop: its limits, its links and what Flower may show of it."""

from __future__ import annotations

from paigeant_celery.activities.port import Activity
from paigeant_celery.broker.port import Delivery
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.names import FIRST_PLACE, hop_id
from paigeant_celery.core.policy import StepPolicy

__all__ = ["delivery_of"]


def delivery_of(message: PaigeantMessage, envelope: str, queue: str, activity: Activity | None) -> Delivery:
    """Return what must be published for the hop that `message` asks for."""
    step, slip = message.step, message.slip
    own = (step.policy or StepPolicy()).over(activity.policy if activity is not None else None)
    total = len(slip.executed) + len(slip.itinerary)
    return Delivery(
        activity=step.activity,
        hop_id=message.message_id,
        root_id=hop_id(message.correlation_id, FIRST_PLACE),
        parent_id=hop_id(message.correlation_id, slip.executed[-1].place) if slip.executed else None,
        queue=queue,
        envelope=envelope,
        summary=f"workflow {message.correlation_id}, step {len(slip.executed) + 1} of {total}: {step.step_id}",
        timeout=own.timeout,  # the default is the worker's, whose settings may be others
    )
