"""Calls that failed and that the run survived: replayed once the run is known to have gone on, with what they used."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.capabilities import AbstractCapability, durable_operation

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.errors import HopLost
from tests.support.journalled_hop import JournalledHop, calls, scripted

pytestmark = pytest.mark.anyio


class Failing(AbstractCapability[Any]):
    """Has an operation that asks a sub-agent and then fails, which its hooks survive."""

    id = "failing"

    def __init__(self, *hooks: str, fatal: bool = False) -> None:
        self.hooks, self.fatal = hooks, fatal
        self.made: Counter[str] = Counter()
        self.agent = Agent(scripted(Counter(), "yes", name="inner"), name="inner")

    @durable_operation(name="ask")
    async def ask(self, ctx: RunContext[Any], place: str) -> None:
        self.made[place] += 1
        await self.agent.run("really?", usage=ctx.usage)
        raise ConnectionError(place)

    async def at(self, ctx: RunContext[Any], place: str) -> None:
        if place in self.hooks:
            with suppress(*(() if self.fatal else (ConnectionError,))):
                await self.ask(ctx, place)

    async def before_run(self, ctx: RunContext[Any]) -> None:
        await self.at(ctx, "before_run")

    async def before_model_request(self, ctx: RunContext[Any], request_context: Any) -> Any:
        await self.at(ctx, "before_model_request")
        return request_context

    async def after_model_request(self, ctx: RunContext[Any], *, request_context: Any, response: Any) -> Any:
        await self.at(ctx, "after_model_request")
        return response

    async def before_tool_execute(self, ctx: RunContext[Any], *, args: Any, **_: Any) -> Any:
        await self.at(ctx, "before_tool_execute")
        return args

    async def after_tool_execute(self, ctx: RunContext[Any], *, result: Any, **_: Any) -> Any:
        await self.at(ctx, "after_tool_execute")
        return result

    async def after_run(self, ctx: RunContext[Any], *, result: Any) -> Any:
        await self.at(ctx, "after_run")
        return result


HOOKS = [name for name in vars(Failing) if name.startswith(("before_", "after_"))]


def agent_of(failing: Failing) -> Agent[None, str]:
    model = scripted(Counter(), calls("look"), "done")
    agent: Agent[None, str] = Agent(model, name="a", capabilities=[failing, CeleryDurability[None]()])
    agent.tool_plain(lambda: "seen", name="look")
    return agent


@pytest.mark.parametrize("hook", HOOKS)
async def test_a_survived_operation_counts_in_the_replay_as_before(hook: str) -> None:
    """Tokens that were paid for are counted once, and what failed is not made again, wherever in the run it failed."""
    failing, hop = Failing(hook), JournalledHop()
    agent = agent_of(failing)
    with hop.attempt():
        first = await agent.run("go")
    made = Counter(failing.made)

    with hop.attempt() as journal:
        second = await agent.run("go")

    assert first.usage.requests == 2 + made.total()
    assert second.usage == first.usage
    assert (failing.made, journal.made) == (made, 0)


@pytest.mark.parametrize("hook", HOOKS)
async def test_a_survived_operation_is_made_again_only_if_the_crash_came_with_it(hook: str) -> None:
    """Each record may be the last before a crash: at most the one failure that nothing has followed is repeated."""
    whole, hop = Failing(hook), JournalledHop()
    with hop.attempt() as journal:
        await agent_of(whole).run("go")
    for cut in range(journal.made + 1):
        failing, hop = Failing(hook), JournalledHop()
        with hop.attempt(cut_after=cut), suppress(HopLost):
            await agent_of(failing).run("go")
        with hop.attempt() as journal:
            result = await agent_of(failing).run("go")
        assert result.usage.requests == 2 + whole.made.total()
        assert (failing.made - whole.made).total() <= 1, cut
        assert journal.fault is None


async def test_one_that_fails_just_before_the_request_of_its_step_is_replayed() -> None:
    """The model's answer came after it: replayed, it fails again, and the model is asked the same."""
    failing, hop = Failing("before_model_request"), JournalledHop()
    agent = agent_of(failing)
    with hop.attempt(cut_after=1), suppress(HopLost):  # the failure is recorded with the request, in one write
        await agent.run("go")
    with hop.attempt():
        await agent.run("go")

    assert failing.made == {"before_model_request": 2}


