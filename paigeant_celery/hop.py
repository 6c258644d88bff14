"""One hop: guard, claim, run, decide, commit, publish. Every way of serving steps goes through here.

The order of the effects survives a crash between any two of them: the claim is recorded before the body
runs; the output and the next hop are recorded in one step before the next message is published; this message
is acknowledged last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias, assert_never

from paigeant_celery.config import Settings
from paigeant_celery.dead_letters import letter_of
from paigeant_celery.errors import MessageError, StoreCorrupt, TransientError, UnknownActivity
from paigeant_celery.flow import (
    Advance,
    Begun,
    Exhausted,
    Fail,
    Failure,
    Finish,
    Limits,
    Park,
    Retry,
    Run,
    decide,
)
from paigeant_celery.guard import Arrival, admit, refusal_of
from paigeant_celery.message import PaigeantMessage, encode, parse, sha256
from paigeant_celery.names import next_place, split_hop_id
from paigeant_celery.policy import StepPolicy
from paigeant_celery.ports import (
    Activity,
    Claim,
    Claimed,
    Closing,
    Completion,
    Dropped,
    HopRecord,
    Publisher,
    Store,
)
from paigeant_celery.registry import Registry
from paigeant_celery.sending import delivery_of, step_policy
from paigeant_celery.step import Opened, Outcome, StepRunner, failed, text_of

__all__ = ["Drop", "HopService", "Refused", "Summary"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Nothing to do: this delivery is a copy of one that was or is handled elsewhere."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The message cannot be run; its workflow, where the store knows it, has failed.

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


Opening: TypeAlias = Opened | Drop | Refused | Summary


class HopService:
    """Runs hops against a store and a publisher. Everything but `run` is synchronous.

    Without a store nothing is claimed: each delivery runs, as often as the broker delivers it.
    """

    def __init__(
        self,
        *,
        store: Store | None,
        publisher: Publisher,
        registry: Registry,
        settings: Settings,
        owner: Callable[[], str],
    ) -> None:
        self._store, self._publisher, self._registry = store, publisher, registry
        self._settings, self._owner = settings, owner
        self._limits = Limits(max_steps=settings.max_steps)
        self._steps = StepRunner(store, settings)

    def open(self, arrival: Arrival) -> Opening:
        """Guard and claim a delivery.

        Raises `TransientError` where the store is away; the same call then goes on. Whatever else goes wrong
        refuses the message, so that nobody waits for a workflow that will not move.
        """
        message: PaigeantMessage | None = None
        try:
            message = admit(arrival, self._settings)
            activity = self._loaded(arrival.activity)
            activity.check(message.step)
            return self._claimed(arrival, message, activity)
        except MessageError as fault:
            return self._refuse(arrival, fault, message)
        except StoreCorrupt as error:
            return self._refuse(arrival, MessageError("store_corrupt", "", str(error)), message)
        except TransientError:
            raise
        except Exception as error:
            logger.exception("a delivery cannot be opened", extra={"action": "open_failed", "hop": arrival.hop_id})
            return self._refuse(arrival, MessageError("unexpected_error", "", text_of(error)), message)

    def refuse_unknown(self, arrival: Arrival) -> None:
        """End the workflow of a message for which this worker has no task, so that Celery drops it."""
        message: PaigeantMessage | None = None
        try:
            message = admit(arrival, self._settings)
            self._loaded(arrival.activity)
            raise MessageError("unknown_agent", "", "was loaded after this worker began; start the worker anew")
        except MessageError as fault:
            self._refuse(arrival, fault, message)

    def discard(self, arrival: Arrival) -> None:
        """Keep a dead letter of what is no message of a hop, for the reason that it came with; no workflow fails."""
        if arrival.fault is not None:
            self._note_refusal(arrival, arrival.fault)

    async def run(self, hop: Opened) -> Outcome:
        """Run the step and say how it ended. Only a cancellation from outside is raised."""
        return await self._steps.run(hop)

    def close(self, hop: Opened, outcome: Outcome) -> Summary:
        """Record what happened and send the next message.

        May be repeated: a hop that is closed stays as it is. Raises `TransientError` where the store or the
        broker is away; the same call then finishes what it began. Whatever else goes wrong fails the hop.
        """
        try:
            return self._close(hop, outcome)
        except TransientError:
            raise
        except Exception as error:
            logger.exception("a hop cannot be closed", extra={"action": "close_failed", "hop": hop.closing.hop_id})
            failure = Failure(
                step_id=hop.message.step.step_id,
                error_class=type(error).__name__,
                text=f"after the step ran, its output could not be sent on: {text_of(error)}",
            )
            return self._record_failure(hop.closing, Fail(message=hop.message, failure=failure))

    # The parts of `open`.

    def _close(self, hop: Opened, outcome: Outcome) -> Summary:
        decision = decide(hop.message, outcome.event, now=outcome.at, limits=self._limits)
        match decision:
            case Advance(message=message):
                envelope = encode(message)
                if len(envelope.encode()) > self._settings.max_message_size:
                    text = "with this step's output the envelope exceeds `paigeant_max_message_size`"
                    return self._close(hop, failed(hop, "too_large", text))
                return self._advance(hop, message, envelope, outcome)
            case Finish(message=message):
                return self._finish(hop, message, outcome)
            case Fail():
                return self._record_failure(hop.closing, decision)
            case Retry():
                return self._retry(hop, decision)
            case Park():
                return self._park(hop, decision)
            case Run():
                raise TypeError("a begun hop is run, not closed")
        assert_never(decision)

    def _loaded(self, name: str) -> Activity:
        try:
            return self._registry.get(name)
        except UnknownActivity as error:
            raise MessageError("unknown_agent", "", str(error)) from None

    def _claimed(self, arrival: Arrival, message: PaigeantMessage, activity: Activity) -> Opening:
        policy = step_policy(message.step, activity, self._settings)
        answer = self._claim(
            arrival,
            digest=sha256(str(arrival.envelope)),
            max_attempts=policy.max_attempts or self._settings.max_attempts,
        )
        if isinstance(answer, Claimed):
            return self._begin(arrival, message, activity, answer, policy)
        if answer.reason == "altered":
            text = "the envelope differs from the one that was recorded when it was sent"
            raise MessageError("inconsistent_slip", "", text)
        if answer.reason == "unknown":
            text = (
                "the store does not know its workflow: the dispatcher names another store or prefix than this worker, "
                "or the workflow ended longer ago than `paigeant_result_ttl`"
            )
            raise MessageError("unknown_workflow", "", text)
        return self._drop(arrival, answer)

    def _begin(
        self, arrival: Arrival, message: PaigeantMessage, activity: Activity, claimed: Claimed, policy: StepPolicy
    ) -> Opened | Summary:
        closing = Closing(hop_id=arrival.hop_id, owner=self._owner(), fence=claimed.fence)
        timeout = policy.timeout or self._settings.step_timeout
        if message.deadline is not None:
            timeout = min(timeout, max(0.001, (message.deadline - claimed.now).total_seconds()))
        hop = Opened(
            message=message, activity=activity, claimed=claimed, closing=closing, timeout=timeout, policy=policy
        )
        if claimed.exhausted:
            exhausted = Exhausted(place=message.place, attempts=claimed.attempt)
            return self._close(hop, Outcome(event=exhausted, at=claimed.now))
        begun = Begun(place=message.place, attempt=claimed.attempt)
        decision = decide(message, begun, now=claimed.now, limits=self._limits)
        return self._record_failure(closing, decision) if isinstance(decision, Fail) else hop

    def _claim(self, arrival: Arrival, *, digest: str | None, max_attempts: int) -> Claimed | Dropped:
        if self._store is None:
            return Claimed(fence=0, attempt=1, now=datetime.now(UTC))
        claim = Claim(
            hop_id=arrival.hop_id,
            owner=self._owner(),
            token=arrival.token,
            max_attempts=max_attempts,
            digest=digest,
        )
        return self._store.claim(claim)

    def _drop(self, arrival: Arrival, answer: Dropped) -> Drop:
        logger.info(
            "delivery dropped: %s", answer.reason,
            extra={"action": "delivery_dropped", "hop": arrival.hop_id, "reason": answer.reason},
        )  # fmt: skip
        if answer.reason == "finished":
            self._resend_successor(arrival.hop_id)
        return Drop(reason=answer.reason)

    def _resend_successor(self, hop_id: str) -> None:
        # Covers the crash between recording a hop and publishing the next one: the broker delivers the
        # finished hop again, and its successor still waits for its first message.
        ids = split_hop_id(hop_id)
        if self._store is None or ids is None:
            return
        correlation_id, place = ids
        record = self._store.workflow(correlation_id)
        if record is None or record.state != "running" or record.running:
            return
        if split_hop_id(record.hop_id) == (correlation_id, next_place(place)):
            message = parse(
                record.envelope, max_size=self._settings.max_message_size, max_steps=self._settings.max_steps
            )
            self._publish(message, record.envelope, record.queue)

    def _refuse(self, arrival: Arrival, fault: MessageError, message: PaigeantMessage | None) -> Refused:
        step_id = message.step.step_id if message is not None else None
        # The letter comes first: a crash behind it has the message delivered and refused again, and its letter is
        # known then; the other way round, the closed hop would be dropped as a copy.
        self._note_refusal(arrival, fault)
        if self._store is not None and split_hop_id(arrival.hop_id) is not None:
            try:
                answer = self._claim(arrival, digest=None, max_attempts=1000)
            except StoreCorrupt:
                answer = Dropped(reason="unknown")
            if isinstance(answer, Claimed):
                closing = Closing(hop_id=arrival.hop_id, owner=self._owner(), fence=answer.fence)
                with suppress(StoreCorrupt):  # logged above; there is nothing left that could be recorded
                    self._store.fail(closing, Failure(step_id=step_id, error_class=fault.reason, text=fault.detail))
        return Refused(reason=fault.reason, step_id=step_id or "")

    def _note_refusal(self, arrival: Arrival, fault: MessageError) -> None:
        """Log and keep what may be told of a refused message."""
        fields = refusal_of(arrival, fault)
        logger.error(
            "message refused: %s (hop %s, %d bytes, sha256 %s)",
            fault,
            fields["hop"],
            fields["size"],
            fields["sha256"],
            extra={"action": "message_refused", **fields},
        )
        self._bury(arrival, fault)

    def _bury(self, arrival: Arrival, fault: MessageError) -> None:
        """Keep a dead letter; without a store, the line in the log is all there is."""
        if self._store is None:
            return
        envelope = arrival.envelope
        letter = letter_of(
            envelope if isinstance(envelope, str) else repr(envelope),
            fault,
            hop_id=arrival.hop_id,
            activity=arrival.activity,
            queue=arrival.queue,
            worker=self._owner(),
        )
        with suppress(StoreCorrupt):  # what is wrong with the message is in the log
            self._store.bury(letter)

    # The parts of `close`.

    def _advance(self, hop: Opened, message: PaigeantMessage, envelope: str, outcome: Outcome) -> Summary:
        queue = self._publisher.queue_for(message.step.activity, message.step.queue)
        next_hop = HopRecord(hop_id=message.message_id, queue=queue, envelope=envelope, digest=sha256(envelope))
        if not self._complete(hop, envelope, next_hop, outcome):
            return self._overtaken(hop)
        self._publish(message, envelope, queue)
        return _summary(hop, "completed", next_hop=message.message_id)

    def _finish(self, hop: Opened, message: PaigeantMessage, outcome: Outcome) -> Summary:
        if not self._complete(hop, encode(message), None, outcome):
            return self._overtaken(hop)
        return _summary(hop, "workflow_completed")

    def _complete(self, hop: Opened, envelope: str, next_hop: HopRecord | None, outcome: Outcome) -> bool:
        if self._store is None:
            return True
        blobs = {hop.message.step.step_id or "": outcome.blob} if outcome.blob is not None else {}
        return self._store.complete(
            Completion(closing=hop.closing, envelope=envelope, next_hop=next_hop, blobs=blobs, notes=outcome.notes)
        )

    def _publish(self, message: PaigeantMessage, envelope: str, queue: str) -> None:
        activity = self._registry.find(message.step.activity)
        self._publisher.publish(delivery_of(message, envelope, queue, activity))

    def _record_failure(self, closing: Closing, decision: Fail) -> Summary:
        failure = decision.failure
        summary = Summary(
            hop_id=closing.hop_id, step_id=failure.step_id or "", outcome="failed", error_class=failure.error_class
        )
        with suppress(StoreCorrupt):  # the hop failed; that its record cannot say so is in the log
            if self._store is not None and not self._store.fail(closing, failure):
                return Summary(hop_id=closing.hop_id, step_id=summary.step_id, outcome="overtaken")
        logger.error(
            "hop %s failed with %s",
            closing.hop_id,
            failure.error_class,
            extra={"action": "hop_failed", "hop": closing.hop_id, "step": failure.step_id},
        )
        return summary

    def _retry(self, hop: Opened, decision: Retry) -> Summary:
        failure = decision.failure
        if self._store is None:
            # Nobody would remember when it is due, nor count.
            return self._record_failure(hop.closing, Fail(message=decision.message, failure=failure))
        if not self._store.retry_at(hop.closing, failure, delay=decision.delay):
            return self._overtaken(hop)
        logger.warning(
            "hop %s failed with %s and is tried again in %.1f s",
            hop.closing.hop_id,
            failure.error_class,
            decision.delay,
            extra={"action": "hop_retried", "hop": hop.closing.hop_id, "step": failure.step_id},
        )
        return _summary(hop, "retrying", error_class=failure.error_class, delay=decision.delay)

    def _park(self, hop: Opened, decision: Park) -> Summary:
        failure = decision.failure
        if self._store is None:
            return self._record_failure(hop.closing, Fail(message=decision.message, failure=failure))
        if not self._store.park(hop.closing, failure):
            return self._overtaken(hop)
        # A crash before this line loses the letter and not the workflow, which is parked.
        self._bury_parked(hop, failure)
        logger.error(
            "hop %s is parked: attempt %d, the last that it has, failed with %s",
            hop.closing.hop_id,
            hop.claimed.attempt,
            failure.error_class,
            extra={"action": "hop_parked", "hop": hop.closing.hop_id, "step": failure.step_id},
        )
        return _summary(hop, "parked", error_class=failure.error_class)

    def _bury_parked(self, hop: Opened, failure: Failure) -> None:
        # The text of the failure may quote prompts and answers; the handle has it, for those who may read it.
        fault = MessageError(failure.error_class, "", f"in attempt {hop.claimed.attempt}, the last one; it is parked")
        arrival = Arrival(
            hop_id=hop.closing.hop_id, activity=hop.message.step.activity, envelope=encode(hop.message), fault=fault
        )
        self._bury(arrival, fault)

    def _overtaken(self, hop: Opened) -> Summary:
        logger.warning(
            "another owner took the hop over; this run's output is discarded",
            extra={"action": "hop_overtaken", "hop": hop.closing.hop_id},
        )
        return _summary(hop, "overtaken")


def _summary(
    hop: Opened,
    outcome: str,
    *,
    next_hop: str | None = None,
    error_class: str | None = None,
    delay: float | None = None,
) -> Summary:
    return Summary(
        hop_id=hop.closing.hop_id,
        step_id=hop.message.step.step_id or "",
        outcome=outcome,
        error_class=error_class,
        next_hop=next_hop,
        delay=delay,
    )
