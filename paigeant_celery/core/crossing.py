"""Values as the JSON that crosses: JSON that the reader's type reads back equal, or a refusal before anything is sent.

What pydantic writes is not always what the same type reads: names, classes, excluded fields and keys may be lost on
the way. So each value is read back here, as a worker will read it, and compared with what was given.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, Protocol, cast, runtime_checkable

from pydantic import (
    BaseModel,
    JsonValue,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import to_json

from paigeant_celery.core.certainty import Certainty, certainty_of
from paigeant_celery.core.errors import InvalidInput, NotSerializable, PaigeantError
from paigeant_celery.core.faults import first_fault, raised_by_validator
from paigeant_celery.core.formless import formless
from paigeant_celery.core.jsonable import LEAVES, dumps, holds_secret, is_json, json_of, to_jsonable
from paigeant_celery.core.likeness import OTHER_KEYS, Difference, difference
from paigeant_celery.core.notation import settled
from paigeant_celery.core.read_names import is_misnamed, renamed

__all__ = ["NOTHING", "OWN", "Crossed", "Reader", "cross", "reader_of", "recordable", "refuse_lost"]

OWN: Any = object()  # in the place of a type: each value is read by its own class, at any depth
MAPPINGS = (dict, OrderedDict, defaultdict)
SEQUENCES = (list, tuple, set, frozenset, deque)

# Schemas of containers that take anything unless they say what: the part that says it.
BARE = {
    **dict.fromkeys(("list", "set", "frozenset", "generator"), "items_schema"),
    "dict": "values_schema",
}


@runtime_checkable
class Reader(Protocol):
    """What reads JSON as one type and writes it; a `TypeAdapter` is one.

    `around`, if it has that, is how many parts of an error's place stand for what is around the value.
    """

    def validate_json(self, data: str, /) -> Any: ...

    def validate_python(self, value: Any, /, *, strict: bool | None = None) -> Any: ...

    def dump_json(self, value: Any, /, *, round_trip: bool, by_alias: bool, warnings: bool) -> bytes: ...


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Crossed:
    """A value as the JSON that crosses, with what only this process knows of it.

    `content` is the same in the notation of a digest. `value` is what was read back, if that is more than the JSON: a
    copy, which changes to the given value do not reach. `read_by` is the type or the types that read it. All of these
    are equal to each other, since two steps are equal if their JSON is. A copy by `pickle` or `deepcopy` is without the
    value, which may be of a local class.
    """

    tree: JsonValue
    content: JsonValue
    value: object = OWN
    read_by: object = OWN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Crossed)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Crossed], tuple[JsonValue, JsonValue]]:
        return Crossed, (self.tree, self.content)

    def content_of(self, tree: JsonValue) -> JsonValue:
        """Return the content of a step's JSON, which is `tree` itself if somebody changed it."""
        return self.content if self.content is not self.tree and dumps(tree) == dumps(self.tree) else tree


NOTHING = Crossed(None, None)  # what a step has that was read from a message


class _Lost(PaigeantError):
    """A value does not come back from its JSON."""

    def __init__(self, found: Difference) -> None:
        super().__init__(found)
        self.found = found


def cross(value: object, *, path: str, reader: Any = OWN, readers: Mapping[str, Any] | None = None) -> Crossed:
    """Return a value given by the caller as the JSON that crosses the queue.

    `reader` is the type, or its `TypeAdapter`, that reads it on the worker. `readers` are those of the single parts of
    a mapping, by name. Raises `InvalidInput` (`secret_without_encryption`, `invalid_text`, `invalid_<path>`) with the
    path of the part that would not come back as it is.
    """
    if not is_json(value) and holds_secret(value):
        raise InvalidInput(
            "secret_without_encryption",
            path,
            "a pydantic secret would travel as asterisks; leave it out and make it on the worker with `deps_factory`",
        )
    try:
        return _crossed(value, reader, readers, reason=f"invalid_{path}")
    except NotSerializable as error:
        found = formless(value) or Difference(error.text)
        raise InvalidInput(error.reason, found.path(path), found.text) from None
    except _Lost as lost:
        raise InvalidInput(f"invalid_{path}", lost.found.path(path), lost.found.text) from None


def recordable(output: object, *, declared: Any = OWN) -> JsonValue:
    """Return a step's output as the JSON to record.

    It is read back as the `declared` type, or by its `TypeAdapter`, if it is a value of it, else by its own class; so
    are parts about which that type says nothing. Raises `NotSerializable` (`output_not_serializable`, `invalid_text`).
    """
    try:
        return _recordable(output, declared)
    except NotSerializable as error:
        if (found := formless(output)) is None:
            raise
        raise NotSerializable(error.reason, f"`{found.path('output')}`: {found.text}") from error.__cause__


