"""An agent that answers with everything that it was ever asked, so that a lost or doubled turn shows."""

from __future__ import annotations

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from stage import note_run

from paigeant_celery import PaigeantAgent


def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    note_run()
    asked = [
        str(part.content)
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, UserPromptPart)
    ]
    return ModelResponse(parts=[TextPart(" ".join(asked))])


talker = PaigeantAgent(FunctionModel(answer), name="talker")
