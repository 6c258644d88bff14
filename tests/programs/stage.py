"""What the host modules share: a model with predictable answers, and a count of runs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import workflow_context

PREVIOUS = re.compile(r"<previous_output [^>]*>\n(.*)\n</previous_output>", re.DOTALL)


def note_run() -> None:
    """Count a run of the current hop in a place where no workflow and no store can lose it."""
    with open(os.environ["RUNS_FILE"], "a", encoding="utf-8") as runs:
        runs.write(f"{workflow_context().hop_id}\n")


def asked(messages: Sequence[ModelMessage]) -> tuple[str, str]:
    """Return the step's own prompt and the previous output that the model saw ("" if none)."""
    request = next(message for message in messages if isinstance(message, ModelRequest))
    text = str(next(part for part in request.parts if isinstance(part, UserPromptPart)).content)
    previous = PREVIOUS.search(text)
    return text.partition("\n\nThe previous step")[0], previous.group(1) if previous else ""


def echo(name: str) -> FunctionModel:
    """Return a model that answers `name(prompt|previous output)`."""

    def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        note_run()
        prompt, previous = asked(messages)
        return ModelResponse(parts=[TextPart(f"{name}({prompt}|{previous})")])

    return FunctionModel(answer)
