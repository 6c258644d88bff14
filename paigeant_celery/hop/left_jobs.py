"""Jobs at providers that nobody can cancel but whoever drops a copy: the workflow was cancelled while its hop slept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from paigeant_celery.activities.port import CancelsJobs
from paigeant_celery.journal.waits import has_waits

__all__ = ["LONGEST", "LeftJobs", "left_jobs"]

LONGEST = 20.0  # seconds for all jobs of a hop; each has less

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeftJobs:
    """What a cancelled hop may have left at a provider: the activity that knows how to ask, and the hop's journal."""

    hop_id: str
    activity: CancelsJobs
    records: Mapping[str, str]

    async def cancel(self) -> None:
        """Cancel what is there. It may be asked for twice. What goes wrong is only logged: nobody waits for it."""
        try:
            async with asyncio.timeout(LONGEST):
                await self.activity.cancel_jobs(self.records)
        except Exception as error:  # noqa: BLE001 - of a provider or its client, after the workflow
            text = "what hop %s slept for may go on at its provider: %s"
            fields = {"action": "job_left", "hop": self.hop_id}
            logger.warning(text, self.hop_id, type(error).__name__, extra=fields)


def left_jobs(hop_id: str, activity: CancelsJobs, records: Mapping[str, str]) -> LeftJobs | None:
    """Return what is to be cancelled; None if no run of the hop has slept."""
    return LeftJobs(hop_id=hop_id, activity=activity, records=records) if has_waits(records) else None
