"""The MCP servers of an agent's run: what they offer is recorded, and no connection is opened for what is replayed."""

from __future__ import annotations

import copy
import operator
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self, cast

from pydantic_ai.durable_exec import JSON_CODEC
from pydantic_ai.durable_exec._toolset import DynamicToolInfo, DynamicToolsResult, Instructions, RunHeldToolset
from pydantic_ai.tools import AgentDepsT, RunContext
from pydantic_ai.toolsets import AbstractToolset, CombinedToolset, ToolsetTool, WrapperToolset
from pydantic_ai.toolsets._dynamic import DynamicToolset

from paigeant_celery.agents.recorded_calls import recorded
from paigeant_celery.journal.record import Record
from paigeant_celery.journal.scope import current_journal

__all__ = ["RecordedServer", "with_recorded_servers"]

SERVERS = "pydantic_ai.mcp"  # a large module, which is loaded if there is a server


def with_recorded_servers(toolset: AbstractToolset[AgentDepsT], *, within: str = "") -> AbstractToolset[AgentDepsT]:
    """Return a run's toolset in which the MCP servers are recorded, also those that a dynamic toolset makes.

    A server is known by its `id`, if it was given one, and its number among those of the same `id`.
    """
    numbers: Counter[str] = Counter()

    def place_of(name: str) -> str:
        numbers[name] += 1
        return f"{within}{name}.{numbers[name]}"

    def swap(leaf: AbstractToolset[AgentDepsT]) -> AbstractToolset[AgentDepsT]:
        if isinstance(leaf, DynamicToolset):
            return _making_recorded_servers(leaf, place_of(leaf.id or "dynamic"))
        if _is_server(leaf):
            return RecordedServer(leaf, place_of(leaf._explicit_id or "server"))
        return leaf

    def swap_in(part: AbstractToolset[AgentDepsT]) -> AbstractToolset[AgentDepsT]:
        # What holds no server stays the same object, and wrappers are copied, whatever their constructors take.
        if type(part).visit_and_replace is WrapperToolset.visit_and_replace:
            wrapper = cast("WrapperToolset[AgentDepsT]", part)
            inner = swap_in(wrapper.wrapped)
            if inner is not wrapper.wrapped:
                wrapper = copy.copy(wrapper)
                wrapper.wrapped = inner
            return wrapper
        if type(part) is CombinedToolset:
            parts = [swap_in(each) for each in part.toolsets]
            return part if all(map(operator.is_, parts, part.toolsets)) else replace(part, toolsets=parts)
        return part.visit_and_replace(swap)

    return swap_in(toolset) if SERVERS in sys.modules else toolset


