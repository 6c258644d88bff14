"""The record of a run's last answer goes along in COMPLETE, unless something comes between the two."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import ModelRetry, TextOutput

from paigeant_celery.agents.agent import PaigeantAgent
from paigeant_celery.core.errors import TransientError, Unreachable
from paigeant_celery.core.message import PaigeantMessage, reread
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.journal import hop_journal
from paigeant_celery.store.port import Closing, Completion
from tests.support.journalled_hop import Answer, calls, scripted
from tests.unit.hop.test_service import LEASE, Killed, Line

MakeMessage = Callable[..., PaigeantMessage]

WITHIN = 5.0  # seconds


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs here, the step ends in time."""
    monkeypatch.setattr(hop_journal, "HELD_FOR", 60.0)


@pytest.fixture
def asked() -> Counter[str]:
    return Counter()


class Watching:
    """Knows the records that the store got apart from COMPLETE, and dies at COMPLETE if it is told to."""

    def __init__(self, line: Line, patched: pytest.MonkeyPatch) -> None:
        self.recorded: list[Mapping[str, str]] = []
        self.completed: list[Completion] = []
        self.dies = False
        self.told: Callable[[], object] = lambda: None
        record, complete = line.store.record, line.store.complete

        def watched(closing: Closing, records: Mapping[str, str]) -> bool:
            done = record(closing, records)
            self.recorded.append(records)
            self.told()
            return done

        def dying(completion: Completion) -> bool:
            if self.dies:
                raise Killed
            self.completed.append(completion)
            return complete(completion)

        patched.setattr(line.store, "record", watched)
        patched.setattr(line.store, "complete", dying)


@pytest.fixture
def store(line: Line, monkeypatch: pytest.MonkeyPatch) -> Watching:
    return Watching(line, monkeypatch)


def agent_of(asked: Counter[str], *answers: Answer) -> PaigeantAgent[Any, Any]:
    return PaigeantAgent(scripted(asked, *answers), name="writer")


def start(line: Line, make_message: MakeMessage) -> Arrival:
    return line.start(make_message(ActivitySpec("writer", "go"), FunctionSpec("two")))


def after_death(line: Line, first: Arrival) -> object:
    """Take the hop again when the lease of the dead owner is over."""
    line.at += timedelta(seconds=LEASE + 1)
    assert line.store.sweep(host="h").overdue
    return getattr(line.serve(first, owner="ben"), "outcome", None)


@pytest.mark.usefixtures("slow_machine")
def test_a_step_of_one_answer_is_recorded_in_one_call(
    line: Line, make_message: MakeMessage, store: Watching, asked: Counter[str]
) -> None:
    """The journal has the answer all the same."""
    agent = agent_of(asked, "done")

    first, service = start(line, make_message), line.service()
    hop = line.open(first)
    assert hop.journal is not None
    outcome = asyncio.run(service.run(hop))
    assert hop.journal.held
    assert service.close(hop, outcome).outcome == "completed"
    assert not hop.journal.held  # the timer finds nothing more to write
    assert agent.name == "writer"

    assert store.recorded == []
    journal = line.store.journal("w-1.0")
    assert journal == store.completed[0].records
    assert any('"model"' in key and "done" in text for key, text in journal.items())


@pytest.mark.usefixtures("slow_machine")
def test_a_death_before_the_completion_asks_for_the_held_answer_again(
    line: Line, make_message: MakeMessage, store: Watching, asked: Counter[str]
) -> None:
    """It counts as in flight. Calls before it are not made again, and the hop is completed once."""
    agent, effects = agent_of(asked, calls("mail"), "done"), Counter[str]()

    @agent.tool_plain
    def mail() -> str:
        effects["mail"] += 1
        return "sent"

    first, store.dies = start(line, make_message), True
    with pytest.raises(Killed):
        line.serve(first)
    store.dies = False

    assert after_death(line, first) == "completed"
    assert (asked["local"], effects["mail"], len(store.completed)) == (3, 1, 1)
    assert reread(line.given[-1].envelope).slip.executed[0].output == "done"


def test_an_answer_is_recorded_in_time_if_the_step_goes_on(
    line: Line, make_message: MakeMessage, store: Watching, asked: Counter[str]
) -> None:
    """A death after that asks for nothing again."""
    agent = agent_of(asked, "done")

    @agent.output_validator
    async def look(output: str) -> str:
        loop, recorded = asyncio.get_running_loop(), asyncio.Event()
        store.told = lambda: loop.call_soon_threadsafe(recorded.set)
        if not line.store.journal("w-1.0"):
            await asyncio.wait_for(recorded.wait(), WITHIN)
        store.told = lambda: None
        return output

    first, store.dies = start(line, make_message), True
    with pytest.raises(Killed):
        line.serve(first)
    store.dies = False

    assert after_death(line, first) == "completed"
    assert asked["local"] == 1


