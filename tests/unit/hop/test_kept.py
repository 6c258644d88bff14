"""Steps whose body ended well, but whose hop could not be closed: what they gave is kept, and nothing is made twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.messages import BinaryImage

from paigeant_celery.activities.functions import FunctionActivity, activity
from paigeant_celery.activities.port import ActivityResult
from paigeant_celery.core.errors import NonDeterminismError, Unreachable
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.message import PaigeantMessage, reread
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec
from paigeant_celery.hop.ended import Ended, read_kept
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.store.port import Closing, DeadLetter
from tests.unit.hop.test_service import KEPT, Killed, Line

MakeMessage = Callable[..., PaigeantMessage]

DATA = Path(__file__).parents[2] / "data" / "journal"
AT = datetime(2026, 1, 2, 13, 0, tzinfo=UTC)

# Outputs that travel, so that a message can become too large.
INLINE = {"inline_output_size": 32 * 1024}

TOO_SMALL = {
    "the output": ({"max_output_size": 1024}, "output_too_large"),
    "the envelope": ({"max_message_size": 4096}, "too_large"),
}


@pytest.fixture
def line() -> Line:
    return Line(**INLINE)


@pytest.fixture
def runs() -> list[str]:
    return []


@pytest.fixture
def long(runs: list[str]) -> FunctionActivity[[], str]:
    """A step that is paid for each time."""

    @activity
    def long() -> str:
        runs.append("long")
        return "x" * 4000

    return long


def start(line: Line, make_message: MakeMessage, step: FunctionSpec, **options: object) -> Arrival:
    return line.start(make_message(step, FunctionSpec("two"), **options))


def redrive(line: Line, first: Arrival, **options: bool) -> object:
    """Redrive the workflow and take its hop again."""
    assert line.store.redrive("w-1", **options) == "redriven"
    return getattr(line.serve(first, owner="ben"), "outcome", None)


@pytest.mark.parametrize(("settings", "reason"), TOO_SMALL.values(), ids=TOO_SMALL)
def test_a_raised_limit_and_a_redrive_go_on_without_another_run(
    make_message: MakeMessage, long: FunctionActivity[[], str], runs: list[str],
    settings: dict[str, int], reason: str,
) -> None:  # fmt: skip
    """What was paid for is not lost to a setting, nor is it paid for twice, however often somebody tries."""
    line = Line(**INLINE, **settings)
    first = start(line, make_message, long.activity())
    line.serve(first)
    assert line.failure()[:3] == ("parked", "long", reason)

    assert redrive(line, first) == "parked"
    assert line.failure()[:3] == ("parked", "long", reason)
    line.settings = Settings(**INLINE)
    assert redrive(line, first) == "completed"

    assert runs == ["long"]
    assert reread(line.given[-1].envelope).slip.executed[0].output == "x" * 4000


def test_files_in_what_is_kept_are_still_files_when_it_goes_on(make_message: MakeMessage) -> None:
    """The next agent would otherwise get the base64 of a picture as text."""
    line = Line(**INLINE, max_output_size=1024)

    @activity
    def draw() -> BinaryImage:
        return BinaryImage(b"x" * 2000, media_type="image/png")

    first = start(line, make_message, draw.activity())
    line.serve(first)
    line.settings = Settings(**INLINE)

    assert redrive(line, first) == "completed"
    assert reread(line.given[-1].envelope).slip.executed[0].content == ("",)


@pytest.mark.parametrize(("steps", "characters"), [(40, 30_000), pytest.param(256, 5_000, marks=pytest.mark.proof)])
def test_a_long_workflow_that_outgrows_its_envelope_goes_on_where_it_stood(
    line: Line, make_message: MakeMessage, runs: list[str], steps: int, characters: int
) -> None:
    """Every output so far may travel; none of the steps before is made again, nor the one that did not fit."""

    line.settings = line.settings.model_copy(update={"inline_log_size": 2**30})

    @activity
    def page(number: int) -> str:
        runs.append(str(number))
        return "x" * characters

    arrival = line.start(make_message(*(page.activity(n) for n in range(steps))))
    while getattr(line.serve(arrival), "outcome", None) == "completed":
        arrival = line.arrival()
    assert line.failure()[2] == "too_large"
    parked = int(line.record().hop_id.partition(".")[2])
    assert len(runs) == parked + 1 < steps

    line.settings = Settings(**INLINE, max_message_size=4 * 2**20)
    assert redrive(line, arrival) == "completed"
    while getattr(line.serve(line.arrival()), "outcome", None) == "completed":
        pass

    assert line.record().state == "completed"
    assert runs == [str(n) for n in range(steps)]


def test_discarding_the_journal_discards_what_was_kept(
    make_message: MakeMessage, long: FunctionActivity[[], str], runs: list[str]
) -> None:
    """Whoever corrected the step wants it to run again."""
    line = Line(**INLINE, max_message_size=4096)
    first = start(line, make_message, long.activity())
    line.serve(first)
    line.settings = Settings(**INLINE)

    assert redrive(line, first, discard_journal=True) == "completed"

    assert runs == ["long", "long"]


@pytest.mark.parametrize(("max_attempts", "reason"), [(1, "attempts_exhausted"), (5, "too_large")])
def test_a_crash_between_keeping_and_parking_loses_nothing(
    make_message: MakeMessage, long: FunctionActivity[[], str], runs: list[str],
    monkeypatch: pytest.MonkeyPatch, max_attempts: int, reason: str,
) -> None:  # fmt: skip
    """The next owner finds what is kept; if no attempt is left, whoever redrives does."""
    line = Line(**INLINE, max_message_size=4096, max_attempts=max_attempts)
    first = start(line, make_message, long.activity())

    def park(closing: Closing, failure: Failure, letter: DeadLetter | None = None) -> bool:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(line.store, "park", park)
        with pytest.raises(Killed):
            line.serve(first)
    line.at += timedelta(seconds=30)

    assert getattr(line.serve(first, owner="ben"), "outcome", None) == "parked"

    assert line.failure()[:3] == ("parked", "long", reason)
    line.settings = Settings(**INLINE)
    assert redrive(line, first) == "completed"
    assert runs == ["long"]


def test_what_is_kept_ends_no_more_workers_than_there_are_attempts(
    make_message: MakeMessage, long: FunctionActivity[[], str], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading much of it may take more memory than a worker has."""
    line = Line(**INLINE, max_message_size=4096, max_attempts=2)
    first = start(line, make_message, long.activity())
    line.serve(first)
    assert line.store.redrive("w-1") == "redriven"

    def read(text: str, *, step_id: str) -> Ended:
        raise Killed

    ended = list[object]()
    monkeypatch.setattr("paigeant_celery.hop.run.read_kept", read)
    while not ended and len(runs) < 9:
        try:
            ended.append(line.serve(first, owner=f"worker {len(runs)}"))
        except Killed:
            runs.append("killed")
            line.at += timedelta(seconds=30)

    assert line.failure()[:3] == ("parked", "long", "attempts_exhausted")
    assert runs == ["long", "killed", "killed"]


