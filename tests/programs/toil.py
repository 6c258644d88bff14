"""Three steps, each written in a different way, that record every run and fail if told to."""

from __future__ import annotations

import asyncio
import time

from ledger import noted_run
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from stage import asked
from stumbles import stumble

from paigeant_celery import PaigeantAgent, activity, workflow_context


@activity
async def dig(seconds: float) -> str:
    """Work on the event loop."""
    hop_id = workflow_context().hop_id
    with noted_run(hop_id):
        await asyncio.sleep(seconds)
        stumble(hop_id)
    return "dug"


async def think(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    prompt, _previous = asked(messages)
    hop_id = workflow_context().hop_id
    with noted_run(hop_id):
        await asyncio.sleep(float(prompt))
        stumble(hop_id)
    return ModelResponse(parts=[TextPart("planted")])


plant = PaigeantAgent(FunctionModel(think))


@activity
def water(seconds: float) -> str:
    """Work in a thread."""
    hop_id = workflow_context().hop_id
    with noted_run(hop_id):
        time.sleep(seconds)
        stumble(hop_id)
    return "watered"
