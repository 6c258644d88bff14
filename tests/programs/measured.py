"""Steps of a host that has an SDK of OpenTelemetry and no instrumentation of Celery.

Each span, and each state of the metrics, is a line in the folder `MEASURED`. As a program it dispatches workflows.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery
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
from pydantic_ai.models.test import TestModel

from paigeant_celery import (
    PaigeantAgent,
    StepPolicy,
    WorkflowDispatcher,
    activity,
    get_transport,
    workflow_context,
)

SECRET = "-".join(["tiger", "42"])  # never a literal, so that no line of source holds it
FOLDER = Path(os.environ["MEASURED"])


def keep(kind: str, what: Any) -> None:
    """Add a line that another process can read at once."""
    with (FOLDER / kind).open("a", encoding="utf-8") as file:
        file.write(json.dumps(what, default=str) + "\n")


class KeptSpans(SpanExporter):
    """OpenTelemetry's way out for spans, without a network."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            keep("spans", json.loads(span.to_json()))
        return SpanExportResult.SUCCESS


class KeptMetrics(MetricExporter):
    """OpenTelemetry's way out for metrics, without a network."""

    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **kwargs: Any) -> MetricExportResult:
        for resource in metrics_data.resource_metrics:
            for scope in resource.scope_metrics:
                if scope.scope.name == "paigeant_celery":
                    for metric in scope.metrics:
                        keep("metrics", {"pid": os.getpid(), **json.loads(metric.to_json())})
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        """Let go of nothing."""


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(KeptSpans()))
trace.set_tracer_provider(provider)
measured = MeterProvider([PeriodicExportingMetricReader(KeptMetrics(), export_interval_millis=200)])
metrics.set_meter_provider(measured)
PaigeantAgent.instrument_all()

speaker = PaigeantAgent(TestModel(custom_output_text="said"), name="speaker")


def is_first(path: str) -> bool:
    """Say whether nobody has asked this about the path before."""
    try:
        (FOLDER / path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@activity
def flaky() -> str:
    """Fail in its first attempt."""
    if is_first("flaky"):
        raise KeyError(SECRET)
    return "done"


@activity(policy=StepPolicy(max_attempts=1))
def broken() -> str:
    """Fail until it is redriven."""
    if is_first("broken"):
        raise ValueError(SECRET)
    return "done"


@activity
async def asker() -> str:
    """Wait for a signal, and then for one that does not come."""
    context = workflow_context()
    answer = await context.wait_for("go")
    try:
        await context.wait_for("never", timeout=0.3)
    except TimeoutError:
        return str(answer)
    return "it came"


@activity
def deadly() -> str:
    """End its process in its first attempt, but not before what it counted by then is exported."""
    if is_first("deadly"):
        measured.force_flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def main() -> None:
    app = Celery("dispatching")
    app.config_from_object("celeryconfig")
    transport, dispatcher = get_transport(app=app), WorkflowDispatcher()
    workflows: dict[str, list[Any]] = {
        "retried": [flaky.activity(), speaker.activity("speak " + SECRET)],
        "redriven": [broken.activity()],
        "resumed": [asker.activity()],
        "taken": [deadly.activity()],
    }
    for name, itinerary in workflows.items():
        dispatcher.dispatch_workflow_sync(transport, itinerary=itinerary, correlation_id=name)
    provider.shutdown()


if __name__ == "__main__":
    main()
    sys.exit(0)
