"""Activities that fail, each in its own way."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from stage import asked, note_run

from paigeant_celery import PaigeantAgent, StepPolicy, activity


class OwnBaseException(BaseException):
    """Not even an `Exception`."""


ERRORS: dict[str, type[BaseException]] = {
    error.__name__: error
    for error in (
        ValueError, BaseException, OwnBaseException, SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError,
        RecursionError, asyncio.CancelledError,
    )
}  # fmt: skip


def fail(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    note_run()
    prompt, _previous = asked(messages)
    kind, _, text = prompt.partition(" ")
    raise ERRORS[kind](text)


failing = PaigeantAgent(FunctionModel(fail))


def call_tool(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    prompt, _previous = asked(messages)
    return ModelResponse(parts=[ToolCallPart(info.function_tools[0].name, {"kind": prompt})])


failing_tool = PaigeantAgent(FunctionModel(call_tool))


@failing_tool.tool_plain
async def raise_it(kind: str) -> str:
    raise ERRORS[kind]("from a tool")


@activity
def failing_function(kind: str, text: str) -> str:
    """Raise in a thread."""
    raise ERRORS[kind](text)


@activity
def flaky(path: str, times: int) -> str:
    """Fail a number of times; each call adds a line to the file."""
    with Path(path).open("a") as calls:
        calls.write("called\n")
    if Path(path).read_text().count("\n") <= times:
        raise ConnectionError("the provider is down")
    return "done"


async def hang(_messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    note_run()
    await asyncio.Event().wait()
    raise AssertionError("never reached")


hanging = PaigeantAgent(FunctionModel(hang), policy=StepPolicy(timeout=0.3))


@activity
def hanging_function(seconds: float) -> str:
    """Block its thread, as `requests` without a timeout does."""
    note_run()
    threading.Event().wait(seconds)
    return "too late"


async def work_long(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    note_run()
    prompt, _previous = asked(messages)
    await asyncio.sleep(float(prompt))
    return ModelResponse(parts=[TextPart(f"worked {prompt} s")])


slow = PaigeantAgent(FunctionModel(work_long))


async def wait_for_file(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    note_run()
    prompt, _previous = asked(messages)
    while not Path(prompt).exists():  # noqa: ASYNC110, ASYNC240 - another process makes it, on this disk
        await asyncio.sleep(0.02)
    return ModelResponse(parts=[TextPart("the gate is open")])


gated = PaigeantAgent(FunctionModel(wait_for_file))


@activity
def unserializable() -> Any:
    """Return something that has no JSON form."""
    return threading.Lock()


@activity
def too_large(characters: int) -> str:
    """Return more than is ever kept."""
    return "x" * characters
