"""OpenTelemetry context across hops, if the process uses OpenTelemetry; otherwise nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["attached_trace", "current_trace"]


def current_trace() -> dict[str, str]:
    """Return the trace context to send along, or nothing if OpenTelemetry is not in use."""
    if "opentelemetry" not in sys.modules:
        return {}
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


@contextmanager
def attached_trace(carrier: Mapping[str, str]) -> Iterator[None]:
    """Make a received trace context the parent of spans that are made inside the block."""
    if not carrier or "opentelemetry" not in sys.modules:
        yield
        return
    from opentelemetry import context, propagate

    token = context.attach(propagate.extract(dict(carrier)))
    try:
        yield
    finally:
        context.detach(token)
