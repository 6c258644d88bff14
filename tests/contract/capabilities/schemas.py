"""The schemas of durable operations, built once in a process that makes the agents of a row again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from pydantic_ai.durable_exec import _capability_operation as operations

__all__ = ["schemas_kept"]

_kept: dict[Any, Any] = {}


@contextmanager
def schemas_kept() -> Iterator[None]:
    """Build each schema once. One over a message history takes five seconds, which each new agent would pay for."""
    build = operations._capability_operation_schema

    def kept(function: Any, signature: Any, parameter: Any, hints: dict[str, Any], **given: Any) -> Any:
        key = (function.__module__, function.__qualname__, str(signature), repr(hints), repr(given))
        if key not in _kept:
            _kept[key] = build(function, signature, parameter, hints, **given)
        # Without a context, a schema holds the method of one capability.
        return replace(_kept[key], function=function) if parameter is None else _kept[key]

    with patch.object(operations, "_capability_operation_schema", kept):
        yield
