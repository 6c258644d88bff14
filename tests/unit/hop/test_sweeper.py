"""The sweeper: hops whose message was lost are published again, and no error ends the sweeper."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from paigeant_celery import FunctionSpec
from paigeant_celery.activities.real_threads import RealFuture
from paigeant_celery.activities.registry import Registry
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.errors import OutdatedVersion, Unreachable
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.message import PaigeantMessage, encode, sha256
from paigeant_celery.core.names import SPEC_VERSION
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop.liveness import new_owner_id
from paigeant_celery.hop.with_store import RecordedEffects
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.port import Claim, Claimed, Closing, Dropped, HopRecord, NewWorkflow, Sweep

MakeMessage = Callable[..., PaigeantMessage]


class Line:
    """A store, a broker that remembers what it got, and the sweeper between them."""

    def __init__(self, message: PaigeantMessage) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.store = MemoryStore(lease=10, ttl=60, now=lambda: self.now)
        self.published: list[Delivery] = []
        self.length: int | None = 0
        self.asked: list[str] = []
        self.away = False
        self.poison: set[str] = set()
        outbox, me = Outbox(self, Registry()), new_owner_id()
        effects = RecordedEffects(store=self.store, outbox=outbox, settings=Settings(), owner=lambda: me)
        self.sweeper = effects._sweeper
        self.refused = False
        self.unseen: dict[str, object] = {}
        self.blocked: threading.Event | None = None
        self.handed: list[str] = []
        self.message = message
        self.hop_id = message.message_id
        envelope = encode(message)
        hop = HopRecord(hop_id=self.hop_id, queue="steps", envelope=envelope, digest=sha256(envelope))
        new = NewWorkflow(correlation_id=message.correlation_id, content="c", hop=hop, deadline=message.deadline)
        self.store.start(new)

    def queue_for(self, activity: str, queue: str | None) -> str:
        return queue or activity

    def begin(self, delivery: Delivery) -> Sending[None]:
        self.handed.append(delivery.hop_id)
        if self.blocked is not None:
            return Sending(RealFuture(), end=time.monotonic() + 60)
        return Sending.made(lambda: self.publish(delivery))

    def publish(self, delivery: Delivery) -> None:
        if self.away:
            raise Unreachable("broker", "redis://there", "ConnectionError")
        if self.refused:
            raise Unreachable("broker", "amqp://there", "MessageNacked", True)
        if delivery.hop_id in self.poison:
            raise RuntimeError("a route of the host's own")
        self.published.append(delivery)

    def waiting(self, queue: str) -> int:
        self.asked.append(queue)
        match self.unseen.get(queue):
            case Exception() as error:
                raise error
            case Callable() as call:
                call()
        if self.length is None:
            raise Unreachable("broker", "redis://there", "ConnectionError")
        return self.length

    def after(self, seconds: float) -> None:
        """Let time pass during which somebody sweeps."""
        for _ in range(int(seconds)):
            self.now += timedelta(seconds=1)
            self.sweeper.sweep()

    def claim(self, owner: str) -> Claimed:
        claimed = self.store.claim(Claim(hop_id=self.hop_id, owner=owner, token=owner, max_attempts=5, digest=None))
        assert isinstance(claimed, Claimed)
        return claimed


@pytest.fixture
def line(make_message: MakeMessage) -> Line:
    return Line(make_message(FunctionSpec("count", {"text": "hidden"})))


def test_a_hop_whose_message_was_lost_is_published_as_it_was_recorded(line: Line) -> None:
    """The pop window of Redis costs seconds, not workflows."""
    line.after(4)
    early = list(line.published)

    line.after(2)

    assert early == []
    (again,) = line.published
    assert (again.hop_id, again.queue, again.activity) == (line.hop_id, "steps", "count")
    assert "hidden" in again.envelope
    assert "hidden" not in again.summary


def test_it_is_published_again_after_longer_and_longer_waits(line: Line) -> None:
    """A worker that is not there yet finds a few copies, not thousands."""
    line.after(600)

    assert 8 <= len(line.published) <= 11


def test_a_hop_that_waits_behind_others_is_let_be(line: Line) -> None:
    """A backlog is not multiplied."""
    line.length = 3

    line.after(60)

    assert line.published == []
    assert line.asked == ["steps"] * 3


def test_the_hop_of_a_dead_process_of_this_host_is_published_at_once(line: Line) -> None:
    """Not after a lease."""
    host, pid, start, nonce, _ = new_owner_id().split(":")
    line.claim(f"{host}:{pid}:{int(start) - 1}:{nonce}")

    line.sweeper.sweep()

    assert [again.hop_id for again in line.published] == [line.hop_id]


def test_what_a_living_process_runs_is_let_be(line: Line) -> None:
    """This holds however long it takes."""
    owner = new_owner_id()
    fence = line.claim(owner).fence

    for _ in range(30):
        line.after(1)
        line.store.renew(owner, {line.hop_id: fence})

    assert line.published == []


def test_a_hop_that_cannot_be_published_is_published_later(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """The broker may be away while the store is there."""
    line.away = True
    line.after(6)
    line.away = False
    line.after(15)

    assert [again.hop_id for again in line.published] == [line.hop_id]
    assert [getattr(record, "action", None) for record in caplog.records].count("resend_failed") == 1


def test_a_list_that_cannot_be_looked_over_holds_no_hop_up(
    line: Line, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once, and whatever the store returned is sent before."""
    sent_before: list[int] = []

    def look_over() -> None:
        sent_before.append(len(line.published))
        raise ValueError("a secret of a record")

    monkeypatch.setattr(line.store, "look_over", look_over)
    for seconds in (5, 10):
        line.now += timedelta(seconds=seconds)
        line.sweeper.sweep()

    assert sent_before == [1, 2]
    said = [each for each in caplog.records if getattr(each, "action", "") == "look_over_failed"]
    assert len(said) == 1
    assert "secret" not in said[0].getMessage()


