"""Running the step of a claimed hop: its context, its timeout, and its outcome."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar, cast

from pydantic import JsonValue

from paigeant_celery.activities.context import Blocks, WorkflowContext, entered, open_context
from paigeant_celery.activities.pauses import pause_of
from paigeant_celery.activities.port import Activity, StepLimits
from paigeant_celery.core.block_errors import BlockFailed
from paigeant_celery.core.causes import Cause, cause_of, name_of, text_of
from paigeant_celery.core.errors import NonDeterminismError, NotSerializable, PaigeantError, Paused, TransientError
from paigeant_celery.core.flow import Completed, Diverged, Event, Failed, Stands, TimedOut, Unsendable
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.patience import patience
from paigeant_celery.core.policy import Attempt, StepPolicy, Verdict, attempt_of
from paigeant_celery.core.slip import ExecutedStep, RoutingSlip
from paigeant_celery.hop.ended import Ended, read_kept
from paigeant_celery.hop.observed import Observed
from paigeant_celery.hop.step_waits import StepWaits
from paigeant_celery.hop.surroundings import Surroundings
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.scope import journalling
from paigeant_celery.store.outputs import Outputs, checked
from paigeant_celery.store.port import Claimed, Closing, Standing

__all__ = ["Opened", "Outcome", "StepRunner", "clock_of", "timed_out"]

P = TypeVar("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A hop that this owner claimed and must now run and close."""

    message: PaigeantMessage
    activity: Activity
    given: object  # what the activity made of the step's deps or arguments
    claimed: Claimed
    closing: Closing
    timeout: float
    policy: StepPolicy
    journal: HopJournal | None = None  # None if there is no store
    history: tuple[str, ...] = ()  # of its conversation, a text for each earlier step
    seen: Observed
    begun_at: float = field(default_factory=time.monotonic)

    @property
    def kept(self) -> str | None:
        """What the step gave in an earlier attempt, if the hop could not be closed with it."""
        return self.journal.outcome if self.journal is not None else None

    def now(self) -> datetime:
        """The store's clock, carried on from the claim."""
        return _carried_on(self.claimed.now, self.begun_at)


def clock_of(claimed: Claimed) -> Callable[[], datetime]:
    """Return the store's clock, carried on from a claim that was answered just now."""
    return partial(_carried_on, claimed.now, time.monotonic())


