"""Steps of a newsroom: one writes while others watch, one asks before it publishes, one is broken until it is repaired.

An agent whose prompt is a path writes its second half when that file is there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from pydantic_ai import DeferredToolRequests, RunContext
from pydantic_ai.exceptions import ApprovalRequired
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from stage import asked

from paigeant_celery import PaigeantAgent, StepPolicy, WorkflowContext, activity

ONCE = StepPolicy(max_attempts=1)


async def write(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """Look something up, write half a sentence, wait for the file and write the other half."""
    prompt, _ = asked(messages)
    if not any(isinstance(part, ToolReturnPart) for message in messages for part in message.parts):
        yield {0: DeltaToolCall("look_up", '{"word": "cats"}', tool_call_id="look-up")}
        return
    yield "Cats purr "
    while prompt.startswith("/") and not os.path.exists(prompt):  # noqa: ASYNC110, ASYNC240 - a test makes it
        await asyncio.sleep(0.02)
    yield "when they are content."


def write_whole(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Do the same for those who do not watch."""
    if not any(isinstance(part, ToolReturnPart) for message in messages for part in message.parts):
        return ModelResponse(parts=[ToolCallPart("look_up", {"word": "cats"}, tool_call_id="look-up")])
    return ModelResponse(parts=[TextPart("Cats purr when they are content.")])


reporter = PaigeantAgent(FunctionModel(write_whole, stream_function=write), name="reporter")


@reporter.tool_plain
async def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word} are animals"


def ask_to_publish(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Publish once it is allowed, and say what came of it."""
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolReturnPart):
                return ModelResponse(parts=[TextPart(f"done: {part.content}")])
    return ModelResponse(parts=[ToolCallPart("publish", {"headline": "Cats purr"}, tool_call_id="call-1")])


chief: PaigeantAgent[Any, str | DeferredToolRequests] = PaigeantAgent(
    FunctionModel(ask_to_publish), name="chief", output_type=[str, DeferredToolRequests]
)


@chief.tool
def publish(ctx: RunContext[Any], headline: str) -> str:
    """Publish an article, if a person agrees."""
    if not ctx.tool_call_approved:
        raise ApprovalRequired
    return f"published {headline}"


@activity
async def headline(context: WorkflowContext, question: str) -> JsonValue:
    """Ask somebody for a headline."""
    return await context.wait_for("headline", question=question)


@activity(policy=ONCE)
def check(path: str, text: str) -> str:
    """Fail until the file is there; the error quotes the text."""
    if not Path(path).exists():
        raise ValueError(text)
    return "checked"


@activity
def say(text: str) -> str:
    """Return the text."""
    return text


@activity(policy=ONCE)
def count_words(context: WorkflowContext, path: str) -> int:
    """Count the words of an item; of one that is `unreadable`, once the file is there."""
    assert context.previous_output is not None
    text = str(context.previous_output.output)
    if text == "unreadable" and not Path(path).exists():
        raise ValueError("unreadable")
    return len(text.split())
