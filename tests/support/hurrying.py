"""The test's own process as one of a deployment whose waits are a tenth; its workers load the module `hurried`."""

from __future__ import annotations

import importlib.util

import pytest

from paigeant_celery.hop import sweeper
from paigeant_celery.store import limits
from tests.support.processes import PROGRAMS

__all__ = ["hurry"]

HURRIED = PROGRAMS / "hurried.py"


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the module as a test program does. After the test its settings are undone."""
    monkeypatch.setattr(limits, "LIMITS", limits.LIMITS)
    monkeypatch.setattr(sweeper, "EVERY", sweeper.EVERY)
    spec = importlib.util.spec_from_file_location("hurried", HURRIED)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
