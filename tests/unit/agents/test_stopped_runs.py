"""Runs that their own code stops: one that is cancelled has ended, one that took too long gets its time again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.exceptions import RunCancelled, RunTimedOut
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import CeleryDurability, PaigeantAgent, WorkflowFailed, activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.agents.recorded_tools import METADATA_KEY
from paigeant_celery.testing import WorkflowHarness
from tests.support.journalled_hop import JournalledHop, calls, scripted

pytestmark = pytest.mark.anyio

UNRECORDED = {METADATA_KEY: False}
LONG, SHORT = 60.0, 1.0  # seconds; a test waits for the short one once or twice, and works for a part of it


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    with registry.isolated():
        yield


@pytest.fixture
def asked() -> Counter[str]:
    """How often models and tools were asked."""
    return Counter()


def stop(agent: Agent[Any, Any], asked: Counter[str]) -> None:
    """Give an agent a tool that cancels its run."""

    @agent.tool(metadata=UNRECORDED)
    async def stop(ctx: RunContext[Any]) -> None:
        asked["stop"] += 1
        ctx.cancel()
        await asyncio.Event().wait()  # here the cancel arrives; a tool that returns first may still be in the messages


def of_an_agent(asked: Counter[str]) -> Any:
    """A step of an agent whose tool cancels it."""
    agent = PaigeantAgent(scripted(asked, calls("stop"), "done"), name="writer")
    stop(agent, asked)
    return agent.activity("go")


def of_a_function(asked: Counter[str]) -> Any:
    """A step of a function that runs such an agent."""
    agent = Agent(scripted(asked, calls("stop"), "done"), name="inner", capabilities=[CeleryDurability[None]()])
    stop(agent, asked)

    @activity
    async def write() -> str:
        return (await agent.run("go")).output

    return write.activity()


def of_a_function_with_a_handle(asked: Counter[str]) -> Any:
    """A step of a function that cancels a run from outside it."""
    agent = Agent(scripted(asked, "done"), name="inner", capabilities=[CeleryDurability[None]()])

    @activity
    async def write() -> str:
        async with agent.iter("go") as run:
            asked["stop"] += 1
            run.cancel()
            async for _ in run:
                pass
        raise AssertionError("the run was cancelled")

    return write.activity()


def of_a_group(asked: Counter[str]) -> Any:
    """A step of a function that runs such agents side by side."""
    agent = Agent(scripted(asked, calls("stop"), "done"), name="inner", capabilities=[CeleryDurability[None]()])
    stop(agent, asked)

    @activity
    async def write() -> str:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(agent.run("go"))
        return task.result().output

    return write.activity()


@pytest.mark.parametrize(
    ("step_of", "error_class"),
    [
        (of_an_agent, "RunCancelled"),
        (of_a_function, "RunCancelled"),
        (of_a_function_with_a_handle, "RunCancelled"),
        (of_a_group, "ExceptionGroup"),
    ],
)
async def test_a_step_whose_code_cancels_its_run_fails_at_once(
    step_of: Any, error_class: str, asked: Counter[str]
) -> None:
    """It would cancel it again in each attempt, after all that comes before; and nobody waits for a parked one."""
    with pytest.raises(WorkflowFailed) as failed:
        await WorkflowHarness().run([step_of(asked)])

    assert type(failed.value) is WorkflowFailed
    assert failed.value.error_class == error_class
    assert asked["stop"] == 1


async def test_a_step_that_goes_on_without_its_cancelled_agent_completes(asked: Counter[str]) -> None:
    """A cancelled run is an ordinary outcome for code that expects it, in each attempt."""
    agent = Agent(scripted(asked, calls("stop"), "done"), name="inner", capabilities=[CeleryDurability[None]()])
    stop(agent, asked)

    @activity
    async def write() -> list[str]:
        try:
            await agent.run("go")
        except RunCancelled as cancelled:
            asked["attempt"] += 1
            if asked["attempt"] == 1:
                raise OSError("a late failure") from None
            return [part.part_kind for message in cancelled.all_messages() for part in message.parts]
        raise AssertionError("the run was cancelled")

    result = await WorkflowHarness().run([write.activity()])

    assert result.output == ["user-prompt", "tool-call"]
    assert asked == {"local": 1, "stop": 2, "attempt": 2}


def slow(asked: Counter[str], *, attempts: int) -> FunctionModel:
    """A model whose second answer takes longer than any test, in so many attempts."""

    async def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        asked["model"] += 1
        if not any(isinstance(message, ModelResponse) for message in messages):
            return ModelResponse(parts=calls("look"))
        asked["second"] += 1
        if asked["second"] <= attempts:
            await asyncio.sleep(LONG)
        return ModelResponse(parts=[TextPart("done")])

    return FunctionModel(answer)


def looking(model: FunctionModel) -> Agent[None, str]:
    agent = Agent(model, name="inner", capabilities=[CeleryDurability[None]()])

    @agent.tool_plain
    def look() -> str:
        return "seen"

    return agent


async def test_a_run_has_its_whole_time_in_each_attempt(asked: Counter[str]) -> None:
    """Its clock would otherwise have run out before its second attempt made a call, and in all later ones."""
    agent = looking(slow(asked, attempts=1))

    @activity
    async def write() -> str:
        return (await agent.run("go", timeout=SHORT)).output

    result = await WorkflowHarness().run([write.activity()])

    assert result.output == "done"
    assert asked == {"model": 3, "second": 2}  # the first request is replayed


async def test_time_that_has_passed_between_attempts_is_not_the_run_s(asked: Counter[str]) -> None:
    """A hop may wait for hours for its next attempt."""
    agent, hop, left = looking(slow(asked, attempts=0)), JournalledHop(), []

    @agent.instructions
    def now(ctx: RunContext[None]) -> str:
        left.append(ctx.remaining_time())
        return "go"

    with hop.attempt(cut_after=1), suppress(Exception):
        await agent.run("go", timeout=LONG)
    start = next(name for name in hop.records if '"start"' in name)
    old = '{"v":1,"of":{},"result":"2020-01-01T00:00:00+00:00"}'
    with hop.attempt():
        hop.keep({start: old})
    with hop.attempt() as journal:
        output = (await agent.run("go", timeout=LONG)).output

    assert output == "done"
    assert journal.replayed == 1
    assert all(LONG / 2 < seconds <= LONG for seconds in left)
    assert hop.records[start] == old  # workers of earlier versions go on reading it


async def test_a_run_that_timed_out_and_was_survived_times_out_again(asked: Counter[str]) -> None:
    """What the step did then is recorded, and would not fit a run that now had more time."""
    agent, hop, outputs = looking(slow(asked, attempts=1)), JournalledHop(), []
    other = Agent(scripted(asked, "from another"), name="other", capabilities=[CeleryDurability[None]()])

    async def step() -> str:
        try:
            return (await agent.run("go", timeout=SHORT)).output
        except RunTimedOut:
            return (await other.run("go")).output

    for _ in range(2):
        with hop.attempt():
            outputs.append(await step())

    assert outputs == ["from another", "from another"]
    assert asked == {"model": 2, "second": 1, "local": 1}
