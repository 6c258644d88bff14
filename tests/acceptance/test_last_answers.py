"""A worker is killed between the last answer of a step and the step's completion."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from paigeant_celery import ActivitySpec, WorkflowDispatcher
from tests.support.processes import START_WITHIN, deployment, eventually

WITHIN = 30.0  # seconds
LEASE = 1.0


@pytest.mark.parametrize("held", [True, False])
def test_only_an_answer_that_is_not_recorded_yet_is_asked_for_again(redis_url: str, tmp_path: Path, held: bool) -> None:
    """While it is young it counts as in flight; it is recorded in time if the step goes on. One completion counts."""
    gate, dispatcher = tmp_path / "gate", WorkflowDispatcher()
    modules = ("holding", "lingerer") if held else ("lingerer",)
    with deployment(redis_url, tmp_path / "made", paigeant_lease=LEASE) as made, redis.Redis.from_url(redis_url) as raw:
        made.variables["GATE"] = str(gate)
        transport = made.transport()
        worker = made.start_worker(*modules, slots=1, name="first")
        worker.wait_for_log(" ready.", within=START_WITHIN)
        sent = dispatcher.dispatch_workflow_sync(transport, itinerary=[ActivitySpec("lingerer", "go")])
        handle, journal = dispatcher.handle(sent, transport), f"{made.prefix}:journal:{sent}.0"
        eventually(gate.with_suffix(".reached").exists, within=WITHIN)
        if not held:
            eventually(lambda: raw.exists(journal), within=WITHIN)
        assert raw.exists(journal) == (not held)

        worker.kill()
        gate.touch()
        made.start_worker("lingerer", slots=1, name="second")

        assert handle.result_sync(WITHIN).outputs == {"lingerer": "lingerer(go|)"}
        assert made.runs() == [f"{sent}.0"] * (2 if held else 1)
        assert [event.type for event in handle.events_so_far()].count("completed") == 1
        assert any(b"lingerer(go" in text for text in raw.hvals(journal))
