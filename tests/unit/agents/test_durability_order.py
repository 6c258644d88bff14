"""Calls that run beside each other: a replay has their answers in the order of the first attempt, and as many."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.result import FinalResult
from pydantic_graph import End

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.agents.recorded_tools import METADATA_KEY
from paigeant_celery.core.errors import HopLost, NonDeterminismError
from paigeant_celery.journal import turns
from paigeant_celery.journal.record import parse_key
from tests.support.background import Background
from tests.support.journalled_hop import JournalledHop, calls, history, scripted

pytestmark = pytest.mark.anyio

PAUSE = 0.004  # seconds; what is shorter than another by this ends first


class Case:
    """An agent whose tools and model take given times, and what it asked for."""

    def __init__(self, *, tools: list[float], model: float = 2 * PAUSE, failing: int = 0) -> None:
        self.asked: Counter[str] = Counter()
        self.failing, self._going_on = failing, asyncio.Event()
        self._times, self._model = tools, model
        self.agent: Agent[None, str] = Agent(
            FunctionModel(self._answer), name="worker", capabilities=[CeleryDurability[None](), Background()]
        )
        self.agent.tool_plain(self.work)

    async def work(self, number: int) -> str:
        self.asked["work"] += 1
        await asyncio.sleep(self._times[number])
        if self.failing:
            self.failing -= 1
            await self._going_on.wait()
            raise ConnectionError("the other side is away")
        return f"result {number}"

    async def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.asked["model"] += 1
        if not any(isinstance(message, ModelResponse) for message in messages):
            parts = [ToolCallPart("work", {"number": each}, f"work-{each}") for each in range(len(self._times))]
            return ModelResponse(parts=parts)
        self._going_on.set()
        await asyncio.sleep(self._model)
        told = [part.content for message in messages for part in message.parts if isinstance(part, UserPromptPart)]
        return ModelResponse(parts=[TextPart(f"after {told[1:]}" if told[1:] else "working on it")])


CASES = [[0.0], [PAUSE], [5 * PAUSE], [6 * PAUSE, 3 * PAUSE, 0.0], [PAUSE, PAUSE, 4 * PAUSE]]


@pytest.mark.parametrize("tools", CASES, ids=str)
async def test_a_run_waits_for_its_background_tools_in_each_attempt(tools: list[float]) -> None:
    """In a replay every answer is there at once; the run must not end, or be steered, by that."""
    first = Case(tools=tools)
    hop = JournalledHop()
    with hop.attempt():
        result = await first.agent.run("go")
    with hop.attempt() as again:
        replayed = await first.agent.run("go")

    assert "result 0" in result.output
    assert again.made == 0
    assert (result.output, history(result), result.usage) == (replayed.output, history(replayed), replayed.usage)

    for cut in range(len(hop.records)):
        case, begun = Case(tools=tools), JournalledHop()
        with begun.attempt(cut_after=cut), suppress(HopLost):  # with other times it may end before
            await case.agent.run("go")
        recorded = len(begun.records)
        with begun.attempt() as second:
            result = await case.agent.run("go")
        with begun.attempt() as third:
            replayed = await case.agent.run("go")

        assert second.replayed == recorded
        assert all(f"result {number}" in result.output for number in range(len(tools)))
        assert (third.made, replayed.output, history(replayed)) == (0, result.output, history(result))
        assert result.usage == replayed.usage


@pytest.mark.parametrize("cut", [1, 2])
async def test_background_tools_of_a_journal_of_an_earlier_version_are_called_again(cut: int) -> None:
    """It does not say that they were in flight when the run went on; nothing has changed, so nothing is parked."""
    case, begun, hop = Case(tools=[40 * PAUSE, 40 * PAUSE]), JournalledHop(), JournalledHop()
    with begun.attempt(cut_after=2), suppress(HopLost):
        await case.agent.run("go")
    with hop.attempt():
        for key, text in begun.records.items():
            record = json.loads(text)
            hop.keep({key: json.dumps({name: part for name, part in record.items() if name not in ("n", "open")})})

    with hop.attempt(cut_after=cut), suppress(HopLost):
        await case.agent.run("go")
    with hop.attempt() as journal:
        result = await case.agent.run("go")

    assert "result 0" in result.output
    assert "result 1" in result.output
    assert journal.replayed == 2 + cut


async def test_a_background_tool_that_fails_is_called_again_by_the_next_attempt() -> None:
    """Its error ended the run, even if a model request that was under way before it was recorded after it."""
    case, hop = Case(tools=[0.0], failing=1), JournalledHop()
    with hop.attempt(), pytest.raises(ConnectionError):
        await case.agent.run("go")
    assert case.asked == {"model": 2, "work": 1}

    with hop.attempt() as journal:
        result = await case.agent.run("go")

    assert (result.output, journal.replayed) == ("after ['result 0']", 2)
    assert case.asked == {"model": 3, "work": 2}


class Noting(AbstractCapability[None]):
    """Notes in which order tools end, as a capability may that keeps a log or stops at the first result."""

    def __init__(self, ended: list[str]) -> None:
        self._ended = ended

    async def after_tool_execute(
        self, ctx: RunContext[None], *, call: Any, tool_def: Any, args: Any, result: Any
    ) -> Any:
        self._ended.append(call.tool_call_id)
        return result


@pytest.mark.parametrize("seed", range(6))
async def test_parallel_tools_end_in_the_same_order_in_each_attempt(seed: int) -> None:
    """The order steers what the model is told, so the answers of the first attempt stay the ones that fit."""
    chance = random.Random(seed)
    times = {f"tool-{number}": PAUSE * place for number, place in enumerate(chance.sample(range(6), 6))}
    ended = list[str]()
    durable: list[AbstractCapability[None]] = [CeleryDurability[None](), Noting(ended)]
    helper: Agent[None, str] = Agent(scripted(Counter(), "helped", name="h"), name="h", capabilities=durable[:1])

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if not any(isinstance(message, ModelResponse) for message in messages):
            return ModelResponse(parts=[ToolCallPart("tool" if seed % 2 else "aside", {}, name) for name in times])
        return ModelResponse(parts=[TextPart(str(info.instructions))])

    agent: Agent[None, str] = Agent(
        FunctionModel(answer), name="worker", capabilities=durable, instructions=lambda ctx: ",".join(ended)
    )

    @agent.tool
    async def tool(ctx: RunContext[None]) -> str:
        await asyncio.sleep(times[ctx.tool_call_id or ""])
        return "done"

    @agent.tool(metadata={METADATA_KEY: False})
    async def aside(ctx: RunContext[None]) -> str:
        if not first:  # the second attempt's own times are others
            await asyncio.sleep(PAUSE * chance.random() / 3)
        await asyncio.sleep(times[ctx.tool_call_id or ""] if first else 0)
        return (await helper.run("go")).output

    hop, first = JournalledHop(), True
    with hop.attempt():
        output = (await agent.run("go")).output
    order, first = list(ended), False
    ended.clear()
    with hop.attempt() as journal:
        assert (await agent.run("go")).output == output

    assert sorted(order) == sorted(times)
    assert (ended, journal.made) == (order, 0)


@pytest.mark.parametrize("cut", [None, 1, 2, 3, 4])
async def test_the_agent_that_answers_first_wins_in_each_attempt(cut: int | None) -> None:
    """A race that a step's code decides by time is decided only once; what the loser left is no divergence."""

    def slow(name: str, pause: float) -> Agent[None, str]:
        async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            nonlocal first
            await asyncio.sleep(pause if first else 5 * PAUSE - pause)
            if len(messages) < 2:
                return ModelResponse(parts=[ToolCallPart("look", {}, "look")])
            return ModelResponse(parts=[TextPart(name)])

        agent: Agent[None, str] = Agent(FunctionModel(answer), name=name, capabilities=[CeleryDurability[None]()])
        agent.tool_plain(lambda: "seen", name="look")
        return agent

    async def race() -> str:
        runs = [asyncio.create_task(agent.run("go")) for agent in (slow("hare", PAUSE), slow("tortoise", 4 * PAUSE))]
        try:
            return str((await next(asyncio.as_completed(runs))).output)
        finally:
            for task in runs:
                task.cancel()
            await asyncio.gather(*runs, return_exceptions=True)

    hop, first, winners = JournalledHop(), True, list[str]()
    for cut_after in (cut, None, None):
        with hop.attempt(cut_after=cut_after) as journal, suppress(HopLost):
            winners.append(await race())
        assert journal.fault is None
        first = False

    assert len(winners) in (2, 3)
    assert len(set(winners)) == 1
    assert cut is not None or winners[0] == "hare"


