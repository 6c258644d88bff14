"""A host's telemetry that raises errors costs spans and numbers, and stops no workflow."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import metrics as api
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler

from paigeant_celery import activity
from paigeant_celery.broker import metrics
from paigeant_celery.broker.harmless import harmless
from paigeant_celery.broker.spans import begin_hop, dispatching
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.observed import Observed
from paigeant_celery.testing import WorkflowHarness

SECRET = "-".join(["tiger", "42"])  # never a literal, so that no line of source holds it


class Broken(RuntimeError):
    """What a host's code raises."""


def broken(*_: Any, **__: Any) -> Any:
    """Raise, as a processor does that lost its socket."""
    raise Broken(SECRET)


def processor(**methods: Callable[..., Any]) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(type("Processor", (SpanProcessor,), methods)())
    return provider


class BrokenSampler(Sampler):
    """Decides nothing."""

    should_sample = broken

    def get_description(self) -> str:
        return ""


TRACERS: dict[str, Callable[[], TracerProvider]] = {
    "on_start": lambda: processor(on_start=broken),
    "on_end": lambda: processor(on_end=broken),
    "sampler": lambda: TracerProvider(sampler=BrokenSampler()),
}


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each test as a process of its own does."""
    monkeypatch.setattr(harmless, "_told", threading.Event())


@pytest.fixture(params=[*TRACERS, "extract", "inject", "counter", "histogram", "instrument"])
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Break one part of a host's telemetry."""
    provider = TRACERS.get(request.param, TracerProvider)()
    monkeypatch.setattr(trace, "get_tracer", lambda *names: provider.get_tracer(*names))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    if request.param in ("extract", "inject"):
        monkeypatch.setattr(propagate, request.param, broken)
    meter = api.NoOpMeter("")
    if request.param == "counter":
        monkeypatch.setattr(api.NoOpCounter, "add", broken)
    elif request.param == "histogram":
        monkeypatch.setattr(api.NoOpHistogram, "record", broken)
    monkeypatch.setattr(api, "get_meter", broken if request.param == "instrument" else lambda *_: meter)
    metrics._instrument.cache_clear()
    yield request.param
    metrics._instrument.cache_clear()


def test_a_workflow_ends_whatever_its_telemetry_raises(
    fault: str, workflow_harness: WorkflowHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """An exporter that is wrong at night parks nobody's workflow, and its log says no other owner took a hop over."""

    @activity
    def first() -> str:
        return "first"

    @activity
    def second() -> str:
        return "second"

    handle = workflow_harness.dispatch([first.activity(), second.activity()])
    asyncio.run(workflow_harness.deliver())

    assert handle.result_sync(timeout=0).output == "second"
    assert [event.type for event in handle.events_so_far()][-1] == "workflow_completed"
    actions = [getattr(record, "action", None) for record in caplog.records if record.levelno >= logging.WARNING]
    assert actions == ["telemetry_failed"]
    assert "Broken" in caplog.text
    assert "in broken" in caplog.text
    assert SECRET not in caplog.text


def test_a_delivery_is_done_whatever_its_telemetry_raises(fault: str) -> None:
    """Its message is acknowledged, and a run that failed keeps its own error."""
    seen = Observed(Arrival(hop_id="w-1.0", activity="first", envelope=""))
    ids = "1" * 32 + "-" + "2" * 16

    def deliver() -> None:
        with seen.whole():
            seen.span = begin_hop({"traceparent": f"00-{ids}-01"}, task="p.a", attributes={})
            with seen.span.current():
                seen.span.note("a", "b")
                seen.span.link([seen.span.name, f"{ids}-01"])
            seen.dropped("finished")
            seen.ended("completed")
            seen.span.fail("ValueError", "stack")
            raise KeyError

    with pytest.raises(KeyError):
        deliver()


def test_an_error_of_a_dispatch_is_its_own_whatever_its_telemetry_raises(fault: str) -> None:
    """Who dispatches hears of the store, and not of an exporter."""
    with pytest.raises(KeyError), dispatching():
        raise KeyError


def test_what_ends_a_process_is_not_swallowed() -> None:
    """A signal that arrives inside of a processor counts."""
    with pytest.raises(KeyboardInterrupt), harmless:
        raise KeyboardInterrupt
