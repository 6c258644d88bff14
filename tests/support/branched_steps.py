"""Steps that do with their item what it says, for workflows with branches in every state."""

from __future__ import annotations

import asyncio
from typing import Any

from paigeant_celery import StepPolicy, WorkflowContext, WorkflowHandle, activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.testing import WorkflowHarness

__all__ = ["dispatched", "gather", "load", "read", "repair", "stumble"]

_broken: list[str] = []


def load() -> None:
    """Let a test find these steps; `read` parks on the item `park`."""
    _broken[:] = ["park"]
    for each in (read, stumble, gather):
        registry.add(each, holder=each)


def repair() -> None:
    """Let `read` park no more."""
    _broken.clear()


@activity(policy=StepPolicy(max_attempts=1, final_on=[LookupError]))
async def read(context: WorkflowContext) -> Any:
    """Do with its item what the item says."""
    item = context.previous_output.output if context.previous_output is not None else None
    match item:
        case "fail":
            raise LookupError("no such source")
        case "park":
            if _broken:
                raise ValueError("unreadable")
            return "readable"
        case "wait":
            return await context.wait_for("size", ask=lambda token: None, question="Which size?")
        case "signal":
            return await context.wait_for("paid")
        case "sleep":
            await context.sleep_for(3600)
    return f"read {item}"


@activity(policy=StepPolicy(max_attempts=2, backoff=60))
async def stumble(context: WorkflowContext) -> str:
    raise ValueError("stumbles")


@activity
async def gather(context: WorkflowContext) -> Any:
    return context.previous_output.output if context.previous_output is not None else None


def dispatched(harness: WorkflowHarness, *itinerary: Any, hops: int | None = None) -> WorkflowHandle:
    """Dispatch the workflow `w`, and deliver so many of its hops, or all."""
    handle = harness.dispatch(itinerary, correlation_id="w")
    asyncio.run(harness.deliver(hops))
    return handle
