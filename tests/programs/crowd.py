"""A step that many workers can run at once, for as long as a test wants."""

from __future__ import annotations

import asyncio
from pathlib import Path

from stage import note_run

from paigeant_celery import activity


@activity
async def attend(gate: str) -> str:
    """Wait for a file."""
    note_run()
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 - another process makes it, on this disk
        await asyncio.sleep(0.1)
    return "went home"
