"""A step that goes on until a file lets it end, however often it begins."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from ledger import noted_run

from paigeant_celery import activity, workflow_context

HELD_AT_MOST = 120.0  # seconds; a benchmark that ended opens no gate
LOOK_EVERY = 0.02  # seconds


@activity
async def hold(gate: str) -> str:
    """Wait for the file."""
    with noted_run(workflow_context().hop_id):
        deadline = time.monotonic() + HELD_AT_MOST
        while not Path(gate).exists():  # noqa: ASYNC240 - another process makes the file
            if time.monotonic() > deadline:
                raise TimeoutError(gate)
            await asyncio.sleep(LOOK_EVERY)
    return "held"
