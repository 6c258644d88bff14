"""Activities of the first worker."""

from __future__ import annotations

import json

from pydantic import BaseModel
from pydantic_ai import NativeOutput, RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from stage import asked, echo, note_run

from paigeant_celery import PaigeantAgent, WorkflowDependencies, activity, workflow_context


class Topic(BaseModel):
    title: str
    words: int


class House(WorkflowDependencies):
    style: str = "plain"


def pick(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    note_run()
    prompt, _previous = asked(messages)
    return ModelResponse(parts=[TextPart(json.dumps({"title": prompt.title(), "words": len(prompt.split())}))])


titles = FunctionModel(pick, profile={"supports_json_schema_output": True})

topic = PaigeantAgent(titles, output_type=NativeOutput(Topic))
review = PaigeantAgent(echo("review"), deps_type=House)
publish = PaigeantAgent(echo("publish"))


@review.instructions
def house_style(ctx: RunContext[House]) -> str:
    return f"Write in the {ctx.deps.style} style of {workflow_context().variables.get('house', 'nobody')}."


@activity
def long_text(kilobytes: int) -> str:
    """Return more than a message carries inline."""
    note_run()
    return "0123456789abcdef" * 64 * kilobytes


def plan(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if len(messages) > 1:
        return ModelResponse(parts=[TextPart("planned")])
    note_run()
    tool = info.function_tools[0]
    steps = [{"activity": "draft", "prompt": "inserted"}, {"activity": "review"}]
    return ModelResponse(parts=[ToolCallPart(tool.name, {"steps": steps})])


planner = PaigeantAgent(FunctionModel(plan), can_edit_itinerary=True, max_added_steps=2)
