"""JSON as it crosses queues: strict reading, canonical writing, and values turned into it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, cast

from pydantic import BaseModel, JsonValue, SecretBytes, SecretStr
from pydantic.types import Secret
from pydantic_core import PydanticSerializationError, to_json

from paigeant_celery.core.errors import MessageError, NotSerializable
from paigeant_celery.core.faults import raised_by_serializer
from paigeant_celery.core.names import text_fault

__all__ = [
    "LEAVES",
    "MAX_DEPTH",
    "MAX_VALUE_DEPTH",
    "check_tree",
    "dumps",
    "everything_in",
    "holds_secret",
    "is_json",
    "json_of",
    "loads",
    "parts_of",
    "to_jsonable",
]

MAX_DEPTH = 64  # levels of nested arrays and objects in a whole envelope; a block takes four
MAX_VALUE_DEPTH = 24  # levels in one value, which leaves room for the envelope around it
LEAVES = (str, int, float, bool, type(None))
_COMPACT, _CANONICAL = (
    json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=canonical)
    for canonical in (False, True)
)
ATOMS = (*LEAVES, bytes, bytearray, memoryview, range, type)  # in which nothing else is looked for


def loads(text: str, *, invalid: str = "invalid_envelope", max_depth: int = MAX_DEPTH) -> JsonValue:
    """Parse strict JSON: no duplicate keys, no NaN or infinity, at most `max_depth` levels, clean text.

    Raises `MessageError` with reason `invalid`, `too_deep` or `invalid_text`.
    """
    try:
        tree = _decoder(invalid).decode(text)
    except RecursionError as error:
        raise MessageError("too_deep", "", f"more than {max_depth} levels") from error
    except json.JSONDecodeError as error:
        raise MessageError(invalid, "", f"not JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise MessageError(invalid, "", "a number is too long") from error
    check_tree(tree, invalid=invalid, max_depth=max_depth)
    return cast("JsonValue", tree)


@cache
def _decoder(invalid: str) -> json.JSONDecoder:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise MessageError(invalid, "", f"key {twice[:64]!r} appears twice in one object")
        return found

    def refuse(constant: str) -> JsonValue:
        raise MessageError(invalid, "", f"{constant} is not a JSON number")

    return json.JSONDecoder(object_pairs_hook=unique, parse_constant=refuse)


def dumps(value: object, *, canonical: bool = False) -> str:
    """Write compact JSON; `canonical` sorts keys, so that equal values give equal text."""
    return (_CANONICAL if canonical else _COMPACT).encode(value)


def check_tree(tree: object, *, invalid: str = "invalid_envelope", max_depth: int = MAX_DEPTH) -> None:
    """Raise `MessageError` if a JSON tree is too deep or holds text or numbers that cannot travel."""
    if not _is_sound(tree, max_depth):  # which most trees are, and then nothing needs a path
        _refuse_unsound(tree, invalid, max_depth)


def _is_sound(tree: object, max_depth: int) -> bool:
    """Say whether a tree has fewer than `max_depth` levels and nothing in it that might have to be refused."""
    level: list[Any] = [tree]
    for _ in range(max_depth):
        below: list[Any] = []
        for node in level:
            kind = type(node)
            if kind is str:
                if not node.isascii() and text_fault(node) is not None:
                    return False
            elif kind is dict:
                below += node.values()
                if not all(map(str.isascii, node)):
                    return False
            elif kind is list:
                below += node
            elif kind is float:
                if not math.isfinite(node):
                    return False
            elif kind not in LEAVES:
                return False
        if not below:
            return True
        level = below
    return False


def _refuse_unsound(tree: object, invalid: str, max_depth: int) -> None:
    level: list[tuple[str, object]] = [("", tree)]
    for depth in range(max_depth + 1):
        below: list[tuple[str, object]] = []
        for path, node in level:
            if isinstance(node, str):
                _check_text(path, node)
            elif isinstance(node, float) and not math.isfinite(node):
                raise MessageError(invalid, path, "a number is not finite")
            elif depth == max_depth and isinstance(node, (dict, list, tuple)):
                raise MessageError("too_deep", path[:200], f"more than {max_depth} levels")
            elif isinstance(node, dict):
                for key, value in node.items():
                    _check_text(path, key)
                    below.append((f"{path}.{key[:64]}" if path else key[:64], value))
            elif isinstance(node, (list, tuple)):
                below.extend((f"{path}[{index}]", value) for index, value in enumerate(node))
        level = below


def to_jsonable(value: object, *, reason: str) -> JsonValue:
    """Return `value` as JSON, as pydantic writes it.

    Models, dataclasses, dates, UUIDs and the like are converted. Raises `NotSerializable` with `reason` if
    something has no JSON form (open connections, NaN, cycles), with `invalid_text` if a text cannot travel.
    """
    return json_of(lambda: to_json(value, inf_nan_mode="constants", by_alias=True), value, reason=reason)


def json_of(write: Callable[[], bytes], value: object, *, reason: str) -> JsonValue:
    """Return what `write` writes of `value` as checked JSON; raises what `to_jsonable` raises."""
    try:
        return loads(write().decode(), invalid=reason, max_depth=MAX_VALUE_DEPTH)
    except MessageError as error:
        kept = error.reason if error.reason == "invalid_text" else reason
        raise NotSerializable(kept, f"{error.text} at {error.path!r}" if error.path else error.text) from None
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        if "surrogates not allowed" in str(error):
            raise NotSerializable("invalid_text", "contains a lone surrogate") from None
        text = f"a {type(value).__name__} has no JSON form ({_first_line(error)})"
        raise NotSerializable(reason, text) from raised_by_serializer(value)


def is_json(value: object) -> bool:
    """Say whether a value is JSON as it stands: nothing but texts, numbers, lists and mappings with texts as keys."""
    stack, seen = [value], set[int]()
    while stack:
        node = stack.pop()
        kind = type(node)
        if kind in LEAVES or id(node) in seen:
            continue
        seen.add(id(node))
        if kind is dict and all(type(key) is str for key in cast("dict[Any, Any]", node)):
            stack.extend(cast("dict[Any, Any]", node).values())
        elif kind is list:
            stack.extend(cast("list[Any]", node))
        else:
            return False
    return True


def holds_secret(value: object) -> bool:
    """Say whether `value` contains a pydantic secret anywhere; its JSON form would be asterisks."""
    return any(isinstance(node, (SecretStr, SecretBytes, Secret)) for node in everything_in(value))


def everything_in(value: object, *, parts: Callable[[object], Iterable[object]] | None = None) -> Iterator[object]:
    """Yield a value and everything inside it; `parts` says what an object holds, instead of `parts_of`."""
    parts = parts or parts_of
    stack, seen = [value], set[int]()
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ATOMS) and id(node) not in seen:
            seen.add(id(node))
            stack.extend(parts(node))


def parts_of(value: object) -> Iterable[object]:
    """Return what a model, dataclass, mapping or collection holds; nothing for any other value."""
    if isinstance(value, BaseModel):  # not iterated, because a `RootModel` may iterate over its items instead
        return (*vars(value).values(), *(value.model_extra or {}).values())
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return (*value.keys(), *value.values())
    return value if isinstance(value, Collection) else ()


def _check_text(path: str, text: str) -> None:
    if (fault := text_fault(text)) is not None:
        raise MessageError("invalid_text", path, fault)


def _first_line(error: BaseException) -> str:
    """Return the kind of a serialization error, without the value that it may quote."""
    return type(error).__name__
