"""What a step gets: typed outputs, and dependencies of which only their own fields cross the queue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pytest
from pydantic import BaseModel, ValidationError

from paigeant_celery.activities.context import StepOutput, WorkflowDependencies, with_previous_output
from paigeant_celery.core.jsonable import to_jsonable


class Town(WorkflowDependencies):
    name: str


class Visit(BaseModel):
    day: date
    stops: tuple[str, ...] = ()


@dataclass
class Plain:
    previous_output: str = "mine"


PREVIOUS = StepOutput(step_id="draft", activity="writer", output={"day": "2026-01-02", "stops": ["a"]})


def test_an_output_is_read_as_the_type_that_the_reader_wants() -> None:
    """Dates, tuples and sets, which JSON does not have, come back from their JSON form."""
    numbers = StepOutput(step_id="s", activity="a", output=[2, 1, 2])

    assert PREVIOUS.output_as(Visit) == Visit(day=date(2026, 1, 2), stops=("a",))
    assert PREVIOUS.output_as(dict[str, object]) == PREVIOUS.output
    assert numbers.output_as(set[int]) == {1, 2}
    assert numbers.output_as(tuple[int, int, int]) == (2, 1, 2)


def test_an_output_that_does_not_fit_is_refused_by_field() -> None:
    """An earlier step whose output changed shape is noticed here, not three steps later."""
    with pytest.raises(ValidationError) as caught:
        StepOutput(step_id="s", activity="a", output={"day": "soon"}).output_as(Visit)

    assert [fault["loc"] for fault in caught.value.errors()] == [("day",)]


def test_the_previous_output_is_given_and_does_not_cross() -> None:
    """It is already in the slip; deps that carried it would send it twice."""
    deps = with_previous_output(Town(name="Turin"), PREVIOUS)

    assert deps.previous_output is PREVIOUS
    assert to_jsonable(deps, reason="x") == {"name": "Turin"}
    assert with_previous_output(deps, None).previous_output is None
    assert Town(name="Rome").previous_output is None


def test_a_field_that_the_worker_does_not_know_is_refused() -> None:
    """A misspelt dependency must not be dropped silently."""
    with pytest.raises(ValidationError) as caught:
        Town(name="Turin", mayor="hunter2", previous_output=PREVIOUS)  # type: ignore[call-arg]

    assert [fault["loc"] for fault in caught.value.errors()] == [("mayor",), ("previous_output",)]
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("deps", [None, Plain(), {"previous_output": 1}])
def test_dependencies_of_other_types_are_left_alone(deps: object) -> None:
    """A team's own class keeps its own fields, whatever their names."""
    before = dict(getattr(deps, "__dict__", deps or {}))

    assert with_previous_output(deps, PREVIOUS) is deps
    assert dict(getattr(deps, "__dict__", deps or {})) == before
