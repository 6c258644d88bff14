"""An agent that reads something long and types a story; where a file says so, its process waits there to be killed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel

from paigeant_celery import PaigeantAgent, workflow_context

STOPS = Path(os.environ["STOPS"])


async def stop(place: str) -> None:
    """Wait for the end, if the file named after the workflow has this place; say which process waits."""
    file = STOPS / workflow_context().correlation_id
    if not file.exists() or file.read_text() != place:
        return
    file.unlink()
    waiting = file.with_suffix(".pid.new")
    waiting.write_text(str(os.getpid()))
    waiting.rename(file.with_suffix(".pid"))
    await asyncio.Event().wait()


async def typing(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    if not any(isinstance(message, ModelResponse) for message in messages):
        yield {0: DeltaThinkingPart(content="Let me ")}
        await stop("thought")
        yield {0: DeltaThinkingPart(content="see.")}
        for index in (1, 2):
            yield {index: DeltaToolCall("read", '{"page": ', tool_call_id=f"call-{index}")}
            await stop(f"arguments {index}")
            yield {index: DeltaToolCall(json_args=f"{index}}}")}
        return
    for word in ("Once ", "upon ", "a time."):
        yield word
        await stop(word.strip())


typist = PaigeantAgent(FunctionModel(stream_function=typing, model_name="local"), name="typist")


@typist.tool_plain
async def read(page: int) -> str:
    await stop(f"page {page}")
    return str(page) * 100_000
