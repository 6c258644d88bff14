"""Every kind of toolset."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastmcp.client.transports.memory import FastMCPTransport
from mcp.server import MCPServer
from pydantic import TypeAdapter
from pydantic_ai import Agent, DeferredToolRequests, RunContext, capabilities
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import DeferredToolResults, ToolDefinition
from pydantic_ai.toolsets import (
    AbstractToolset,
    ApprovalRequiredToolset,
    CombinedToolset,
    DeferredLoadingToolset,
    DynamicToolset,
    ExternalToolset,
    FilteredToolset,
    FunctionToolset,
    IncludeReturnSchemasToolset,
    PrefixedToolset,
    PreparedToolset,
    RenamedToolset,
    SetMetadataToolset,
    ToolsetTool,
    WrapperToolset,
)

from paigeant_celery import CeleryDurability
from tests.contract.capabilities.row import Made, Row
from tests.contract.capabilities.rows.capabilities import toolset_of
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]


def using(world: World, toolset: AbstractToolset[Any], *names: str) -> Made:
    """Return an agent whose model calls these tools of a toolset at once."""
    return Agent(world.model(call(*names), "done"), toolsets=[toolset])


def function(world: World) -> Made:
    return using(world, toolset_of(world, "look", "act"), "look", "act")


def with_instructions(world: World) -> Made:
    toolset: FunctionToolset[Any] = FunctionToolset(instructions="Look first.")
    toolset.add_function(lambda: str(world.did("look") and "seen"), name="look")
    return using(world, toolset, "look")


def combined(world: World) -> Made:
    return using(world, CombinedToolset([toolset_of(world, "look"), toolset_of(world, "act")]), "look", "act")


def filtered(world: World) -> Made:
    kept = FilteredToolset(toolset_of(world, "look", "act"), lambda ctx, tool: tool.name == "look")
    return using(world, kept, "look")


def prefixed(world: World) -> Made:
    return using(world, PrefixedToolset(toolset_of(world, "look"), "my"), "my_look")


def renamed(world: World) -> Made:
    return using(world, RenamedToolset(toolset_of(world, "look"), {"see": "look"}), "see")


def prepared(world: World) -> Made:
    async def describe(ctx: RunContext[Any], tools: list[ToolDefinition]) -> list[ToolDefinition]:
        return [replace(tool, description=f"step {ctx.run_step}") for tool in tools]

    return using(world, PreparedToolset(toolset_of(world, "look"), describe), "look")


def metadata(world: World) -> Made:
    return using(world, SetMetadataToolset(toolset_of(world, "look"), {"kind": "slow"}), "look")


def return_schemas(world: World) -> Made:
    return using(world, IncludeReturnSchemasToolset(toolset_of(world, "look")), "look")


class Loud(WrapperToolset[Any]):
    async def call_tool(self, name: str, tool_args: Any, ctx: RunContext[Any], tool: ToolsetTool[Any]) -> Any:
        return f"{await super().call_tool(name, tool_args, ctx, tool)}!"


def wrapper(world: World) -> Made:
    return using(world, Loud(toolset_of(world, "look")), "look")


class Numbers(AbstractToolset[Any]):
    """A toolset of one's own."""

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def id(self) -> str | None:
        return None

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        schema = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
        tool = ToolDefinition(name="double", parameters_json_schema=schema)
        validator: Any = TypeAdapter(dict[str, int]).validator
        return {"double": ToolsetTool(toolset=self, tool_def=tool, max_retries=1, args_validator=validator)}

    async def call_tool(self, name: str, tool_args: Any, ctx: RunContext[Any], tool: ToolsetTool[Any]) -> Any:
        self.world.did(name)
        return 2 * tool_args["number"]


def abstract(world: World) -> Made:
    return Agent(world.model(call("double", number=2), "done"), toolsets=[Numbers(world)])


def dynamic(world: World) -> Made:
    def choose(ctx: RunContext[Any]) -> AbstractToolset[Any]:
        return toolset_of(world, "look" if ctx.run_step < 2 else "act")

    return Agent(world.model(call("look"), call("act"), "done"), toolsets=[DynamicToolset(choose, id="chosen")])


def deferred_loading(world: World) -> Made:
    answers = ([ToolCallPart("search_tools", {"queries": ["look"]}, "search")], call("look"), "done")
    return Agent(world.model(*answers), toolsets=[DeferredLoadingToolset(toolset_of(world, "look"))])


def approval(world: World) -> Made:
    toolset = ApprovalRequiredToolset(toolset_of(world, "pay"))
    model = world.model(call("pay"), "done")
    agent: Agent[Any, Any] = Agent(
        model, toolsets=[toolset], output_type=[str, DeferredToolRequests], capabilities=[CeleryDurability()], name="w"
    )

    async def run() -> Any:
        first = await agent.run("go")
        assert isinstance(first.output, DeferredToolRequests)
        given = DeferredToolResults(approvals={call.tool_call_id: True for call in first.output.approvals})
        return await agent.run(message_history=first.all_messages(), deferred_tool_results=given)

    return run


