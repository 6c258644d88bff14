"""Steps that make calls all the time and take no error for an answer, and notes of what the store tells their process.

Each line of the file `TOLD_FILE` is a call that begins, an answer of the store which says that a hop is lost, or the
end of a run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ledger import note
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from paigeant_celery import CeleryDurability, PaigeantAgent, WorkflowContext, activity, workflow_context
from paigeant_celery.store.port import RenewAnswer
from paigeant_celery.store.redis import RedisStore

PAUSE = 0.1  # seconds that a call takes


def begin(kind: str) -> None:
    note(os.environ["TOLD_FILE"], what="begin", kind=kind, hop=workflow_context().hop_id)


def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Note the answers of an operation before anybody can act on them."""

    def noted(store: RedisStore, about: Any, *more: Any, **options: Any) -> Any:
        answer = call(store, about, *more, **options)
        lost = answer.lost if isinstance(answer, RenewAnswer) else () if answer else (about.hop_id,)
        for hop_id in lost:
            note(os.environ["TOLD_FILE"], what="told", kind=name, hop=hop_id)
        return answer

    return noted


for operation in ("record", "publish", "renew"):
    setattr(RedisStore, operation, noting(operation, getattr(RedisStore, operation)))


@contextmanager
def noting_the_end(context: WorkflowContext) -> Iterator[None]:
    """Stand around each step."""
    try:
        yield
    finally:
        note(os.environ["TOLD_FILE"], what="end", hop=context.hop_id)


def model(kind: str, *parts: TextPart | ToolCallPart) -> FunctionModel:
    async def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        begin(kind)
        await asyncio.sleep(PAUSE)
        return ModelResponse(parts=list(parts))

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        for index, part in enumerate((await answer(messages, info)).parts):
            if isinstance(part, TextPart):
                yield part.content
            elif isinstance(part, ToolCallPart):
                yield {index: DeltaToolCall(part.tool_name, "{}", tool_call_id=part.tool_call_id)}

    return FunctionModel(answer, stream_function=stream, model_name=kind)


inner = Agent(model("inner model", TextPart("yes")), capabilities=[CeleryDurability(name="inner")])
restless = PaigeantAgent(model("model", *(ToolCallPart(name, {}) for name in ("look", "glance", "ask"))))


@restless.tool_plain
async def look() -> str:
    """Be a call beside others."""
    begin("tool")
    await asyncio.sleep(PAUSE)
    return "seen"


@restless.tool_plain(metadata={"paigeant": False})
async def glance() -> str:
    """Be one that is not recorded."""
    begin("unrecorded tool")
    return "seen"


@restless.tool_plain
async def ask() -> str:
    """Ask another agent, as part of this call."""
    return (await inner.run("go")).output


@activity
async def stubborn() -> None:
    """Ask again, whatever happens."""
    while True:
        with suppress(Exception):
            await inner.run("go")
        await asyncio.sleep(PAUSE)
