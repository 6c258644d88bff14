"""The body of a hop's task: what it waits for, when it gives up, and what it then tells Celery."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar, cast

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from paigeant_celery.activities.functions import FunctionActivity, activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.activities.stacks import frame_of
from paigeant_celery.broker import metrics
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.errors import HopFailed, OutdatedVersion, StoreCorrupt, Unreachable
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.message import PaigeantMessage, encode, sha256
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import FunctionSpec, OutputRef
from paigeant_celery.hop import service
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.port import Claim, Claimed, HopRecord, NewWorkflow, WorkflowRecord
from paigeant_celery.worker import runtime
from paigeant_celery.worker.deep_calls import DeepCalls
from paigeant_celery.worker.runtime import HopRuntime, ShownAs
from paigeant_celery.worker.shutdown import Shutdown

T = TypeVar("T")
MakeMessage = Callable[..., PaigeantMessage]

PATIENCE = 20.0  # seconds after which a test that waits has failed
LEASE = 0.2  # seconds, renewed after a quarter of them


class Interrupted(BaseException):
    """What a stopping worker raises in a waiting task body."""


class Bench:
    """One process that serves hops from a store in memory, whose clock is `at`.

    `failing` maps operations (`claim`, `complete`, `publish`) to the errors that they raise, in order; `before`
    maps them to what happens just before each call.
    """

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 2, 13, 0, tzinfo=UTC)
        self.store = MemoryStore(lease=LEASE, ttl=3600.0, now=lambda: self.at)
        self.failing: dict[str, list[BaseException]] = {}
        self.before: dict[str, Callable[[], None]] = {}
        self.sent: list[Delivery] = []
        for operation in ("claim", "complete"):
            setattr(self.store, operation, self._may_fail(operation, getattr(self.store, operation)))
        publisher = SimpleNamespace(
            queue_for=lambda activity, queue: queue or activity,
            begin=lambda delivery: Sending.made(partial(self._may_fail("publish", self.sent.append), delivery)),
        )
        self.app = Celery("bench", set_as_current=False)
        transport = SimpleNamespace(
            app=self.app, store=self.store, settings=Settings(lease=LEASE), publisher=publisher, letters=None
        )
        self.runtime = HopRuntime(cast("Any", transport))

    def start(self, message: PaigeantMessage) -> Arrival:
        """Record a workflow and return the delivery of its first hop."""
        envelope = encode(message)
        hop = HopRecord(hop_id=message.message_id, queue="q", envelope=envelope, digest=sha256(envelope))
        self.store.start(NewWorkflow(correlation_id="w-1", content="x", hop=hop))
        return Arrival(hop_id=message.message_id, activity=message.step.activity, envelope=envelope)

    def record(self) -> WorkflowRecord:
        found = self.store.workflow("w-1")
        assert found is not None
        return found

    def take_over(self) -> None:
        """Let the lease lapse and give the hop to another process, although this one renews in between."""
        claim = Claim(hop_id="w-1.0", owner="other", token="other", max_attempts=5, digest=None)
        for _ in range(1000):
            self.at += timedelta(seconds=LEASE)
            if isinstance(MemoryStore.claim(self.store, claim), Claimed):
                return
        raise AssertionError("the lease did not lapse")

    def _may_fail(self, operation: str, call: Callable[..., T]) -> Callable[..., T]:
        def called(*arguments: Any) -> T:
            self.before.get(operation, nothing)()
            if self.failing.get(operation):
                raise self.failing[operation].pop(0)
            return call(*arguments)

        return called


def nothing() -> None:
    """What happens before a call that is left alone."""


class Clock:
    """Stands in for the module `time`: waiting takes no time, and `waits` says how long it would have taken.

    A wait beyond `limit` is cut short, as by the time limit of a message.
    """

    def __init__(self) -> None:
        self.now, self.limit = 0.0, float("inf")
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        if self.now > self.limit:
            raise SoftTimeLimitExceeded


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let the task body wait without waiting."""
    clock = Clock()
    monkeypatch.setattr(runtime, "time", clock)
    return clock


@pytest.fixture
def runs() -> list[str]:
    """The hops that the steps of `one` ran."""
    return []


