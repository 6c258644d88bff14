"""The routing slip: steps as they are written down, and ids that name each of them uniquely."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.names import is_correlation_id
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec, Step, name_steps


@dataclass
class Trip:
    day: date
    stops: list[str]


def ids_of(*steps: Step) -> list[str | None]:
    return [step.step_id for step in name_steps(steps)]


# Names of two kinds of steps, some of them ending like a made id, and some of the maximum length.
names = st.sampled_from(["a", "a-2", "a-3", "b.c", "a-1.2", "x" * 128])
unnamed = st.builds(ActivitySpec, names, st.just("x")) | st.builds(FunctionSpec, names)
given_ids = st.lists(st.sampled_from(["a", "a-2", "a-4", "z"]), unique=True, max_size=3)


def test_steps_are_named_by_their_activity_and_numbered_from_the_second_on() -> None:
    """`outputs["writer"]` is what one expects, and `writer-2` is the second time."""
    assert ids_of(
        ActivitySpec("writer", "x"), FunctionSpec("count"), ActivitySpec("writer", "y"), ActivitySpec("writer", "z")
    ) == ["writer", "count", "writer-2", "writer-3"]


def test_a_given_id_is_kept_and_made_ones_go_round_it() -> None:
    """A caller that names a step finds its output under that name, wherever the step is."""
    assert ids_of(ActivitySpec("a", "x"), ActivitySpec("b", "x", step_id="a")) == ["a-2", "a"]


@given(steps=st.lists(unnamed, max_size=8), own=given_ids)
def test_every_step_of_a_workflow_gets_an_id_of_its_own(steps: list[Step], own: list[str]) -> None:
    """Outputs are kept by step id; two steps of one id would hide each other's."""
    named_ones = [ActivitySpec("n", "x", step_id=step_id) for step_id in own]

    named = name_steps([*steps, *named_ones])

    ids = [step.step_id or "" for step in named]
    assert len({*ids}) == len(ids)
    assert all(is_correlation_id(step_id.replace(".", "_")) for step_id in ids)
    assert ids[len(steps) :] == [step.step_id for step in named_ones]
    assert [step.activity for step in named] == [step.activity for step in (*steps, *named_ones)]
    assert name_steps([*steps, *named_ones]) == named


def test_an_id_that_stands_twice_is_refused() -> None:
    """Nobody could say which of the two outputs is meant."""
    steps = [ActivitySpec("a", "x", step_id="s")] * 2

    with pytest.raises(InvalidInput, match=r"^duplicate_step_id at `step_id`: 's' is used twice in the workflow$"):
        name_steps(steps)


def test_an_agent_may_be_called_like_an_inserted_step() -> None:
    """Many are called like their model, and their output is found under that name."""
    assert ids_of(ActivitySpec("gpt-4.1", "x"), ActivitySpec("gpt-4.1", "x", step_id="claude-3.5")) == [
        "gpt-4.1",
        "claude-3.5",
    ]


@pytest.mark.parametrize(
    ("fields", "reason", "path"),
    [
        ({"step_id": ""}, "bad_step_id", "step_id"),
        ({"step_id": "a b"}, "bad_step_id", "step_id"),
        ({"step_id": "a" * 129}, "bad_step_id", "step_id"),
        ({"queue": ""}, "invalid_queue", "queue"),
        ({"queue": "é" * 128}, "invalid_queue", "queue"),
        ({"policy": "fast"}, "invalid_input", "policy"),
    ],
)
@pytest.mark.parametrize("make", [partial(ActivitySpec, "a", "x"), partial(FunctionSpec, "a")])
def test_a_field_that_no_step_can_have_is_refused_where_it_is_written(
    make: Any, fields: dict[str, Any], reason: str, path: str
) -> None:
    """The traceback leads to the line that made the step, not to the dispatch of a whole itinerary."""
    with pytest.raises(InvalidInput) as caught:
        make(**fields)

    assert (caught.value.reason, caught.value.path) == (reason, path)


def test_arguments_of_a_function_have_names() -> None:
    """A list would bind to whatever order the worker's version of the function has."""
    with pytest.raises(InvalidInput) as caught:
        FunctionSpec("f", [1, 2])

    assert (caught.value.reason, caught.value.path) == ("invalid_input", "arguments")


def test_deps_become_json_when_the_step_is_made() -> None:
    """Changes that the caller makes to its objects afterwards do not change a step that waits on the runway."""
    trip = Trip(date(2026, 1, 2), ["Turin"])
    arguments = {"trips": [trip]}

    agent_step, function_step = ActivitySpec("a", "x", trip), FunctionSpec("f", arguments)
    trip.stops.append("Rome")
    arguments["trips"].append(trip)

    assert agent_step.deps == {"day": "2026-01-02", "stops": ["Turin"]}
    assert function_step.arguments == {"trips": [{"day": "2026-01-02", "stops": ["Turin"]}]}


def test_a_step_cannot_be_changed() -> None:
    """One step may be on many slips."""
    step = ActivitySpec("a", "x")

    with pytest.raises(ValidationError, match="frozen"):
        step.prompt = "y"  # type: ignore[misc]
    marked = step.identified("s").inserted_by("p")

    assert (step.step_id, step.added_by, marked.step_id, marked.added_by) == (None, None, "s", "p")
