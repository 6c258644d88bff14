"""Tasks that are made for activities: at once, for each name, and without looking at more than that."""

from __future__ import annotations

import gc

import pytest
from celery import Celery

from paigeant_celery import PaigeantAgent, install


def test_an_agent_that_is_made_again_for_each_request_gets_its_task_without_a_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one before is often only waiting for the garbage collector, which takes its time in a large process."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    install(app)
    app.finalize()

    def collect() -> int:
        raise AssertionError("all garbage was collected")

    monkeypatch.setattr(gc, "collect", collect)
    made = [PaigeantAgent("test", name="clerk") for _ in range(2)]

    assert "paigeant.clerk" in app.tasks
    del made