@pytest.fixture
def one(runs: list[str]) -> FunctionActivity[[], str]:
    """A step that reports when it runs."""

    @activity
    def one() -> str:
        runs.append("one")
        return "done"

    return one


@pytest.fixture
def first(bench: Bench, one: FunctionActivity[[], str], make_message: MakeMessage) -> Arrival:
    """The first delivery of a workflow of `one` and `two`."""
    return bench.start(make_message(one.activity(), FunctionSpec("two")))


def away(times: int) -> list[BaseException]:
    return [Unreachable("store", "redis://nowhere", "ConnectionError") for _ in range(times)]


# What Celery is told.


def test_a_completed_hop_is_a_success_that_names_the_next_one(bench: Bench, first: Arrival) -> None:
    """Flower shows where the workflow went, and no content; it shows the text that Python gives of the result."""
    shown = bench.runtime.perform(first)

    assert shown == {"step": "one", "outcome": "completed", "next": "w-1.1"}
    assert repr(shown) == "{'step': 'one', 'outcome': 'completed', 'next': 'w-1.1'}"


def test_the_thread_of_a_task_reads_and_writes_no_envelope_if_there_are_many(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, first: Arrival
) -> None:
    """It would keep the stack that this needs for as long as it lives."""
    seen, few = dict[str, str](), DeepCalls(few=0)
    monkeypatch.setattr(bench.runtime.service, "_deep", few.make)
    for name in ("read", "decide"):
        monkeypatch.setattr(service, name, _noting_thread(seen, name, getattr(service, name)))

    assert bench.runtime.perform(first)["outcome"] == "completed"

    assert seen == {"read": "paigeant-deep-calls", "decide": "paigeant-deep-calls"}


def _noting_thread(seen: dict[str, str], name: str, call: Callable[..., T]) -> Callable[..., T]:
    def noting(*args: Any, **kwargs: Any) -> T:
        seen[name] = threading.current_thread().name  # that of the last call: it is also decided that a step begins
        return call(*args, **kwargs)

    return noting


