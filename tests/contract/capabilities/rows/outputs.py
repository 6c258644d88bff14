"""Every mode of output."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from pydantic_ai import Agent, AgentRunResultEvent, BinaryContent, ModelRetry, RunContext
from pydantic_ai.messages import BinaryImage, FilePart, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.output import (
    Choice,
    Choices,
    NativeOutput,
    PromptedOutput,
    StructuredDict,
    TextOutput,
    ToolOutput,
)
from pydantic_ai.profiles import ModelProfile

from paigeant_celery import CeleryDurability
from tests.contract.capabilities.row import Made, Row
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]


class Bird(BaseModel):
    name: str
    legs: int = 2


class Stone(BaseModel):
    weight: float


def text(world: World) -> Made:
    return Agent(world.model("done"))


def found(**arguments: Any) -> list[ToolCallPart]:
    return [ToolCallPart("final_result", arguments, "found")]


def tool(world: World) -> Made:
    return Agent(world.model(found(name="wren")), output_type=Bird)


def tool_of_two(world: World) -> Made:
    answer = [ToolCallPart("final_result_Stone", {"weight": 2.5}, "stone")]
    return Agent(world.model(answer), output_type=[Bird, Stone])


def named_tool(world: World) -> Made:
    answer = [ToolCallPart("report", {"name": "wren"}, "report")]
    return Agent(world.model(answer), output_type=ToolOutput(Bird, name="report"))


def tool_again(world: World) -> Made:
    return Agent(world.model(found(legs=2), found(name="wren")), output_type=Bird)


def native(world: World) -> Made:
    profile = ModelProfile(supports_json_schema_output=True)
    return Agent(world.model('{"name": "wren", "legs": 2}', profile=profile), output_type=NativeOutput(Bird))


def prompted(world: World) -> Made:
    return Agent(world.model('{"name": "wren", "legs": 2}'), output_type=PromptedOutput(Bird))


def text_function(world: World) -> Made:
    def split(text: str) -> list[str]:
        world.did("output function")
        return text.split()

    return Agent(world.model("a wren"), output_type=TextOutput(split))


def function(world: World) -> Made:
    def hatch(name: str) -> Bird:
        world.did("output function")
        return Bird(name=name)

    return Agent(world.model(found(name="wren")), output_type=hatch)


def function_that_refuses(world: World) -> Made:
    def hatch(name: str) -> Bird:
        world.did("output function")
        if name != "wren":
            raise ModelRetry("only wrens")
        return Bird(name=name)

    return Agent(world.model(found(name="crow"), found(name="wren")), output_type=hatch)


def validator(world: World) -> Made:
    agent = Agent(world.model("crow", "wren"))

    @agent.output_validator
    def only_wrens(ctx: RunContext[None], output: str) -> str:
        world.did("output validator")
        if output != "wren":
            raise ModelRetry("only wrens")
        return output

    return agent


def image(world: World) -> Made:
    answer = ModelResponse(parts=[FilePart(BinaryImage(data=b"png" * 1000, media_type="image/png"))])
    profile = ModelProfile(supports_image_output=True)
    return Agent(world.model(answer, profile=profile), output_type=BinaryImage)


def image_or_text(world: World) -> Made:
    profile = ModelProfile(supports_image_output=True)
    return Agent(world.model("no image", profile=profile), output_type=[BinaryImage, str])


def binary(world: World) -> Made:
    def draw(width: int) -> BinaryContent:
        world.did("output function")
        return BinaryContent(b"pdf" * width, media_type="application/pdf")

    return Agent(world.model([ToolCallPart("final_result", {"width": 10}, "draw")]), output_type=draw)


def text_or_tool(world: World) -> Made:
    return Agent(world.model("a stone"), output_type=[Bird, str])


def dictionary(world: World) -> Made:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    return Agent(world.model(found(name="wren")), output_type=StructuredDict(schema, name="bird"))


def choices(world: World) -> Made:
    given = Choices({"wren": Choice("It is small.", value=1), "crow": Choice("It is black.", value=2)})
    return Agent(world.model(found(response="crow")), output_type=given)


def literal_of_a_set(world: World) -> Made:
    """In another process a set has another order."""
    names = sorted({"wren", "crow", "owl"}, reverse=world.attempt > 1)
    agent: Agent[None, Any] = Agent(
        world.model([ToolCallPart("look", {"bird": "owl"}, "look")], found(response="crow")),
        output_type=Literal[*names],
    )

    def look(bird: str) -> str:
        world.did("look")
        return bird

    look.__annotations__["bird"] = Literal[*names]
    agent.tool_plain(look)
    return agent


def streamed(world: World) -> Made:
    agent = Agent(world.model("a long answer"), name="worker", capabilities=[CeleryDurability()])

    async def run() -> Any:
        async with agent.run_stream("go") as stream:
            said = [text async for text in stream.stream_text(debounce_by=None)]
            return [said[-1], stream.usage.requests]

    return run


def events_of_a_run(world: World) -> Made:
    agent = Agent(world.model("a long answer"), name="worker", capabilities=[CeleryDurability()])

    async def run() -> Any:
        async with agent.run_stream_events("go") as events:
            async for event in events:
                if isinstance(event, AgentRunResultEvent):
                    return event.result
        raise AssertionError("no result")

    return run


def nodes(world: World) -> Made:
    agent = Agent(world.model("a long answer"), name="worker", capabilities=[CeleryDurability()])

    async def run() -> Any:
        async with agent.iter("go") as found:
            async for _ in found:
                pass
        return found.result

    return run


def thoughts(world: World) -> Made:
    return Agent(world.model([TextPart("first"), TextPart("second")]))


FUNCTION = {"again": ("output function",), "runs_again": "the function"}

ROWS = [
    Row(name="text", make=text),
    Row(name="several texts in one response", make=thoughts),
    Row(name="an output tool", make=tool, of=("ToolOutput",)),
    Row(name="an output tool for each of several types", make=tool_of_two),
    Row(name="`ToolOutput` with a name", make=named_tool, of=("ToolOutput",)),
    Row(name="an output tool whose arguments do not fit", make=tool_again),
    Row(name="`NativeOutput`", make=native, of=("NativeOutput",)),
    Row(name="`PromptedOutput`", make=prompted, of=("PromptedOutput",)),
    Row(name="`TextOutput`", make=text_function, of=("TextOutput",), **FUNCTION),
    Row(name="an output function", make=function, **FUNCTION),
    Row(name="an output function that raises `ModelRetry`", make=function_that_refuses, **FUNCTION),
    Row(
        name="an output validator",
        make=validator,
        again=("output validator",),
        runs_again="the validator",
    ),
    Row(name="an image", make=image, killed=True),
    Row(name="an image or text", make=image_or_text),
    Row(name="binary content of an output function", make=binary, **FUNCTION),
    Row(name="text or an output tool", make=text_or_tool),
    Row(name="`StructuredDict`", make=dictionary, of=("StructuredDict",)),
    Row(name="`Choices`", make=choices, of=("Choices",)),
    Row(name="a `Literal` made from a set", make=literal_of_a_set),
    Row(name="`run_stream` in a function step", make=streamed),
    Row(name="`run_stream_events` in a function step", make=events_of_a_run),
    Row(name="`iter` in a function step", make=nodes),
    Row(
        name="`DeferredToolRequests`",
        waits="tests/unit/agents/test_pausing.py::test_the_agent_of_a_step_waits_for_what_it_asks_however_it_is_made",
    ),
]
