"""Hops without a store: what is sent again, what is set aside, and what travels with the envelope."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from paigeant_celery.activities.context import workflow_context
from paigeant_celery.activities.functions import FunctionActivity, activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.sending import Sending
from paigeant_celery.client.dead_letters import DeadLetters
from paigeant_celery.core.block_steps import parallel
from paigeant_celery.core.branches import first_message
from paigeant_celery.core.errors import UsageError
from paigeant_celery.core.far import folded
from paigeant_celery.core.flow_steps import sleep_for, wait_for
from paigeant_celery.core.message import PaigeantMessage, encode, reread
from paigeant_celery.core.pages import paged
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import BlockSpec, FunctionSpec, Step
from paigeant_celery.hop.effects import PUT_BACK, Refused, Summary
from paigeant_celery.hop.guard import MOST_PUT_BACK, Arrival, given_back_of
from paigeant_celery.hop.run import Opened
from paigeant_celery.hop.service import HopService
from paigeant_celery.hop.without_store import MessageOnlyEffects
from paigeant_celery.store.port import DeadLetter

MakeMessage = Callable[..., PaigeantMessage]


class Broker:
    """A broker without a store: `sent` is what was published, `letters` what was set aside."""

    store = None

    def __init__(self) -> None:
        self.settings = Settings()
        self.sent: list[Delivery] = []
        self.kept: list[tuple[DeadLetter, str | None]] = []
        self.publisher = self.letters = self

    def check_broker(self) -> None:
        raise AssertionError("there is no store")

    def check_dispatch(self) -> None:
        """Everything may be sent."""

    def serves(self, activity: str) -> bool:
        """Say no: nothing runs here."""
        return False

    def queue_for(self, activity: str, queue: str | None) -> str:
        return queue or f"q-{activity}"

    def begin(self, delivery: Delivery) -> Sending[None]:
        return Sending.made(lambda: self.publish(delivery))

    def publish(self, delivery: Delivery) -> None:
        self.sent.append(delivery)

    def waiting(self, queue: str) -> int:
        return 0

    def bury(self, letter: DeadLetter, envelope: str | None) -> None:
        self.kept.append((letter, envelope))

    def look(self) -> Sequence[tuple[DeadLetter, str | None]]:
        return self.kept

    def take(self, letter_id: str) -> bool:
        before = len(self.kept)
        self.kept = [kept for kept in self.kept if kept[0].letter_id != letter_id]
        return len(self.kept) < before

    def serve(self, arrival: Arrival) -> object:
        outbox = Outbox(self, registry)
        effects = MessageOnlyEffects(outbox=outbox, letters=self, settings=self.settings, worker=lambda: "here")
        service = HopService(effects=effects, registry=registry, settings=self.settings)
        opening = service.open(arrival)
        return service.close(opening, asyncio.run(service.run(opening))) if isinstance(opening, Opened) else opening

    def last(self) -> Arrival:
        """The delivery of what was published last."""
        sent = self.sent[-1]
        return Arrival(hop_id=sent.hop_id, activity=sent.activity, envelope=sent.envelope, attempt=sent.attempt)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def arrival_of(message: PaigeantMessage) -> Arrival:
    return Arrival(hop_id=message.message_id, activity=message.step.activity, envelope=encode(message))


@pytest.fixture
def flaky() -> FunctionActivity[[], str]:
    """A step that fails twice and has three attempts."""
    failures = [ConnectionError("the provider is down"), TimeoutError()]

    @activity(policy=StepPolicy(max_attempts=3, backoff=3600.0))
    def flaky() -> str:
        if failures:
            raise failures.pop()
        return "done"

    return flaky


def test_a_step_that_fails_is_sent_again_at_once_and_counts_its_attempts(
    broker: Broker, make_message: MakeMessage, flaky: FunctionActivity[[], str]
) -> None:
    """Nobody would remember when it is due, but its number travels with it."""
    message = make_message(flaky.activity(), FunctionSpec("next"))
    first = broker.serve(arrival_of(message))
    assert isinstance(first, Summary)
    assert first.frames[-1].function == flaky.__qualname__
    assert replace(first, frames=()) == Summary(
        hop_id="w-1.0", step_id="flaky", outcome="retrying", error_class="TimeoutError", delay=0.0
    )
    assert [(sent.hop_id, sent.attempt) for sent in broker.sent] == [("w-1.0", 2)]
    broker.serve(broker.last())

    assert broker.serve(broker.last()) == Summary(
        hop_id="w-1.0", step_id="flaky", outcome="completed", next_hop="w-1.1"
    )

    assert [(sent.hop_id, sent.attempt) for sent in broker.sent] == [("w-1.0", 2), ("w-1.0", 3), ("w-1.1", 1)]
    assert broker.sent[0].envelope == encode(message)
    assert broker.kept == []


def test_a_message_that_only_a_newer_worker_can_read_goes_back_and_is_set_aside_whole(
    broker: Broker, make_message: MakeMessage, flaky: FunctionActivity[[], str]
) -> None:
    """Another worker may be newer. If none is, the letter has the envelope, and a redrive sends it later."""
    tree = {**json.loads(encode(make_message(flaky.activity()))), "spec_version": "1.9"}
    tree["slip"]["itinerary"].append({"step_id": "both", "kind": "edit", "rest": []})
    arrival = replace(arrival_of(make_message(flaky.activity())), envelope=json.dumps(tree), queue="here", attempt=2)

    while (answer := broker.serve(arrival)) == PUT_BACK:
        sent = broker.sent[-1]
        assert (sent.queue, sent.attempt, sent.envelope) == ("here", 2, arrival.envelope)
        arrival = replace(arrival, given_back=sent.given_back)

    assert answer == Refused(reason="newer_version")
    assert [sent.given_back for sent in broker.sent] == list(range(1, MOST_PUT_BACK + 1))
    ((letter, envelope),) = broker.kept
    assert (letter.reason, envelope) == ("newer_version", arrival.envelope)


@pytest.mark.parametrize("header", [-1, True, "1", MOST_PUT_BACK + 1, [], 1.0])
def test_a_forged_count_puts_nothing_back(header: object) -> None:
    """A message that goes round for ever would keep slots busy."""
    assert (given_back_of(None), given_back_of(3), given_back_of(header)) == (0, 3, MOST_PUT_BACK)


def test_a_step_behind_its_last_attempt_is_set_aside_and_can_be_redriven(
    broker: Broker, make_message: MakeMessage
) -> None:
    """The broker's queue of dead letters holds everything needed to go on."""
    down = True

    @activity(policy=StepPolicy(max_attempts=1))
    def one() -> str:
        if down:
            raise ConnectionError("hunter2")
        return "done"

    message = make_message(one.activity())
    summary = broker.serve(arrival_of(message))
    assert isinstance(summary, Summary)
    assert (summary.outcome, summary.error_class) == ("parked", "ConnectionError")
    letters = DeadLetters(broker)
    (letter,) = letters.list()
    assert (letter.reason, letter.hop_id, letter.worker) == ("ConnectionError", "w-1.0", "here")
    assert "hunter2" not in repr(letter)
    down = False

    assert letters.redrive(letter.letter_id)

    assert letters.list() == []
    assert [(sent.hop_id, sent.attempt) for sent in broker.sent] == [("w-1.0", 1)]
    assert broker.serve(broker.last()) == Summary(hop_id="w-1.0", step_id="one", outcome="workflow_completed")


