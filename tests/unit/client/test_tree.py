"""The branches of a workflow as its status tells them, where a reader cannot see the messages that made them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from paigeant_celery import (
    WorkflowParked,
    for_each,
    parallel,
    sub_workflow,
)
from paigeant_celery.client.readings import BranchState, BranchStatus
from paigeant_celery.testing import WorkflowHarness
from tests.support.branched_steps import dispatched, gather, load, read, repair, stumble


@pytest.fixture(autouse=True)
def loaded(own_registry: None) -> None:
    """Let each test find the steps."""
    load()


def states(branches: tuple[BranchStatus, ...]) -> dict[str, BranchState]:
    found: dict[str, BranchState] = {}
    for branch in branches:
        found |= {branch.path: branch.state, **states(branch.branches)}
    return found


def test_a_status_says_where_each_branch_stands(workflow_harness: WorkflowHarness) -> None:
    """Twenty sources are read at once; whoever looks wants to know which one is stuck, and on what."""
    items = ["a", "park", "wait", "signal", "sleep", "b", "c"]
    handle = dispatched(workflow_harness, for_each(read.activity(), over=items, max_at_once=4, step_id="readings"))

    status = handle.status_sync()
    assert (status.state, status.failure) == ("suspended", None)
    assert states(status.branches) == {
        "readings/0": "completed",
        "readings/1": "parked",
        "readings/2": "suspended",
        "readings/3": "suspended",
        "readings/4": "suspended",
        "readings/5": "completed",
        "readings/6": "completed",
    }
    _, parked, waits, *_ = status.branches
    assert (parked.name, parked.block, parked.step, parked.activity) == ("1", "readings", "readings/1/read", "read")
    assert parked.failure is not None
    assert (parked.failure.step_id, parked.failure.error_class) == ("readings/1/read", "ValueError")
    assert (waits.queue, waits.attempt, waits.step_id) == ("paigeant.read", 0, "read")
    assert [(wait.kind, wait.name, wait.path) for wait in waits.waiting_for] == [("token", "size", "readings/2/read")]
    told = [(wait.kind, wait.name, wait.path) for wait in status.waiting_for]
    assert told == [
        ("branches", "readings", ""),
        ("token", "size", "readings/2/read"),
        ("signal", "paid", "readings/3/read"),
        ("time", "", "readings/4/read"),
    ]
    assert status.waiting_for[0].branches == {"completed": 3, "parked": 1, "suspended": 3}
    assert str(status.waiting_for[0]) == "the branches of 'readings' (3 completed, 1 parked, 3 suspended)"
    assert str(status.waiting_for[1]).startswith("an answer to 'size' (in readings/2/read), since ")


def test_branches_that_may_not_begin_yet_are_held(workflow_harness: WorkflowHarness) -> None:
    """A thousand branches do not flood the providers."""
    handle = dispatched(
        workflow_harness, for_each(read.activity(), over=["a"] * 3, max_at_once=2, step_id="all"), hops=1
    )

    status = handle.status_sync()
    assert states(status.branches) == {"all/0": "queued", "all/1": "queued", "all/2": "held"}
    assert {branch.step for branch in status.branches} == {"all/0/read", "all/1/read", "all/2/read"}
    with pytest.raises(TimeoutError, match=r"waits for the branches of 'all' \(2 queued, 1 held\)"):
        handle.result_sync(timeout=0)


def test_a_branch_that_is_tried_again_says_when_and_why(workflow_harness: WorkflowHarness) -> None:
    """An operator tells one that will go on by itself from one that needs them."""
    handle = dispatched(workflow_harness, parallel({"slow": stumble.activity(), "quick": read.activity()}), hops=3)

    slow, quick = handle.status_sync().branches
    assert (slow.path, slow.state, slow.attempt) == ("parallel/slow", "retrying", 1)
    assert slow.retry_at is not None
    assert slow.failure is not None
    assert slow.failure.text == "stumbles"
    assert (quick.path, quick.state, quick.step) == ("parallel/quick", "completed", None)


def test_blocks_in_branches_have_branches_of_their_own(workflow_harness: WorkflowHarness) -> None:
    """The tree is drawn as deep as it is, whether its parts go on, have ended or were cut off."""
    inner = for_each([read.activity(), read.activity()], over=["a", "wait"], step_id="inner")
    block = parallel({"first": [read.activity(), inner], "second": sub_workflow(read.activity())}, step_id="outer")
    handle = dispatched(workflow_harness, block)

    assert states(handle.status_sync().branches) == {
        "outer/first": "suspended",
        "outer/first/inner/0": "completed",
        "outer/first/inner/1": "suspended",
        "outer/second": "completed",
        "outer/second/sub-workflow/0": "completed",
    }
    first = handle.status_sync().branches[0]
    assert [(wait.kind, wait.name, dict(wait.branches)) for wait in first.waiting_for] == [
        ("branches", "outer/first/inner", {"completed": 1, "suspended": 1})
    ]

    assert handle.cancel_sync()

    status = handle.status_sync()
    assert (status.state, status.waiting_for) == ("cancelled", ())
    assert states(status.branches) == {
        "outer/first": "cancelled",
        "outer/first/inner/0": "completed",
        "outer/first/inner/1": "cancelled",
        "outer/second": "completed",
        "outer/second/sub-workflow/0": "completed",
    }


def test_a_failed_branch_names_the_step_in_which_it_failed(workflow_harness: WorkflowHarness) -> None:
    """The failure is told where it began, however deep that is, and at each level which step it stopped."""
    inner = parallel({"ok": read.activity(), "bad": for_each(read.activity(), over=["fail"])}, step_id="inner")
    outer = for_each(inner, over=[1, 2], step_id="outer", on_failure="collect")
    handle = dispatched(workflow_harness, outer, gather.activity())

    status = handle.status_sync()
    assert status.state == "completed"
    branch = status.branches[1]
    assert (branch.state, branch.step) == ("failed", "outer/1/inner")
    assert branch.failure is not None
    assert (branch.failure.step_id, branch.failure.error_class) == ("outer/1/inner/bad/for-each/0/read", "LookupError")
    assert states(branch.branches) == {
        "outer/1/inner/ok": "completed",
        "outer/1/inner/bad": "failed",
        "outer/1/inner/bad/for-each/0": "failed",
    }


def test_branches_that_lost_a_race_are_cancelled(workflow_harness: WorkflowHarness) -> None:
    """The first answer wins, and the tree says that nobody pays for the others any more."""
    racers = for_each(read.activity(), over=["wait", "a"], join="any", step_id="race")
    handle = dispatched(workflow_harness, racers, gather.activity())

    assert handle.result_sync(timeout=0).output == ["read a"]
    assert states(handle.status_sync().branches) == {"race/0": "cancelled", "race/1": "completed"}


def test_a_store_that_has_not_yet_ended_a_lost_branch_shows_it_as_cancelled(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a block is one mark; what is below it is cleaned up later, in pages."""
    handle = dispatched(workflow_harness, for_each(read.activity(), over=["a", "wait"], step_id="race"))
    before = workflow_harness.store.branches("w.0", first=0, limit=100)
    handle.cancel_sync()
    monkeypatch.setattr(workflow_harness.store, "branches", lambda hop_id, **_: before)

    assert states(handle.status_sync().branches) == {"race/0": "completed", "race/1": "cancelled"}


