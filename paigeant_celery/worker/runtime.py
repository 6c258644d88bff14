"""What happens to a delivery in a worker process: its hop runs on the event loop while the task waits."""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, partial
from typing import NoReturn, TypeVar, assert_never

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from paigeant_celery.activities.context import only_step_here
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.core.causes import cause_of, traceback_of
from paigeant_celery.core.errors import HopFailed, HopUnknown, OutdatedVersion, StoreCorrupt, TransientError
from paigeant_celery.core.hop_failures import hop_failed
from paigeant_celery.core.names import Names
from paigeant_celery.core.patience import patience
from paigeant_celery.core.wait_errors import HopSuspended
from paigeant_celery.hop.effects import PUT_BACK, PUT_BACK_PAUSE, ClosedAs, Drop, Effects, Refused, Summary
from paigeant_celery.hop.failures import traced
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.lease import NoLease, Owner
from paigeant_celery.hop.left_jobs import LONGEST, LeftJobs
from paigeant_celery.hop.liveness import new_owner_id
from paigeant_celery.hop.observed import Observed
from paigeant_celery.hop.run import Opened, Outcome, timed_out
from paigeant_celery.hop.service import HopService, Opening
from paigeant_celery.hop.surroundings import Surroundings, around_step_of
from paigeant_celery.hop.with_store import RecordedEffects
from paigeant_celery.hop.without_store import MessageOnlyEffects
from paigeant_celery.worker.deep_calls import deep_calls
from paigeant_celery.worker.django_host import DjangoHost
from paigeant_celery.worker.loop import ProcessLoop
from paigeant_celery.worker.pulse import Pulse
from paigeant_celery.worker.shutdown import Shutdown
from paigeant_celery.worker.streams import complete_streams
from paigeant_celery.worker.touching import Touching
from paigeant_celery.worker.waiting import LookOut, Waiting

__all__ = ["HopRuntime", "ShownAs"]

T = TypeVar("T")

BLOCKED_GRACE = 30.0  # seconds after a step's timeout until a step that cannot be cancelled is given up
BLOCKED_SIGN = 5.0  # seconds within which a loop shows a sign of life unless it is blocked
OPEN_PATIENCE = 30.0  # seconds to wait for a store that is away before the message goes back to its queue
OUTDATED_PAUSE = 1.0  # seconds for which a slot keeps a message that only a newer worker may take
CLOSE_PATIENCE = 900.0  # seconds to keep an output that is paid for but cannot be recorded yet


logger = logging.getLogger(__name__)


class ShownAs(Ignore):  # type: ignore[misc]  # Celery ships no types
    """Nothing happens to the task, but one of Celery's own events shows how its hop stands."""

    def __init__(self, reason: str, event: str, fields: dict[str, object]) -> None:
        super().__init__(reason, event, fields)
        self.event, self.fields = event, fields


