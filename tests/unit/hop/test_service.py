"""One hop over a memory store: the order of its effects, and the traces of crashes, copies and late owners."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry import trace
from pydantic_ai.exceptions import ModelRateLimitError

from paigeant_celery.activities.context import workflow_context
from paigeant_celery.activities.functions import FunctionActivity, activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.errors import MessageError, NotSerializable, OutdatedVersion, StoreCorrupt, Unreachable
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.message import PaigeantMessage, encode, sha256
from paigeant_celery.core.names import SPEC_VERSION
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import FunctionSpec, OutputRef
from paigeant_celery.hop.effects import GIVEN_BACK, PUT_BACK, ClosedAs, Drop, Refused, Summary
from paigeant_celery.hop.guard import MOST_PUT_BACK, Arrival
from paigeant_celery.hop.run import Opened
from paigeant_celery.hop.service import HopService
from paigeant_celery.hop.sweeper import Sweeper
from paigeant_celery.hop.with_store import RecordedEffects
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.outputs import Kept, Outputs
from paigeant_celery.store.port import (
    Claim,
    ClaimAnswer,
    Closed,
    Closing,
    Completion,
    HopRecord,
    NewWorkflow,
    WorkflowRecord,
)

MakeMessage = Callable[..., PaigeantMessage]

LEASE = 10.0  # seconds of the store's clock, which stands still
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C


KEPT = "what the step gave is kept, so a redrive goes on from there without a call"


class Killed(BaseException):
    """The process ends here: none of our lines run after it."""


class Line:
    """Owners that serve one workflow, `w-1`, over one store; `effects` lists what was done, in order.

    `given` is what the publisher got, even while it raises `refusal`.
    """

    def __init__(self, **settings: object) -> None:
        self.settings = Settings.model_validate(settings)
        self.at = datetime(2026, 1, 2, 13, 0, tzinfo=UTC)
        self.effects: list[str] = []
        self.given: list[Delivery] = []
        self.refusal: BaseException | None = None
        self.store = Watched(self)

    def service(self, owner: str = "ann") -> HopService:
        outbox = Outbox(self, registry)
        effects = RecordedEffects(store=self.store, outbox=outbox, settings=self.settings, owner=lambda: owner)
        return HopService(effects=effects, registry=registry, settings=self.settings)

    def start(self, message: PaigeantMessage) -> Arrival:
        """Record a workflow and return the delivery of its first hop."""
        envelope = encode(message)
        hop = HopRecord(hop_id=message.message_id, queue="q", envelope=envelope, digest=sha256(envelope))
        self.store.start(NewWorkflow(correlation_id="w-1", content="x", hop=hop))
        return Arrival(hop_id=message.message_id, activity=message.step.activity, envelope=envelope)

    def arrival(self) -> Arrival:
        """The delivery of what was published last."""
        sent = self.given[-1]
        return Arrival(hop_id=sent.hop_id, activity=sent.activity, envelope=sent.envelope)

    def open(self, arrival: Arrival, owner: str = "ann") -> Opened:
        opened = self.service(owner).open(arrival)
        assert isinstance(opened, Opened)
        return opened

    def serve(self, arrival: Arrival, owner: str = "ann") -> Summary | Drop | Refused:
        """Take a delivery through its hop, as a worker does."""
        service = self.service(owner)
        opening = service.open(arrival)
        return service.close(opening, asyncio.run(service.run(opening))) if isinstance(opening, Opened) else opening

    def record(self) -> WorkflowRecord:
        found = self.store.workflow("w-1")
        assert found is not None
        return found

    def failure(self) -> tuple[str, str | None, str, str]:
        record = self.record()
        assert record.failure is not None
        return record.state, record.failure.step_id, record.failure.error_class, record.failure.text

    def everything(self) -> tuple[object, ...]:
        """Everything that the store says about the workflow, and everything that was published."""
        return self.record(), self.store.events("w-1", after=None, limit=1000), tuple(self.given)

    def queue_for(self, activity: str, queue: str | None) -> str:
        return queue or f"q-{activity}"

    def waiting(self, queue: str) -> int:
        return 0

    def begin(self, delivery: Delivery) -> Sending[None]:
        return Sending.made(lambda: self.publish(delivery))

    def publish(self, delivery: Delivery) -> None:
        self.given.append(delivery)
        self.effects.append(f"publish {delivery.hop_id}")
        if self.refusal is not None:
            raise self.refusal


class Watched(MemoryStore):
    """A store that reports when it is changed."""

    def __init__(self, line: Line) -> None:
        super().__init__(lease=LEASE, ttl=3600.0, now=lambda: line.at)
        self._line = line

    def claim(self, claim: Claim) -> ClaimAnswer:
        self._line.effects.append(f"claim {claim.hop_id}")
        return super().claim(claim)

    def complete(self, completion: Completion) -> bool:
        self._line.effects.append(f"complete {completion.closing.hop_id}")
        return super().complete(completion)

    def fail(self, closing: Closing, failure: Failure, *, end: str = "") -> Closed | None:
        self._line.effects.append(f"fail {closing.hop_id}")
        return super().fail(closing, failure, end=end)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def steps(line: Line) -> list[FunctionActivity[[], str]]:
    """Three steps, `one`, `two` and `three`, that report when they run and return their names."""

    def make(name: str) -> FunctionActivity[[], str]:
        @activity(name=name)
        def step() -> str:
            line.effects.append(f"run {name}")
            return name

        return step

    return [make(name) for name in ("one", "two", "three")]


@pytest.fixture
def first(line: Line, steps: list[FunctionActivity[[], str]], make_message: MakeMessage) -> Arrival:
    """The first delivery of a workflow of those three."""
    return line.start(make_message(*(step.activity() for step in steps)))


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str | None]:
    """The action words of the errors that were logged."""
    return [getattr(record, "action", None) for record in caplog.records if record.levelno == logging.ERROR]


# The order of effects, and a crash between any two of them.


def test_a_hop_is_claimed_before_it_runs_and_recorded_before_its_successor_is_sent(line: Line, first: Arrival) -> None:
    """In any other order a crash could run a step unseen, or send one whose input nobody has."""
    assert line.serve(first) == Summary(hop_id="w-1.0", step_id="one", outcome="completed", next_hop="w-1.1")

    assert line.effects == ["claim w-1.0", "run one", "complete w-1.0", "publish w-1.1"]


def test_a_crash_between_record_and_publish_is_repaired_by_the_next_delivery(line: Line, first: Arrival) -> None:
    """The broker delivers the unacknowledged hop again; the model was paid and is not asked again."""
    line.refusal = Killed()
    with pytest.raises(Killed):
        line.serve(first)
    line.refusal = None
    line.effects.clear()

    assert line.serve(first, owner="ben") == Drop(reason="finished")

    assert line.effects == ["claim w-1.0", "publish w-1.1"]
    assert line.given[1] == line.given[0]
    assert line.serve(line.arrival(), owner="ben") == Summary(
        hop_id="w-1.1", step_id="two", outcome="completed", next_hop="w-1.2"
    )


def test_a_finished_hop_resends_its_successor_only_while_that_waits(line: Line, first: Arrival) -> None:
    """A copy that comes late must not add messages to a queue that needs none."""
    line.serve(first)
    second = line.arrival()

    def a_copy_sends(copy: Arrival) -> list[str]:
        line.given.clear()
        assert line.serve(copy) == Drop(reason="finished")
        return [sent.hop_id for sent in line.given]

    assert a_copy_sends(first) == ["w-1.1"]  # it waits
    service, opened = line.service(), line.open(second)
    assert a_copy_sends(first) == []  # it is claimed
    service.close(opened, asyncio.run(service.run(opened)))
    third = line.arrival()
    assert a_copy_sends(first) == []  # it is done, and the one after it waits
    line.serve(third)
    assert [a_copy_sends(copy) for copy in (first, second, third)] == [[], [], []]  # the workflow has ended


def test_a_failed_workflow_resends_nothing(line: Line, make_message: MakeMessage) -> None:
    """Neither a copy of the failed hop nor one of the hop before it starts anything again."""

    @activity
    def one() -> None:
        """Do well."""

    @activity
    def two() -> None:
        raise TypeError

    first = line.start(make_message(one.activity(), two.activity(), FunctionSpec("three")))
    line.serve(first)
    second = line.arrival()
    line.serve(second)
    line.given.clear()

    assert [line.serve(copy) for copy in (first, second)] == [Drop(reason="finished")] * 2

    assert line.given == []


def test_a_broker_that_is_away_gets_the_same_bytes_from_a_sweep(
    line: Line, first: Arrival, caplog: pytest.LogCaptureFixture
) -> None:
    """What was recorded is what is sent; other bytes would be refused as altered. The hop is closed meanwhile."""
    line.refusal = Unreachable("broker", "redis://nowhere", "ConnectionError")
    closed = [line.serve(first), line.serve(first)]
    line.refusal = None
    line.at += timedelta(seconds=6)

    Sweeper(store=line.store, outbox=Outbox(line, registry)).sweep()

    assert closed == [
        Summary(hop_id="w-1.0", step_id="one", outcome=ClosedAs.COMPLETED, next_hop="w-1.1"), Drop(reason="finished")
    ]  # fmt: skip
    assert [sent.envelope for sent in line.given] == [line.record().envelope] * 3
    assert [getattr(record, "action", None) for record in caplog.records].count("send_failed") == 2
    assert line.effects.count("run one") == 1
    line.open(line.arrival())


def test_whatever_goes_wrong_as_a_hop_is_closed_parks_its_workflow(
    line: Line, first: Arrival, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for a workflow that will not move, and the log has the trace."""

    def complete(completion: Completion) -> bool:
        raise RuntimeError("whatever")

    monkeypatch.setattr(line.store, "complete", complete)

    closed = line.serve(first)
    assert isinstance(closed, Summary)
    assert closed.frames[-1].function == complete.__qualname__
    assert replace(closed, frames=()) == Summary(
        hop_id="w-1.0", step_id="one", outcome="parked", error_class="RuntimeError"
    )

    text = "after the step ran, its output could not be sent on: whatever"
    assert line.failure() == ("parked", "one", "RuntimeError", f"{text}; {KEPT}")
    assert line.given == []
    assert errors_in(caplog) == ["close_failed", "hop_parked"]


