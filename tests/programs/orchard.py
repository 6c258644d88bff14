"""Steps of branches: they do with their item what it says, and note what becomes of them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from stage import note_run

from paigeant_celery import StepPolicy, WorkflowContext, activity

FOLDER = Path(os.environ.get("ORCHARD", "."))


@activity(policy=StepPolicy(max_attempts=5, backoff=0, final_on=[LookupError]))
async def pick(context: WorkflowContext) -> Any:
    """Pick an item; those of some names are hard to pick."""
    note_run()
    item = context.previous_output.output if context.previous_output is not None else None
    match item:
        case "rotten":
            raise LookupError("it is rotten")
        case "high" if not (FOLDER / "ladder").exists():
            raise ValueError("out of reach")
        case "sold":
            return await context.wait_for("paid")
        case "held":
            return await _hold(context)
    return f"picked {item}"


async def _hold(context: WorkflowContext) -> str:
    """Hold on until the gate opens; note that it was begun, and if it was cut off."""
    (FOLDER / f"begun {context.hop_id}").touch()
    try:
        while not (FOLDER / "gate").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        (FOLDER / f"cut off {context.hop_id}").touch()
        raise
    return "held"


@activity
async def basket(context: WorkflowContext) -> Any:
    """Return what was picked."""
    note_run()
    return context.previous_output.output if context.previous_output is not None else None
