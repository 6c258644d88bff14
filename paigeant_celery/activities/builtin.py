"""The activity of the package's own steps: waits, sleeps and blocks. Every worker that serves steps runs it."""

from __future__ import annotations

import sys
from typing import Any, Literal

from pydantic import JsonValue

from paigeant_celery.activities.context import WorkflowContext
from paigeant_celery.activities.making import Making
from paigeant_celery.activities.pauses import NO_STORE
from paigeant_celery.activities.port import ActivityResult, StepLimits
from paigeant_celery.core.errors import MessageError, Paused
from paigeant_celery.core.flow_steps import FlowStep, SleepSpec, WaitSpec
from paigeant_celery.core.names import FLOW
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import Step
from paigeant_celery.core.steps import BlockSpec

__all__ = ["FlowActivity"]


class FlowActivity:
    """Runs the steps that need no code of the user."""

    kind: Literal["flow"] = "flow"
    name = FLOW
    queue: str | None = None
    policy: StepPolicy | None = None
    description = "Waits for a signal, a time or branches."

    def __init__(self) -> None:
        self.making = Making.at(sys._getframe(), self)
        self.origin = self.making.calls[0]

    def check(self, step: Step) -> FlowStep:
        """Return the step; raises `MessageError` if it is that of an agent or a function."""
        if not isinstance(step, FlowStep):
            text = f"{FLOW!r} is the activity of waits, sleeps and blocks; agents and functions have other names"
            raise MessageError("invalid_envelope", "kind", text)
        return step

    async def run(self, step: Step, given: Any, context: WorkflowContext, *, limits: StepLimits) -> ActivityResult:
        """Wait for what the step says, in this attempt or, without a worker, in a later one."""
        if isinstance(given, BlockSpec):
            return await _joined(given, context)
        if isinstance(given, WaitSpec):
            return ActivityResult(output=await context.wait_for(given.name, timeout=given.timeout))
        assert isinstance(given, SleepSpec)
        if given.until is not None:
            await context.sleep_until(given.until)
        else:
            await context.sleep_for(given.seconds or 0.0)
        return ActivityResult(output=None)


async def _joined(block: BlockSpec, context: WorkflowContext) -> ActivityResult:
    async def read_output(step_id: str) -> JsonValue:
        return (await context.output(step_id)).output

    if context.blocks is None:
        raise Paused("store_required", NO_STORE)
    result: ActivityResult = await context.blocks.joined(block, read_output=read_output)
    return result