def test_an_unexpected_error_after_the_record_leaves_the_next_hop_to_a_sweep(
    line: Line, first: Arrival, caplog: pytest.LogCaptureFixture
) -> None:
    """The step counts, for its output is recorded; nobody is told of another owner that there never was."""
    line.refusal = RuntimeError("whatever")

    summary = line.serve(first)

    assert summary == Summary(hop_id="w-1.0", step_id="one", outcome=ClosedAs.COMPLETED, next_hop="w-1.1")
    assert errors_in(caplog) == ["send_failed"]
    assert "hop_overtaken" not in [getattr(record, "action", None) for record in caplog.records]
    assert (line.record().state, line.record().hop_id) == ("running", "w-1.1")

    line.refusal = None
    line.given.clear()
    line.at += timedelta(seconds=6)
    Sweeper(store=line.store, outbox=Outbox(line, registry)).sweep()

    assert [sent.hop_id for sent in line.given] == ["w-1.1"]
    assert line.serve(line.arrival()).outcome == "completed"


def test_the_words_for_how_a_hop_was_closed_are_a_promise() -> None:
    """Flower, results and the test kit show them."""
    assert [str(word) for word in ClosedAs] == [
        "completed", "branch_completed", "workflow_completed", "retrying", "suspended", "parked", "failed", "overtaken",
    ]  # fmt: skip


