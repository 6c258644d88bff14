"""How a workflow moves: `decide` says what an event means. No I/O, no clock, no randomness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Literal, TypeAlias, assert_never

from pydantic import JsonValue

from paigeant_celery.core.causes import Cause, Frame
from paigeant_celery.core.conversations import names_of
from paigeant_celery.core.errors import IllegalEvent, InvalidInput
from paigeant_celery.core.far import folded
from paigeant_celery.core.manifests import BranchEnd, failed_end, succeeded_end
from paigeant_celery.core.message import PaigeantMessage, encode
from paigeant_celery.core.pages import next_page, paged
from paigeant_celery.core.policy import Attempt, retry_delay
from paigeant_celery.core.slip import ExecutedStep, OutputRef, Step

__all__ = [
    "Advance",
    "Arrive",
    "Begun",
    "Completed",
    "CouldNotClose",
    "Decision",
    "Diverged",
    "Event",
    "Exhausted",
    "Fail",
    "Failed",
    "Failure",
    "Finish",
    "Limits",
    "Park",
    "Unrunnable",
    "Retry",
    "Run",
    "Stands",
    "Suspend",
    "TimedOut",
    "Unsendable",
    "WorkflowState",
    "decide",
    "decide_refusal",
    "end_of_failed",
    "failure_at",
    "late_unread",
]

WorkflowState: TypeAlias = Literal["running", "completed", "failed", "parked", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a workflow may grow: executed and remaining steps together, and bytes of the next envelope.

    `inline_log_size` is how many bytes of steps and records travel if a store can hold the rest; None if none can.
    """

    max_steps: int
    max_message_size: int
    inline_log_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a workflow failed: the step, the class of the error or a reason code, the text, and what raised it.

    The text of an error may quote what the step knew, so it is not in the `repr`.
    """

    step_id: str | None
    error_class: str
    text: str = field(repr=False)
    cause: Cause | None = None

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The frames that lead to the code that failed; empty if none are known."""
        return self.cause.telling.frames if self.cause is not None else ()

    @property
    def where(self) -> str:
        """File, line and function of the code that failed, "" if none is known."""
        where = self.cause.where if self.cause is not None else None
        return str(where) if where is not None else ""


# Events: what happened to the hop at `place`.


