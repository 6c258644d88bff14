"""Traces of OpenTelemetry and Sentry across hops, if the process uses them; otherwise nothing.

`broker/spans.py` makes the spans of a workflow. Here they are carried from process to process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from paigeant_celery.broker.harmless import harmless

__all__ = ["current_trace", "workflow_trace"]

SENTRY, BAGGAGE = "sentry-trace", "baggage"  # headers; OpenTelemetry uses the second one, too


def current_trace() -> dict[str, str]:
    """Return the trace context to send along, or nothing if there is none."""
    carrier: dict[str, str] = {}
    if "opentelemetry" in sys.modules:
        with harmless:
            from opentelemetry import propagate

            propagate.inject(carrier)
    with harmless:
        if (sentry := _sentry()) is not None and (sentry_trace := sentry.get_traceparent()) is not None:
            carrier[SENTRY] = sentry_trace
            entries = (carrier.get(BAGGAGE), sentry.get_baggage())
            carrier[BAGGAGE] = ",".join(entry for entry in entries if entry)
    return carrier


@contextmanager
def workflow_trace(carrier: Mapping[str, str]) -> Iterator[None]:
    """Make the trace of a workflow current, unless what is current belongs to it.

    So a message that is sent again, by a sweep or by another request, stays in the trace of its workflow.
    """
    with ExitStack() as stack:
        with harmless:
            if carrier and _trace_id(carrier) not in (0, _trace_id(None)):
                stack.enter_context(_attached(carrier))
        with harmless:
            if SENTRY in carrier and (sentry := _sentry()) is not None:
                _continue_in_sentry(sentry, carrier, stack)
        yield


def _continue_in_sentry(sentry: Any, carrier: Mapping[str, str], stack: ExitStack) -> None:
    current = sentry.get_traceparent() or ""
    if current.partition("-")[0] != carrier[SENTRY].partition("-")[0]:
        stack.enter_context(sentry.isolation_scope())
        continued = sentry.continue_trace(dict(carrier), op="queue.submit.celery", name="send a hop again")
        stack.enter_context(sentry.start_transaction(continued))  # outside of one, it sends no headers along


@contextmanager
def _attached(carrier: Mapping[str, str]) -> Iterator[None]:
    """Make a trace context of OpenTelemetry current."""
    from opentelemetry import context, propagate

    token = context.attach(propagate.extract(dict(carrier)))
    try:
        yield
    finally:
        context.detach(token)


def _trace_id(carrier: Mapping[str, str] | None) -> int:
    """Return the trace of a context of OpenTelemetry, or that of the current one; 0 if there is none."""
    if "opentelemetry" not in sys.modules:
        return 0
    from opentelemetry import propagate, trace

    of = propagate.extract(dict(carrier)) if carrier is not None else None
    return trace.get_current_span(of).get_span_context().trace_id


def _sentry() -> Any:
    """Return Sentry's package if the process has initialized it (2.0 or later), otherwise None."""
    sentry = sys.modules.get("sentry_sdk")
    if sentry is None or not hasattr(sentry, "isolation_scope") or not sentry.get_client().is_active():
        return None
    return sentry
