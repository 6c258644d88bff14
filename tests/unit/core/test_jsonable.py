"""JSON as it crosses: what Python values become, and what is refused because it would arrive as something else."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, Secret, SecretBytes, SecretStr

from paigeant_celery.core.errors import MessageError, NotSerializable
from paigeant_celery.core.jsonable import (
    MAX_DEPTH,
    MAX_VALUE_DEPTH,
    _refuse_unsound,
    check_tree,
    dumps,
    holds_secret,
    loads,
    to_jsonable,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


class Colour(Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Note:
    at: datetime
    tags: tuple[str, ...] = ()


class Order(BaseModel):
    model_config = ConfigDict(extra="allow")

    customer_id: UUID = Field(alias="customerId")
    total: Decimal


class Pets(RootModel[list[str]]):
    """Iterates over its items, as pydantic's documentation shows."""

    def __iter__(self) -> Any:
        return iter(self.root)


class Keys(RootModel[dict[str, Any]]):
    def __iter__(self) -> Any:
        return iter(self.root)


@dataclass
class Node:
    token: object
    others: list[Any] = field(default_factory=list)


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@given(tree=trees)
def test_what_is_written_is_read_back(tree: object) -> None:
    """An output is the same on the worker that made it and on the one that uses it."""
    assert loads(dumps(tree)) == tree
    assert to_jsonable(tree, reason="x") == tree


@given(tree=st.dictionaries(texts, trees, max_size=5))
def test_equal_values_have_equal_canonical_text(tree: dict[str, object]) -> None:
    """A request that is sent again is recognized, whatever the order of its fields."""
    reordered = dict(reversed(tree.items()))

    assert dumps(reordered, canonical=True) == dumps(tree, canonical=True)
    assert json.loads(dumps(tree, canonical=True)) == tree


def test_text_is_written_compactly_and_readably() -> None:
    """Messages stay small, and a person can read them in Redis."""
    assert dumps({"b": [1, 2.5, None], "a": "שלום 🦊"}) == '{"b":[1,2.5,null],"a":"שלום 🦊"}'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Note(datetime(2026, 1, 2, tzinfo=UTC), ("a",)), {"at": "2026-01-02T00:00:00Z", "tags": ["a"]}),
        (
            Order(customerId=UUID(int=1), total=Decimal("1.10"), more={"day": date(2026, 1, 2)}),
            {"customerId": "00000000-0000-0000-0000-000000000001", "total": "1.10", "more": {"day": "2026-01-02"}},
        ),
        ([Colour.RED, Path("a"), timedelta(hours=1), b"abc"], ["red", "a", "PT1H", "abc"]),
        ([Point(1, 2), {7}, frozenset({3})], [[1, 2], [7], [3]]),
        ({1: None, date(2026, 1, 2): True}, {"1": None, "2026-01-02": True}),
        (Pets(["cat", "dog"]), ["cat", "dog"]),
    ],
    ids=["dataclass", "model", "scalars", "collections", "keys", "root-model"],
)
def test_a_value_becomes_the_json_that_pydantic_writes(value: object, expected: object) -> None:
    """Tools return their own types, and every worker reads the same shape."""
    assert to_jsonable(value, reason="x") == expected


def cycle() -> list[object]:
    loop: list[object] = []
    loop.append({"again": loop})
    return loop