def test_a_pass_that_another_process_has_made_looks_nothing_over(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is looked over once a second, however many workers there are."""
    calls: list[str] = []
    monkeypatch.setattr(line.store, "look_over", lambda: calls.append("looked"))

    line.sweeper.sweep()
    line.sweeper.sweep()

    assert calls == ["looked"]


def test_a_queue_that_cannot_be_looked_at_is_taken_for_full(line: Line) -> None:
    """Publishing blindly while the broker is away would only make copies."""
    line.length = None

    line.after(20)

    assert line.published == []
    assert len(line.asked) > 1


def test_a_record_that_is_no_envelope_is_parked(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """It does not stop the others, and a person learns of it."""
    hop = HopRecord(hop_id="odd.0", queue="steps", envelope="{", digest="d")
    line.store.start(NewWorkflow(correlation_id="odd", content="c", hop=hop))

    line.after(6)

    assert [again.hop_id for again in line.published] == [line.hop_id]
    failed = [record for record in caplog.records if getattr(record, "action", None) == "message_refused"]
    assert [(record.levelno, record.hop) for record in failed] == [(logging.ERROR, "odd.0")]  # type: ignore[attr-defined]
    assert [letter.hop_id for letter in line.store.dead_letters(after=None, limit=9)] == ["odd.0"]


def test_a_hop_that_no_broker_takes_does_not_keep_back_those_after_it(
    make_message: MakeMessage, caplog: pytest.LogCaptureFixture
) -> None:
    """The store counts all of a sweep's hops as sent; one left out would wait until it is overdue again."""
    message = make_message(FunctionSpec("count", {"text": "x"}))
    line = Line(message.model_copy(update={"correlation_id": "first", "message_id": "first.0"}))
    envelope = encode(message)
    sound = HopRecord(hop_id=message.message_id, queue="steps", envelope=envelope, digest=sha256(envelope))
    line.now += timedelta(milliseconds=1)
    line.store.start(NewWorkflow(correlation_id=message.correlation_id, content="c", hop=sound))
    line.poison = {"first.0"}

    line.after(6)

    assert [again.hop_id for again in line.published] == [sound.hop_id]
    failed = [record for record in caplog.records if getattr(record, "action", None) == "resend_failed"]
    assert [(record.levelno, record.hop) for record in failed] == [(logging.ERROR, "first.0")]  # type: ignore[attr-defined]


def test_it_sweeps_by_itself_until_it_is_stopped(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one thread however often a worker begins, and none afterwards; an error does not end it."""
    monkeypatch.setattr("paigeant_celery.hop.sweeper.EVERY", (0.001, 0.002))
    swept = threading.Semaphore(0)

    def sweep(**_: object) -> None:
        swept.release()
        raise RuntimeError("whatever")

    monkeypatch.setattr(line.store, "sweep", sweep)
    before = set(threading.enumerate())

    line.sweeper.start(lambda: None)
    line.sweeper.start(lambda: None)
    (thread,) = set(threading.enumerate()) - before
    assert all(swept.acquire(timeout=20) for _ in range(3))
    line.sweeper.stop()
    line.sweeper.stop()

    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize(("place", "sent"), [(1, ["w-1.0"]), (0, [])])
def test_a_hop_that_only_a_newer_worker_can_read_is_sent_if_its_own_step_is_known(
    make_message: MakeMessage, caplog: pytest.LogCaptureFixture, place: int, sent: list[str]
) -> None:
    """A sweep of any worker makes it due, so it should also send it; if it cannot, a newer one does so later."""
    line = Line(make_message())
    tree = {**json.loads(encode(make_message())), "spec_version": "1.9"}
    tree["slip"]["itinerary"].insert(place, {"step_id": "both", "kind": "edit", "rest": []})
    text = json.dumps(tree)

    record = HopRecord(hop_id="w-1.0", queue="steps", envelope=text, digest=sha256(text))
    line.sweeper._send(Sweep(overdue=(record,)))

    assert [delivery.hop_id for delivery in line.published] == sent
    assert {(delivery.activity, delivery.queue, delivery.envelope) for delivery in line.published} <= {
        ("writer", "steps", text)
    }
    assert [record.action for record in caplog.records] == (["resent"] if sent else ["hop_left_to_newer"])  # type: ignore[attr-defined]


def test_it_ends_and_says_so_once_when_a_newer_worker_has_begun(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it sends again, and what it does not know, is no longer its business."""
    told = threading.Event()

    def sweep(**_: object) -> None:
        raise OutdatedVersion("redis://host/0", "p", 2, 1)

    monkeypatch.setattr(line.store, "sweep", sweep)
    before = set(threading.enumerate())

    line.sweeper.start(told.set)
    for thread in set(threading.enumerate()) - before:
        thread.join(20)

    assert told.is_set()
    assert [(record.levelname, record.action) for record in caplog.records] == [("CRITICAL", "outdated")]  # type: ignore[attr-defined]
    assert "install that version here too" in caplog.text


def test_a_hop_beyond_the_limits_of_the_sweeping_worker_is_published(make_message: MakeMessage) -> None:
    """A worker with higher limits runs it, or another parks it; it never stays queued without a message."""
    line = Line(make_message(FunctionSpec("count", {"text": "x" * (Settings().max_message_size + 1)})))

    line.after(7)

    assert [sent.hop_id for sent in line.published] == [line.hop_id]


# Deadlines.


@pytest.fixture
def late(make_message: MakeMessage) -> Line:
    """A workflow whose deadline passes after ten seconds. No worker has loaded its activity."""
    deadline = datetime(2030, 1, 1, 0, 0, 10, tzinfo=UTC)
    return Line(make_message(FunctionSpec("count", {"text": "hidden"}), deadline=deadline))


def ended(line: Line) -> tuple[str, str | None, int]:
    record = line.store.workflow("w-1")
    assert record is not None
    return record.state, record.failure.error_class if record.failure is not None else None, record.attempt


def test_a_workflow_whose_hop_nobody_takes_fails_at_its_deadline(late: Line, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody serves its queue, or it is paused, or its message waits behind too many others."""
    late.length = 3
    late.after(9)
    assert ended(late) == ("running", None, 0)

    late.after(1)

    assert ended(late) == ("failed", "deadline", 0)
    assert [record.getMessage() for record in caplog.records if record.__dict__["action"] == "hop_failed"] == [
        "hop w-1.0 did not begin before the deadline; the workflow has failed"
    ]
    # Whoever takes the message later finds nothing to run.
    claim = Claim(hop_id="w-1.0", owner="other", token="t", max_attempts=5, digest=None)
    assert late.store.claim(claim) == Dropped(reason="finished")


def test_a_hop_that_runs_at_the_deadline_is_not_ended_by_a_sweep(late: Line) -> None:
    """Its own timeout ends it, and it may just be done in time."""
    owner = new_owner_id()
    fence = late.claim(owner).fence

    for _ in range(15):
        late.after(1)
        late.store.renew(owner, {late.hop_id: fence})

    assert ended(late)[0] == "running"


def test_a_redrive_after_the_deadline_ends_the_workflow(late: Line) -> None:
    """As long as it is parked, it stays as it was."""
    held = late.claim("ann")
    closing = Closing(hop_id="w-1.0", owner="ann", fence=held.fence)
    late.store.park(closing, Failure(step_id="count", error_class="ValueError", text="no"))
    late.after(60)
    assert ended(late)[0] == "parked"

    late.store.redrive("w-1")
    late.after(1)

    assert ended(late)[:2] == ("failed", "deadline")


def test_a_late_hop_that_cannot_be_read_does_not_hold_up_others(late: Line, caplog: pytest.LogCaptureFixture) -> None:
    """A newer version may have sent it, and one of its workers will end it."""
    envelope = '{"spec_version": "1.9"}'
    odd = HopRecord(hop_id="odd.0", queue="steps", envelope=envelope, digest=sha256(envelope))
    early = datetime(2030, 1, 1, 0, 0, 9, tzinfo=UTC)
    late.store.start(NewWorkflow(correlation_id="odd", content="c", hop=odd, deadline=early))

    late.after(20)

    assert ended(late)[0] == "failed"
    failed = [record for record in caplog.records if record.__dict__["action"] == "end_failed"]
    assert {record.__dict__["hop"] for record in failed} == {"odd.0"}
    assert len(failed) == 1  # it is said once


def test_a_sweeper_that_dies_before_it_closes_a_late_hop_is_replaced(
    late: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hop is claimed by then. Its lease ends, and another sweeper is told of it."""
    fail = late.store.fail
    monkeypatch.setattr(late.store, "fail", lambda *_: (_ for _ in ()).throw(Unreachable("store", "there", "OSError")))
    late.after(11)
    assert ended(late)[0] == "running"

    monkeypatch.setattr(late.store, "fail", fail)
    late.after(20)

    assert ended(late) == ("failed", "deadline", 0)


def recorded(line: Line, workflow: str, queue: str, envelope: str = "") -> None:
    """Record a workflow as another version may have done."""
    message = line.message.model_copy(update={"correlation_id": workflow, "message_id": f"{workflow}.0"})
    envelope = envelope or encode(message)
    hop = HopRecord(hop_id=f"{workflow}.0", queue=queue, envelope=envelope, digest=sha256(envelope))
    line.store.start(NewWorkflow(correlation_id=workflow, content="c", hop=hop))


NO_QUEUES = {
    "more bytes than characters": "é" * 130, "long": "q" * 256, "spaces": "  ", "NUL": "a\0b", "control": "a\nb",
    "surrogate": "a\ud800", "RabbitMQ's own": "amq.first",
}  # fmt: skip


@pytest.mark.parametrize("queue", NO_QUEUES.values(), ids=NO_QUEUES)
def test_a_queue_that_no_broker_can_have_parks_its_hop_and_stops_no_other(line: Line, queue: str) -> None:
    """A version that checked less may have recorded it. It is parked once, with a letter, and no attempt is spent."""
    recorded(line, "odd", queue)

    line.after(60)

    assert {again.hop_id for again in line.published} == {line.hop_id}
    odd = line.store.workflow("odd")
    assert odd is not None
    assert (odd.state, odd.failure and odd.failure.error_class) == ("parked", "invalid_queue")
    assert [letter.reason for letter in line.store.dead_letters(after=None, limit=9)] == ["invalid_queue"]
    assert queue not in line.asked


def test_a_hop_that_can_never_be_sent_is_parked_but_not_one_that_a_newer_version_may_read(line: Line) -> None:
    """In a rolling deploy the sweep of an old worker must not set aside what the new workers run."""
    envelope = encode(line.message)
    recorded(line, "broken", "steps", "{")
    recorded(
        line,
        "newer",
        "steps",
        envelope.replace(f'"spec_version":"{SPEC_VERSION}"', '"spec_version":"1.7"').replace("count", ""),
    )
    recorded(line, "next", "steps", envelope.replace(f'"spec_version":"{SPEC_VERSION}"', '"spec_version":"2.0"'))

    line.after(60)

    states = {name: record.state for name in ("broken", "newer", "next") if (record := line.store.workflow(name))}
    assert states == {"broken": "parked", "newer": "running", "next": "running"}


def test_a_look_at_a_queue_that_goes_wrong_ends_no_pass(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, not every second; the queue is looked at again all the same."""
    recorded(line, "other", "other")
    line.unseen = {"other": RuntimeError("whatever"), "steps": Unreachable("broker", "amqp://b", "AccessRefused", True)}

    line.after(30)
    said = [record.queue for record in caplog.records if getattr(record, "action", None) == "queue_not_seen"]  # type: ignore[attr-defined]
    line.unseen = {}
    line.after(90)

    assert sorted(said) == ["other", "steps"]
    assert {again.hop_id for again in line.published} == {line.hop_id, "other.0"}


def test_the_hops_of_a_dead_process_do_not_wait_for_a_look_at_queues(line: Line) -> None:
    """A look may take a while if the broker blocks."""
    host, pid, start, nonce, _ = new_owner_id().split(":")
    line.claim(f"{host}:{pid}:{int(start) - 1}:{nonce}")
    recorded(line, "other", "other")
    seen: list[list[str]] = []
    line.unseen = {"other": lambda: seen.append([again.hop_id for again in line.published])}

    line.now += timedelta(seconds=6)
    line.sweeper.sweep()

    assert seen == [[line.hop_id]]


def test_a_queue_that_refuses_is_said_once_however_many_hops_wait_for_it(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """A log that repeats itself each second hides what else happens; the hops are tried again all the same."""
    for number in range(20):
        recorded(line, f"more-{number}", "steps")
    line.refused = True

    line.after(20)
    failed = [record for record in caplog.records if getattr(record, "action", None) == "resend_failed"]
    line.refused = False
    line.after(40)

    assert len(failed) == 1
    assert len({again.hop_id for again in line.published}) == 21


def test_a_broker_that_blocks_holds_a_pass_up_for_a_moment_and_gets_each_hop_once(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each of a hundred hops. What is on its way is not handed over a second time."""
    monkeypatch.setattr("paigeant_celery.hop.sweeper.SEND_FOR", 0.05)
    for number in range(50):
        recorded(line, f"more-{number}", "steps")
    line.blocked = threading.Event()

    begun = time.monotonic()
    line.after(12)
    took = time.monotonic() - begun
    handed = len(line.handed)

    assert took < 5
    assert handed == len(set(line.handed)) == 51


def test_a_late_hop_that_only_a_newer_version_can_read_is_ended_as_well(make_message: MakeMessage) -> None:
    """Its newer workers may have been taken back, and nobody else would ever end it."""
    deadline = datetime(2030, 1, 1, 0, 0, 10, tzinfo=UTC)
    line = Line(make_message())
    tree = {**json.loads(encode(make_message(deadline=deadline))), "spec_version": "1.9"}
    tree["slip"]["itinerary"].insert(0, {"step_id": "both", "kind": "edit", "rest": []})
    envelope = json.dumps(tree)
    hop = HopRecord(hop_id="n.0", queue="steps", envelope=envelope, digest=sha256(envelope))
    line.store.start(NewWorkflow(correlation_id="n", content="c", hop=hop, deadline=deadline))

    line.after(11)

    record = line.store.workflow("n")
    assert record is not None
    assert record.failure is not None
    assert (record.state, record.failure.error_class) == ("failed", "deadline")
    assert record.envelope == envelope


def test_a_store_that_is_away_is_asked_to_end_one_late_hop_and_not_each(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred calls that wait for a server, one after the other, would keep this thread from all that it does."""
    asked: list[str] = []

    def claim(claim: Claim) -> None:
        asked.append(claim.hop_id)
        raise Unreachable("store", "redis://there", "ConnectionError")

    monkeypatch.setattr(line.store, "claim", claim)
    envelope = encode(line.message)
    late = [HopRecord(hop_id=f"w-{n}.0", queue="steps", envelope=envelope, digest="d") for n in range(3)]
    overdue = HopRecord(hop_id="w-1.0", queue="steps", envelope=envelope, digest="d")

    line.sweeper._send(Sweep(late=tuple(late), overdue=(overdue,)))

    assert asked == ["w-0.0"]
    assert [sent.hop_id for sent in line.published] == ["w-1.0"]
    assert [record.action for record in caplog.records] == ["end_failed", "resent"]  # type: ignore[attr-defined]
