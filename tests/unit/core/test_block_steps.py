"""Blocks as people make them: what they are then, and what is refused with its reason and place."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from paigeant_celery.core.block_steps import for_each, parallel, sub_workflow
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.slip import ActivitySpec, BlockSpec, FunctionSpec, name_steps, steps_in

A, B, F = ActivitySpec("a", "x"), ActivitySpec("b", "x"), FunctionSpec("f")


def made(block: BlockSpec) -> dict[str, Any]:
    fields = {name: getattr(block, name) for name in ("form", "over", "join", "on_failure", "max_at_once", "timeout")}
    return {**fields, "branches": {branch.name: branch.steps for branch in block.branches}}


def test_a_parallel_has_branches_by_their_names() -> None:
    """A single step need not be put into a list."""
    assert made(parallel({"facts": [A, B], "style": F}, on_failure="collect", max_at_once=2, timeout=3)) == {
        "form": "parallel",
        "over": None,
        "join": "all",
        "on_failure": "collect",
        "max_at_once": 2,
        "timeout": 3.0,
        "branches": {"facts": (A, B), "style": (F,)},
    }


@pytest.mark.parametrize(
    ("join", "on_failure", "found"),
    [
        ("all", None, ("all", "fail")),
        ("all", "fail", ("all", "fail")),
        ("all", "collect", ("all", "collect")),
        ("any", None, (1, "collect")),
        (2, None, (2, "collect")),
        (2, "collect", (2, "collect")),
    ],
)
def test_what_a_failure_does_follows_from_the_join(join: Any, on_failure: Any, found: tuple[object, str]) -> None:
    """A number says itself how many may fail."""
    block = parallel({"a": A, "b": B}, join=join, on_failure=on_failure)

    assert (block.join, block.on_failure) == found


def test_a_for_each_and_a_sub_workflow_have_one_branch() -> None:
    """It is opened for each item, or once."""
    items = made(for_each([A, F], over=["x", {"n": 1}], timeout=timedelta(minutes=1)))
    pointed = for_each(A, over="planner#/sources/0")
    sub = made(sub_workflow([A, B], timeout=5))

    assert (items["form"], items["over"], items["branches"], items["timeout"], items["max_at_once"]) == (
        "for_each", ("x", {"n": 1}), {"each": (A, F)}, 60.0, 20,
    )  # fmt: skip
    assert (pointed.over, pointed.over_step) == ("planner#/sources/0", ("planner", "/sources/0"))
    assert for_each(A, over="planner").over_step == ("planner", "")
    assert for_each(A, over=[]).over == ()
    assert (sub["form"], sub["branches"], sub["timeout"], sub["join"]) == ("sub_workflow", {"sub": (A, B)}, 5.0, "all")


def test_blocks_and_the_steps_inside_are_named_within_their_own_slips() -> None:
    """Two branches may have a step of the same id."""
    block = parallel({"a": [A, A], "b": sub_workflow(A)})

    named = name_steps([A, block, block, for_each(F, over=[1]), parallel({"x": A}, step_id="own")])

    assert [step.step_id for step in named] == ["a", "parallel", "parallel-2", "for-each", "own"]
    assert [(path, step.step_id, depth) for path, step, depth in steps_in(named[1:2], "s")] == [
        ("s[0]", "parallel", 0),
        ("s[0].branches[0].steps[0]", "a", 1),
        ("s[0].branches[0].steps[1]", "a-2", 1),
        ("s[0].branches[1].steps[0]", "sub-workflow", 1),
        ("s[0].branches[1].steps[0].branches[0].steps[0]", "a", 2),
    ]
    assert {step.activity for step in named[1:]} == {"_flow"}


NUMBER = "is 'all', 'any' or how many branches must succeed, not "
REFUSED: list[tuple[str, Callable[..., object], str, str, str]] = [
    ("no mapping", lambda: parallel([A]), "invalid_block", "branches", "maps names to steps"),  # type: ignore[arg-type]
    ("no branches", lambda: parallel({}), "invalid_block", "branches", "is empty; leave the block out"),
    ("no steps", lambda: parallel({"a": []}), "invalid_block", "branches['a']", "has no steps"),
    ("no step", lambda: parallel({"a": [A, "b"]}), "invalid_input", "branches['a'][1]", "not a str"),  # type: ignore[list-item]
    ("a text", lambda: for_each("ab", over=[1]), "invalid_input", "steps[0]", "not a str"),  # type: ignore[arg-type]
    ("none", lambda: sub_workflow(None), "invalid_input", "steps[0]", "not a NoneType"),  # type: ignore[arg-type]
    ("empty", lambda: sub_workflow([]), "invalid_block", "steps", "has no steps"),
    ("nothing each", lambda: for_each([], over=[1]), "invalid_block", "steps", "has no steps"),
    *[
        (f"name {name!r}", lambda name=name: parallel({name: A}), "invalid_block", f"branches[{name!r}]", text)
        for name, text in [
            (5, "is a string, not a int"),
            ("", "1 to 128 printable characters"),
            (" ", "not only spaces"),
            ("a/b", "no '/'"),
            ("a\nb", "printable"),
            ("x" * 129, "1 to 128"),
            ("a\0", "contains a NUL character"),
            ("\ud800", "contains a lone surrogate"),
        ]
    ],
    *[
        (f"join {join!r}", lambda join=join: parallel({"a": A}, join=join), "invalid_block", "join", text)
        for join, text in [
            (0, NUMBER), (-1, NUMBER), (True, NUMBER), (1.0, NUMBER), ("some", NUMBER), (None, NUMBER),
            (2, "too few branches for the join: 1, of which 2 must succeed"),
        ]
    ],
    ("fail or not", lambda: parallel({"a": A}, on_failure="stop"), "invalid_block", "on_failure", "not 'stop'"),  # type: ignore[arg-type]
    ("both", lambda: parallel({"a": A}, join=1, on_failure="fail"), "invalid_block", "on_failure", "goes with"),
    ("any", lambda: for_each(A, over=[1], join="any", on_failure="fail"), "invalid_block", "on_failure", "goes with"),
    *[
        (f"at once {most!r}", lambda most=most: for_each(A, over=[1], max_at_once=most), "invalid_block",
         "max_at_once", "is a number from 1 to 100")
        for most in (0, 101, -1, True, 2.0, "2", None)
    ],
    ("time", lambda: parallel({"a": A}, timeout=-1), "invalid_wait", "timeout", "must be from 0"),
    ("no time", lambda: sub_workflow(A, timeout="5"), "invalid_wait", "timeout", "not a str"),  # type: ignore[arg-type]
    ("id", lambda: parallel({"a": A}, step_id="a b"), "bad_step_id", "step_id", "a step id has"),
    ("over none", lambda: for_each(A, over=None), "invalid_over", "over", "a NoneType is neither"),  # type: ignore[arg-type]
    ("over number", lambda: for_each(A, over=5), "invalid_over", "over", "a int is neither"),  # type: ignore[arg-type]
    ("over bytes", lambda: for_each(A, over=b"ab"), "invalid_over", "over", "a bytes is neither"),
    ("over mapping", lambda: for_each(A, over={"a": 1}), "invalid_over", "over", "a dict is neither"),  # type: ignore[arg-type]
    ("over nothing", lambda: for_each(A, over=""), "invalid_over", "over", "names no step"),
    ("over spaces", lambda: for_each(A, over="a b"), "invalid_over", "over", "names no step"),
    ("over pointer", lambda: for_each(A, over="a#b"), "invalid_over", "over", "no JSON Pointer"),
    ("over tilde", lambda: for_each(A, over="a#/~2"), "invalid_over", "over", "no JSON Pointer"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "reason", "path", "text"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_block_that_makes_no_sense_is_refused_where_it_is_made(
    make: Callable[[], object], reason: str, path: str, text: str
) -> None:
    """The mistake is in the caller's own line; a parked block hours later would tell nobody."""
    with pytest.raises(InvalidInput) as refused:
        make()

    assert (refused.value.reason, refused.value.path) == (reason, path)
    assert text in refused.value.text


@pytest.mark.parametrize("item", [float("nan"), "\ud800", object(), {("a",): 2}])
def test_an_item_that_would_not_come_back_from_json_is_refused(item: object) -> None:
    """Each branch gets its own as the previous output."""
    with pytest.raises(InvalidInput) as refused:
        for_each(A, over=["fine", item])

    assert refused.value.path.startswith("over")
