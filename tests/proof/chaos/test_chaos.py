"""Workers and server are killed, frozen and robbed in the order of a seed: nothing is lost, nothing counts twice.

The first seed's faults also strike a plain Celery chain, for comparison. `--chaos=full` runs the large size, and the
chain with every seed.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.proof.chaos.storm import ARMED, Plan
from tests.proof.chaos.trial import Report, try_chain, try_slip
from tests.support.processes import own_pids

SEEDS = (1, 2, 3)
CONTROL_SEEDS = SEEDS[:1]  # a trial of the chain takes about as long as one of ours
FULL_SEEDS = tuple(range(1, 11))
FULL_FAULTS = 4  # times as many of each

MIN_KILLS = 20

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see processes die"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = metafunc.config.getoption("chaos") == "full"
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", FULL_SEEDS if full else SEEDS)
    if "control_seed" in metafunc.fixturenames:
        metafunc.parametrize("control_seed", FULL_SEEDS if full else CONTROL_SEEDS)


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> Plan:
    if request.config.getoption("chaos") != "full":
        return Plan(workflows=100)
    usual = Plan(workflows=1).faults
    return Plan(workflows=1000, steps=5, faults=Counter({fault: times * FULL_FAULTS for fault, times in usual.items()}))


@pytest.fixture
def namespaces(capsys: pytest.CaptureFixture[str]) -> bool:
    """Whether one of the workers has its own pid namespace; everything else is also tried without it."""
    if own_pids():
        return True
    text = "`unshare` makes no pid namespace here, so all workers share one; it takes root, or user namespaces"
    if os.environ.get("CI"):
        pytest.fail(text)
    with capsys.disabled():
        print(f"\n{text}")
    return False


def told(capsys: pytest.CaptureFixture[str], report: Report) -> Report:
    """Show a report, whether the test fails or not."""
    with capsys.disabled():
        print(f"\n{report}")
    return report


def test_nothing_is_lost_or_counts_twice_whatever_is_hit(
    seed: int, plan: Plan, namespaces: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Machines die in the night, and in the morning the work is done, once."""
    report = told(capsys, try_slip(seed, plan, tmp_path))

    assert report.violations == ()
    assert report.kills >= MIN_KILLS
    assert report.points == ARMED
    assert plan.faults <= Counter(report.struck)
    assert not namespaces or report.apart > 0


def test_what_becomes_of_a_plain_chain_is_shown_beside_it(
    control_seed: int, plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures show what is gained; they are Celery's, and nothing is asserted about them."""
    report = told(capsys, try_chain(control_seed, plan, tmp_path))

    assert report.calls > 0