@pytest.mark.parametrize(
    ("value", "reason", "text"),
    [
        (cycle(), "mine", "a list has no JSON form (PydanticSerializationError)"),
        ({"secret": object()}, "mine", "a dict has no JSON form (PydanticSerializationError)"),
        (b"secret\xff", "mine", "a bytes has no JSON form (PydanticSerializationError)"),
        ([float("nan")], "mine", "NaN is not a JSON number"),
        ([float("-inf")], "mine", "-Infinity is not a JSON number"),
        (10**5000, "mine", "a number is too long"),
        (nested(MAX_VALUE_DEPTH + 1), "mine", f"more than {MAX_VALUE_DEPTH} levels at '{'[0]' * MAX_VALUE_DEPTH}'"),
        (nested(10**5), "mine", None),
        (["secret\ud800"], "invalid_text", "contains a lone surrogate"),
    ],
    ids=["cycle", "object", "bytes", "nan", "infinity", "number", "deep", "very-deep", "surrogate"],
)
def test_a_value_without_json_form_is_refused_without_quoting_it(value: object, reason: str, text: str | None) -> None:
    """The error is shown to operators; the value may be a customer's."""
    with pytest.raises(NotSerializable) as caught:
        to_jsonable(value, reason="mine")

    assert caught.value.reason == reason
    assert text is None or caught.value.text == text
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_value_as_deep_as_allowed_fits_into_an_envelope() -> None:
    """What was accepted in one step is never too deep for the message to the next one."""
    value = to_jsonable(nested(MAX_VALUE_DEPTH), reason="x")

    envelope = {"slip": {"executed": [{"output": value}], "itinerary": [{"arguments": {"a": value}}]}}

    assert loads(dumps(envelope)) == envelope
    assert loads(dumps(nested(MAX_DEPTH))) == nested(MAX_DEPTH)


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"a": [1, {"b": float("inf")}]}, "a[1].b"),
        ({"a": {"\ud800": 1}}, "a"),
        ({"a": ("x", "\ud800")}, "a[1]"),
    ],
)
def test_a_fault_in_a_tree_is_found_by_its_path(tree: object, path: str) -> None:
    """In a thousand lines of JSON, the field name is what helps."""
    with pytest.raises(MessageError) as caught:
        check_tree(tree)

    assert caught.value.path == path


faulty = st.recursive(
    st.sampled_from([None, True, 7, 1.5, float("inf"), float("nan"), "a", "ä", "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "ä", "\ud800"]), inner),
    max_leaves=4,
)


@given(faulty, st.integers(0, 3))
def test_a_tree_is_looked_at_twice_but_refused_as_if_once(tree: object, most: int) -> None:
    """The quick look, without paths, accepts nothing that the thorough one refuses."""
    found = refusal(lambda: check_tree(tree, invalid="mine", max_depth=most))

    assert found == refusal(lambda: _refuse_unsound(tree, "mine", most))


def refusal(check: Callable[[], None]) -> tuple[str, str, str] | None:
    try:
        check()
    except MessageError as error:
        return error.reason, error.path, error.text
    return None


def linked(token: object) -> Node:
    first, second = Node(None), Node(token)
    first.others, second.others = [second], [first]
    return first


@pytest.mark.parametrize(
    "value",
    [
        SecretStr("s"),
        [SecretBytes(b"s")],
        {"a": ({Secret[int](7)},)},
        {SecretStr("s"): 1},
        Order(customerId=UUID(int=1), total=Decimal(1), more=[SecretStr("s")]),
        Keys({"a": SecretStr("s")}),
        deque([Node(SecretStr("s"))]),
        linked(SecretStr("s")),
    ],
    ids=["itself", "list", "nested", "key", "extra-field", "root-model", "deque", "cycle"],
)
def test_a_secret_is_found_wherever_it_stands(value: object) -> None:
    """It would arrive as ten asterisks, and somebody would look for the wrong password."""
    assert holds_secret(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "SecretStr",
        b"s",
        linked("s"),
        Pets(["cat", "dog"]),
        Order(customerId=UUID(int=1), total=Decimal(1)),
        range(10**12),
        [Colour, Colour.RED],
    ],
    ids=["none", "text", "bytes", "cycle", "root-model", "model", "range", "enum"],
)
def test_a_value_without_secrets_may_cross(value: object) -> None:
    """The search ends for any value."""
    assert not holds_secret(value)


def test_text_with_a_nul_is_text() -> None:
    """JSON can hold it, and pages and files that tools read have it."""
    value = {"a\0": ["b\0", "\0"]}

    assert to_jsonable(value, reason="x") == value
    assert loads(dumps(value)) == value
