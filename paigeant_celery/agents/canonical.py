"""JSON in one form, so that equal things have equal digests: the hash seed of a process may order what a set made.

As in RFC 8785, keys are sorted and equal numbers are equal texts. (That RFC has no integers beyond 53 bits, but schemas
have.) In schemas also lists are sorted if their order says nothing, and texts for people are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Set
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

__all__ = ["NAMED_SCHEMAS", "TEXTS", "canonical", "canonical_schema", "sorted_lists"]

# Words for people and models; changing them does not change the values that a schema takes.
TEXTS = {"title", "description", "examples", "$comment"}
NAMED_SCHEMAS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
IN_ORDER = {"prefixItems", "items"}  # lists of schemas for the first value, the second, …
VALUES = {"const", "default", "enum"}  # keywords that hold values, whose keys are no keywords


def canonical(value: object) -> bytes:
    """Return JSON as the bytes of its one form."""
    return json.dumps(_equal_numbers(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def canonical_schema(schema: object) -> object:
    """Return a schema whose parts stand in an order of their own, without the texts for people."""
    if isinstance(schema, Mapping):
        return {str(key): _part(key, part) for key, part in schema.items() if key not in TEXTS}
    if isinstance(schema, (list, tuple, Set)):
        return _sorted(canonical_schema(item) for item in schema)
    return _leaf(schema)


def sorted_lists(value: object) -> object:
    """Return a value whose lists are sorted, at every depth; those that sets have become are then equal."""
    if isinstance(value, Mapping):
        return {str(key): sorted_lists(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, Set)):
        return _sorted(sorted_lists(item) for item in value)
    return _leaf(value)


def _part(key: object, part: object) -> object:
    if key in NAMED_SCHEMAS and isinstance(part, Mapping):
        return {str(name): canonical_schema(schema) for name, schema in part.items()}
    if key in IN_ORDER and isinstance(part, (list, tuple)):
        return [canonical_schema(item) for item in part]
    return sorted_lists(part) if key in VALUES else canonical_schema(part)


def _sorted(items: Iterable[object]) -> list[object]:
    return sorted(items, key=canonical)


def _leaf(value: object) -> object:
    """Return a value that may stand in JSON; what has no form there is known by its class."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    try:
        return sorted_lists(to_jsonable_python(value))
    except (PydanticSerializationError, ValueError, RecursionError):
        return type(value).__name__


def _equal_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _equal_numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_equal_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