# Attempts that failed.


@pytest.mark.parametrize(
    ("asked", "expected"), [(120.0, ("retrying", 120.0)), (600.0, ("failed", None))], ids=["in time", "too late"]
)
def test_a_provider_that_asks_for_time_gets_it_within_the_deadline(
    line: Line, make_message: MakeMessage, asked: float, expected: tuple[str, float | None]
) -> None:
    """A call that comes too early is refused again and counted; one after the deadline helps nobody."""

    @activity
    def asking() -> None:
        raise ModelRateLimitError("m", "slow down", retry_after=asked)

    first = line.start(make_message(asking.activity(), deadline=line.at + timedelta(seconds=300)))

    summary = line.serve(first)

    assert isinstance(summary, Summary)
    assert (summary.outcome, summary.delay) == expected
    retry_at = line.record().retry_at
    assert retry_at == (line.at + timedelta(seconds=asked) if summary.delay is not None else None)


# Messages that cannot be run.


def test_the_workflow_of_a_message_that_cannot_be_run_is_parked_and_redriven(
    line: Line, make_message: MakeMessage
) -> None:
    """A worker without the agent was deployed; once it has the agent, the workflow goes on where it was."""
    arrival = line.start(make_message(FunctionSpec("late")))
    assert line.serve(arrival) == Refused(reason="unknown_agent", step_id="late")
    assert line.failure()[:3] == ("parked", "late", "unknown_agent")
    (letter,) = line.store.dead_letters(after=None, limit=10)
    assert (letter.reason, letter.hop_id) == ("unknown_agent", "w-1.0")

    late = activity(name="late")(lambda: "in time")
    assert line.store.redrive("w-1") == "redriven"

    assert line.serve(replace(arrival, token="anew")).outcome == "workflow_completed"
    assert late.name == "late"


def test_a_workflow_that_is_unknown_and_cannot_be_run_is_adopted_and_parked(
    line: Line, make_message: MakeMessage
) -> None:
    """A store that lost its records does not lose a workflow to a worker without the agent."""
    message = make_message(FunctionSpec("late"))
    arrival = unrecorded(line, message)

    assert line.serve(arrival) == Refused(reason="unknown_agent", step_id="late")

    assert line.failure()[:3] == ("parked", "late", "unknown_agent")
    late = activity(name="late")(lambda: "in time")
    assert line.store.redrive("w-1") == "redriven"
    summary = line.serve(replace(arrival, token="anew"))
    assert isinstance(summary, Summary)
    assert (summary.outcome, late.name) == ("workflow_completed", "late")


