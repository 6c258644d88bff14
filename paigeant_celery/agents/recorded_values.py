"""Values that errors carry, as JSON that leads back to them: those of Python and of pydantic-ai's messages and usage.

JSON stands for itself. Any other value is a mapping with one key, `MARK`: the name of its kind, and what it is made of.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from pydantic import JsonValue
from pydantic_ai import messages, usage
from pydantic_ai.durable_exec import JSON_CODEC
from pydantic_core import PydanticSerializationError, to_jsonable_python

__all__ = ["TooMuch", "ValueReader", "ValueWriter"]

MARK = "$"
MOST_VALUES = 50_000  # of one error; what has more is no description of an error any more
DEEPEST = 50

# How values of Python are written, and read again.
PLAIN: dict[type[Any], tuple[Callable[[Any], JsonValue], Callable[[Any], Any]]] = {
    datetime: (datetime.isoformat, datetime.fromisoformat),
    date: (date.isoformat, date.fromisoformat),
    time: (time.isoformat, time.fromisoformat),
    timedelta: (lambda value: [value.days, value.seconds, value.microseconds], lambda parts: timedelta(*parts)),
    Decimal: (str, Decimal),
    UUID: (str, UUID),
    Path: (str, Path),
    bytes: (lambda value: base64.b64encode(value).decode(), base64.b64decode),
}
PLAIN_NAMES = {kind.__name__: kind for kind in PLAIN}
COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


class TooMuch(ValueError):
    """An error carries more than is recorded."""


class _Errors(Protocol):
    def __call__(self, error: BaseException, /) -> dict[str, JsonValue] | None:
        """Return the form of an error that another one carries; None if it has none."""


class ValueWriter:
    """Writes the values of one error; `error` writes an error among them."""

    def __init__(self, error: _Errors) -> None:
        self._error, self._left, self._around = error, MOST_VALUES, list[int]()

    def write(self, value: object, otherwise: Callable[[object], str]) -> JsonValue:
        """Return a value as JSON; what has no form becomes the text that `otherwise` gives. Raises `TooMuch`."""
        self._left -= 1
        if self._left < 0:
            raise TooMuch
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, float):
            return float(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, str):
            return str.__str__(value)
        if id(value) in self._around or len(self._around) > DEEPEST:
            return otherwise(value)
        self._around.append(id(value))
        try:
            return self._inside(value, otherwise)
        finally:
            self._around.pop()

    def _inside(self, value: object, otherwise: Callable[[object], str]) -> JsonValue:
        if isinstance(value, list):
            return [self.write(item, otherwise) for item in value]
        if isinstance(value, Mapping):
            if all(isinstance(key, str) for key in value) and MARK not in value:
                return {str.__str__(key): self.write(part, otherwise) for key, part in value.items()}
            pairs: list[JsonValue] = [
                [self.write(key, otherwise), self.write(part, otherwise)] for key, part in value.items()
            ]
            return {MARK: ["dict", pairs]}
        for name, kind in (("tuple", tuple), ("frozenset", frozenset), ("set", Set)):
            if isinstance(value, kind):
                return {MARK: [name, [self.write(item, otherwise) for item in value]]}
        for plain, (write, _) in PLAIN.items():
            if isinstance(value, plain):
                return {MARK: [plain.__name__, write(value)]}
        if isinstance(value, BaseException):
            form = self._error(value)
            return {MARK: ["error", form]} if form is not None else otherwise(value)
        if isinstance(value, Iterator):  # which looking would use up
            return otherwise(value)
        try:
            if (kind_of := _of_pydantic_ai(type(value).__name__)) is type(value):
                return {MARK: [type(value).__name__, JSON_CODEC.dump(kind_of, value)]}
            written: JsonValue = to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="constants")
        except (PydanticSerializationError, ValueError, RecursionError):
            return otherwise(value)
        return written


class ValueReader:
    """Reads what a `ValueWriter` wrote; `error` reads an error among the values."""

    def __init__(self, error: Callable[[Any], BaseException]) -> None:
        self._error = error

    def read(self, tree: Any) -> Any:
        """Return the value; raises anything if a later version wrote it, or it is damaged."""
        if isinstance(tree, list):
            return [self.read(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        if MARK not in tree:
            return {key: self.read(part) for key, part in tree.items()}
        name, inside = tree[MARK]
        if name in COLLECTIONS:
            return COLLECTIONS[name](self.read(inside))
        if name == "dict":
            return {self.read(key): self.read(part) for key, part in inside}
        if name == "error":
            return self._error(inside)
        if name in PLAIN_NAMES:
            return PLAIN[PLAIN_NAMES[name]][1](inside)
        kind = _of_pydantic_ai(name)
        if kind is None:
            raise ValueError("a kind of value that this version does not know")
        return JSON_CODEC.load(kind, inside)


def _of_pydantic_ai(name: str) -> type[Any] | None:
    """Return the class of this name in its messages or usage: no module is looked up by what a record says."""
    found = getattr(messages, name, None) or getattr(usage, name, None)
    return found if isinstance(found, type) and found.__module__ in (messages.__name__, usage.__name__) else None
