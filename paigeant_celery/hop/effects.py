"""What became of a delivery, and the seam between a hop and what is done about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias, assert_never

from paigeant_celery.activities.context import Blocks
from paigeant_celery.core.causes import Frame
from paigeant_celery.core.errors import MessageError, NewerMessage
from paigeant_celery.core.flow import (
    Advance,
    Arrive,
    Decision,
    Fail,
    Failure,
    Finish,
    Park,
    Retry,
    Run,
    Stands,
    Suspend,
)
from paigeant_celery.core.manifests import BranchEnd
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.slip import ExecutedStep, RoutingSlip
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.left_jobs import LeftJobs
from paigeant_celery.hop.run import Opened, Outcome
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.store.earlier import executed_step
from paigeant_celery.store.outputs import Outputs
from paigeant_celery.store.port import ClaimAnswer, Claimed, Closing, Dropped

__all__ = [
    "COMPLETED",
    "GIVEN_BACK",
    "PUT_BACK",
    "PUT_BACK_PAUSE",
    "ClosedAs",
    "Drop",
    "Effects",
    "Refusal",
    "Refused",
    "Summary",
    "summary_of",
]

PUT_BACK_PAUSE = 0.5  # seconds for which a slot takes nothing more, so that another worker may be faster


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Nothing is to be done: the hop is or was handled elsewhere, or the message is not the recorded one.

    `stands` says how a finished or parked hop ended so far, for whoever sees only this copy of its message. `jobs` is
    what a cancelled hop may have left at a provider: whoever gets this cancels it.
    """

    reason: str
    stands: Summary | None = field(default=None, compare=False)
    jobs: LeftJobs | None = field(default=None, compare=False)


GIVEN_BACK = Drop(reason="given_back")  # the store has the hop sent again after a while, perhaps to a newer worker
PUT_BACK = Drop(reason="put_back")  # no store knows it; its message stands at the end of its queue


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The message cannot be run, and a dead letter says why; if it is the recorded one, its workflow is parked.

    `step_id` is "" if the envelope could not be read.
    """

    reason: str
    step_id: str = ""


class ClosedAs(StrEnum):
    """How a hop was closed. Flower and results show these words."""

    COMPLETED = "completed"
    BRANCH_COMPLETED = "branch_completed"
    WORKFLOW_COMPLETED = "workflow_completed"
    RETRYING = "retrying"
    SUSPENDED = "suspended"
    PARKED = "parked"
    FAILED = "failed"
    OVERTAKEN = "overtaken"  # by another owner, whose run counts


COMPLETED = (ClosedAs.COMPLETED, ClosedAs.BRANCH_COMPLETED, ClosedAs.WORKFLOW_COMPLETED)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of a hop, without any content."""

    hop_id: str
    step_id: str
    outcome: ClosedAs
    error_class: str | None = None
    next_hop: str | None = None
    delay: float | None = None  # seconds to the next attempt
    waits_for: tuple[str, ...] = ()  # names of the waits of a suspended hop
    frames: tuple[Frame, ...] = ()  # of the error


Refusal: TypeAlias = Refused | Drop


