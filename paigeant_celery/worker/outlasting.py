"""What a broker on Redis refuses with for a while, which Celery takes for an error of the worker and ends the worker.

Nothing used here is part of Celery's public interface; a contract test pins it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery.worker.state import maybe_shutdown

from paigeant_celery.broker.reach import ALL_OF_A_BROKER, broker_address
from paigeant_celery.core.refusals import Refusal, refusal_of

__all__ = ["outlast_refusals"]

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 8.0  # seconds before the worker connects again, doubled each time
A_WHILE = 30.0  # seconds without a refusal after which the next one is told and paused for as if it were the first
GLANCE = 0.1  # seconds within which a worker that waits sees that it is to end

logger = logging.getLogger(__name__)


def outlast_refusals(consumer: Any, *, reads_ours: Callable[[], bool]) -> None:
    """Have a consumer of ours connect again when the broker refuses, as if the connection had been lost.

    A mistake, such as a missing permission, still ends a start; it is waited out by a worker that has run.
    """
    start, outage, has_run = consumer.blueprint.start, _Outage(), False

    def outlast(parent: Any) -> Any:
        nonlocal has_run
        began = time.monotonic()
        try:
            return start(parent)
        except consumer.channel_errors as error:
            refusal = refusal_of(error, rule=ALL_OF_A_BROKER)
            has_run = has_run or consumer.task_consumer is not None
            if refusal is None or (refusal.mistake and not has_run) or not reads_ours():
                raise
            outage.wait(refusal, broker_address(consumer.app), lived=time.monotonic() - began)
        raise ConnectionResetError(refusal.cause)  # without the error, which Celery would log with each attempt

    consumer.blueprint.start = outlast


class _Outage:
    """A time in which the broker refuses: each cause is told once, and the pauses grow."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._pause = FIRST_PAUSE

    def wait(self, refusal: Refusal, address: str, *, lived: float) -> None:
        """Tell a refusal that came after the worker had `lived` for some seconds, and wait."""
        if lived > A_WHILE:
            self._told, self._pause = set(), FIRST_PAUSE
        if refusal.cause not in self._told:
            self._told.add(refusal.cause)
            logger.error(
                "the broker %s refuses (%s); %s. The worker waits, and connects again", address, refusal.cause,
                refusal.remedy, extra={"action": "broker_refuses"},
            )  # fmt: skip
        until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        while time.monotonic() < until:
            maybe_shutdown()
            time.sleep(GLANCE)
