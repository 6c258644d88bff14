"""An agent whose answers are jobs of some seconds at a provider, which notes each request in the file `JOBS_FILE`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ledger import note
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel

from paigeant_celery import PaigeantAgent, workflow_context

TAKES = 2.5  # seconds for a job, if it is to end
INTERVAL = 0.2  # seconds between two polls
SLOWLY = 1.1  # the same for what is washed by night
WEEKLY = 60.0  # and for what takes weeks


def ask(what: str, workflow: str) -> None:
    note(os.environ["JOBS_FILE"], what=what, workflow=workflow, at=time.time())


def submitted_at(workflow: str) -> float:
    lines = map(json.loads, Path(os.environ["JOBS_FILE"]).read_text().splitlines())
    return next(float(line["at"]) for line in lines if line["workflow"] == workflow)


def interval_of(prompt: str) -> float:
    if "for weeks" in prompt:
        return WEEKLY
    return SLOWLY if "by night" in prompt else INTERVAL


class Machine(FunctionModel):
    """Answers with a job, and with what became of it when it is polled."""

    def __init__(self) -> None:
        super().__init__(lambda messages, info: ModelResponse(parts=[]), model_name="machine")

    async def request(self, messages: list[ModelMessage], *_: object) -> ModelResponse:
        last, workflow = messages[-1], workflow_context().hop_id.partition(".")[0]
        ask("poll" if isinstance(last, ModelResponse) else "submit", workflow)
        ends = isinstance(last, ModelResponse) and "for ever" not in str(messages)
        done = ends and time.time() > submitted_at(workflow) + TAKES
        return ModelResponse(
            parts=[TextPart("clean")] if done else [],
            state="complete" if done else "suspended",
            provider_response_id="job",
            provider_details={"every": interval_of(str(messages)), "workflow": workflow},
            model_name=self.model_name,
        )

    def continuation_delay(self, response: ModelResponse) -> float | None:
        return float((response.provider_details or {})["every"])

    async def cancel_suspended_response(self, response: ModelResponse) -> None:
        ask("cancel", (response.provider_details or {})["workflow"])


laundry = PaigeantAgent(Machine(), name="laundry")
