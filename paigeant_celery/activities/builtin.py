"""The activity of the steps that are the package's own: waits and sleeps. Every worker that serves steps runs it."""

from __future__ import annotations

import sys
from typing import Any, Literal

from paigeant_celery.activities.context import WorkflowContext
from paigeant_celery.activities.making import Making
from paigeant_celery.activities.port import ActivityResult, StepLimits
from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.flow_steps import FlowStep, SleepSpec, WaitSpec
from paigeant_celery.core.names import FLOW
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import Step

__all__ = ["FlowActivity"]


class FlowActivity:
    """Runs the steps that need no code of the user."""

    kind: Literal["flow"] = "flow"
    name = FLOW
    queue: str | None = None
    policy: StepPolicy | None = None
    description = "Waits for a signal or a time."

    def __init__(self) -> None:
        self.making = Making.at(sys._getframe(), self)
        self.origin = self.making.calls[0]

    def check(self, step: Step) -> FlowStep:
        """Return the step; raises `MessageError` if it is that of an agent or a function."""
        if not isinstance(step, FlowStep):
            text = f"{FLOW!r} is the activity of waits and sleeps alone; an agent or a function has another name"
            raise MessageError("invalid_envelope", "kind", text)
        return step

    async def run(self, step: Step, given: Any, context: WorkflowContext, *, limits: StepLimits) -> ActivityResult:
        """Wait for what the step says, in this attempt or, without a worker, in a later one."""
        if isinstance(given, WaitSpec):
            return ActivityResult(output=await context.wait_for(given.name, timeout=given.timeout))
        assert isinstance(given, SleepSpec)
        if given.until is not None:
            await context.sleep_until(given.until)
        else:
            await context.sleep_for(given.seconds or 0.0)
        return ActivityResult(output=None)
