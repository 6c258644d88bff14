"""The MCP servers of a durable run: what they offer is recorded, and a replay is connected to none."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from mcp.server import MCPServer
from pydantic_ai import Agent, RunContext
from pydantic_ai.capabilities import MCP
from pydantic_ai.mcp import MCPToolset, StdioTransport
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.toolsets import AbstractToolset, CombinedToolset, FunctionToolset, WrapperToolset

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.agents.recorded_servers import with_recorded_servers
from paigeant_celery.core.errors import HopLost
from tests.programs.bookkeeper import ABACUS
from tests.support.journalled_hop import JournalledHop, calls, history

pytestmark = pytest.mark.anyio


class Server:
    """A server in this process that can gain tools and go away, and counts what it is asked."""

    def __init__(self, name: str = "abacus", **options: Any) -> None:
        self.asked, self.down, self.options = Counter[str](), False, options
        self.server = MCPServer(name, instructions=f"Ask the {name}.")
        self.gain("add")

    def gain(self, name: str) -> None:
        """Offer a tool that adds."""

        def add(a: int) -> int:
            self.asked[name] += 1
            return a + 1

        self.server.add_tool(add, name=name)

    def toolset(self) -> MCPToolset[None]:
        """Return what an agent is given."""
        return Counting(self)


class Counting(MCPToolset[None]):
    """The toolset of such a server."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.server, include_instructions=True, **server.options)
        self.of = server

    async def __aenter__(self) -> Counting:
        if self.of.down:
            raise ConnectionError("the server is down")
        if not self.is_running:
            self.of.asked["connected"] += 1
        await super().__aenter__()
        return self

    async def list_tools(self) -> Any:
        if not self.cache_tools or self._cached_tools is None:
            self.of.asked["listed"] += 1
        return await super().list_tools()


