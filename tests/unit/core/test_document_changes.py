"""What differs between two documents is told by fields and steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paigeant_celery.core.document_changes import DocumentChange, diff
from paigeant_celery.core.documents import read_document

SAMPLES = Path(__file__).parents[2] / "data" / "documents"


def changes(
    before: list[Any], after: list[Any], old: dict[str, Any] | None = None, new: Any = None
) -> list[DocumentChange]:
    return diff(
        read_document({"version": 1, "itinerary": before, **(old or {})}),
        read_document({"version": 1, "itinerary": after, **(new or {})}),
    )


def agent(name: str, prompt: str = "x", **more: Any) -> dict[str, Any]:
    return {"agent": name, "prompt": prompt, **more}


def test_equal_documents_differ_in_nothing() -> None:
    """Whatever form they are written in."""
    document = read_document((SAMPLES / "v1.yaml").read_text(encoding="utf-8"))

    assert diff(document, document) == []


def test_how_a_workflow_went_is_no_difference() -> None:
    """Two runs of one plan have the same plan."""
    exported = read_document((SAMPLES / "exported_v1.json").read_text(encoding="utf-8"))
    plan = [agent("planner", "Name five sources on cats."), {**agent("critic"), "step_id": "critic-0.1"}]
    again = read_document(
        {
            "version": 1,
            "deadline": "2030-01-02T07:00:00Z",
            "variables": {"language": "en"},
            "itinerary": [{**plan[0], "step_id": "plan"}, plan[1], agent("writer", "Write it.")],
        }
    )

    assert diff(exported, again) == []


def test_a_changed_part_is_told_with_both_values() -> None:
    """Deep inside deps, and in a field of the whole."""
    before = changes(
        [agent("a", "x", deps={"b": {"c": 1}})],
        [agent("a", "y", deps={"b": {"c": 2}})],
        {"stream": True, "variables": {"v": 1}},
        {"variables": {"v": 1, "w": [2]}},
    )

    assert before == [
        DocumentChange(kind="removed", path="stream", before=True),
        DocumentChange(kind="added", path="variables.w", after=[2]),
        DocumentChange(kind="changed", path="itinerary.a.prompt", before="x", after="y"),
        DocumentChange(kind="changed", path="itinerary.a.deps.b.c", before=1, after=2),
    ]


def test_steps_are_compared_by_their_ids() -> None:
    """One that is added in front changes none of the others."""
    before = [agent("a"), agent("b"), agent("a", "again")]
    after = [agent("z"), agent("a"), agent("a", "again"), {"sleep_for": 5}]

    assert changes(before, after) == [
        DocumentChange(kind="removed", path="itinerary.b", before=agent("b")),
        DocumentChange(kind="added", path="itinerary.z", after=agent("z")),
        DocumentChange(kind="added", path="itinerary.sleep", after={"sleep_for": 5.0}),
    ]


def test_a_step_that_moved_is_told_once() -> None:
    """And not all that it passed."""
    before, after = [agent(name) for name in "abcd"], [agent(name) for name in "bcda"]

    assert changes(before, after) == [
        DocumentChange(kind="moved", path="itinerary.a", before="first", after="after d"),
    ]


def test_branches_are_compared_in_their_block() -> None:
    """By the name of the branch and the id of the step."""
    before = {"parallel": {"x": [agent("a")], "y": [agent("b")]}}
    after = {"parallel": {"x": [agent("a", "y")], "z": [agent("b")]}, "join": "any"}

    assert changes([before], [after]) == [
        DocumentChange(kind="added", path="itinerary.parallel.join", after="any"),
        DocumentChange(kind="changed", path="itinerary.parallel.parallel.x.a.prompt", before="x", after="y"),
        DocumentChange(kind="removed", path="itinerary.parallel.parallel.y.b", before=agent("b")),
        DocumentChange(kind="added", path="itinerary.parallel.parallel.z.b", after=agent("b")),
    ]


def test_a_step_of_another_kind_is_changed_as_a_whole() -> None:
    """A wait is no agent."""
    assert changes([agent("a", step_id="s")], [{"wait_for": "a", "step_id": "s"}]) == [
        DocumentChange(kind="changed", path="itinerary.s", before=agent("a"), after={"wait_for": "a"})
    ]


def test_true_is_not_1() -> None:
    """They are equal in Python, and not in JSON."""
    assert changes([agent("a", deps=True)], [agent("a", deps=1)]) == [
        DocumentChange(kind="changed", path="itinerary.a.deps", before=True, after=1)
    ]
