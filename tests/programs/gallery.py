"""Agents that draw and look: a picture is an output, and pictures are prompts. The one who looks dies once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from typing import Any

from pydantic_ai.messages import (
    BinaryContent,
    BinaryImage,
    FilePart,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.profiles import ModelProfile
from stage import note_run

from paigeant_celery import PaigeantAgent, WorkflowContext, activity, workflow_context

PICTURE = BinaryImage(bytes(range(256)) * 120, media_type="image/png", identifier="fox")


def draw(_: list[ModelMessage], __: AgentInfo) -> ModelResponse:
    """Answer with a picture."""
    note_run()
    return ModelResponse(parts=[FilePart(PICTURE)])


def look(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    """Ask for the light, and then say what was in the prompt; the first attempt dies before it can."""
    note_run()
    if len(messages) == 1:
        return ModelResponse(parts=[ToolCallPart("light", {}, "call-1")])
    if workflow_context().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    request = messages[0]
    assert isinstance(request, ModelRequest)
    prompt = next(part.content for part in request.parts if isinstance(part, UserPromptPart))
    return ModelResponse(parts=[TextPart(json.dumps([seen(part) for part in prompt]))])


def seen(part: Any) -> Any:
    """Return a text as it is, and of a file what tells it from others."""
    if isinstance(part, str):
        return part
    about = [type(part).__name__, part.media_type, part.identifier, part.vendor_metadata]
    return [*about, hashlib.sha256(part.data).hexdigest() if isinstance(part, BinaryContent) else part.url]


artist: PaigeantAgent[Any, BinaryImage] = PaigeantAgent(
    FunctionModel(draw, profile=ModelProfile(supports_image_output=True)), output_type=BinaryImage
)
viewer = PaigeantAgent(FunctionModel(look))


@viewer.tool_plain
def light() -> str:
    """Return what light there is."""
    return "bright"


@activity
def measure(context: WorkflowContext) -> int:
    """Return how large the picture of the step before is."""
    assert context.previous_output is not None
    return len(context.previous_output.output_as(BinaryImage).data)
