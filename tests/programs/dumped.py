"""An agent of which a test dumps a hop: it notes each call that is really made, and a tool waits for a file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import PaigeantAgent

LOOK_EVERY = 0.02  # seconds


def note(what: str) -> None:
    with open(os.environ["RUNS_FILE"], "a", encoding="utf-8") as runs:
        runs.write(f"{what}\n")


def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    step = sum(isinstance(message, ModelResponse) for message in messages) + 1
    note(f"model-{step}")
    if step == 1:
        return ModelResponse(parts=[ToolCallPart("price", {"item": "plum"}, tool_call_id="a")])
    if step == 2:
        return ModelResponse(parts=[ToolCallPart("order", {"item": "plum"}, tool_call_id="b")])
    return ModelResponse(parts=[TextPart(f"ordered, {os.environ.get('TONE', 'politely')}")])


buyer = PaigeantAgent(FunctionModel(answer, model_name="local"), instructions="Buy fruit.")


@buyer.tool_plain
def price(item: str) -> str:
    note("price")
    return f"{item}: 3.20"


@buyer.tool_plain
async def order(item: str) -> str:
    note("order")
    while not Path(os.environ["GATE"]).exists():  # noqa: ASYNC110, ASYNC240 - another process makes the file
        await asyncio.sleep(LOOK_EVERY)
    return f"one {item}"


@buyer.output_validator
def check(output: str) -> str:
    if os.environ.get("BROKEN"):
        raise ZeroDivisionError("a bug of ours")
    return output