@pytest.mark.usefixtures("slow_machine")
@pytest.mark.parametrize("metadata", [None, {"paigeant": False}])
def test_no_effect_comes_before_the_record_of_the_answer_that_led_to_it(
    line: Line, make_message: MakeMessage, store: Watching, asked: Counter[str], metadata: dict[str, Any] | None
) -> None:
    """Whether the tool is recorded or not."""
    agent, found = agent_of(asked, calls("mail"), "done"), list[int]()

    @agent.tool_plain(metadata=metadata)
    def mail() -> str:
        found.append(sum('"model"' in key for key in line.store.journal("w-1.0")))
        return "sent"

    line.serve(start(line, make_message))

    assert found == [1]


@pytest.mark.usefixtures("slow_machine")
@pytest.mark.parametrize("is_in_marker", [False, True])
def test_an_output_function_gets_no_answer_that_is_not_recorded(
    line: Line, make_message: MakeMessage, store: Watching, asked: Counter[str], *, is_in_marker: bool
) -> None:
    """It may act, and a second answer would have it act otherwise."""
    found = list[int]()

    def send(text: str) -> str:
        found.append(sum('"model"' in key for key in line.store.journal("w-1.0")))
        return f"sent {text}"

    output: Any = [TextOutput(send)] if is_in_marker else send
    answer: Answer = "done" if is_in_marker else calls("final_result", text="done")
    agent = PaigeantAgent(scripted(asked, answer), name="writer", output_type=output)
    line.serve(start(line, make_message))

    assert (agent.name, found) == ("writer", [1])


@pytest.mark.usefixtures("slow_machine")
def test_a_request_follows_an_answer_that_was_thought_to_be_the_last(
    line: Line, make_message: MakeMessage, store: Watching, asked: Counter[str]
) -> None:
    """An output that is refused is answered by the model; its record is there before the model is asked."""
    agent, found = agent_of(asked, "no", "done"), list[int]()

    @agent.output_validator
    def check(output: str) -> str:
        if output == "no":
            raise ModelRetry("again")
        found.append(sum('"model"' in key for key in line.store.journal("w-1.0")))
        return output

    line.serve(start(line, make_message))

    assert (found, asked["local"], len(store.recorded)) == ([1], 2, 1)


@pytest.mark.usefixtures("slow_machine")
def test_an_attempt_that_fails_after_its_last_answer_keeps_it(
    line: Line, make_message: MakeMessage, store: Watching, asked: Counter[str]
) -> None:
    """The next attempt pays for nothing again, also if the store was away when the attempt failed."""
    agent, failures = agent_of(asked, "done"), [OSError("no"), None]

    @agent.output_validator
    def fail(output: str) -> str:
        if (error := failures.pop(0)) is not None:
            raise error
        return output

    first, service = start(line, make_message), line.service()
    hop = line.open(first)
    outcome = asyncio.run(service.run(hop))
    refusals: list[TransientError] = [Unreachable("store", "redis://", "is away")]

    def away() -> None:
        if refusals:
            raise refusals.pop()

    store.told = away
    with pytest.raises(Unreachable):
        service.close(hop, outcome)
    assert service.close(hop, outcome).outcome == "retrying"
    line.at += timedelta(hours=1)
    assert line.store.sweep(host="h").overdue
    assert getattr(line.serve(first), "outcome", None) == "completed"
    assert asked["local"] == 1


@pytest.mark.usefixtures("slow_machine")
def test_a_hop_that_is_given_back_keeps_the_last_answer(
    line: Line, make_message: MakeMessage, store: Watching, asked: Counter[str]
) -> None:
    """A worker that ends may do so just before the completion."""
    agent = agent_of(asked, "done")
    first, service = start(line, make_message), line.service()
    hop = line.open(first)
    asyncio.run(service.run(hop))
    assert hop.journal is not None
    assert hop.journal.held
    assert not hop.journal.at_rest

    service._effects.release(hop)

    assert not hop.journal.held
    assert getattr(line.serve(first, owner="ben"), "outcome", None) == "completed"
    assert (asked["local"], agent.name) == (1, "writer")


@pytest.mark.usefixtures("slow_machine")
def test_a_step_whose_output_is_too_large_keeps_its_last_answer(make_message: MakeMessage, asked: Counter[str]) -> None:
    """It parks; the answer is in the journal beside what the step gave."""
    line = Line(max_output_size=1024)
    agent = agent_of(asked, "x" * 2000)

    line.serve(start(line, make_message))

    assert line.failure()[:3] == ("parked", agent.name, "output_too_large")
    assert any('"model"' in key for key in line.store.journal("w-1.0"))
