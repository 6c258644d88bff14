"""What is read of a workflow from outside: its status and its result, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias, TypeVar, get_args

from pydantic import JsonValue

from paigeant_celery.activities.context import StepOutput
from paigeant_celery.core.errors import UsageError
from paigeant_celery.core.flow import Failure, WorkflowState

__all__ = ["CurrentState", "WorkflowResult", "WorkflowStatus"]

T = TypeVar("T")

# The store says `running` until a workflow ends or is parked. Whoever looks wants to know more.
Underway: TypeAlias = Literal["queued", "running", "retrying"]
CurrentState: TypeAlias = Literal[Underway, WorkflowState]


@dataclass(frozen=True, kw_only=True)
class WorkflowStatus:
    """Where a workflow stands.

    `state` is `queued` if its current step waits on `queue` for a worker, `running` if a worker runs it, and `retrying`
    if an attempt failed with `failure` and the next one begins after `retry_at`. If it is `queued` with a
    `failure`, a worker could not read the step, because a newer version sent it; it is sent again at `retry_at`. The
    other states are `completed`, `failed`, `parked` (it waits for a person) and `cancelled`. `executed` and `remaining`
    are step ids; `usage` and `cost` are those of the executed steps, as in `WorkflowResult`.
    """

    correlation_id: str
    state: CurrentState
    step_id: str | None
    activity: str | None
    queue: str
    attempt: int
    executed: tuple[str, ...]
    remaining: tuple[str, ...]
    failure: Failure | None
    created_at: datetime
    updated_at: datetime
    retry_at: datetime | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    cost: Decimal | None = None

    @property
    def running(self) -> bool:
        """Whether a worker runs the current step."""
        return self.state == "running"

    @property
    def in_progress(self) -> bool:
        """Whether the workflow goes on by itself: it is queued, running or retrying."""
        return self.state in get_args(Underway)


@dataclass(frozen=True, kw_only=True)
class WorkflowResult:
    """What a completed workflow produced: the last `output`, all outputs by step id, and summed counters.

    Sleeps have none.

    `cost` is in US dollars, for the model requests that pydantic-ai could price; None if it could price none.
    """

    output: JsonValue
    outputs: Mapping[str, JsonValue]
    status: WorkflowState
    usage: Mapping[str, int] = field(default_factory=dict)
    cost: Decimal | None = None
    steps: tuple[StepOutput, ...] = field(default=(), repr=False)

    def output_as(self, type_: type[T], *, step_id: str | None = None) -> T:
        """Return the last output, or that of a step, validated as `type_`."""
        for step in self.steps if step_id is not None else self.steps[-1:]:
            if step_id is None or step.step_id == step_id:
                return step.output_as(type_)
        raise UsageError(f"no step {step_id!r} in this result; there are {[step.step_id for step in self.steps]}")
