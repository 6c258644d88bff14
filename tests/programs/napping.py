"""Steps that keep a worker from going on: one blocks the event loop, one its process."""

from __future__ import annotations

import os
import time
from pathlib import Path

from paigeant_celery import StepPolicy, activity


@activity
def quick() -> int:
    """Say which process runs it."""
    return os.getpid()


@activity(policy=StepPolicy(timeout=60))
async def blocking(path: str) -> str:
    """Block the event loop until a file is there."""
    return wait_for(path)


@activity(policy=StepPolicy(timeout=60))
def busy(path: str) -> str:
    """Be busy in a thread until a file is there."""
    return wait_for(path)


def wait_for(path: str) -> str:
    Path(path + ".begun").touch()
    while not Path(path).exists():
        time.sleep(0.05)
    return "done"