class EndingEarly(AbstractCapability[None]):
    """Ends a run after its first tools."""

    async def after_node_run(self, ctx: RunContext[None], *, node: Any, result: Any) -> Any:
        return End(FinalResult("enough")) if ctx.run_step == 1 and type(node).__name__ == "CallToolsNode" else result


async def test_a_run_that_ends_before_its_recorded_calls_is_parked() -> None:
    """What was paid for says that it went on; half of it is no result, even if the step's code catches the error."""
    hop, looking = JournalledHop(), [calls("look"), "done"]
    before, after = (
        Agent(scripted(Counter(), *looking), name="worker", capabilities=[CeleryDurability[None](), *more])
        for more in ([], [EndingEarly()])
    )
    for agent in (before, after):
        agent.tool_plain(lambda: "seen", name="look")
    with hop.attempt():
        await before.run("go")

    with hop.attempt() as journal, suppress(NonDeterminismError):
        await after.run("go")

    assert (journal.made, journal.replayed) == (0, 2)
    assert "in step 2 of run 'worker:0' cannot be replayed: an earlier attempt" in str(journal.fault)


async def test_a_run_that_fails_earlier_than_before_is_tried_again() -> None:
    """What is down for a moment is no change of code."""
    away, hop = False, JournalledHop()
    agent: Agent[None, str] = Agent(
        scripted(Counter(), calls("look"), "done"), name="worker", capabilities=[CeleryDurability[None]()]
    )

    @agent.tool_plain(metadata={METADATA_KEY: False})
    def look() -> str:
        if away:
            raise ConnectionError
        return "seen"

    with hop.attempt():
        await agent.run("go")
    away = True
    with hop.attempt() as journal, pytest.raises(ConnectionError):
        await agent.run("go")
    assert journal.fault is None
    away = False

    with hop.attempt() as again:
        assert (await agent.run("go")).output == "done"

    assert again.made == 0