def external(world: World) -> Made:
    toolset: ExternalToolset[Any] = ExternalToolset([ToolDefinition(name="weigh", parameters_json_schema={})])
    agent: Agent[Any, Any] = Agent(
        world.model(call("weigh"), "done"),
        toolsets=[toolset],
        output_type=[str, DeferredToolRequests],
        capabilities=[CeleryDurability()],
        name="worker",
    )

    async def run() -> Any:
        first = await agent.run("go")
        assert isinstance(first.output, DeferredToolRequests)
        given = DeferredToolResults(calls={call.tool_call_id: 2.5 for call in first.output.calls})
        return await agent.run(message_history=first.all_messages(), deferred_tool_results=given)

    return run


class Wire(FastMCPTransport):
    """The way to a server outside the process; a server that is down does not answer."""

    def __init__(self, server: MCPServer, *, is_down: bool) -> None:
        super().__init__(server)
        self.is_down = is_down

    @asynccontextmanager
    async def connect_session(self, **given: Any) -> AsyncIterator[Any]:
        if self.is_down:
            raise ConnectionError("the server is down")
        async with super().connect_session(**given) as session:
            yield session


def server_of(world: World, *, grows: bool = False, goes_down: bool = False) -> MCPToolset[Any]:
    """Return the tools of a server, which may gain one later, or be down once all its calls are recorded."""
    server = MCPServer("tools", instructions="Look first.")

    @server.tool()
    def look(word: str) -> dict[str, str]:
        return {"found": word}

    if grows and world.attempt > 1:

        @server.tool()
        def new() -> str:
            return "new"

    async def count(ctx: RunContext[Any], call_tool: Any, name: str, arguments: dict[str, Any]) -> Any:
        world.did(name)
        return await call_tool(name, arguments)

    wire = Wire(server, is_down=goes_down and world.recorded("look"))
    return MCPToolset(wire, id="tools", process_tool_call=count)


def mcp(world: World) -> Made:
    return Agent(world.model(call("look", word="wren"), "done"), toolsets=[server_of(world)])


def mcp_capability(world: World) -> Made:
    given: Any = capabilities.MCP(local=server_of(world), id="tools")
    return Agent(world.model(call("look", word="wren"), "done"), capabilities=[given])


def mcp_that_grows(world: World) -> Made:
    return Agent(world.model(call("look", word="wren"), "done"), toolsets=[server_of(world, grows=True)])


def mcp_that_goes_down(world: World) -> Made:
    return Agent(world.model(call("look", word="wren"), "done"), toolsets=[server_of(world, goes_down=True)])


ROWS = [
    Row(name="`AbstractToolset`, one of your own", make=abstract, of=("AbstractToolset",)),
    Row(name="`ApprovalRequiredToolset`, answered in the step", make=approval, of=("ApprovalRequiredToolset",)),
    Row(
        name="`ApprovalRequiredToolset`, the requests as output",
        of=("ApprovalRequiredToolset",),
        waits="tests/unit/agents/test_pausing.py::test_a_toolset_may_ask_for_approval",
    ),
    Row(name="`CombinedToolset`", make=combined, of=("CombinedToolset",)),
    Row(name="`DeferredLoadingToolset`", make=deferred_loading, of=("DeferredLoadingToolset",)),
    Row(name="`DynamicToolset`", make=dynamic, of=("DynamicToolset",)),
    Row(name="`ExternalToolset`", make=external, of=("ExternalToolset",)),
    Row(name="`FilteredToolset`", make=filtered, of=("FilteredToolset",)),
    Row(name="`FunctionToolset`", make=function, of=("FunctionToolset",)),
    Row(name="`FunctionToolset` with instructions", make=with_instructions, of=("FunctionToolset",)),
    Row(name="`IncludeReturnSchemasToolset`", make=return_schemas, of=("IncludeReturnSchemasToolset",)),
    Row(name="`MCPToolset`", make=mcp, of=("MCPToolset",), killed=True),
    Row(name="the capability `MCP`", make=mcp_capability, of=("MCP",)),
    Row(
        name="a server that has gained a tool",
        make=mcp_that_grows,
        of=("MCPToolset",),
        brief=True,
    ),
    Row(
        name="a server that is down, all of whose calls are recorded",
        make=mcp_that_goes_down,
        of=("MCPToolset",),
    ),
    Row(name="`PrefixedToolset`", make=prefixed, of=("PrefixedToolset",)),
    Row(name="`PreparedToolset`", make=prepared, of=("PreparedToolset",)),
    Row(name="`RenamedToolset`", make=renamed, of=("RenamedToolset",)),
    Row(name="`SetMetadataToolset`", make=metadata, of=("SetMetadataToolset",)),
    Row(name="`WrapperToolset`", make=wrapper, of=("WrapperToolset",)),
]
