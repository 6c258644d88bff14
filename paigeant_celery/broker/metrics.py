"""What is counted and measured of hops, as metrics of OpenTelemetry.

They need `opentelemetry-api` alone. In a process that has not loaded it nothing is done, and without an SDK hardly
anything. No attribute is an id, so there are as many series as activities, outcomes and classes of errors.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from typing import Any, Literal

from paigeant_celery.broker.harmless import harmless
from paigeant_celery.broker.spans import LIBRARY

__all__ = [
    "METRICS",
    "Metric",
    "attempt_began",
    "delivery_dropped",
    "delivery_put_back",
    "hop_ended",
    "letter_kept",
    "step_used",
    "wait_ended",
    "wait_opened",
]

SHORT = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)  # seconds, to an hour
LONG = (1, 10, 60, 300, 900, 3600, 4 * 3600, 86400, 3 * 86400, 7 * 86400, 30 * 86400)  # seconds, to a month

Kind = Literal["counter", "histogram"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One instrument; `attributes` are the names of all that it may have."""

    kind: Kind
    unit: str
    about: str
    attributes: tuple[str, ...]
    bounds: tuple[float, ...] = ()


# `docs/telemetry.md` shows this table.
METRICS: Mapping[str, Metric] = {
    "messaging.process.duration": Metric(
        kind="histogram",
        unit="s",
        about="how long an attempt took, from its claim until it was closed",
        attributes=(
            "error.type",
            "messaging.operation.name",
            "messaging.system",
            "paigeant.activity",
            "paigeant.outcome",
        ),
        bounds=SHORT,
    ),
    "paigeant.attempts": Metric(
        kind="counter", unit="{attempt}", about="attempts that began", attributes=("paigeant.activity",)
    ),
    "paigeant.cost": Metric(
        kind="counter",
        unit="{USD}",
        about="what steps that ended well have cost, as far as pydantic-ai knows prices",
        attributes=("paigeant.activity",),
    ),
    "paigeant.deliveries.dropped": Metric(
        kind="counter",
        unit="{delivery}",
        about="copies of messages that had nothing to run",
        attributes=("paigeant.activity", "paigeant.reason"),
    ),
    "paigeant.deliveries.put_back": Metric(
        kind="counter",
        unit="{delivery}",
        about="messages that went back before an attempt began; during an outage each does so again and again",
        attributes=("paigeant.activity", "paigeant.outcome"),
    ),
    "paigeant.hops": Metric(
        kind="counter",
        unit="{attempt}",
        about="attempts that ended, by how, and messages that were refused",
        attributes=("paigeant.activity", "paigeant.outcome"),
    ),
    "paigeant.letters": Metric(
        kind="counter",
        unit="{letter}",
        about="dead letters: messages that were refused, and hops that were parked",
        attributes=("error.type",),
    ),
    "paigeant.queue.duration": Metric(
        kind="histogram",
        unit="s",
        about="how long a hop waited for a worker: from the end of the step before it to its first claim",
        attributes=("paigeant.activity",),
        bounds=SHORT,
    ),
    "paigeant.takeovers": Metric(
        kind="counter",
        unit="{attempt}",
        about="attempts that began because the owner of the one before them was lost",
        attributes=("paigeant.activity",),
    ),
    "paigeant.tokens": Metric(
        kind="counter",
        unit="{token}",
        about="tokens that steps which ended well have used",
        attributes=("gen_ai.token.type", "paigeant.activity"),
    ),
    "paigeant.wait.duration": Metric(
        kind="histogram",
        unit="s",
        about="how long a wait stood open, until it was answered or its time was over",
        attributes=("paigeant.activity", "paigeant.wait.kind", "paigeant.wait.state"),
        bounds=LONG,
    ),
    "paigeant.waits.ended": Metric(
        kind="counter",
        unit="{wait}",
        about="waits that were settled or timed out, when their hop went on",
        attributes=("paigeant.activity", "paigeant.wait.kind", "paigeant.wait.state"),
    ),
    "paigeant.waits.opened": Metric(
        kind="counter",
        unit="{wait}",
        about="waits that steps came to",
        attributes=("paigeant.activity", "paigeant.wait.kind"),
    ),
}


def attempt_began(activity: str, *, queued: float | None, taken_over: bool) -> None:
    """Count an attempt; `queued` is how long its hop had waited for a worker, None for a later attempt."""
    about = {"paigeant.activity": activity}
    _record("paigeant.attempts", 1, about)
    if queued is not None:
        _record("paigeant.queue.duration", queued, about)
    if taken_over:
        _record("paigeant.takeovers", 1, about)


def hop_ended(activity: str, outcome: str, *, seconds: float | None, error_class: str | None) -> None:
    """Count how an attempt ended, and how long it took if it had begun."""
    about = {"paigeant.activity": activity, "paigeant.outcome": outcome}
    _record("paigeant.hops", 1, about)
    if seconds is not None:
        conventional = {"messaging.system": "celery", "messaging.operation.name": "process"}
        error = {"error.type": error_class} if error_class else {}
        _record("messaging.process.duration", seconds, {**about, **conventional, **error})


def delivery_dropped(activity: str, reason: str) -> None:
    """Count a delivery that had nothing to run."""
    _record("paigeant.deliveries.dropped", 1, {"paigeant.activity": activity, "paigeant.reason": reason})


def delivery_put_back(activity: str, outcome: str) -> None:
    """Count a message that went back before an attempt began."""
    _record("paigeant.deliveries.put_back", 1, {"paigeant.activity": activity, "paigeant.outcome": outcome})


def letter_kept(reason: str) -> None:
    """Count a dead letter, by the code of what is wrong or the class of an error."""
    _record("paigeant.letters", 1, {"error.type": reason})


def wait_opened(activity: str, kind: str) -> None:
    """Count a wait that a step came to."""
    _record("paigeant.waits.opened", 1, {"paigeant.activity": activity, "paigeant.wait.kind": kind})


def wait_ended(activity: str, kind: str, state: str, *, seconds: float) -> None:
    """Count a wait that was settled or timed out."""
    about = {"paigeant.activity": activity, "paigeant.wait.kind": kind, "paigeant.wait.state": state}
    _record("paigeant.waits.ended", 1, about)
    _record("paigeant.wait.duration", seconds, about)


def step_used(activity: str, counters: Mapping[str, int], cost: Decimal | None) -> None:
    """Count what a step has used."""
    for kind in ("input", "output"):
        if tokens := counters.get(f"{kind}_tokens"):
            _record("paigeant.tokens", tokens, {"gen_ai.token.type": kind, "paigeant.activity": activity})
    if cost:
        _record("paigeant.cost", float(cost), {"paigeant.activity": activity})


def _record(name: str, amount: float, attributes: Mapping[str, str]) -> None:
    if "opentelemetry" in sys.modules:
        with harmless:
            _instrument(name)(amount, attributes)


@cache
def _instrument(name: str) -> Any:
    """Return what takes the amounts of a metric. It may be made before the host sets up its SDK."""
    from opentelemetry import metrics

    meter, metric = metrics.get_meter(LIBRARY), METRICS[name]
    if metric.kind == "counter":
        return meter.create_counter(name, unit=metric.unit, description=metric.about).add
    make = partial(meter.create_histogram, name, unit=metric.unit, description=metric.about)
    try:
        return make(explicit_bucket_boundaries_advisory=metric.bounds).record
    except TypeError:  # before 1.30 an API takes none; the host's views may set them
        return make().record
