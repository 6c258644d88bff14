"""Steps of workflows that a deploy meets: agents, one of which waits for a file, and a function."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from stage import asked, echo, note_run

from paigeant_celery import PaigeantAgent, activity


async def wait(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    """Answer when the file exists that the prompt names."""
    note_run()
    gate = Path(asked(messages)[0])
    while not gate.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it, on this disk
        await asyncio.sleep(0.05)
    return ModelResponse(parts=[TextPart("waited")])


first = PaigeantAgent(echo("first"))
last = PaigeantAgent(echo("last"))
held = PaigeantAgent(FunctionModel(wait))


@activity
def weigh(grams: int) -> int:
    """Return what it weighs."""
    note_run()
    return grams
