"""The tools of an agent's run, with their calls recorded in the hop's journal."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic_ai.durable_exec import CallToolResult, ResultCodec
from pydantic_ai.durable_exec._toolset import unwrap_tool_call_result
from pydantic_ai.tools import AgentDepsT, RunContext
from pydantic_ai.toolsets import ToolsetTool, WrapperToolset

from paigeant_celery.activities.functions import read_beside
from paigeant_celery.activities.lazy import Limit
from paigeant_celery.activities.pauses import pause_in
from paigeant_celery.agents.budget import budget_of
from paigeant_celery.agents.fingerprints import digest
from paigeant_celery.agents.recorded_answers import record_answers
from paigeant_celery.agents.recorded_calls import read_back, recorded
from paigeant_celery.agents.recorded_usage import Spending
from paigeant_celery.agents.tool_values import result_of
from paigeant_celery.core.budget import Usage
from paigeant_celery.core.errors import NotSerializable
from paigeant_celery.journal.hop_journal import MAX_RECORD, HopJournal
from paigeant_celery.journal.record import Record
from paigeant_celery.journal.scope import calling, current_journal

__all__ = ["METADATA_KEY", "RecordedToolset"]

METADATA_KEY = "paigeant"  # a tool with `metadata={"paigeant": False}` is not recorded and runs again on each replay

LIMIT = Limit(
    size=MAX_RECORD, reason="result_too_large", name="of a call are recorded", remedy="have the tool return a reference"
)


@dataclass
class RecordedToolset(WrapperToolset[AgentDepsT]):
    """All tools of a run; their calls are recorded unless their metadata says no.

    `results` converts tool results to JSON and back. `scope` surrounds a call with a context that refuses what a
    replay would lose (`enqueue`, `cancel`).
    """

    results: ResultCodec[CallToolResult]
    scope: Callable[[RunContext[AgentDepsT]], AbstractContextManager[RunContext[AgentDepsT]]]

    async def get_tools(self, ctx: RunContext[AgentDepsT]) -> dict[str, ToolsetTool[AgentDepsT]]:
        tools = await self.wrapped.get_tools(ctx)
        journal = current_journal()
        if journal is None:
            return tools
        record_answers(ctx, self.scope)
        return {name: self._with_recorded_validator(journal, tool) for name, tool in tools.items()}

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[AgentDepsT], tool: ToolsetTool[AgentDepsT]
    ) -> Any:
        journal = current_journal()
        if journal is None:
            return await self.wrapped.call_tool(name, tool_args, ctx, tool)
        if not _is_recorded(tool):
            await journal.write_held()
            journal.check_not_lost()
            with calling(f"{ctx.run_id}/{ctx.tool_call_id}", recorded=False), journal.waits.flying():
                return _answer(await self.wrapped.call_tool(name, tool_args, ctx, tool))

        async def call(inside: RunContext[AgentDepsT]) -> Any:
            result = await self.wrapped.call_tool(name, tool_args, inside, tool)
            return _answer(await read_beside(result, LIMIT))  # what a generator raises must still steer the run

        return await self._recorded(journal, ctx, call, kind="tool", name=name, arguments=tool_args)

    def _with_recorded_validator(self, journal: HopJournal, tool: ToolsetTool[AgentDepsT]) -> ToolsetTool[AgentDepsT]:
        validator = tool.args_validator_func
        if validator is None or not _is_recorded(tool):
            return tool

        async def validate(ctx: RunContext[AgentDepsT], **arguments: Any) -> None:
            async def call(inside: RunContext[AgentDepsT]) -> None:
                answer = validator(inside, **arguments)
                if inspect.isawaitable(answer):
                    await answer

            name = tool.tool_def.name
            await self._recorded(journal, ctx, call, kind="validator", name=name, arguments=arguments)

        return replace(tool, args_validator_func=validate)

    async def _recorded(
        self,
        journal: HopJournal,
        ctx: RunContext[AgentDepsT],
        call: Callable[[RunContext[AgentDepsT]], Awaitable[Any]],
        *,
        kind: Literal["tool", "validator"],
        name: str,
        arguments: object,
    ) -> Any:
        """Return what a tool returned, now or before, or raise what it raised to steer the run.

        The usage of agents that ran inside it counts in both cases.
        """
        fingerprint = {"arguments": digest(arguments)}
        spending, budget, called = Spending(ctx.usage), budget_of(ctx), 0

        async def make() -> Record:
            nonlocal called
            if budget is not None and kind == "tool":
                counting.enter_context(budget.calling_tool())
            with spending.apart_from(ctx) as apart, self.scope(apart) as inside:
                result = self._dumped(await result_of(call(inside)), name)
            called = int(kind == "tool")
            return Record(fingerprint=fingerprint, result=result, usage=spending.used())

        def spent() -> Usage | None:
            return spending.spent(tool_calls=called) if budget is not None else None

        key = journal.key(ctx.run_id or "", ctx.run_step, kind, name=name, call_id=ctx.tool_call_id or "")
        with ExitStack() as counting:
            record = await recorded(journal, key, fingerprint, make, spending=spending, spent=spent)
        return unwrap_tool_call_result(read_back(key, self.results.load, record.result))

    def _dumped(self, result: CallToolResult, name: str) -> object:
        try:
            return self.results.dump(result)
        except NotSerializable as error:
            text = f"tool {name!r}: {error.text}; return JSON, or give it `metadata={{{METADATA_KEY!r}: False}}`"
            raise NotSerializable(error.reason, text) from error


def _answer(result: Any) -> Any:
    """Return what a tool returned; raises `Paused` if an agent inside it waits for something: that is no answer."""
    if (pause := pause_in(getattr(result, "return_value", result))) is not None:
        raise pause
    return result


def _is_recorded(tool: ToolsetTool[Any]) -> bool:
    return (tool.tool_def.metadata or {}).get(METADATA_KEY) is not False