def test_an_unknown_workflow_that_no_deployment_fixes_is_a_dead_letter_alone(
    line: Line, make_message: MakeMessage
) -> None:
    """It expires; parked, it would fill the store until a person ended it."""

    @activity
    def one(count: int) -> int:
        return count

    arrival = unrecorded(line, make_message(FunctionSpec("one", {"count": "many"})))

    assert line.serve(arrival) == Refused(reason="invalid_arguments", step_id="one")

    assert line.store.workflow("w-1") is None
    assert [letter.reason for letter in line.store.dead_letters(after=None, limit=9)] == ["invalid_arguments"]
    assert one.name == "one"


def test_nothing_is_adopted_from_a_message_that_was_sent_under_another_id(
    line: Line, make_message: MakeMessage
) -> None:
    """It is not a hop's own message, whatever workflow it holds."""
    held = activity(name="one")(lambda: "done")
    arrival = replace(unrecorded(line, make_message(held.activity())), hop_id="v-1.0")

    assert line.serve(arrival) == Refused(reason="inconsistent_slip", step_id="one")

    assert line.store.workflow("w-1") is None
    assert line.store.workflow("v-1") is None


def test_a_copy_that_this_worker_cannot_run_needs_no_person(line: Line, make_message: MakeMessage) -> None:
    """Its hop has ended elsewhere, where the agent is loaded."""
    held = activity(name="one")(lambda: "done")
    first = line.start(make_message(held.activity()))
    line.serve(first)
    with registry.isolated():
        assert line.serve(replace(first, token="copy")) == Drop(reason="finished")

    assert line.store.dead_letters(after=None, limit=9) == []
    assert held.name == "one"


@pytest.mark.parametrize(
    "wrapping",
    [{"activity": "two"}, {"fault": MessageError("bad_envelope", "embed", "carries chain")}],
    ids=["another task", "a forged embed"],
)
def test_a_forged_wrapping_around_the_recorded_envelope_harms_no_workflow(
    line: Line, first: Arrival, wrapping: dict[str, Any]
) -> None:
    """The genuine message is on its way, or is sent again."""
    before = line.record()

    assert line.serve(replace(first, token="forged", **wrapping)) == Drop(reason="altered")

    assert line.record() == before
    assert len(line.store.dead_letters(after=None, limit=9)) == 1


@pytest.mark.parametrize(
    "forge",
    [
        lambda text: text.replace('"asked":"this"', '"asked":"that"'),
        lambda text: text[:-1],
        lambda text: text.replace(f'"spec_version":"{SPEC_VERSION}"', '"spec_version":"2.0"'),
        lambda text: None,
    ],
    ids=["altered", "torn", "of another version", "no text"],
)
def test_another_envelope_under_the_id_of_a_hop_harms_no_workflow(
    line: Line, make_message: MakeMessage, forge: Callable[[str], object]
) -> None:
    """Guessing an id is not enough to end somebody's workflow; the genuine message runs it."""
    held = activity(name="one")(lambda: "done")
    first = line.start(make_message(held.activity(), variables={"asked": "this"}))
    before = line.record()
    forged = replace(first, envelope=forge(str(first.envelope)), token="forged")
    assert forged.envelope != first.envelope

    answer = line.serve(forged)

    assert not isinstance(answer, Summary)
    assert line.record() == before
    assert len(line.store.dead_letters(after=None, limit=10)) == 1
    assert line.serve(first) == Summary(hop_id="w-1.0", step_id="one", outcome="workflow_completed")


@pytest.mark.parametrize(
    ("recorded", "hop_id", "state"),
    [("x" * 5000, "w-1.0", "parked"), ("x", "w-1.0", "running"), ("x" * 5000, "w-1.1", "running")],
    ids=["the recorded one is too large", "the recorded one is not", "no hop that waits"],
)
def test_a_message_that_is_too_large_to_be_read_parks_what_no_worker_here_could_run(
    make_message: MakeMessage, recorded: str, hop_id: str, state: str
) -> None:
    """A dispatcher with a higher limit gets an answer; garbage under the id of a sound hop changes nothing."""
    line = Line(max_message_size=4096)
    line.start(make_message(variables={"text": recorded}))
    fault = MessageError("too_large", "body", "is too large")

    line.service().refuse_unread(Arrival(hop_id=hop_id, activity="writer", envelope=b"\xff" * 9000, fault=fault))

    (letter,) = line.store.dead_letters(after=None, limit=10)
    assert (letter.reason, letter.hop_id, letter.size) == ("too_large", hop_id, 9000)
    assert letter.sha256 == hashlib.sha256(b"\xff" * 9000).hexdigest()
    assert line.record().state == state
    if state == "parked":
        assert line.failure() == ("parked", None, "too_large", "`body`: is too large")