@pytest.mark.parametrize("hook", HOOKS)
async def test_a_failure_that_ended_the_run_is_not_replayed(hook: str) -> None:
    """A retry must get further than the attempt that failed."""
    failing, hop = Failing(hook, fatal=True), JournalledHop()
    agent = agent_of(failing)
    with hop.attempt(), pytest.raises(ConnectionError):
        await agent.run("go")
    failing.fatal = False
    for _ in range(2):
        with hop.attempt():
            await agent.run("go")
    made = Counter({hook: 3 if "model" in hook else 2})
    assert failing.made == made


async def test_a_failure_beside_another_tool_that_ended_the_run_is_not_replayed() -> None:
    """What a parallel tool records afterwards does not show that the failure was survived."""
    failed = asyncio.Event()

    class Beside(Failing):
        async def before_run(self, ctx: RunContext[Any]) -> None:
            self.ctx = ctx

        async def before_tool_execute(self, ctx: RunContext[Any], *, call: Any, args: Any, **_: Any) -> Any:
            if call.tool_name == "first":
                try:
                    await self.ask(self.ctx, "beside")  # as a workspace does, with the context of the run
                finally:
                    failed.set()
            return args

    failing, hop = Beside(fatal=True), JournalledHop()
    model = scripted(Counter(), calls("first", "second"), "done")
    agent: Agent[None, str] = Agent(model, name="a", capabilities=[failing, CeleryDurability[None]()])
    agent.tool_plain(lambda: "seen", name="first")

    @agent.tool_plain
    async def second() -> str:
        await failed.wait()
        return "seen"

    with hop.attempt(), pytest.raises(ConnectionError):
        await agent.run("go")

    assert not any("failing.ask" in key for key in hop.records)


async def test_parallel_operations_count_each_its_own_usage() -> None:
    """The counters of one do not hold what another one used meanwhile."""

    class Parallel(Failing):
        @durable_operation(name="two")
        async def two(self, ctx: RunContext[Any], name: str) -> str:
            return (await self.agent.run(name, usage=ctx.usage)).output

        async def before_run(self, ctx: RunContext[Any]) -> None:
            await asyncio.gather(self.two(ctx, "a"), self.two(ctx, "b"), self.two(ctx, "c"))

    hop, agent = JournalledHop(), agent_of(Parallel())
    with hop.attempt():
        first = await agent.run("go")
    with hop.attempt():
        second = await agent.run("go")

    assert first.usage.requests == 5
    assert second.usage == first.usage


async def test_what_an_event_handler_used_counts_in_the_replay() -> None:
    """A handler may ask an agent what to show."""
    inner = Agent(scripted(Counter(), "yes", name="inner"), name="inner")

    async def handler(ctx: RunContext[None], events: AsyncIterable[Any]) -> None:
        async for event in events:
            if event.event_kind == "function_tool_result":
                await inner.run("look?", usage=ctx.usage)

    durability = CeleryDurability[None](event_stream_handler=handler)
    agent: Agent[None, str] = Agent(scripted(Counter(), calls("look"), "done"), name="a", capabilities=[durability])
    agent.tool_plain(lambda: "seen", name="look")
    hop = JournalledHop()
    with hop.attempt():
        first = await agent.run("go")
    with hop.attempt():
        second = await agent.run("go")

    assert first.usage.requests == 3
    assert second.usage == first.usage


def nested(asked: Counter[str], *, deep: bool, fatal: bool = False) -> Agent[None, str]:
    """Return an agent whose two tools each ask an agent that fails; they answer without it, unless that is `fatal`."""
    failing = scripted(asked, ConnectionError("no answer"), name="helper")
    agent: Agent[None, str] = Agent(failing, name="helper", capabilities=[CeleryDurability()])
    for name in ("middle", "outer") if deep else ("outer",):
        ask = asking(agent, () if fatal else (ConnectionError,))
        model = scripted(asked, calls("ask", "ask"), f"done by {name}", name=name)
        agent = Agent(model, name=name, capabilities=[CeleryDurability()])
        agent.tool_plain(ask, name="ask", metadata={"paigeant": False})
    return agent


def asking(agent: Agent[None, str], survives: tuple[type[Exception], ...]) -> Callable[[], Awaitable[str]]:
    """Return a tool that asks an agent."""

    async def ask() -> str:
        with suppress(*survives):
            return (await agent.run("go")).output
        return "without it"

    return ask


