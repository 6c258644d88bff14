"""What the benchmarks compute from what they measure."""

from __future__ import annotations

import pytest
from benchmarks.recovery import PEERS, Outcome, percentile, table_lines


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        (range(1, 21), 95, 19),
        (range(1, 101), 95, 95),
        ([3.0, 1.0, 2.0], 95, 3.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([7.5], 95, 7.5),
        ([1.0, 2.0], 1, 1.0),
    ],
)
def test_a_percentile_is_a_time_that_was_measured(values: list[float], percent: float, expected: float) -> None:
    """With twenty kills the slowest one alone stands above the 95th percentile."""
    assert percentile(values, percent) == expected


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(seconds=None, runs=1, completed=False),
        Outcome(seconds=1.0, runs=3, completed=True),
        Outcome(seconds=1.0, runs=2, completed=False),
    ],
    ids=["not begun again", "begun a third time", "not completed"],
)
def test_a_kill_with_another_outcome_is_wrong(outcome: Outcome) -> None:
    """A fast recovery that runs a step too often, or loses it, is none."""
    case = next(iter(PEERS))
    good = Outcome(seconds=1.0, runs=2, completed=True, noticed="owner_gone")

    *_, line = table_lines({case: [good, outcome]})

    assert good.right
    assert not outcome.right
    assert line.removeprefix(case.name).split()[0] == "2"
    assert line.split()[-3:] == ["1", "owner_gone", "1"]
