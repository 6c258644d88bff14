"""The other ways to run an agent, inside a hop: streams, iteration, threads; each run is replayed whole."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import AgentStreamEvent, ModelMessage, PartDeltaEvent
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.run import AgentRunResult

from paigeant_celery.activities.functions import in_own_thread
from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.errors import HopLost
from tests.support.journalled_hop import JournalledHop, calls, history, scripted

pytestmark = pytest.mark.anyio


class Teller:
    """An agent that calls a tool and then tells a story, and counters of what was actually called."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.heard: list[str] = []
        durability = CeleryDurability[None]()
        model = scripted(self.calls, calls("remember"), "once upon a time")
        self.agent = Agent(model, name="teller", capabilities=[durability])
        self.agent.tool_plain(self.remember)

    def remember(self) -> str:
        self.calls["remember"] += 1
        return "a fox"

    async def watch(self, ctx: RunContext[None], events: AsyncIterable[AgentStreamEvent]) -> None:
        async for event in events:
            self.heard.append(event.event_kind)


ONCE = Counter({"local": 2, "remember": 1})


async def test_a_stream_that_is_left_early_is_whole_on_record() -> None:
    """Its reader has seen enough; the next attempt finds the answer, and the run ends the same way."""
    hop, teller = JournalledHop(), Teller()

    async def first_words() -> str:
        async with teller.agent.run_stream("go") as stream:
            async for text in stream.stream_text(debounce_by=None):
                return text
        raise AssertionError("nothing was streamed")

    with hop.attempt():
        first = await first_words()
    with hop.attempt() as again:
        replayed = await first_words()

    assert "once upon a time".startswith(first)
    assert first == replayed
    assert again.made == 0
    assert teller.calls == ONCE


async def test_a_stream_gives_its_result_again() -> None:
    """Output, usage, ids and history are those of the first attempt."""
    hop, teller = JournalledHop(), Teller()

    async def run() -> tuple[Any, ...]:
        async with teller.agent.run_stream("go") as stream:
            output = await stream.get_output()
            return output, stream.usage, stream.run_id, len(stream.all_messages())

    with hop.attempt():
        first = await run()
    with hop.attempt() as again:
        replayed = await run()

    assert first == replayed
    assert first[0] == "once upon a time"
    assert (again.made, teller.calls) == (0, ONCE)


class Endless:
    """An agent whose second answer comes only when the test says so."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.waits = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.agent = Agent(
            FunctionModel(stream_function=self._stream, model_name="slow"),
            name="endless",
            capabilities=[CeleryDurability[None]()],
        )

    async def _stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        self.calls["model"] += 1
        yield "half "
        self.waits.set()
        await self.may_go_on.wait()
        yield "whole"

    async def run(self) -> str:
        async with self.agent.run_stream("go") as stream:
            return await stream.get_output()


async def test_a_stream_that_is_cancelled_ends_and_is_asked_for_again() -> None:
    """A worker that ends, or a step that ran too long, cuts a model off; its answer was not fully paid for."""
    hop, endless = JournalledHop(), Endless()
    with hop.attempt() as cut:
        task = asyncio.create_task(endless.run())
        await endless.waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert cut.made == 0

    endless.may_go_on.set()
    with hop.attempt() as journal:
        output = await endless.run()

    assert output == "half whole"
    assert (journal.made, endless.calls) == (1, {"model": 2})


async def test_a_run_that_is_stepped_through_is_replayed() -> None:
    """`iter` shows the same nodes again."""
    hop, teller = JournalledHop(), Teller()

    async def nodes() -> list[str]:
        async with teller.agent.iter("go") as run:
            return [type(node).__name__ async for node in run]

    with hop.attempt():
        first = await nodes()
    with hop.attempt() as again:
        replayed = await nodes()

    assert first == replayed
    assert (again.made, teller.calls) == (0, ONCE)


async def test_a_run_in_a_functions_thread_is_recorded() -> None:
    """A sync function step calls `run_sync`, in a thread and on an event loop of its own."""
    hop, teller = JournalledHop(), Teller()

    def run() -> AgentRunResult[str]:
        try:
            return teller.agent.run_sync("go")
        finally:
            asyncio.get_event_loop().close()  # pydantic-ai made it for the thread and leaves it open

    with hop.attempt(cut_after=1), pytest.raises(HopLost):
        await in_own_thread(run)
    with hop.attempt() as journal:
        result = await in_own_thread(run)
    with hop.attempt() as again:
        replayed = await in_own_thread(run)

    assert (journal.replayed, journal.made, again.made) == (1, 2, 0)
    assert result.output == replayed.output == "once upon a time"
    assert history(result) == history(replayed)
    assert teller.calls == ONCE + Counter(["remember"])  # the one whose record was refused


async def test_a_handler_of_the_durability_hears_each_call_once() -> None:
    """What it does with events, such as showing them to a person, is not repeated in the next attempt."""
    hop, teller = JournalledHop(), Teller()
    durable = Agent(
        teller.agent.model, name="teller", capabilities=[CeleryDurability(event_stream_handler=teller.watch)]
    )
    durable.tool_plain(teller.remember)

    with hop.attempt():
        await durable.run("go")
    heard = list(teller.heard)
    with hop.attempt() as again:
        await durable.run("go")

    assert heard.count("part_delta") == len("once upon a time") - 1
    assert (heard.count("function_tool_call"), heard.count("function_tool_result")) == (1, 1)
    assert teller.heard == heard
    assert (again.made, teller.calls) == (0, ONCE)


async def test_a_handler_of_a_run_hears_replayed_calls_too() -> None:
    """It belongs to the run, which happens again; only the durability's own handler knows what was sent before."""
    hop, teller = JournalledHop(), Teller()
    texts: list[str] = []

    async def listen(ctx: RunContext[None], events: AsyncIterable[AgentStreamEvent]) -> None:
        texts.extend([event.event_kind async for event in events if not isinstance(event, PartDeltaEvent)])

    with hop.attempt():
        await teller.agent.run("go", event_stream_handler=listen)
    heard = list(texts)
    with hop.attempt() as again:
        await teller.agent.run("go", event_stream_handler=listen)

    assert heard.count("function_tool_result") == 1
    assert texts == heard * 2
    assert (again.made, teller.calls) == (0, ONCE)


@pytest.mark.parametrize("debounce", [None, 0.1])
async def test_a_stream_whose_model_waits_for_its_reader_ends_with_the_step(debounce: float | None) -> None:
    """The whole stream is recorded before the run sees any of it, so an early break cannot reach such a model."""
    closed = list[str]()

    async def waits(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        try:
            yield "one "
            await asyncio.Event().wait()
        finally:
            closed.append("closed")

    agent: Agent[None, str] = Agent(
        FunctionModel(stream_function=waits), name="worker", capabilities=[CeleryDurability[None]()]
    )
    hop = JournalledHop()

    async def leave_early() -> None:
        async with agent.run_stream("go") as stream:
            async for _ in stream.stream_text(debounce_by=debounce):
                break

    with hop.attempt(), pytest.raises(TimeoutError):
        await asyncio.wait_for(leave_early(), 0.2)

    assert (closed, dict(hop.records)) == (["closed"], {})
