"""What the benchmarks compute from what they measure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmarks.durable_runs import Attempt, Bytes, destination
from tests.benchmarks.journal import DBOS, OURS, SYNCED, Sample, mistakes_in, ratio_lines
from tests.benchmarks.recovery import PEERS, Outcome, percentile, table_lines

CALLS = 3
RAN = Attempt(output=destination(CALLS), model_calls=CALLS + 1, tool_calls=CALLS, seconds=0.1)
REPLAYED = replace(RAN, model_calls=0, tool_calls=0)
RECORDED = Sample(attempt=RAN, replay=REPLAYED, stored=Bytes(records=7, text=7000, held=7700))


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
    """With twenty kills only the slowest one is above the 95th percentile."""
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
    """A fast recovery that runs a step too often, or loses it, is not a recovery."""
    case = next(iter(PEERS))
    good = Outcome(seconds=1.0, runs=2, completed=True, noticed="owner_gone")

    *_, line = table_lines({case: [good, outcome]})

    assert good.right
    assert not outcome.right
    assert line.removeprefix(case.name).split()[0] == "2"
    assert line.split()[-3:] == ["1", "owner_gone", "1"]


def test_a_right_run_of_the_journal_has_no_mistakes() -> None:
    """A measurement is worth something only if all calls were made once, recorded and replayed."""
    found = {"bare": [Sample(attempt=RAN)], OURS: [RECORDED], SYNCED: [RECORDED]}

    assert list(mistakes_in({0: found, 400: found}, calls=CALLS)) == []


@pytest.mark.parametrize(
    ("sample", "mistake"),
    [
        (replace(RECORDED, attempt=replace(RAN, output="at 7")), "the output is 'at 7'"),
        (replace(RECORDED, attempt=replace(RAN, tool_calls=4)), "4 model and 4 tool calls were made"),
        (replace(RECORDED, stored=Bytes(records=6, text=6000, held=6600)), "6 records are kept of 7 calls"),
        (replace(RECORDED, replay=replace(REPLAYED, output="at 7")), "the replay's output is 'at 7'"),
        (replace(RECORDED, replay=replace(REPLAYED, model_calls=1)), "the replay made 1 model and 0 tool calls again"),
    ],
)
def test_a_run_of_the_journal_that_differs_is_a_mistake(sample: Sample, mistake: str) -> None:
    """A journal that forgets a call or makes it twice may well be fast."""
    right, wrong = {OURS: [RECORDED], SYNCED: [RECORDED]}, {OURS: [RECORDED, sample], SYNCED: [RECORDED]}

    (found,) = mistakes_in({0: right, 400: wrong}, calls=CALLS)

    assert found.startswith(f"{OURS}, 400 messages: {mistake}")


@pytest.mark.parametrize(("text", "wrong"), [(7700, 0), (7710, 1)])
def test_records_that_grow_with_the_history_are_a_mistake(text: int, wrong: int) -> None:
    """Otherwise the whole history would be stored again with each call."""
    grown = replace(RECORDED, stored=Bytes(records=7, text=text, held=7700))
    few, many = {OURS: [RECORDED], SYNCED: [RECORDED]}, {OURS: [grown], SYNCED: [RECORDED]}

    assert len(list(mistakes_in({0: few, 400: many}, calls=CALLS))) == wrong


def test_the_ratio_is_that_of_what_is_added_to_the_bare_run_of_the_round() -> None:
    """A run that takes twice as long on a busy machine says nothing about the journal."""
    bare, theirs = Sample(attempt=RAN), replace(RECORDED, attempt=replace(RAN, seconds=0.5))
    ours = replace(RECORDED, attempt=replace(RAN, seconds=0.2))

    _, line, _ = ratio_lines({0: {"bare": [bare], OURS: [ours], SYNCED: [theirs], DBOS: [theirs]}})

    assert line.removeprefix(f"{0:<17}{OURS}").split()[:5] == ["0.25", "0.25", "-", "0.25", "0.40"]
