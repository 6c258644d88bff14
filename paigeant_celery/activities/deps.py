"""What a step is given: dependencies from the dispatcher and outputs of earlier steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, PrivateAttr, TypeAdapter

from paigeant_celery.core.jsonable import dumps

__all__ = ["StepOutput", "WorkflowDependencies", "with_previous_output"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """The recorded output of a step; `output` is JSON and has the same shape on every worker."""

    step_id: str
    activity: str
    output: JsonValue

    def output_as(self, type_: type[T]) -> T:
        """Return the output validated as `type_`; raises `pydantic.ValidationError` where it does not fit.

        Read as JSON is, so that dates, tuples and sets come back from their JSON form.
        """
        return TypeAdapter(type_).validate_json(dumps(self.output))


class WorkflowDependencies(BaseModel):
    """Dependencies whose fields cross the queue as JSON; subclass it to add your own.

    On the worker `previous_output` is the output of the step before this one, or None for the first.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    _previous_output: StepOutput | None = PrivateAttr(default=None)

    @property
    def previous_output(self) -> StepOutput | None:
        """The output of the step before this one."""
        return self._previous_output


def with_previous_output(deps: Any, previous: StepOutput | None) -> Any:
    """Return `deps` with the previous output, where it is a `WorkflowDependencies`.

    A copy then: a `deps_factory` may give every step the same object.
    """
    if not isinstance(deps, WorkflowDependencies):
        return deps
    own = deps.model_copy()
    own._previous_output = previous
    return own