async def test_a_run_goes_on_if_a_recorded_call_is_not_made_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Code that dropped an agent of its own accord does not wait for that agent's answers for ever."""
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    hop = JournalledHop()
    one, two = (
        Agent(scripted(Counter(), "done", name=name), name=name, capabilities=[CeleryDurability[None]()])
        for name in ("one", "two")
    )
    with hop.attempt():
        await one.run("go")
        await two.run("go")

    with caplog.at_level(logging.WARNING), hop.attempt() as journal:
        assert (await two.run("go")).output == "done"

    assert (journal.replayed, journal.made) == (1, 0)
    assert [record.action for record in caplog.records if record.levelno == logging.WARNING] == ["replay_drift"]


async def test_records_of_earlier_versions_have_no_order_and_hold_up_nobody() -> None:
    """They are replayed as the versions did that wrote them; what is recorded now comes after them."""
    hop = JournalledHop()
    agent: Agent[None, str] = Agent(
        scripted(Counter(), calls("look", "look"), "done"), name="worker", capabilities=[CeleryDurability[None]()]
    )
    agent.tool_plain(lambda: "seen", name="look")
    with hop.attempt(cut_after=2), suppress(HopLost):
        await agent.run("go")
    with hop.attempt():
        for name, text in hop.records.items():
            tree = json.loads(text)
            assert tree.pop("n") in (1, 2)
            hop.keep({name: json.dumps(tree, separators=(",", ":"))})

    with hop.attempt() as journal:
        assert (await agent.run("go")).output == "done"

    assert (journal.replayed, journal.made) == (2, 2)
    numbers = [json.loads(text).get("n") for name, text in hop.records.items() if parse_key(name) is not None]
    assert sorted(numbers, key=str) == [1, 2, None, None]