def test_a_step_that_fails_for_good_is_set_aside(broker: Broker, make_message: MakeMessage) -> None:
    """Without a store nothing else would tell of it."""

    @activity
    def one() -> str:
        raise TypeError

    summary = broker.serve(arrival_of(make_message(one.activity())))

    assert isinstance(summary, Summary)
    assert summary.outcome == "failed"
    assert [letter.reason for letter in DeadLetters(broker).list()] == ["TypeError"]


def test_a_message_of_an_unknown_agent_is_kept_whole_and_a_torn_one_without_content(
    broker: Broker, make_message: MakeMessage
) -> None:
    """The first runs once the agent is deployed; the second cannot be run, and nothing of it is shown."""
    sound = arrival_of(make_message(FunctionSpec("late")))
    torn = Arrival(hop_id="w-2.0", activity="late", envelope='{"hunter2')

    assert broker.serve(sound) == Refused(reason="unknown_agent", step_id="late")
    assert broker.serve(torn) == Refused(reason="invalid_envelope")

    assert [envelope for _, envelope in broker.kept] == [sound.envelope, None]
    letters = DeadLetters(broker)
    assert not letters.redrive(broker.kept[1][0].letter_id)
    assert "hunter2" not in repr(broker.kept[1][0])
    assert letters.redrive(broker.kept[0][0].letter_id)
    assert [sent.envelope for sent in broker.sent] == [sound.envelope]


def test_a_message_beyond_the_limits_of_this_worker_is_kept_whole(broker: Broker, make_message: MakeMessage) -> None:
    """Nothing is wrong with it; a worker with higher limits runs it."""
    broker.settings = Settings(max_steps=1)
    arrival = arrival_of(make_message(FunctionSpec("one"), FunctionSpec("two")))

    assert broker.serve(arrival) == Refused(reason="too_many_steps")

    assert [envelope for _, envelope in broker.kept] == [arrival.envelope]
    assert DeadLetters(broker).redrive(broker.kept[0][0].letter_id)