class HopRuntime:
    """What the hops of one app share in one process: the loop, the owner and the service."""

    def __init__(self, transport: CeleryTransport) -> None:
        host, settings = DjangoHost(transport.app), transport.settings
        self._names = Names(settings.prefix)
        self.serving: Callable[[], frozenset[str]] | None = None  # tells `served`, once the worker has begun
        self.had_queues = False  # it has read queues of ours since it has begun
        self.outdated = False  # a newer version has begun, so nothing more is taken
        self.pulse = Pulse()
        self.broker_lost = False  # while Celery looks at what ran when it lost its connection
        self.loop = ProcessLoop(
            host, turned=partial(self.pulse.give, "loop"), left=partial(self.pulse.take_back, "loop")
        )
        self.shutdown = Shutdown(grace=settings.shutdown_grace)
        self._look_out = LookOut(lambda: self.shutdown)
        self._owner, self._effects, self._touching = self._owner_and_effects(transport)
        surroundings = Surroundings(host=host, around_step=cache(lambda: around_step_of(settings.around_step)))
        self.service = HopService(
            effects=self._effects,
            registry=registry,
            settings=settings,
            surroundings=surroundings,
            deep=deep_calls.make,
        )

    def _owner_and_effects(self, transport: CeleryTransport) -> tuple[Owner | NoLease, Effects, Touching]:
        """Return who holds hops, what is done about them and who else keeps them, which depends on the store."""
        store, settings, outbox = transport.store, transport.settings, Outbox(transport.publisher, registry)
        if store is None:
            letters = transport.letter_queue
            alone = MessageOnlyEffects(outbox=outbox, letters=letters, settings=settings, worker=new_owner_id)
            return NoLease(), alone, Touching(None, settings)
        owner = Owner(store, lease=settings.lease, renewed=partial(self.pulse.give, "lease"))
        effects = RecordedEffects(
            store=store,
            outbox=outbox,
            settings=settings,
            owner=lambda: owner.id,
            stopping=lambda: self.shutdown.asked,
        )
        return owner, effects, Touching(store.endpoint, settings)

    def start_sweeping(self, on_outdated: Callable[[], object], served: Callable[[], Iterable[str]] = tuple) -> None:
        """Start putting hops back on their queue if their message or owner is lost; without a store, do nothing.

        `on_outdated` is called, in another thread, if a newer worker has begun; so is `served`, at each sweep, which
        tells the queues that this worker reads.
        """
        self._effects.start_sweeping(on_outdated, served)

    def stop_sweeping(self) -> None:
        """Stop that, and leave it to other workers."""
        self._effects.stop_sweeping()

    @property
    def served(self) -> frozenset[str] | None:
        """The activities whose queues the worker of this process reads now; None while it has not begun."""
        return self.serving() if self.serving is not None else None

    @property
    def swept_at(self) -> float | None:
        """When this worker swept last, on the monotonic clock; None if it does not sweep."""
        return self._effects.swept_at

    @property
    def sweep_failure(self) -> str:
        """Why the last sweep ended early; empty if it did not."""
        return self._effects.sweep_failure

    @contextmanager
    def losing_broker(self) -> Iterator[None]:
        """Say `broker_lost` inside the block."""
        self.broker_lost = True
        try:
            yield
        finally:
            self.broker_lost = False

    @property
    def drops_copies(self) -> bool:
        """Whether a second delivery of a hop that runs, or has ended, runs nothing."""
        return self._effects.drops_copies

    def keep_touched(self) -> None:
        """Have a helper extend the leases of this worker while a step holds the interpreter lock.

        This is called in the process that accepts deliveries, before a step can hold its lock.
        """
        self._touching.begin()

    def leave_touched(self) -> None:
        """End the helper, because no step runs here any more."""
        self._touching.end()

    def perform(self, arrival: Arrival) -> dict[str, str]:
        """Take one delivery through its hop and return a summary for Flower.

        Raises `Ignore` for a copy, which leaves the state of the task as it is, or `ShownAs` if its hop has ended, is
        parked, suspended or cancelled: that changes nothing either, but the copy may be all that an operator sees of
        it. Raises `HopFailed` if the workflow failed or is parked; `Retry` if the step waits, or is tried again later
        (a sweep sends it, not Celery); `Reject` if the store stays away, this worker ends or a newer one has begun,
        which puts the message back on its queue.
        """
        seen = Observed(arrival, task=self._names.task(arrival.activity))
        with seen.whole():
            return self._perform(arrival, seen)

    def _perform(self, arrival: Arrival, seen: Observed) -> dict[str, str]:
        if self.shutdown.asked:
            raise Reject("this worker ends", requeue=True)
        try:
            opening = self._patiently(lambda: self._opened(arrival, seen), OPEN_PATIENCE)
        except OutdatedVersion as error:
            time.sleep(OUTDATED_PAUSE)
            raise Reject(str(error), requeue=True) from None  # Celery logs the frames of causes, once for each message
        if opening == PUT_BACK:
            time.sleep(PUT_BACK_PAUSE)
        match opening:
            case Drop(reason=reason, stands=stands, jobs=jobs):
                seen.dropped(reason)
                if jobs is not None:
                    self._cancel(jobs)
                raise _dropped(reason, stands)
            case Refused(reason=reason, step_id=step_id):
                seen.ended("refused", reason)
                raise hop_failed(arrival.hop_id, step_id, reason)
            case Summary():
                return _shown(opening)
            case Opened():
                return self._run(arrival, opening)
        assert_never(opening)

    def _opened(self, arrival: Arrival, seen: Observed) -> Opening:
        try:
            opening = self.service.open(arrival, seen)
        except TransientError:
            self.pulse.claim_failed()
            raise
        self.pulse.claim_answered()
        return opening

    def _cancel(self, jobs: LeftJobs) -> None:
        """Cancel what a cancelled hop has left at a provider; nobody waits long for that."""
        try:
            with self.loop.running(jobs.cancel()) as future:
                future.result(LONGEST + BLOCKED_SIGN)
        except (TimeoutError, concurrent.futures.CancelledError, SoftTimeLimitExceeded) as error:
            text, fields = "what hop %s slept for may go on: %s", {"action": "job_left", "hop": jobs.hop_id}
            logger.warning(text, jobs.hop_id, type(error).__name__, extra=fields)

    def _run(self, arrival: Arrival, hop: Opened) -> dict[str, str]:
        complete_streams()
        outcome: Outcome | None = None
        try:
            with self.loop.running(self.service.run(hop)) as future, self._held(hop, future):
                with only_step_here(hop.message.step.step_id or ""):
                    outcome = self._outcome(hop, future)
                return _shown(self._close(hop, outcome))
        except HopUnknown:
            return self._regain(arrival, hop, outcome)

    def _held(self, hop: Opened, future: concurrent.futures.Future[Outcome]) -> AbstractContextManager[None]:
        def cancel() -> bool:
            if hop.journal is not None:
                hop.journal.lose()  # first: the loop is told a moment later, and a call might begin before
            return future.cancel()

        def settled(count: int) -> None:
            if hop.journal is not None:
                hop.journal.waits.notice(count)

        ends = hop.begun_at + hop.timeout
        closing = hop.closing
        return self._owner.holding(closing.hop_id, fence=closing.fence, cancel=cancel, ends=ends, settled=settled)

    def _regain(self, arrival: Arrival, hop: Opened, outcome: Outcome | None) -> dict[str, str]:
        """Go on with a hop of which the store has no record any more. If it ended, nothing is lost."""
        try:
            answer = self._patiently(lambda: self.service.regain(arrival, hop, outcome), CLOSE_PATIENCE)
        except HopUnknown:  # the store keeps losing its data: the message is sent again, and counts the attempts
            answer = self._patiently(lambda: self.service.regain(arrival, hop, None), CLOSE_PATIENCE)
        except OutdatedVersion as error:  # a newer worker adopts it
            raise Reject(str(error), requeue=True) from None
        match answer:
            case Refused(reason=reason, step_id=step_id):
                raise hop_failed(arrival.hop_id, step_id, reason)
            case Drop():
                raise Ignore("the store has lost its record of the hop, whose message is sent again")
            case Summary():
                return _shown(answer)
        assert_never(answer)

    def _outcome(self, hop: Opened, future: concurrent.futures.Future[Outcome]) -> Outcome:
        """Wait for the run; give it up if its code blocks the loop, because then no timeout can reach it."""
        run = Waiting(future=future, at_rest=lambda: hop.journal is not None and hop.journal.at_rest)
        try:
            with self._look_out.over(run):
                return future.result(hop.timeout + BLOCKED_GRACE)
        except concurrent.futures.CancelledError:
            if run.given_up and not (hop.journal is not None and hop.journal.lost):
                hop.seen.ended("given_back")
                self._give_back(hop)
            hop.seen.ended("lost")
            raise self._lost(hop) from None
        except (TimeoutError, SoftTimeLimitExceeded):
            doing = self.loop.doing()
            if not self.loop.leave_if_blocked(BLOCKED_SIGN):
                return timed_out(hop)
            logger.error(
                "the event loop of this process is blocked by this step or another one on it; later steps get a "
                "new loop; use async calls, or a sync function%s",
                traced(doing),
                extra={"action": "loop_blocked", "hop": hop.closing.hop_id},
            )
            return timed_out(hop, doing)

    def _lost(self, hop: Opened) -> Ignore:
        """Return what shows that the run was cancelled with its workflow, or that another owner has the hop.

        Raises `HopUnknown` if it was cancelled because the store has no record of the hop any more.
        """
        with suppress(StoreCorrupt, OutdatedVersion):
            if self._patiently(lambda: self._effects.is_cancelled(hop), OPEN_PATIENCE):
                return _dropped("cancelled", None)
        return Ignore("taken over by another owner")

    def _give_back(self, hop: Opened) -> NoReturn:
        """Let another worker begin the hop again; the attempt does not count."""
        fields = {"action": "hop_given_back", "hop": hop.closing.hop_id}
        logger.warning("this worker ends; hop %s is given back", hop.closing.hop_id, extra=fields)
        if not self._effects.release(hop):
            raise Reject("this worker ends", requeue=True)
        raise Ignore("given back, because this worker ends")  # the next sweep of any worker sends its message

    def _close(self, hop: Opened, outcome: Outcome) -> Summary:
        return self._patiently(lambda: self.service.close(hop, outcome), CLOSE_PATIENCE)

    def _patiently(self, call: Callable[[], T], limit: float) -> T:
        """Repeat the call while the store or broker is away; after `limit` seconds give the message back."""
        end, waits = time.monotonic() + limit, patience()
        try:
            while True:
                try:
                    return call()
                except TransientError as error:
                    logger.warning("waiting: %s", error, extra={"action": "waiting_for_server"})
                    wait = next(waits)
                    if time.monotonic() + wait > end or self.shutdown.over:
                        raise Reject(str(error), requeue=True) from error
                time.sleep(wait)
        except SoftTimeLimitExceeded as error:
            raise Reject("the time limit of the message has expired", requeue=True) from error