@dataclass(frozen=True, kw_only=True)
class Begun:
    """The hop was claimed and is about to run."""

    place: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Completed:
    """The step ran and its output is known; `inserted` are the steps that it adds after itself.

    `ended_at` is when its body ended, or None for now.
    """

    place: str
    attempt: int
    started_at: datetime
    ended_at: datetime | None = None
    output: JsonValue
    output_ref: OutputRef | None = None
    content: tuple[str, ...] = ()
    whole_size: int | None = None
    usage: dict[str, int] = field(default_factory=dict)
    cost: Decimal | None = None
    inserted: tuple[Step, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The step ended with an error; without `attempt`, no further attempt would help.

    `path` is that of the step that failed, if it is another one: in a branch of the block that the step is.
    """

    place: str
    error_class: str
    text: str
    attempt: Attempt | None = None
    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class TimedOut:
    """The step ran longer than the `timeout` seconds that it had."""

    place: str
    timeout: float
    attempt: Attempt


@dataclass(frozen=True, kw_only=True)
class Unsendable:
    """The step ran, but what it gave cannot be recorded: it is not JSON, too large, or no result but a pause."""

    place: str
    reason: str
    text: str


@dataclass(frozen=True, kw_only=True)
class CouldNotClose:
    """Something went wrong while the hop was closed, and neither the store nor the broker was away."""

    place: str
    error_class: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Exhausted:
    """The hop was begun as often as its policy allows and never ended."""

    place: str
    attempts: int


@dataclass(frozen=True, kw_only=True)
class Diverged:
    """The step's code does not repeat what its journal holds, and would not do so in another attempt."""

    place: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Stands:
    """The step can go on only when something from outside has come: an answer, a signal, a time, or its branches.

    `tokens` are those of the waits that it stands at, and `wake_at` is when it goes on without any of them. `names` say
    what it waits for; a look at something that is not ready is `quiet`, and leaves no event.
    """

    place: str
    tokens: tuple[str, ...] = field(default=(), repr=False)
    wake_at: datetime | None = None
    names: tuple[str, ...] = ()
    quiet: bool = False
    branches: bool = False


Event: TypeAlias = Begun | Completed | Failed | TimedOut | Unsendable | CouldNotClose | Exhausted | Diverged | Stands


@dataclass(frozen=True, kw_only=True)
class Unrunnable:
    """A hop's own message cannot be run; `message` is None if it could not even be read.

    It is separate from the other events, which are about a message that was read and claimed to be run.
    """

    message: PaigeantMessage | None
    reason: str
    text: str


# Decisions: where the workflow stands now, and therefore what the caller must record.


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run the step."""

    message: PaigeantMessage


@dataclass(frozen=True, kw_only=True)
class Advance:
    """Record the step and send `message` for the next one; `far` are texts for the store that do not travel."""

    message: PaigeantMessage
    far: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def envelope(self) -> str:
        """The bytes that are recorded and sent."""
        return encode(self.message)


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Record the last step; the workflow is completed. `far` are texts for the store that do not travel."""

    message: PaigeantMessage
    far: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def envelope(self) -> str:
        """The bytes that are recorded."""
        return encode(self.message)


@dataclass(frozen=True, kw_only=True)
class Arrive:
    """Record the last step of a branch, and how the branch ended; its block may go on.

    `far` are texts for the store: what is read of the branch from now on.
    """

    message: PaigeantMessage
    end: BranchEnd
    far: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Fail:
    """Record the failure; the workflow has ended, or the branch."""

    message: PaigeantMessage
    failure: Failure

    @property
    def end(self) -> BranchEnd | None:
        """How the branch ended; None if it is not one that failed."""
        return end_of_failed(self.message, self.failure) if self.message.slip.branch is not None else None


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Record the failure; the step is tried again after `delay` seconds."""

    message: PaigeantMessage
    failure: Failure
    delay: float


@dataclass(frozen=True, kw_only=True)
class Suspend:
    """Let the hop wait for what it `stands` at, owned by nobody."""

    message: PaigeantMessage
    stands: Stands


@dataclass(frozen=True, kw_only=True)
class Park:
    """Record the failure; the workflow waits for a person, who may have the step tried again.

    `message` is None if it could not be read.
    """

    message: PaigeantMessage | None
    failure: Failure


Decision: TypeAlias = Run | Advance | Finish | Arrive | Fail | Retry | Suspend | Park


def decide(message: PaigeantMessage, event: Event, *, now: datetime, limits: Limits) -> Decision:
    """Say where the workflow stands after `event` and what must be recorded.

    Raises `IllegalEvent` if the event is not about the step that `message` asks for, for example because it was
    applied before, or if the step ran and the steps after it are not there.
    """
    step = message.slip.next_step
    if step is None or event.place != message.place:
        raise IllegalEvent(type(event).__name__, event.place, f"the workflow stands at place {message.place!r}")
    match event:
        case Begun():
            return _begin(message, now)
        case Completed():
            return _advance(message, step, event, now, limits)
        case Failed(error_class=error_class, text=text, attempt=attempt, path=path):
            failure = Failure(step_id=path or message.path, error_class=error_class, text=text)
            return _retry_or_park(message, failure, attempt, now)
        case TimedOut():
            return _time_out(message, event, now)
        case Unsendable(reason=reason, text=text):
            return _park(message, reason, text)
        case CouldNotClose(error_class=error_class, text=text):
            return _park(message, error_class, f"after the step ran, its output could not be sent on: {text}")
        case Exhausted(attempts=attempts):
            text = f"begun {attempts} times and never ended; its worker died or lost its lease each time"
            return _park(message, "attempts_exhausted", text)
        case Diverged(text=text):
            return _park(message, "NonDeterminismError", text)
        case Stands():
            return Suspend(message=message, stands=event)
    assert_never(event)


def decide_refusal(unrunnable: Unrunnable) -> Park:
    """Park a workflow whose current hop's own message cannot be run: only a person can move it on."""
    path = unrunnable.message.path if unrunnable.message is not None else None
    failure = Failure(step_id=path or None, error_class=unrunnable.reason, text=unrunnable.text)
    return Park(message=unrunnable.message, failure=failure)


def end_of_failed(message: PaigeantMessage | None, failure: Failure) -> BranchEnd:
    """Return how a branch ended that failed; `message` is None if it cannot be read."""
    slip = message.slip if message is not None else None
    return failed_end(
        slip, step=failure.step_id, error_class=failure.error_class, text=failure.text, cause=failure.cause
    )


def failure_at(end: BranchEnd) -> Failure:
    """Return why a branch failed, from how it ended."""
    return Failure(step_id=end.step, error_class=end.error_class, text=end.text)


def late_unread() -> Failure:
    """Fail a workflow whose deadline passed before a step that only a newer version can read.

    Which step it is does not matter: no version begins one after the deadline.
    """
    text = "the deadline passed before the step, which only a newer version can read"
    return Failure(step_id=None, error_class="deadline", text=text)


def _begin(message: PaigeantMessage, now: datetime) -> Decision:
    if message.deadline is not None and now >= message.deadline:
        return _fail(message, "deadline", f"the deadline {message.deadline.isoformat()} passed before the step")
    return Run(message=message)


def _advance(message: PaigeantMessage, step: Step, event: Completed, now: datetime, limits: Limits) -> Decision:
    if next_page(message.slip) is not None:
        raise IllegalEvent(type(event).__name__, event.place, "the next page of the itinerary is not opened")
    conversation, conversation_id = names_of(step)
    record = ExecutedStep(
        step_id=step.step_id or "",
        place=event.place,
        kind=step.kind,
        activity=step.activity,
        attempt=event.attempt,
        started_at=event.started_at,
        finished_at=event.ended_at or now,
        output=event.output,
        output_ref=event.output_ref,
        content=event.content,
        whole_size=event.whole_size,
        usage=event.usage,
        cost=event.cost,
        added_by=step.added_by,
        conversation=conversation,
        conversation_id=conversation_id,
    )
    try:
        slip = message.slip.advanced(record, event.inserted)
    except InvalidInput as error:
        return _park(message, error.reason, error.text)
    if slip.length > limits.max_steps:
        text = f"with the inserted steps the workflow has more than {limits.max_steps} (`paigeant_max_steps`)"
        return _park(message, "loop_limit", text)
    ahead = _ahead(message.moved(slip, now=now), most_inline=limits.inline_log_size)
    if isinstance(ahead, (Finish, Arrive)):
        return ahead
    size, most = len(ahead.envelope.encode()), limits.max_message_size
    if size > most:
        text = f"with this step's output the envelope has {size} bytes; raise `paigeant_max_message_size` ({most})"
        return _park(message, "too_large", text)
    return ahead


def _ahead(moved: PaigeantMessage, *, most_inline: int | None) -> Advance | Finish | Arrive:
    """Return how a workflow goes on; a slip of more than `most_inline` bytes leaves its first and last parts behind."""
    if moved.slip.branch is not None and not moved.slip.itinerary:
        end, far = succeeded_end(moved.slip)
        return Arrive(message=moved, end=end, far=far)
    following = Advance if moved.slip.itinerary else Finish
    ahead = following(message=moved)
    # Most slips are short. Their envelope, which is written in any case, shows that without writing them once more.
    if most_inline is None or (moved.slip.earlier is None and len(ahead.envelope.encode()) <= most_inline):
        return ahead
    slip, records = folded(moved.slip, most=most_inline)
    slip, pages = paged(slip, most=most_inline)
    far = {**records, **pages}
    return following(message=moved.model_copy(update={"slip": slip}), far=far) if far else ahead


def _time_out(message: PaigeantMessage, event: TimedOut, now: datetime) -> Decision:
    if message.deadline is not None and now >= message.deadline:
        return _fail(message, "deadline", "the deadline of the workflow passed in the step")
    failure = _failure(message, "TimeoutError", f"the step ran longer than {event.timeout:g} s")
    return _retry_or_park(message, failure, event.attempt, now)


def _retry_or_park(message: PaigeantMessage, failure: Failure, attempt: Attempt | None, now: datetime) -> Decision:
    if attempt is None or attempt.final:
        return Fail(message=message, failure=failure)
    if attempt.number >= attempt.max_attempts:
        return Park(message=message, failure=failure)
    delay = retry_delay(attempt)
    if message.deadline is not None and now + timedelta(seconds=delay) >= message.deadline:
        # The deadline leaves no time for another attempt, but the error says more than the deadline.
        return Fail(message=message, failure=failure)
    return Retry(message=message, failure=failure, delay=delay)


def _fail(message: PaigeantMessage, error_class: str, text: str) -> Fail:
    return Fail(message=message, failure=_failure(message, error_class, text))


def _park(message: PaigeantMessage, error_class: str, text: str) -> Park:
    return Park(message=message, failure=_failure(message, error_class, text))


def _failure(message: PaigeantMessage, error_class: str, text: str) -> Failure:
    return Failure(step_id=message.path, error_class=error_class, text=text)
