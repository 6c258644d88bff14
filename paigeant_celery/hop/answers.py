"""What became of a delivery, and the seam between a hop and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.flow import Advance, Failure, Finish
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.run import Opened, Outcome
from paigeant_celery.store.port import ClaimAnswer

__all__ = ["Drop", "Effects", "Refusal", "Refused", "Summary", "summary_of"]


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Nothing to do: the hop is handled elsewhere, or was, or the message is not the one that was recorded."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The message cannot be run, and a dead letter says why; where it is the recorded one, its workflow is parked.

    `step_id` is "" where the envelope could not be read.
    """

    reason: str
    step_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of a hop, without any content."""

    hop_id: str
    step_id: str
    outcome: str
    error_class: str | None = None
    next_hop: str | None = None
    delay: float | None = None  # seconds to the next attempt


Refusal: TypeAlias = Refused | Drop


class Effects(Protocol):
    """What can be done about a hop; there is one implementation with a store and one without."""

    def claim(self, arrival: Arrival, message: PaigeantMessage, *, max_attempts: int) -> ClaimAnswer:
        """Ask whether this delivery may run its hop. Raises `MessageError` where it never may."""
        ...

    def advance(self, hop: Opened, decision: Advance, outcome: Outcome) -> Summary:
        """Record the output and send the next hop."""
        ...

    def finish(self, hop: Opened, decision: Finish, outcome: Outcome) -> Summary:
        """Record the last output and with it the end of the workflow."""
        ...

    def fail(self, hop: Opened, failure: Failure) -> Summary:
        """End the workflow."""
        ...

    def retry(self, hop: Opened, failure: Failure, *, delay: float) -> Summary:
        """Have the hop tried again."""
        ...

    def park(self, hop: Opened, failure: Failure) -> Summary:
        """Set the hop aside for a person."""
        ...

    def refuse(self, arrival: Arrival, fault: MessageError, message: PaigeantMessage | None) -> Refusal:
        """Keep a dead letter of a message that cannot be run; `message` is None where it could not be read."""
        ...

    def discard(self, arrival: Arrival, fault: MessageError) -> None:
        """Keep a dead letter of what is no message of a hop."""
        ...

    def refuse_unread(self, arrival: Arrival, fault: MessageError) -> None:
        """Keep a dead letter of a message that is too large to be read."""
        ...


def summary_of(
    hop: Opened,
    outcome: str,
    *,
    next_hop: str | None = None,
    error_class: str | None = None,
    delay: float | None = None,
) -> Summary:
    """Return what may be shown of how a hop ended."""
    return Summary(
        hop_id=hop.closing.hop_id,
        step_id=hop.message.step.step_id or "",
        outcome=outcome,
        error_class=error_class,
        next_hop=next_hop,
        delay=delay,
    )