def _dropped(reason: str, stands: Summary | None) -> Ignore:
    """Return what leaves a hop alone whose delivery is dropped, and shows how it stands if no run will show that."""
    if reason == "cancelled":
        return ShownAs(reason, "task-revoked", {"terminated": False, "signum": None, "expired": False})
    if stands is None:
        return Ignore(reason)
    if stands.outcome is ClosedAs.SUSPENDED:
        return ShownAs(reason, "task-retried", {"exception": repr(_waits(stands)), "traceback": ""})
    if stands.error_class is None:
        return ShownAs(reason, "task-succeeded", {"result": repr(_shown(stands))})
    error, event = _failed(stands), "task-retried" if stands.outcome is ClosedAs.RETRYING else "task-failed"
    return ShownAs(reason, event, {"exception": repr(error), "traceback": str(cause_of(error))})


def _shown(summary: Summary) -> dict[str, str]:
    if summary.outcome is ClosedAs.OVERTAKEN:
        raise Ignore("another owner took over the hop")
    if summary.outcome in (ClosedAs.FAILED, ClosedAs.PARKED):
        raise _failed(summary)
    if summary.outcome is ClosedAs.SUSPENDED:
        # Flower shows a retry, with what the hop waits for; only an answer, a signal or the time sends it again.
        reason = _waits(summary)
        raise Retry(str(reason), exc=reason)
    if summary.outcome is ClosedAs.RETRYING:
        # Flower would keep showing a success, whatever follows it.
        raise Retry(exc=_failed(summary), when=summary.delay)
    shown = {"step": summary.step_id, "outcome": summary.outcome.value}
    return shown if summary.next_hop is None else {**shown, "next": summary.next_hop}


def _waits(summary: Summary) -> HopSuspended:
    return HopSuspended(", ".join(summary.waits_for) or "a time")


def _failed(summary: Summary) -> HopFailed:
    """Return what Celery is told of a failed hop, with the frames of its step."""
    failed = hop_failed(summary.hop_id, summary.step_id, summary.error_class or "")
    return failed.with_traceback(traceback_of(summary.frames))
