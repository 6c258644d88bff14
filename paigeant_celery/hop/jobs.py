"""Jobs at providers that runs gave up: which of them are cancelled when an attempt ends.

A job (a batch, a response in the background) outlives an attempt. One that fails and is tried again, waits, runs out of
time, is given back by a worker that ends or is lost to another owner leaves its jobs alone: the next attempt goes on
with them. They are cancelled if the workflow was, or if its step has ended for good.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from paigeant_celery.core.errors import PaigeantError, TransientError
from paigeant_celery.core.flow import Decision, Park, Retry, Suspend
from paigeant_celery.core.patience import patience
from paigeant_celery.hop.run import Opened, Outcome

__all__ = ["ProviderJobs"]

PATIENCE = 30.0  # seconds to wait for a store that cannot say whether the workflow was cancelled

logger = logging.getLogger(__name__)


class ProviderJobs:
    """Cancels what nobody will ask for again. `is_called_off` asks the store whether a hop's workflow was cancelled."""

    def __init__(self, is_called_off: Callable[[Opened], bool]) -> None:
        self._is_called_off = is_called_off
        self._asking: set[asyncio.Task[None]] = set()

    async def after(self, hop: Opened, outcome: Outcome, decide: Callable[[Outcome], Decision]) -> None:
        """Cancel the jobs that an attempt gave up, unless its hop is tried again or may be redriven."""
        if hop.journal is None or not hop.journal.abandoned:
            return
        with suppress(Exception):  # whoever closes the hop says what is wrong
            if not isinstance(decide(outcome), Retry | Suspend | Park):
                await hop.journal.abandoned.cancel()

    def after_cancelled(self, hop: Opened) -> None:
        """Cancel the jobs of a run that was cut off if its workflow was cancelled; nobody waits for that."""
        if hop.journal is None or not hop.journal.abandoned:
            return
        asking = asyncio.create_task(self._ask(hop))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def _ask(self, hop: Opened) -> None:
        assert hop.journal is not None
        waits = patience()
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    with suppress(TransientError):
                        if await asyncio.to_thread(self._is_called_off, hop):
                            await hop.journal.abandoned.cancel()
                        return
                    await asyncio.sleep(next(waits))
        except (PaigeantError, TimeoutError) as error:
            text = "whether its workflow was cancelled is not known, so a job of the run is left alone: %s"
            logger.warning(text, type(error).__name__, extra={"action": "job_left", "hop": hop.closing.hop_id})
