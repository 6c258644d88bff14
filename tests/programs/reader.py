"""An agent that reads one page after another; each page waits for a file, and models fail if a file says so.

`EDITION` is the version of this code: in the second one the tool takes a different argument.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic_ai import RunContext
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from strikes import begun

from paigeant_celery import PaigeantAgent, workflow_context

PAGES = 4


def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    page = sum(isinstance(message, ModelResponse) for message in messages) + 1
    begun(workflow_context().hop_id, f"model {page}")
    stumbling = Path(os.environ["READING"], f"unavailable-{page}")
    if stumbling.exists():
        stumbling.unlink()
        raise ModelHTTPError(503, "local")
    if page > PAGES:
        return ModelResponse(parts=[TextPart("read")])
    return ModelResponse(parts=[ToolCallPart("read", {"page": page}, f"page-{page}")])


reader = PaigeantAgent(FunctionModel(answer, model_name="local"))


async def read(ctx: RunContext[None], page: int) -> str:
    begun(workflow_context().hop_id, f"tool read page-{page}")
    gate = Path(os.environ["READING"], f"closed-{page}")
    while gate.exists():  # noqa: ASYNC110, ASYNC240 - the test removes it, on this disk
        await asyncio.sleep(0.02)
    return f"page {page}"


async def read_again(ctx: RunContext[None], page: int, language: str = "en") -> str:
    return await read(ctx, page)


reader.tool(read if os.environ.get("EDITION") != "2" else read_again, name="read")
