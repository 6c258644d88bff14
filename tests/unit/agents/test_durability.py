"""What an agent's run repeats, and what it does not, when its hop is run again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
)
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.run import AgentRunResult

from paigeant_celery.agents.durability import CeleryDurability, idempotency_key
from paigeant_celery.core.errors import HopLost
from tests.support.journalled_hop import JournalledHop, history

pytestmark = pytest.mark.anyio

DATA = Path(__file__).parents[2] / "data"


class Researcher:
    """An agent with sync, async, parallel, retrying and delegating tools, and counters of what was actually called."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.keys: list[str] = []
        model = FunctionModel(self._answer, stream_function=self._stream, model_name="local")
        self.agent = Agent(model, name="researcher", output_type=str)
        self.agent.tool(self.add)
        self.agent.tool_plain(self.wait)
        self.agent.tool_plain(self.insist)
        self.agent.tool(self.delegate)
        self.agent.output_validator(self.shouted)
        self.helper = Agent(FunctionModel(self._help, model_name="helper"), name="helper")

    def add(self, ctx: RunContext[None], a: int, b: int) -> int:
        self.calls["add"] += 1
        self.keys.append(idempotency_key(ctx))
        return a + b

    async def wait(self, word: str) -> dict[str, str]:
        self.calls["wait"] += 1
        await asyncio.sleep(0)
        return {"word": word}

    def insist(self, number: int) -> str:
        self.calls["insist"] += 1
        if number == 1:
            raise ModelRetry("say 2")
        return "thanks"

    async def delegate(self, ctx: RunContext[None], question: str) -> str:
        self.calls["delegate"] += 1
        return (await self.helper.run(question, usage=ctx.usage)).output

    def shouted(self, output: str) -> str:
        if not output.isupper():
            raise ModelRetry("louder")
        return output

    def _help(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.calls["helper"] += 1
        return ModelResponse(parts=[TextPart("helped")])

    def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.calls["model"] += 1
        match sum(isinstance(message, ModelResponse) for message in messages):
            case 0:
                calls = [ToolCallPart("add", {"a": 1, "b": 2}), ToolCallPart("wait", {"word": "x"})]
                return ModelResponse(parts=[*calls, ToolCallPart("insist", {"number": 1})])
            case 1:
                delegations = [ToolCallPart("delegate", {"question": question}) for question in ("one", "two")]
                return ModelResponse(parts=[ToolCallPart("insist", {"number": 2}), *delegations])
            case 2:
                return ModelResponse(parts=[TextPart("done")])
        return ModelResponse(parts=[TextPart("DONE")])

    async def _stream(
        self, messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        for index, part in enumerate(self._answer(messages, info).parts):
            if isinstance(part, TextPart):
                for letter in part.content:
                    yield letter
            elif isinstance(part, ToolCallPart):
                yield {index: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}

    async def run(self, **arguments: Any) -> AgentRunResult[str]:
        durability: CeleryDurability[None] = CeleryDurability()
        return await self.agent.run("go on", capabilities=[durability], **arguments)


CALLS = {"model": 4, "add": 1, "wait": 1, "insist": 2, "delegate": 2, "helper": 2}
RECORDS = 4 + 1 + 1 + 2 + 2


@pytest.mark.parametrize("cut_after", range(RECORDS))
async def test_a_run_that_is_cut_off_after_any_call_goes_on_from_there(cut_after: int) -> None:
    """The model is paid for once, tools act once, and the result is identical to an uninterrupted run."""
    hop, researcher = JournalledHop(), Researcher()
    with hop.attempt(cut_after=cut_after), pytest.raises(HopLost):
        await researcher.run()
    before = hop.records

    with hop.attempt() as journal:
        result = await researcher.run()
    with hop.attempt() as again:
        replayed = await researcher.run()

    assert journal.replayed == len(before) == cut_after
    assert (journal.made, again.made, again.replayed) == (RECORDS - cut_after, 0, RECORDS)
    assert result.output == replayed.output == "DONE"
    assert result.usage == replayed.usage
    assert (result.usage.requests, result.usage.tool_calls) == (6, 5)
    assert history(result) == history(replayed)
    assert result.run_id == replayed.run_id == "w.0:researcher:0"
    assert len(set(researcher.keys)) == 1
    # What was in flight when the run was cut off was made again: at most the calls of one step.
    extra = researcher.calls - Counter(CALLS)
    assert sum(extra.values()) <= 5
    assert Counter(CALLS) - researcher.calls == Counter()


class Halfway:
    """An agent whose first model fails in the middle of its stream, with a second one as a fallback."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        first = FunctionModel(stream_function=self._first, model_name="first")
        second = FunctionModel(stream_function=self._second, model_name="second")
        self.agent = Agent(FallbackModel(first, second), name="halfway")
        self.after = Agent(FunctionModel(self._third, model_name="third"), name="after")

    async def _first(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        self.calls["first"] += 1
        yield "half"
        raise ModelHTTPError(503, "first")

    async def _second(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        self.calls["second"] += 1
        yield "whole"

    def _third(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.calls["third"] += 1
        return ModelResponse(parts=[TextPart("after")])

    async def run(self) -> list[str]:
        seen: list[str] = []
        durability: CeleryDurability[None] = CeleryDurability()
        try:
            async with self.agent.run_stream("go", capabilities=[durability]) as stream:
                seen.extend([text async for text in stream.stream_text(delta=True)])
        except ModelHTTPError as error:
            seen.append(f"failed with {error.status_code}")
        seen.append((await self.after.run("go", capabilities=[CeleryDurability[None]()])).output)
        return seen


async def test_a_stream_that_failed_half_way_fails_half_way_again() -> None:
    """What its reader has seen is not followed by another model's answer."""
    hop, halfway = JournalledHop(), Halfway()
    with hop.attempt():
        first = await halfway.run()
    calls = Counter(halfway.calls)

    with hop.attempt() as journal:
        again = await halfway.run()

    assert first == again
    assert journal.made == 0
    assert halfway.calls == calls


async def test_a_journal_of_the_first_format_is_replayed() -> None:
    """Workflows that wait during an upgrade, ours or pydantic-ai's, go on; the sample is what was promised."""
    hop, researcher = JournalledHop(), Researcher()
    with hop.attempt():
        hop.keep(json.loads((DATA / "journal" / "v1.json").read_text(encoding="utf-8")))

    with hop.attempt() as journal:
        result = await researcher.run()

    assert (result.output, journal.made, journal.replayed) == ("DONE", 0, RECORDS)
    assert researcher.calls == Counter()
    assert (result.usage.requests, result.usage.tool_calls) == (6, 5)
