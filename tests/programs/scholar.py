"""An agent that uses everything a journal records, and a step that runs it with an earlier conversation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.messages import (
    AgentStreamEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.usage import RunUsage
from strikes import begun, noted

from paigeant_celery import CeleryDurability, WorkflowContext, activity, workflow_context

THEN = datetime(2026, 1, 1, tzinfo=UTC)
EARLIER = [
    ModelRequest(parts=[UserPromptPart("Good morning.", timestamp=THEN)], timestamp=THEN),
    ModelResponse(parts=[TextPart("Good morning.")], timestamp=THEN, model_name="local"),
]


def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    step = sum(isinstance(message, ModelResponse) for message in messages)
    begun(workflow_context().hop_id, f"model {step}")
    match step:
        case 1:
            first = [ToolCallPart("add", {"a": 1, "b": 2}, "add-1"), ToolCallPart("look", {"word": "x"}, "look-1")]
            return ModelResponse(parts=[*first, ToolCallPart("insist", {"number": 1}, "insist-1")])
        case 2:
            asked = [ToolCallPart("delegate", {"question": str(number)}, f"delegate-{number}") for number in (1, 2)]
            return ModelResponse(parts=[ToolCallPart("insist", {"number": 2}, "insist-2"), *asked])
        case 3:
            return ModelResponse(parts=[TextPart("done")])
    return ModelResponse(parts=[TextPart("DONE")])


async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    for index, part in enumerate(answer(messages, info).parts):
        if isinstance(part, TextPart):
            for letter in part.content:
                yield letter
        elif isinstance(part, ToolCallPart):
            yield {index: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}


async def watch(ctx: RunContext[None], events: AsyncIterable[AgentStreamEvent]) -> None:
    """Record the events of a call: once for a model's stream, once for each of the others."""
    seen = [event async for event in events]
    hop_id = workflow_context().hop_id
    match seen:
        case [FunctionToolCallEvent() | FunctionToolResultEvent() as event]:
            begun(hop_id, f"event {event.event_kind} {event.part.tool_call_id}")
        case _:
            noted("streamed", hop_id, f"model {ctx.run_step}")


scholar = Agent(
    FunctionModel(answer, stream_function=stream, model_name="local"),
    name="scholar",
    capabilities=[CeleryDurability(event_stream_handler=watch)],
)
helper = Agent(FunctionModel(lambda messages, _: help_out(messages), model_name="helper"), name="helper")


def help_out(messages: list[ModelMessage]) -> ModelResponse:
    question = next(part.content for part in messages[0].parts if isinstance(part, UserPromptPart))
    begun(workflow_context().hop_id, f"tool delegate delegate-{question}")
    return ModelResponse(parts=[TextPart("helped")])


def check_numbers(ctx: RunContext[None], a: int, b: int) -> None:
    begun(workflow_context().hop_id, f"validator add {ctx.tool_call_id}")


@scholar.tool(args_validator=check_numbers)
def add(ctx: RunContext[None], a: int, b: int) -> int:
    begun(workflow_context().hop_id, f"tool add {ctx.tool_call_id}")
    return a + b


@scholar.tool
async def look(ctx: RunContext[None], word: str) -> dict[str, str]:
    begun(workflow_context().hop_id, f"tool look {ctx.tool_call_id}")
    await asyncio.sleep(0)
    return {"word": word}


@scholar.tool
def insist(ctx: RunContext[None], number: int) -> str:
    begun(workflow_context().hop_id, f"tool insist {ctx.tool_call_id}")
    if number == 1:
        raise ModelRetry("say 2")
    return "thanks"


@scholar.tool
async def delegate(ctx: RunContext[None], question: str) -> str:
    return (await helper.run(question, usage=ctx.usage)).output


@scholar.output_validator
def shouted(output: str) -> str:
    if not output.isupper():
        raise ModelRetry("louder")
    return output


@activity
async def study(context: WorkflowContext, question: str) -> dict[str, Any]:
    """Run the scholar in the course of a conversation and return everything in its result."""
    result = await scholar.run(question, message_history=EARLIER)
    return {
        "output": result.output,
        "usage": TypeAdapter(RunUsage).dump_python(result.usage, mode="json"),
        "run_id": result.run_id,
        "conversation_id": result.conversation_id,
        "messages": ModelMessagesTypeAdapter.dump_python(result.all_messages(), mode="json"),
    }
