"""One delivery as operators see it: its span, what is counted of it, and which lines of the log belong to it.

Everything about a hop that is told to others than the store is told here, so that nothing is counted twice. Ids stand
in spans and lines, never in metrics; no text of an error and nothing of the content stands anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from paigeant_celery.activities.log_fields import HopLine, within_line
from paigeant_celery.broker import metrics
from paigeant_celery.broker.spans import NO_SPAN, HopSpan, begin_hop
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.waits import Wait
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.store.port import Claimed

__all__ = ["ENDS_HOP", "ERRORS", "OUTCOMES", "Observed"]

# How a delivery may end, beside the words of `ClosedAs`; `docs/telemetry.md` shows them all.
OUTCOMES: Mapping[str, str] = {
    "dropped": "the delivery was a copy that had nothing to run; a span alone, and `paigeant.deliveries.dropped`",
    "given_back": "the worker ends, and the hop is begun again elsewhere",
    "lost": "the run was cancelled: its workflow was, or another owner has the hop",
    "put_back": "the message went back to its queue: the store is away, the worker ends, or a newer one has begun",
    "refused": "the message cannot be run",
}
WENT_BACK = ("given_back", "put_back")  # no attempts, if none had begun
ERRORS = ("failed", "parked", "refused", "retrying")  # outcomes that make a span an error
UNREAD = "unknown"  # stands for the activity of a message that was not read: no metric has a name that a stranger chose
ENDS_HOP = ("branch_completed", "completed", "failed", "workflow_completed")  # no later attempt counts its waits


class Observed:
    """One delivery of a hop, from its arrival until it is done with."""

    def __init__(self, arrival: Arrival, *, task: str = "") -> None:
        self._arrival, self._task = arrival, task or arrival.activity
        self._line = HopLine(hop=arrival.hop_id, activity=arrival.activity)
        self._activity = UNREAD
        self._begun_at: float | None = None
        self._claimed: Claimed | None = None
        self._told = False
        self.span: HopSpan = NO_SPAN

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Surround all that is done about the delivery: lines of the log in it belong to the hop.

        If nothing was told of how it ended, its message goes back.
        """
        try:
            with within_line(self._line):
                yield
        except BaseException:
            self.ended("put_back")
            raise
        finally:
            self.span.end()

    def read(self, message: PaigeantMessage) -> Arrival:
        """Begin the span, now that its trace is known. Return the delivery with what names the span."""
        self._activity, self._line.step = message.step.activity, message.path
        if self.span is NO_SPAN:
            about = {
                "messaging.message.id": message.message_id,
                "messaging.message.conversation_id": message.correlation_id,
                "paigeant.activity": self._activity,
                "paigeant.step": message.path,
            }
            if self._arrival.queue is not None:
                about["messaging.destination.name"] = self._arrival.queue
            self.span = begin_hop(message.trace_context, task=self._task, attributes=about)
        name = self.span.name
        return replace(self._arrival, trace=name) if name else self._arrival

    def claimed(self, message: PaigeantMessage, claimed: Claimed) -> None:
        """Tell that an attempt has begun, and what had happened to the hop before."""
        if self._claimed is not None and self._claimed.fence == claimed.fence:
            return  # the claim was repeated, because something after it failed
        self._claimed, self._begun_at = claimed, time.monotonic()
        self._line.attempt = claimed.attempt
        before = claimed.before
        self.span.note("paigeant.attempt", claimed.attempt)
        self.span.link(before.traces)
        metrics.attempt_began(self._activity, queued=_queued(message, claimed), taken_over=before.taken_over)
        if before.claimed_at is not None:
            self._waits_ended(claimed.waits, after=before.claimed_at, before=claimed.now)

    def used(self, counters: Mapping[str, int], cost: Decimal | None) -> None:
        """Count what a step used that ended well."""
        metrics.step_used(self._activity, counters, cost)

    def waited(self, waits: Sequence[Wait], *, outcome: str) -> None:
        """Count the waits that the attempt came to and, if no other attempt will, those that ended in it."""
        if self._claimed is None or self._told:
            return
        for wait in waits:
            if wait.since >= self._claimed.now:
                metrics.wait_opened(self._activity, wait.kind)
        if outcome in ENDS_HOP:
            self._waits_ended(waits, after=self._claimed.now)

    def dropped(self, reason: str) -> None:
        """Tell that there was nothing to run, or only for a newer version."""
        if reason in OUTCOMES:
            self.ended(reason)
        if self._told:
            return
        metrics.delivery_dropped(self._activity, reason)
        self._told = True
        self.span.note("paigeant.outcome", "dropped")

    def ended(self, outcome: str, error_class: str | None = None, stack: str = "") -> None:
        """Tell how it ended; only the first word counts."""
        if self._told:
            return
        self._told = True
        if self._begun_at is None and outcome in WENT_BACK:
            metrics.delivery_put_back(self._activity, outcome)
        else:
            seconds = time.monotonic() - self._begun_at if self._begun_at is not None else None
            metrics.hop_ended(self._activity, outcome, seconds=seconds, error_class=error_class)
        self.span.note("paigeant.outcome", outcome)
        if outcome in ERRORS:
            self.span.fail(error_class or outcome, stack)

    def _waits_ended(self, waits: Sequence[Wait], *, after: datetime, before: datetime | None = None) -> None:
        for wait in waits:
            ended_at = _ended_at(wait)
            if ended_at is not None and ended_at >= after and (before is None or ended_at < before):
                seconds = (ended_at - wait.since).total_seconds()
                metrics.wait_ended(self._activity, wait.kind, wait.state, seconds=seconds)


def _queued(message: PaigeantMessage, claimed: Claimed) -> float | None:
    """Return how long a hop had waited for its first claim; None for a later one, or if nothing tells when it began.

    The first hop of a branch may have been written down long before its turn came.
    """
    slip = message.slip
    if claimed.fence > 1 or claimed.attempt > 1 or (slip.branch is not None and not slip.executed):
        return None
    return max(0.0, (claimed.now - message.sent_at).total_seconds())


def _ended_at(wait: Wait) -> datetime | None:
    """Return when a wait was settled or its time was over; None if it is open."""
    if wait.state == "timed_out":
        return wait.until
    if wait.state == "open":
        return None
    return max(wait.since, *(answer.at for answer in wait.answers.values()))  # a signal may have come before the wait
