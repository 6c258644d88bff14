"""JSON Pointers (RFC 6901): which value in a JSON document one points at."""

from __future__ import annotations

import re

from pydantic import JsonValue

__all__ = ["pointed_at", "pointer_fault"]

_INDEX = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)  # no list is so long, and `int` takes no longer one
_BAD_ESCAPE = re.compile(r"~(?![01])")


def pointer_fault(pointer: str) -> str:
    """Say why a text is no JSON Pointer; "" if it is one."""
    if pointer and not pointer.startswith("/"):
        return f"{pointer[:64]!r} is no JSON Pointer: one is empty, or begins with '/'"
    if _BAD_ESCAPE.search(pointer):
        return f"{pointer[:64]!r} is no JSON Pointer: after '~' comes '0' (for '~') or '1' (for '/')"
    return ""


def pointed_at(document: JsonValue, pointer: str) -> JsonValue:
    """Return the value that a pointer points at; raises `LookupError` with the part of it that leads nowhere."""
    found, walked = document, ""
    for part in pointer.split("/")[1:]:
        walked = f"{walked}/{part}"
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and _INDEX.fullmatch(name) and int(name) < len(found):
            found = found[int(name)]
        else:
            raise LookupError(walked)
    return found
