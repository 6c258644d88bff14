"""Errors of calls that a run survived, as records keep them: a replay must meet them again."""

from __future__ import annotations

import builtins
import json

from pydantic_ai import exceptions

from paigeant_celery.errors import ReplayedError
from paigeant_celery.journal import RecordedError

__all__ = ["described", "rebuilt"]


def described(error: Exception) -> RecordedError:
    """Return what a record keeps of an error."""
    arguments: tuple[object, ...] = error.args
    if isinstance(error, exceptions.ModelHTTPError):
        arguments = (error.status_code, error.model_name, error.body)
    elif isinstance(error, exceptions.ModelAPIError):
        arguments = (error.model_name, error.message)
    try:
        json.dumps(arguments)
    except (TypeError, ValueError):
        arguments = (str(error),)
    return RecordedError(error_class=type(error).__name__, args=arguments)  # type: ignore[arg-type]  # JSON, as tried


def rebuilt(recorded: RecordedError) -> Exception:
    """Return the error of a record: of its own class where that is Python's or pydantic-ai's, else a `ReplayedError`.

    A record names no module: what it says is looked up in these two only.
    """
    for module in (exceptions, builtins):
        found = getattr(module, recorded.error_class, None)
        if isinstance(found, type) and issubclass(found, Exception):
            try:
                return found(*recorded.args)
            except TypeError:
                break
    return ReplayedError(recorded.error_class, ", ".join(map(str, recorded.args)))
