"""Kinds of values that people give to steps and return from them, each with the type that reads it.

`lost` is the path of the part that no JSON brings back, "" for the value itself, and None if it crosses. `own` is the
same for the value's own class at any depth, which reads it if no type is declared; `output` for what a function with
this annotation returns; `by_hand` for a step that was made without the type that reads it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    HttpUrl,
    Json,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SerializeAsAny,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic_core import PydanticSerializationError, to_json
from typing_extensions import TypedDict

__all__ = ["KINDS", "Circle", "Kind"]

T = TypeVar("T")
EAST = timezone(timedelta(hours=1))
SAME: Any = object()


@dataclass(frozen=True, kw_only=True)
class Kind:
    name: str
    type: Any
    value: Any
    lost: str | None = None
    own: str | None = SAME
    output: str | None = SAME
    by_hand: str | None = SAME
    read_as: Any = SAME  # what reads it if no type is declared
    seen: Callable[[Any], Any] | None = None  # what of it is compared, if not also its representation


KINDS: list[Any] = []


def kind(name: str, type_: Any, value: Any, **more: Any) -> None:
    made = Kind(name=name, type=type_, value=value, **more)
    if made.own is SAME:
        made = dataclasses.replace(made, own=made.lost)
    if made.output is SAME:
        made = dataclasses.replace(made, output=made.lost)
    if made.by_hand is SAME:
        made = dataclasses.replace(made, by_hand=made.lost if made.lost is not None else made.own)
    if made.read_as is SAME:
        made = dataclasses.replace(made, read_as=made.type)
    KINDS.append(pytest.param(made, id=name))


def itself(value: Any) -> Any:
    return value


class Shape(BaseModel):
    name: str = "shape"


class Circle(Shape):
    radius: int


class Square(Shape):
    side: int


class Drawing(BaseModel):
    shapes: list[Shape]


class AnyDrawing(BaseModel):
    shapes: list[SerializeAsAny[Shape]]


class Cat(BaseModel):
    name: str


class Dog(BaseModel):
    name: str


class Pets(BaseModel):
    pet: Cat | Dog


class TaggedCat(Cat):
    kind: Literal["cat"] = "cat"


class TaggedDog(Dog):
    kind: Literal["dog"] = "dog"


Tagged = Annotated[TaggedCat | TaggedDog, Discriminator("kind")]


class TaggedPets(BaseModel):
    pets: list[Tagged]


class Plain(BaseModel):
    text: str
    number: int = 3
    day: date | None = None
    tags: list[str] = []


class Computed(BaseModel):
    price: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return self.price * 2


class StrictComputed(Computed):
    model_config = ConfigDict(extra="forbid")


class OpenComputed(Computed):
    model_config = ConfigDict(extra="allow")


class Encoded(BaseModel):
    data: Json[list[int]]


class TupleKeys(BaseModel):
    prices: dict[tuple[str, int], int]


class IntKeys(BaseModel):
    prices: dict[int, str]


class DateKeys(BaseModel):
    prices: dict[date, str]


class LooseKeys(BaseModel):
    prices: dict[Any, str]


class NoneKeys(BaseModel):
    prices: dict[str | None, int]


class Limited(BaseModel):
    limit: int = Field(10, serialization_alias="maxItems")


class Required(BaseModel):
    limit: int = Field(serialization_alias="maxItems")


class ReadAlias(BaseModel):
    limit: int = Field(validation_alias="maxItems")


class TwoAliases(BaseModel):
    limit: int = Field(validation_alias="max", serialization_alias="maxItems")


class Choices(BaseModel):
    limit: int = Field(validation_alias=AliasChoices("max", AliasPath("limits", 0)))


class Paths(BaseModel):
    low: int = Field(validation_alias=AliasPath("limits", "range", 0))
    high: int = Field(validation_alias=AliasPath("limits", "range", 1))


class Mixed(BaseModel):
    one: Limited
    two: list[ReadAlias]
    three: dict[str, TwoAliases]
    four: int = Field(alias="Four")


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)

    first_name: str
    born_on: date


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)

    limit: int = Field(5, alias="maxItems")


class ByBoth(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    limit: int = Field(5, alias="maxItems")


class Hidden(BaseModel):
    name: str
    token: str = Field("", exclude=True)


class TextOrTime(BaseModel):
    when: str | datetime


class Score(BaseModel):
    score: float


class MaybeScore(BaseModel):
    score: float | None


class TextScore(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")

    score: float


class AnyValue(BaseModel):
    value: Any


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date
    parts: tuple[int, ...]
    ids: set[int]


class Doubling(BaseModel):
    number: int

    @field_validator("number", mode="before")
    @classmethod
    def double(cls, value: int) -> int:
        return value * 2


class Trimming(BaseModel):
    text: str

    @field_validator("text", mode="before")
    @classmethod
    def trim(cls, value: str) -> str:
        return value.strip()


class Ordered(BaseModel):
    low: int
    high: int

    @model_validator(mode="before")
    @classmethod
    def from_text(cls, data: Any) -> Any:
        if isinstance(data, str):
            low, high = data.split("-")
            return {"low": low, "high": high}
        return data


class AsText(BaseModel):
    low: int
    high: int

    @model_serializer
    def write(self) -> str:
        return f"{self.low}-{self.high}"


class ReadableText(AsText):
    @model_validator(mode="before")
    @classmethod
    def read(cls, data: Any) -> Any:
        return dict(zip(("low", "high"), data.split("-"), strict=True)) if isinstance(data, str) else data


class Rounded(BaseModel):
    amount: float

    @field_serializer("amount")
    def write(self, amount: float) -> float:
        return round(amount, 1)


class SerializedWhen(BaseModel):
    amount: Annotated[int, PlainSerializer(lambda amount: f"{amount} EUR", when_used="json")]


def german(value: object) -> object:
    return datetime.strptime(value, "%d.%m.%Y").date() if isinstance(value, str) else value


German = Annotated[date, PlainSerializer(lambda day: day.strftime("%d.%m.%Y")), BeforeValidator(german)]


class GermanDay(BaseModel):
    day: German


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Box(BaseModel, Generic[T]):
    item: T


class Names(RootModel[list[str]]):
    pass


class Drawings(RootModel[dict[str, Drawing]]):
    pass


class Row(TypedDict, total=False):
    name: str
    day: date


class Locked(BaseModel):
    name: str
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _client: Any = PrivateAttr(default=None)

    def connected(self) -> Locked:
        self._client = object()
        return self


class Remembering(BaseModel):
    name: str
    _seen: list[str] = PrivateAttr(default_factory=list)

    def having(self, *seen: str) -> Remembering:
        self._seen.extend(seen)
        return self


class Cached(BaseModel):
    name: str

    @cached_property
    def upper(self) -> str:
        return self.name.upper()

    def warm(self) -> Cached:
        assert self.upper
        return self


class Binary(BaseModel):
    data: bytes


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    data: bytes


class HalfBase64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")

    data: bytes


class Seconds(BaseModel):
    model_config = ConfigDict(ser_json_timedelta="float")

    wait: timedelta


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Kinds(Enum):
    PAIR = (1, 2)
    TEXT = "text"


class Rights(Flag):
    READ = 1
    WRITE = 2


class Enums(BaseModel):
    colour: Colour
    level: Level
    rights: Rights


class EnumValues(BaseModel):
    model_config = ConfigDict(use_enum_values=True)

    colour: Colour


class TextOrColour(BaseModel):
    colour: str | Colour


class Scalars(BaseModel):
    price: Decimal
    id: UUID
    path: Path
    wait: timedelta
    at: time
    host: IPv4Address
    net: IPv6Network
    url: AnyUrl
    page: HttpUrl


class Collections(BaseModel):
    queue: deque[int]
    counts: Counter[str]
    groups: defaultdict[str, list[int]]
    pairs: frozenset[tuple[int, str]]
    fixed: tuple[int, str]
    many: tuple[date, ...]


class Numbers(BaseModel):
    either: int | float
    flag: bool | int
    exact: Literal[1, "1"]
    big: int


class Point(NamedTuple):
    x: int
    y: date


@dataclass
class Place:
    town: str
    since: date
    weight: float = 1.0


@dataclass(kw_only=True, slots=True, frozen=True)
class Slotted:
    town: str
    parts: tuple[int, ...] = ()


@dataclass
class Derived:
    number: int
    square: int = field(init=False)

    def __post_init__(self) -> None:
        self.square = self.number**2


@dataclass
class Seeded:
    number: int
    seed: InitVar[int] = 0

    def __post_init__(self, seed: int) -> None:
        self.number += seed


@dataclass
class Counted:
    name: str
    calls: int = field(default=0, init=False)

    def called(self) -> Counted:
        self.calls += 1
        return self


@checked_dataclass
class Checked:
    limit: int = Field(10, serialization_alias="maxItems")
    day: date | None = None


@dataclass
class Holder:
    shapes: list[Shape]


@dataclass(eq=False)
class Bare:
    name: str


class Money:
    """A class of somebody else, without equality, that pydantic is told how to read and write."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __repr__(self) -> str:
        return f"Money({self.amount})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls(int(value)),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda money: money.amount),
        )


