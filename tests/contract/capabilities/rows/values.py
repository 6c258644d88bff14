"""What tools and prompts hold: the model is told the same as in a plain run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_ai import Agent, BinaryContent, ImageUrl, RunContext, ToolReturn
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo

from paigeant_celery import CeleryDurability
from tests.contract.capabilities.row import Made, Row
from tests.contract.capabilities.rows.capabilities import acting
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]


class Order(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    order_id: int = Field(alias="orderId")


class Colour(Enum):
    RED = "red"


@dataclass
class Place:
    town: str
    since: date


def told(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Say what the model is told of a tool's result, as every model puts it into a request."""
    [part] = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
    return ModelResponse(parts=[TextPart(f"told {part.model_response_str()!r}")])


def returning(value: Callable[[], Any]) -> Callable[[World], Made]:
    """Return what makes an agent that says what it was told of a tool's result."""

    def make(world: World) -> Made:
        agent = Agent(world.model(call("give"), told))

        @agent.tool_plain
        def give() -> Any:
            world.did("give")
            return value()

        return agent

    return make


def tool_return(world: World) -> Made:
    agent = Agent(world.model(call("give"), "done"))

    @agent.tool_plain
    def give() -> ToolReturn:
        world.did("give")
        return ToolReturn(return_value="seen", content=["look", BinaryContent(b"png", media_type="image/png")])

    return agent


def picture_prompt(world: World) -> Made:
    agent = Agent(world.model(call("act"), "done"), name="worker", capabilities=[CeleryDurability()])
    agent.tool_plain(lambda: "acted", name="act")
    picture = BinaryContent(b"png" * 1000, media_type="image/png")
    return lambda: agent.run(["What is it?", picture, ImageUrl("https://example.org/wren.png")])


def without_ids(world: World) -> Made:
    """Some providers give tool calls no ids; pydantic-ai makes them up."""
    answer = [ToolCallPart("act"), ToolCallPart("act")]
    return acting(world, answers=(lambda messages, info: ModelResponse(parts=[*answer]), "done"))


def instructed(world: World) -> Made:
    agent = Agent(world.model(call("act"), "done"), deps_type=dict)
    agent.tool_plain(lambda: "acted", name="act")

    @agent.instructions
    def say(ctx: RunContext[Any]) -> str:
        world.did("instructions")
        return f"Be brief, {ctx.deps['name']}."

    @agent.system_prompt
    def system(ctx: RunContext[Any]) -> str:
        world.did("system prompt")
        return "You are a bird."

    return agent


def two_runs(world: World) -> Made:
    agent = Agent(world.model(call("act"), "done"), name="worker", capabilities=[CeleryDurability()])

    @agent.tool_plain
    def act() -> str:
        world.did("act")
        return "acted"

    async def run() -> Any:
        first = await agent.run("go")
        return await agent.run("again", message_history=first.all_messages(), usage=first.usage)

    return run


def conversation(world: World) -> Made:
    from pydantic_ai.conversation_store import InMemoryConversationStore  # not there in older versions

    store = world.state.setdefault("store", InMemoryConversationStore())
    agent = Agent(world.model("hello", "done"), name="worker", capabilities=[CeleryDurability()])

    async def run() -> Any:
        kept = await store.load("support")
        result = await agent.run("go", conversation=kept)
        await store.save(result.conversation)
        return result

    return run


VALUES: dict[str, Callable[[], Any]] = {
    "a model with an alias": lambda: Order(order_id=7),
    "a model in a list": lambda: [Order(order_id=7)],
    "bytes": lambda: b"\xff\x00wren",
    "bytes that are text": lambda: b"wren",
    "NaN": lambda: math.nan,
    "infinity": lambda: [math.inf],
    "None": lambda: None,
    "a text": lambda: "wren",
    "a number": lambda: 7,
    "a tuple": lambda: (1, "two"),
    "a set": lambda: {"wren"},
    "a dataclass": lambda: Place("Oslo", date(2026, 1, 2)),
    "a decimal": lambda: Decimal("1.50"),
    "an enum": lambda: Colour.RED,
    "keys that are numbers": lambda: {1: "one"},
    "a dictionary that looks like a file": lambda: {"kind": "binary", "data": "d3Jlbg==", "media_type": "text/plain"},
    "binary content": lambda: BinaryContent(b"png", media_type="image/png"),
    "binary content in a list": lambda: ["a picture", BinaryContent(b"png", media_type="image/png")],
    "the address of an image": lambda: ImageUrl("https://example.org/wren.png"),
}

ROWS = [
    *(Row(name=f"a tool's result: {name}", make=returning(value)) for name, value in VALUES.items()),
    Row(name="`ToolReturn` with content", make=tool_return),
    Row(name="a prompt of text, binary content and a URL", make=picture_prompt),
    Row(name="tool calls without ids", make=without_ids),
    Row(
        name="instructions and system prompts of functions",
        make=instructed,
        deps={"name": "wren"},
        again=("instructions", "system prompt"),
        runs_again="the functions",
    ),
    Row(name="two runs in a function step, the second with the first one's history", make=two_runs, brief=True),
    Row(name="`ConversationStore` in a function step", make=conversation, since="2.66", killed=True),
]