def test_a_message_that_only_a_newer_worker_may_take_goes_back_after_a_pause(
    bench: Bench, first: Arrival, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the worker has left its queues, the broker would hand it the message again at once."""
    paused: list[float] = []
    monkeypatch.setattr(runtime.time, "sleep", paused.append)
    bench.failing["claim"] = [OutdatedVersion("redis://host/0", "p", 2, 1)]

    with pytest.raises(Reject) as caught:
        bench.runtime.perform(first)

    assert (caught.value.requeue, paused) == (True, [runtime.OUTDATED_PAUSE])
    assert "install that version here too" in str(caught.value.reason)
    assert bench.runtime.perform(first)["outcome"] == "completed"


def test_a_message_that_was_put_back_leaves_others_the_time_to_take_it(
    bench: Bench, make_message: MakeMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a newer worker can read it, and no store has it sent again later."""
    paused: list[float] = []
    monkeypatch.setattr(runtime.time, "sleep", paused.append)
    tree = json.loads(encode(make_message()))
    tree["spec_version"], tree["slip"]["itinerary"][0]["kind"] = "1.9", "edit"

    with pytest.raises(Ignore, match="put_back"):
        bench.runtime.perform(Arrival(hop_id="w-1.0", activity="one", envelope=json.dumps(tree)))

    assert (paused, [sent.given_back for sent in bench.sent]) == ([runtime.PUT_BACK_PAUSE], [1])


def test_a_refused_message_is_a_failure_that_names_its_step_and_its_copy_is_ignored(
    bench: Bench, make_message: MakeMessage
) -> None:
    """A message that cannot run must not look like success; a copy must not look like work."""
    arrival = bench.start(make_message(FunctionSpec("elsewhere")))

    with pytest.raises(HopFailed) as caught:
        bench.runtime.perform(arrival)
    with pytest.raises(Ignore, match="parked"):
        bench.runtime.perform(replace(arrival, fault=None, token="another"))

    assert caught.value.args == ("w-1.0", "elsewhere", "unknown_agent")


def test_a_copy_of_a_hop_that_has_ended_is_shown_as_the_hop_ended(bench: Bench, make_message: MakeMessage) -> None:
    """Someone who opened Flower later would see it begin and never end."""

    @activity
    def one() -> None:
        """Do well."""

    @activity
    def two() -> None:
        raise TypeError

    first = bench.start(make_message(one.activity(), two.activity()))
    ended = bench.runtime.perform(first)
    while_the_next_waits = shown(bench, first)
    sent = bench.sent[-1]
    second = Arrival(hop_id=sent.hop_id, activity=sent.activity, envelope=sent.envelope)
    with pytest.raises(HopFailed) as failed:
        bench.runtime.perform(second)

    assert shown(bench, first) == while_the_next_waits == ("task-succeeded", {"result": repr(ended)})
    assert failed.value.args == ("w-1.1", "two", "TypeError")
    event, fields = shown(bench, second)
    assert (event, fields["exception"]) == ("task-failed", repr(failed.value))
    assert f", in {two.__qualname__}\n" in fields["traceback"]


def shown(bench: Bench, arrival: Arrival) -> tuple[str, dict[str, object]]:
    """The event that shows a copy."""
    with pytest.raises(ShownAs) as caught:
        bench.runtime.perform(replace(arrival, token=f"copy-{len(bench.sent)}"))
    return caught.value.event, caught.value.fields


def test_a_copy_of_the_last_hop_is_shown_as_the_end_of_the_workflow(bench: Bench, make_message: MakeMessage) -> None:
    """Also by a worker that could not have run it."""
    one = activity(name="one")(lambda: None)
    arrival = bench.start(make_message(one.activity(), outputs=("before",)))
    ended = bench.runtime.perform(arrival)

    copied = shown(bench, arrival)
    with registry.isolated():
        unread = shown(bench, arrival)

    assert copied == unread == ("task-succeeded", {"result": repr(ended)})
    assert ended == {"step": "one", "outcome": "workflow_completed"}


def test_a_copy_of_a_hop_whose_record_is_damaged_is_ignored(bench: Bench, first: Arrival) -> None:
    """Nothing is shown that is not known."""
    bench.runtime.perform(first)
    found = replace(bench.record(), envelope="{")
    bench.store.workflow = lambda _: found  # type: ignore[method-assign]

    with pytest.raises(Ignore, match="finished"):
        bench.runtime.perform(replace(first, token="copy"))


def test_a_copy_of_a_parked_hop_is_ignored_even_if_its_workflow_cannot_be_read(
    bench: Bench, make_message: MakeMessage
) -> None:
    """What a screen shows must not fail a task."""

    def workflow(correlation_id: str) -> NoReturn:
        raise StoreCorrupt("wf:w-1", "WRONGTYPE")

    arrival = bench.start(make_message(FunctionSpec("elsewhere")))
    with pytest.raises(HopFailed):
        bench.runtime.perform(arrival)
    bench.store.workflow = workflow  # type: ignore[method-assign]

    with pytest.raises(Ignore, match="parked"):
        bench.runtime.perform(replace(arrival, token="another"))


def test_a_hop_of_a_cancelled_workflow_is_ignored_and_shown_as_revoked(bench: Bench, first: Arrival) -> None:
    """It never began, and nothing of it failed."""
    bench.store.cancel("w-1")

    with pytest.raises(ShownAs, match="cancelled") as caught:
        bench.runtime.perform(first)

    assert caught.value.event == "task-revoked"
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_a_copy_of_a_parked_hop_is_ignored_and_shown_as_failed(bench: Bench, make_message: MakeMessage) -> None:
    """It may go on when somebody lets it, and until then it is shown as what it is."""
    arrival = bench.start(make_message(FunctionSpec("elsewhere")))
    with pytest.raises(HopFailed) as parked:
        bench.runtime.perform(arrival)

    with pytest.raises(ShownAs, match="parked") as caught:
        bench.runtime.perform(replace(arrival, token="another"))

    assert (caught.value.event, caught.value.fields["exception"]) == ("task-failed", repr(parked.value))


def test_another_envelope_under_the_id_of_a_hop_changes_nothing_on_screen(bench: Bench, first: Arrival) -> None:
    """A forgery is reported in a dead letter, and the hop with its id is shown unchanged."""
    altered = replace(first, envelope=str(first.envelope).replace("{}", "{ }", 1))

    with pytest.raises(Ignore, match="altered"):
        bench.runtime.perform(altered)

    assert bench.runtime.perform(first)["outcome"] == "completed"


# Runs that are given up.


@pytest.fixture
def interrupting() -> Iterator[Callable[[type[BaseException]], None]]:
    """Raise an error in the main thread once it waits for a run, as signals of time limits and stops do."""
    errors: list[type[BaseException]] = []

    def interrupt(number: int, frame: object) -> None:
        raise errors.pop()

    def interrupt_with(error: type[BaseException]) -> None:
        errors.append(error)
        end, waiter = time.monotonic() + PATIENCE, threading.main_thread().ident
        assert waiter is not None
        while not waits_for_a_future(waiter) and time.monotonic() < end:
            os.sched_yield()
        signal.pthread_kill(waiter, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield interrupt_with
    signal.signal(signal.SIGUSR1, before)


def waits_for_a_future(thread: int) -> bool:
    frame = frame_of(thread)
    assert frame is not None
    caller = frame.f_back
    wait, result = threading.Condition.wait.__code__, concurrent.futures.Future.result.__code__
    return frame.f_code is wait and caller is not None and caller.f_code is result


class Endless:
    """A step that goes on until it is cancelled, and then says so; `meanwhile` is called in another thread."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self.cancelled = threading.Event()

        @activity(name="endless", policy=StepPolicy(timeout=PATIENCE))
        async def step() -> None:
            try:
                await asyncio.gather(asyncio.to_thread(meanwhile), asyncio.Event().wait())
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

        self.held, self.step = step, step.activity()  # the registry alone does not keep it


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_an_interrupted_task_body_cancels_its_run_and_records_nothing(
    bench: Bench, make_message: MakeMessage, interrupting: Callable[[type[BaseException]], None]
) -> None:
    """A stopped worker does not pay for an answer that nobody waits for; another one runs the hop."""
    endless = Endless(lambda: interrupting(Interrupted))
    arrival = bench.start(make_message(endless.step))

    with pytest.raises(Interrupted):
        bench.runtime.perform(arrival)

    assert endless.cancelled.wait(PATIENCE)
    assert (bench.record().state, bench.record().running, bench.sent) == ("running", True, [])


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_a_time_limit_of_the_message_ends_the_step_as_its_own_does(
    bench: Bench, make_message: MakeMessage, interrupting: Callable[[type[BaseException]], None]
) -> None:
    """Those who wait get an error, whichever limit came first."""
    endless = Endless(lambda: interrupting(SoftTimeLimitExceeded))
    arrival = bench.start(make_message(endless.step))

    with pytest.raises(Retry, match="TimeoutError"):
        bench.runtime.perform(arrival)

    assert endless.cancelled.wait(PATIENCE)
    assert bench.record().failure == Failure(
        step_id="endless", error_class="TimeoutError", text="the step ran longer than 20 s"
    )


def test_the_run_of_a_lost_hop_is_cancelled_and_the_delivery_ignored(bench: Bench, make_message: MakeMessage) -> None:
    """Another worker took over the hop; this one stops paying and leaves the hop alone."""
    endless = Endless(bench.take_over)
    arrival = bench.start(make_message(endless.step))

    with pytest.raises(Ignore, match="taken over"):
        bench.runtime.perform(arrival)

    assert endless.cancelled.wait(PATIENCE)
    assert (bench.record().state, bench.record().running, bench.record().attempt) == ("running", True, 2)


def test_the_run_of_a_cancelled_workflow_is_shown_as_revoked(bench: Bench, make_message: MakeMessage) -> None:
    """However it was cancelled, nobody must think that it still runs."""
    endless = Endless(lambda: bench.store.cancel("w-1"))
    arrival = bench.start(make_message(endless.step))

    with pytest.raises(ShownAs, match="cancelled"):
        bench.runtime.perform(arrival)

    assert endless.cancelled.wait(PATIENCE)


def test_a_step_whose_hop_was_taken_as_it_ended_is_ignored(bench: Bench, make_message: MakeMessage) -> None:
    """The answer came too late for a renewal to say so; the new owner gives its own."""

    @activity
    async def one() -> None:
        """End at once."""

    arrival = bench.start(make_message(one.activity(), FunctionSpec("two")))
    bench.before["complete"] = bench.take_over

    with pytest.raises(Ignore, match="another owner took over the hop"):
        bench.runtime.perform(arrival)

    assert (bench.record().hop_id, bench.record().running, bench.sent) == ("w-1.0", True, [])


def test_a_step_that_blocks_the_loop_times_out_and_the_next_one_runs(
    bench: Bench, make_message: MakeMessage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Code that never awaits blocks neither its own workflow nor the others in its process."""
    monkeypatch.setattr(runtime, "BLOCKED_GRACE", 0.05)
    monkeypatch.setattr(runtime, "BLOCKED_SIGN", 0.05)
    release = threading.Event()

    @activity(policy=StepPolicy(timeout=0.05))
    async def blocking() -> None:
        release.wait(PATIENCE)

    async def other() -> str:
        return "ran"

    try:
        with pytest.raises(Retry, match="TimeoutError"):
            bench.runtime.perform(bench.start(make_message(blocking.activity())))
        with bench.runtime.loop.running(other()) as future:
            assert future.result(PATIENCE) == "ran"
    finally:
        release.set()

    failure = bench.record().failure
    assert failure is not None
    assert replace(failure, cause=None) == Failure(
        step_id="blocking", error_class="TimeoutError", text="the step ran longer than 0.05 s"
    )
    assert failure.where.endswith(f"{blocking.function.__code__.co_firstlineno + 2} in {blocking.__qualname__}")
    assert [record.__dict__["hop"] for record in caplog.records if record.__dict__.get("action") == "loop_blocked"] == [
        "w-1.0"
    ]


# Servers that are unavailable.


def test_a_store_that_stays_away_gives_the_message_back_before_anything_runs(
    bench: Bench, first: Arrival, clock: Clock, runs: list[str]
) -> None:
    """Another worker may reach it; this one asks for half a minute, less and less often."""
    bench.failing["claim"] = away(100)

    with pytest.raises(Reject) as caught:
        bench.runtime.perform(first)

    assert caught.value.requeue
    assert [round(wait, 1) for wait in clock.waits] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]
    assert runs == []


def test_a_store_that_comes_back_in_time_runs_the_step(
    bench: Bench, first: Arrival, clock: Clock, runs: list[str]
) -> None:
    """A short outage moves no message."""
    bench.failing["claim"] = away(3)

    assert bench.runtime.perform(first)["outcome"] == "completed"

    assert (len(clock.waits), runs) == (3, ["one"])


def test_an_output_that_was_paid_for_is_kept_until_it_is_recorded(
    bench: Bench, first: Arrival, clock: Clock, runs: list[str]
) -> None:
    """Servers restart for minutes; asking the model again would cost more than waiting."""
    bench.failing["complete"] = away(100)

    assert bench.runtime.perform(first) == {"step": "one", "outcome": "completed", "next": "w-1.1"}

    assert sum(clock.waits) > 400
    assert runs == ["one"]
    assert [sent.envelope for sent in bench.sent] == [bench.record().envelope]
    assert (bench.record().hop_id, bench.record().running) == ("w-1.1", False)


def test_a_broker_that_is_away_keeps_no_slot_once_the_next_hop_is_recorded(
    bench: Bench, first: Arrival, clock: Clock, runs: list[str]
) -> None:
    """A sweep sends it; the slot runs other workflows meanwhile. So it is for a copy of a hop that has ended."""
    bench.failing["publish"] = away(100)

    assert bench.runtime.perform(first) == {"step": "one", "outcome": "completed", "next": "w-1.1"}
    with pytest.raises(Ignore):
        bench.runtime.perform(first)

    assert (clock.waits, runs, bench.sent) == ([], ["one"], [])
    assert (bench.record().hop_id, bench.record().awaits_message) == ("w-1.1", True)


def test_a_store_that_never_comes_back_gives_a_finished_step_back_at_last(
    bench: Bench, first: Arrival, clock: Clock
) -> None:
    """A worker does not hold its slot forever; after a quarter of an hour the broker gets the message back."""
    bench.failing["complete"] = away(1000)

    with pytest.raises(Reject) as caught:
        bench.runtime.perform(first)

    assert caught.value.requeue
    assert 890 < sum(clock.waits) <= 900


@pytest.mark.parametrize("operation", ["claim", "complete"])
def test_a_time_limit_while_a_server_is_away_gives_the_message_back(
    bench: Bench, first: Arrival, clock: Clock, operation: str
) -> None:
    """The limit ends the waiting; it is not a failure of a step that waits or has ended."""
    bench.failing[operation], clock.limit = away(100), 3.0

    with pytest.raises(Reject, match="time limit") as caught:
        bench.runtime.perform(first)

    assert caught.value.requeue
    assert (bench.record().state, len(clock.waits)) == ("running", 5)


@pytest.mark.parametrize(
    ("operation", "counted"), [("claim", "paigeant.deliveries.put_back"), ("complete", "paigeant.hops")]
)
def test_a_message_that_goes_back_is_counted_as_an_attempt_only_if_one_had_begun(
    bench: Bench, first: Arrival, clock: Clock, monkeypatch: pytest.MonkeyPatch, operation: str, counted: str
) -> None:
    """In an outage the same few messages go round, and a dashboard would show a storm of attempts."""
    seen: list[tuple[str, str]] = []

    def record(name: str, amount: float, attributes: dict[str, str]) -> None:
        if "paigeant.outcome" in attributes and not name.startswith("messaging."):
            seen.append((name, attributes["paigeant.outcome"]))

    monkeypatch.setattr(metrics, "_record", record)
    bench.failing[operation] = away(1000)

    with pytest.raises(Reject):
        bench.runtime.perform(first)

    assert seen == [(counted, "put_back")]
    (beat,) = bench.runtime.pulse.of({os.getpid()})
    assert (beat.failing is not None) is (operation == "claim")


# A store that loses its data.


def lose(bench: Bench) -> None:
    """Take all records away, as a server that came back empty."""
    bench.store._records = MemoryStore(lease=LEASE, ttl=3600.0)._records


def sent_last(bench: Bench) -> Arrival:
    """The delivery of the last message that was sent."""
    sent = bench.sent[-1]
    return Arrival(hop_id=sent.hop_id, activity=sent.activity, envelope=sent.envelope, attempt=sent.attempt)


def test_a_step_that_ended_as_the_store_lost_its_record_is_recorded_and_not_run_again(
    bench: Bench, first: Arrival, runs: list[str]
) -> None:
    """What it gave was paid for, and its message says all that must be recorded."""
    losses = iter([lambda: lose(bench)])
    bench.before["complete"] = lambda: next(losses, nothing)()

    assert bench.runtime.perform(first) == {"step": "one", "outcome": "completed", "next": "w-1.1"}

    assert runs == ["one"]
    assert [sent.hop_id for sent in bench.sent] == ["w-1.1"]
    assert (bench.record().hop_id, bench.record().running) == ("w-1.1", False)


def test_a_step_that_runs_as_the_store_loses_its_record_is_cancelled_and_sent_again(
    bench: Bench, make_message: MakeMessage
) -> None:
    """Its message is all that is left of the workflow. It counts the attempt that was begun."""
    endless = Endless(lambda: lose(bench))
    arrival = bench.start(make_message(endless.step))

    with pytest.raises(Ignore, match="sent again"):
        bench.runtime.perform(arrival)

    assert endless.cancelled.wait(PATIENCE)
    assert (sent_last(bench).hop_id, sent_last(bench).attempt) == ("w-1.0", 2)
    assert (bench.record().state, bench.record().running, bench.record().attempt) == ("running", False, 1)


def test_a_workflow_whose_earlier_output_was_only_in_the_lost_store_becomes_a_letter(
    bench: Bench, make_message: MakeMessage
) -> None:
    """Its next step could not read it. Whoever looks for the workflow finds out what became of it."""
    endless = Endless(lambda: lose(bench))
    message = make_message(endless.step, outputs=(None,))
    earlier = message.slip.executed[0].model_copy(update={"output_ref": OutputRef(size=6, sha256=sha256('"long"'))})
    slip = message.slip.model_copy(update={"executed": (earlier,)})
    arrival = bench.start(message.model_copy(update={"slip": slip}))
    bench.store._records.workflows["w-1"].blobs["earlier-0"] = '"long"'

    with pytest.raises(HopFailed) as running:
        bench.runtime.perform(arrival)
    with pytest.raises(HopFailed) as delivered:
        bench.runtime.perform(replace(arrival, token="redelivered"))

    assert running.value.args == delivered.value.args == ("w-1.1", "endless", "store_lost")
    (letter,) = bench.store.dead_letters(after=None, limit=9)
    assert (letter.reason, letter.correlation_id) == ("store_lost", "w-1")
    assert (bench.store.workflow("w-1"), bench.sent) == (None, [])


def test_a_store_that_keeps_losing_its_data_has_a_step_begun_only_so_often(
    bench: Bench, make_message: MakeMessage
) -> None:
    """Each attempt may cost money. After the last one the workflow is parked, and a person is asked."""
    endless = Endless(lambda: lose(bench))
    step = endless.step.model_copy(update={"policy": StepPolicy(max_attempts=3)})
    arrival = bench.start(make_message(step))

    for _ in range(3):
        with pytest.raises(Ignore, match="sent again"):
            bench.runtime.perform(arrival)
        lose(bench)  # before the next delivery as well
        arrival = sent_last(bench)
    with pytest.raises(HopFailed) as caught:
        bench.runtime.perform(arrival)

    assert caught.value.args == ("w-1.0", "endless", "attempts_exhausted")
    assert [letter.reason for letter in bench.store.dead_letters(after=None, limit=9)] == ["attempts_exhausted"]


def test_a_step_that_ends_while_the_store_keeps_losing_its_data_is_sent_again(bench: Bench, first: Arrival) -> None:
    """Nothing can be recorded, but the message is not gone."""
    bench.before["complete"] = lambda: lose(bench)

    with pytest.raises(Ignore, match="sent again"):
        bench.runtime.perform(first)

    assert (sent_last(bench).hop_id, sent_last(bench).attempt) == ("w-1.0", 2)


def test_a_hop_that_somebody_else_adopted_meanwhile_is_left_to_them(bench: Bench, make_message: MakeMessage) -> None:
    """Its message may have been delivered twice: one of the two goes on."""

    @activity
    def one() -> str:
        return "done"

    arrival = bench.start(make_message(one.activity(), FunctionSpec("two")))

    def lost_and_adopted() -> None:
        lose(bench)
        bench.start(make_message(one.activity(), FunctionSpec("two")))
        claim = Claim(hop_id="w-1.0", owner="other", token="other", max_attempts=5, digest=None)
        assert isinstance(MemoryStore.claim(bench.store, claim), Claimed)

    losses = iter([lost_and_adopted])
    bench.before["complete"] = lambda: next(losses, nothing)()

    with pytest.raises(Ignore):
        bench.runtime.perform(arrival)

    assert (bench.record().running, bench.sent) == (True, [])


def test_a_store_that_loses_its_data_as_a_delivery_is_opened_is_asked_again(
    bench: Bench, first: Arrival, clock: Clock, runs: list[str]
) -> None:
    """Between adopting the workflow and claiming its hop, for example."""
    asked = iter([nothing, lambda: lose(bench), lambda: lose(bench)])
    lose(bench)
    bench.before["claim"] = lambda: next(asked, nothing)()

    assert bench.runtime.perform(first)["outcome"] == "completed"

    assert (len(clock.waits), runs) == (1, ["one"])


def test_a_worker_that_ends_gives_an_unknown_hop_back_to_the_broker(bench: Bench, make_message: MakeMessage) -> None:
    """No store could send it again."""
    bench.runtime.shutdown = Shutdown(grace=0.0)

    def stop() -> None:
        bench.runtime._owner.renew = nothing  # type: ignore[method-assign, union-attr]  # it does not notice
        lose(bench)
        bench.runtime.shutdown.ask()

    endless = Endless(stop)
    arrival = bench.start(make_message(endless.step))

    with pytest.raises(Reject) as caught:
        bench.runtime.perform(arrival)

    assert caught.value.requeue
