"""What is left of a workflow's limits, and how limits are passed."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic_ai.usage import UsageLimits

from paigeant_celery.core.budget import Usage, WorkflowLimits, reported_cost, used_by
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.slip import ExecutedStep

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
COUNTERS = ("requests", "tool_calls", "input_tokens", "output_tokens")


def step(cost: str | None = None, **usage: int) -> ExecutedStep:
    return ExecutedStep(
        step_id="a", place="0", kind="agent", activity="a", attempt=1, started_at=NOON, finished_at=NOON, usage=usage,
        cost=Decimal(cost) if cost is not None else None,
    )  # fmt: skip


def test_usage_is_summed_and_cost_is_exact() -> None:
    """Token prices are small numbers that floats would round."""
    used = used_by([step("0.1", requests=1, input_tokens=5), step(None, requests=2), step("0.2", requests=1)])

    assert used == Usage(counters={"requests": 4, "input_tokens": 5}, cost=Decimal("0.3"))
    assert used_by([step(requests=1)]).cost is None
    assert used_by([]) == Usage()


@example(costs=[], limit=Decimal("4.7528186613857881719534271369E-10"))
@given(
    costs=st.lists(st.decimals(min_value=0, max_value=10**12, allow_nan=False), max_size=5),
    limit=st.decimals(min_value=0, max_value=10**12, allow_nan=False),
)
def test_what_is_left_of_a_cost_is_never_less_than_nothing(costs: list[Decimal], limit: Decimal) -> None:
    """Whatever decimals a message holds, adding them up is never an error."""
    left = WorkflowLimits(cost_limit=limit).left(used_by([step(str(cost)) for cost in costs]))["cost_limit"]

    assert 0 <= left <= limit


@pytest.mark.parametrize("cost", ["-0.1", "NaN", "Infinity", "1E+99999999"])
def test_a_cost_that_is_none_is_unknown(cost: str) -> None:
    """A step that has been paid for completes, whatever a price list says."""
    assert reported_cost(Decimal(cost)) is None
    assert reported_cost(Decimal("0.25")) == Decimal("0.25")
    assert reported_cost(None) is None


counts = st.integers(min_value=0, max_value=1000)


@given(used=st.fixed_dictionaries(dict.fromkeys(COUNTERS, counts)), limits=st.tuples(*[st.none() | counts] * 5))
def test_what_is_left_and_what_was_used_never_exceed_the_limit(
    used: dict[str, int], limits: tuple[int | None, ...]
) -> None:
    """A step that stays within its share keeps the workflow within its limits."""
    names = [name for name in WorkflowLimits.model_fields if name != "cost_limit"]
    asked = WorkflowLimits(**dict(zip(names, limits, strict=True)))

    left = asked.left(Usage(counters=used))

    assert left.keys() == asked.set_limits().keys()
    for name, amount in left.items():
        limit, spent = asked.set_limits()[name], Usage(counters=used).of(name)
        assert amount >= 0
        assert amount + spent == max(limit, spent)


def test_limits_are_counted_in_what_their_names_say() -> None:
    """`request_limit` is about `requests`, `total_tokens_limit` about both kinds of tokens."""
    used = used_by([step("0.25", requests=3, tool_calls=2, input_tokens=10, output_tokens=5)])
    limits = WorkflowLimits(
        request_limit=10, tool_calls_limit=10, input_tokens_limit=10, output_tokens_limit=10, total_tokens_limit=20,
        cost_limit=Decimal("1"),
    )  # fmt: skip

    assert limits.left(used) == {
        "request_limit": 7, "tool_calls_limit": 8, "input_tokens_limit": 0, "output_tokens_limit": 5,
        "total_tokens_limit": 5, "cost_limit": Decimal("0.75"),
    }  # fmt: skip
    assert "a request_limit of 10, of which earlier steps used 3" in limits.account(used, by="earlier steps")


def test_limits_of_pydantic_ai_are_taken_as_they_are() -> None:
    """A caller that has them does not have to write them again."""
    ours = WorkflowLimits.given(UsageLimits(total_tokens_limit=100, cost_limit=Decimal("0.5")))

    assert ours == WorkflowLimits(request_limit=50, total_tokens_limit=100, cost_limit=Decimal("0.5"))
    assert WorkflowLimits.given({"request_limit": 3}) == WorkflowLimits(request_limit=3)
    assert WorkflowLimits.given(ours) == ours
    assert WorkflowLimits.given(None) is None


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (0.5, "0.5"), ("0.50", "0.5"), (Decimal("5E-1"), "0.5"), (10, "10"), ("10.00", "10"), ("1E+1", "10"),
        (0, "0"), ("0.00", "0"), ("0E+99999999", "0"), ("1E+12", "1000000000000"),
        ("123456789012.1234567890123456789012345670", "123456789012.123456789012345678901234567"),
    ],
)  # fmt: skip
def test_equal_limits_of_cost_are_written_alike(asked: Any, kept: str) -> None:
    """A repeated dispatch is the same one, whether it says 0.5 or 0.50."""
    assert WorkflowLimits(cost_limit=asked).model_dump(mode="json")["cost_limit"] == kept


def test_limits_of_which_none_is_set_are_no_limits() -> None:
    """A repeated dispatch is the same one, whichever way it says that there is no limit."""
    for limits in ({}, WorkflowLimits(), UsageLimits(request_limit=None), UsageLimits(request_limit=None).__dict__):
        assert WorkflowLimits.given(limits) is None


def test_limits_are_checked_where_they_are_made() -> None:
    """The traceback shows the line with the mistake."""
    with pytest.raises(InvalidInput, match=r"invalid_usage_limits at `usage_limits\.request_limit`"):
        WorkflowLimits(request_limit=-1)


class Closed:
    """Something like limits, but without readable fields."""

    __slots__ = ("request_limit",)

    def __init__(self) -> None:
        self.request_limit = 3


@pytest.mark.parametrize(
    ("limits", "path"),
    [
        ({"request_limit": -1}, "usage_limits.request_limit"),
        ({"request_limit": True}, "usage_limits.request_limit"),
        ({"request_limit": 1.5}, "usage_limits.request_limit"),
        ({"cost_limit": "much"}, "usage_limits.cost_limit"),
        ({"cost_limit": float("inf")}, "usage_limits.cost_limit"),
        ({"cost_limit": "1E+13"}, "usage_limits.cost_limit"),
        ({"money": 3}, "usage_limits.money"),
        (UsageLimits(count_tokens_before_request=True), "usage_limits.count_tokens_before_request"),
        (UsageLimits(per_request_input_tokens_limit=3), "usage_limits.per_request_input_tokens_limit"),
        (UsageLimits(per_request_input_tokens_limit=0), "usage_limits.per_request_input_tokens_limit"),
        ({"request_limits": None}, "usage_limits.request_limits"),
        ({"x" * 100: 3}, "usage_limits." + "x" * 64),
        (WorkflowLimits().model_copy(update={"request_limit": -1}), "usage_limits.request_limit"),
        (WorkflowLimits.model_validate({"money": 3}), "usage_limits.money"),
        (UsageLimits, "usage_limits"),
        (Closed(), "usage_limits"),
        (3, "usage_limits"),
        ("request_limit=3", "usage_limits"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused_by_name(limits: object, path: str) -> None:
    """A limit that was dropped silently would be paid for."""
    with pytest.raises(InvalidInput, match="invalid_usage_limits") as caught:
        WorkflowLimits.given(limits)

    assert caught.value.path == path