class RecordedServer(WrapperToolset[AgentDepsT]):
    """A server that a run is connected to from the first time that it is really asked for something.

    Each time that its tools are listed, they and its instructions are recorded in one record.
    """

    def __init__(self, server: AbstractToolset[AgentDepsT], place: str) -> None:
        super().__init__(server)
        self._place = place
        self._held = RunHeldToolset(place, server)
        self._offered: DynamicToolsResult | None = None
        self._step: int | None = None  # in which it was offered
        self._has_listed = False  # on the connection that is open

    @property
    def id(self) -> str | None:
        """The server's id, which names its instructions."""
        return self.wrapped.id

    @property
    def _explicit_id(self) -> str | None:
        return self.wrapped._explicit_id

    async def for_run(self, ctx: RunContext[AgentDepsT]) -> AbstractToolset[AgentDepsT]:
        """Return itself: it was made for the run, whose own copy of the server it takes."""
        self.wrapped = await self.wrapped.for_run(ctx)
        self._held = RunHeldToolset(self._place, self.wrapped)
        return self

    async def for_run_step(self, ctx: RunContext[AgentDepsT]) -> AbstractToolset[AgentDepsT]:
        return self

    def visit_and_replace(
        self, visitor: Callable[[AbstractToolset[AgentDepsT]], AbstractToolset[AgentDepsT]]
    ) -> AbstractToolset[AgentDepsT]:
        return self

    async def __aenter__(self) -> Self:
        """Open nothing yet."""
        return self

    async def __aexit__(self, *args: Any) -> bool | None:
        await self._held.aclose(*args)
        self._has_listed = False
        return None

    async def get_tools(self, ctx: RunContext[AgentDepsT]) -> dict[str, ToolsetTool[AgentDepsT]]:
        offered = await self._offer(ctx)
        server: Any = self.wrapped
        return {name: server.tool_for_tool_def(info.tool_def, ctx=ctx) for name, info in offered.tools.items()}

    async def get_instructions(self, ctx: RunContext[AgentDepsT]) -> Instructions:
        return (await self._offer(ctx)).instructions

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[AgentDepsT], tool: ToolsetTool[AgentDepsT]
    ) -> Any:
        server = await self._held.entered()
        return await server.call_tool(name, tool_args, ctx, tool)

    async def _offer(self, ctx: RunContext[AgentDepsT]) -> DynamicToolsResult:
        """Return what the server offers in a step: as recorded, as known from before, or as it says now."""
        if self._offered is None or self._step != ctx.run_step:
            self._offered, self._step = await self._asked(ctx), ctx.run_step
        return self._offered

    async def _asked(self, ctx: RunContext[AgentDepsT]) -> DynamicToolsResult:
        journal = current_journal()
        if journal is None:
            return await self._ask(ctx)
        run_id, name = ctx.run_id or "", f"get_tools {self._place}"
        went_on = journal.is_ahead(run_id)
        if not journal.holds(run_id, ctx.run_step, "operation", name=name, call_id=""):
            if self._offered is not None and (went_on or self._is_known):
                return self._offered
            if went_on:  # an earlier version recorded nothing of servers
                return await self._ask(ctx)

        async def make() -> Record:
            offered = await self._ask(ctx)
            return Record(result=JSON_CODEC.dump(DynamicToolsResult, offered))

        key = journal.key(run_id, ctx.run_step, "operation", name=name)
        record = await recorded(journal, key, {}, make)
        return cast("DynamicToolsResult", JSON_CODEC.load(DynamicToolsResult, record.result))

    async def _ask(self, ctx: RunContext[AgentDepsT]) -> DynamicToolsResult:
        server = await self._held.entered()
        tools = await server.get_tools(ctx)
        self._has_listed = True
        return DynamicToolsResult(
            tools={
                name: DynamicToolInfo(tool_def=tool.tool_def, max_retries=tool.max_retries)
                for name, tool in tools.items()
            },
            instructions=await server.get_instructions(ctx),
        )

    @property
    def _is_known(self) -> bool:
        """Whether what the server offered holds: it is cached, and the server has not said that it changed.

        A connection on which nothing was listed says nothing of that; what an earlier attempt was offered holds then.
        """
        server: Any = self.wrapped
        return bool(server.cache_tools) and not (self._has_listed and server._cached_tools is None)


def _making_recorded_servers(toolset: DynamicToolset[AgentDepsT], place: str) -> DynamicToolset[AgentDepsT]:
    """Return a dynamic toolset that records the servers it makes; what it makes again stays what it was."""
    make, last = toolset.toolset_func, list[tuple[AbstractToolset[AgentDepsT], AbstractToolset[AgentDepsT]]]()

    async def making(ctx: RunContext[AgentDepsT]) -> AbstractToolset[AgentDepsT] | None:
        made = make(ctx)
        if made is not None and not isinstance(made, AbstractToolset):
            made = await made
        if made is None:
            return None
        if not last or last[-1][0] is not made:
            last[:] = [(made, with_recorded_servers(made, within=f"{place}/"))]
        return last[-1][1]

    recording = copy.copy(toolset)
    recording.toolset_func = making
    return recording


def _is_server(toolset: AbstractToolset[Any]) -> bool:
    return isinstance(toolset, sys.modules[SERVERS].MCPToolset)
