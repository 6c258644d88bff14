"""pydantic-ai's files and links among any values, recognized without loading that library."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

__all__ = ["LIBRARY", "is_file", "is_same_kind_of_file"]

LIBRARY = "pydantic_ai.messages"
BASES = {"BinaryContent", "FileUrl", "UploadedFile"}


def is_file(value: object) -> bool:
    """Say whether a value is one of the library's files or links, or of a class that was made of one."""
    kind: Any = type(value)
    return _is_file_class(kind)


def is_same_kind_of_file(given: Any, read: Any) -> bool:
    """Say whether a file is one of the same kind, perhaps of a class that its media type has narrowed."""
    return is_file(given) and is_file(read) and given.kind == read.kind and isinstance(given, type(read))


@lru_cache(maxsize=512)
def _is_file_class(kind: type) -> bool:
    return any(base.__module__ == LIBRARY and base.__name__ in BASES for base in kind.__mro__)