def _carried_on(at: datetime, since: float) -> datetime:
    return at + timedelta(seconds=time.monotonic() - since)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How and when a run ended; `blob` is the JSON text of an output that does not travel, `notes` are events.

    `said` is appended to the conversation. `ended` is what the step gave, if its body ended well: a hop that is parked
    keeps it. `cause` is what raised the error, if one ended the run. Closing a hop again with the same outcome writes
    the same bytes.
    """

    event: Event
    at: datetime
    blob: str | None = None
    said: str | None = None
    notes: tuple[Mapping[str, str], ...] = ()
    ended: Ended | None = None
    cause: Cause | None = None


class StepRunner:
    """Runs steps inside their contexts, within their timeouts and limits."""

    def __init__(
        self,
        outputs: Outputs,
        limits: StepLimits,
        surroundings: Surroundings,
        *,
        blocks_of: Callable[[Opened], Blocks | None] = lambda hop: None,
        step_at: Callable[[RoutingSlip, str, str], ExecutedStep],
    ) -> None:
        self._outputs, self._limits, self._surroundings = outputs, limits, surroundings
        self._blocks_of, self._step_at = blocks_of, step_at

    async def run(self, hop: Opened) -> Outcome:
        """Run the step inside its context and say how it ended.

        Only a cancellation is raised: from outside, or because an answer of the store said that the hop is lost. A step
        that ended well in an earlier attempt does not run again. One that stands at nothing but its waits is left, and
        nothing counts that it makes of that.
        """
        if (kept := hop.kept) is not None:
            return await asyncio.to_thread(self._went_on, hop, kept)  # reading much would block the loop
        running = asyncio.create_task(self._run(hop))  # its own task: a step can cancel only that
        if hop.journal is not None:
            # A deadline may be nearer than the step's own timeout. It ends the workflow, so nobody leaves before it.
            hop.journal.waits.begin(leave=running.cancel, timeout=hop.policy.timeout or hop.timeout)
        try:
            outcome = await running
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # we are told to stop; the hop stays claimed, and nothing is recorded
            outcome = _failed(hop, error, "the step cancelled itself")
        if hop.journal is not None and hop.journal.lost:  # whatever the step made of it
            raise asyncio.CancelledError
        if hop.journal is not None and (standing := hop.journal.waits.standing) is not None:
            return _stands(hop, standing)
        if hop.journal is not None and (fault := hop.journal.fault) is not None:  # even if the step caught the error
            event = Diverged(place=hop.message.place, text=str(fault))
            return Outcome(event=event, at=hop.now(), cause=cause_of(fault))
        return outcome

    async def _run(self, hop: Opened) -> Outcome:
        started_at = hop.now()
        limit = asyncio.timeout(hop.timeout)
        feed = hop.journal.feed if hop.journal is not None else None
        try:
            # The limit is inside, so that a store that is slow to take the last events uses up none of the step's time.
            async with feed.flowing() if feed is not None else nullcontext(), limit:
                attempt, of = hop.claimed.attempt, hop.message.correlation_id
                context = await open_context(
                    hop.message,
                    attempt=attempt,
                    read_output=partial(self._output, hop),
                    read_data=partial(_patiently, self._outputs.data, of),
                    read_step=partial(_patiently, partial(self._step_at, hop.message.slip), of),
                    history=hop.history,
                    waits=StepWaits(hop.journal),
                    blocks=self._blocks_of(hop),
                )
                with entered(context), hop.seen.span.current(), journalling(hop.journal):
                    async with self._around(hop, context):
                        try:
                            result = await hop.activity.run(hop.message.step, hop.given, context, limits=self._limits)
                        finally:
                            if hop.journal is not None:
                                hop.journal.waits.end()
                        if hop.journal is not None:
                            await hop.journal.settle()
            notes = (*_resumed(hop.journal), *result.notes)
            return self._completed(
                hop,
                Ended(
                    result=replace(result, notes=notes),
                    attempt=hop.claimed.attempt,
                    started_at=started_at,
                    ended_at=hop.now(),
                ),
            )
        except (NotSerializable, Paused) as error:
            return _unsendable(hop, error)
        except BlockFailed as error:
            return _block_failed(hop, error)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit and MemoryError of a step must not end a worker
            try:
                return _raised(hop, error, expired=limit.expired())
            except BaseException:  # noqa: BLE001 - a class may do anything when its errors are looked at
                return _failed(hop, error, "(the error raised another one when it was looked at)", as_any=True)

    def _around(self, hop: Opened, context: WorkflowContext) -> AbstractAsyncContextManager[None]:
        """Return what surrounds the user's code; a step of our own runs none, and may wait for days."""
        return nullcontext() if hop.activity.kind == "flow" else self._surroundings.around(context)

    async def _output(self, hop: Opened, record: ExecutedStep) -> JsonValue:
        """Return an output that does not travel: as the claim brought it, otherwise as the store has it."""
        of = hop.message.correlation_id
        if not record.is_block and (text := hop.claimed.brought.get(record.output_name)) is not None:
            return checked(of, record, text)
        return await _patiently(self._outputs.read, of, record)

    def _went_on(self, hop: Opened, kept: str) -> Outcome:
        try:
            ended = read_kept(kept, step_id=hop.message.step.step_id or "")
        except NonDeterminismError as error:
            return Outcome(event=Diverged(place=hop.message.place, text=str(error)), at=hop.now())
        outcome = self._completed(hop, ended)
        return replace(outcome, notes=({"type": "resumed", "outcome": "kept"}, *outcome.notes))

    def _completed(self, hop: Opened, ended: Ended) -> Outcome:
        """Return the outcome of a step whose body ended well, whether or not its output can be recorded."""
        result = ended.result
        try:
            output = self._outputs.kept(result.output, name=_name_in_store(hop.message))
            self._check_said(hop, result.said)
        except NotSerializable as error:
            return replace(_unsendable(hop, error), ended=ended)
        completed = Completed(
            place=hop.message.place,
            attempt=ended.attempt,
            started_at=ended.started_at,
            ended_at=ended.ended_at,
            output=output.output,
            output_ref=output.ref,
            content=result.content,
            whole_size=result.whole_size,
            usage=dict(result.usage),
            cost=result.cost,
            inserted=result.inserted,
        )
        return Outcome(
            event=completed, at=hop.now(), blob=output.blob, said=result.said, notes=result.notes, ended=ended
        )

    def _check_said(self, hop: Opened, said: str | None) -> None:
        """Raise `NotSerializable` if a conversation would be larger than it may be.

        What other workflows have said in it meanwhile is not counted: the next step meets that.
        """
        heard = hop.claimed.heard
        size = len((said or "").encode()) + (heard.size if heard is not None else 0)
        if said is not None and size > (most := self._limits.max_conversation_size):
            text = f"with this step its history has {size} bytes; raise `paigeant_max_conversation_size` ({most})"
            raise NotSerializable("conversation_too_large", text)


