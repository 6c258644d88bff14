"""Whether a value that was read back is the one that was written, and if not, which part of it differs first."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any, cast

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo

from paigeant_celery.core.file_classes import is_file, is_same_kind_of_file

__all__ = [
    "LEAVES",
    "NOT_FINITE",
    "OTHER_KEYS",
    "Difference",
    "Part",
    "difference",
    "field_info",
    "parts_path",
    "written_names",
]

Part = str | int

CHANGED = "comes back with another value; let what is written and what is read of it undo each other"
EXCLUDED = (
    "is kept from being written (`exclude`), and would come back as its default; make it on the worker, or leave it "
    "at its default"
)
LOST = "is not read by the type that it is for; leave it out, or declare it there"
NOT_FINITE = "a number is not finite; leave it out, or let its model write and read it as text (`ser_json_inf_nan`)"
PRIVATE = "is a private attribute, which does not cross; make it a field, or make it on the worker"
OTHER_KEYS = "its keys do not come back as they are; use text as keys, or declare their type, as in `dict[int, str]`"

LEAVES = (str, bytes, int, float, datetime, date, time, timedelta, Decimal)  # most values are of these
SEQUENCES = (list, tuple, deque)
MISSING = object()


@dataclass(frozen=True)
class Difference:
    """The first part of a value that does not come back: the way to it, and what happened, without any value.

    `converted` says that it has another class, and perhaps one that its type makes of it on purpose.
    """

    text: str
    parts: tuple[Part, ...] = ()
    converted: bool = False

    def below(self, part: Part) -> Difference:
        """Return the difference as seen from what holds the value under `part`."""
        return dataclasses.replace(self, parts=(part, *self.parts))

    def path(self, root: str) -> str:
        """Return the path of the part, such as `deps.shapes[0].radius`."""
        return root + parts_path(self.parts)


def parts_path(parts: Iterable[Part]) -> str:
    """Return what follows the name of a value in the path of its part."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part[:64]}" for part in parts)


def difference(given: object, read: object, *, loosely: bool = False, narrowed: bool = False) -> Difference | None:
    """Return the first difference between a value and what was read of its JSON, or None if they are equal.

    Equal parts have the same class, even those that Python takes for equal: a text for a member of an enum of texts, a
    list for a tuple, a base class for a subclass. An integer and a float may stand for each other. Objects without an
    equality of their own are compared by their attributes.

    `loosely` compares values of different kinds by the names of their parts, and takes JSON for whatever was made of
    it: mappings or models may be given for models of the same shape. `narrowed` takes files of pydantic-ai for equal
    that differ only in what the library derives of their data: identifier, media type, and a narrower class.
    """
    try:
        return _Comparison(loosely, narrowed)(given, read)
    except RecursionError:
        return Difference("has too many levels to be compared")


