"""Steps that keep the interpreter lock, as a call in C does that does not release it: nothing else of Python runs."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

from stage import note_run

from paigeant_celery import activity, workflow_context

usleep = ctypes.PyDLL(None).usleep


@activity
def clench(seconds: float) -> str:
    """Keep the lock, from a thread or wherever functions run."""
    note_run()
    usleep(round(seconds * 1e6))
    return "unclenched"


@activity
async def clench_the_loop(seconds: float) -> str:
    """Keep the lock on the event loop."""
    note_run()
    usleep(round(seconds * 1e6))
    return "unclenched"


@activity
async def linger(seconds: float) -> str:
    """Go on for a while beside others."""
    note_run()
    await asyncio.sleep(seconds)
    return "lingered"


@activity
def clench_at_first(seconds: float, told: str) -> str:
    """Keep the lock in the first attempt, but not later."""
    return at_first(told, lambda: usleep(round(seconds * 1e6)))


@activity
def pause_at_first(seconds: float, told: str) -> str:
    """Wait in the first attempt, but not later."""
    return at_first(told, lambda: time.sleep(seconds))


def at_first(told: str, wait: Callable[[], object]) -> str:
    note_run()
    if workflow_context().attempt > 1:
        return "begun again"
    Path(told).write_text(str(os.getpid()))
    wait()
    return "waited"