class Effects(ABC):
    """What can be done about a hop; there is one implementation with a store and one without.

    Each effect may be repeated. It raises `TransientError` if the store or the broker is away; call again to go on.
    """

    @property
    @abstractmethod
    def drops_copies(self) -> bool:
        """Whether a second delivery of a hop that runs, or has ended, runs nothing."""

    @property
    @abstractmethod
    def outputs(self) -> Outputs:
        """Which outputs travel in the message, and where the others are read."""

    @property
    @abstractmethod
    def keeps_records(self) -> bool:
        """Whether the records of earlier steps may leave the message for the store."""

    @property
    @abstractmethod
    def most_kept(self) -> int:
        """How many characters of what a step gave are kept if its hop cannot go on with it."""

    @abstractmethod
    def claim(self, arrival: Arrival, message: PaigeantMessage, *, max_attempts: int, timeout: float) -> ClaimAnswer:
        """Ask whether this delivery may run its hop, for `timeout` seconds. Raises `MessageError` if it never may."""

    def regain(self, arrival: Arrival, hop: Opened, *, ended: bool) -> Opened | Drop:
        """Record a hop of which the store has no record any more from its message, and go on with it.

        If its run has `ended`, return the hop claimed again, to be closed. Otherwise its message is sent again, and
        counts the attempt. Raises `MessageError` if the message does not carry all that its workflow needs.
        """
        raise TypeError("only a store can lose a record")

    def dropped(self, hop_id: str, drop: Dropped) -> Drop:
        """Return the answer to a delivery that may not run its hop."""
        return Drop(reason=drop.reason)

    def journal_left(self, hop_id: str) -> Mapping[str, str]:
        """Return what is recorded of a hop that nobody goes on with; nothing if that cannot be read."""
        return {}

    def is_cancelled(self, hop: Opened) -> bool:
        """Say whether the workflow of a hop that this owner has lost was cancelled.

        Raises `HopUnknown` if the store does not know the workflow any more.
        """
        return False

    def is_called_off(self, hop: Opened) -> bool:
        """Say whether the workflow of a hop was cancelled, whoever has the hop now. Nothing changes."""
        return False

    @abstractmethod
    def closing_of(self, arrival: Arrival, claimed: Claimed) -> Closing:
        """Return the owner and fence that close a claimed hop."""

    def with_next_page(self, message: PaigeantMessage, claimed: Claimed) -> PaigeantMessage:
        """Return the message of a claimed hop with the steps that it needs to move on.

        Raises `StoreCorrupt` if they are missing or damaged, `NewerMessage` if this version cannot read them.
        """
        return message

    @abstractmethod
    def journal_of(self, message: PaigeantMessage, claimed: Claimed, closing: Closing) -> HopJournal | None:
        """Return the journal of a claimed hop, or None if nothing records what happens inside it."""

    def step_at(self, slip: RoutingSlip, correlation_id: str, path: str) -> ExecutedStep:
        """Return the record of a step that ran, by its id or its path.

        Raises `UsageError` if no such step ran, `StoreCorrupt` if its record is only in the store, and damaged there,
        and `StoreRequired` if it is only in a store, and there is none.
        """
        return executed_step(None, correlation_id, slip, path)

    def blocks_of(self, hop: Opened) -> Blocks | None:
        """Return what opens and joins the branches of a claimed hop; None if nothing can."""
        return None

    @abstractmethod
    def history_of(self, message: PaigeantMessage, claimed: Claimed) -> tuple[str, ...]:
        """Return what was said in the conversation of a claimed hop before its first claim, a text for each step.

        Raises `MessageError` if the store no longer has it or it is too large, `NewerMessage` if this version cannot
        read it.
        """

    @abstractmethod
    def release(self, hop: Opened) -> bool:
        """Let another worker begin the hop again; False if its message must go back to the broker for that."""

    def commit(self, hop: Opened, decision: Decision, outcome: Outcome) -> Summary:
        """Carry out the decision about a hop that ended with `outcome`, and say what became of the hop."""
        match decision:
            case Advance():
                return self._advance(hop, decision, outcome)
            case Finish():
                return self._finish(hop, decision, outcome)
            case Arrive():
                return self._arrive(hop, decision, outcome)
            case Fail(failure=failure):
                failed = replace(decision, failure=replace(failure, cause=outcome.cause))
                return self._fail(hop, failed.failure, failed.end)
            case Retry(failure=failure, delay=delay):
                return self._retry(hop, replace(failure, cause=outcome.cause), delay)
            case Park(failure=failure):
                return self._park(hop, replace(failure, cause=outcome.cause), outcome)
            case Suspend(stands=stands):
                return self._suspend(hop, stands)
            case Run():
                raise TypeError("a begun hop is run, not closed")
        assert_never(decision)

    @abstractmethod
    def refuse(self, arrival: Arrival, fault: MessageError, message: PaigeantMessage | None) -> Refusal:
        """Keep a dead letter of a message that cannot be run; `message` is None if it could not be read."""

    @abstractmethod
    def give_back(self, arrival: Arrival, fault: NewerMessage) -> Refusal:
        """Leave a message that only a newer version can read to newer workers."""

    @abstractmethod
    def refuse_unread(self, arrival: Arrival, fault: MessageError) -> None:
        """Keep a dead letter of a message that is too large to be read."""

    @abstractmethod
    def discard(self, arrival: Arrival, fault: MessageError) -> None:
        """Keep a dead letter of something that is not a hop's message."""

    @abstractmethod
    def start_sweeping(self, on_outdated: Callable[[], object], served: Callable[[], Iterable[str]] = tuple) -> None:
        """Start putting hops back on their queue if their message or their owner is lost.

        `on_outdated` is called, in another thread, if a newer worker has begun and this one may no longer do that.
        """

    @property
    def swept_at(self) -> float | None:
        """When this worker swept last, on the monotonic clock; None if it does not sweep."""
        return None

    @property
    def sweep_failure(self) -> str:
        """Why the last sweep ended early; empty if it did not."""
        return ""

    @abstractmethod
    def stop_sweeping(self) -> None:
        """Stop that, and leave it to other workers."""

    @abstractmethod
    def _advance(self, hop: Opened, decision: Advance, outcome: Outcome) -> Summary:
        """Record the output and send the next hop."""

    @abstractmethod
    def _finish(self, hop: Opened, decision: Finish, outcome: Outcome) -> Summary:
        """Record the last output and, with it, the end of the workflow."""

    @abstractmethod
    def _arrive(self, hop: Opened, decision: Arrive, outcome: Outcome) -> Summary:
        """Record the last output of a branch and, with it, how the branch ended."""

    @abstractmethod
    def _fail(self, hop: Opened, failure: Failure, end: BranchEnd | None) -> Summary:
        """End the workflow, or the branch: `end` is how that ended."""

    @abstractmethod
    def _retry(self, hop: Opened, failure: Failure, delay: float) -> Summary:
        """Let the hop be tried again."""

    @abstractmethod
    def _suspend(self, hop: Opened, stands: Stands) -> Summary:
        """Let the hop wait for something from outside."""

    @abstractmethod
    def _park(self, hop: Opened, failure: Failure, outcome: Outcome) -> Summary:
        """Set the hop aside for a person, if possible with what its step gave."""


def summary_of(
    hop: Opened,
    outcome: ClosedAs,
    *,
    next_hop: str | None = None,
    failure: Failure | None = None,
    delay: float | None = None,
    waits_for: tuple[str, ...] = (),
) -> Summary:
    """Return what may be shown about how a hop ended."""
    return Summary(
        hop_id=hop.closing.hop_id,
        step_id=hop.message.path,
        outcome=outcome,
        error_class=failure.error_class if failure is not None else None,
        next_hop=next_hop,
        delay=delay,
        waits_for=waits_for,
        frames=failure.frames if failure is not None else (),
    )
