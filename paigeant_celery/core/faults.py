"""What pydantic found wrong, as reason, path and text without the value."""

from __future__ import annotations

import re

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

__all__ = ["fault_of", "first_fault", "kind_fault", "raised_by_serializer", "raised_by_validator"]

# Faults whose text is the validator's own, or quotes the value it got.
QUOTING = {"value_error", "assertion_error", "union_tag_invalid"}

# A tagged union puts its tag into the path, but the reader looks for the field.
TAG = re.compile(r"(?<=\])\.(?:agent|agent_1\.2|function|task|wait|sleep|block)(?=\.|$)|(?<=\.step)\.agent(?=\.)")

OUR_OWN = {
    "bad_agent_name",
    "bad_conversation",
    "bad_step_id",
    "empty_prompt",
    "invalid_block",
    "invalid_over",
    "invalid_prompt",
    "invalid_queue",
    "invalid_text",
    "invalid_wait",
}


def first_fault(error: ValidationError) -> tuple[tuple[int | str, ...], str, str]:
    """Return place, type and text of the first fault that pydantic found, without any value."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    text = "was refused by a validator" if first["type"] in QUOTING else first["msg"]
    return first["loc"], first["type"], text


def raised_by_validator(error: ValidationError) -> BaseException | None:
    """Return what a validator raised for the first fault, or None if pydantic itself found it."""
    raised = error.errors(include_input=False, include_url=False)[0].get("ctx", {}).get("error")
    return raised if isinstance(raised, BaseException) else None


def raised_by_serializer(value: object) -> BaseException | None:
    """Return what a serializer raises for a value that cannot be written, or None if it is pydantic that refuses it.

    Pydantic tells that only if it does not write text, so the value is written again.
    """
    try:
        to_jsonable_python(value, inf_nan_mode="constants", by_alias=True)
    except PydanticSerializationError as error:
        raised = error.__cause__
        return raised if raised is not None and raised.__traceback__ is not None else None
    except Exception as error:  # noqa: BLE001 - of a computed field
        at = error.__traceback__
        return error if at is not None and at.tb_next is not None else None
    return None


def kind_fault(error: ValidationError) -> str | None:
    """Return the path of the first step whose kind pydantic does not know, or None if each is known."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return next((_path_of(each["loc"]) for each in found if _is_kind(each["type"], each["loc"])), None)


def _is_kind(fault: str, place: tuple[int | str, ...]) -> bool:
    """Say whether a fault is about a kind: of a step that may be of several kinds, or of one that has only one."""
    return fault == "union_tag_invalid" or (fault == "literal_error" and place[-1] == "kind")


def fault_of(error: ValidationError) -> tuple[str, str, str]:
    """Return reason code, field path and text of the first fault that pydantic found, without any value."""
    place, kind, text = first_fault(error)
    path = _path_of(place)
    if kind == "string_unicode":
        return "invalid_text", path, "contains a lone surrogate"
    if kind == "extra_forbidden":
        return "unknown_field", path, "this version does not know the field"
    return (kind if kind in OUR_OWN else "invalid_envelope"), path, text


def _path_of(place: tuple[int | str, ...]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    return TAG.sub("", path)
