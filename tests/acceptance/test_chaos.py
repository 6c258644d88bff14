"""Workers and server are killed, frozen and robbed in the order of a seed: nothing is lost, nothing counts twice.

`--chaos=full` runs the large size, and the same faults on a plain Celery chain beside it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from chaos.storm import CRASH_POINTS, LOST_REPLIES, Plan
from chaos.trial import try_chain, try_slip

SEEDS = (1, 2)
FULL_SEEDS = tuple(range(1, 11))
FULL_FAULTS = 4  # times as many of each

MIN_KILLS = 20

pytestmark = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see processes die")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = metafunc.config.getoption("chaos") == "full"
    metafunc.parametrize("seed", FULL_SEEDS if full else SEEDS)


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the large size is asked for."""
    return bool(request.config.getoption("chaos") == "full")


@pytest.fixture
def plan(full: bool) -> Plan:
    if not full:
        return Plan(workflows=100)
    usual = Plan(workflows=1).faults
    return Plan(workflows=1000, steps=5, faults=Counter({fault: times * FULL_FAULTS for fault, times in usual.items()}))


def test_nothing_is_lost_or_counts_twice_whatever_is_hit(
    seed: int, full: bool, plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Machines die in the night, and the work is done in the morning, once."""
    report = try_slip(seed, plan, tmp_path / "slip")
    with capsys.disabled():
        print(f"\n{report}")
        if full:
            print(try_chain(seed, plan, tmp_path / "chain"))

    assert report.violations == ()
    assert report.kills >= MIN_KILLS
    assert report.points >= {f"at {point}" for point in CRASH_POINTS} | set(LOST_REPLIES)
