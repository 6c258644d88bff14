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


def ask(what: str) -> None:
    note(os.environ["JOBS_FILE"], what=what, workflow=workflow_context().hop_id.partition(".")[0], at=time.time())


def submitted_at() -> float:
    workflow = workflow_context().hop_id.partition(".")[0]
    lines = map(json.loads, Path(os.environ["JOBS_FILE"]).read_text().splitlines())
    return next(float(line["at"]) for line in lines if line["workflow"] == workflow)


class Machine(FunctionModel):
    """Answers with a job, and with what became of it when it is polled."""

    def __init__(self) -> None:
        super().__init__(lambda messages, info: ModelResponse(parts=[]), model_name="machine")

    async def request(self, messages: list[ModelMessage], *_: object) -> ModelResponse:
        last = messages[-1]
        ask("poll" if isinstance(last, ModelResponse) else "submit")
        ends = isinstance(last, ModelResponse) and "for ever" not in str(messages)
        done = ends and time.time() > submitted_at() + TAKES
        return ModelResponse(
            parts=[TextPart("clean")] if done else [],
            state="complete" if done else "suspended",
            provider_response_id="job",
            provider_details={"slowly": "by night" in str(messages)},
            model_name=self.model_name,
        )

    def continuation_delay(self, response: ModelResponse) -> float | None:
        return SLOWLY if (response.provider_details or {})["slowly"] else INTERVAL

    async def cancel_suspended_response(self, response: ModelResponse) -> None:
        ask("cancel")


laundry = PaigeantAgent(Machine(), name="laundry")
