"""The rows of a workflow, and where their bars stand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from paigeant_celery.client.outline import OutlinedBlock, OutlinedBranch, OutlinedStep
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.slip import ExecutedStep
from paigeant_celery.flower.timeline import Span, rows_of

BEGINS = datetime(2026, 11, 29, 12, tzinfo=UTC)
SPAN = Span(begins=BEGINS, ends=BEGINS + timedelta(seconds=100))
SECRET = "nougat"


def at(seconds: float) -> datetime:
    return BEGINS + timedelta(seconds=seconds)


def ran(name: str, began: float, ended: float) -> OutlinedStep:
    record = ExecutedStep(
        step_id=name, place="0", kind="function", activity="say", attempt=1, started_at=at(began),
        finished_at=at(ended), output=SECRET,
    )  # fmt: skip
    return OutlinedStep(step_id=name, activity="say", state="completed", path=name, record=record, hop_id="w.0")


PARKED = OutlinedStep(
    step_id="b", activity="say", state="parked", path="b", hop_id="w.1", attempt=2,
    failure=Failure(step_id="b", error_class="ValueError", text=SECRET),
)  # fmt: skip
PLANNED = OutlinedStep(step_id="c", activity="say", state="planned", path="c")


def test_a_bar_stands_where_the_step_ran_and_the_current_one_reaches_to_the_end() -> None:
    """One look tells which step took the time, and how long the workflow has stood."""
    rows = rows_of((ran("a", 10, 30), PARKED, PLANNED), SPAN, outputs={}, content=True)

    bars = [(row.bar.left, row.bar.width) if row.bar is not None else None for row in rows]
    assert bars == [(10.0, 20.0), (30.0, 70.0), None]


def test_a_bar_is_seen_and_stays_on_the_axis_whatever_the_clocks_say() -> None:
    """The clocks of two workers differ."""
    for began, ended in ((-5, 4), (50, 50), (100, 100), (99, 300), (400, 500), (60, 40)):
        (row,) = rows_of((ran("a", began, ended),), SPAN, outputs={}, content=True)
        assert row.bar is not None
        assert row.bar.left >= 0
        assert row.bar.width > 0
        assert row.bar.left + row.bar.width <= 100
    instant = Span(begins=BEGINS, ends=BEGINS)
    (row,) = rows_of((ran("a", 0, 0),), instant, outputs={}, content=True)
    assert row.bar is not None


def test_a_step_that_ran_before_the_workflow_began_has_no_bar() -> None:
    """A fork has the records of the steps before it, which ran in another workflow."""
    (row,) = rows_of((ran("a", -50, -40),), SPAN, outputs={"a": "kept"}, content=True)

    assert row.bar is None
    assert row.output == "kept"


def test_branches_stand_below_their_block_and_those_left_out_are_counted() -> None:
    """A block may have a thousand branches."""
    branches = (
        OutlinedBranch(name="0", state="parked", steps=(PARKED, PLANNED)),
        OutlinedBranch(name="1", state="parked", steps=(PARKED,)),
    )
    block = OutlinedBlock(form="for_each", branches=branches, more={"completed": 980})
    whole = OutlinedStep(step_id="all", activity="_flow", state="suspended", path="all", block=block, hop_id="w.0")

    rows = rows_of((whole,), SPAN, outputs={}, content=True)

    assert [(row.kind, row.depth, row.branch, row.name, row.state) for row in rows] == [
        ("step", 0, "", "all", "suspended"),
        ("branch", 1, "", "0", "parked"),
        ("step", 2, "", "b", "parked"),
        ("step", 2, "", "c", "planned"),
        ("step", 1, "1", "b", "parked"),
        ("more", 1, "", "980 more completed", "completed"),
    ]
    assert [row.may_retry for row in rows] == [False, False, True, False, True, False]


def test_a_block_that_is_parked_itself_may_go_on_and_one_whose_branches_are_has_theirs() -> None:
    """Only what is parked itself has an error, and something that a person can mend."""
    error = Failure(step_id="all", error_class="too_many_branches", text="`over` has 4 items")
    branch = OutlinedBranch(name="0", state="planned", steps=(PLANNED,))
    unopened = OutlinedBlock(form="for_each", branches=(branch,))
    opened = OutlinedBlock(form="for_each", branches=(OutlinedBranch(name="0", state="parked", steps=(PARKED,)),))
    known: dict[str, Any] = {"step_id": "all", "activity": "_flow", "state": "parked", "path": "all", "hop_id": "w.0"}

    itself = rows_of((OutlinedStep(block=unopened, failure=error, **known),), SPAN, outputs={}, content=True)
    below = rows_of((OutlinedStep(block=opened, **known),), SPAN, outputs={}, content=True)

    assert [(row.may_retry, row.may_forget) for row in itself] == [(True, False), (False, False)]
    assert [(row.may_retry, row.may_forget) for row in below] == [(False, False), (True, True)]


def test_those_who_may_not_see_content_get_names_and_sizes() -> None:
    """What steps gave and errors say is for those who have signed in."""
    rows = rows_of((ran("a", 10, 30), PARKED), SPAN, outputs={"a": SECRET}, content=False)
    seen = rows_of((ran("a", 10, 30), PARKED), SPAN, outputs={"a": SECRET}, content=True)

    assert SECRET not in str(rows)
    assert [(row.size, row.error) for row in rows] == [(len(SECRET) + 2, ""), (None, "ValueError")]
    assert str(seen).count(SECRET) == 2
