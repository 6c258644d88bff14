"""What Flower shows of a workflow with branches: which task sent which, and what a task waits for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from celery.exceptions import Ignore, Retry

from paigeant_celery import for_each, parallel
from paigeant_celery.hop.effects import Summary
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.run import Opened
from paigeant_celery.testing import WorkflowHarness
from paigeant_celery.worker.runtime import _dropped, _shown
from tests.support.branched_steps import dispatched, gather, load, read


@pytest.fixture(autouse=True)
def loaded(own_registry: None) -> None:
    """Let each test find the steps."""
    load()


def summary_of(harness: WorkflowHarness) -> Summary:
    """Deliver the next hop as a worker does, and return what became of it."""
    delivery = harness.pending.popleft()
    service = harness._service
    opened = service.open(Arrival(hop_id=delivery.hop_id, activity=delivery.activity, envelope=delivery.envelope))
    assert isinstance(opened, Opened)

    async def run() -> Any:
        return await service.run(opened)

    closed = service.close(opened, asyncio.run(run()))
    assert isinstance(closed, Summary)
    return closed


def test_links_between_tasks_follow_the_tree(workflow_harness: WorkflowHarness) -> None:
    """Whoever clicks from task to task comes from the first step to any branch, and back."""
    inner = for_each([read.activity(), gather.activity()], over=["a"], step_id="inner")
    dispatched(workflow_harness, gather.activity(), parallel({"x": inner, "y": read.activity()}), gather.activity())

    links = {delivery.hop_id: (delivery.parent_id, delivery.root_id) for delivery in workflow_harness.delivered}
    assert links == {
        "w.0": (None, "w.0"),
        "w.1": ("w.0", "w.0"),
        "w.1-0.0": ("w.1", "w.0"),
        "w.1-0.0-0.0": ("w.1-0.0", "w.0"),
        "w.1-0.0-0.1": ("w.1-0.0-0.0", "w.0"),
        "w.1-1.0": ("w.1", "w.0"),
        "w.2": ("w.1", "w.0"),
    }
    shown = {delivery.hop_id: delivery.summary for delivery in workflow_harness.delivered}
    assert shown["w.1-0.0-0.1"] == "workflow w, step 2 of 2: parallel/x/inner/0/gather"


def test_a_block_that_waits_says_so(workflow_harness: WorkflowHarness) -> None:
    """Its task is shown as one that goes on later, with the reason, also if a copy of its message arrives."""
    workflow_harness.dispatch([for_each(read.activity(), over=["wait"])], correlation_id="w")
    block = workflow_harness.pending[0]

    with pytest.raises(Retry, match="waits for branches"):
        _shown(summary_of(workflow_harness))

    copy = Arrival(hop_id=block.hop_id, activity=block.activity, envelope=block.envelope)
    dropped = workflow_harness._service.open(copy)
    told = _dropped("suspended", dropped.stands)  # type: ignore[union-attr]
    assert isinstance(told, Ignore)
    assert "waits for branches" in repr(vars(told))


def test_a_finished_step_of_a_branch_says_what_follows_in_it(workflow_harness: WorkflowHarness) -> None:
    """Each row tells where to look next."""
    steps = for_each([read.activity(), gather.activity()], over=["a"], step_id="all")
    workflow_harness.dispatch([steps], correlation_id="w")

    shown = [summary_of(workflow_harness) for _ in range(3)][1:]

    assert [_shown(each) for each in shown] == [
        {"step": "all/0/read", "outcome": "completed", "next": "w.0-0.1"},
        {"step": "all/0/gather", "outcome": "branch_completed"},
    ]
