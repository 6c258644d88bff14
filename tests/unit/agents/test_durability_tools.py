"""The tools of an agent whose run is durable: from any toolset, with agents inside, and what they may not do."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import RunCancelled, UserError
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models.test import TestModel
from pydantic_ai.run import AgentRunResult
from pydantic_ai.toolsets import FunctionToolset, WrapperToolset

from paigeant_celery.agents.durability import CeleryDurability, idempotency_key
from paigeant_celery.agents.recorded_tools import METADATA_KEY
from paigeant_celery.core.errors import HopLost, NotSerializable, UsageError
from tests.support.journalled_hop import JournalledHop, calls, history, scripted

pytestmark = pytest.mark.anyio


def agent_of(asked: Counter[str], *answers: Any, name: str = "worker", **arguments: Any) -> Agent[None, str]:
    """Return an agent with a durability and a model that gives these answers."""
    return Agent(scripted(asked, *answers, name=name), name=name, capabilities=[CeleryDurability[None]()], **arguments)


async def run_twice(hop: JournalledHop, agent: Agent[None, Any], **arguments: Any) -> AgentRunResult[Any]:
    """Run an agent and replay it; the results are the same, and the replay makes no calls."""
    with hop.attempt():
        result = await agent.run("go", **arguments)
    with hop.attempt() as again:
        replayed = await agent.run("go", **arguments)
    assert again.made == 0
    assert (result.output, history(result), result.usage) == (replayed.output, history(replayed), replayed.usage)
    return result


class Opened(WrapperToolset[None]):
    """A toolset that must be entered, like that of a server."""

    entered = 0

    async def __aenter__(self) -> Opened:
        type(self).entered += 1
        await self.wrapped.__aenter__()
        return self


async def test_tools_of_any_toolset_are_recorded() -> None:
    """Toolsets need no ids, not even those that are made for each run or have to be opened."""
    asked: Counter[str] = Counter()

    def named(name: str) -> FunctionToolset[None]:
        def tool() -> str:
            asked[name] += 1
            return name

        toolset = FunctionToolset[None]()
        toolset.add_function(tool, name=name)
        return toolset

    agent = agent_of(asked, calls("plain", "open", "made"), "done", toolsets=[named("plain"), Opened(named("open"))])
    agent.toolset(lambda ctx: named("made"))
    Opened.entered = 0

    await run_twice(JournalledHop(), agent)

    assert asked == {"worker": 2, "plain": 1, "open": 1, "made": 1}
    assert Opened.entered == 2


async def test_usage_of_agents_inside_parallel_tools_is_exact() -> None:
    """What a step cost is what it costs without a journal, live and replayed."""
    asked: Counter[str] = Counter()
    helper: Agent[None, str] = Agent(scripted(asked, "one two three", name="helper"), name="helper")
    agent = agent_of(asked, calls("ask", "ask", "ask", question="why"), "done")

    @agent.tool
    async def ask(ctx: RunContext[None], question: str) -> str:
        return (await helper.run(question, usage=ctx.usage)).output

    free = await agent.run("go")
    result = await run_twice(JournalledHop(), agent)

    assert result.usage == free.usage
    assert (result.usage.requests, result.usage.tool_calls) == (5, 3)
    assert asked == {"worker": 4, "helper": 6}


async def test_a_tool_that_is_not_recorded_may_run_a_durable_agent() -> None:
    """Its long work is then recorded call by call; two such tools that run together are not mixed up."""
    asked: Counter[str] = Counter()
    helper = agent_of(asked, "one", name="helper")
    agent = agent_of(asked, calls("first", "second"), "done")

    async def delegate(ctx: RunContext[None]) -> str:
        asked[str(ctx.tool_name)] += 1
        result = await helper.run(str(ctx.tool_name), usage=ctx.usage)
        return f"{result.output} {result.run_id}"

    for name in ("first", "second"):
        agent.tool(delegate, name=name, metadata={METADATA_KEY: False})

    result = await run_twice(JournalledHop(), agent)

    assert asked == {"worker": 2, "helper": 2, "first": 2, "second": 2}
    assert (result.usage.requests, result.usage.tool_calls) == (4, 2)
    returned = [part.content for message in result.all_messages() for part in message.parts
                if isinstance(part, ToolReturnPart)]  # fmt: skip
    assert returned == [
        "one w.0:w.0:worker:0/first-1/helper:0",
        "one w.0:w.0:worker:0/second-2/helper:0",
    ]


async def test_a_durable_agent_inside_a_recorded_tool_is_recorded_with_it() -> None:
    """The tool's record holds its result; the agent inside has no record of its own and does not run again."""
    asked: Counter[str] = Counter()
    helper = agent_of(asked, "one", name="helper")
    agent = agent_of(asked, calls("delegate"), "done")

    @agent.tool
    async def delegate(ctx: RunContext[None]) -> str:
        return (await helper.run("go", usage=ctx.usage)).output

    hop = JournalledHop()
    result = await run_twice(hop, agent)

    assert len(hop.records) == 3
    assert (asked, result.usage.requests) == ({"worker": 2, "helper": 1}, 3)


@pytest.mark.parametrize("what", ["enqueue", "cancel"])
async def test_a_recorded_tool_cannot_reach_into_the_run(what: str) -> None:
    """On a replay the tool does not run, and what it did to the run would be missing."""
    asked: Counter[str] = Counter()
    agent = agent_of(asked, calls("meddle"), "done")

    @agent.tool
    def meddle(ctx: RunContext[None]) -> str:
        if what == "enqueue":
            ctx.enqueue("and another thing")
        else:
            ctx.cancel()
        return "meddled"

    with JournalledHop().attempt() as journal, pytest.raises(UserError, match=what) as caught:
        await agent.run("go")

    assert (journal.made, asked) == (1, {"worker": 1})
    assert 'give the tool `metadata={"paigeant": False}`' in str(caught.value)


