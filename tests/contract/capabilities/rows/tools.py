"""What tools can do, and agents inside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_ai import Agent, ModelRetry, RunContext, Tool, ToolDenied
from pydantic_ai.capabilities import HandleDeferredToolCalls
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred
from pydantic_ai.messages import CustomEvent, ToolCallPart
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolDefinition

from paigeant_celery import CeleryDurability
from tests.contract.capabilities.row import Made, Row
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]


def call(*names: str, **arguments: Any) -> list[ToolCallPart]:
    return [ToolCallPart(name, arguments, f"{name}-{number}") for number, name in enumerate(names, 1)]


def tools(world: World) -> Made:
    agent = Agent(world.model(call("add", a=1), call("add", a=2), "done"))

    @agent.tool_plain
    def add(a: int) -> int:
        world.did(f"add {a}")
        return a + 1

    return agent


def parallel(world: World) -> Made:
    agent = Agent(world.model(call("one", "two", "three"), "done"))
    for name in ("one", "two", "three"):

        def tool(name: str = name) -> str:
            world.did(name)
            return name

        agent.tool_plain(tool, name=name)
    return agent


def retried(world: World) -> Made:
    agent = Agent(world.model(call("insist", number=1), call("insist", number=2), "done"))

    @agent.tool_plain
    def insist(number: int) -> str:
        world.did(f"insist {number}")
        if number == 1:
            raise ModelRetry("two")
        return "good"

    return agent


def unrecorded(world: World) -> Made:
    agent = Agent(world.model(call("look"), "done"))

    @agent.tool_plain(metadata={"paigeant": False})
    def look() -> str:
        world.did("look")
        return "seen"

    return agent


def delegate(world: World) -> Made:
    helper = Agent(world.model("one two", name="helper"), name="helper")
    agent = Agent(world.model(call("ask", "ask"), "done"))

    @agent.tool
    async def ask(ctx: RunContext[None]) -> str:
        return (await helper.run("why", usage=ctx.usage)).output

    return agent


def delegate_unrecorded(world: World) -> Made:
    helper = Agent(world.model("one two", name="helper"), name="helper", capabilities=[CeleryDurability()])
    agent = Agent(world.model(call("ask", "ask"), "done"))

    @agent.tool(metadata={"paigeant": False})
    async def ask(ctx: RunContext[None]) -> str:
        return (await helper.run("why", usage=ctx.usage)).output

    return agent


def validated(world: World) -> Made:
    def check(ctx: RunContext[None], number: int) -> None:
        world.did(f"check {number}")
        if number == 1:
            raise ModelRetry("two")

    def take(number: int) -> int:
        world.did("take")
        return number

    tool = Tool(take, args_validator=check)
    return Agent(world.model(call("take", number=1), call("take", number=2), "done"), tools=[tool])


def prepared(world: World) -> Made:
    async def prepare(ctx: RunContext[None], tool: ToolDefinition) -> ToolDefinition | None:
        world.did("prepare")
        return tool if ctx.run_step < 2 else None

    def look() -> str:
        world.did("look")
        return "seen"

    return Agent(world.model(call("look"), "done"), tools=[Tool(look, prepare=prepare)])


def sequential(world: World) -> Made:
    agent = Agent(world.model(call("one", "two"), "done"))
    for name in ("one", "two"):

        def tool(name: str = name) -> str:
            world.did(name)
            return name

        agent.tool_plain(tool, name=name, sequential=True)
    return agent


def elsewhere(world: World) -> Made:
    """A tool whose result comes from elsewhere, as a handler knows at once."""

    def fetch(ctx: RunContext[None], requests: DeferredToolRequests) -> DeferredToolResults:
        return requests.build_results(calls={call.tool_call_id: 42 for call in requests.calls})

    agent = Agent(world.model(call("compute"), "done"), capabilities=[HandleDeferredToolCalls(fetch)])

    @agent.tool_plain
    def compute() -> int:
        world.did("compute")
        raise CallDeferred(metadata={"job": "7"})

    return agent


def denied(world: World) -> Made:
    def deny(ctx: RunContext[None], requests: DeferredToolRequests) -> DeferredToolResults:
        return requests.build_results(approvals={call.tool_call_id: ToolDenied("no") for call in requests.approvals})

    agent = Agent(world.model(call("pay"), "done"), capabilities=[HandleDeferredToolCalls(deny)])

    @agent.tool
    def pay(ctx: RunContext[None]) -> str:
        world.did("pay")
        if not ctx.tool_call_approved:
            raise ApprovalRequired
        return "paid"

    return agent


def generator(world: World) -> Made:
    agent = Agent(world.model(call("count"), "done"))

    @agent.tool_plain
    def count() -> Any:
        def numbers() -> Any:
            for number in range(3):
                world.did("number")
                yield number

        return list(numbers())

    return agent


def emitting(world: World) -> Made:
    @dataclass
    class Progress(CustomEvent):
        percent: int = 0

    async def handle(ctx: RunContext[None], events: Any) -> None:
        async for event in events:
            if isinstance(event, Progress):
                world.did("progress")

    agent = Agent(world.model(call("compute"), "done"), name="worker", capabilities=[CeleryDurability()])

    @agent.tool(metadata={"paigeant": False})
    async def compute(ctx: RunContext[None]) -> int:
        await ctx.emit(Progress(percent=50))
        return 42

    return lambda: agent.run("go", event_stream_handler=handle)


def changing_deps(world: World) -> Made:
    agent = Agent(world.model(call("note"), "done"), deps_type=dict)

    @agent.tool(metadata={"paigeant": False})
    def note(ctx: RunContext[dict[str, Any]]) -> str:
        ctx.deps["noted"] = True
        return "noted"

    @agent.output_validator
    def check(ctx: RunContext[dict[str, Any]], output: str) -> str:
        return f"{output} {ctx.deps.get('noted')}"

    return agent


def asking_for(asked: Agent[None, str]) -> Any:
    async def ask(ctx: RunContext[None]) -> str:
        return (await asked.run("why", usage=ctx.usage)).output

    return ask


def team(world: World) -> Made:
    """An agent whose tool runs an agent whose tool runs an agent."""
    third = Agent(world.model("three", name="third"), name="third", capabilities=[CeleryDurability()])
    second = Agent(world.model(call("ask"), "two", name="second"), name="second", capabilities=[CeleryDurability()])
    first = Agent(world.model(call("ask"), "one", name="first"), name="first")
    for asking, asked in ((first, second), (second, third)):
        asking.tool(asking_for(asked), name="ask", metadata={"paigeant": False})
    return first


def hand_off(world: World) -> Made:
    """An output function that hands over to another agent."""
    expert = Agent(world.model("expert", name="expert"), name="expert", capabilities=[CeleryDurability()])

    async def ask_expert(question: str) -> str:
        return (await expert.run(question)).output

    answer = [ToolCallPart("final_result", {"question": "why"}, "found")]
    return Agent(world.model(answer), output_type=ask_expert)


ROWS = [
    Row(name="tools, one after the other", make=tools),
    Row(name="tools in parallel", make=parallel, brief=True, killed=True),
    Row(name="a tool that raises `ModelRetry`", make=retried),
    Row(
        name='a tool with `metadata={"paigeant": False}`',
        make=unrecorded,
        again=("look",),
        runs_again="the tool",
    ),
    Row(name="an agent inside a tool", make=delegate, brief=True),
    Row(name='a durable agent inside a tool with `metadata={"paigeant": False}`', make=delegate_unrecorded),
    Row(name="a chain of durable agents inside unrecorded tools", make=team),
    Row(name="an output function that runs a durable agent", make=hand_off),
    Row(name="a tool with an `args_validator`", make=validated),
    Row(
        name="a tool with `prepare`",
        make=prepared,
        again=("prepare",),
        runs_again="`prepare`",
    ),
    Row(name="tools with `sequential`", make=sequential),
    Row(name="a tool that raises `CallDeferred`, answered by a handler", make=elsewhere),
    Row(name="a tool that raises `ApprovalRequired`, denied by a handler", make=denied),
    Row(name="a tool that returns what a generator gave", make=generator),
    Row(
        name="`ctx.emit` in an unrecorded tool",
        make=emitting,
        again=("progress",),
        runs_again="the tool, and so what it emits",
    ),
    Row(name="an unrecorded tool that changes `deps`", make=changing_deps, deps={}),
]
