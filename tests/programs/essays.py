"""Activities that give much, or text that few expect, and count their runs and model calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from pydantic_ai import DeferredToolRequests
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from stage import asked, note_run

from paigeant_celery import PaigeantAgent, activity


def write(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    note_run()
    prompt, _previous = asked(messages)
    return ModelResponse(parts=[TextPart("x" * int(prompt))])


essay = PaigeantAgent(FunctionModel(write))


@activity
def print_out(characters: int) -> str:
    """Return so many characters."""
    note_run()
    return "x" * characters


@activity
def print_pages(pages: int) -> Iterator[str]:
    """Yield so many pages."""
    note_run()
    for _ in range(pages):
        yield "x" * 1000


@activity
def count(text: str = "") -> str:
    """End a workflow."""
    return "counted"


def look_up(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Call the tool, then repeat what it returned."""
    note_run()
    for part in messages[-1].parts:
        if isinstance(part, ToolReturnPart):
            return ModelResponse(parts=[TextPart(f"{part.content}\0\ud800")])
    return ModelResponse(parts=[ToolCallPart(info.function_tools[0].name, {"key": "\0"})])


async def stream_up(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """Answer in the same way, for those who watch."""
    for part in look_up(messages, info).parts:
        if isinstance(part, TextPart):
            yield part.content
        elif isinstance(part, ToolCallPart):
            yield {0: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id="1")}


lookup = PaigeantAgent(FunctionModel(look_up, stream_function=stream_up))


@lookup.tool_plain
def read(key: str) -> str:
    """Return what stands in a file."""
    return f"<{key}>\0"


def ask(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if any(isinstance(part, ToolReturnPart) for part in messages[-1].parts):
        return ModelResponse(parts=[TextPart("nothing is deleted")])
    note_run()
    return ModelResponse(parts=[ToolCallPart("delete", {"path": "hunter2"})])


guarded: Any = PaigeantAgent(FunctionModel(ask), output_type=[str, DeferredToolRequests])


@guarded.tool_plain(requires_approval=True)
def delete(path: str) -> str:
    """Delete a file."""
    return f"deleted {path}"
