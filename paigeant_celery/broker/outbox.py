"""Sending recorded hops: only here is a message for a hop made, with its limits and links."""

from __future__ import annotations

from typing import TypeAlias

from paigeant_celery.activities.port import Activity
from paigeant_celery.activities.registry import Registry
from paigeant_celery.broker.port import Delivery, Publisher
from paigeant_celery.broker.sending import Sending
from paigeant_celery.broker.tracing import workflow_trace
from paigeant_celery.core.message import PaigeantMessage, reread, sha256
from paigeant_celery.core.names import FIRST_PLACE, hop_id
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.store.port import HopRecord, WorkflowRecord

__all__ = ["Outbox", "Recorded", "delivery_of"]

Recorded: TypeAlias = HopRecord | WorkflowRecord


class Outbox:
    """Sends hops as they were recorded, for the first time or again."""

    def __init__(self, publisher: Publisher, registry: Registry) -> None:
        self._publisher, self._registry = publisher, registry

    def record_of(self, message: PaigeantMessage, envelope: str) -> HopRecord:
        """Return what must be recorded to send the hop that `message` asks for; `envelope` is its text."""
        queue = self._publisher.queue_for(message.step.activity, message.step.queue)
        return HopRecord(hop_id=message.message_id, queue=queue, envelope=envelope, digest=sha256(envelope))

    def begin(self, record: Recorded, *, message: PaigeantMessage | None = None, attempt: int = 1) -> Sending[None]:
        """Have the message of a recorded hop sent, without waiting for the broker.

        Reads its envelope again unless the caller passes `message`. `attempt` counts only if there is no store. Raises
        `MessageError` if the envelope cannot be read.
        """
        message = message or reread(record.envelope)
        activity = self._registry.find(message.step.activity)
        delivery = delivery_of(message, record.envelope, record.queue, activity, attempt=attempt)
        with workflow_trace(message.trace_context):
            return self._publisher.begin(delivery)

    def send(self, record: Recorded, *, message: PaigeantMessage | None = None, attempt: int = 1) -> None:
        """Do the same and wait for it; raises `TransientError` as well, if the broker is away or refuses."""
        self.begin(record, message=message, attempt=attempt).wait()

    def waiting(self, queue: str) -> int:
        """Return how many messages wait on a queue; raises `TransientError`."""
        return self._publisher.waiting(queue)


def delivery_of(
    message: PaigeantMessage, envelope: str, queue: str, activity: Activity | None, *, attempt: int = 1
) -> Delivery:
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
        timeout=own.timeout,  # the default is the worker's, whose settings may differ
        attempt=attempt,
    )