def _recordable(output: object, declared: Any) -> JsonValue:
    reason = "output_not_serializable"
    reader = None if declared is OWN else cast("TypeAdapter[Any] | None", reader_of(declared))
    if is_json(output) or _is_certain(output, type(output) if reader is None else reader):
        return to_jsonable(output, reason=reason)
    if holds_secret(output):
        text = "a pydantic secret would be recorded as asterisks; return only what may be recorded"
        raise NotSerializable(reason, text)
    try:
        if reader is None or not _is_value_of(output, reader):
            return _crossed(output, OWN, None, reason=reason).tree
        try:
            return _crossed(output, reader, None, reason=reason).tree
        except _Lost as lost:
            # A type such as `Sequence[int]` says nothing about the class of the container.
            itself = isinstance(output, (tuple, set, frozenset, deque)) and not lost.found.parts
            if not itself and not _says_any(reader.core_schema):
                raise
            return _crossed(output, OWN, None, reason=reason).tree
    except _Lost as lost:
        raise NotSerializable(reason, f"`{lost.found.path('output')}`: {lost.found.text}") from lost.__cause__


def refuse_lost(
    crossed: Crossed, read: object, *, path: str, reader: Any = OWN, readers: Mapping[str, Any] | None = None
) -> None:
    """Raise `InvalidInput` if what the worker's own type read of a value is not the value that was given.

    `reader` and `readers` are those of `cross`, which did not know them.
    """
    if crossed.value is OWN or crossed.read_by is (reader if readers is None else readers):
        return
    value = crossed.value() if isinstance(crossed.value, partial) else crossed.value
    if readers is None:
        adapter = reader_of(reader)
        found = _lost(value, read, adapter) if adapter is not None else None
    else:
        found = _lost_parts(cast("Mapping[str, Any]", value), cast("Mapping[str, Any]", read), readers)
    if found is not None:
        raise InvalidInput(f"invalid_{path}", found.path(path), found.text)


def reader_of(type_: Any) -> Reader | None:
    """Return what reads JSON as a type, or None if the type cannot be made from JSON."""
    return type_ if isinstance(type_, Reader) and not isinstance(type_, type) else _adapter(type_)


def _adapter(type_: Any) -> TypeAdapter[Any] | None:
    kind: Any = type_ if isinstance(type_, type) else None
    try:
        # Only classes are kept: Python takes `int | str` and `str | int` for equal, which read differently.
        return _class_adapter(kind) if kind is not None else TypeAdapter(type_)
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError, NameError):
        return None


@lru_cache(maxsize=512)
def _certainty(adapter: TypeAdapter[Any]) -> Certainty | None:
    return certainty_of(adapter.core_schema)


@lru_cache(maxsize=512)
def _class_adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _crossed(value: object, reader: Any, readers: Mapping[str, Any] | None, *, reason: str) -> Crossed:
    if is_json(value):
        tree = to_jsonable(value, reason=reason)
        return Crossed(tree, tree)
    read_by: object = reader if readers is None else readers
    kind: Any = type(value)
    try:
        first: Any = to_jsonable(value, reason=reason)
    except NotSerializable:
        # A type may write what has no form of its own, and a class may have another form.
        if readers is None and reader is OWN and kind in (*MAPPINGS, *SEQUENCES):
            raise
        first = OWN
    by = reader_of(kind if reader is OWN else reader) if readers is None else None
    if first is not OWN and by is not None and _is_certain(value, by):
        return Crossed(first, first, partial(by.validate_json, dumps(first)), read_by)
    written = _Written(reason)
    try:
        if readers is not None:
            tree, read = written.named(cast("Mapping[str, Any]", value), first, readers)
        else:
            tree, read = written(value, first, by if reader is not OWN else None)
    except _Lost:
        if first is OWN:
            to_jsonable(value, reason=reason)  # why it has no form of its own says more
        raise
    wire, content = settled(value, tree, plain=written.certain)
    return Crossed(wire, wire if dumps(content) == dumps(wire) else content, read, read_by)


def _is_certain(value: object, by: Any) -> bool:
    """Say whether a value is one of those that a type, or a reader, is known to read back equal."""
    reader = _adapter(by) if isinstance(by, type) else by
    known = _certainty(reader) if isinstance(reader, TypeAdapter) else getattr(reader, "certainty", None)
    try:
        return known is not None and known(value)
    except RecursionError:  # it holds itself, or has more levels than JSON may have
        return False


