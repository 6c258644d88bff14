"""The local model of this example: it asks for the refunds that it reads, as a real model would."""

from __future__ import annotations

from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo

from examples.approvals.refunds import Refund, Settled, euros, refunds_in
from examples.local_models import answer, prompt_of

__all__ = ["plan"]


def plan(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Ask for all refunds of the text at once; when each has been paid or refused, say which."""
    parts = [part for message in messages for part in message.parts]
    asked = [part for part in parts if isinstance(part, ToolCallPart)]
    refunds = refunds_in(prompt_of(messages))
    if refunds and not asked:
        return ModelResponse(parts=[ToolCallPart("refund", refund.model_dump()) for refund in refunds])
    returns = {part.tool_call_id: part for part in parts if isinstance(part, ToolReturnPart)}
    settled = Settled(paid=[], refused=[])
    for call in asked:
        result, refund = returns[call.tool_call_id], Refund.model_validate(call.args_as_dict())
        if result.outcome == "success":
            settled.paid.append(str(result.content))
        else:
            settled.refused.append(f"{euros(refund.cents)} ({refund.reason}): {result.content}")
    return answer(info, settled)