def calls_of(harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[str]:
    made: list[str] = []

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def made_call(*args: Any, **more: Any) -> Any:
            made.append(name)
            return call(*args, **more)

        return made_call

    with monkeypatch.context() as patch:
        for name in ("workflow", "hop", "branches", "blob", "blobs", "block", "waits", "asked"):
            patch.setattr(harness.store, name, counted(name, getattr(harness.store, name)))
        act()
    return made


def test_a_status_without_blocks_costs_one_call(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that poll many workflows are as fast as before."""
    handle = dispatched(workflow_harness, gather.activity(), gather.activity())

    assert calls_of(workflow_harness, monkeypatch, handle.status_sync) == ["workflow"]


def test_a_status_of_many_branches_reads_them_by_the_hundred(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fan-out of 250 costs three calls for its branches, not 250."""
    handle = dispatched(workflow_harness, for_each(read.activity(), over=list(range(250))), hops=1)

    made = calls_of(workflow_harness, monkeypatch, handle.status_sync)

    assert len(handle.status_sync().branches) == 250
    assert made == ["workflow", "blobs", "branches", "branches", "branches", "hop"]


def test_a_parked_branch_gives_its_failure_to_whoever_waits(workflow_harness: WorkflowHarness) -> None:
    """The workflow's own step only waits, so the error names the step that needs a person."""
    handle = dispatched(workflow_harness, for_each(read.activity(), over=["a", "park", "park"], step_id="readings"))

    status = handle.status_sync()
    assert status.state == "parked"
    assert status.failure is not None
    assert status.failure.step_id == "readings/1/read"
    with pytest.raises(WorkflowParked) as parked:
        handle.result_sync(timeout=0)
    assert (parked.value.step_id, parked.value.error_class) == ("readings/1/read", "ValueError")


def test_a_quorum_that_is_met_without_a_parked_branch_has_a_result(workflow_harness: WorkflowHarness) -> None:
    """Nobody needs the branch any more, and its failure is none of the workflow."""
    handle = dispatched(
        workflow_harness, for_each(read.activity(), over=["park", "b"], join="any", max_at_once=1, step_id="all")
    )

    result, status = handle.result_sync(timeout=0), handle.status_sync()
    assert (result.status, result.output) == ("completed", ["read b"])
    assert (status.state, status.failure) == ("completed", None)
    assert states(status.branches) == {"all/0": "cancelled", "all/1": "completed"}


def test_a_branch_that_goes_on_leaves_the_failure_of_the_other(workflow_harness: WorkflowHarness) -> None:
    """Redriving one of two parked branches does not make the workflow look as if it had a result."""
    handle = dispatched(workflow_harness, for_each(read.activity(), over=["park", "park"], step_id="readings"))
    repair()

    assert workflow_harness.store.redrive("w", place="0-0.0") == "redriven"
    workflow_harness.sweep()
    asyncio.run(workflow_harness.deliver())

    assert states(handle.status_sync().branches) == {"readings/0": "completed", "readings/1": "parked"}
    with pytest.raises(WorkflowParked) as parked:
        handle.result_sync(timeout=0)
    assert parked.value.step_id == "readings/1/read"


def test_a_wait_that_takes_too_long_says_what_few_branches_wait_for(workflow_harness: WorkflowHarness) -> None:
    """The text of an error is read as a whole, also where a thousand people are asked."""
    handle = dispatched(workflow_harness, for_each(read.activity(), over=["wait"] * 9, step_id="all"))

    with pytest.raises(TimeoutError, match="step 'all' is suspended and waits for the branches of 'all'") as late:
        handle.result_sync(timeout=0)

    text = str(late.value)
    assert text.count("an answer to 'size' (in all/") == 4
    assert "; and 5 more; `pending()` has what can be answered" in text


def test_nobody_serves_is_said_of_steps_in_branches(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block itself only waits; it is the step in the branch for which a worker is missing."""
    block = parallel({"a": gather.activity(), "b": read.activity()}, step_id="both")
    handle = dispatched(workflow_harness, block, hops=1)
    transport = workflow_harness.transport
    monkeypatch.setattr(type(transport), "serves", lambda self, name: name != "gather", raising=False)

    with pytest.raises(TimeoutError, match="this one has no `ActivityExecutor` for 'gather'"):
        handle.result_sync(timeout=0)
    asyncio.run(workflow_harness.deliver(1))
    with pytest.raises(TimeoutError) as late:
        handle.result_sync(timeout=0)
    assert "no executor" not in str(late.value)