class _Written:
    """Writes values as JSON that is read back equal; raises `_Lost`."""

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self.certain: set[int] = set()  # the ids of parts that were not looked into

    def __call__(self, value: Any, first: Any, reader: Reader | None) -> tuple[JsonValue, Any]:
        """Return JSON for `value` and what `reader`, or else its own class, reads of it.

        `first` is its usual JSON, which is taken if it is read back, or OWN if it has none.
        """
        kind: Any = type(value)
        if reader is not None:
            return (first, value) if self._is_certain(value, first, reader) else self._read_back(value, first, reader)
        if kind in LEAVES:
            return cast("JsonValue", first), value
        if self._is_certain(value, first, kind):
            return first, _class_adapter(kind).validate_json(dumps(first))
        if kind in MAPPINGS and isinstance(first, dict) and len(value) == len(first):
            return self._mapping(value, first)
        if kind in SEQUENCES and isinstance(first, list):
            parts = [
                self._below(index, part, branch, None)
                for index, (part, branch) in enumerate(zip(value, first, strict=True))
            ]
            return [tree for tree, _ in parts], kind(read for _, read in parts)
        reader = reader_of(_readable_class(value))
        if reader is None:
            text = f"`{kind.__name__}` cannot be made from JSON; pass what it has as JSON, or give its class a form"
            raise _Lost(Difference(text))
        return self._read_back(value, first, reader)

    def _is_certain(self, value: Any, first: Any, reader: Any) -> bool:
        if first is OWN or not _is_certain(value, reader):
            return False
        self.certain.add(id(value))
        return True

    def named(
        self, values: Mapping[str, Any], first: Any, readers: Mapping[str, Any]
    ) -> tuple[JsonValue, dict[str, Any]]:
        """Write the parts of a mapping, each with its own reader."""
        trees: dict[str, JsonValue] = {}
        read: dict[str, Any] = {}
        for name, value in values.items():
            if is_json(value):
                trees[name], read[name] = first[name] if first is not OWN else self._usual(value), value
                continue
            reader = reader_of(readers[name]) if name in readers else None
            branch = first[name] if first is not OWN else self._usual(value, instead=OWN)
            trees[name], read[name] = self._below(name, value, branch, reader)
        return cast("JsonValue", trees), read

    def _usual(self, value: object, **given: Any) -> Any:
        try:
            return to_jsonable(value, reason=self._reason)
        except NotSerializable:
            if "instead" in given:
                return given["instead"]
            raise

    def _mapping(self, value: Mapping[Any, Any], first: dict[str, JsonValue]) -> tuple[JsonValue, Any]:
        trees: dict[str, JsonValue] = {}
        read: dict[Any, Any] = {}
        for (key, part), (name, branch) in zip(value.items(), first.items(), strict=True):
            if not isinstance(key, str) or key != name:
                raise _Lost(Difference(OTHER_KEYS))
            trees[name], read[key] = self._below(name, part, branch, None)
        return cast("JsonValue", trees), read

    def _below(self, part: str | int, value: Any, first: Any, reader: Reader | None) -> tuple[JsonValue, Any]:
        try:
            return self(value, first, reader)
        except _Lost as lost:
            raise _Lost(lost.found.below(part)) from lost.__cause__

    def _read_back(self, value: Any, first: Any, reader: Reader) -> tuple[JsonValue, Any]:
        """Return the first form of `value` that is read back equal, at worst but for what files derive."""
        unread: Difference | None = None
        lost: Difference | None = None
        spare: tuple[JsonValue, Any] | None = None
        raised: BaseException | None = None  # by a validator
        for tree in self._forms(value, first, reader):
            try:
                read = reader.validate_json(dumps(tree))
            except ValidationError as error:
                unread = _unread(error, around=getattr(reader, "around", 0))
                raised = raised_by_validator(error)
                continue
            except Exception as error:  # noqa: BLE001 - a validator is somebody else's code
                unread = Difference(f"a validator raised {type(error).__name__} on what is written for it")
                raised = error
                continue
            found = _lost(value, read, reader, narrowed=False)
            if found is None:
                return tree, read
            if spare is None and _lost(value, read, reader) is None:
                spare = tree, read
            lost = lost or found
        if spare is not None:
            return spare
        found = lost or _refused(value, reader) or unread
        raise _Lost(found or Difference("has no JSON form that its type reads")) from raised

    def _forms(self, value: Any, first: Any, reader: Reader) -> Iterator[JsonValue]:
        """Yield the forms that JSON of `value` may have, beginning with the usual one.

        If that has names that are not read, it comes last: it is read back equal only while the fields hold defaults.
        """
        misnamed = is_misnamed(value)
        if first is not OWN:
            if not misnamed:
                yield first
            if self._usual(value, instead=OWN) != first:  # an iterator in it can be read only once
                if misnamed:
                    yield first
                return
        # Without computed fields, and with `Json` fields written as the text that they are read from.
        for by_alias in (False, True) if misnamed else (True, False):
            for tree in self._round_trips(value, reader, by_alias=by_alias):
                yield tree if by_alias else renamed(value, tree)
        if first is not OWN and misnamed:
            yield first

    def _round_trips(self, value: Any, reader: Reader, *, by_alias: bool) -> Iterator[JsonValue]:
        def by_type() -> bytes:
            return reader.dump_json(value, round_trip=True, by_alias=by_alias, warnings=False)

        def by_value() -> bytes:
            return to_json(value, round_trip=True, by_alias=by_alias, inf_nan_mode="constants")

        for write in (by_type, by_value):
            try:
                yield json_of(write, value, reason=self._reason)
            except Exception:  # noqa: BLE001, S112 - a serializer is somebody else's code, and other forms are left
                continue