class Told:
    """A model that gives answers in order, and keeps which tools and instructions it was given at each request."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.given = answers, list[tuple[int, list[str], str | None]]()

    def model(self) -> FunctionModel:
        """Return the model."""

        def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            step = sum(isinstance(message, ModelResponse) for message in messages)
            assert isinstance(messages[-1], ModelRequest)
            self.given.append((step, sorted(tool.name for tool in info.function_tools), messages[-1].instructions))
            given = self.answers[step]
            return ModelResponse(parts=[TextPart(given)] if isinstance(given, str) else list(given))

        return FunctionModel(answer, model_name="local")


def agent_of(told: Told, toolsets: Sequence[AbstractToolset[None]], **options: Any) -> Agent[None, str]:
    """Return a durable agent."""
    capabilities = [CeleryDurability[None](), *options.pop("capabilities", ())]
    return Agent(told.model(), name="worker", toolsets=toolsets, capabilities=capabilities, **options)


async def test_a_server_that_is_down_fails_no_replay() -> None:
    """Every call is recorded, so that nothing is to be asked of it."""
    server, told, hop = Server(), Told(calls("add", a=1), "done"), JournalledHop()
    agent = agent_of(told, [server.toolset()])

    with hop.attempt():
        result = await agent.run("go")
    server.down = True
    with hop.attempt() as again:
        replayed = await agent.run("go")

    assert (again.made, history(replayed), replayed.usage) == (0, history(result), result.usage)
    assert server.asked == {"connected": 1, "listed": 1, "add": 1}
    assert len([name for name in hop.records if "get_tools" in name]) == 1
    assert told.given == [(0, ["add"], "Ask the abacus."), (1, ["add"], "Ask the abacus.")]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("after", range(6))
async def test_a_server_that_gained_a_tool_parks_no_hop(after: int, *, cached: bool) -> None:
    """A deploy of the server between two attempts, wherever the first one was cut off, is not one of the agent."""
    server, told, hop = (
        Server(cache_tools=cached),
        Told(calls("add", a=1), calls("add", a=2), "done"),
        JournalledHop(),
    )
    agent = agent_of(told, [server.toolset()])

    with hop.attempt(cut_after=after), pytest.raises(HopLost):
        await agent.run("go")
    server.gain("subtract")
    with hop.attempt():
        result = await agent.run("go")
    with hop.attempt() as last:
        replayed = await agent.run("go")

    assert (result.output, last.made, history(replayed)) == ("done", 0, history(result))
    assert len({step for step, _, _ in told.given}) == 3
    offered = [tools for _, tools, _ in sorted(told.given)]
    assert offered == sorted(offered)  # once it is offered, it stays


async def test_a_tool_that_a_server_gains_during_a_run_is_offered_as_in_a_plain_run() -> None:
    """The server says that its tools changed; a replay sees them change in the same step."""

    def setting() -> tuple[Server, Told, Agent[None, str]]:
        server, told = Server(), Told(calls("add", a=1), calls("grow"), calls("add", a=3), "done")
        agent = agent_of(told, [server.toolset()])

        @agent.tool_plain(metadata={"paigeant": False})
        def grow() -> str:
            if server.asked["grown"] == 0:
                server.gain("subtract")
            server.asked["grown"] += 1
            toolset = next(found for found in agent.toolsets if isinstance(found, Counting))
            toolset._invalidate_tools_cache()  # as a notification of the server does
            return "grown"

        return server, told, agent

    _, plain, agent = setting()
    await agent.run("go")
    server, told, agent = setting()
    hop = JournalledHop()
    with hop.attempt():
        result = await agent.run("go")
    given = list(told.given)
    server.down = True
    with hop.attempt() as again:
        replayed = await agent.run("go")

    assert given == plain.given
    assert [tools for _, tools, _ in given[-2:]] == [["add", "grow", "subtract"]] * 2
    assert (again.made, history(replayed), told.given) == (0, history(result), given)
    assert len([name for name in hop.records if "get_tools" in name]) == 2


async def test_tools_that_are_not_cached_are_recorded_each_time() -> None:
    """One record for each time that the server is really asked."""
    server, told, hop = Server(cache_tools=False), Told(calls("add", a=1), "done"), JournalledHop()
    agent = agent_of(told, [server.toolset()])

    with hop.attempt():
        await agent.run("go")
    server.down = True
    with hop.attempt() as again:
        await agent.run("go")

    assert (again.made, server.asked) == (0, {"connected": 1, "listed": 2, "add": 1})
    assert len([name for name in hop.records if "get_tools" in name]) == 2


def given_dynamically(per_run_step: bool) -> Callable[[Server, Server], dict[str, Any]]:
    """Give servers by functions that make a toolset for each run or step."""

    def give(first: Server, second: Server) -> dict[str, Any]:
        def options(agent: Agent[None, str]) -> None:
            @agent.toolset(per_run_step=per_run_step)
            def one(ctx: RunContext[None]) -> AbstractToolset[None]:
                return first.toolset()

            @agent.toolset(per_run_step=per_run_step)
            async def two(ctx: RunContext[None]) -> AbstractToolset[None]:
                return second.toolset().prefixed("other")

        return {"after": options}

    return give


WAYS: dict[str, Callable[[Server, Server], dict[str, Any]]] = {
    "beside each other": lambda first, second: {"toolsets": [first.toolset(), second.toolset().prefixed("other")]},
    "with ids": lambda first, second: {
        "toolsets": [named(first.toolset(), "one"), named(second.toolset(), "two").prefixed("other")]
    },
    "as capabilities": lambda first, second: {
        "capabilities": [MCP(local=first.toolset()), MCP(local=second.toolset(), id="two")]
    },
    "for each run": given_dynamically(per_run_step=False),
    "for each step": given_dynamically(per_run_step=True),
}


def named(toolset: MCPToolset[None], name: str) -> MCPToolset[None]:
    """Return a toolset with an id."""
    toolset.id = name
    return toolset


@pytest.mark.parametrize("way", WAYS)
async def test_servers_are_recorded_however_an_agent_is_given_them(way: str) -> None:
    """They need no ids, and need not be there when the agent is made."""
    first, second = Server(), Server("slate")
    second.server.remove_tool("add")
    second.gain("shift")
    other = "shift" if way == "as capabilities" else "other_shift"
    told = Told([*calls("add", a=1), ToolCallPart(other, {"a": 1}, "second")], "done")
    options = WAYS[way](first, second)
    after = options.pop("after", None)
    agent = agent_of(told, options.pop("toolsets", ()), **options)
    if after is not None:
        after(agent)
    await agent.run("go")
    plain, hop = list(told.given), JournalledHop()
    told.given.clear()

    with hop.attempt():
        result = await agent.run("go")
    first.down = second.down = True
    first.gain("more")
    with hop.attempt() as again:
        replayed = await agent.run("go")

    assert told.given == plain
    assert (again.made, history(replayed)) == (0, history(result))
    assert (first.asked["add"], second.asked["shift"]) == (2, 2)


async def test_a_server_given_for_a_run_is_recorded() -> None:
    """It is part of no agent."""
    server, told, hop = Server(), Told(calls("add", a=1), "done"), JournalledHop()
    agent = agent_of(told, [])

    with hop.attempt():
        await agent.run("go", toolsets=[server.toolset()])
    server.down = True
    with hop.attempt() as again:
        result = await agent.run("go", toolsets=[server.toolset()])

    assert (result.output, again.made) == ("done", 0)


async def test_a_replay_is_connected_when_it_makes_a_call() -> None:
    """The connection is that of the run, and is closed with it."""
    server, told, hop = Server(), Told(calls("add", a=1), calls("add", "add", a=2), "done"), JournalledHop()
    toolset = server.toolset()
    agent = agent_of(told, [toolset])

    with hop.attempt(cut_after=4), pytest.raises(HopLost):
        await agent.run("go")
    assert server.asked == {"connected": 1, "listed": 1, "add": 3}
    with hop.attempt() as again:
        await agent.run("go")

    assert server.asked == {"connected": 2, "listed": 1, "add": 5}
    assert (again.replayed, again.made, toolset.is_running) == (4, 3, False)


async def test_a_server_that_is_down_at_first_is_asked_by_the_next_attempt() -> None:
    """Its error fails the attempt and nothing else."""
    server, told, hop = Server(), Told(calls("add", a=1), "done"), JournalledHop()
    agent = agent_of(told, [server.toolset()])

    server.down = True
    with hop.attempt(), pytest.raises(ConnectionError):
        await agent.run("go")
    server.down = False
    with hop.attempt():
        result = await agent.run("go")

    assert result.output == "done"


async def test_a_hop_of_an_earlier_version_goes_on() -> None:
    """Its journal says nothing of servers; they are asked as they were."""
    server, told, hop = Server(), Told(calls("add", a=1), calls("add", a=1), "done"), JournalledHop()
    agent = agent_of(told, [server.toolset()])
    with hop.attempt(cut_after=3), pytest.raises(HopLost):
        await agent.run("go")
    older = JournalledHop()
    with older.attempt():
        older.keep({name: text for name, text in hop.records.items() if "get_tools" not in name})

    with older.attempt() as again:
        result = await agent.run("go")

    assert (result.output, again.replayed) == ("done", 2)
    assert not [name for name in older.records if "get_tools" in name and '", 1, "' in name]


async def test_wrappers_of_servers_need_no_constructor_of_a_certain_kind() -> None:
    """They are the user's, and what else they hold stays."""
    server, told, hop, seen = Server(), Told(calls("add", a=1), "done"), JournalledHop(), list[str]()

    class Watched(WrapperToolset[None]):
        def __init__(self, seen: list[str], wrapped: AbstractToolset[None]) -> None:
            super().__init__(wrapped)
            self.seen = seen

        async def call_tool(self, name: str, *arguments: Any) -> Any:
            self.seen.append(name)
            return await super().call_tool(name, *arguments)

    agent = agent_of(told, [CombinedToolset([Watched(seen, server.toolset())])])

    with hop.attempt():
        result = await agent.run("go")

    assert (result.output, seen) == ("done", ["add"])


def test_a_toolset_without_servers_stays_the_same_object() -> None:
    """Nothing is copied for agents that have none."""
    inner = FunctionToolset[None]()
    toolset = CombinedToolset[None]([inner.prefixed("a"), inner.filtered(lambda *_: True)])

    assert with_recorded_servers(toolset) is toolset


@pytest.mark.proof
async def test_a_server_over_standard_streams_that_is_gone_fails_no_replay() -> None:
    """Its program may have been removed by a deploy."""
    told, hop = Told(calls("add", a=1, b=2), "done"), JournalledHop()

    def agent(command: str) -> Agent[None, str]:
        return agent_of(told, [MCPToolset(StdioTransport(command, [str(ABACUS)]), id="abacus")])

    with hop.attempt():
        result = await agent(sys.executable).run("go")
    with hop.attempt() as again:
        replayed = await agent("/nowhere/python").run("go")

    assert (again.made, history(replayed)) == (0, history(result))
