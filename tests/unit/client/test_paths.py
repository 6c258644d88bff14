"""Acting on one branch of a workflow by its path, and on all of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paigeant_celery import DeadLetters, InvalidInput, UnknownWorkflow, for_each, parallel
from paigeant_celery.client.inbox import Inbox
from paigeant_celery.core.wait_errors import SignalRefused
from paigeant_celery.store.port import Resolution
from paigeant_celery.testing import WorkflowHarness
from tests.support.branched_steps import dispatched, gather, load, read, repair


@pytest.fixture(autouse=True)
def loaded(own_registry: None) -> None:
    """Let each test find the steps."""
    load()


def over(*items: Any, step_id: str = "readings", **more: Any) -> Any:
    return for_each(read.activity(), over=items, step_id=step_id, **more)


def goes_on(harness: WorkflowHarness) -> list[str]:
    harness.sweep()
    return asyncio.run(harness.deliver())


# What is pending.


def test_waits_in_branches_are_pending_by_the_paths_of_their_steps(workflow_harness: WorkflowHarness) -> None:
    """A person sees which of twenty sources asks, and answers it as any other wait."""
    inner = over("signal", step_id="inner")
    handle = dispatched(
        workflow_harness, parallel({"a": over("x", "wait"), "b": inner}, step_id="both"), gather.activity()
    )

    found = handle.pending_sync()
    assert sorted((wait.step_id, wait.activity, wait.name) for wait in found) == [
        ("both/a/readings/1/read", "read", "size"),
        ("both/b/inner/0/read", "read", "paid"),
    ]
    assert [wait.since for wait in found] == sorted(wait.since for wait in found)
    listed = Inbox(workflow_harness.transport).pending_sync()
    assert {wait.step_id for wait in listed} == {wait.step_id for wait in found}

    asks = next(wait for wait in found if wait.kind == "token")
    assert handle.resolve_sync(asks.token, "XL").outcome == "settled"
    assert handle.signal_sync("paid", 3).outcome == "settled"
    goes_on(workflow_harness)
    assert handle.pending_sync() == []
    assert handle.result_sync(timeout=0).output == {"a": ["read x", "XL"], "b": [3]}


def test_nothing_is_pending_in_branches_that_were_cut_off(workflow_harness: WorkflowHarness) -> None:
    """Nobody should think about what nobody needs any more."""
    handle = dispatched(workflow_harness, over("wait", "a", join=1), gather.activity())

    assert handle.pending_sync() == []


# Signals.


@pytest.mark.parametrize("path", ["readings/1", "readings/1/read"])
def test_a_signal_by_path_settles_the_wait_in_that_branch(workflow_harness: WorkflowHarness, path: str) -> None:
    """Two orders wait for their payments, and the second is paid first."""
    handle = dispatched(workflow_harness, over("signal", "signal"), gather.activity())

    assert handle.signal_sync("paid", 17, path=path).outcome == "settled"
    goes_on(workflow_harness)

    assert [branch.state for branch in handle.status_sync().branches] == ["suspended", "completed"]
    assert handle.signal_sync("paid", 1).outcome == "settled"
    goes_on(workflow_harness)
    assert handle.result_sync(timeout=0).output == [1, 17]


def test_a_signal_reaches_a_branch_in_a_branch(workflow_harness: WorkflowHarness) -> None:
    """Paths go as deep as blocks do."""
    inner = over("signal", "signal", step_id="inner")
    handle = dispatched(workflow_harness, parallel({"a": inner, "b": inner}, step_id="both"))

    handle.signal_sync("paid", 1, path="both/b/inner/1/read")
    goes_on(workflow_harness)

    assert [wait.step_id for wait in handle.pending_sync()] == [
        "both/a/inner/0/read",
        "both/a/inner/1/read",
        "both/b/inner/0/read",
    ]


def test_a_signal_that_nothing_in_the_branch_waits_for_is_refused(workflow_harness: WorkflowHarness) -> None:
    """It is not kept either, because it would go to another branch."""
    handle = dispatched(workflow_harness, over("signal", "wait"))

    with pytest.raises(SignalRefused, match="nothing in 'readings/1' waits for 'paid'") as refused:
        handle.signal_sync("paid", path="readings/1")

    assert refused.value.reason == "not_awaited"
    assert len(handle.pending_sync()) == 2


def test_a_signal_to_a_branch_of_a_workflow_that_has_just_expired_says_so(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store knows neither the wait nor the workflow then."""
    handle = dispatched(workflow_harness, over("signal"))

    def expired(*_: Any, **__: Any) -> Resolution:
        monkeypatch.setattr(workflow_harness.store, "workflow", lambda _: None)
        return Resolution(outcome="unknown")

    monkeypatch.setattr(workflow_harness.store, "signal", expired)
    with pytest.raises(UnknownWorkflow):
        handle.signal_sync("paid", path="readings/0")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("", "must be a text"),
        (7, "must be a text"),
        ("nobody", "'nobody' is not a step that goes on; the current one is 'both'"),
        ("gather", "'gather' is not a step that goes on; the current one is 'both'"),
        ("both/c", "'both' has no branch 'c'; they are called 'a', 'b'"),
        ("both/a/inner/2", "'both/a/inner' has no branch '2'"),
        ("both/a/inner/01", "'both/a/inner' has no branch '01'"),
        ("both/a/inner/0", "the branch 'both/a/inner/0' has ended"),
        ("both/a/inner/1/other", "'both/a/inner/1/other' is not a step that goes on; the current one is 'read'"),
        ("both/a/inner/1/read/0", "'both/a/inner/1/read' has no branch '0'"),
        ("both//inner", "'both' has no branch ''"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_with_the_part_that_is_wrong(
    workflow_harness: WorkflowHarness, path: Any, text: str
) -> None:
    """A typing mistake changes nothing, and is found at once."""
    inner = over("a", "signal", step_id="inner")
    block = parallel({"a": inner, "b": read.activity()}, step_id="both")
    handle = dispatched(workflow_harness, gather.activity(), block)

    for act in (lambda: handle.signal_sync("paid", path=path), lambda: handle.redrive_sync(path)):
        with pytest.raises(InvalidInput) as refused:
            act()
        assert (refused.value.reason, refused.value.path) == ("unknown_path", "path")
        assert text in refused.value.text
    assert len(handle.pending_sync()) == 1


def test_no_path_leads_anywhere_in_a_workflow_that_has_ended(workflow_harness: WorkflowHarness) -> None:
    """The reason is told, not only that the step is unknown."""
    handle = dispatched(workflow_harness, over("a"))

    for act in (lambda: handle.signal_sync("paid", path="readings/0"), lambda: handle.redrive_sync("readings/0")):
        with pytest.raises(InvalidInput, match="no step goes on: the workflow is completed"):
            act()


def test_the_path_of_a_step_of_the_workflow_itself_keeps_the_signal_for_it(workflow_harness: WorkflowHarness) -> None:
    """The step may not have come to its wait yet."""
    handle = workflow_harness.dispatch([gather.activity()], correlation_id="w")

    assert handle.signal_sync("paid", path="gather").outcome == "kept"


# Redriving.


@pytest.mark.parametrize("path", ["readings/1", "readings/1/read"])
def test_a_parked_branch_is_redriven_by_its_path(workflow_harness: WorkflowHarness, path: str) -> None:
    """One unreadable source is repaired while the others go on or stay set aside."""
    handle = dispatched(workflow_harness, over("park", "park", "wait"))
    repair()

    assert handle.redrive_sync(path)
    goes_on(workflow_harness)

    assert [branch.state for branch in handle.status_sync().branches] == ["parked", "completed", "suspended"]


def test_without_a_path_all_parked_branches_go_on(workflow_harness: WorkflowHarness) -> None:
    """After a repair nobody wants to name twenty branches."""
    block = parallel({"a": over("park", "b"), "b": over("park", step_id="more"), "c": read.activity()}, step_id="all")
    handle = dispatched(workflow_harness, block, gather.activity())
    repair()

    assert handle.redrive_sync()
    goes_on(workflow_harness)

    assert handle.status_sync().state == "completed"
    assert not handle.redrive_sync()


def test_a_path_redrives_what_is_parked_below_it(workflow_harness: WorkflowHarness) -> None:
    """The path of a block, or of a branch with blocks, names all that is in it."""
    block = parallel({"a": over("park", "park"), "b": over("park", step_id="more")}, step_id="all")
    handle = dispatched(workflow_harness, block, gather.activity())
    repair()

    assert handle.redrive_sync("all/a")
    goes_on(workflow_harness)

    a, b = handle.status_sync().branches
    assert (a.state, b.state, b.branches[0].state) == ("completed", "suspended", "parked")
    assert handle.redrive_sync("all")
    goes_on(workflow_harness)
    assert handle.status_sync().state == "completed"


def test_a_branch_that_is_not_parked_is_not_redriven(workflow_harness: WorkflowHarness) -> None:
    """Nothing changes for it, and the caller is told."""
    handle = dispatched(workflow_harness, over("wait"))

    assert not handle.redrive_sync("readings/0")
    assert not handle.redrive_sync()
    assert handle.status_sync().state == "suspended"


def test_a_redriven_branch_forgets_its_journal_only_if_asked(workflow_harness: WorkflowHarness) -> None:
    """The answer of a person is kept, unless the code has changed too much."""
    handle = dispatched(workflow_harness, for_each(read.activity(), over=["park"]))
    hop_id = "w.0-0.0"
    assert workflow_harness.store._records.hops[hop_id].hop.state == "parked"
    workflow_harness.store._records.hops[hop_id].journal["x"] = "kept"

    assert asyncio.run(handle.redrive("for-each/0"))
    assert workflow_harness.store.journal(hop_id)["x"] == "kept"
    goes_on(workflow_harness)
    assert handle.redrive_sync("for-each/0/read", discard_journal=True)

    assert workflow_harness.store.journal(hop_id) == {}


def test_the_letter_of_a_branch_redrives_that_branch(workflow_harness: WorkflowHarness) -> None:
    """Whoever works through the dead letters need not know that one is of a branch."""
    handle = dispatched(workflow_harness, over("park", "park"))
    letters = DeadLetters(workflow_harness.transport)
    (second, first) = letters.list()
    assert (first.hop_id, second.hop_id) == ("w.0-0.0", "w.0-1.0")
    repair()

    assert letters.redrive(second.letter_id)
    goes_on(workflow_harness)

    assert [branch.state for branch in handle.status_sync().branches] == ["parked", "completed"]
    assert [letter.hop_id for letter in letters.list()] == ["w.0-0.0"]
    assert not letters.redrive(second.letter_id)


# Cancelling.


def test_a_cancel_calls_off_the_hops_that_slept_in_branches(workflow_harness: WorkflowHarness) -> None:
    """A worker must cancel the provider's jobs that they slept for; those that wait for people have none."""
    block = parallel({"a": over("sleep", "wait", "b"), "b": read.activity()}, step_id="all")
    handle = dispatched(
        workflow_harness, over("x", step_id="before"), parallel({"a": over("sleep", "wait"), "b": block})
    )

    assert handle.cancel_sync()

    copies = [delivery.hop_id for delivery in workflow_harness.pending]
    assert copies == ["w.1-0.0-0.0", "w.1-1.0-0.0-0.0"]
    assert asyncio.run(workflow_harness.deliver()) == ["dropped: cancelled"] * 2
