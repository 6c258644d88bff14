"""What a workflow may use, and what its steps have used: counters, and cost in US dollars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError

from paigeant_celery.errors import InvalidInput
from paigeant_celery.jsonable import first_fault
from paigeant_celery.slip import ExecutedStep, WireModel

__all__ = ["Usage", "WorkflowLimits", "used_by"]

Count = Annotated[int, Field(ge=0, strict=True)]

# Of pydantic-ai's `UsageLimits`: about single requests, or about how the others are checked.
NOT_OURS = ("per_request_input_tokens_limit", "count_tokens_before_request")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What steps used. `counters` are requests, tool_calls, input_tokens and output_tokens.

    `cost` is in US dollars, of the requests that pydantic-ai could price; None where it could price none.
    """

    counters: Mapping[str, int] = field(default_factory=dict)
    cost: Decimal | None = None

    def of(self, limit: str) -> Decimal | int:
        """Return how much was used of what a limit is about."""
        if limit == "cost_limit":
            return self.cost or Decimal(0)
        if limit == "total_tokens_limit":
            return self.counters.get("input_tokens", 0) + self.counters.get("output_tokens", 0)
        return self.counters.get({"request_limit": "requests"}.get(limit, limit.removesuffix("_limit")), 0)


class WorkflowLimits(WireModel):
    """How much all agent steps of a workflow may use together; None is no limit.

    They are those of pydantic-ai's `UsageLimits`. `request_limit` counts model requests, `tool_calls_limit` tool calls
    that succeeded, the others tokens; `cost_limit` is in US dollars. Raises `InvalidInput` (`invalid_usage_limits`).
    """

    # It travels: limits of a newer minor version are kept when the message is forwarded.
    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    request_limit: Count | None = None
    tool_calls_limit: Count | None = None
    input_tokens_limit: Count | None = None
    output_tokens_limit: Count | None = None
    total_tokens_limit: Count | None = None
    cost_limit: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)] | None = None

    @classmethod
    def given(cls, limits: object) -> WorkflowLimits | None:
        """Return limits as a caller gives them: ours, a mapping, or the `UsageLimits` of pydantic-ai, which has a
        `request_limit` of 50 unless it is told otherwise."""
        if limits is None or isinstance(limits, WorkflowLimits):
            return limits
        if not isinstance(limits, Mapping) and not hasattr(limits, "request_limit"):
            text = f"must be `UsageLimits`, `WorkflowLimits` or a mapping, not a {type(limits).__name__}"
            raise InvalidInput("invalid_usage_limits", "usage_limits", text)
        fields: dict[str, Any] = dict(limits if isinstance(limits, Mapping) else vars(limits))
        for name in NOT_OURS:
            if fields.pop(name, None):
                text = "is about single requests; give the agent its own limits for that"
                raise InvalidInput("invalid_usage_limits", f"usage_limits.{name}", text)
        unknown = [name for name, value in fields.items() if name not in cls.model_fields and value is not None]
        if unknown:
            text = f"is not known; there are {', '.join(cls.model_fields)}"
            raise InvalidInput("invalid_usage_limits", f"usage_limits.{unknown[0]}", text)
        try:
            return cls(**{name: value for name, value in fields.items() if name in cls.model_fields})
        except ValidationError as error:
            place, _, text = first_fault(error)
            raise InvalidInput("invalid_usage_limits", f"usage_limits.{place[0]}", text) from None

    def set_limits(self) -> dict[str, Decimal | int]:
        """Return those that are set, by name."""
        limits = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def left(self, used: Usage) -> dict[str, Decimal | int]:
        """Return what is left of the limits that are set; never less than nothing."""
        return {name: max(limit - used.of(name), type(limit)(0)) for name, limit in self.set_limits().items()}

    def account(self, used: Usage) -> str:
        """Say how the limits and what was used of them compare, for a person."""
        limits = self.set_limits().items()
        return ", ".join(f"a {name} of {limit}, of which earlier steps used {used.of(name)}" for name, limit in limits)


def used_by(steps: Iterable[ExecutedStep]) -> Usage:
    """Return what steps used together."""
    counters: dict[str, int] = {}
    cost: Decimal | None = None
    for step in steps:
        for name, count in step.usage.items():
            counters[name] = counters.get(name, 0) + count
        if step.cost is not None:
            cost = (cost or Decimal(0)) + step.cost
    return Usage(counters=counters, cost=cost)
