"""Hooks, durable operations in each of them, and workspaces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, DeferredToolRequests, ModelRetry, RunContext, capabilities
from pydantic_ai.capabilities import AbstractCapability, Hooks, LocalWorkspace, durable_operation, on_event
from pydantic_ai.messages import FunctionToolCallEvent, FunctionToolResultEvent, ToolCallPart

from paigeant_celery import CeleryDurability
from paigeant_celery.journal.scope import surrounding_journal
from tests.contract.capabilities.row import FLOOR, Made, Row
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]

BEFORE_AND_AFTER = (
    "before_run",
    "after_run",
    "wrap_run",
    "before_node_run",
    "after_node_run",
    "wrap_node_run",
    "before_model_request",
    "prepare_model_request",
    "after_model_request",
    "wrap_model_request",
    "prepare_tools",
    "prepare_output_tools",
    "before_tool_validate",
    "after_tool_validate",
    "wrap_tool_validate",
    "before_tool_execute",
    "after_tool_execute",
    "wrap_tool_execute",
    "before_output_validate",
    "after_output_validate",
    "wrap_output_validate",
    "before_output_process",
    "after_output_process",
    "wrap_output_process",
    "handle_deferred_tool_calls",
)
ON_ERROR = (
    "on_tool_validate_error",
    "on_output_validate_error",
    "on_tool_execute_error",
    "on_output_process_error",
    "on_model_request_error",
    "on_node_run_error",
    "on_run_error",
)
HOOKS = (*BEFORE_AND_AFTER, *ON_ERROR)


class Found(BaseModel):
    number: int


def with_hook(world: World, hook: str, act: Callable[[Any, RunContext[Any]], Any]) -> type[AbstractCapability[Any]]:
    """Return a capability whose hook calls `act` and goes on as usual."""

    async def hooked(self: Any, ctx: RunContext[Any], *given: Any, **named: Any) -> Any:
        await act(self, ctx)
        if hook == "handle_deferred_tool_calls":
            return named["requests"].build_results(approve_all=True)
        return await getattr(AbstractCapability, hook)(self, ctx, *given, **named)

    return type("Hooked", (AbstractCapability,), {hook: hooked})


def busy(world: World, hook: str, given: AbstractCapability[Any]) -> Agent[Any, Any]:
    """Return an agent whose run passes a hook; what fails only when asked for fails at the end."""
    failing = {"on_tool_execute_error": "tool", "on_output_process_error": "output"}.get(hook)
    good = call("pay") if hook == "handle_deferred_tool_calls" else call("add", number=1)
    found = [ToolCallPart("final_result", {"number": number}, f"found-{number}") for number in ("x", 1)]
    answers: list[Any] = [good, found[1:]]
    if "tool_validate" in hook:
        answers = [call("add", number="x"), *answers]
    if "output_validate" in hook:
        answers = [found[:1], found[1:]]
    if hook in ("on_model_request_error", "on_node_run_error", "on_run_error"):
        answers = [good, ValueError("the provider is away")]

    def find(found: Found) -> int:
        if failing == "output":
            raise ValueError("it cannot be found")
        return found.number

    agent: Agent[Any, Any] = Agent(
        world.model(*answers), capabilities=[given], output_type=[find, DeferredToolRequests]
    )

    @agent.tool_plain
    def add(number: int) -> int:
        world.did("add")
        if failing == "tool":
            raise ValueError("it cannot be added")
        return number + 1

    @agent.tool_plain(requires_approval=hook == "handle_deferred_tool_calls")
    def pay() -> str:
        world.did("pay")
        return "paid"

    return agent


def operation_in(hook: str) -> Any:
    """Return what makes an agent with an operation in a hook."""

    def make(world: World) -> Made:
        async def act(self: Any, ctx: RunContext[Any]) -> None:
            assert await self.note(ctx, hook) == len(hook)

        class Noting(with_hook(world, hook, act)):  # type: ignore[misc]
            id = "noting"

            @durable_operation(name="note")
            async def note(self, ctx: RunContext[Any], text: str) -> int:
                world.did("note")
                return len(text)

        return busy(world, hook, Noting())

    return make


def workspace_in(hook: str) -> Any:
    """Return what makes an agent that calls its workspace in a hook."""

    def make(world: World) -> Made:
        async def act(self: Any, ctx: RunContext[Any]) -> None:
            await ctx.workspace.write_text("note.txt", hook)
            assert await ctx.workspace.read_text("note.txt") == hook

        given = capabilities.CombinedCapability([LocalWorkspace(world.folder), with_hook(world, hook, act)()])
        return busy(world, hook, given)

    return make


def ends_of(hook: str) -> str:
    if hook in ("on_tool_execute_error", "on_output_process_error", "on_model_request_error"):
        return "ValueError"
    return "ValueError" if hook in ("on_node_run_error", "on_run_error") else ""


def hooks(world: World) -> Made:
    """Return an agent with hooks in many places, each of which counts."""

    def note(ctx: RunContext[Any], *given: Any, **named: Any) -> Any:
        world.did("hook")
        return (*given, *named.values())[-1] if given or named else None

    async def wrap(ctx: RunContext[Any], *, handler: Any, **named: Any) -> Any:
        world.did("hook")
        return await handler(*[named[name] for name in ("node", "request_context", "args", "output") if name in named])

    given: Any = Hooks(
        before_run=note, after_run=note, run=wrap,
        before_node_run=note, after_node_run=note, node_run=wrap,
        before_model_request=note, prepare_model_request=note, after_model_request=note, model_request=wrap,
        prepare_tools=note, prepare_output_tools=note,
        before_tool_validate=note, after_tool_validate=note, tool_validate=wrap,
        before_tool_execute=note, after_tool_execute=note, tool_execute=wrap,
    )  # fmt: skip
    return busy(world, "", given)


def hook_that_changes_a_result(world: World) -> Made:
    async def shout(ctx: RunContext[Any], **given: Any) -> Any:
        return [given["result"]]

    return busy(world, "", Hooks(after_tool_execute=shout))


def hook_that_asks_again(world: World) -> Made:
    async def check(ctx: RunContext[Any], **given: Any) -> Any:
        if ctx.run_step == 1:
            raise ModelRetry("think again")
        return given["response"]

    return busy(world, "", Hooks(after_model_request=check))


def listener(world: World) -> Made:
    class Listening(AbstractCapability[Any]):
        @on_event(FunctionToolResultEvent)
        async def heard(self, ctx: RunContext[Any], event: FunctionToolResultEvent) -> None:
            world.did("listen")

    return busy(world, "", Listening())


def handler_of_durability(world: World) -> Made:
    async def handle(ctx: RunContext[Any], events: AsyncIterator[Any]) -> None:
        async for event in events:
            if isinstance(event, FunctionToolCallEvent | FunctionToolResultEvent):
                world.did(event.event_kind)

    agent = Agent(
        world.model(call("look"), "done"),
        capabilities=[CeleryDurability(event_stream_handler=handle)],
        name="worker",
    )
    agent.tool_plain(lambda: "seen", name="look")
    return agent


def handler_of_a_run(world: World) -> Made:
    async def handle(ctx: RunContext[Any], events: AsyncIterator[Any]) -> None:
        async for event in events:
            if isinstance(event, FunctionToolResultEvent):
                world.did("handle")

    agent = Agent(world.model(call("look"), "done"), capabilities=[CeleryDurability()], name="worker")
    agent.tool_plain(lambda: "seen", name="look")
    return lambda: agent.run("go", event_stream_handler=handle)


def enqueued(world: World) -> Made:
    agent = Agent(world.model(call("look"), "done", "done again"), name="worker")

    @agent.tool(metadata={"paigeant": False})
    def look(ctx: RunContext[Any]) -> str:
        ctx.enqueue("and another thing")
        return "seen"

    return agent


def in_durable_context(world: World) -> Made:
    """A capability may choose its way by whether calls are recorded."""
    seen: list[bool] = []

    class Looking(AbstractCapability[Any]):
        async def before_model_request(self, ctx: RunContext[Any], request_context: Any) -> Any:
            seen.append(ctx.in_durable_context)
            assert seen[-1] == (surrounding_journal() is not None), "it says that no call is recorded"
            return request_context

    return busy(world, "", Looking())


def operation_behind_the_run(world: World) -> Made:
    class Noting(AbstractCapability[Any]):
        id = "noting"

        @durable_operation(name="note")
        async def note(self, ctx: RunContext[Any], text: str) -> int:
            return world.did("note")

        async def wrap_run(self, ctx: RunContext[Any], *, handler: Any) -> Any:
            result = await handler()
            await self.note(ctx, "over")
            return result

    return busy(world, "", Noting())


def workspace_in_a_tool(world: World, metadata: dict[str, Any] | None = None) -> Made:
    agent = Agent(world.model(call("keep"), "done"), capabilities=[LocalWorkspace(world.folder)])

    @agent.tool(metadata=metadata)
    async def keep(ctx: RunContext[Any]) -> str:
        if metadata is None:
            world.did("keep")
        await ctx.workspace.write_text("note.txt", "kept")
        return await ctx.workspace.read_text("note.txt")

    return agent


def workspace_in_an_unrecorded_tool(world: World) -> Made:
    return workspace_in_a_tool(world, {"paigeant": False})


def operation_of_a_function(world: World) -> Made:
    class Noting(AbstractCapability[Any]):
        id = "noting"

        @durable_operation(name="note")
        async def note(self, ctx: RunContext[Any], text: str) -> int:
            return world.did("note")

        async def after_model_request(self, ctx: RunContext[Any], *, request_context: Any, response: Any) -> Any:
            await self.note(ctx, "asked")
            return response

    agent = Agent(world.model(call("look"), "done"), capabilities=[lambda ctx: Noting()])
    agent.tool_plain(lambda: "seen", name="look")
    return agent


PATHS: Any = {"anew": ("workspace_ref",)}  # each trial has a folder of its own

ROWS = [
    Row(
        name="`Hooks` in every place", make=hooks, of=("Hooks",), again=("hook",), runs_again="the hooks", since="2.64"
    ),
    Row(name="a hook that changes a tool's result", make=hook_that_changes_a_result, of=("Hooks",)),
    Row(name="a hook that raises `ModelRetry`", make=hook_that_asks_again, of=("Hooks",)),
    Row(name="`on_event`", make=listener, again=("listen",), runs_again="the listener"),
    Row(name="`CeleryDurability(event_stream_handler=…)`", make=handler_of_durability, brief=True),
    Row(
        name="`run(event_stream_handler=…)` in a function step",
        make=handler_of_a_run,
        again=("handle",),
        runs_again="the handler",
    ),
    Row(name="`ctx.enqueue` in an unrecorded tool", make=enqueued),
    Row(name="`ctx.in_durable_context` in an agent step", make=in_durable_context),
    *(
        Row(
            name=f"a `durable_operation` in `{hook}`",
            make=operation_in(hook),
            since="2.64" if hook == "prepare_model_request" else FLOOR,
            ends=ends_of(hook),
            brief=hook == "after_run",
            killed=hook == "after_run",
        )
        for hook in HOOKS
    ),
    Row(name="a `durable_operation` in `wrap_run`, behind the run", make=operation_behind_the_run),
    Row(
        name="a `durable_operation` of a capability that a function makes",
        make=operation_of_a_function,
        again=("note",),
        runs_again="the operation; those of capabilities given to the agent are recorded",
    ),
    *(
        Row(
            name=f"`LocalWorkspace` in `{hook}`",
            make=workspace_in(hook),
            of=("LocalWorkspace",),
            ends=ends_of(hook),
            brief=hook == "after_tool_execute",
            **PATHS,
        )
        for hook in (
            "before_run",
            "wrap_run",
            "after_run",
            "before_model_request",
            "after_tool_execute",
            "on_run_error",
        )
    ),
    Row(name="`LocalWorkspace` in a tool", make=workspace_in_a_tool, of=("LocalWorkspace",), **PATHS),
    Row(
        name="`LocalWorkspace` in an unrecorded tool",
        make=workspace_in_an_unrecorded_tool,
        of=("LocalWorkspace",),
        **PATHS,
    ),
]