# Workflows that only their message knows.


def of_a_newer_version(message: PaigeantMessage, place: int = 0) -> str:
    """The envelope of a message with a kind of step that no worker here knows."""
    tree = {**json.loads(encode(message)), "spec_version": "1.9"}
    tree["slip"]["itinerary"].insert(place, {"step_id": "both", "kind": "edit", "rest": []})
    return json.dumps(tree)


def newer(line: Line, message: PaigeantMessage, place: int = 0) -> Arrival:
    envelope = of_a_newer_version(message, place)
    hop = HopRecord(hop_id=message.message_id, queue="q", envelope=envelope, digest=sha256(envelope))
    line.store.start(NewWorkflow(correlation_id="w-1", content="x", hop=hop))
    return Arrival(hop_id=message.message_id, activity=message.step.activity, envelope=envelope)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("loaded", [True, False])
def test_a_hop_that_only_a_newer_worker_can_read_is_left_to_it(
    line: Line, steps: list[FunctionActivity[[], str]], make_message: MakeMessage, place: int, loaded: bool
) -> None:
    """Old workers meet the messages of new ones in every deploy: nothing is parked, and no attempt is spent."""
    arrival = newer(line, make_message(), place)

    answer = line.service().open(arrival) if loaded else line.service().refuse_unknown(arrival)

    record = line.record()
    assert answer == GIVEN_BACK
    assert (record.state, record.attempt, record.running) == ("running", 0, False)
    assert record.failure is not None
    assert record.failure.error_class == "newer_version"
    assert record.failure.text.startswith(f"given back by ann: `slip.itinerary[{place}]`: this version does not know")
    assert line.store.dead_letters(after=None, limit=9) == []
    assert line.service("ben").open(arrival) == Drop(reason="waiting")  # a copy
    assert line.given == []


def test_a_message_of_a_newer_version_that_is_not_the_recorded_one_is_a_dead_letter(
    line: Line, first: Arrival, make_message: MakeMessage
) -> None:
    """Whoever can send messages must not be able to hold up a workflow."""
    before = line.record()

    answer = line.service().open(replace(first, envelope=of_a_newer_version(make_message())))

    assert answer == Drop(reason="altered")
    assert line.record() == before
    assert [letter.reason for letter in line.store.dead_letters(after=None, limit=9)] == ["newer_version"]


def test_a_message_of_a_newer_version_that_the_store_does_not_know_is_put_back_and_then_set_aside(
    line: Line, make_message: MakeMessage
) -> None:
    """A newer worker may adopt it; if there is none, its slot must not be busy with it for ever."""
    message = make_message()
    arrival = Arrival(
        hop_id=message.message_id, activity=message.step.activity, envelope=of_a_newer_version(message), queue="here"
    )
    answers = []
    for _ in range(MOST_PUT_BACK):
        answers.append(line.service().open(arrival))
        sent = line.given[-1]
        assert (sent.hop_id, sent.activity, sent.queue, sent.envelope) == (
            arrival.hop_id, arrival.activity, "here", arrival.envelope,
        )  # fmt: skip
        arrival = replace(arrival, given_back=sent.given_back)

    assert answers == [PUT_BACK] * MOST_PUT_BACK
    assert line.service().open(arrival) == Refused(reason="newer_version")
    assert len(line.given) == MOST_PUT_BACK
    assert [letter.reason for letter in line.store.dead_letters(after=None, limit=9)] == ["newer_version"]


@pytest.mark.parametrize(
    "entry",
    [
        {'["draft:0",1,"model","","",0]': '{"v":2,"of":{},"result":1}'},
        {'["draft:0",1,"dream","","",0]': '{"v":1,"of":{},"result":1}'},
        {'["draft:0",1,"model","","",0].1': '{"v":2,"of":', '["draft:0",1,"model","","",0].2': "{}}",
         '["draft:0",1,"model","","",0].pieces': "2"},
        {"outcome": '{"v":2,"ended":{}}'},
        {"outcome": '{"v":1,"ended":{"result":{"output":1,"inserted":[{"kind":"edit"}]}}}'},
    ],
)  # fmt: skip
def test_a_journal_of_a_newer_version_is_left_to_its_workers(line: Line, first: Arrival, entry: dict[str, str]) -> None:
    """A newer worker died in the step. An older one must neither replay what it misreads nor pay for it again."""
    began = line.open(first)
    line.store.record(began.closing, entry)
    line.store.release(began.closing)

    answer = line.service("ben").open(first)

    record = line.record()
    assert answer == GIVEN_BACK
    assert record.failure is not None
    assert record.failure.text.startswith("given back by ben: ")
    assert (record.state, record.attempt) == ("running", 0)
    assert line.store.journal(began.closing.hop_id) == entry


