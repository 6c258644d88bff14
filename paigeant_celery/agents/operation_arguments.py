"""What a durable operation is called with, as a digest that is the same in every attempt."""

from __future__ import annotations

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

__all__ = ["digest_of_arguments"]

MESSAGES = (ModelRequest, ModelResponse)
CHANGING = (datetime, date, time, timedelta, UUID)  # each attempt makes its own


def digest_of_arguments(params: object) -> str:
    """Return a digest of what an operation is called with, without times and without the run's context.

    Of a history it covers what follows the model's last answer, which has been covered by its own request.
    """
    if isinstance(params, CapabilityOperationParams):
        return digest(_plain(params.arguments))
    if isinstance(params, WorkspaceCallParams):
        return digest(_plain(params.call))
    return digest(None)


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
