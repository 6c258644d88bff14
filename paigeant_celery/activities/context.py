"""What code inside a step can ask about the workflow that it runs for."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType, TracebackType

from pydantic import JsonValue

from paigeant_celery.activities.deps import StepOutput
from paigeant_celery.core.errors import NoWorkflow, UsageError
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.slip import ExecutedStep

__all__ = ["WorkflowContext", "entered", "workflow_context"]

ReadOutput = Callable[[ExecutedStep], Awaitable[JsonValue]]

_current: ContextVar[WorkflowContext] = ContextVar("paigeant_workflow")


@dataclass(frozen=True, kw_only=True)
class WorkflowContext:
    """Ids, variables and outputs of the workflow, as seen from the step that runs now.

    `attempt` is 1 the first time. `variables` cannot be changed. `previous_output` is the output of the step
    before this one, or None for the first.
    """

    correlation_id: str
    hop_id: str
    step_id: str
    activity: str
    attempt: int
    deadline: datetime | None
    variables: Mapping[str, JsonValue]
    previous_output: StepOutput | None
    message: PaigeantMessage = field(repr=False)
    read_output: ReadOutput = field(repr=False)

    async def output(self, step_id: str) -> StepOutput:
        """Return the output of an earlier step; raises `UsageError` where no such step ran."""
        for record in self.message.slip.executed:
            if record.step_id == step_id:
                return await recorded_output(record, self.read_output)
        ran = [record.step_id for record in self.message.slip.executed]
        raise UsageError(f"no step {step_id!r} ran before {self.step_id!r}; these did: {ran}")


async def recorded_output(record: ExecutedStep, read: ReadOutput) -> StepOutput:
    """Return the output of an executed step, read from the store where it did not travel."""
    # A copy: what the step does to it must not change the record that travels on.
    output = copy.deepcopy(record.output) if record.output_ref is None else await read(record)
    return StepOutput(step_id=record.step_id, activity=record.activity, output=output)


async def open_context(message: PaigeantMessage, *, attempt: int, read_output: ReadOutput) -> WorkflowContext:
    """Build the context of the step that `message` asks for."""
    step, previous = message.step, message.slip.previous
    return WorkflowContext(
        correlation_id=message.correlation_id,
        hop_id=message.message_id,
        step_id=step.step_id or "",
        activity=step.activity,
        attempt=attempt,
        deadline=message.deadline,
        variables=MappingProxyType(copy.deepcopy(message.variables)),
        previous_output=await recorded_output(previous, read_output) if previous else None,
        message=message,
        read_output=read_output,
    )


def workflow_context() -> WorkflowContext:
    """Return the context of the step that runs here; raises `NoWorkflow` outside a step."""
    try:
        return _current.get()
    except LookupError:
        raise NoWorkflow from None


class entered(AbstractContextManager[WorkflowContext]):  # noqa: N801 - used as a verb: `with entered(context):`
    """Make `context` what `workflow_context()` returns inside the block."""

    def __init__(self, context: WorkflowContext) -> None:
        self._context = context
        self._token: Token[WorkflowContext] | None = None

    def __enter__(self) -> WorkflowContext:
        self._token = _current.set(self._context)
        return self._context

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