async def _patiently(read: Callable[[str, P], T], correlation_id: str, what: P) -> T:
    """Read something of a workflow, and wait while the store is away; the step's own timeout limits the wait."""
    waits = patience()
    while True:
        try:
            return await asyncio.to_thread(read, correlation_id, what)
        except TransientError as error:
            logger.warning("waiting: %s", error, extra={"action": "waiting_for_server"})
        await asyncio.sleep(next(waits))


def _name_in_store(message: PaigeantMessage) -> str | None:
    """Return the name of an output in the store, if it is not the id of the step."""
    step_id = message.step.step_id or ""
    name = message.slip.name_in_store(step_id)
    return name if name != step_id else None


def _resumed(journal: HopJournal | None) -> tuple[Mapping[str, str], ...]:
    """Return the event of a hop that went on from what earlier attempts had recorded, if it did."""
    if journal is None or not journal.replayed:
        return ()
    return ({"type": "resumed", "replayed": str(journal.replayed), "made": str(journal.made)},)


def _raised(hop: Opened, error: BaseException, *, expired: bool) -> Outcome:
    if expired:
        return timed_out(hop, cause_of(error))  # with the frames that the step had reached
    if issubclass(type(error), Verdict):  # without asking the error, whose answer may be anything
        verdict = cast("Verdict", error)
        return _failed(hop, verdict.error, verdict.text or text_of(verdict.error), verdict=verdict)
    if (pause := pause_of(error)) is not None:
        return replace(_unsendable(hop, pause), cause=cause_of(error))
    return _failed(hop, error, text_of(error))


def _stands(hop: Opened, standing: Standing) -> Outcome:
    event = Stands(
        place=hop.message.place,
        tokens=tuple(standing.tokens),
        wake_at=standing.wake_at,
        names=tuple(standing.names),
        quiet=standing.quiet,
        branches=standing.branches,
    )
    return Outcome(event=event, at=hop.now())


def timed_out(hop: Opened, cause: Cause | None = None) -> Outcome:
    """Return the outcome of a hop that did not end in time; `cause` says what it was doing."""
    event = TimedOut(place=hop.message.place, timeout=hop.timeout, attempt=_attempt(hop, TimeoutError()))
    return Outcome(event=event, at=hop.now(), cause=cause)


def _unsendable(hop: Opened, error: NotSerializable | Paused) -> Outcome:
    # Its own frames are those of the check. What a serializer of the user raised is below it.
    raised = error.__cause__ or error.__context__
    cause = None if raised is None or isinstance(raised, PaigeantError) else cause_of(raised)
    event = Unsendable(place=hop.message.place, reason=error.reason, text=error.text)
    return Outcome(event=event, at=hop.now(), cause=cause)


def _failed(
    hop: Opened, error: BaseException, text: str, *, as_any: bool = False, verdict: Verdict | None = None
) -> Outcome:
    """Return the outcome of a failed attempt; `as_any` judges it as if its error were of no class that is known.

    A `verdict` is what the step itself says of the error.
    """
    attempt = _attempt(hop, Exception() if as_any else error, verdict)
    event = Failed(place=hop.message.place, error_class=name_of(error), text=text, attempt=attempt)
    return Outcome(event=event, at=hop.now(), cause=cause_of(error))


def _block_failed(hop: Opened, error: BlockFailed) -> Outcome:
    event = Failed(place=hop.message.place, error_class=error.error_class, text=error.text, path=error.step)
    return Outcome(event=event, at=hop.now(), cause=error.cause)


def _attempt(hop: Opened, error: BaseException, verdict: Verdict | None = None) -> Attempt:
    jitter = random.random()  # noqa: S311 - nothing secret
    return attempt_of(error, number=hop.claimed.attempt, policy=hop.policy, jitter=jitter, verdict=verdict)
