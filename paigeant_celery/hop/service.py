"""One hop: guard, claim, run, decide, commit, publish. Every way of serving steps goes through here.

The order of the effects survives a crash between any two of them: the claim is recorded before the body
runs; the output and the next hop are recorded in one step before the next message is published; this message
is acknowledged last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Protocol, TypeAlias, TypeVar

from paigeant_celery.activities.port import Activity, CancelsJobs, CapsAttempts, StepLimits
from paigeant_celery.activities.registry import Registry
from paigeant_celery.broker.tracing import current_trace
from paigeant_celery.core.causes import cause_of, name_of, text_of
from paigeant_celery.core.errors import (
    HopUnknown,
    MessageError,
    NewerMessage,
    OutdatedVersion,
    StoreCorrupt,
    TransientError,
    UnknownActivity,
)
from paigeant_celery.core.flow import Begun, Completed, CouldNotClose, Decision, Exhausted, Limits, Run, decide
from paigeant_celery.core.message import PaigeantMessage, within_trace
from paigeant_celery.core.names import FIRST_PLACE
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import Step
from paigeant_celery.core.steps import BlockSpec
from paigeant_celery.hop.effects import COMPLETED, Drop, Effects, Refused, Summary
from paigeant_celery.hop.failures import traced
from paigeant_celery.hop.guard import Arrival, check_address, read
from paigeant_celery.hop.jobs import ProviderJobs
from paigeant_celery.hop.left_jobs import left_jobs
from paigeant_celery.hop.observed import Observed
from paigeant_celery.hop.run import Opened, Outcome, StepRunner
from paigeant_celery.hop.surroundings import Surroundings
from paigeant_celery.store.port import Claimed, Dropped

__all__ = ["HopService", "Opening", "step_policy"]

CLOCK_DRIFT = 60.0  # seconds between a dispatcher's clock and the store's; more than that is logged

T = TypeVar("T")


class DeepCall(Protocol):
    """Makes a call, perhaps in another thread."""

    def __call__(self, call: Callable[[], T], /) -> T:
        """Return what the call returns, or raise what it raises."""
        ...


Opening: TypeAlias = Opened | Drop | Refused | Summary

logger = logging.getLogger(__name__)


class HopService:
    """Takes hops through their steps and leaves what is done about them to the effects. Only `run` is asynchronous.

    `deep` makes a call that needs much of a thread's stack, as all do that read or write an envelope.
    """

    def __init__(
        self,
        *,
        effects: Effects,
        registry: Registry,
        settings: Settings,
        surroundings: Surroundings | None = None,
        deep: DeepCall = lambda call: call(),
    ) -> None:
        self._deep = deep
        self._effects, self._registry, self._settings = effects, registry, settings
        self._limits = Limits(
            max_steps=settings.max_steps,
            max_message_size=settings.max_message_size,
            inline_log_size=settings.inline_log_size if effects.keeps_records else None,
        )
        limits = StepLimits(
            max_visits=settings.max_visits,
            max_output_size=max(settings.max_output_size, effects.most_kept),
            max_conversation_size=settings.max_conversation_size,
        )
        self._jobs = ProviderJobs(effects.is_called_off)
        self._steps = StepRunner(
            effects.outputs,
            limits,
            surroundings or Surroundings(),
            blocks_of=effects.blocks_of,
            step_at=effects.step_at,
        )

    def open(self, arrival: Arrival, seen: Observed | None = None) -> Opening:
        """Guard and claim a delivery; what is seen of it is told to `seen`.

        Raises `TransientError` if the store is away; call again to go on. Raises `OutdatedVersion` if a newer worker
        has begun. If anything else goes wrong, the message is refused, so that nobody waits for a workflow that will
        not move.
        """
        message: PaigeantMessage | None = None
        seen = seen or Observed(arrival)
        try:
            message = self._deep(lambda: read(arrival, self._settings))
            check_address(arrival, message)
            activity = self._loaded(arrival.activity)
            arrival = seen.read(message)
            return self._claimed(arrival, message, activity, activity.check(message.step), seen)
        except NewerMessage as fault:
            return self._effects.give_back(arrival, fault)
        except MessageError as fault:
            return self._effects.refuse(arrival, fault, message)
        except StoreCorrupt as error:
            return self._effects.refuse(arrival, _corrupt(error), message)
        except (TransientError, OutdatedVersion):
            raise
        except HopUnknown as error:  # the store lost its data since the claim; another one adopts the workflow
            raise TransientError(str(error)) from error
        except Exception as error:  # noqa: BLE001 - the refusal says so
            logger.error(
                "a delivery cannot be opened%s", traced(cause_of(error)),
                extra={"action": "open_failed", "hop": arrival.hop_id},
            )  # fmt: skip
            unexpected = MessageError("unexpected_error", "", text_of(error))
            unexpected.__cause__ = error
            return self._effects.refuse(arrival, unexpected, message)

    def refuse_unknown(self, arrival: Arrival) -> Refused | Drop:
        """Refuse a message for which this worker has no task. Celery would drop it. A copy changes nothing."""
        message: PaigeantMessage | None = None
        try:
            message = read(arrival, self._settings)
            check_address(arrival, message)
            self._loaded(arrival.activity)
            raise MessageError("unknown_agent", "", "was loaded after this worker began; restart the worker")
        except NewerMessage as fault:
            return self._effects.give_back(arrival, fault)
        except MessageError as fault:
            return self._effects.refuse(arrival, fault, message)

    def discard(self, arrival: Arrival) -> None:
        """Keep a dead letter of something that is not a hop's message, with the reason that it came with.

        No workflow changes.
        """
        if arrival.fault is not None:
            self._effects.discard(arrival, arrival.fault)

    def refuse_unread(self, arrival: Arrival) -> None:
        """Refuse a message that is too large to be read, with the reason that it came with."""
        if arrival.fault is not None:
            self._effects.refuse_unread(arrival, arrival.fault)

    async def run(self, hop: Opened) -> Outcome:
        """Run the step and say how it ended. Only a cancellation from outside is raised."""
        try:
            outcome = await self._steps.run(hop)
        except asyncio.CancelledError:
            self._jobs.after_cancelled(hop)
            raise
        await self._jobs.after(hop, outcome, lambda ended: self._decided(hop.message, ended))
        return outcome

    def close(self, hop: Opened, outcome: Outcome) -> Summary:
        """Record what happened and send the next message.

        May be repeated: a hop that is closed stays as it is. Raises `TransientError` if the store or the broker is
        away; call again to finish. Raises `HopUnknown` if the store has lost its record. If anything else goes wrong
        before the hop is recorded, the hop is parked.
        """
        try:
            return self._close(hop, outcome)
        except (TransientError, HopUnknown):
            raise
        except Exception as error:  # noqa: BLE001 - the failure says so
            logger.error(
                "a hop cannot be closed%s", traced(cause_of(error)),
                extra={"action": "close_failed", "hop": hop.closing.hop_id},
            )  # fmt: skip
            place = hop.message.place
            event = CouldNotClose(place=place, error_class=name_of(error), text=text_of(error))
            return self._close(hop, Outcome(event=event, at=outcome.at, ended=outcome.ended, cause=cause_of(error)))

    def regain(self, arrival: Arrival, hop: Opened, outcome: Outcome | None) -> Summary | Drop | Refused:
        """Go on with a hop of which the store has no record any more, because it lost its data.

        If its run has ended, what it gave is recorded as it would have been. Otherwise its message is sent again. If
        the message does not carry all that its workflow needs, it is refused. Raises like `close`.
        """
        try:
            again = self._effects.regain(arrival, hop, ended=outcome is not None)
        except MessageError as fault:
            return self._effects.refuse(arrival, fault, hop.message)
        except StoreCorrupt as error:
            return self._effects.refuse(arrival, _corrupt(error), hop.message)
        if isinstance(again, Drop):
            return again
        assert outcome is not None
        return self.close(again, outcome)

    def _loaded(self, name: str) -> Activity:
        try:
            return self._registry.get(name)
        except UnknownActivity as error:
            raise MessageError("unknown_agent", "", str(error)) from None

    def _claimed(
        self, arrival: Arrival, message: PaigeantMessage, activity: Activity, given: object, seen: Observed
    ) -> Opening:
        policy = step_policy(message.step, activity, self._settings)
        max_attempts = policy.max_attempts or self._settings.max_attempts
        timeout = policy.timeout or self._settings.step_timeout
        answer = self._effects.claim(arrival, message, max_attempts=max_attempts, timeout=timeout)
        if isinstance(answer, Dropped):
            logger.info(
                "delivery dropped: %s", answer.reason,
                extra={"action": "delivery_dropped", "hop": arrival.hop_id, "reason": answer.reason},
            )  # fmt: skip
            return self._dropped(arrival.hop_id, answer, activity)
        seen.claimed(message, answer)
        if message.deadline is not None:
            timeout = min(timeout, max(0.001, (message.deadline - answer.now).total_seconds()))
        closing = self._effects.closing_of(arrival, answer)
        message = self._effects.with_next_page(message, answer)
        journal = self._effects.journal_of(message, answer, closing)
        kept = journal is not None and journal.outcome is not None
        return self._begin(
            Opened(
                message=message,
                activity=activity,
                given=given,
                claimed=answer,
                closing=closing,
                timeout=timeout,
                policy=policy,
                journal=journal,
                history=() if kept else self._effects.history_of(message, answer),
                seen=seen,
            )
        )

    def _dropped(self, hop_id: str, answer: Dropped, activity: Activity) -> Drop:
        """Return the answer to a copy, with the jobs of a cancelled hop: no run may be left that would cancel them."""
        drop = self._effects.dropped(hop_id, answer)
        if answer.reason != "cancelled" or not isinstance(activity, CancelsJobs):
            return drop
        return replace(drop, jobs=left_jobs(hop_id, activity, self._effects.journal_left(hop_id)))

    def _begin(self, hop: Opened) -> Opened | Summary:
        message, claimed = hop.message, hop.claimed
        if claimed.exhausted:  # even if something is kept: going on with it may be what ends each worker
            exhausted = Exhausted(place=message.place, attempts=claimed.attempt)
            return self._close(hop, Outcome(event=exhausted, at=claimed.now))
        _compare_clocks(message, claimed)
        begun = Begun(place=message.place, attempt=claimed.attempt)
        decision = decide(message, begun, now=claimed.now, limits=self._limits)
        if isinstance(decision, Run):
            return hop
        return self._commit(hop, decision, Outcome(event=begun, at=claimed.now))

    def _close(self, hop: Opened, outcome: Outcome) -> Summary:
        # The next hop belongs below this one's span, also if its message is lost and sent again.
        with hop.seen.span.current():
            message = within_trace(hop.message, current_trace())
        decision = self._deep(lambda: self._decided(message, outcome))
        return self._commit(hop, decision, outcome)

    def _commit(self, hop: Opened, decision: Decision, outcome: Outcome) -> Summary:
        summary = self._effects.commit(hop, decision, outcome)
        ended, event, seen = summary.outcome, outcome.event, hop.seen
        if isinstance(event, Completed) and ended in COMPLETED and not isinstance(hop.message.step, BlockSpec):
            seen.used(event.usage, event.cost)  # the hops in a block have counted what they used
        seen.waited(hop.journal.waits.seen if hop.journal is not None else (), outcome=ended)
        seen.ended(ended, summary.error_class, outcome.cause.without_texts if outcome.cause is not None else "")
        return summary

    def _decided(self, message: PaigeantMessage, outcome: Outcome) -> Decision:
        return decide(message, outcome.event, now=outcome.at, limits=self._limits)


def _corrupt(error: StoreCorrupt) -> MessageError:
    return MessageError("store_corrupt", "", str(error))


def _compare_clocks(message: PaigeantMessage, claimed: Claimed) -> None:
    """Warn once per workflow if its dispatcher's clock is off, because its deadlines are judged by ours."""
    if claimed.created_at is None or claimed.attempt > 1 or message.place != FIRST_PLACE:
        return
    ahead = (message.created_at - claimed.created_at).total_seconds()
    if abs(ahead) > CLOCK_DRIFT:
        logger.warning(
            "the clock of the process that sent workflow %s is %.0f s %s", message.correlation_id,
            abs(ahead), "ahead" if ahead > 0 else "behind",
            extra={"action": "clock_drift", "hop": message.message_id},
        )  # fmt: skip


def step_policy(step: Step, activity: Activity | None, settings: Settings) -> StepPolicy:
    """Return the limits of a step: its own, otherwise its activity's, otherwise those of the settings."""
    default = _default_policy(settings.step_timeout, settings.max_attempts, settings.retry_backoff)
    own = activity.policy if activity is not None else None
    given = step.policy.over(own) if step.policy is not None else own
    if isinstance(activity, CapsAttempts) and (most := activity.most_attempts) is not None:
        asked = given.max_attempts if given is not None else None
        capped = StepPolicy(max_attempts=most if asked is None else min(asked, most))
        given = capped.over(given)
    return given.over(default) if given is not None else default


@cache  # the steps that set no limit share one
def _default_policy(timeout: float, max_attempts: int, backoff: float) -> StepPolicy:
    return StepPolicy(timeout=timeout, max_attempts=max_attempts, backoff=backoff)
