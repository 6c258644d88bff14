"""Steps that are full of what only some people may read: each piece is a canary, and says where it was.

Spans and metrics are lines in the file `SEEN`. The canaries come from the environment, so that no line of source has
one.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from pydantic import BaseModel, SecretStr
from pydantic_ai import DeferredToolRequests
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from paigeant_celery import PaigeantAgent, StepPolicy, WorkflowContext, activity


def canary(where: str) -> str:
    """Return the one that says where it was."""
    return f"{os.environ['CANARY']}-{where}"


def keep(what: str) -> None:
    with open(os.environ["SEEN"], "a", encoding="utf-8") as file:
        file.write(f"{what}\n")


class Spans(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            keep(json.dumps(json.loads(span.to_json())))
        return SpanExportResult.SUCCESS


class Metrics(MetricExporter):
    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **kwargs: Any) -> MetricExportResult:
        keep(json.dumps(json.loads(metrics_data.to_json())))
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        """Let go of nothing."""


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Spans()))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(Metrics(), export_interval_millis=500)]))


class Note(BaseModel):
    note: str


class Found(BaseModel):
    found: str
    typed: SecretStr  # a secret that says it is one


def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    if sum(isinstance(message, ModelResponse) for message in messages) == 0:
        return ModelResponse(parts=[ToolCallPart("look", {"word": canary("argument")}, tool_call_id="1")])
    return ModelResponse(parts=[TextPart(canary("answer"))])


def model(said: Callable[[list[ModelMessage], AgentInfo], ModelResponse] = answer) -> FunctionModel:
    """Return a model that says this, also in pieces."""

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        for index, part in enumerate(said(messages, info).parts):
            if isinstance(part, TextPart):
                yield part.content
            elif isinstance(part, ToolCallPart):
                yield {index: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}

    return FunctionModel(said, stream_function=stream, model_name="local")


clerk = PaigeantAgent(model(), name="clerk", deps_type=Note, instructions="Look it up.")
broken = PaigeantAgent(model(), name="broken", deps_type=Note, policy=StepPolicy(max_attempts=1))


@clerk.tool_plain(name="look")
def find(word: str) -> Found:
    return Found(found=canary("result"), typed=SecretStr(canary("typed")))


@broken.tool_plain(name="look")
def fail(word: str) -> str:
    return _fail()


def _fail() -> str:
    try:
        raise KeyError(canary("cause"))
    except KeyError as error:
        raised = ValueError(canary("exception"), SecretStr(canary("typed")))
        raised.add_note(canary("note"))
        raise raised from error


def first_token() -> str:
    """Return one that answers a wait which is open; whoever was asked has it, perhaps in a mail that an agent reads."""
    with open(f"{os.environ['SEEN']}.tokens", encoding="utf-8") as file:
        return file.readline().strip()


def send_link(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if len(messages) == 1:
        return ModelResponse(parts=[ToolCallPart("look", {"word": first_token()}, tool_call_id="1")])
    return answer(messages, info)


linker = PaigeantAgent(model(send_link), name="linker", deps_type=Note)


@linker.tool_plain(name="look")
def follow(word: str) -> str:
    return canary("result")


teller: PaigeantAgent[Note, Any] = PaigeantAgent(
    model(), name="teller", deps_type=Note, output_type=[str, DeferredToolRequests]
)


@teller.tool_plain(name="look", requires_approval=True)
def pay(word: str) -> str:
    return canary("result")


@activity(policy=StepPolicy(max_attempts=5, backoff=3600.0))
def stumble(text: str) -> str:
    return _fail()


@activity(policy=StepPolicy(max_attempts=1, final_on=[ValueError]))
def fall(text: str) -> str:
    return _fail()


@activity(policy=StepPolicy(max_attempts=1, final_on=[ValueError]))
async def item(context: WorkflowContext) -> Any:
    """Fail on each item but the first."""
    found = context.previous_output.output if context.previous_output is not None else None
    if found != canary("item"):
        _fail()
    return found


@activity
def typed() -> Any:
    """Give what must not be recorded."""
    return Found(found=canary("result"), typed=SecretStr(canary("typed")))


@activity
async def confirm(context: WorkflowContext, about: str) -> Any:
    """Ask somebody; whoever asks must keep the token."""
    return await context.wait_for("confirm", ask=keep_token, question=canary("question"))


def keep_token(token: str) -> None:
    with open(f"{os.environ['SEEN']}.tokens", "a", encoding="utf-8") as file:
        file.write(f"{token}\n")
