"""The events of an agent's run, and who gets them when its hop is run again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import AgentStreamEvent, FunctionToolResultEvent, ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.errors import HopLost
from tests.support.journalled_hop import JournalledHop

pytestmark = pytest.mark.anyio


class Overtaking:
    """An agent whose second tool ends first, and a handler that records which tools' results it saw."""

    def __init__(self) -> None:
        self.results: list[str] = []
        self._quick_is_told = asyncio.Event()
        self.agent = Agent(FunctionModel(stream_function=self._stream, model_name="local"), name="overtaking")
        self.agent.tool_plain(self.slow)
        self.agent.tool_plain(self.quick)

    async def slow(self) -> str:
        await self._quick_is_told.wait()
        return "slow"

    async def quick(self) -> str:
        return "quick"

    async def _stream(
        self, messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        if len(messages) > 1:
            yield "done"
            return
        yield {0: DeltaToolCall("slow", "{}", tool_call_id="1")}
        yield {1: DeltaToolCall("quick", "{}", tool_call_id="2")}

    async def _watch(self, ctx: RunContext[None], events: AsyncIterable[AgentStreamEvent]) -> None:
        async for event in events:
            if isinstance(event, FunctionToolResultEvent):
                self.results.append(str(event.part.tool_name))
                self._quick_is_told.set()

    async def run(self) -> list[str]:
        """Return the tools whose results the handler saw in this run."""
        self.results = []
        await self.agent.run("go", capabilities=[CeleryDurability[None](event_stream_handler=self._watch)])
        return self.results


async def test_an_event_is_not_taken_for_that_of_a_tool_that_ended_earlier() -> None:
    """Replayed tools end in a different order than before; the handler still hears about each."""
    hop, overtaking = JournalledHop(), Overtaking()
    # The model, the events of two calls, the quick tool, its event, the slow tool, but not the slow tool's event.
    with hop.attempt(cut_after=6), pytest.raises(HopLost):
        await overtaking.run()
    assert overtaking.results == ["quick", "slow"]

    with hop.attempt() as journal:
        results = await overtaking.run()

    assert journal.replayed == 6
    assert results == ["slow"]
