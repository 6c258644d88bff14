"""Errors of calls that a run survived, as records keep them: a replay must raise them again."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic_ai import exceptions
from pydantic_ai.durable_exec import JSON_CODEC
from pydantic_ai.messages import ModelResponse

from paigeant_celery.agents.error_forms import error_from, form_of
from paigeant_celery.core.causes import cause_of, name_of, text_of, traceback_of
from paigeant_celery.core.errors import ReplayedError
from paigeant_celery.journal.record import Record, RecordedError

try:  # since pydantic-ai 2.68; before that, a stream that fails halfway counts as one that never began
    from pydantic_ai.durable_exec._utils import mark_streamed_before_failing, streamed_before_failing
except ImportError:

    def mark_streamed_before_failing(error: BaseException, response: ModelResponse) -> None:
        """Mark nothing."""

    def streamed_before_failing(error: BaseException) -> ModelResponse | None:
        """Return None: no such stream is known."""
        return None


__all__ = ["rebuilt", "survived"]


def survived(error: BaseException, fingerprint: Mapping[str, str]) -> Record:
    """Return the record of a failed call, with what a model's stream gave before it failed."""
    streamed = None
    with suppress(Exception):  # of a class that does not let its errors be looked at
        streamed = streamed_before_failing(error)
    return Record(
        fingerprint=fingerprint,
        failure=_described(error),
        result=JSON_CODEC.dump(ModelResponse, streamed) if streamed is not None else None,
    )


def rebuilt(record: Record) -> Exception:
    """Return the error of a record: of its own class if Python, pydantic-ai or this package has it.

    For any other class a `ReplayedError` stands, which is also an instance of the nearest such classes.
    """
    assert record.failure is not None
    form = record.failure.form
    error = (error_from(form) if form is not None else None) or _of_class(record.failure)
    error.__traceback__ = traceback_of(record.failure.frames)  # where it was raised in the earlier attempt
    if record.result is not None:
        mark_streamed_before_failing(error, JSON_CODEC.load(ModelResponse, record.result))
    return error


def _described(error: BaseException) -> RecordedError:
    """Return what a record says of an error: what earlier versions read, and the form that leads back to it."""
    arguments: tuple[object, ...] = error.args
    if isinstance(error, exceptions.ModelHTTPError):
        arguments = (error.status_code, error.model_name, error.body)
    elif isinstance(error, exceptions.ModelAPIError):
        arguments = (error.model_name, error.message)
    try:
        json.dumps(arguments)
    except (TypeError, ValueError, RecursionError):
        arguments = (text_of(error),)
    return RecordedError(
        error_class=name_of(error),
        args=arguments,  # type: ignore[arg-type]  # JSON, as tried
        frames=cause_of(error).frames,
        form=form_of(error) if isinstance(error, Exception) else None,
    )


def _of_class(recorded: RecordedError) -> Exception:
    """Return the error of a record that has no form, as earlier versions wrote it, or one of the nearest class."""
    # A record names no module: its class is looked up in these two only.
    for module in (exceptions, builtins):
        found = getattr(module, recorded.error_class, None)
        if isinstance(found, type) and issubclass(found, Exception):
            for near in found.__mro__[: found.__mro__.index(Exception)]:
                with suppress(Exception):  # it takes other arguments than an error shows
                    return _made(near, *recorded.args)
    return ReplayedError(recorded.error_class, ", ".join(map(str, recorded.args)))


def _made(error_class: type[Exception], *arguments: Any) -> Exception:
    """Make an error of its recorded arguments; those of a provider's answer begin with its HTTP status."""
    if issubclass(error_class, exceptions.ModelAPIError) and isinstance(arguments[0], int):
        if error_class is exceptions.ModelHTTPError:
            return error_class(*arguments)
        status, name, body = arguments
        category: Any = error_class
        return exceptions.ModelHTTPError.for_category(category, status_code=status, model_name=name, body=body)
    return error_class(*arguments)