class _Comparison:
    def __init__(self, loosely: bool, narrowed: bool) -> None:
        self._loosely, self._narrowed = loosely, narrowed
        self._compared: set[tuple[int, int]] = set()

    def __call__(self, given: Any, read: Any) -> Difference | None:
        kind = type(given)
        if kind is not type(read):
            return self._of_two_classes(given, read)
        if kind in LEAVES or isinstance(given, Enum) or given is None or given is read:
            return None if given is read or _same(given, read) else Difference(CHANGED)
        if (id(given), id(read)) in self._compared:  # a value that holds itself
            return None
        self._compared.add((id(given), id(read)))
        if isinstance(given, BaseModel):
            return self._models(given, cast("BaseModel", read))
        if dataclasses.is_dataclass(given):
            return self._dataclasses(given, read)
        if isinstance(given, Mapping):
            return self._mappings(given, read)
        if isinstance(given, Set):
            return self._sets(given, read)
        if isinstance(given, SEQUENCES):
            return self._sequences(given, read)
        if _has_equality(kind):
            return None if _same(given, read) else Difference(CHANGED)
        return self._named(_attributes(given), _attributes(read))

    def _of_two_classes(self, given: Any, read: Any) -> Difference | None:
        if self._narrowed and is_same_kind_of_file(given, read):
            return self._dataclasses(given, read)
        if _is_number(given) and _is_number(read) and not isinstance(given, Enum):
            return None if _same(given, read) else Difference(CHANGED)
        if _is_bare(given) and isinstance(given, type(read)):
            if type(read) is dict:
                return self._mappings(given, read)
            if _is_leaf(read):
                return None if _same(given, read) else Difference(CHANGED)
        if isinstance(given, (*SEQUENCES, Set)) and isinstance(
            read, Iterator
        ):  # the type takes anything that has items
            return self._sequences(list(given), list(read))
        if isinstance(given, float) and not math.isfinite(given):
            return Difference(NOT_FINITE)
        if self._loosely and not isinstance(given, type(read)):
            return self._of_one_shape(given, read)
        return _other_class(given, read)

    def _of_one_shape(self, given: Any, read: Any) -> Difference | None:
        if type(given) in (str, int, float, bool):
            return None
        parts, others = _parts(given), _parts(read)
        if parts is not None and others is not None:
            return self._named(parts, {**_by_alias(read), **others}, lost=LOST)
        if not (isinstance(given, (*SEQUENCES, Set)) and isinstance(read, (*SEQUENCES, Set))):
            return _other_class(given, read)
        if len(given) != len(read):
            return Difference(CHANGED)
        if not isinstance(given, Set) and not isinstance(read, Set):
            return self._sequences(given, read)
        found = all(any(self(part, other) is None for other in read) for part in given)
        return None if found else Difference(CHANGED)

    def _models(self, given: BaseModel, read: BaseModel) -> Difference | None:
        fields = type(given).model_fields
        if isinstance(given, RootModel):
            return self(given.root, cast("RootModel[Any]", read).root)
        values, others = vars(given), vars(read)  # those of cached properties are no fields
        for name, field in fields.items():
            found = self._part(values.get(name, MISSING), others.get(name, MISSING))
            if found is not None:
                found = found if not field.exclude else Difference(EXCLUDED)
                return found.below(name)
        extra = self._named(given.model_extra or {}, read.model_extra or {})
        return extra or self._private(given, read)

    def _private(self, given: BaseModel, read: BaseModel) -> Difference | None:
        others = read.__pydantic_private__ or {}
        of_the_step = getattr(type(given), "made_by_the_step", ())
        for name, value in (given.__pydantic_private__ or {}).items():
            if name in of_the_step or _cannot_compare(value):
                continue
            if self._part(value, others.get(name, MISSING)) is not None:
                return Difference(PRIVATE, (name,))
        return None

    def _dataclasses(self, given: Any, read: Any) -> Difference | None:
        for found in dataclasses.fields(given):
            if not (found.init or found.compare):
                continue
            value, other = getattr(given, found.name, MISSING), getattr(read, found.name, MISSING)
            if self._narrowed and value is None and not found.compare and is_file(given):
                continue
            if (differs := self._part(value, other)) is not None:
                info = field_info(type(given), found.name)
                return (Difference(EXCLUDED) if info is not None and info.exclude else differs).below(found.name)
        return None

    def _mappings(self, given: Mapping[Any, Any], read: Mapping[Any, Any]) -> Difference | None:
        keys = {key: key for key in read}
        for key, value in given.items():
            other = keys.get(key, MISSING)
            if other is MISSING or not _same_key(key, other):
                return Difference(OTHER_KEYS)
            if (found := self(value, read[key])) is not None:
                return found.below(key) if isinstance(key, str) else found
        return None if len(given) == len(read) else Difference("comes back with more keys than it has")

    def _sets(self, given: Set[Any], read: Set[Any]) -> Difference | None:
        if len(given) != len(read):
            return Difference(CHANGED)
        elements = {element: element for element in read}
        for element in given:
            if element not in elements:
                # Which of the others it became cannot be said. If there is one only, its class tells more.
                one = len(given) == 1 and self(element, next(iter(read)))
                text = f"an element of class `{_name(element)}` does not come back as it is; declare its type"
                return one or Difference(text, converted=True)
            if (found := self(element, elements[element])) is not None:
                return found
        return None

    def _sequences(self, given: Any, read: Any) -> Difference | None:
        if len(given) != len(read):
            return Difference(CHANGED)
        names = getattr(given, "_fields", None)  # of a named tuple
        for index, (value, other) in enumerate(zip(given, read, strict=True)):
            if (found := self(value, other)) is not None:
                return found.below(names[index] if names else index)
        return None

    def _named(self, given: Mapping[str, Any], read: Mapping[str, Any], *, lost: str = CHANGED) -> Difference | None:
        for name, value in given.items():
            other = read.get(name, MISSING)
            found = Difference(lost) if other is MISSING else self(value, other)
            if found is not None:
                return found.below(name)
        return None if self._loosely or len(given) == len(read) else Difference("comes back with more than it has")

    def _part(self, value: object, other: object) -> Difference | None:
        if value is MISSING or other is MISSING:
            return None if value is other else Difference(CHANGED)
        return self(value, other)


