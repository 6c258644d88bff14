"""Which part of a value has no JSON form, for the error that refuses it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, RootModel

from paigeant_celery.core.errors import NotSerializable
from paigeant_celery.core.jsonable import MAX_VALUE_DEPTH, to_jsonable
from paigeant_celery.core.likeness import NOT_FINITE, Difference, Part
from paigeant_celery.core.names import text_fault

__all__ = ["formless"]

NO_FORM = "has no JSON form; pass what it has as JSON, or make it on the worker"
NOT_TEXT = (
    "are bytes that are no UTF-8 text; pass them as base64, for example with `ser_json_bytes` and `val_json_bytes` set "
    'to "base64" in their model'
)


def formless(value: object) -> Difference | None:
    """Return the first part of a value that has no JSON form, or None if no single part is to blame.

    Looks at more than is needed to refuse the value, so it is called only for the error.
    """
    return _formless(value, MAX_VALUE_DEPTH)


def _formless(value: object, levels: int) -> Difference | None:
    if levels < 0 or (reason := _refusal(value)) is None:
        return None
    for part, inner in _parts(value):
        if _refusal(inner) is not None:
            found = _formless(inner, levels - 1)
            return found.below(part) if found is not None else None
    return _fault_of(value, reason)


def _refusal(value: object) -> str | None:
    try:
        to_jsonable(value, reason="")
    except NotSerializable as error:
        return error.text
    return None


def _fault_of(value: object, reason: str) -> Difference | None:
    if isinstance(value, float) and not math.isfinite(value):
        return Difference(NOT_FINITE)
    if isinstance(value, str):
        fault = text_fault(value)
        return Difference(f"{fault}; replace it before you pass it on") if fault is not None else None
    if isinstance(value, (bytes, bytearray)):
        return Difference(NOT_TEXT)
    return Difference(f"a `{type(value).__name__}` {NO_FORM}") if "has no JSON form" in reason else None


def _parts(value: Any) -> Iterator[tuple[Part, object]]:
    """Yield what a value holds, by the names under which its path is written."""
    if isinstance(value, RootModel):
        yield from _parts(value.root)
    elif isinstance(value, BaseModel):
        yield from {**vars(value), **(value.model_extra or {})}.items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((found.name, getattr(value, found.name, None)) for found in dataclasses.fields(value))
    elif isinstance(value, Mapping):
        yield from ((key, part) for key, part in value.items() if isinstance(key, str))
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
