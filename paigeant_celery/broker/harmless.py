"""What the host has set up to watch workflows may fail; no workflow stops for that."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from paigeant_celery.core.causes import cause_of, name_of

__all__ = ["Harmless", "harmless"]

logger = logging.getLogger(__name__)


class Harmless:
    """Surrounds calls of OpenTelemetry and Sentry: processors, samplers, exporters and views are the host's code.

    The block ends where an error is raised, and what follows it goes on. The first error of a process is logged.
    """

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told = threading.Event()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        if not self._told.is_set():
            self._told.set()
            logger.warning(
                "spans and metrics are incomplete, because the telemetry of this process raised %s; "
                "this is logged once\n%s", name_of(error), cause_of(error).without_texts,
                extra={"action": "telemetry_failed", "error": name_of(error)},
            )  # fmt: skip
        return True


harmless = Harmless()  # of this process
