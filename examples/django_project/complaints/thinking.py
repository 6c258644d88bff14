"""The local model that writes letters: what it says comes from what was paid and refused."""

from __future__ import annotations

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo

from examples.approvals.refunds import Settled
from examples.local_models import own_prompt, previous_output

__all__ = ["write_letter"]


def write_letter(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Write a letter to the customer whom the prompt names."""
    settled = previous_output(messages, Settled)
    customer = own_prompt(messages).removeprefix("Write to ").removesuffix(".")
    paragraphs = [f"Dear {customer},", "thank you for writing to us."]
    if settled.paid:
        paragraphs.append(f"You get back: {'; '.join(settled.paid)}.")
    if settled.refused:
        paragraphs.append(f"We cannot refund: {'; '.join(settled.refused)}.")
    if not settled.paid and not settled.refused:
        paragraphs.append("A colleague reads it today.")
    return ModelResponse(parts=[TextPart("\n\n".join([*paragraphs, "Your complaints desk"]))])