@pytest.mark.parametrize("deep", [False, True])
async def test_a_failure_in_an_agent_of_a_tool_is_replayed_when_the_outer_run_went_on(deep: bool) -> None:
    """It is not asked again, and nothing that came after waits for its answer."""
    asked: Counter[str] = Counter()
    hop = JournalledHop()

    with hop.attempt():
        assert (await nested(asked, deep=deep).run("go")).output == "done by outer"
    once = Counter(asked)
    assert once["helper"] == (4 if deep else 2)
    async with asyncio.timeout(4):  # recorded calls that nobody makes are given up after five seconds
        with hop.attempt() as journal:
            assert (await nested(asked, deep=deep).run("go")).output == "done by outer"

    assert (asked, journal.made) == (once, 0)


@pytest.mark.parametrize("deep", [False, True])
async def test_a_failure_in_an_agent_of_a_tool_that_ended_the_outer_run_is_not_replayed(deep: bool) -> None:
    """Otherwise no retry would get further."""
    asked: Counter[str] = Counter()
    hop = JournalledHop()

    for attempt in (1, 2):
        with hop.attempt(), pytest.raises(ConnectionError):
            await nested(asked, deep=deep, fatal=True).run("go")
        assert asked["helper"] >= attempt
    assert asked["outer"] == 1


class Consulting(AbstractCapability[Any]):
    """Asks an agent in one of its hooks and goes on without it if that is away, unless that is `fatal`."""

    def __init__(self, hook: str, asked: Counter[str], *, fatal: bool = False) -> None:
        failing = scripted(asked, ConnectionError("no answer"), name="helper")
        agent: Agent[None, str] = Agent(failing, name="helper", capabilities=[CeleryDurability()])
        self._hook, self._ask = hook, asking(agent, () if fatal else (ConnectionError,))

    async def before_model_request(self, ctx: RunContext[Any], request_context: Any) -> Any:
        if self._hook == "before_model_request":
            await self._ask()
        return request_context

    async def after_model_request(self, ctx: RunContext[Any], *, request_context: Any, response: Any) -> Any:
        if self._hook == "after_model_request":
            await self._ask()
        return response

    async def after_node_run(self, ctx: RunContext[Any], *, node: Any, result: Any) -> Any:
        if self._hook == "after_node_run":
            await self._ask()
        return result


def consulting(hook: str, asked: Counter[str], *, fatal: bool = False) -> Agent[None, str]:
    """Return an agent with such a capability, whose model says something only when it is asked for the third time."""
    model = scripted(asked, [], [], "done", name="outer")
    durable: list[AbstractCapability[Any]] = [CeleryDurability(), Consulting(hook, asked, fatal=fatal)]
    return Agent(model, name="outer", capabilities=durable, retries=5)


@pytest.mark.parametrize("hook", ["before_model_request", "after_model_request", "after_node_run"])
async def test_a_failure_in_an_agent_of_a_hook_is_replayed_when_the_outer_run_went_on(hook: str) -> None:
    """Such as one that summarizes for a capability: asked again, it might answer, and the model be asked otherwise."""
    asked: Counter[str] = Counter()
    hop = JournalledHop()
    with hop.attempt() as journal:
        assert (await consulting(hook, asked).run("go")).output == "done"
    whole, made = Counter(asked), journal.made
    assert (whole["outer"], made) == (3, 3)
    assert whole["helper"] >= 3

    for cut in range(made + 1):
        asked.clear()
        hop = JournalledHop()
        with hop.attempt(cut_after=cut), suppress(HopLost):
            await consulting(hook, asked).run("go")
        async with asyncio.timeout(4):  # recorded calls that nobody makes are given up after five seconds
            with hop.attempt() as journal:
                assert (await consulting(hook, asked).run("go")).output == "done"

        assert journal.fault is None
        assert journal.made == made - cut
        for name, once in whole.items():  # only what was lost with the worker is asked again
            assert once <= asked[name] <= once + 2, cut


@pytest.mark.parametrize("hook", ["before_model_request", "after_model_request", "after_node_run"])
async def test_a_failure_in_an_agent_of_a_hook_that_ended_the_outer_run_is_not_replayed(hook: str) -> None:
    """Otherwise no retry would get further."""
    asked: Counter[str] = Counter()
    hop = JournalledHop()

    for attempt in (1, 2):
        with hop.attempt(), pytest.raises(ConnectionError):
            await consulting(hook, asked, fatal=True).run("go")
        assert asked["helper"] == attempt
