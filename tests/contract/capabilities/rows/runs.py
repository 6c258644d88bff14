"""Ways of running agents in a step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic_ai import Agent, RunContext
from pydantic_ai.agent import WrapperAgent
from pydantic_ai.capabilities import AbstractCapability, Toolset, durable_operation
from pydantic_ai.exceptions import ModelRetry
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.usage import RunUsage

from paigeant_celery import CeleryDurability
from tests.contract.capabilities.row import Made, Row
from tests.contract.capabilities.rows.capabilities import acting, tool_of, toolset_of
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]


def durable(world: World, *given: Any, **arguments: Any) -> Agent[Any, Any]:
    return acting(world, *given, CeleryDurability(), name="worker", **arguments)


def side_by_side(world: World) -> Made:
    agents = [
        Agent(world.model(f"of {name}", name=name), name=name, capabilities=[CeleryDurability()])
        for name in ("one", "two", "three")
    ]

    async def run() -> Any:
        results = await asyncio.gather(*(agent.run("go") for agent in agents))
        return [[result.output, result.run_id is not None] for result in results]

    return run


def in_a_row(world: World) -> Made:
    agent = durable(world)

    async def run() -> Any:
        return [(await agent.run("go")).output for _ in range(3)]

    return run


def until_it_is_good(world: World) -> Made:
    """A loop of a writer and a critic, each asked with what the other said."""

    def write(messages: Sequence[ModelMessage], info: Any) -> ModelResponse:
        [prompt] = messages[0].parts
        return ModelResponse(parts=[TextPart(f"{getattr(prompt, 'content', '')} better")])

    writer = Agent(world.model(write, name="writer"), name="writer", capabilities=[CeleryDurability()])
    critic = Agent(world.model("no", name="critic"), name="critic", capabilities=[CeleryDurability()])

    async def run() -> Any:
        draft = "nothing"
        for _ in range(3):
            draft = (await writer.run(f"improve {draft}")).output
            if (await critic.run(draft)).output == "yes":
                break
        return draft

    return run


def given_for_a_run(world: World) -> Made:
    agent = durable(world, answers=(call("look"), "done"))
    return lambda: agent.run("go", capabilities=[Toolset(toolset_of(world, "look"))])


def toolset_for_a_run(world: World) -> Made:
    agent = durable(world, answers=(call("look"), "done"))
    return lambda: agent.run("go", toolsets=[toolset_of(world, "look")])


class Noting(AbstractCapability[Any]):
    """Sums up the conversation with an agent of its own, as compaction does."""

    id = "noting"

    def __init__(self, world: World, *, fails: bool = False) -> None:
        self.world, self.fails = world, fails

    @durable_operation(name="sum-up")
    async def sum_up(self, ctx: RunContext[Any], number: int) -> str:
        helper: Agent[None, str] = Agent(self.world.model("short", name="helper"), name="helper")
        result = await helper.run("sum up", usage=ctx.usage)
        if self.fails:
            raise ValueError("it cannot be summed up")
        return f"{result.output} of {number}"

    async def before_model_request(self, ctx: RunContext[Any], request_context: Any) -> Any:
        try:
            text = await self.sum_up(ctx, len(request_context.messages))
        except ValueError as error:
            text = str(error)
        note = ModelRequest(parts=[UserPromptPart(text)])
        request_context.messages = [*request_context.messages, note]
        return request_context


def operation_over_messages(world: World) -> Made:
    return acting(world, Noting(world))


def operation_that_fails(world: World) -> Made:
    return acting(world, Noting(world, fails=True))


def operation_for_a_run(world: World) -> Made:
    agent = durable(world)
    return lambda: agent.run("go", capabilities=[Noting(world)])


def wrapper_agent(world: World) -> Made:
    return WrapperAgent(acting(world))


def unnamed(world: World) -> Made:
    agents = [
        Agent(world.model(f"{number}", name=f"m{number}"), capabilities=[CeleryDurability()]) for number in (1, 2)
    ]

    async def run() -> Any:
        return [(await agent.run("go")).output for agent in agents]

    return run


def own_ids(world: World) -> Made:
    agent = durable(world)
    return lambda: agent.run("go", run_id="mine", conversation_id="ours")


def with_history(world: World) -> Made:
    agent = Agent(world.model("unused", "done"), name="worker", capabilities=[CeleryDurability()])
    agent.tool_plain(tool_of(world, "act"), name="act")
    open_call = [
        ModelRequest(parts=[UserPromptPart("act")]),
        ModelResponse(parts=[ToolCallPart("act", {}, "act-1")]),
    ]
    return lambda: agent.run(message_history=[*open_call])


def with_usage(world: World) -> Made:
    agent = durable(world)
    return lambda: agent.run("go", usage=RunUsage(requests=5, input_tokens=100))


def with_metadata(world: World) -> Made:
    return acting(world, metadata=lambda ctx: {"step": ctx.run_step})


def early(world: World) -> Made:
    """The model asks for a tool and gives its answer at once."""
    both = [ToolCallPart("act", {}, "act-1"), ToolCallPart("final_result", {"response": [1]}, "found")]
    return acting(world, answers=(both,), output_type=list[int], end_strategy="early")


def exhaustive(world: World) -> Made:
    both = [ToolCallPart("final_result", {"response": [1]}, "found"), ToolCallPart("act", {}, "act-1")]
    return acting(world, answers=(both,), output_type=list[int], end_strategy="exhaustive")


def streamed_tool_use(world: World) -> Made:
    agent = durable(world)

    async def run() -> Any:
        async with agent.run_stream("go") as stream:
            return await stream.get_output()

    return run


def broken_off(world: World) -> Made:
    """A step that reads the beginning of a stream and ends."""
    agent = Agent(world.model("a long answer of many words"), name="worker", capabilities=[CeleryDurability()])

    async def run() -> Any:
        async with agent.run_stream("go") as stream:
            async for text in stream.stream_text(debounce_by=None):
                return len(text) > 0
        return None

    return run


def checked(world: World) -> Made:
    agent = durable(world, answers=(call("act"), "bad", "good"))

    @agent.output_validator
    async def check(ctx: RunContext[Any], output: str) -> str:
        if output == "bad":
            raise ModelRetry("not good")
        return f"{output} after {ctx.retry}"

    return lambda: agent.run("go")


def text_beside_a_call(world: World) -> Made:
    return acting(world, answers=([TextPart("I will act."), *call("act")], "done"))


ROWS = [
    Row(name="several agents side by side in a function step", make=side_by_side),
    Row(name="one agent several times in a function step", make=in_a_row),
    Row(name="agents in a loop in a function step", make=until_it_is_good),
    Row(name="`run(capabilities=…)`", make=given_for_a_run),
    Row(name="`run(toolsets=…)`", make=toolset_for_a_run),
    Row(name="an operation that runs an agent", make=operation_over_messages),
    Row(name="an operation that used a model, failed, and was survived", make=operation_that_fails),
    Row(
        name="`run(capabilities=…)` with an operation",
        make=operation_for_a_run,
        again=("request to helper",),
        runs_again="the operation; those of capabilities given to the agent are recorded",
    ),
    Row(name="`WrapperAgent`", make=wrapper_agent),
    Row(name="agents without names", make=unnamed),
    Row(name="`run(run_id=…, conversation_id=…)`", make=own_ids),
    Row(name="a history that ends in an open tool call", make=with_history),
    Row(name="`run(usage=…)`", make=with_usage),
    Row(name="metadata of a function", make=with_metadata),
    Row(name='`end_strategy="early"`', make=early),
    Row(name='`end_strategy="exhaustive"`', make=exhaustive),
    Row(name="`run_stream` with tools", make=streamed_tool_use),
    Row(name="`run_stream` that is left early", make=broken_off),
    Row(name="an answer that a validator refuses", make=checked),
    Row(name="text beside a tool call", make=text_beside_a_call),
]
