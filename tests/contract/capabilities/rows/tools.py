"""What tools can do, and agents inside them."""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.messages import ToolCallPart

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


ROWS = [
    Row(name="tools, one after the other", make=tools, brief=True),
    Row(name="tools in parallel", make=parallel, brief=True),
    Row(name="a tool that raises `ModelRetry`", make=retried),
    Row(
        name='a tool with `metadata={"paigeant": False}`',
        make=unrecorded,
        again=("look",),
        runs_again="the tool",
    ),
    Row(name="an agent inside a tool", make=delegate),
    Row(name='a durable agent inside a tool with `metadata={"paigeant": False}`', make=delegate_unrecorded),
]
