"""Errors of calls that a run survived, as records keep them: a replay must meet them again."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping

from pydantic_ai import exceptions
from pydantic_ai.durable_exec import JSON_CODEC
from pydantic_ai.messages import ModelResponse

from paigeant_celery.core.errors import ReplayedError
from paigeant_celery.journal.record import Record, RecordedError

try:  # since pydantic-ai 2.68; before that, a stream that fails half way counts as one that never began
    from pydantic_ai.durable_exec._utils import mark_streamed_before_failing, streamed_before_failing
except ImportError:

    def mark_streamed_before_failing(error: BaseException, response: ModelResponse) -> None:
        """Mark nothing."""

    def streamed_before_failing(error: BaseException) -> ModelResponse | None:
        """Know of no such stream."""
        return None


__all__ = ["rebuilt", "survived"]


def survived(error: BaseException, fingerprint: Mapping[str, str]) -> Record:
    """Return the record of a call that failed; with what a model's stream gave before it did."""
    streamed = streamed_before_failing(error)
    return Record(
        fingerprint=fingerprint,
        failure=_described(error),
        result=JSON_CODEC.dump(ModelResponse, streamed) if streamed is not None else None,
    )


def rebuilt(record: Record) -> Exception:
    """Return the error of a record: of its class where that is of Python or pydantic-ai, else a `ReplayedError`."""
    assert record.failure is not None
    error = _of_class(record.failure)
    if record.result is not None:
        mark_streamed_before_failing(error, JSON_CODEC.load(ModelResponse, record.result))
    return error


def _described(error: BaseException) -> RecordedError:
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


def _of_class(recorded: RecordedError) -> Exception:
    # A record names no module: what it says is looked up in these two only.
    for module in (exceptions, builtins):
        found = getattr(module, recorded.error_class, None)
        if isinstance(found, type) and issubclass(found, Exception):
            try:
                return found(*recorded.args)
            except TypeError:
                break
    return ReplayedError(recorded.error_class, ", ".join(map(str, recorded.args)))
