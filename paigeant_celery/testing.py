"""The test kit: run workflows in a test's own event loop and context, without a broker or a worker.

Put `pytest_plugins = ["paigeant_celery.testing"]` into the top `conftest.py`, then ask for the fixture:

    async def test_the_draft_reaches_the_critic(workflow_harness):
        with writer.override(model=TestModel(custom_output_text="a draft")):
            result = await workflow_harness.run([writer.activity("write"), critic.activity("judge")])

        assert result.outputs["writer"] == "a draft"

Without pytest, as in tests of Django, make a `WorkflowHarness()` in each test.

Hops go through the code that a worker runs: guard, claim, run, decide, commit. Only the broker is missing:
published messages wait in `pending` until they are delivered. Nobody waits for time, and `answers` stand for people:

    result = await workflow_harness.run([clerk.activity("refund it")], answers={"refund": True, "paid": {"eur": 3}})
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from paigeant_celery.activities.port import Activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.sending import Sending
from paigeant_celery.client.dispatch import WorkflowDispatcher
from paigeant_celery.client.handle import WorkflowHandle
from paigeant_celery.client.prepared import Prepared, answer_prepared
from paigeant_celery.client.readings import WorkflowResult
from paigeant_celery.client.waits import pending_wait, waits_of_hop
from paigeant_celery.core.message import reread
from paigeant_celery.core.names import Names
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import Step, is_step, steps_in
from paigeant_celery.core.task_steps import TaskSignature, is_signature, steps_of
from paigeant_celery.core.wait_errors import WorkflowWaits
from paigeant_celery.hop.claims import Claims
from paigeant_celery.hop.effects import ClosedAs, Drop, Refused
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.lateness import Lateness
from paigeant_celery.hop.run import Opened
from paigeant_celery.hop.service import HopService
from paigeant_celery.hop.surroundings import AroundStep, Surroundings, around_step_of
from paigeant_celery.hop.sweeper import Sweeper
from paigeant_celery.hop.with_store import RecordedEffects
from paigeant_celery.store.branch_port import HopReading
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.tree import hops_below
from paigeant_celery.worker.django_host import DjangoContexts

__all__ = ["Delivery", "WorkflowHarness", "workflow_harness"]

OWNER = "harness"
MOST_DELIVERIES = 100_000  # deliveries of one `run`; a workflow has far fewer steps


class WorkflowHarness:
    """Dispatches workflows and delivers their hops by hand.

    `pending` holds the messages that were published but not yet delivered, `delivered` those that were, in order.
    `transport` can be passed to any dispatcher; `store` is its in-memory store. Nobody waits for time: the store's
    clock is set forward instead. `around_step` is what workers have as `paigeant_around_step`.
    """

    def __init__(self, settings: Settings | None = None, *, around_step: str | AroundStep | None = None) -> None:
        settings = settings or Settings()
        self._skipped = timedelta()
        self._retrying: set[str] = set()
        self._held: list[Activity] = []  # of dispatched steps, because a test may drop what it made them with
        self.store = MemoryStore(lease=settings.lease, ttl=settings.result_ttl, now=self._now)
        self.pending: deque[Delivery] = deque()
        self.delivered: list[Delivery] = []
        self.transport = _HarnessTransport(settings, self.store, self.pending)
        self._dispatcher = WorkflowDispatcher()
        self._outbox = outbox = Outbox(self.transport.publisher, registry)
        around = around_step_of(around_step if around_step is not None else settings.around_step)
        claims = Claims(store=self.store, outbox=outbox, settings=settings, owner=lambda: OWNER)
        lateness = Lateness(store=self.store, claims=claims, outbox=outbox, settings=settings)
        self._sweeper = Sweeper(store=self.store, outbox=outbox, end_late=lateness.end)
        self._service = HopService(
            effects=RecordedEffects(store=self.store, outbox=outbox, settings=settings, owner=lambda: OWNER),
            registry=registry,
            settings=settings,
            surroundings=Surroundings(host=DjangoContexts(), around_step=lambda: around),
        )

    async def run(
        self,
        itinerary: Iterable[Step | TaskSignature] | None = None,
        *,
        dispatcher: WorkflowDispatcher | None = None,
        variables: Mapping[str, object] | None = None,
        correlation_id: str | None = None,
        start_at: datetime | None = None,
        deadline: datetime | None = None,
        stream: bool = False,
        usage_limits: object = None,
        answers: Prepared | None = None,
        deliver_twice: bool = False,
    ) -> WorkflowResult:
        """Run a workflow to its end and return its result.

        The steps are `itinerary`, or those on the runway of `dispatcher`. `deliver_twice` delivers each hop once
        more after it ran, as a broker may.

        `answers` has what people and programs outside answer, by the name of the wait or signal, or of the tool whose
        calls wait: JSON, for a call also `True`, `False` or what pydantic-ai has (`ToolDenied("no")`), for a wait with
        several calls also a mapping of their ids. A function gets the `PendingWait`, or the `AskedCall` of a tool, and
        returns that. What has no answer times out if it has a timeout; sleeps and polls take no time.

        Waits of branches are answered in the order of their places: that of branch 0 before that of branch 1.

        Raises what `dispatch_workflow` raises, `UnknownActivity` if a step's activity is not loaded, `WorkflowWaits` if
        something that never times out has no answer, `InvalidAnswer`, and `WorkflowFailed`.
        """
        handle = self.dispatch(
            itinerary,
            dispatcher=dispatcher,
            variables=variables,
            correlation_id=correlation_id,
            start_at=start_at,
            deadline=deadline,
            stream=stream,
            usage_limits=usage_limits,
        )
        times = 2 if deliver_twice else 1
        await self.deliver(times=times)
        answered: set[tuple[str, str]] = set()
        while await self._go_on(handle, answers or {}, answered):
            await self.deliver(times=times)
        return handle.result_sync(timeout=0)

    async def _go_on(self, handle: WorkflowHandle, answers: Prepared, answered: set[tuple[str, str]]) -> bool:
        """Give the suspended hops of a workflow what they wait for, or the time; False if none is suspended.

        `answered` are the hops and ids of waits that got their answer. One that is open all the same cannot use it.
        """
        record = self.store.workflow(handle.correlation_id)
        if record is None or record.state != "running":
            return False
        asleep = [hop for hop in self._hops(record.hop_id) if hop.state == "suspended"]
        open_ = [(hop, wait) for hop in asleep for wait in hop.waits if wait.state == "open"]
        ids = {wait.token: (hop.hop_id, wait.wait_id) for hop, wait in open_}
        asked = [pending_wait(wait, hop.hop_id) for hop, wait in open_ if ids[wait.token] not in answered]
        given = await answer_prepared(handle, answers, to=asked)
        answered.update(ids[token] for token in given)
        if given:
            return True
        times = [time for time in (*(hop.wake_at for hop in asleep), *(wait.until for _, wait in open_)) if time]
        if times:
            self.skip(min(times) - self._now())
            return True
        if open_:
            waits_for = (wait for hop in asleep for wait in waits_of_hop(hop, _path_of(hop)))
            raise WorkflowWaits(handle.correlation_id, "; ".join(map(str, waits_for)))
        return False

    def _hops(self, hop_id: str) -> Iterator[HopReading]:
        """Yield a hop and those at which the branches below it stand, in the order of their places."""
        if (hop := self.store.hop(hop_id)) is not None:
            yield hop
            yield from hops_below(self.store, hop_id)

    def dispatch(
        self,
        itinerary: Iterable[Step | TaskSignature] | None = None,
        *,
        dispatcher: WorkflowDispatcher | None = None,
        variables: Mapping[str, object] | None = None,
        correlation_id: str | None = None,
        start_at: datetime | None = None,
        deadline: datetime | None = None,
        stream: bool = False,
        usage_limits: object = None,
    ) -> WorkflowHandle:
        """Dispatch a workflow without delivering anything yet; return its handle."""
        alone = is_step(itinerary) or is_signature(itinerary)
        steps = list(steps_of(itinerary)) if isinstance(itinerary, Iterable) and not alone else itinerary
        known = [step for step in steps if is_step(step)] if isinstance(steps, list) else []
        for _, step, _ in steps_in(known, "itinerary"):  # the dispatcher says what else is wrong
            self._held.append(registry.get(step.activity))
        dispatcher = dispatcher or self._dispatcher
        dispatched = dispatcher.dispatch_workflow_sync(
            self.transport,
            itinerary=steps,
            variables=variables,
            correlation_id=correlation_id,
            start_at=start_at,
            deadline=deadline,
            stream=stream,
            usage_limits=usage_limits,
        )
        return dispatcher.handle(dispatched, self.transport)

    async def deliver(self, hops: int | None = None, *, times: int = 1) -> list[str]:
        """Deliver pending hops, each `times` times: `hops` of them, or until none is left.

        Returns what became of each delivery: `completed`, `workflow_completed`, `retrying`, `suspended`, `parked`,
        `failed`, `refused: <reason>` or `dropped: <reason>`. A suspended hop is pending again when it is answered
        through its handle, or its time is over: see `skip`.
        """
        outcomes: list[str] = []
        for _ in range(hops if hops is not None else MOST_DELIVERIES):
            self._send_retries()
            if not self.pending:
                break
            delivery = self.pending.popleft()
            for _ in range(times):
                outcomes.append(await self.redeliver(delivery))
        return outcomes

    async def redeliver(self, delivery: Delivery) -> str:
        """Deliver one message, for the first time or again, and say what became of it."""
        self.delivered.append(delivery)
        arrival = Arrival(hop_id=delivery.hop_id, activity=delivery.activity, envelope=delivery.envelope)
        opening = self._service.open(arrival)
        if isinstance(opening, Opened):
            opening = self._service.close(opening, await self._service.run(opening))
        if isinstance(opening, Drop):
            if opening.jobs is not None:
                await opening.jobs.cancel()
            return f"dropped: {opening.reason}"
        if isinstance(opening, Refused):
            return f"refused: {opening.reason}"
        if opening.outcome is ClosedAs.RETRYING:
            self._retrying.add(delivery.hop_id)
        return opening.outcome.value

    def _now(self) -> datetime:
        return datetime.now(UTC) + self._skipped

    def skip(self, delay: timedelta | float) -> None:
        """Set the clock forward, by seconds or a `timedelta`, and send what is due then: what slept or timed out."""
        passed = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
        self._skipped += max(passed, timedelta())
        self.sweep()

    def sweep(self) -> None:
        """Resend messages that are due, such as a redriven workflow's; the clock is set forward by a second."""
        self._skipped += timedelta(seconds=1)
        self._sweeper.sweep()

    def _send_retries(self) -> None:
        """If nothing else is pending, set the clock forward to the next attempt of a hop and send it."""
        while self._retrying and not self.pending:
            read = {hop_id: self.store.hop(hop_id) for hop_id in self._retrying}
            due = {hop_id: hop.retry_at for hop_id, hop in read.items() if hop is not None and hop.retry_at is not None}
            self._retrying &= due.keys()
            if due:
                self.skip(min(due.values()) - self._now())


