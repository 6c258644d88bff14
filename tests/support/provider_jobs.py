"""Models whose answers are jobs at a provider, which a run polls until they are done."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models import CompletedStreamedResponse, StreamedResponse
from pydantic_ai.models.batch import Batch
from pydantic_ai.models.function import AgentInfo, FunctionModel

__all__ = ["BackgroundModel", "BatchModel", "Provider"]


class Provider:
    """What a provider was asked: `submit`, `poll` and `cancel`, in order; a job is done when `is_done` says so.

    `failing` polls raise this error first.
    """

    def __init__(self, is_done: Callable[[], bool], *, interval: float, failing: list[Exception] | None = None) -> None:
        self.asked: list[str] = []
        self.is_done, self.interval, self.failing = is_done, interval, failing or []

    def ask(self, what: str) -> None:
        """Note a request; raises an error that is due at a poll."""
        self.asked.append(what)
        if what == "poll" and self.failing:
            raise self.failing.pop(0)


def _no_answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    raise AssertionError("the provider answers")


class BackgroundModel(FunctionModel):
    """Answers each request with a job, as OpenAI's background mode does."""

    def __init__(self, provider: Provider, *, name: str = "background") -> None:
        super().__init__(_no_answer, model_name=name)
        self.jobs = provider

    async def request(self, messages: list[ModelMessage], *_: Any) -> ModelResponse:
        """Submit a job, or look how it stands."""
        last = messages[-1]
        if not isinstance(last, ModelResponse):
            self.jobs.ask("submit")
            number = self.jobs.asked.count("submit")
            details = {"polls": 0}
            return ModelResponse(
                parts=[], state="suspended", provider_response_id=f"job-{number}", provider_details=details,
                model_name=self.model_name,
            )  # fmt: skip
        self.jobs.ask("poll")
        if self.jobs.is_done():
            return replace(last, parts=[TextPart("done")], state="complete")
        polls = (last.provider_details or {})["polls"] + 1
        return replace(last, provider_details={"polls": polls})

    @asynccontextmanager
    async def request_stream(
        self, messages: list[ModelMessage], settings: Any, parameters: Any, run_context: Any = None
    ) -> AsyncGenerator[StreamedResponse]:
        """Do the same, with the parts as events."""
        response = await self.request(messages)
        yield CompletedStreamedResponse(response, model_request_parameters=parameters, replay_events=True)

    def continuation_delay(self, response: ModelResponse) -> float | None:
        """Return the seconds between two polls."""
        return self.jobs.interval

    async def cancel_suspended_response(self, response: ModelResponse) -> None:
        """Cancel a job."""
        self.jobs.ask("cancel")


class BatchModel(FunctionModel):
    """A model with a batch API whose batches take their time."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(lambda messages, info: ModelResponse(parts=[TextPart("done")]), model_name="batched")
        self.jobs = provider

    async def batch_create(self, requests: Any) -> Batch:
        """Submit a batch."""
        self.jobs.ask("submit")
        return replace(await super().batch_create(requests), status="in_progress")

    async def batch_status(self, batch: Batch) -> Batch:
        """Look how it stands."""
        self.jobs.ask("poll")
        return await super().batch_status(batch) if self.jobs.is_done() else batch

    async def batch_cancel(self, batch: Batch) -> Batch:
        """Cancel it."""
        self.jobs.ask("cancel")
        return batch
