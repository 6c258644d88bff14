"""A step's limits: each level fills in what the one before it leaves open."""

from __future__ import annotations

import pytest

from paigeant_celery.core.policy import StepPolicy


@pytest.mark.parametrize(
    ("own", "default", "expected"),
    [
        (StepPolicy(), StepPolicy(timeout=9, max_attempts=2), StepPolicy(timeout=9, max_attempts=2)),
        (StepPolicy(timeout=1), StepPolicy(timeout=9, max_attempts=2), StepPolicy(timeout=1, max_attempts=2)),
        (StepPolicy(max_attempts=1), StepPolicy(timeout=9), StepPolicy(timeout=9, max_attempts=1)),
        (StepPolicy(timeout=1, max_attempts=1), StepPolicy(timeout=9, max_attempts=2), None),
        (StepPolicy(timeout=1), None, None),
        (StepPolicy(), StepPolicy(), None),
    ],
)
def test_what_a_policy_leaves_open_comes_from_its_default(
    own: StepPolicy, default: StepPolicy | None, expected: StepPolicy | None
) -> None:
    """One step may be slower than its agent's others without repeating everything else."""
    assert own.over(default) == (expected if expected is not None else own)