def written_names(kind: type, name: str) -> tuple[str, ...]:
    """Return the names that the JSON of a model or dataclass may have for one of its fields."""
    info = field_info(kind, name)
    if info is None:
        return (name,)
    aliases = (info.serialization_alias, info.alias, info.validation_alias)
    return (name, *(alias for alias in aliases if isinstance(alias, str)))


def field_info(kind: type, name: str) -> FieldInfo | None:
    """Return what pydantic knows of a field, or None of one that it did not make itself."""
    found: FieldInfo | None = getattr(kind, "__pydantic_fields__", {}).get(name)
    return found


def _other_class(given: object, read: object) -> Difference:
    here, there = _name(given), _name(read)
    if not (isinstance(read, BaseModel) or dataclasses.is_dataclass(read)):
        remedy = f"declare a type that reads only `{here}` here, or pass what it has as JSON"
        return Difference(f"`{here}` comes back as `{there}`; {remedy}", converted=True)
    remedy = f"declare `{here}` itself here, or a union of the classes that a discriminator tells apart"
    kept = _parts(read) or {}
    lost = next((name for name in _parts(given) or {} if name not in kept), None)
    if lost is None:
        return Difference(f"`{here}` comes back as `{there}`; {remedy}", converted=True)
    return Difference(f"`{here}` comes back as `{there}`, without this; {remedy}", (lost,), converted=True)


def _same(given: Any, read: Any) -> bool:
    """Say whether two values are equal; NaN is, if it really came back."""
    if isinstance(given, datetime) and given.tzinfo is not None and read.tzinfo is not None:
        # Python takes an hour that a zone has twice for equal to nothing in another zone.
        return bool(given.astimezone(UTC) == read.astimezone(UTC))
    try:
        equal = given == read
        if isinstance(equal, bool):
            return equal or bool(given != given and read != read)
        return bool(equal.all()) if hasattr(equal, "all") else bool(equal)  # of an array
    except Exception:  # noqa: BLE001 - the equality is somebody else's code
        return False


def _same_key(key: object, other: object) -> bool:
    if isinstance(key, str) and isinstance(other, str):
        return True  # found by it, as a member of an enum of texts is
    return type(key) is type(other) or (_is_number(key) and _is_number(other))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_bare(value: object) -> bool:
    """Say whether a value of a subclass, such as a template engine's safe text, is no more than one of its base."""
    return not isinstance(value, (bool, Enum)) and not getattr(value, "__dict__", None)


def _is_leaf(value: object) -> bool:
    """Say whether a value has no parts, only an equality of its own."""
    parts = (BaseModel, Mapping, Set, *SEQUENCES)
    return _has_equality(type(value)) and not (isinstance(value, parts) or dataclasses.is_dataclass(value))


def _has_equality(kind: type) -> bool:
    return any("__eq__" in vars(base) for base in kind.__mro__ if base is not object)


def _name(value: object) -> str:
    return type(value).__name__


def _cannot_compare(value: object) -> bool:
    """Say whether only identity tells objects like `value` apart, as it does for locks, clients and functions."""
    return not _has_equality(type(value)) and not dataclasses.is_dataclass(value)


def _attributes(value: object) -> dict[str, Any]:
    """Return the attributes of an object, without what its cached properties keep there."""
    kind = type(value)
    slots = {name for base in kind.__mro__ for name in _slots(base)}
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    found.update(getattr(value, "__dict__", {}))
    return {name: part for name, part in found.items() if not isinstance(getattr(kind, name, None), cached_property)}


def _slots(kind: type) -> tuple[str, ...]:
    names = kind.__dict__.get("__slots__", ())
    names = (names,) if isinstance(names, str) else tuple(names)
    return tuple(name for name in names if name not in {"__dict__", "__weakref__"} and not name.startswith("__"))


def _parts(value: object) -> Mapping[str, Any] | None:
    """Return the parts of a value by name, or None if they have no names."""
    if isinstance(value, BaseModel):
        return {name: vars(value)[name] for name in type(value).model_fields if name in vars(value)} | (
            value.model_extra or {}
        )
    if dataclasses.is_dataclass(value):
        return {found.name: getattr(value, found.name, None) for found in dataclasses.fields(value)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return value
    return None


def _by_alias(value: object) -> dict[str, Any]:
    parts = _parts(value) or {}
    return {alias: part for name, part in parts.items() for alias in written_names(type(value), name)}
