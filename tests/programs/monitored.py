"""Steps of a host that uses OpenTelemetry and Sentry; each event and span is a line in the folder `MONITORED`.

As a program it dispatches workflows inside a span, and runs one in memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentry_sdk
from celery import Celery
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from pydantic_ai.models.test import TestModel
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

from paigeant_celery import (
    ActivityExecutor,
    FunctionSpec,
    PaigeantAgent,
    StepPolicy,
    WorkflowDispatcher,
    WorkflowParked,
    activity,
    get_transport,
)

SECRET = "-".join(["tiger", "42"])  # never a literal, so that no line of source holds it
FOLDER = Path(os.environ["MONITORED"])


def keep(kind: str, what: Any) -> None:
    """Add a line that another process can read at once."""
    with (FOLDER / kind).open("a", encoding="utf-8") as file:
        file.write(json.dumps(what, default=str) + "\n")


class Kept(Transport):
    """Sentry's way out, without a network."""

    def capture_envelope(self, envelope: Any) -> None:
        for item in envelope.items:
            keep("sentry", {"type": item.type, **(item.payload.json or {})})


class Exported(SpanExporter):
    """OpenTelemetry's way out, without a network."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            keep("spans", json.loads(span.to_json()))
        return SpanExportResult.SUCCESS


sentry_sdk.init(
    dsn="https://key@sentry.invalid/1", transport=Kept, traces_sample_rate=1.0, send_default_pii=True,
    max_value_length=100_000, integrations=[CeleryIntegration(monitor_beat_tasks=True)],
)  # fmt: skip
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Exported()))
trace.set_tracer_provider(provider)
CeleryInstrumentor().instrument()
PaigeantAgent.instrument_all()

speaker = PaigeantAgent(TestModel(custom_output_text="said"), name="speaker")
clumsy = PaigeantAgent(TestModel(), name="clumsy", policy=StepPolicy(max_attempts=1))


@clumsy.tool_plain
def look() -> str:
    """Fail inside an agent."""
    between(SECRET)
    return ""


def between(value: str) -> None:
    """Be one call down."""
    culprit(value)


def culprit(value: str) -> None:
    """Be two calls down."""
    copy = value.upper()
    raise KeyError(f"{copy} {value}")


@activity(policy=StepPolicy(max_attempts=1))
def broken(word: str) -> None:
    """Fail with an error that monitors must show, and a text that they must not."""
    sentry_sdk.add_breadcrumb(message="about to fail")
    between(word)


@activity(policy=StepPolicy(max_attempts=1))
async def awaited(word: str) -> None:
    """Do the same on the event loop."""
    await asyncio.sleep(0)
    between(word)


@activity
def flaky(path: str) -> str:
    """Fail in its first attempt."""
    if not Path(path).exists():
        Path(path).touch()
        between(SECRET)
    return "done"


def main() -> None:
    app = Celery("dispatching")
    app.config_from_object("celeryconfig")
    transport, dispatcher = get_transport(app=app), WorkflowDispatcher()
    workflows: dict[str, list[Any]] = {
        "retried": [flaky.activity(str(FOLDER / "flaky")), speaker.activity("speak " + SECRET)],
        "parked": [broken.activity(SECRET)],
        "awaited": [awaited.activity(SECRET)],
        "agent": [clumsy.activity("go " + SECRET)],
        "unknown": [FunctionSpec("elsewhere", {})],
    }
    for name, itinerary in workflows.items():
        span = trace.get_tracer(__name__).start_as_current_span(f"request {name}")
        with span, sentry_sdk.start_transaction(name=f"request {name}"):
            dispatcher.dispatch_workflow_sync(transport, itinerary=itinerary, correlation_id=name)
        assert not trace.get_current_span().get_span_context().is_valid, "the span of a message is left current"
    with trace.get_tracer(__name__).start_as_current_span("request again"):
        dispatcher.dispatch_workflow_sync(transport, itinerary=workflows["unknown"], correlation_id="unknown")
    asyncio.run(in_memory())


async def in_memory() -> None:
    transport, dispatcher = get_transport("inmemory"), WorkflowDispatcher()
    dispatched = await dispatcher.dispatch_workflow(transport, itinerary=[broken.activity(SECRET)], correlation_id="m")
    executor = asyncio.create_task(ActivityExecutor(transport, "broken", __name__).start())
    try:
        await dispatcher.handle(dispatched, transport).result(20)
    except WorkflowParked as error:
        keep("raised", str(error.__cause__))
    finally:
        executor.cancel()
        await asyncio.gather(executor, return_exceptions=True)


if __name__ == "__main__":
    main()
    sys.exit(0)
