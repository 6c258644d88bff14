"""A step and a host's own task that go on until a file lets them end; each notes when it begins."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from celery import shared_task
from stage import note_run

from paigeant_celery import activity

LOOK_EVERY = 0.02  # seconds
MOST_LOOKS = 6000


@activity
async def hold_on(gate: str) -> str:
    """Wait for the file."""
    note_run()
    for _ in range(MOST_LOOKS):
        if Path(gate).exists():  # noqa: ASYNC240 - another process makes the file
            break
        await asyncio.sleep(LOOK_EVERY)
    return "held"


@shared_task(name="shop.hold_on", acks_late=True, ignore_result=True)
def hold_on_as_task(gate: str) -> None:
    """Wait for the same file."""
    with open(os.environ["RUNS_FILE"], "a", encoding="utf-8") as runs:
        runs.write("shop.hold_on\n")
    for _ in range(MOST_LOOKS):
        if Path(gate).exists():
            break
        time.sleep(LOOK_EVERY)
