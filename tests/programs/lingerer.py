"""An agent whose step goes on after its last answer until a file lets it end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from stage import echo, note_run

from paigeant_celery import PaigeantAgent

LOOK_EVERY = 0.02  # seconds

lingerer = PaigeantAgent(echo("lingerer"))


@lingerer.tool_plain
def unused() -> str:
    """Be there, so that the model has a function tool that it does not call."""
    note_run()
    return ""


@lingerer.output_validator
async def linger(output: str) -> str:
    """Wait for the file, and say before that the answer is there."""
    gate = Path(os.environ["GATE"])
    gate.with_suffix(".reached").touch()
    while not gate.exists():  # noqa: ASYNC110, ASYNC240 - the test makes the file
        await asyncio.sleep(LOOK_EVERY)
    return output
