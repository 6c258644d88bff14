"""The trace of a message: what is sent along, and which trace is current when a step runs or a message is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from celery import Celery
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from sentry_sdk.transport import Transport

from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.publisher import CeleryPublisher
from paigeant_celery.broker.threads import MOST_IN_LANE, BrokerThreads
from paigeant_celery.broker.tracing import current_trace, workflow_trace
from paigeant_celery.core.names import Names

OURS, OTHER = 0xA1, 0xB2


class Nowhere(Transport):
    def capture_envelope(self, envelope: object) -> None:
        """Send nothing."""


@pytest.fixture
def sentry() -> Iterator[None]:
    """Make Sentry's package active for this test alone."""
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(
            sentry_sdk.Client(dsn="https://k@sentry.invalid/1", transport=Nowhere, default_integrations=False)
        )
        yield


def span(trace_id: int) -> NonRecordingSpan:
    return NonRecordingSpan(
        SpanContext(trace_id=trace_id, span_id=1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    )


def carrier(trace_id: int) -> dict[str, str]:
    with trace.use_span(span(trace_id)):
        return current_trace()


def current() -> int:
    return trace.get_current_span().get_span_context().trace_id


def test_nothing_is_sent_along_if_nothing_is_traced() -> None:
    """The envelope stays as small as it was."""
    assert current_trace() == {}


def test_what_is_sent_again_stays_in_the_trace_of_its_workflow() -> None:
    """A sweep has no trace, and a repeated request has another one."""
    for around in (0, OTHER):
        with trace.use_span(span(around)), workflow_trace(carrier(OURS)):
            assert current() == OURS
    with trace.use_span(span(OTHER)), workflow_trace({}):
        assert current() == OTHER


@pytest.mark.usefixtures("sentry")
def test_the_trace_of_sentry_goes_along_and_is_continued() -> None:
    """Its integration of Celery sends the trace that is current."""
    with sentry_sdk.isolation_scope() as request:
        request.set_new_propagation_context()
        sent = carrier(OURS)
        with workflow_trace(sent):
            assert sentry_sdk.get_traceparent() == sent["sentry-trace"]
    with sentry_sdk.isolation_scope() as later:
        later.set_new_propagation_context()
        before = sentry_sdk.get_traceparent()
        with workflow_trace(sent):
            assert str(sentry_sdk.get_traceparent())[:32] == sent["sentry-trace"][:32] != str(before)[:32]
        assert sentry_sdk.get_traceparent() == before
    assert "sentry-trace_id=" in sent["baggage"]


@pytest.mark.usefixtures("sentry")
def test_the_thread_that_sends_is_in_the_trace_of_the_workflow() -> None:
    """Sentry sends headers along only inside of a transaction, which ends with the block that begins it."""
    with sentry_sdk.isolation_scope() as request:
        request.set_new_propagation_context()
        sent = carrier(OURS)
    app, held, seen = Celery("tracing", broker="memory://localhost//", set_as_current=False), threading.Event(), []
    app.send_task = lambda *_, **__: seen.append((current_trace()["sentry-trace"], sentry_sdk.get_current_span()))
    crew = BrokerThreads(app, timeout=10)
    publisher = CeleryPublisher(app, Names("paigeant"), crew)
    blocking = [crew.begin(lambda _: held.wait(10), lane="q") for _ in range(MOST_IN_LANE)]

    sending = publisher.begin(delivery(trace_context=sent))
    held.set()
    sending.wait()

    assert all(each.wait() for each in blocking)
    ((sentry_trace, span_at_sending),) = seen
    assert sentry_trace[:32] == sent["sentry-trace"][:32]
    assert span_at_sending is not None


def delivery(**more: Any) -> Delivery:
    return Delivery(
        activity="a",
        hop_id="w.0",
        root_id="w.0",
        parent_id=None,
        queue="q",
        envelope="{}",
        summary="",
        timeout=1,
        **more,
    )