def test_a_store_that_a_newer_worker_uses_is_told_from_one_that_is_away(
    line: Line, first: Arrival, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message goes back to its queue at once and becomes no dead letter."""
    before = line.everything()

    def claim(_: Claim) -> ClaimAnswer:
        raise OutdatedVersion("redis://host/0", "p", 2, 1)

    monkeypatch.setattr(line.store, "claim", claim)

    for arrival in (first, replace(first, envelope="{}")):
        with pytest.raises(OutdatedVersion):
            line.service().open(arrival)
        with pytest.raises(OutdatedVersion):
            line.service().refuse_unknown(arrival)
    assert line.everything() == before


def unrecorded(line: Line, message: PaigeantMessage) -> Arrival:
    return Arrival(hop_id=message.message_id, activity=message.step.activity, envelope=encode(message), queue="q-here")


def test_a_workflow_that_the_store_does_not_know_is_adopted_from_its_message(
    line: Line, steps: list[FunctionActivity[[], str]], make_message: MakeMessage, caplog: pytest.LogCaptureFixture
) -> None:
    """The message carries the state: a store that lost its records, or was added later, goes on with it."""
    message = make_message(*(step.activity() for step in steps[1:]), outputs=("earlier",))

    assert line.serve(unrecorded(line, message)).outcome == "completed"

    assert line.record().hop_id == "w-1.2"
    assert [event.fields["type"] for event in line.store.events("w-1", after=None, limit=9)][:2] == [
        "adopted",
        "claimed",
    ]
    assert line.serve(line.arrival()).outcome == "workflow_completed"
    assert "is adopted from its message" in caplog.text


@pytest.mark.parametrize(("age", "expired"), [(3600.0, False), (3600.1, True)], ids=["young", "old"])
def test_a_message_older_than_the_limit_is_adopted_by_no_store(
    make_message: MakeMessage, age: float, expired: bool
) -> None:
    """A message that is replayed long after its records are gone must not run a second time."""
    line = Line(max_message_age=3600.0)
    held = activity(name="one")(lambda: "done")
    message = make_message(held.activity()).model_copy(update={"sent_at": line.at - timedelta(seconds=age)})

    answer = line.serve(unrecorded(line, message))

    if not expired:
        assert answer == Summary(hop_id="w-1.0", step_id="one", outcome="workflow_completed")
        return
    assert answer == Refused(reason="expired", step_id="one")
    assert line.store.workflow("w-1") is None
    assert [letter.reason for letter in line.store.dead_letters(after=None, limit=9)] == ["expired"]


def test_no_message_is_adopted_whose_workflow_may_have_been_forgotten(make_message: MakeMessage) -> None:
    """Records of ended workflows are kept for a limited time; older messages cannot be told from finished hops."""
    line = Line(max_message_age=3600.0, result_ttl=60.0)
    held = activity(name="one")(lambda: "done")
    message = make_message(held.activity()).model_copy(update={"sent_at": line.at - timedelta(seconds=61)})

    assert line.serve(unrecorded(line, message)) == Refused(reason="expired", step_id="one")


def test_a_hop_that_its_recorded_workflow_never_had_is_refused(
    line: Line, first: Arrival, steps: list[FunctionActivity[[], str]], make_message: MakeMessage
) -> None:
    """A slip that a stranger has moved does not become a second copy of the workflow."""
    before = line.record()
    moved = make_message(steps[2].activity(), outputs=("earlier", "still earlier"))

    assert line.serve(unrecorded(line, moved)) == Refused(reason="inconsistent_slip", step_id="three")

    assert line.record() == before


@pytest.mark.parametrize(("ahead", "said"), [(86400, "86400 s ahead"), (-86400, "86400 s behind"), (30, None)])
def test_a_dispatcher_whose_clock_is_off_is_named_once(
    line: Line,
    steps: list[FunctionActivity[[], str]],
    make_message: MakeMessage,
    caplog: pytest.LogCaptureFixture,
    ahead: int,
    said: str | None,
) -> None:
    """Its workflow still runs, on the store's clock."""
    at = line.at + timedelta(seconds=ahead)
    message = make_message(*(step.activity() for step in steps))
    line.serve(line.start(message.model_copy(update={"created_at": at, "sent_at": at})))
    line.serve(line.arrival())

    told = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "clock_drift"]
    assert told == ([f"the clock of the process that sent workflow w-1 is {said}"] if said else [])


# Late owners, and steps that end in other ways.