def test_a_store_that_is_away_while_something_is_kept_is_waited_for(
    make_message: MakeMessage, long: FunctionActivity[[], str], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the hop again writes the same; a lost reply changes nothing."""
    line = Line(**INLINE, max_message_size=4096)
    service, opened = line.service(), line.open(start(line, make_message, long.activity()))
    outcome = asyncio.run(service.run(opened))
    store = line.store.record

    def record(closing: Closing, records: dict[str, str]) -> bool:
        store(closing, records)
        raise Unreachable("store", "redis://nowhere", "TimeoutError")

    with monkeypatch.context() as patched:
        patched.setattr(line.store, "record", record)
        with pytest.raises(Unreachable):
            service.close(opened, outcome)
    assert [service.close(opened, outcome).outcome for _ in range(2)] == ["parked"] * 2

    assert line.failure()[3].endswith(KEPT)
    assert runs == ["long"]


def test_a_kept_output_does_not_outlive_the_deadline(
    make_message: MakeMessage, long: FunctionActivity[[], str], runs: list[str]
) -> None:
    """Nobody waits for it any longer."""
    line = Line(**INLINE, max_message_size=4096)
    first = start(line, make_message, long.activity(), deadline=line.at + timedelta(minutes=1))
    line.serve(first)
    line.settings, line.at = Settings(**INLINE), line.at + timedelta(minutes=2)

    assert redrive(line, first) == "failed"

    assert line.failure()[:3] == ("failed", "long", "deadline")
    assert runs == ["long"]


def test_what_is_recorded_late_is_what_the_step_gave_when_it_ran(
    make_message: MakeMessage, long: FunctionActivity[[], str]
) -> None:
    """Usage, times and attempt are those of the run, and an event says that none followed."""
    line = Line(**INLINE, max_message_size=4096)
    first = start(line, make_message, long.activity())
    line.serve(first)
    line.settings, line.at = Settings(**INLINE), line.at + timedelta(days=1)

    redrive(line, first)

    (executed,) = reread(line.given[-1].envelope).slip.executed
    assert executed.attempt == 1
    assert executed.finished_at - executed.started_at < timedelta(minutes=1)
    assert reread(line.given[-1].envelope).sent_at - executed.finished_at > timedelta(hours=23)
    resumed = [event.fields for event in line.store.events("w-1", after=None, limit=100)]
    assert {"type": "resumed", "hop": "w-1.0", "outcome": "kept"} in resumed


def test_beyond_a_bound_the_output_is_not_kept_and_the_failure_says_so(
    make_message: MakeMessage, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is not filled by a step that went wild."""

    @activity
    def wild() -> str:
        runs.append("wild")
        return "x" * 2**21

    monkeypatch.setattr("paigeant_celery.hop.with_store.MAX_RECORD", 1024)
    line = Line(**INLINE, max_output_size=1024, max_message_size=4096)
    first = start(line, make_message, wild.activity())
    line.serve(first)
    assert line.failure()[:3] == ("parked", "wild", "output_too_large")
    assert line.failure()[3].endswith("; more than 5120 characters are not kept, so a redrive runs the step again")

    line.settings = Settings(**INLINE)
    assert redrive(line, first) == "completed"

    assert runs == ["wild", "wild"]


def of_a_generator(runs: list[str]) -> Callable[[], Any]:
    def lazy() -> Iterator[str]:
        for number in range(300):
            runs.append(str(number))
            yield "x" * 10

    return lazy


def of_an_async_generator(runs: list[str]) -> Callable[[], Any]:
    async def lazy() -> AsyncIterator[str]:
        for text in of_a_generator(runs)():
            yield text

    return lazy


def of_what_an_async_function_returns(runs: list[str]) -> Callable[[], Any]:
    async def lazy() -> Any:
        return {"found": of_a_generator(runs)()}

    return lazy


@pytest.mark.parametrize("make", [of_a_generator, of_an_async_generator, of_what_an_async_function_returns])
def test_a_lazy_output_over_the_limit_is_read_to_its_end_and_kept(
    make_message: MakeMessage, runs: list[str], make: Callable[[list[str]], Callable[[], Any]]
) -> None:
    """What a generator did may be paid for as well."""
    step = activity(make(runs))
    line = Line(**INLINE, max_output_size=1024)
    first = start(line, make_message, step.activity())
    line.serve(first)
    assert line.failure()[:3] == ("parked", "lazy", "output_too_large")
    assert line.failure()[3].endswith("; what the step gave is kept, so a redrive goes on from there without a call")

    line.settings = Settings(**INLINE)
    assert redrive(line, first) == "completed"

    assert runs == [str(number) for number in range(300)]


def test_a_generator_without_an_end_is_read_up_to_what_is_kept(
    make_message: MakeMessage, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fill the worker's memory."""

    @activity
    def endless() -> Iterator[str]:
        while True:
            runs.append("x")
            yield "x" * 97

    monkeypatch.setattr("paigeant_celery.hop.with_store.MAX_RECORD", 50_000)
    line = Line(**INLINE, max_output_size=1024, max_message_size=4096)
    line.serve(start(line, make_message, endless.activity()))

    text = "at most 50000 bytes of an output are kept, and no more was read; yield less, or raise"
    assert line.failure()[:3] == ("parked", "endless", "output_too_large")
    assert line.failure()[3].startswith(text)
    assert len(runs) == 501


def test_a_step_that_is_parked_for_its_own_error_keeps_nothing(line: Line, make_message: MakeMessage) -> None:
    """It is to run again."""

    @activity
    def failing() -> None:
        raise ConnectionError

    line.settings = Settings(**INLINE, max_attempts=1)
    line.serve(start(line, make_message, failing.activity()))

    assert line.failure()[:3] == ("parked", "failing", "ConnectionError")
    assert line.store.journal("w-1.0") == {}


# How it is kept.


GIVEN = Ended(
    result=ActivityResult(
        output={"text": "a\0b 🦊", "numbers": [1, 2.5, None, True]},
        usage={"requests": 2},
        cost=Decimal("0.0000000001"),
        inserted=(ActivitySpec("a", "x", {"k": [1]}, queue="q"), FunctionSpec("f", {"n": 1})),
        notes=({"type": "step_inserted", "activity": "a"},),
    ),
    attempt=3,
    started_at=AT,
    ended_at=AT + timedelta(seconds=1),
)


def test_what_is_kept_is_read_back_equal() -> None:
    """Whoever redrives goes on from exactly that."""
    assert read_kept(GIVEN.encode(), step_id="a") == GIVEN
    assert read_kept((DATA / "outcome_v1.json").read_text(encoding="utf-8"), step_id="a") == GIVEN


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"v":1}', '{"v":1,"ended":{}}', '{"v":2,"ended":{}}'])
def test_what_cannot_be_read_parks_the_hop_again(text: str) -> None:
    """The remedy is in the text. What a newer version kept is left to it before this is asked."""
    with pytest.raises(NonDeterminismError, match="redrive"):
        read_kept(text, step_id="a")
