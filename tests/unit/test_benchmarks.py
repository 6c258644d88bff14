"""What the benchmarks compute from what they measure."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.benchmarks import hop, waiting
from tests.benchmarks.contestants import padding_of, prompt_of
from tests.benchmarks.durable_runs import Attempt, Bytes, destination
from tests.benchmarks.growth import split
from tests.benchmarks.journal import DBOS, OURS, SYNCED, Sample, mistakes_in, ratio_lines
from tests.benchmarks.parts import table
from tests.benchmarks.recovery import PEERS, Outcome, percentile, table_lines
from tests.benchmarks.samples import Samples
from tests.benchmarks.stands import WrongOutput, checked
from tests.benchmarks.targets import ROWS, missed, target_lines
from tests.benchmarks.workers import peak_memory

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


def test_early_and_late_hops_are_means_of_a_tenth() -> None:
    """One hop in which a lease is renewed must not decide about growth."""
    assert split(range(200)) == (14.5, 189.5)
    assert split([7, 9]) == (7, 9)


def test_a_figure_is_the_median_of_the_ratios_of_rounds_and_is_named_if_it_misses() -> None:
    """The command prints what must be reached, so a miss must not hide behind a mean or a missing case."""
    threads = Samples()
    for own, other, rate in ((1.0, 1.0, 90.0), (2.0, 1.0, 80.0), (13.0, 10.0, 10.0)):
        threads.add("worker CPU ms/hop", "slip", own)
        threads.add("worker CPU ms/hop", "chain", other)
        threads.add("hops/s, at load", "slip", rate)
        threads.add("hops/s, at load", "chain", 100.0)

    _, cpu, rate_line = target_lines({"threads": threads}, ["slip"])

    assert cpu.split()[-6:] == ["1", "1.30", "1.00", "-", "2.00", "missed"]
    assert rate_line.split()[-6:] == ["0.95", "0.80", "0.10", "-", "0.90", "missed"]
    assert missed({"threads": threads}) == [ROWS[0].title, ROWS[2].title]


@pytest.mark.parametrize(
    ("value", "verdict"), [(16.0, "missed"), (15.0, "reached"), (10.0, "stretch"), (2.0, "stretch")]
)
def test_a_figure_says_which_target_it_meets(value: float, verdict: str) -> None:
    """Targets are met when they are equalled."""
    growth = Samples()
    growth.add("KB of all hops", "slip", value)
    growth.add("KB of all outputs", "slip", 1.0)
    growth.add("KB of an early hop", "slip", 1.0)
    growth.add("KB of a late hop", "slip", 1.0)
    growth.add("worker CPU ms/hop, long workflow", "slip", 1.0)
    growth.add("worker CPU ms/hop, 5 steps", "slip", 1.0)

    *_, bytes_line, _ = target_lines({"growth": growth}, ["slip"])

    assert bytes_line.split()[-1] == verdict


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        ["done {0}|1.0|2.0|"],
        ["done {0}|1.0|2.0|{padding}x"],
        ["done {0}|1.0|{padding}"],
        ["done {0}|1.0|2.0|{padding}", "done {0}|3.0|4.0|{padding}"],
    ],
    ids=["none", "without its padding", "with more", "without a time", "one too many"],
)
def test_an_output_that_is_not_what_it_must_be_is_wrong(outputs: list[str]) -> None:
    """A benchmark of lost work would be fast."""
    prompt = prompt_of(0, size=20)
    texts = [text.format(prompt, padding=padding_of(prompt, 20)) for text in outputs]

    with pytest.raises(WrongOutput):
        checked(texts, [prompt])

    assert checked([f"done {prompt}|1.0|2.0|{padding_of(prompt, 20)}"], [prompt]).ended == [2.0]


def test_a_table_has_no_ratio_to_what_it_shows_as_nothing() -> None:
    """The CPU of agents that only wait is noise around zero, and a ratio to that would be any number."""
    samples = Samples()
    for slip, lean in ((0.002, 0.0000001), (0.003, -0.001)):
        samples.add("cores", "slip", slip)
        samples.add("cores", "lean", lean)
        samples.add("KB", "slip", 30.0)
        samples.add("KB", "lean", 20.0)

    _, cores, size = samples.lines("slip", ["lean"])

    assert cores.split() == ["cores", "0.00", "-0.00"]
    assert size.split() == ["KB", "30.00", "20.00", "1.50", "1.50", "-", "1.50"]


def test_a_process_that_ends_while_it_is_looked_at_fails_no_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of a worker may; it has an error that the sum over the processes passes over."""
    read, process = Path.read_text, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    looked_at = psutil.Process(process.pid)

    def gone(path: Path) -> str:
        process.kill()
        process.communicate()
        return read(path)

    monkeypatch.setattr(Path, "read_text", gone)

    with pytest.raises(psutil.NoSuchProcess):
        peak_memory(looked_at)


def test_the_parts_of_a_hop_are_medians_with_what_ours_has_more_of_first() -> None:
    """A part that only one of the two has is 0 in the other, and one that nobody uses has no row."""
    ours = [{"store": 1.0, "intake": 0.5, "none": 0.001}, {"store": 3.0, "intake": 0.5}, {"store": 2.0, "intake": 0.5}]

    lines = list(table({"slip": ours, "chain": [{"intake": 0.7}]}))

    assert lines == [
        "| part | slip | chain |",
        "|---|---|---|",
        "| store | 2.00 | 0.00 |",
        "| intake | 0.50 | 0.70 |",
        "| all | 2.50 | 0.70 |",
    ]


def test_whoever_asks_for_dbos_without_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case would end with the traceback of another process."""
    monkeypatch.setattr(hop, "find_spec", lambda _: None)

    with pytest.raises(argparse.ArgumentTypeError, match="pip install --group bench"):
        hop._names_of(["threads", "dbos"])("dbos")


def test_a_table_of_waits_takes_the_ratio_of_each_round() -> None:
    """A round on a busy machine is slow for both."""
    samples = Samples()
    for steady, waited in ((10.0, 12.0), (20.0, 26.0), (10.0, 20.0)):
        samples.add(waiting.LATENCY, waiting.STEADY, steady)
        samples.add(waiting.LATENCY, waiting.BUSY, 2 * steady)
        for kind in waiting.KINDS:
            samples.add(waiting.LATENCY, kind, waited)
            samples.add(waiting.CALL, kind, 2.0)

    _, steady, busy, *lines = waiting.latency_lines(samples)

    assert [steady.split()[-1], busy.split()[-1]] == ["10.00", "20.00"]
    assert [line.removeprefix(kind).split() for kind, line in zip(waiting.KINDS, lines, strict=True)] == [
        ["20.00", "2.00", "1.30", "1.20", "-", "2.00", "1.5", "reached"]
    ] * len(waiting.KINDS)


def test_what_a_wait_costs_is_compared_with_what_must_be_reached() -> None:
    scripts = {
        "WAIT": waiting.Script(commands=1000, milliseconds=0.1),
        "SWEEP": waiting.Script(commands=1001, milliseconds=2),
    }
    _, *commands = waiting.command_lines(scripts)
    _, worker, server = waiting.idle_lines([(0.002, 0.001), (0.02, 0.003), (0.012, 0.002)], waiting.QUICK)

    assert [line.split()[-1] for line in commands] == ["reached", "missed"]
    assert worker.split()[4:] == ["0.0120", "0.0020", "-", "0.0200", "0.01", "missed"]
    assert server.split()[3:] == ["0.0020", "0.0010", "-", "0.0030"]
