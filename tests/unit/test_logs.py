"""What tests look for in the log of a worker."""

from __future__ import annotations

import traceback

from paigeant_celery.core.causes import cause_of
from tests.support.logs import uncaught


def test_a_traceback_that_python_prints_is_told_from_the_frames_of_a_step() -> None:
    """Without this, no test would notice an error in the worker itself."""
    try:
        int("many")
    except ValueError as error:
        printed, logged = traceback.format_exc(), cause_of(error).without_texts

    assert len(uncaught(f"[ERROR] oh\n{printed}\n")) == 1
    assert logged.startswith("Traceback (most recent call last):\n")
    assert uncaught(f"[ERROR] a hop failed\n{logged}\n") == []