def _lost(value: Any, read: Any, reader: Reader, *, narrowed: bool = True) -> Difference | None:
    """Return what of `value` is not in what was read of its JSON, or None.

    A type may convert what it is given, such as a mapping to a model or a tuple to a list. So if another class came
    back, it is compared with what the type makes of the value itself.
    """
    found = difference(value, read, narrowed=narrowed)
    if found is None or not found.converted:
        return found
    try:
        wanted = reader.validate_python(value)
    except Exception:  # noqa: BLE001 - it takes only JSON, or is somebody else's code
        return found if difference(value, read, loosely=True, narrowed=narrowed) is not None else None
    return found if difference(wanted, read, narrowed=narrowed) is not None else None


def _lost_parts(given: Mapping[str, Any], read: Mapping[str, Any], readers: Mapping[str, Any]) -> Difference | None:
    for name in given.keys() & read.keys() & readers.keys():
        if not is_json(given[name]) and (found := _lost(given[name], read[name], readers[name])) is not None:
            return found.below(name)
    return None


def _refused(value: Any, reader: Reader) -> Difference | None:
    """Return what the type has against the value itself, such as that it is of another class, or None."""
    try:
        reader.validate_python(value)
    except ValidationError as error:
        unread = _unread(error, around=getattr(reader, "around", 0))
        text = f"is not what its type takes ({first_fault(error)[2]})"
        return unread if unread.text == OTHER_KEYS else Difference(text, unread.parts)
    except Exception:  # noqa: BLE001 - a validator is somebody else's code
        return None
    return None


def _unread(error: ValidationError, *, around: int) -> Difference:
    place, kind, text = first_fault(error)
    place = place[around:]
    if place[-1:] == ("[key]",):
        return Difference(OTHER_KEYS, place[:-2])
    remedy = {
        "missing": "give the field one `alias` for writing and reading, or a default if it is not written",
        "extra_forbidden": "let its class take what it writes",
        "float_type": "a number that is not finite is written as null: leave it out, or set `ser_json_inf_nan`",
    }.get(kind, "let its validators take what its serializers write")
    return Difference(f"its own type does not read what is written for it ({text}); {remedy}", place)


def _readable_class(value: object) -> type:
    """Return the class that reads a value: its own, or the nearest base that pydantic can make from JSON."""
    kinds = type(value).__mro__[:-1]
    return next((kind for kind in kinds if reader_of(kind) is not None), type(value))


def _is_value_of(value: object, reader: TypeAdapter[Any]) -> bool:
    """Say whether a value is one of a type that says something about it.

    `Any` and `BaseModel` do not, and what was read of an iterator is none any more.
    """
    if reader.core_schema["type"] in {"any", "generator"} or reader.core_schema.get("cls") is BaseModel:
        return False
    try:
        reader.validate_python(value, strict=True)
    except Exception:  # noqa: BLE001 - a validator is somebody else's code
        return False
    return True


def _says_any(schema: Any) -> bool:
    """Say whether some part of a type may be anything."""
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, Mapping):
            if node.get("type") == "any" or BARE.get(node.get("type", ""), "") not in {"", *node}:
                return True
            if node.get("type") not in {"model", "dataclass", "definition-ref"}:
                stack.extend(part for name, part in node.items() if name not in {"metadata", "serialization"})
        elif isinstance(node, (list, tuple)):
            stack.extend(node)
    return False
