"""What a workflow may use and what its steps have used: counters, and cost in US dollars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.faults import first_fault
from paigeant_celery.core.slip import MAX_COST, Cost, Earlier, ExecutedStep, WireModel

__all__ = ["Usage", "WorkflowLimits", "added_up", "reported_cost", "reported_count", "used_by"]

MAX_COUNT = 2**63 - 1  # of tokens or calls; readers of JSON may know no larger number

# The default context rounds to 28 digits and cannot hold numbers as small as a message may.
EXACT = Context(prec=MAX_PREC, Emin=MIN_EMIN, Emax=MAX_EMAX)


def _shortest(amount: Decimal) -> Decimal:
    """Return one form for equal amounts, as a digest needs it: 0.5 for 0.50, 10 for 1E+1."""
    if not amount:
        return Decimal(0)
    whole = Decimal(int(amount))
    return whole if whole == amount else EXACT.normalize(amount)


Count = Annotated[int, Field(ge=0, strict=True)]

# Fields of pydantic-ai's `UsageLimits` about single requests, or about how the others are checked.
NOT_OURS = ("per_request_input_tokens_limit", "count_tokens_before_request")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What steps have used. `counters` are requests, tool_calls, input_tokens and output_tokens.

    `cost` is in US dollars, for the requests that pydantic-ai could price; None if it could price none.
    """

    counters: Mapping[str, int] = field(default_factory=dict)
    cost: Decimal | None = None

    def less(self, other: Usage) -> Usage:
        """Return what is left of it without the other; never less than zero."""
        counters = {name: max(0, count - other.counters.get(name, 0)) for name, count in self.counters.items()}
        cost = max(Decimal(0), self.cost - (other.cost or 0)) if self.cost is not None else None
        return Usage(counters=counters, cost=cost)

    def of(self, limit: str) -> Decimal | int:
        """Return how much was used of the amount that a limit is about."""
        if limit == "cost_limit":
            return self.cost or Decimal(0)
        if limit == "total_tokens_limit":
            return self.counters.get("input_tokens", 0) + self.counters.get("output_tokens", 0)
        return self.counters.get({"request_limit": "requests"}.get(limit, limit.removesuffix("_limit")), 0)


