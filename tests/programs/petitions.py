"""Steps of the benchmark of waits: each gives the moment at which its model was called last."""

from __future__ import annotations

import time

from pydantic_ai import Agent, DeferredToolRequests
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import CeleryDurability, PaigeantAgent, WorkflowContext, activity


async def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    """Say when this is."""
    return ModelResponse(parts=[TextPart(repr(time.monotonic()))])


clerk = PaigeantAgent(FunctionModel(answer))  # a hop that does not wait
scribe: Agent[None, str] = Agent(FunctionModel(answer), name="scribe", capabilities=[CeleryDurability()])


async def look_first(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Look twice, then pay if there is such a tool, then say when this is."""
    returned = {part.tool_name for message in messages for part in message.parts if isinstance(part, ToolReturnPart)}
    if not returned:
        return ModelResponse(parts=[ToolCallPart("look", {}, tool_call_id=f"look-{number}") for number in range(2)])
    if returned == {"look"} and any(tool.name == "pay" for tool in info.function_tools):
        return ModelResponse(parts=[ToolCallPart("pay", {"cents": 500}, tool_call_id="pay")])
    return ModelResponse(parts=[TextPart(repr(time.monotonic()))])


scout: Agent[None, str] = Agent(FunctionModel(look_first), name="scout", capabilities=[CeleryDurability()])


@activity
async def petition(context: WorkflowContext, scouts: int, scribes: int) -> str:
    """Run agents so many times, of four calls or of one, wait, and run one of one call."""
    for _ in range(scouts):
        await scout.run("before")
    for _ in range(scribes):
        await scribe.run("before")
    await context.wait_for("seal", ask=lambda token: None)
    return (await scribe.run("after")).output


cashier: PaigeantAgent[None, str | DeferredToolRequests] = PaigeantAgent(
    FunctionModel(look_first), output_type=[str, DeferredToolRequests]
)


spender = PaigeantAgent(FunctionModel(look_first))  # the same calls, without a wait


@scout.tool_plain
@cashier.tool_plain
@spender.tool_plain
async def look() -> str:
    """Look."""
    return "seen"


@cashier.tool_plain(requires_approval=True)
@spender.tool_plain
async def pay(cents: int) -> str:
    """Pay."""
    return "paid"