def _path_of(hop: HopReading) -> str:
    """Return the path of the step of a hop in a branch; "" for any other."""
    message = reread(hop.envelope)
    return message.path if message.slip.branch is not None else ""


class _HarnessPublisher:
    def __init__(self, names: Names, pending: deque[Delivery]) -> None:
        self._names, self._pending = names, pending

    def queue_for(self, activity: str, queue: str | None) -> str:
        return queue or self._names.queue(activity)

    def begin(self, delivery: Delivery) -> Sending[None]:
        return Sending.made(lambda: self._pending.append(delivery))

    def waiting(self, queue: str) -> int:
        return sum(delivery.queue == queue for delivery in self._pending)


class _HarnessTransport:
    def __init__(self, settings: Settings, store: MemoryStore, pending: deque[Delivery]) -> None:
        self.settings, self.store = settings, store
        self.publisher = _HarnessPublisher(Names(settings.prefix), pending)
        self.letters = None  # the store keeps them

    def check_dispatch(self) -> None:
        """Check nothing: no Celery configuration reaches the harness."""

    def check_broker(self) -> None:
        """Check nothing: there is no broker."""

    def serves(self, activity: str) -> bool:
        """Say yes: the harness delivers every step itself."""
        return True


def _as_fixture(make: Callable[[], WorkflowHarness]) -> object:
    """Return what pytest calls; the tests of Django and others, which have no pytest, make a harness themselves."""
    try:
        import pytest
    except ModuleNotFoundError:
        return make
    return pytest.fixture(make)


@_as_fixture
def workflow_harness() -> WorkflowHarness:
    """Return a harness with an empty store and the default settings."""
    return WorkflowHarness()