class WorkflowLimits(WireModel):
    """How much all agent steps of a workflow may use together; None means no limit.

    The limits are those of pydantic-ai's `UsageLimits`. `request_limit` counts model requests, `tool_calls_limit` tool
    calls that succeeded, the others tokens; `cost_limit` is in US dollars. Raises `InvalidInput`
    (`invalid_usage_limits`).
    """

    # It travels, so limits of a newer minor version are kept when the message is forwarded.
    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    request_limit: Count | None = None
    tool_calls_limit: Count | None = None
    input_tokens_limit: Count | None = None
    output_tokens_limit: Count | None = None
    total_tokens_limit: Count | None = None
    cost_limit: Annotated[Cost, AfterValidator(_shortest)] | None = None

    def __init__(
        self,
        *,
        request_limit: int | None = None,
        tool_calls_limit: int | None = None,
        input_tokens_limit: int | None = None,
        output_tokens_limit: int | None = None,
        total_tokens_limit: int | None = None,
        cost_limit: Decimal | float | str | None = None,
    ) -> None:
        try:
            BaseModel.__init__(
                self,
                request_limit=request_limit,
                tool_calls_limit=tool_calls_limit,
                input_tokens_limit=input_tokens_limit,
                output_tokens_limit=output_tokens_limit,
                total_tokens_limit=total_tokens_limit,
                cost_limit=cost_limit,
            )
        except ValidationError as error:
            place, _, text = first_fault(error)
            raise InvalidInput("invalid_usage_limits", f"usage_limits.{place[0]}", text) from None

    # Validation of a message fills the fields itself; the signature above would refuse unknown ones.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def given(cls, limits: object) -> WorkflowLimits | None:
        """Return the limits that a caller passes, or None if none is set.

        They may be ours, a mapping, or pydantic-ai's `UsageLimits`, whose `request_limit` is 50 unless set otherwise.
        """
        named = _fields_of(limits)
        for name in NOT_OURS:
            value = named.pop(name, None)
            if not (value is None or value is False):  # a limit of 0 is one
                text = "is about single requests, but the limits of a workflow are about all of them together"
                raise InvalidInput("invalid_usage_limits", f"usage_limits.{name}", text)
        # A field that a later pydantic-ai adds is harmless unless set; a name in a mapping was written on purpose.
        written = isinstance(limits, (Mapping, WorkflowLimits))
        unknown = [name for name in named if name not in cls.model_fields and (written or named[name] is not None)]
        if unknown:
            text = f"is not known; the limits are {', '.join(cls.model_fields)}"
            raise InvalidInput("invalid_usage_limits", f"usage_limits.{str(unknown[0])[:64]}", text)
        asked = cls(**{name: value for name, value in named.items() if name in cls.model_fields})
        return asked if asked.set_limits() else None

    def set_limits(self) -> dict[str, Decimal | int]:
        """Return the limits that are set, by name."""
        limits = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def left(self, used: Usage) -> dict[str, Decimal | int]:
        """Return what is left of the limits that are set; never less than zero or more than the limit."""
        left = {name: (limit, limit - used.of(name)) for name, limit in self.set_limits().items()}
        # Decimal rounds a difference to 28 digits, which may exceed a limit with more digits.
        return {name: min(limit, max(rest, type(limit)(0))) for name, (limit, rest) in left.items()}

    def account(self, used: Usage, *, by: str) -> str:
        """Tell a person how the limits compare with what was used of them, and by whom."""
        limits = self.set_limits().items()
        return ", ".join(f"a {name} of {limit}, of which {by} used {used.of(name)}" for name, limit in limits)


def used_by(steps: Iterable[ExecutedStep], *, earlier: Earlier | None = None) -> Usage:
    """Return what steps have used together, with those whose records do not travel."""
    before = [Usage(counters=earlier.usage, cost=earlier.cost)] if earlier is not None else []
    return added_up([*before, *(Usage(counters=step.usage, cost=step.cost) for step in steps)])


def added_up(parts: Iterable[Usage]) -> Usage:
    """Return what several have used together."""
    counters: dict[str, int] = {}
    cost: Decimal | None = None
    for part in parts:
        for name, count in part.counters.items():
            counters[name] = counters.get(name, 0) + count
        if part.cost is not None:
            cost = (cost or Decimal(0)) + part.cost
    return Usage(counters=counters, cost=cost)


def reported_cost(cost: Decimal | None) -> Decimal | None:
    """Return the cost that a model reported, or None if it is not a valid one: a wrong price must not lose a step."""
    return cost if cost is not None and cost.is_finite() and 0 <= cost <= MAX_COST else None


def reported_count(count: object) -> int:
    """Return a count that a model reported, or 0 if it is not a valid one: a wrong count must not lose a step."""
    return count if isinstance(count, int) and 0 <= count <= MAX_COUNT else 0


def _fields_of(limits: object) -> dict[str, Any]:
    """Return limits by name from any kind of object: a process that only dispatches never loads pydantic-ai."""
    if limits is None:
        return {}
    if isinstance(limits, Mapping):
        return dict(limits)
    if isinstance(limits, WorkflowLimits):
        return {**vars(limits), **(limits.model_extra or {})}
    if not isinstance(limits, type) and hasattr(limits, "request_limit"):
        if is_dataclass(limits):
            return {found.name: getattr(limits, found.name) for found in fields(limits)}
        if hasattr(limits, "__dict__"):
            return dict(vars(limits))
    text = f"must be `UsageLimits`, `WorkflowLimits` or a mapping, not a {type(limits).__name__}"
    raise InvalidInput("invalid_usage_limits", "usage_limits", text)
