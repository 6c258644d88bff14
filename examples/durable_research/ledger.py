"""Counts the calls that are actually made, outside the workers: a line in a file when one begins and when it ends.

The workers' own word does not prove that nothing was asked twice, so the model and the tools sign here themselves.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext

from paigeant_celery import PaigeantError, workflow_context

__all__ = ["Call", "CountedModel", "Entry", "counted", "entries", "folder"]

HELD = 600.0  # seconds, unless the worker is killed first


@dataclass(frozen=True, order=True)
class Call:
    """A call of the run: `step` counts the requests to the model, and `number` is the model's id of a tool call."""

    step: int
    kind: Literal["model", "tool"]
    name: str = ""
    number: str = ""


@dataclass(frozen=True)
class Entry:
    """A line of the ledger."""

    attempt: int
    call: Call
    ended: bool


def folder() -> Path:
    """Return the folder of the ledger and the reports: `RESEARCH_FOLDER`, otherwise one among the temporary files."""
    found = Path(os.environ.get("RESEARCH_FOLDER") or Path(tempfile.gettempdir()) / "durable_research")
    found.mkdir(parents=True, exist_ok=True)
    return found


def entries() -> list[Entry]:
    """Return what has been written so far, without a line that is still being written."""
    try:
        whole, _, _ = (folder() / "ledger").read_text(encoding="utf-8").rpartition("\n")
    except FileNotFoundError:
        return []
    read = (json.loads(line) for line in whole.splitlines())
    return [Entry(line["attempt"], Call(**line["call"]), line["ended"]) for line in read]


@contextmanager
def counted(ctx: RunContext[Any]) -> Iterator[None]:
    """Record the tool call that runs in the block."""
    with _written(Call(ctx.run_step, "tool", ctx.tool_name or "", ctx.tool_call_id or "")):
        yield


class CountedModel(WrapperModel):
    """A model whose requests are recorded.

    In the first attempt, the request with the number in `RESEARCH_HOLD` is held back, so that there is time to kill
    the worker while it is in flight.
    """

    def __init__(self, wrapped: Model | str) -> None:
        super().__init__(wrapped)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Record the request and make it."""
        async with self._counted(messages):
            return await super().request(messages, model_settings, model_request_parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Record the request and make it as a stream."""
        asked = super().request_stream(messages, model_settings, model_request_parameters, run_context)
        async with self._counted(messages), asked as answer:
            yield answer

    @asynccontextmanager
    async def _counted(self, messages: list[ModelMessage]) -> AsyncGenerator[None]:
        call = Call(1 + sum(isinstance(message, ModelResponse) for message in messages), "model")
        with _written(call):
            if str(call.step) == os.environ.get("RESEARCH_HOLD") and _attempt() == 1:
                await asyncio.sleep(HELD)
            yield


@contextmanager
def _written(call: Call) -> Iterator[None]:
    _write(Entry(_attempt(), call, ended=False))
    yield
    _write(Entry(_attempt(), call, ended=True))


def _write(entry: Entry) -> None:
    with (folder() / "ledger").open(
        "a", encoding="utf-8"
    ) as ledger:  # a single write, so that several processes may write at once
        ledger.write(json.dumps(asdict(entry)) + "\n")


def _attempt() -> int:
    try:
        return workflow_context().attempt
    except PaigeantError:  # the agent runs outside a workflow
        return 1