class Purse(BaseModel):
    money: Money


class SafeText(str):
    __slots__ = ()


class Minted(BaseModel):
    name: str
    id: UUID = Field(default_factory=uuid4, exclude=True)


class Rome(BaseModel):
    at: datetime


def camel() -> Camel:
    return Camel.model_validate({"firstName": "Ada", "bornOn": "2026-01-02"})


def writes_deques() -> bool:
    """Say whether this version of pydantic writes a deque whose type is not declared."""
    try:
        return bool(to_json(deque()))
    except PydanticSerializationError:
        return False


NAN = float("nan")
DAY = date(2026, 1, 2)
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=EAST)

kind("plain model", Plain, Plain(text="a", day=DAY, tags=["x"]))
kind("model with a computed field", Computed, Computed(price=2))
kind("computed field, extra forbidden", StrictComputed, StrictComputed(price=2))
kind("computed field, extra allowed", OpenComputed, OpenComputed(price=2))
kind("json text", Encoded, Encoded(data="[1, 2]"))
kind("tuple keys", TupleKeys, TupleKeys(prices={("a", 1): 2}), lost=".prices")
kind("integer keys", IntKeys, IntKeys(prices={1: "a"}))
kind("date keys", DateKeys, DateKeys(prices={DAY: "a"}))
kind("integer keys declared as anything", LooseKeys, LooseKeys(prices={1: "a"}), lost=".prices")
kind("a None key", NoneKeys, NoneKeys(prices={None: 1, "a": 2}), lost=".prices")
kind("serialization alias with default", Limited, Limited(limit=3))
kind("serialization alias without default", Required, Required(limit=3))
kind("validation alias", ReadAlias, ReadAlias(maxItems=3))
kind("two aliases", TwoAliases, TwoAliases(max=3))
kind("choices of aliases", Choices, Choices(max=3))
kind("paths of aliases", Paths, Paths.model_validate({"limits": {"range": [1, 2]}}))
kind(
    "aliases of all sorts at every depth",
    Mixed,
    Mixed(one=Limited(limit=1), two=[ReadAlias(maxItems=2)], three={"a": TwoAliases(max=3)}, Four=4),
)
kind("camel case", Camel, camel())
kind("read by name", ByName, ByName(limit=3))
kind("read by name or alias", ByBoth, ByBoth(limit=3))
kind("subclass in a model", Drawing, Drawing(shapes=[Circle(radius=7)]), lost=".shapes[0].radius")
kind(
    "subclass in a list",
    list[Shape],
    [Shape(), Circle(radius=7)],
    lost="[1].radius",
    own=None,
    read_as=list[Circle | Shape],
)
kind("subclass in place of the base", Shape, Circle(radius=7), lost=".radius", own=None, read_as=Circle)
kind("subclass that is written whole", AnyDrawing, AnyDrawing(shapes=[Circle(radius=7)]), lost=".shapes[0].radius")
kind("subclass in a dataclass", Holder, Holder([Square(side=1)]), lost=".shapes[0].side")
kind("first of two like models", Pets, Pets(pet=Cat(name="a")))
kind("second of two like models", Pets, Pets(pet=Dog(name="a")), lost=".pet")
kind("second of two like models, bare", Cat | Dog, Dog(name="a"), lost="", own=None, read_as=Dog)
kind("models with a discriminator", TaggedPets, TaggedPets(pets=[TaggedDog(name="a"), TaggedCat(name="b")]))
kind("excluded field with a value", Hidden, Hidden(name="a", token="t"), lost=".token")
kind("excluded field at its default", Hidden, Hidden(name="a"))
kind("excluded field that is made anew", Minted, Minted(name="a"), lost=".id")
kind("text in a text or time", TextOrTime, TextOrTime(when="soon"))
kind("time in a text or time", TextOrTime, TextOrTime(when=NOON), lost=".when")
kind("time in a text or time, bare", str | datetime, NOON, lost="", own=None, read_as=datetime, seen=itself)
kind("not a number", Score, Score(score=NAN), lost=".score")
kind("infinity", Score, Score(score=float("inf")), lost=".score")
kind("not a number, or None", MaybeScore, MaybeScore(score=NAN), lost=".score")
kind("not a number, as text", TextScore, TextScore(score=NAN))
kind("tuple declared as anything", AnyValue, AnyValue(value=(1, 2)), lost=".value")
kind("time declared as anything", AnyValue, AnyValue(value={"at": [NOON]}), lost=".value.at[0]")
kind("json declared as anything", AnyValue, AnyValue(value={"at": [1, "a", None]}))
kind("extra fields of json", Open, Open(name="a", more={"x": [1]}))
kind("extra fields of other classes", Open, Open(name="a", more={"x": DAY}), lost=".more.x")
kind("frozen model", Frozen, Frozen(name="a"))
kind("strict model", Strict, Strict(day=DAY, parts=(1,), ids={1, 2}))
kind("validator that changes again", Doubling, Doubling(number=2), lost=".number")
kind("validator that changes once", Trimming, Trimming(text=" a "))
kind("validator of other forms", Ordered, Ordered.model_validate("1-2"))
kind("model written as text", AsText, AsText(low=1, high=2), lost="")
kind("model written and read as text", ReadableText, ReadableText(low=1, high=2))
kind("serializer that rounds", Rounded, Rounded(amount=1.25), lost=".amount")
kind("serializer that rounds nothing off", Rounded, Rounded(amount=1.5))
kind("serializer for json", SerializedWhen, SerializedWhen(amount=1), lost=".amount")
kind("serializer and validator of one form", GermanDay, GermanDay(day=DAY))
kind("annotated serializer and validator", German, DAY, read_as=date, by_hand="")
kind("model in itself", Tree, Tree(name="a", children=[Tree(name="b", children=[Tree(name="c")])]))
kind("generic model", Box[date], Box[date](item=DAY))
kind("generic model of anything", Box, Box(item=DAY), lost=".item")
kind("root model", Names, Names(["a"]))
kind("root model of models", Drawings, Drawings({"a": Drawing(shapes=[Circle(radius=1)])}), lost=".a.shapes[0].radius")
kind("typed mapping", Row, {"name": "a", "day": DAY}, own=None)
kind("private attributes of no value", Locked, Locked(name="a").connected())
kind("private attribute at its default", Remembering, Remembering(name="a"))
kind("private attribute of value", Remembering, Remembering(name="a").having("x"), lost="._seen")
kind("cached property", Cached, Cached(name="a").warm())
kind("bytes of text", Binary, Binary(data=b"abc"))
kind("bytes of no text", Binary, Binary(data=b"\xff"), lost=".data")
kind("bytes in base64", Base64, Base64(data=b"\xff"))
kind("bytes in base64 one way", HalfBase64, HalfBase64(data=b"abcd"), lost=".data")
kind("seconds", Seconds, Seconds(wait=timedelta(seconds=1.5)))
kind("enums", Enums, Enums(colour=Colour.RED, level=Level.HIGH, rights=Rights.READ | Rights.WRITE))
kind("values of enums", EnumValues, EnumValues(colour=Colour.RED))
kind("enum in a text or enum", TextOrColour, TextOrColour(colour=Colour.RED), lost=".colour")
kind("enum of tuples", Kinds, Kinds.PAIR, lost="")
kind("enum of tuples and texts", Kinds, Kinds.TEXT)
kind(
    "scalars",
    Scalars,
    Scalars(
        price=Decimal("1.10"),
        id=UUID(int=7),
        path=Path("a/b"),
        wait=timedelta(days=1, microseconds=3),
        at=time(1, 2),
        host="127.0.0.1",
        net="2001:db8::/32",
        url="redis://h/0",
        page="https://example.org/a",
    ),
)
kind(
    "collections",
    Collections,
    Collections(
        queue=deque([1, 2]),
        counts=Counter("aab"),
        groups={"a": [1]},
        pairs=frozenset({(1, "a"), (2, "b")}),
        fixed=(1, "a"),
        many=(DAY,),
    ),
    seen=itself,
)
kind("numbers", Numbers, Numbers(either=1.0, flag=True, exact="1", big=2**70))
kind("named tuple", Point, Point(1, DAY))
kind("dataclass", Place, Place("Turin", DAY, 2), seen=itself)
kind("dataclass with slots", Slotted, Slotted(town="Turin", parts=(1, 2)))
kind("dataclass with a derived field", Derived, Derived(3), by_hand=".square")
kind("dataclass with a field that is only set", Counted, Counted("a").called(), lost=".calls")
kind("dataclass that forgets what made it", Seeded, Seeded(1, 2))
kind("dataclass of pydantic", Checked, Checked(limit=3, day=DAY))
kind("dataclass without equality", Bare, Bare("a"))
kind("class without equality", Purse, Purse(money=Money(3)))
kind("class of which pydantic knows nothing", Any, threading.Lock(), lost="")
kind("models in a mapping", dict[str, Limited], {"a": Limited(limit=3)})
kind("models in a tuple", tuple[Limited, ...], (Limited(limit=3),), own=None)
kind("times in a set", set[datetime], {NOON, NOON + timedelta(hours=1)}, seen=itself)
kind("frozen models in a set", frozenset[Frozen], frozenset({Frozen(name="a"), Frozen(name="b")}), seen=itself)
kind("sets in a mapping", dict[str, set[int]], {"a": {1, 2}}, seen=itself)
kind("integer keys, bare", dict[int, str], {1: "a"}, own="")
kind("integer keys, bare, as anything", dict, {1: "a"}, lost="")
kind("deque", deque[date], deque([DAY]), **({} if writes_deques() else {"own": "", "output": ""}))
kind("ordered mapping", OrderedDict[str, date], OrderedDict(a=DAY))
kind("counter", Counter[str], Counter("aab"))
kind("tuple for anything", Any, (1, 2), lost="", own=None, output=None, read_as=tuple)
kind(
    "times in a mapping of anything",
    dict[str, Any],
    {"a": DAY},
    lost=".a",
    own=None,
    output=None,
    read_as=dict[str, date],
)
kind("text of a subclass", str, SafeText("a"))
kind("member of an enum as text", Colour, Colour.RED)
kind("time of a zone", Rome, Rome(at=datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Rome"))), seen=itself)
kind(
    "time that a zone has twice",
    Rome,
    Rome(at=datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Rome"))),
    seen=lambda rome: rome.at.astimezone(UTC),
)
kind("json", Any, {"a": [1, 2.5, None, True, "x"]})
kind("mapping of json", Mapping[str, Any], {"a": [1]})
