"""Jobs at providers that a run gave up: they are cancelled only when no attempt can ask for them again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from typing import Any

from paigeant_celery.activities.real_threads import real
from paigeant_celery.journal.record import CallKey

__all__ = ["Abandoned"]

LONGEST = 10.0  # seconds for a provider to answer that it has cancelled a job

logger = logging.getLogger(__name__)


class Abandoned:
    """How each given-up job is cancelled, by the key of the call that would do it. May be used from any thread.

    A job is cancelled in the context of the run that gave it up, which may have ended.
    """

    def __init__(self) -> None:
        self._lock = real().Lock()
        self._cancels: dict[CallKey, tuple[Callable[[], Coroutine[Any, Any, object]], Context]] = {}

    def __bool__(self) -> bool:
        return bool(self._cancels)

    def add(self, key: CallKey, cancel: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Note that the run that goes on here gave up a job."""
        with self._lock:
            self._cancels[key] = (cancel, copy_context())

    async def cancel(self, keys: Iterable[CallKey] | None = None) -> None:
        """Cancel the jobs with these keys, or all. A provider that refuses is only reported: nobody waits for it."""
        with self._lock:
            chosen = [self._cancels.pop(key) for key in (list(self._cancels) if keys is None else keys)
                      if key in self._cancels]  # fmt: skip
        for cancel, context in chosen:
            try:
                async with asyncio.timeout(LONGEST):
                    await asyncio.create_task(cancel(), context=context)
            except Exception as error:  # noqa: BLE001 - of a provider, after the run
                text = "a job that a run gave up could not be cancelled at its provider: %s"
                logger.warning(text, type(error).__name__, extra={"action": "job_left"})
