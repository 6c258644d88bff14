"""Sending recorded hops: only here is a message for a hop made, with its limits and links."""

from __future__ import annotations

from typing import TypeAlias

from paigeant_celery.activities.port import Activity
from paigeant_celery.activities.registry import Registry
from paigeant_celery.broker.port import Delivery, Publisher
from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.errors import NewerMessage
from paigeant_celery.core.message import PaigeantMessage, first_activity_in, parent_of, reread, sha256
from paigeant_celery.core.names import FIRST_PLACE, split_hop_id
from paigeant_celery.core.names import hop_id as make_hop_id
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
        step = message.step
        return HopRecord(
            hop_id=message.message_id,
            queue=self._publisher.queue_for(step.activity, step.queue),
            envelope=envelope,
            digest=sha256(envelope),
            activity=step.activity,
            step_id=step.step_id or "",
        )

    def begin(self, record: Recorded, *, message: PaigeantMessage | None = None, attempt: int = 1) -> Sending[None]:
        """Have the message of a recorded hop sent, without waiting for the broker.

        Reads its envelope again unless the caller passes `message`. `attempt` counts only if there is no store. Raises
        `MessageError` if the envelope cannot be read.
        """
        try:
            message = message or reread(record.envelope)
        except NewerMessage:
            return self._begin_recorded_unread(record, attempt=attempt)
        activity = self._registry.find(message.step.activity)
        return self._publisher.begin(delivery_of(message, record.envelope, record.queue, activity, attempt=attempt))

    def send(self, record: Recorded, *, message: PaigeantMessage | None = None, attempt: int = 1) -> None:
        """Do the same and wait for it; raises `TransientError` as well, if the broker is away or refuses."""
        self.begin(record, message=message, attempt=attempt).wait()

    def _begin_recorded_unread(self, record: Recorded, *, attempt: int) -> Sending[None]:
        """Have a hop sent whose own step this version can read, but not the rest; raises `NewerMessage` otherwise."""
        activity = first_activity_in(record.envelope)
        if activity is None:
            text = "this version does not know the kind of the step; a newer worker sends it"
            raise NewerMessage("newer_version", "slip.itinerary[0]", text)
        return self.begin_unread(record.hop_id, activity, record.queue, record.envelope, attempt=attempt, given_back=0)

    def begin_unread(
        self, hop_id: str, activity: str, queue: str | None, envelope: str, *, attempt: int, given_back: int
    ) -> Sending[None]:
        """Have a message that cannot be read here put at the end of its queue; `given_back` says how often it was."""
        ids = split_hop_id(hop_id)
        return self._publisher.begin(
            Delivery(
                activity=activity,
                hop_id=hop_id,
                root_id=make_hop_id(ids[0], FIRST_PLACE) if ids is not None else hop_id,
                parent_id=None,
                queue=queue or self._publisher.queue_for(activity, None),
                envelope=envelope,
                summary="of a newer version",
                timeout=None,
                attempt=attempt,
                given_back=given_back,
            )
        )

    def waiting(self, queue: str) -> int:
        """Return how many messages wait on a queue; raises `TransientError`."""
        return self._publisher.waiting(queue)


def delivery_of(
    message: PaigeantMessage, envelope: str, queue: str, activity: Activity | None, *, attempt: int = 1
) -> Delivery:
    """Return what must be published for the hop that `message` asks for."""
    step, slip = message.step, message.slip
    own = (step.policy or StepPolicy()).over(activity.policy if activity is not None else None)
    return Delivery(
        activity=step.activity,
        hop_id=message.message_id,
        root_id=make_hop_id(message.correlation_id, FIRST_PLACE),
        parent_id=parent_of(message),
        queue=queue,
        envelope=envelope,
        summary=f"workflow {message.correlation_id}, step {slip.ran + 1} of {slip.length}: {message.path}",
        timeout=own.timeout,  # the default is the worker's, whose settings may differ
        attempt=attempt,
        trace_context=message.trace_context,
    )