@pytest.mark.parametrize("attempt", [3, 1000])
def test_a_message_that_claims_more_attempts_than_there_are_runs_nothing(
    broker: Broker, make_message: MakeMessage, attempt: int
) -> None:
    """A message that is sent round and round comes to an end."""
    runs: list[int] = []
    held = activity(name="one", policy=StepPolicy(max_attempts=2))(lambda: runs.append(1))
    arrival = arrival_of(make_message(held.activity()))

    summary = broker.serve(Arrival(**{**vars(arrival), "attempt": attempt}))

    assert isinstance(summary, Summary)
    assert (summary.outcome, summary.error_class) == ("parked", "attempts_exhausted")
    assert runs == []


def test_all_records_travel_without_a_store_and_parts_in_one_are_not_lost(
    broker: Broker, make_message: MakeMessage
) -> None:
    """A worker that lacks the store of the others counts what they have folded, and says what it cannot read."""

    @activity
    async def look(step_id: str) -> object:
        try:
            return (await workflow_context().output(step_id)).output
        except UsageError as error:
            return str(error)

    broker.settings = Settings(inline_log_size=0)
    whole = make_message(*[look.activity("earlier-0")] * 4, outputs=("a", "b", "c"))
    slip, stored = folded(whole.slip, most=0)
    assert (len(stored), slip.ran) == (4, 3)

    for message, said in ((whole, "a"), (whole.model_copy(update={"slip": slip}), "`output` reads the store, but")):
        broker.sent.clear()
        broker.serve(arrival_of(message))
        for _ in range(2):
            broker.serve(broker.last())
        moved = reread(str(broker.last().envelope)).slip

        assert moved.ran == 6
        assert moved.visits == {"earlier": 3, "look": 4}
        assert moved.earlier == message.slip.earlier
        assert [str(record.output)[:29] for record in moved.executed[-3:]] == [said] * 3
    assert broker.kept == []


@pytest.mark.parametrize("step", [wait_for("paid"), sleep_for(5)])
def test_a_step_that_waits_is_set_aside(broker: Broker, make_message: MakeMessage, step: Step) -> None:
    """Nothing here would remember what for; a worker that has a store can run the letter's message."""
    message = make_message(step)

    answer = broker.serve(arrival_of(message))

    assert answer == Refused(reason="store_required", step_id=step.stem)
    ((letter, envelope),) = broker.kept
    assert (letter.reason, envelope) == ("store_required", encode(message))
    assert broker.sent == []


@pytest.mark.parametrize("is_block", [True, False], ids=["a block", "a branch"])
def test_a_block_and_its_branches_are_set_aside(
    broker: Broker, make_message: MakeMessage, flaky: FunctionActivity[[], str], is_block: bool
) -> None:
    """Nothing here would join them, so nothing of them is paid for."""
    message = make_message(parallel({"a": flaky.activity()}))
    (block,) = message.slip.itinerary
    assert isinstance(block, BlockSpec)
    if not is_block:
        message, _ = first_message(message, block, 0, inline=1024, now=datetime.now(UTC))

    answer = broker.serve(arrival_of(message))

    assert answer == Refused(reason="store_required", step_id="parallel" if is_block else "parallel/a/flaky")
    ((letter, envelope),) = broker.kept
    assert (letter.reason, envelope) == ("store_required", encode(message))
    assert ("a block is kept" if is_block else "the block of a branch is") in letter.text
    assert broker.sent == []


def test_a_step_is_not_paid_for_if_the_steps_after_it_are_in_a_store(
    broker: Broker, make_message: MakeMessage, flaky: FunctionActivity[[], str]
) -> None:
    """The workflow could not go on; a worker that has the store can run the letter's message."""
    steps = [flaky.activity()] * 4
    folded_slip, _ = folded(make_message(*steps, outputs=("a", "b")).slip, most=0)
    slip, pages = paged(folded_slip, most=0)
    message = make_message(*steps, outputs=("a", "b")).model_copy(update={"slip": slip})
    assert (len(slip.itinerary), len(pages)) == (1, 3)

    answer = broker.serve(arrival_of(message))

    assert isinstance(answer, Refused)
    assert answer.reason == "store_required"
    ((letter, envelope),) = broker.kept
    assert (letter.reason, envelope) == ("store_required", encode(message))
    assert broker.sent == []
