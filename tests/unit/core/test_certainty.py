"""A type that is known to be read back equal is one, for every value of which that is said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, StringConstraints, TypeAdapter

from paigeant_celery.activities.context import WorkflowDependencies
from paigeant_celery.core.certainty import certainty_of
from paigeant_celery.core.crossing import OWN, recordable
from paigeant_celery.core.errors import NotSerializable
from paigeant_celery.core.jsonable import to_jsonable
from paigeant_celery.core.likeness import difference
from tests.support.kinds import KINDS, Kind


class Line(BaseModel):
    article: str
    count: int = 1


class Special(Line):
    discount: float = 0.5


class Order(WorkflowDependencies):
    lines: list[Line]
    notes: dict[str, str | None] = Field(default_factory=dict)
    weight: float = 1.0
    at: datetime | None = None
    day: date = date(2026, 1, 2)
    paid: bool = False
    first: Line | None = None
    sub: list[Order] = Field(default_factory=list)


class Started(BaseModel):
    name: str

    def model_post_init(self, context: Any) -> None:
        self.name = self.name + "!"


class Private(BaseModel):
    name: str
    _seen: int = PrivateAttr(default=0)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Stripped(BaseModel):
    name: Annotated[str, StringConstraints(strip_whitespace=True)]


class Upper(BaseModel):
    model_config = ConfigDict(str_to_upper=True)

    name: str


class Validated(BaseModel):
    name: Annotated[str, BeforeValidator(str)]


class Renamed(BaseModel):
    name: str = Field(serialization_alias="Name")


class Hidden(BaseModel):
    name: str = Field(exclude=True)


def known(value: Any) -> bool:
    """Say whether the value is known to be read back by its own class."""
    certainty = certainty_of(TypeAdapter(type(value)).core_schema)
    return certainty is not None and certainty(value)


def changed(change: Callable[[Order], object]) -> Order:
    order = Order(lines=[Line(article="a")])
    change(order)
    return order


@pytest.mark.parametrize(
    "value",
    [
        Line(article="a"),
        Special(article="a", discount=1),
        Order(lines=[Line(article="a")], notes={"a": None}, at=datetime(2026, 1, 1, tzinfo=UTC)),
        Order(lines=[], first=Line(article="b"), sub=[Order(lines=[])]),
        date(2026, 1, 2),
        datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    ],
)
def test_plain_types_are_known(value: object) -> None:
    """Most of what is given to steps is not written, read and compared for nothing."""
    assert known(value)


@pytest.mark.parametrize(
    "value",
    [
        changed(lambda order: order.lines.append(Special(article="a"))),
        changed(lambda order: setattr(order, "first", Special(article="a"))),
        changed(lambda order: setattr(order, "first", {"article": "a"})),
        changed(lambda order: setattr(order, "weight", float("nan"))),
        changed(lambda order: setattr(order, "weight", 2**60 + 1)),
        changed(lambda order: setattr(order, "paid", 1)),
        changed(lambda order: setattr(order, "day", datetime(2026, 1, 2, 3))),
        changed(lambda order: setattr(order, "notes", {1: "a"})),
        changed(lambda order: setattr(order, "lines", (Line(article="a"),))),
        changed(lambda order: delattr(order, "lines")),
        datetime(1900, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32))),
        *(Started(name="a"), Private(name="a"), Open(), Stripped(name="a"), Upper(name="a"), Validated(name="a")),
        *(Renamed(name="a"), Hidden(name="a"), [1], {"a": 1}),
    ],
)
def test_a_value_that_its_type_may_read_otherwise_is_not_known(value: object) -> None:
    """Models take whatever is assigned to them, and types may do anything in code of their own."""
    assert not known(value)


@pytest.mark.parametrize(
    ("output", "declared"),
    [
        ([{"article": "a", "prices": [1, 2.5, None]}], OWN),
        (Line(article="a"), OWN),
        (Line(article="a"), Line),
        ([Line(article="a"), Line(article="b")], list[Line]),
        ({"a": [Line(article="a")]}, TypeAdapter(dict[str, list[Line]])),
    ],
)
def test_an_output_that_is_known_is_not_read_back(
    output: object, declared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one would keep other steps off the event loop for seconds."""

    def called(*arguments: object, **named: object) -> None:
        raise AssertionError("it was read back")

    for name in ("_crossed", "holds_secret"):
        monkeypatch.setattr(f"paigeant_celery.core.crossing.{name}", called)

    assert recordable(output, declared=declared) == to_jsonable(output, reason="r")


def test_what_holds_itself_is_not_known() -> None:
    """Whoever looks at it must come to an end."""
    knot = Order(lines=[])
    knot.sub.append(knot)

    with pytest.raises(NotSerializable, match="has no JSON form"):
        recordable(knot)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_known_is_also_found_by_reading_it(kind: Kind) -> None:
    """The short way says nothing that the long way does not say."""
    if certainty := certainty_of(TypeAdapter(kind.type).core_schema):
        adapter = TypeAdapter(kind.type)
        assert (
            not certainty(kind.value)
            or difference(kind.value, adapter.validate_json(adapter.dump_json(kind.value, by_alias=True))) is None
        )
        assert not certainty(kind.value) or kind.lost is None
