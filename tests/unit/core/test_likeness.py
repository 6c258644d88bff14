"""Whether a value is what was read of it: equal down to the classes that Python takes for equal."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from paigeant_celery.core.likeness import difference

NAN = float("nan")
EAST = timezone(timedelta(hours=1))


class Colour(StrEnum):
    RED = "red"


class Point(NamedTuple):
    x: Any
    y: Any


class Shape(BaseModel):
    name: str = "a"


class Circle(Shape):
    radius: int = 1


@dataclass
class Note:
    text: Any
    calls: int = field(default=0, compare=False, init=False)


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class Array:
    """Compares by element, as arrays of numbers do."""

    def __init__(self, *values: int) -> None:
        self.values = values

    def __eq__(self, other: object) -> Any:
        return Flags([a == b for a, b in zip(self.values, other.values, strict=True)])  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]


class Flags(list[bool]):
    def __bool__(self) -> bool:
        raise ValueError("ambiguous")

    def all(self) -> bool:
        return all(list(self))


class Hostile:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("hunter2")

    __hash__ = None  # type: ignore[assignment]


def cycle() -> list[Any]:
    loop: list[Any] = [1]
    loop.append(loop)
    return loop


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
leaves |= st.datetimes() | st.decimals(allow_nan=False) | st.uuids() | st.just(Colour.RED)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Note, inner)
    ),
    max_leaves=8,
)


@given(value=values)
def test_a_value_equals_its_copy_and_nothing_that_holds_one_more(value: object) -> None:
    """The comparison refuses nothing that came back, whatever it is made of."""
    assert difference(value, copy.deepcopy(value)) is None
    found = difference([value, "a"], [copy.deepcopy(value), "b"])
    assert found is not None
    assert found.path("value") == "value[1]"


@given(value=values, other=values)
def test_values_that_are_taken_for_equal_are_equal(value: object, other: object) -> None:
    """What Python tells apart is never taken for the same."""
    if difference(value, other) is None and "nan" not in repr(value):
        assert value == other


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (1, 1.0), (NAN, NAN), ([NAN], [NAN]), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({1, 2}, {2, 1}),
        (defaultdict(list, a=[1]), {"a": [1]}), (OrderedDict(a=1), {"a": 1}), ({Colour.RED: 1}, {"red": 1}),
        (datetime(2026, 1, 1, 1, tzinfo=EAST), datetime(2026, 1, 1, tzinfo=UTC)),
        (
            datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Rome")),
            datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
        ),
        (Slotted([1]), Slotted([1])), (threading.Lock(), threading.Lock()), (Array(1, 2), Array(1, 2)),
        (cycle(), cycle()),
    ],
)  # fmt: skip
def test_what_is_the_same_in_another_form_is_equal(value: object, read: object) -> None:
    """Python itself finds no difference in these, or only because it compares them by identity."""
    assert difference(value, read) is None


@pytest.mark.parametrize(
    ("value", "read", "path"),
    [
        (True, 1, "v"), (1, "1", "v"), (None, "None", "v"), (NAN, None, "v"), (1.5, 1, "v"), (Colour.RED, "red", "v"),
        ((1,), [1], "v"), (Point(1, 2), (1, 2), "v"), (Point(1, 2), Point(1, 3), "v.y"), ({1}, frozenset({1}), "v"),
        (datetime(2026, 1, 1), "2026-01-01T00:00:00", "v"),
        (datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), "v"),
        ({1: "a"}, {"1": "a"}, "v"), ({None: 1}, {"None": 1}, "v"), ({True: 1}, {1: 1}, "v"), ({"a": 1}, {}, "v"),
        ({}, {"a": 1}, "v"), ({"a": [1, 2]}, {"a": [1]}, "v.a"), ({Colour.RED}, {"red"}, "v"), ({1, 2}, {1, 3}, "v"),
        ([Shape(), Circle()], [Shape(), Shape()], "v[1].radius"), ({"a": Shape()}, {"a": Circle()}, "v.a"),
        (Shape(name="b"), Shape(), "v.name"), (Note([1, (2,)]), Note([1, [2]]), "v.text[1]"),
        (Slotted(1), Slotted(2), "v.value"), (Array(1, 2), Array(1, 3), "v"), (Hostile(), Hostile(), "v"),
        ({"a": cycle()}, {"a": [1, [1, 2]]}, "v.a[1][1]"),
    ],
)  # fmt: skip
def test_the_first_difference_is_found_by_its_path(value: object, read: object, path: str) -> None:
    """In a hundred fields, the name of one is what helps; its value may be a customer's."""
    found = difference(value, read)

    assert found is not None
    assert found.path("v") == path
    assert "hunter2" not in found.text


@pytest.mark.parametrize(
    ("value", "read", "path"),
    [
        ({"name": "a"}, Shape(name="a"), None), (Circle(radius=3), {"name": "a", "radius": 3}, None),
        (Note({"day": "2026-01-01"}), {"text": {"day": datetime(2026, 1, 1)}}, "v.calls"),
        ([{"name": "a"}, ("b",)], [Shape(name="a"), {"b"}], None), ({"lost": {1}}, Shape(), "v.lost"),
        (Circle(), Shape(), "v.radius"),
    ],
)  # fmt: skip
def test_values_of_one_shape_are_compared_loosely_by_the_names_of_their_parts(
    value: object, read: object, path: str | None
) -> None:
    """A service that has its own model of the same fields may give that."""
    found = difference(value, read, loosely=True)

    assert (found and found.path("v")) == path
