"""The rules of blocks in the checker of the chaos suite: each is needed to find something."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.proof.chaos.block_rules import is_in_branch
from tests.proof.chaos.checker import violations
from tests.proof.chaos.history import Block, Branch, Event, History, Run, Workflow

INNER = Block(
    hop_id="w.1-2.0", step="inner", needed=1,
    branches=(Branch(name="0", hops=("w.1-2.0-0.0",), output="dug"), Branch(name="1", hops=("w.1-2.0-1.0",))),
)  # fmt: skip
BLOCK = Block(
    hop_id="w.1", step="b", needed=3,
    branches=(
        Branch(name="0", hops=("w.1-0.0", "w.1-0.1"), output="dug"),
        Branch(name="1", hops=("w.1-1.0",), output="watered"),
        Branch(name="2", hops=("w.1-2.0",), block=INNER),
    ),
)  # fmt: skip


def events(*told: str) -> tuple[Event, ...]:
    """Read events, `type hop how`, each a second after the one before."""
    parts = [[*line.split(), ""] for line in told]
    return tuple(Event(type=type_, hop_id=hop, at=float(at), how=how) for at, (type_, hop, how, *_) in enumerate(parts))


OPENED = ("completed w.0", "branches_opened w.1")
FIRST = ("completed w.1-0.0", "completed w.1-0.1", "branch_completed w.1-0.1")
SECOND = ("completed w.1-1.0", "branch_completed w.1-1.0")
IN_THIRD = (
    "branches_opened w.1-2.0", "completed w.1-2.0-0.0", "branch_completed w.1-2.0-0.0", "joined w.1-2.0 met",
)  # fmt: skip
THIRD = (*IN_THIRD, "completed w.1-2.0", "branch_completed w.1-2.0")
JOINED = ("joined w.1 met", "completed w.1")
ALL = (*OPENED, *FIRST, *SECOND, *THIRD, *JOINED)
OUTPUT = {"0": "dug", "1": "watered", "2": {"0": "dug"}}


def history_of(told: tuple[str, ...], *, block: Block = BLOCK, output: object = OUTPUT, **changes: object) -> History:
    """Return the history of a workflow with a step and then a block; each body that completed ran once."""
    found = events(*told)
    workflow = Workflow(
        correlation_id="w", hops=("w.0", "w.1"), steps=("a", "b"), state="completed", executed=("a", "b"), events=found,
        blocks=(block,), outputs={"b": output},  # type: ignore[dict-item]
    )  # fmt: skip
    workflow = replace(workflow, **changes)  # type: ignore[arg-type]
    ran = {event.hop_id for event in found if event.type == "completed" and event.hop_id in workflow.bodies}
    runs = tuple(Run(hop_id=hop, process="one", pid=1, begun=0.0, ended=0.0) for hop in sorted(ran))
    return History(workflows=(workflow,), runs=runs)


def kinds(history: History) -> list[str]:
    return [violation.kind for violation in violations(history)]


def without(*gone: str) -> tuple[str, ...]:
    return tuple(line for line in ALL if line not in gone)


def test_a_tree_in_which_all_holds_has_no_violations() -> None:
    assert violations(history_of(ALL)) == []
    assert violations(history_of((*OPENED, *THIRD, *SECOND, *FIRST, *JOINED))) == []


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        pytest.param((*ALL[:-1], "joined w.1 met", ALL[-1]), "joined twice", id="a second join"),
        pytest.param(without("joined w.1 met"), "never joined", id="no join"),
        pytest.param(without("joined w.1-2.0 met"), "never joined", id="no join in a branch"),
        pytest.param((*OPENED, *ALL[1:]), "opened twice", id="a second opening"),
        pytest.param((*OPENED, *FIRST, *SECOND, *IN_THIRD, *JOINED), "joined wrongly", id="before enough succeeded"),
        pytest.param(
            (*OPENED, *FIRST, *SECOND, *THIRD, "joined w.1 missed", "completed w.1"), "joined wrongly", id="as missed"
        ),
        pytest.param((*ALL, "completed w.1-2.0-1.0"), "outlived its block", id="a loser that completes"),
        pytest.param((*ALL, "claimed w.1-2.0-1.0"), "outlived its block", id="a loser that begins"),
        pytest.param((*ALL[:-2], "completed w.1-1.0", *JOINED), "completed twice", id="a body that completes twice"),
        pytest.param(
            (*ALL[:-2], "branch_completed w.1-1.0", *JOINED), "branch ended twice", id="a branch that ends twice"
        ),
        pytest.param(
            (*OPENED, FIRST[1], FIRST[0], FIRST[2], *SECOND, *THIRD, *JOINED), "out of order", id="steps of a branch"
        ),
    ],
)
def test_a_block_that_is_not_opened_and_joined_once_is_found(told: tuple[str, ...], kind: str) -> None:
    assert kind in kinds(history_of(told))


def test_what_loses_may_end_in_any_way_before_the_block_does() -> None:
    inner = ("completed w.1-2.0-1.0", "branch_completed w.1-2.0-1.0")

    assert kinds(history_of((*OPENED, *FIRST, *SECOND, *IN_THIRD, *inner, *THIRD[len(IN_THIRD) :], *JOINED))) == []
    assert "joined wrongly" in kinds(history_of((*OPENED, *inner, *IN_THIRD, *FIRST, *SECOND, *THIRD[4:], *JOINED)))


def test_a_block_in_a_branch_that_lost_may_be_left_at_any_moment() -> None:
    block, output = replace(BLOCK, needed=2), {"0": "dug", "1": "watered"}

    for left in range(len(IN_THIRD) + 1):
        told = (*OPENED, *FIRST, *IN_THIRD[:left], *SECOND, *JOINED)
        assert kinds(history_of(told, block=block, output=output)) == []


DOOMED = replace(BLOCK.branches[1], doomed=True)
WITH_DOOMED = replace(BLOCK, branches=(BLOCK.branches[0], DOOMED, BLOCK.branches[2]))
SECOND_FAILED = ("failed w.1-1.0", "branch_failed w.1-1.0")
MARK = {"failed": "NotImplementedError", "text": "no attempt goes well"}


def test_a_block_that_collects_is_joined_when_all_branches_have_ended() -> None:
    block, output = replace(WITH_DOOMED, collects=True), {**OUTPUT, "1": MARK}
    told = (*OPENED, *FIRST, *THIRD, *SECOND_FAILED, *JOINED)

    assert kinds(history_of(told, block=block, output=output)) == []
    assert kinds(history_of((*OPENED, *FIRST, *THIRD, *JOINED), block=block, output=output)) == ["joined wrongly"]
    assert "out of order" in kinds(history_of((*OPENED, *FIRST, *THIRD, *SECOND, *JOINED), block=block, output=output))


def test_a_block_that_misses_its_join_does_so_at_the_first_failure() -> None:
    block = replace(WITH_DOOMED, misses=True)
    told = (*OPENED, *FIRST, *SECOND_FAILED, "joined w.1 missed", "failed w.1")
    ended = {"steps": ("a",), "executed": ("a",), "end": "failed with E", "state": "failed with E", "outputs": {}}

    assert kinds(history_of(told, block=block, **ended)) == []
    assert kinds(history_of((*told, "completed w.1-2.0-0.0"), block=block, **ended)) == ["outlived its block"]
    assert "joined wrongly" in kinds(
        history_of((*OPENED, *FIRST, "joined w.1 missed", "failed w.1"), block=block, **ended)
    )


@pytest.mark.parametrize(
    "output",
    [
        pytest.param(None, id="none"),
        pytest.param({"0": "dug", "1": "watered"}, id="a branch is missing"),
        pytest.param({**OUTPUT, "3": "dug"}, id="one too many"),
        pytest.param({**OUTPUT, "1": "dug"}, id="that of another branch"),
        pytest.param({**OUTPUT, "1": MARK}, id="a failure where it succeeded"),
        pytest.param({**OUTPUT, "2": {}}, id="a join in a branch that was not met"),
        pytest.param({**OUTPUT, "2": {"0": "watered"}}, id="a wrong one in a branch"),
    ],
)
def test_an_output_without_what_the_branches_gave_is_found(output: object) -> None:
    assert set(kinds(history_of(ALL, output=output))) == {"wrong output"}


def test_bodies_in_branches_are_called_as_often_as_others() -> None:
    history = history_of(ALL)
    again = replace(history.runs[-1], begun=1.0)

    assert kinds(replace(history, runs=(*history.runs, again))) == ["called too often"]
    assert "never ran" in kinds(replace(history, runs=history.runs[:-1]))
    assert kinds(replace(history, runs=(*history.runs, replace(again, hop_id="w.1-7.0")))) == ["unknown hop"]


@pytest.mark.parametrize(("hop", "is_in"), [("w-1.3", False), ("w-1.3-0.0", True), ("w.3-0.0-1.1", True)])
def test_a_hop_in_a_branch_is_known_by_its_place(hop: str, is_in: bool) -> None:
    assert is_in_branch(hop) == is_in
