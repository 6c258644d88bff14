"""One notation for equal content: sets in one order, instants in one zone, numbers in their shortest form.

What crosses keeps the notation of the caller, except for the order of sets, which have none. Only digests are made of
the one notation.
"""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Mapping, Set
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from pydantic import BaseModel, JsonValue

from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.likeness import written_names

__all__ = ["in_one_notation", "settled", "shortest"]

# A whole text that is a date and time with an offset, as pydantic writes it and as RFC 3339 defines it.
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")
MAX_PLACES = 400  # of a decimal that is written out; beyond it, it keeps its exponent


def settled(value: object, tree: JsonValue, *, plain: Set[int] = frozenset()) -> tuple[JsonValue, JsonValue]:
    """Return the JSON of `value` with its sets in order, and the same with equal decimals written equally.

    The order of a set differs from process to process. Its elements are sorted by what they are, not by how they are
    written. Parts that something else than pydantic's usual rules wrote are left as they are, and so are those whose
    ids are in `plain`: they are known to hold neither sets nor decimals.
    """
    if id(value) in plain:
        return tree, tree
    if isinstance(value, BaseModel):
        return _settled_fields(value, _fields(value), tree, plain)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _settled_fields(value, [found.name for found in dataclasses.fields(value)], tree, plain)
    if isinstance(value, Mapping) and isinstance(tree, dict) and len(value) == len(tree):
        return _settled_mapping(value, tree, plain)
    if isinstance(value, (list, tuple, deque, Set)) and isinstance(tree, list) and len(value) == len(tree):
        pairs = [settled(part, branch, plain=plain) for part, branch in zip(value, tree, strict=True)]
        if isinstance(value, Set):
            pairs.sort(key=lambda pair: (dumps(in_one_notation(pair[1]), canonical=True), dumps(pair[0])))
        return [wire for wire, _ in pairs], [content for _, content in pairs]
    return tree, _shortest_leaf(value, tree)


def in_one_notation(tree: JsonValue) -> JsonValue:
    """Return JSON with each instant in UTC and each whole number as an integer, in keys too.

    A text counts as an instant if all of it is a date and time with an offset: in JSON nothing else tells them apart.
    """
    if isinstance(tree, str):
        return _in_utc(tree)
    if isinstance(tree, float):
        return int(tree) if tree.is_integer() else tree
    if isinstance(tree, list):
        return [in_one_notation(part) for part in tree]
    if isinstance(tree, dict):
        renamed = {_in_utc(key): in_one_notation(part) for key, part in tree.items()}
        if len(renamed) == len(tree):
            return renamed
        return {key: in_one_notation(part) for key, part in tree.items()}
    return tree


def shortest(amount: Decimal) -> str:
    """Return one text for equal finite decimals: 0.5 for 0.50, 10 for 1E+1."""
    sign, digits, exponent = amount.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).lstrip("0")
    bare = text.rstrip("0")
    exponent += len(text) - len(bare)
    if not bare:
        return "0"
    if 0 <= exponent <= MAX_PLACES:
        bare, exponent = bare + "0" * exponent, 0
    if -MAX_PLACES <= exponent < 0:
        bare = bare.rjust(1 - exponent, "0")
        bare, exponent = f"{bare[:exponent]}.{bare[exponent:]}", 0
    return ("-" if sign else "") + bare + (f"E{exponent:+}" if exponent else "")


def _settled_fields(value: object, names: list[str], tree: JsonValue, plain: Set[int]) -> tuple[JsonValue, JsonValue]:
    if names == ["root"] and isinstance(value, BaseModel):
        return settled(getattr(value, "root", None), tree, plain=plain)
    if not isinstance(tree, dict):
        return tree, tree
    parts = dict(value.model_extra or {}) if isinstance(value, BaseModel) else {}
    for name in names:
        key = next((key for key in written_names(type(value), name) if key in tree), None)
        if key is not None:
            parts[key] = getattr(value, name, None)
    for name, computed in getattr(type(value), "model_computed_fields", {}).items():
        key = computed.alias if computed.alias in tree else name
        if isinstance(tree.get(key), (list, dict)):
            parts[key] = getattr(value, name, None)
    pairs = {
        key: settled(parts[key], part, plain=plain) if key in parts else (part, part) for key, part in tree.items()
    }
    return _both(pairs)


def _settled_mapping(
    value: Mapping[Any, Any], tree: dict[str, JsonValue], plain: Set[int]
) -> tuple[JsonValue, JsonValue]:
    pairs = {
        written: settled(value[key], part, plain=plain)
        for key, (written, part) in zip(value, tree.items(), strict=True)
    }
    wire, content = _both(pairs)
    keys = [str(_shortest_leaf(key, written)) for key, written in zip(value, tree, strict=True)]
    if len(set(keys)) == len(keys):
        content = cast("JsonValue", dict(zip(keys, cast("dict[str, JsonValue]", content).values(), strict=True)))
    return wire, content


def _both(pairs: dict[str, tuple[JsonValue, JsonValue]]) -> tuple[JsonValue, JsonValue]:
    wire: dict[str, JsonValue] = {key: wire for key, (wire, _) in pairs.items()}
    content: dict[str, JsonValue] = {key: content for key, (_, content) in pairs.items()}
    return wire, content


def _fields(value: BaseModel) -> list[str]:
    return list(type(value).model_fields)


def _shortest_leaf(value: object, tree: JsonValue) -> JsonValue:
    if isinstance(value, Decimal) and isinstance(tree, str) and value.is_finite() and _is_written_as(value, tree):
        return shortest(value)
    if isinstance(value, time) and isinstance(tree, str) and tree == _written_time(value):
        return _time_in_utc(value) or tree
    return tree


def _is_written_as(value: Decimal, text: str) -> bool:
    try:
        return Decimal(text) == value
    except InvalidOperation:
        return False


def _written_time(value: time) -> str:
    return value.isoformat().replace("+00:00", "Z")


def _time_in_utc(value: time) -> str | None:
    """Return a time of day with an offset in UTC, or None if it has no offset or is of another day there."""
    offset = value.utcoffset()
    if offset is None:
        return None
    naive = value.replace(tzinfo=None)
    since = timedelta(hours=naive.hour, minutes=naive.minute, seconds=naive.second, microseconds=naive.microsecond)
    since -= offset
    if not timedelta() <= since < timedelta(days=1):
        return None
    return f"{(datetime.min + since).time().isoformat()}Z"


def _in_utc(text: str) -> str:
    if not INSTANT.fullmatch(text):
        return text
    try:
        moved = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # no such day, or none that Python has
        return text
    return moved.isoformat().replace("+00:00", "Z")
