"""Workers and server are killed, frozen and robbed in the order of a seed: nothing is lost, nothing counts twice.

In a part of the workflows, a step is a block of eight branches, some with a block in one. By default that is one seed.
`--proof=full` runs more seeds, one of them at the large size, and strikes plain Celery chains and chords for
comparison. For other seeds run `python -m tests.proof.chaos`.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.proof.chaos.storm import ARMED, LARGE, SMALL, Plan
from tests.proof.chaos.trial import try_chain, try_slip
from tests.support.processes import own_pids
from tests.support.running import Told

MIN_KILLS = 20

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see processes die"),
]


@pytest.fixture
def namespaces(told: Told) -> bool:
    """Whether one of the workers has its own pid namespace; everything else is also tried without it."""
    if own_pids():
        return True
    text = "`unshare` makes no pid namespace here, so all workers share one; it takes root, or user namespaces"
    if os.environ.get("CI"):
        pytest.fail(text)
    told(text)
    return False


@pytest.mark.parametrize(
    ("plan", "seed"),
    [
        (SMALL, 1),
        pytest.param(SMALL, 2, marks=pytest.mark.proof),
        pytest.param(SMALL, 3, marks=pytest.mark.proof),
        pytest.param(LARGE, 1, marks=pytest.mark.proof),
    ],
    ids=str,
)
def test_nothing_is_lost_or_counts_twice_whatever_is_hit(
    seed: int, plan: Plan, namespaces: bool, tmp_path: Path, told: Told
) -> None:
    """Machines die in the night, and in the morning the work is done, once."""
    report = try_slip(seed, plan, tmp_path)
    told(report)

    assert report.violations == ()
    assert report.kills >= MIN_KILLS
    assert report.points == ARMED
    assert report.orphans == 0
    assert plan.faults <= Counter(report.struck)
    assert not namespaces or report.apart > 0


@pytest.mark.proof
@pytest.mark.parametrize("plan", [SMALL, LARGE], ids=str)
def test_what_becomes_of_plain_chains_and_chords_is_shown_beside_it(plan: Plan, tmp_path: Path, told: Told) -> None:
    """The figures show what is gained; they are Celery's, and nothing is asserted about them."""
    report = try_chain(1, plan, tmp_path)
    told(report)

    assert report.calls > 0
