"""Equal content has one notation, and different content has another."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, computed_field, field_serializer

from paigeant_celery.core.jsonable import to_jsonable
from paigeant_celery.core.notation import in_one_notation, settled, shortest

EAST, WEST = timezone(timedelta(hours=1)), timezone(-timedelta(hours=5, minutes=30))


class Tagged(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    tags: frozenset[str] = Field(frozenset(), alias="Tags")
    price: Decimal = Decimal(0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def initials(self) -> set[str]:
        return {tag[0] for tag in self.tags}


class Joined(BaseModel):
    tags: set[str]

    @field_serializer("tags")
    def write(self, tags: set[str]) -> str:
        return " ".join(sorted(tags, reverse=True))


class All(RootModel[set[Tagged]]):
    pass


@dataclass
class Note:
    tags: set[str]


def written(value: object) -> tuple[Any, Any]:
    return settled(value, to_jsonable(value, reason="x"))


WORDS = ["pear", "apple", "fig", "plum", "quince"]


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (set(WORDS), sorted(WORDS)),
        ({"a": [(frozenset(WORDS), 1)]}, {"a": [[sorted(WORDS), 1]]}),
        ({10, 9, 2}, [10, 2, 9]),
        (Note(set(WORDS)), {"tags": sorted(WORDS)}),
        (Tagged(Tags=WORDS, more={3, 1}), {"Tags": sorted(WORDS), "price": "0", "more": [1, 3], "initials": [*"afpq"]}),
        (Joined(tags={"a", "b"}), {"tags": "b a"}),
        ({frozenset({2, 1}), frozenset({0})}, [[0], [1, 2]]),
    ],
    ids=["texts", "nested", "numbers", "dataclass", "model", "own-serializer", "sets"],
)
def test_sets_are_written_in_one_order(value: object, wire: object) -> None:
    """Two processes with other hash seeds write the same set, and the same digest."""
    assert written(value)[0] == wire


def test_a_set_is_ordered_by_what_its_elements_are() -> None:
    """One instant stands in one place, whatever zone it is written in."""
    early, late = datetime(2026, 1, 1, 9, tzinfo=UTC), datetime(2026, 1, 1, 10, tzinfo=UTC)
    here, there = written({early, late}), written({early.astimezone(EAST), late.astimezone(WEST)})

    assert there[0] == ["2026-01-01T10:00:00+01:00", "2026-01-01T04:30:00-05:30"]
    assert in_one_notation(here[1]) == in_one_notation(there[1])


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (datetime(2026, 1, 1, 9, tzinfo=UTC), datetime(2026, 1, 1, 3, 30, tzinfo=WEST)),
        (datetime(2026, 1, 1, 9, 0, 0, 500000, tzinfo=UTC), "2026-01-01T10:00:00.5+01:00"),
        ({datetime(2026, 1, 1, 9, tzinfo=UTC): 1}, {datetime(2026, 1, 1, 10, tzinfo=EAST): 1}),
        (time(9, tzinfo=UTC), time(10, tzinfo=EAST)),
        (Decimal("1.10"), Decimal("1.1")),
        (Decimal("1E+2"), Decimal(100)),
        (Decimal("-0.0"), Decimal(0)),
        (Tagged(price=Decimal("2.50")), Tagged(price=Decimal("2.5"))),
        ({Decimal("1.0"), Decimal(2)}, {Decimal("2.0"), Decimal(1)}),
        ({Decimal("1.0"): "a"}, {Decimal(1): "a"}),
        ({"a": 1.0}, {"a": 1}),
        (1e22, 10**22),
        (-0.0, 0),
        (timedelta(hours=24), timedelta(days=1)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ((1, 2), [1, 2]),
    ],
)
def test_equal_values_have_one_notation(value: object, other: object) -> None:
    """A retry from another server, or after a change of summer time, is the same request."""
    assert in_one_notation(written(value)[1]) == in_one_notation(written(other)[1])


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (datetime(2026, 1, 1, 9), datetime(2026, 1, 1, 9, tzinfo=UTC)),
        (datetime(2026, 1, 1, 9, tzinfo=UTC), datetime(2026, 1, 1, 9, tzinfo=EAST)),
        ("2026-01-01T09:00:00Z ", "2026-01-01T09:00:00Z"),
        ("at 2026-01-01T09:00:00Z", "at 2026-01-01T10:00:00+01:00"),
        ("2026-02-30T09:00:00Z", "2026-02-30T10:00:00+01:00"),
        (date(2026, 1, 1), datetime(2026, 1, 1)),
        ("1.10", "1.1"),
        (Decimal("1.10"), Decimal("1.11")),
        ("1", 1),
        ([1, 2], [2, 1]),
        (True, 1),
        (None, "null"),
        (0.1, 0.10000000000000002),
    ],
)
def test_different_values_have_different_notations(value: object, other: object) -> None:
    """What somebody else asked for must not be answered with this workflow."""
    notations = [repr(in_one_notation(written(each)[1])) for each in (value, other)]

    assert notations[0] != notations[1]


def test_the_wire_keeps_the_notation_of_the_caller() -> None:
    """A price of 1.10 is shown with both digits, and an hour in the zone of its customer."""
    value = {"at": datetime(2026, 1, 1, 10, tzinfo=EAST), "price": Decimal("1.10")}

    assert written(value)[0] == {"at": "2026-01-01T10:00:00+01:00", "price": "1.10"}


def test_keys_that_would_become_one_keep_their_notation() -> None:
    """No part of the content is left out of the digest."""
    tree: Any = {"2026-01-01T09:00:00Z": 1, "2026-01-01T10:00:00+01:00": 2}

    assert in_one_notation(tree) == tree


@given(amount=st.decimals(allow_nan=False, allow_infinity=False), places=st.integers(0, 5))
def test_equal_decimals_have_one_text(amount: Decimal, places: int) -> None:
    """However many zeros somebody writes at the end of a price."""
    sign, digits, exponent = amount.as_tuple()
    longer = Decimal((sign, (*digits, *[0] * places), exponent - places))  # type: ignore[operator]

    assert shortest(longer) == shortest(amount)
    assert Decimal(shortest(amount)) == amount
