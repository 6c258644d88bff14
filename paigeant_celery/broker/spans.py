"""The spans of a workflow: one of its dispatch, and one of each attempt of each hop.

They need `opentelemetry-api` alone. In a process that has not loaded it nothing is done, and without an SDK hardly
anything. Names and attributes follow OpenTelemetry's conventions for messaging; nothing in them is content.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from paigeant_celery.broker.harmless import harmless

__all__ = ["ATTRIBUTES", "LIBRARY", "NO_SPAN", "SPANS", "HopSpan", "begin_hop", "dispatching"]

LIBRARY = "paigeant_celery"  # the name of our tracer and our meter

# What a span of ours is called, and what it is about; `docs/telemetry.md` shows both tables.
SPANS: Mapping[str, str] = {
    "dispatch workflow": "a call that dispatches or forks a workflow; kind producer",
    "process {task}": "one attempt of a hop, or a delivery that had nothing to run; kind consumer",
}
ATTRIBUTES: Mapping[str, str] = {
    "error.type": "the class of the error that ended the attempt, or the code of what is wrong with a message",
    "messaging.destination.name": "the queue that the message came from",
    "messaging.message.conversation_id": "the correlation id of the workflow",
    "messaging.message.id": "the id of the hop, which is that of its Celery task",
    "messaging.operation.name": "`dispatch` or `process`",
    "messaging.operation.type": "`send` or `process`",
    "messaging.system": "`celery`",
    "paigeant.activity": "the activity",
    "paigeant.attempt": "the number of the attempt; a wait, or a worker that ends, spends none",
    "paigeant.link": "of a link: `earlier_attempt`, or `original` from the dispatch of a fork to its workflow",
    "paigeant.outcome": "how the attempt ended: one of the outcomes below",
    "paigeant.step": "the path of the step",
}

_AS_IT_IS = nullcontext()
_NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@contextmanager
def dispatching() -> Iterator[HopSpan]:
    """Make a span of a dispatch current: whatever follows of the workflow is below it."""
    own = _begin_dispatch()
    try:
        with own.current():
            yield own
    except BaseException as error:
        own.fail(type(error).__name__)
        raise
    finally:
        own.end()


def _begin_dispatch() -> HopSpan:
    if "opentelemetry" not in sys.modules:
        return NO_SPAN
    with harmless:
        from opentelemetry import trace

        attributes = {
            "messaging.system": "celery",
            "messaging.operation.name": "dispatch",
            "messaging.operation.type": "send",
        }
        span = trace.get_tracer(LIBRARY).start_span(
            "dispatch workflow", kind=trace.SpanKind.PRODUCER, attributes=attributes
        )
        is_valid = span.get_span_context().is_valid
        return HopSpan(span, trace.set_span_in_context(span) if is_valid else None, is_own=True)
    return NO_SPAN


def begin_hop(carrier: Mapping[str, str], *, task: str, attributes: Mapping[str, str]) -> HopSpan:
    """Begin the span of a delivery, below what sent its message, or below the span that is current.

    If an instrumentation of Celery has made one of this delivery, that is the span of the hop: there is no second one.
    """
    if "opentelemetry" not in sys.modules:
        return NO_SPAN
    with harmless:
        return _begun_hop(carrier, task=task, attributes=attributes)
    return NO_SPAN


def _begun_hop(carrier: Mapping[str, str], *, task: str, attributes: Mapping[str, str]) -> HopSpan:
    from opentelemetry import context, propagate, trace

    around = trace.get_current_span()
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # there is no SDK, so nobody gets any span
        if not carrier or around.get_span_context().is_valid:
            return NO_SPAN
        return HopSpan(None, propagate.extract(dict(carrier)), is_own=False)
    about = {**attributes, "messaging.system": "celery", "messaging.operation.name": "process"}
    about["messaging.operation.type"] = "process"
    if around.is_recording() and getattr(around, "kind", None) is trace.SpanKind.CONSUMER:
        around.set_attributes(about)
        return HopSpan(around, None, is_own=False)
    is_inside = around.get_span_context().is_valid
    base = context.get_current() if is_inside else propagate.extract(dict(carrier))
    tracer, kind = trace.get_tracer(LIBRARY), trace.SpanKind.CONSUMER
    span = tracer.start_span(f"process {task}", context=base, kind=kind, attributes=about)
    if not span.get_span_context().is_valid:  # of an SDK that is switched off
        return HopSpan(span, base if carrier else None, is_own=True)
    return HopSpan(span, trace.set_span_in_context(span, base), is_own=True)


class HopSpan:
    """The span of one attempt of a hop. Outside of a trace all of this does nothing."""

    __slots__ = ("_context", "_is_own", "_span")

    def __init__(self, span: Any, context: Any, *, is_own: bool) -> None:
        self._span, self._context, self._is_own = span, context, is_own

    @property
    def name(self) -> str:
        """What links of later attempts find it by; empty if nobody would see it."""
        with harmless:
            if self._span is not None and self._span.is_recording():
                of = self._span.get_span_context()
                return f"{of.trace_id:032x}-{of.span_id:016x}-{int(of.trace_flags):02x}"
        return ""

    def current(self) -> AbstractContextManager[None]:
        """Make spans that begin inside the block stand below this one."""
        return _AS_IT_IS if self._context is None else _attached(self._context)

    def note(self, name: str, value: str | int) -> None:
        """Set an attribute."""
        with harmless:
            if self._span is not None and self._span.is_recording():
                self._span.set_attribute(name, value)

    def link(self, names: Iterable[str]) -> None:
        """Link it to earlier attempts."""
        with harmless:
            if self._span is not None and self._span.is_recording():
                self._link(names)

    def link_original(self, carrier: Mapping[str, str]) -> None:
        """Link it to the trace of the workflow that is forked."""
        with harmless:
            if self._span is not None and self._span.is_recording():
                from opentelemetry import context, propagate, trace

                there = propagate.extract(dict(carrier), context=context.Context())
                found = trace.get_current_span(there).get_span_context()
                if found.is_valid:
                    self._span.add_link(found, {"paigeant.link": "original"})

    def fail(self, error_class: str, stack: str = "") -> None:
        """Say that it ended with an error of a class, and where; no text of an error is told."""
        with harmless:
            if self._span is not None and self._span.is_recording():
                self._fail(error_class, stack)

    def end(self) -> None:
        """End it, unless it is somebody else's. Ending it again changes nothing."""
        with harmless:
            if self._span is not None and self._is_own and self._span.is_recording():
                self._span.end()

    def _link(self, names: Iterable[str]) -> None:
        from opentelemetry.trace import SpanContext, TraceFlags

        for found in filter(None, map(_NAME.fullmatch, names)):
            trace_id, span_id, flags = (int(part, 16) for part in found.groups())
            earlier = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
            self._span.add_link(earlier, {"paigeant.link": "earlier_attempt"})

    def _fail(self, error_class: str, stack: str) -> None:
        self._span.set_attribute("error.type", error_class)
        if self._is_own:  # another instrumentation says what it wants to
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, error_class))
            if stack:
                about = {"exception.type": error_class, "exception.stacktrace": stack}
                self._span.add_event(name="exception", attributes=about)


NO_SPAN = HopSpan(None, None, is_own=False)


@contextmanager
def _attached(made: Any) -> Iterator[None]:
    """Make a context of OpenTelemetry current."""
    from opentelemetry import context

    token = None
    with harmless:
        token = context.attach(made)
    try:
        yield
    finally:
        if token is not None:
            with harmless:
                context.detach(token)