async def test_a_tool_that_is_not_recorded_may_add_to_the_run() -> None:
    """It runs again, and so does what it does."""
    agent = agent_of(Counter(), calls("add"), "done")

    @agent.tool(metadata={METADATA_KEY: False})
    def add(ctx: RunContext[None]) -> str:
        ctx.enqueue("and another thing")
        return "added"

    result = await run_twice(JournalledHop(), agent)

    assert "and another thing" in str(history(result))


class Stopping(AbstractCapability[None]):
    """Cancels the run after each tool."""

    async def after_tool_execute(self, ctx: RunContext[None], *, result: Any, **_: Any) -> Any:
        ctx.cancel()
        return result


async def test_a_hook_may_cancel_the_run_after_a_recorded_tool() -> None:
    """The refusal inside the tool names hooks as a way, so they must be one, also in a replay."""
    agent = Agent(TestModel(), name="worker", capabilities=[CeleryDurability[None](), Stopping()])
    agent.tool_plain(lambda: "x", name="look")
    hop = JournalledHop()

    for made in (2, 0):
        with hop.attempt() as journal, pytest.raises(RunCancelled):
            await agent.run("go")
        assert journal.made == made


async def test_a_result_that_is_no_json_is_refused_with_the_tools_name() -> None:
    """It could not be replayed; the tool's author learns which one it was."""
    agent = agent_of(Counter(), calls("lock"), "done")
    agent.tool_plain(lambda: threading.Lock(), name="lock")

    with (
        JournalledHop().attempt() as journal,
        pytest.raises(NotSerializable, match="tool 'lock': a result has no JSON form"),
    ):
        await agent.run("go")

    assert journal.made == 1


async def test_a_tool_result_is_what_json_makes_of_it_from_the_first_attempt_on() -> None:
    """The model is told the same before and after a crash."""
    agent = agent_of(Counter(), calls("pair"), "done")
    agent.tool_plain(lambda: (1, {2: "two"}), name="pair")

    result = await run_twice(JournalledHop(), agent)

    assert [part.content for message in result.all_messages() for part in message.parts
            if isinstance(part, ToolReturnPart)] == [[1, {"2": "two"}]]  # fmt: skip


async def test_idempotency_keys_are_of_one_call_in_all_attempts() -> None:
    """The service that the tool calls recognizes the repeated call, and does not confuse it with others."""
    hop, keys = JournalledHop(), list[tuple[str, str]]()
    agent = agent_of(Counter(), calls("pay", "pay", amount=5), "done")

    @agent.tool
    async def pay(ctx: RunContext[None], amount: int) -> str:
        keys.append((str(ctx.tool_call_id), idempotency_key(ctx)))
        return "paid"

    for _ in range(2):
        with hop.attempt(cut_after=1), pytest.raises(HopLost):
            await agent.run("go")
    by_call = {call: {key for found, key in keys if found == call} for call in ("pay-1", "pay-2")}

    assert len(keys) == 4
    assert [len(found) for found in by_call.values()] == [1, 1]
    assert not by_call["pay-1"] & by_call["pay-2"]
    assert {len(key) for _, key in keys} == {36}


async def test_an_idempotency_key_is_of_its_run_and_its_step() -> None:
    """Some providers restart their call numbers with each answer; two payments of one workflow are two payments."""
    keys = list[str]()
    agent = agent_of(Counter(), calls("pay"), calls("pay"), "done")

    @agent.tool
    async def pay(ctx: RunContext[None]) -> str:
        keys.append(idempotency_key(ctx))
        return "paid"

    with JournalledHop().attempt():
        await agent.run("go")
        await agent.run("go")

    assert len(set(keys)) == 4


async def test_an_idempotency_key_is_asked_for_inside_a_tool() -> None:
    """Anywhere else it would name nothing."""
    agent = agent_of(Counter(), "done")

    @agent.instructions
    def instructions(ctx: RunContext[None]) -> str:
        return idempotency_key(ctx)

    with JournalledHop().attempt(), pytest.raises(UsageError, match="inside a tool"):
        await agent.run("go")


async def test_a_run_rests_when_the_calls_in_flight_have_ended() -> None:
    """A worker that ends lets parallel tools finish, records them, and begins nothing more."""
    asked, ending = Counter[str](), threading.Event()
    begun, may_end = asyncio.Event(), asyncio.Event()
    hop, agent = JournalledHop(), agent_of(asked, calls("quick", "slow"), "done")

    @agent.tool_plain
    async def quick() -> str:
        asked["quick"] += 1
        return "quick"

    @agent.tool_plain
    async def slow() -> str:
        asked["slow"] += 1
        begun.set()
        await may_end.wait()
        return "slow"

    with hop.attempt(stopping=ending.is_set) as journal:
        run = asyncio.create_task(agent.run("go"))
        await begun.wait()
        ending.set()
        assert not journal.at_rest
        may_end.set()
        async with asyncio.timeout(5):
            while not journal.at_rest:  # noqa: ASYNC110 - as the task body does, in its own thread
                await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert len(hop.records) == 3

    with hop.attempt() as again:
        result = await agent.run("go")

    assert (result.output, again.replayed, again.made) == ("done", 3, 1)
    assert asked == {"worker": 2, "quick": 1, "slow": 1}
