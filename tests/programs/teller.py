"""An agent that tells a story, and holds its breath until a file lets it go on; and steps that do, or end badly."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import PaigeantAgent, StepPolicy, activity, workflow_context

FOLDER = Path(os.environ["RELEASES"])


async def released() -> None:
    """Wait for the file that is named after the workflow."""
    while not (FOLDER / workflow_context().correlation_id).exists():  # noqa: ASYNC110 - no event tells of a file
        await asyncio.sleep(0.02)


async def telling(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    yield "Once upon"
    await released()
    yield " a time,\nin a \x1b[2Kland"


teller = PaigeantAgent(FunctionModel(stream_function=telling, model_name="local"), name="teller")


@activity
async def hold() -> str:
    await released()
    return "held"


@activity(policy=StepPolicy(max_attempts=1))
def stumble() -> str:
    raise ValueError("stumbled over \x1b[2K")
