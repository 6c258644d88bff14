"""What a durable operation is called with, as a digest that is the same in every attempt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from uuid import UUID

from pydantic import BaseModel
from pydantic_ai.durable_exec import CapabilityOperationParams
from pydantic_ai.durable_exec._workspace import WorkspaceCallParams
from pydantic_ai.messages import ModelRequest, ModelResponse

from paigeant_celery.agents.fingerprints import asked, digest
from paigeant_celery.journal.operations import ALIKE, ARGUMENTS

__all__ = ["digests_of_arguments"]

MESSAGES = (ModelRequest, ModelResponse)
CHANGING = (datetime, date, time, timedelta, UUID)  # each attempt makes its own
# The same, as text: a time as ISO 8601 writes it, and the hexadecimal digits of a UUID.
CHANGING_TEXT = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"
    r"|\b[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\b",
    re.IGNORECASE,
)
CLOCK = 1_000_000_000  # numbers from here on may be times, in seconds or in smaller units


def digests_of_arguments(params: object) -> dict[str, str]:
    """Return what a fingerprint says of an operation's arguments, without times and without the run's context.

    Of a history it covers what follows the model's last answer, which has been covered by its own request. The second
    digest is the same for arguments that differ in nothing but what each attempt measures or makes up, in any form.
    """
    if isinstance(params, CapabilityOperationParams):
        plain = _plain(params.arguments)
    elif isinstance(params, WorkspaceCallParams):
        plain = _plain(params.call)
    else:
        plain = None
    return {ARGUMENTS: digest(plain), ALIKE: digest(_lasting(plain))}


def _plain(value: object) -> object:
    if isinstance(value, CHANGING):
        return type(value).__name__
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, (str, int, float, bytes)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(digest(_plain(item)) for item in value)
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(item, MESSAGES) for item in value):
            return asked(value)
        return [_plain(item) for item in value]
    if isinstance(value, BaseModel):
        return {name: _plain(item) for name, item in value}
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name, None)) for field in fields(value)}
    return type(value).__name__


def _lasting(value: object) -> object:
    """Return the part of plain arguments that is the same in each attempt."""
    if isinstance(value, str):
        return CHANGING_TEXT.sub("", value)
    if isinstance(value, float) or (type(value) is int and value >= CLOCK):
        return "number"
    if isinstance(value, dict):
        return sorted(([_lasting(key), _lasting(item)] for key, item in value.items()), key=lambda pair: str(pair[0]))
    return [_lasting(item) for item in value] if isinstance(value, list) else value
