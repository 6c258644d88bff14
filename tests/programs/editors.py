"""Agents that change the itinerary, as they are told to and as they must not."""

from __future__ import annotations

import json

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from stage import asked, note_run

from paigeant_celery import PaigeantAgent


def insert(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Insert the activities that the prompt lists and answer with what the tool said."""
    if len(messages) > 1:
        return ModelResponse(parts=[TextPart(str(messages[-1].parts[-1].content))])
    note_run()
    prompt, _previous = asked(messages)
    steps = [{"activity": name, "prompt": prompt} for name in json.loads(prompt)]
    return ModelResponse(parts=[ToolCallPart(info.function_tools[0].name, {"steps": steps})])


editor = PaigeantAgent(FunctionModel(insert), can_edit_itinerary=True, allowed_activities=["draft", "editor"])


def insert_other(other: str) -> FunctionModel:
    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) > 1:
            return ModelResponse(parts=[TextPart(f"{other}, please")])
        note_run()
        return ModelResponse(parts=[ToolCallPart(info.function_tools[0].name, {"steps": [{"activity": other}]})])

    return FunctionModel(respond)


ping = PaigeantAgent(insert_other("pong"), can_edit_itinerary=True)
pong = PaigeantAgent(insert_other("ping"), can_edit_itinerary=True)