@pytest.mark.parametrize("fails", [False, True], ids=["completed", "failed"])
def test_a_late_close_of_an_overtaken_owner_changes_nothing(line: Line, make_message: MakeMessage, fails: bool) -> None:
    """A worker that slept through its lease wakes up; only the run of the other one counts."""

    @activity
    def one() -> str:
        if fails and late:
            raise ValueError("late")
        return "late" if late else "in time"

    late = True
    first = line.start(make_message(one.activity(), FunctionSpec("two")))
    ann, ben = line.service("ann"), line.service("ben")
    ann_opened = line.open(first, "ann")
    outcome = asyncio.run(ann.run(ann_opened))
    line.at += timedelta(seconds=LEASE)
    ben_opened = line.open(first, "ben")
    overtaken = Summary(hop_id="w-1.0", step_id="one", outcome="overtaken")

    before = line.everything()
    assert ann.close(ann_opened, outcome) == overtaken
    assert line.everything() == before

    late = False
    assert ben.close(ben_opened, asyncio.run(ben.run(ben_opened))).next_hop == "w-1.1"
    before = line.everything()
    assert ann.close(ann_opened, outcome) == overtaken
    assert line.everything() == before
    assert [sent.hop_id for sent in line.given] == ["w-1.1"]
    assert '"in time"' in line.record().envelope


# What a step may do to its hop.


@pytest.mark.parametrize(
    "error",
    [SystemExit, KeyboardInterrupt, MemoryError, RecursionError, GeneratorExit, Killed, asyncio.CancelledError],
)
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_an_error_that_would_end_a_process_is_an_error_of_its_step(
    line: Line, make_message: MakeMessage, error: type[BaseException], kind: str
) -> None:
    """`sys.exit` in somebody's function must not stop a worker."""

    @activity(name="async")
    async def asynchronous() -> None:
        raise error

    @activity(name="sync")
    def synchronous() -> None:
        raise error

    assert asynchronous.name != synchronous.name
    first = line.start(make_message(FunctionSpec(kind), FunctionSpec("never")))

    summary = line.serve(first)

    assert isinstance(summary, Summary)
    assert (summary.step_id, summary.outcome, summary.error_class) == (kind, "retrying", error.__name__)
    assert line.failure()[:3] == ("running", kind, error.__name__)
    assert line.given == []


def test_a_step_that_cancels_its_own_task_has_failed(line: Line, make_message: MakeMessage) -> None:
    """Nobody told it to stop, so it is tried again; waiting for it would never end."""

    @activity
    async def quitter() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    line.serve(line.start(make_message(quitter.activity())))

    assert line.failure() == ("running", "quitter", "CancelledError", "the step cancelled itself")


def test_a_run_that_is_told_to_stop_leaves_the_hop_to_whoever_takes_it_over(
    line: Line, make_message: MakeMessage
) -> None:
    """A lost lease or a stopping worker is not a failure of the step."""
    stopped: list[str] = []

    @activity
    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("endless")

    opened = line.open(line.start(make_message(endless.activity())))
    begun = asyncio.Event()
    before = line.everything()

    async def stop() -> None:
        run = asyncio.create_task(line.service().run(opened))
        await begun.wait()
        run.cancel()
        await run

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stop())

    assert stopped == ["endless"]
    assert line.everything() == before
    assert line.record().running


def test_a_step_runs_inside_the_trace_of_its_message(line: Line, make_message: MakeMessage) -> None:
    """Spans of all hops belong to the request that dispatched them, whichever worker ran them."""
    seen: list[int] = []

    @activity
    async def look() -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)

    header = f"00-{TRACE_ID:032x}-b7ad6b7169203331-01"
    line.serve(line.start(make_message(look.activity(), trace_context={"traceparent": header})))

    assert seen == [TRACE_ID]


# Limits of size.


@pytest.mark.parametrize(("characters", "fits"), [(1022, True), (1023, False)])
def test_an_output_over_the_limit_parks_its_step(make_message: MakeMessage, characters: int, fits: bool) -> None:
    """The size is that of its JSON, quotation marks included; the store must not keep what nobody could read again."""
    line = Line(max_output_size=1024)

    @activity
    def large() -> str:
        return "x" * characters

    line.serve(line.start(make_message(large.activity(), FunctionSpec("two"))))

    if fits:
        assert [sent.hop_id for sent in line.given] == ["w-1.1"]
        return
    text = "1025 bytes exceed `paigeant_max_output_size` (1024); raise it, or return less"
    assert line.failure() == ("parked", "large", "output_too_large", f"{text}; {KEPT}")
    assert line.given == []


