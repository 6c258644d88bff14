"""The steps of a shop, whose workflows somebody on call looks after. Tests of the runbook copy it, as a deploy does.

A step that writes waits while its folder has a file `closed`, and the provider answers 429 while there is one
named `busy`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from decimal import Decimal
from pathlib import Path

from pydantic_ai import DeferredToolRequests
from pydantic_ai.exceptions import ModelHTTPError, ModelRateLimitError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage
from stage import asked

from paigeant_celery import PaigeantAgent, StepPolicy, activity, workflow_context

HERE = Path(__file__).parent
RETRY_AFTER = 10.0  # seconds
PATIENCE = StepPolicy(max_attempts=3, backoff=0.05)

# The template of the letter that `draft` writes. A shop with a mistake in it has `{costumer}` here.
LETTER = "Dear {customer}, {text}"

PAYMENT = {"order": 17, "euros": 250}


def closed(name: str) -> bool:
    return (HERE / name).exists()


async def write(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    while closed("closed"):  # noqa: ASYNC110 - another process removes the file
        await asyncio.sleep(0.02)
    if closed("busy"):
        raise ModelHTTPError.for_category(
            ModelRateLimitError, status_code=429, model_name="writer-1", retry_after=RETRY_AFTER
        )
    prompt, _ = asked(messages)
    usage = RequestUsage(input_tokens=1200, output_tokens=350, cost=Decimal("0.0089"))
    return ModelResponse(parts=[TextPart(f"What I say to: {prompt}")], usage=usage, model_name="writer-1")


async def look_further(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Never know enough; the eighth step waits, so that each test sees the same costs."""
    while closed("closed") and int(workflow_context().hop_id.rpartition(".")[2]) == 7:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    usage = RequestUsage(input_tokens=9000, output_tokens=100, cost=Decimal("0.0290"))
    again = {"steps": [{"activity": "research", "prompt": "Look further."}]}
    said = TextPart("not enough yet") if len(messages) > 1 else ToolCallPart(info.function_tools[0].name, again)
    return ModelResponse(parts=[said], usage=usage, model_name="writer-1")


async def pay_back_first(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    said = TextPart("done") if len(messages) > 1 else ToolCallPart("pay_back", PAYMENT, tool_call_id="r1")
    usage = RequestUsage(input_tokens=400, output_tokens=20, cost=Decimal("0.0015"))
    return ModelResponse(parts=[said], usage=usage, model_name="writer-1")


gather = PaigeantAgent(FunctionModel(write), policy=PATIENCE)
draft = PaigeantAgent(FunctionModel(write), policy=PATIENCE)
refund = PaigeantAgent(FunctionModel(pay_back_first), output_type=[str, DeferredToolRequests], policy=PATIENCE)


research = PaigeantAgent(
    FunctionModel(look_further), can_edit_itinerary=True, allowed_activities=["research"], policy=PATIENCE
)


@refund.tool_plain(requires_approval=True)
def pay_back(order: int, euros: int) -> str:
    """Give money back."""
    return f"paid {euros} for order {order}"


@activity(policy=PATIENCE)
def letter(customer: str, text: str) -> str:
    """Fill in the letter."""
    return LETTER.format(customer=customer, text=text)


@activity(policy=StepPolicy(max_attempts=2, backoff=0.05))
def picture(text: str) -> str:
    """Draw it; this takes more memory than the machine has, so its kernel ends the process."""
    if not closed("more memory"):
        os.kill(os.getpid(), signal.SIGKILL)
    return f"a picture of {text}"


@activity(policy=PATIENCE)
def send(to: str) -> str:
    """Send the letter."""
    if "@" not in to:
        raise ValueError(f"this is no address: {to!r}")
    return f"sent to {to}"
