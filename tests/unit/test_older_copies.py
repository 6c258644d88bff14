"""The copies of older versions that run beside this one in the proofs of mixed deploys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.versions import older_version, whole_slips, without_blocks, without_waits


@pytest.mark.parametrize("make", [older_version, whole_slips, without_waits, without_blocks])
def test_a_copy_of_an_older_version_can_be_made(tmp_path: Path, make: Callable[[Path], str]) -> None:
    """Its changes name lines of this version; the proofs that need it are not run each time."""
    make(tmp_path)

    assert (tmp_path / "paigeant_celery" / "core" / "slip.py").exists()