@pytest.mark.parametrize(("characters", "stored", "travels"), [(11, True, True), (12, True, False), (12, False, True)])
def test_an_output_above_the_limit_of_what_travels_is_stored(
    line: Line, characters: int, stored: bool, travels: bool
) -> None:
    """Messages stay small; whoever has no store lets every output travel."""
    outputs = Outputs(Settings(inline_output_size=24, max_output_size=1024), line.store if stored else None)
    output = "\u00e4" * characters
    text = f'"{output}"'

    found = outputs.kept(output)

    reference = OutputRef(size=2 * characters + 2, sha256=sha256(text))
    assert found == (Kept(output=output) if travels else Kept(output=None, ref=reference, blob=text))
    with pytest.raises(NotSerializable, match=r"1025 bytes exceed `paigeant_max_output_size` \(1024\)"):
        outputs.kept("x" * 1023)


def test_an_envelope_that_outgrows_the_limit_parks_the_step_that_made_it(make_message: MakeMessage) -> None:
    """The next worker would refuse it although its step is not to blame; the last output does not travel on."""
    line = Line(max_message_size=4096, inline_output_size=8192)

    @activity
    def long() -> str:
        return "x" * 4000

    line.serve(line.start(make_message(long.activity(), FunctionSpec("two"))))

    state, step, reason, text = line.failure()
    assert (state, step, reason) == ("parked", "long", "too_large")
    assert re.fullmatch(f".* bytes; raise `paigeant_max_message_size` \\(4096\\); {KEPT}", text)
    assert line.given == []

    line = Line(max_message_size=4096, inline_output_size=8192)
    line.serve(line.start(make_message(long.activity())))
    assert line.record().state == "completed"


def test_the_previous_output_comes_with_the_claim(make_message: MakeMessage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that does not travel costs no round trip of its own."""
    line, seen = Line(inline_output_size=24), list[object]()

    long, look = _long_and_look(seen)
    line.serve(line.start(make_message(long.activity(), look.activity())))
    monkeypatch.setattr(line.store, "blob", lambda *_: pytest.fail("it was read once more"))
    line.serve(line.arrival())

    assert line.record().state == "completed"
    assert seen == ["x" * 4000]


@pytest.mark.parametrize("found", [{}, {"long": '"another"'}], ids=["missing", "changed"])
def test_a_previous_output_that_is_not_as_it_was_recorded_runs_no_step(
    make_message: MakeMessage, monkeypatch: pytest.MonkeyPatch, found: dict[str, str]
) -> None:
    """A step must not begin with less than the one before it gave."""
    line, seen = Line(inline_output_size=24), list[object]()

    long, look = _long_and_look(seen)
    line.serve(line.start(make_message(long.activity(), look.activity())))
    workflow = line.store._records.workflows["w-1"]
    workflow.blobs.clear()
    workflow.blobs.update(found)
    line.serve(line.arrival())

    assert seen == []
    assert line.failure()[:3] == ("running", "look", "StoreCorrupt")  # it is tried again, and parked in the end


def test_a_previous_output_that_no_claim_can_bring_parks_the_step(
    make_message: MakeMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its message would be refused and sent again for ever, and nobody would wait for a person."""
    line, seen = Line(inline_output_size=24), list[object]()
    long, look = _long_and_look(seen)
    line.serve(line.start(make_message(long.activity(), look.activity())))
    claim = line.store.claim

    def damaged(asked: Claim) -> ClaimAnswer:
        answer = claim(asked)
        if asked.wanted:  # the server has made the claim, and its answer cannot be read
            raise StoreCorrupt("paigeant:blob:w-1", "is not UTF-8 text")
        return answer

    monkeypatch.setattr(line.store, "claim", damaged)
    line.serve(line.arrival())

    assert seen == []
    assert line.failure()[:3] == ("parked", "look", "store_corrupt")


def test_a_message_does_not_grow_by_outputs_that_stay_in_the_store(make_message: MakeMessage) -> None:
    """Each byte of it crosses the wire several times in every hop."""
    line = Line()

    @activity
    def page(number: int) -> str:
        return f"{number}" + "x" * 2000

    arrival, sizes = line.start(make_message(*(page.activity(number) for number in range(30)))), list[int]()
    while getattr(line.serve(arrival), "outcome", None) == "completed":
        arrival = line.arrival()
        sizes.append(len(str(arrival.envelope)))

    assert line.record().state == "completed"
    assert max(sizes) < 30 * 1000


def _long_and_look(seen: list[object]) -> tuple[FunctionActivity[[], str], FunctionActivity[[], None]]:
    """Return a step whose output does not travel, and one that looks at it."""

    @activity
    def long() -> str:
        return "x" * 4000

    @activity
    def look() -> None:
        previous = workflow_context().previous_output
        seen.append(previous.output if previous is not None else None)

    return long, look
