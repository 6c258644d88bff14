"""The spans of a workflow, as an SDK gets them and where there is none."""

from __future__ import annotations

import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from paigeant_celery.broker.spans import NO_SPAN, begin_hop, dispatching
from paigeant_celery.broker.tracing import current_trace
from tests.support.ended_spans import ended

__all__ = ["ended"]

OURS, OTHER = 0xA1, 0xB2


def span(trace_id: int) -> NonRecordingSpan:
    return NonRecordingSpan(
        SpanContext(trace_id=trace_id, span_id=1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    )


def carrier(trace_id: int) -> dict[str, str]:
    with trace.use_span(span(trace_id)):
        return current_trace()


def current() -> int:
    return trace.get_current_span().get_span_context().trace_id


def only(ended: InMemorySpanExporter) -> ReadableSpan:
    (found,) = ended.get_finished_spans()
    return found


@pytest.mark.parametrize("trace_id", [0, OURS])
def test_without_an_sdk_a_step_joins_the_trace_of_its_message(trace_id: int) -> None:
    """What the host's own code sends on belongs to the request that began it."""
    own = begin_hop(carrier(trace_id) if trace_id else {}, task="p.a", attributes={})

    with own.current():
        assert current() == trace_id
    own.link(["nonsense"])
    own.fail("ValueError")
    own.end()
    assert own.name == ""


def test_without_an_sdk_a_step_stays_below_the_span_that_is_current() -> None:
    """A task may have begun a trace of its own."""
    with trace.use_span(span(OTHER)), begin_hop(carrier(OURS), task="p.a", attributes={}).current():
        assert current() == OTHER


def test_a_process_that_has_not_loaded_the_api_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that dispatches functions alone loads no more for this."""
    monkeypatch.delitem(sys.modules, "opentelemetry")

    assert begin_hop({}, task="p.a", attributes={}) is NO_SPAN
    with dispatching() as own:
        assert own is NO_SPAN
    assert "opentelemetry" not in sys.modules


def test_a_dispatch_is_a_span_that_hops_are_below(ended: InMemorySpanExporter) -> None:
    """A script has no request: without this, each hop would be a trace of its own."""
    with dispatching() as own:
        own.note("messaging.message.conversation_id", "w")
        sent = current_trace()
    hop = begin_hop(sent, task="p.a", attributes={"messaging.message.id": "w.0"})
    hop.end()

    above, below = ended.get_finished_spans()
    assert (above.name, above.kind, below.name, below.kind) == (
        "dispatch workflow", SpanKind.PRODUCER, "process p.a", SpanKind.CONSUMER,
    )  # fmt: skip
    assert below.parent is not None
    assert below.parent.span_id == above.context.span_id
    assert dict(below.attributes or {}) == {
        "messaging.message.id": "w.0",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.system": "celery",
    }


def test_a_failed_dispatch_says_the_class_of_its_error_alone(ended: InMemorySpanExporter) -> None:
    """Its text may quote a prompt."""
    with pytest.raises(ValueError, match="tiger"), dispatching():
        raise ValueError("tiger 42")

    found = only(ended)
    assert (found.status.status_code, found.status.description) == (StatusCode.ERROR, "ValueError")
    assert "tiger" not in found.to_json()


def test_attempts_are_beside_each_other_and_linked(ended: InMemorySpanExporter) -> None:
    """From the attempt that failed for good one finds the first one, and the other way round in the trace."""
    first, sent = begin_hop(carrier(OURS), task="p.a", attributes={}), carrier(OURS)
    first.fail("KeyError", "in step")
    first.end()
    first.end()
    again = begin_hop(sent, task="p.a", attributes={})
    again.link(["", "nonsense", first.name or "gone"])
    assert first.name == ""  # it has ended
    again.end()

    early, late = ended.get_finished_spans()
    assert early.parent == late.parent
    assert early.status.description == "KeyError"
    assert [(event.name, dict(event.attributes or {})) for event in early.events] == [
        ("exception", {"exception.type": "KeyError", "exception.stacktrace": "in step"})
    ]
    assert late.links == ()


def test_a_link_leads_to_the_span_that_its_name_says(ended: InMemorySpanExporter) -> None:
    """The name travels through the store."""
    first = begin_hop({}, task="p.a", attributes={})
    name = first.name
    first.end()
    again = begin_hop({}, task="p.a", attributes={})
    again.link([name])
    again.end()

    early, late = ended.get_finished_spans()
    (link,) = late.links
    assert (link.context.trace_id, link.context.span_id) == (early.context.trace_id, early.context.span_id)
    assert dict(link.attributes or {}) == {"paigeant.link": "earlier_attempt"}


def test_the_span_of_another_instrumentation_is_that_of_the_hop(ended: InMemorySpanExporter) -> None:
    """Nobody wants each hop twice."""
    tracer = trace.get_tracer("celery")
    with tracer.start_as_current_span("run/p.a", kind=SpanKind.CONSUMER) as around:
        own = begin_hop(carrier(OURS), task="p.a", attributes={"paigeant.activity": "a"})
        with own.current():
            assert trace.get_current_span() is around
        own.note("paigeant.outcome", "completed")
        own.end()
        assert around.is_recording()

    found = only(ended)
    assert found.name == "run/p.a"
    assert {"paigeant.activity", "paigeant.outcome"} <= set(found.attributes or {})
