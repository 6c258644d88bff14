"""What surrounds the requests of a run's model, so that a replay takes no longer and says the same as its records."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from pydantic_ai.durable_exec._utils import DurableModel
from pydantic_ai.exceptions import FallbackExceptionGroup, ModelRequestTimeout
from pydantic_ai.messages import ModelRequestAttempt
from pydantic_ai.models import Model
from pydantic_ai.models._request_timeout import RequestDeadline
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext

from paigeant_celery.agents.cut_offs import explained_by
from paigeant_celery.journal.record import Record
from paigeant_celery.journal.scope import current_journal

__all__ = ["RecordedModel", "keeping_times"]


class RecordedModel(DurableModel):
    """A durable model whose requests that took too long are recorded as such: no replay waits for them again."""

    @classmethod
    def of(cls, model: DurableModel) -> RecordedModel:
        """Return a model that does what this one does."""
        return cls(
            model.wrapped,
            request_segment=model._request_segment,
            request_stream_segment=model._request_stream_segment,
            compact_messages_segment=model._compact_messages_segment,
            cancel_suspended_response_segment=model._cancel_suspended_response_segment,
        )

    def _start_request_deadline(self, model_settings: ModelSettings | None, **options: Any) -> RequestDeadline | None:
        deadline = super()._start_request_deadline(model_settings, **options)
        if deadline is None:
            return None
        return _Deadline(**{field.name: getattr(deadline, field.name) for field in fields(deadline)})

    def _with_serving_wrapper(self, wrap: Callable[[Model], Model]) -> Model:
        wrapped = super()._with_serving_wrapper(wrap)
        return RecordedModel.of(wrapped) if type(wrapped) is DurableModel else wrapped


@dataclass(frozen=True)
class _Deadline(RequestDeadline):
    @contextmanager
    def enforce(self) -> Generator[None]:
        with explained_by(ModelRequestTimeout), super().enforce():
            yield


@asynccontextmanager
async def keeping_times(ctx: RunContext[Any]) -> AsyncGenerator[Callable[[Sequence[ModelRequestAttempt] | None], None]]:
    """Give the failed attempts of a request the times that the first attempt of the hop measured.

    The block is the request; it tells of the attempts, unless it ends with the error that lists them.
    """
    found: list[ModelRequestAttempt] = []
    try:
        yield lambda attempts: found.extend(attempts or ())
    except FallbackExceptionGroup as group:
        await _keep_times(ctx, group.attempts)
        raise
    await _keep_times(ctx, found)


async def _keep_times(ctx: RunContext[Any], attempts: Sequence[ModelRequestAttempt]) -> None:
    journal = current_journal()
    if journal is None or not attempts:
        return
    key = journal.key(ctx.run_id or "", ctx.run_step, "operation", name="failed_attempts")
    record = journal.peek(key)
    if record is None:
        times = [[attempt.timestamp.isoformat(), attempt.duration.total_seconds()] for attempt in attempts]
        await journal.add(key, Record(result=times))
        return
    for attempt, (began, seconds) in zip(attempts, record.result, strict=False):
        # In place, because pydantic-ai knows by identity whose usage it has counted.
        object.__setattr__(attempt, "timestamp", datetime.fromisoformat(began))
        object.__setattr__(attempt, "duration", timedelta(seconds=seconds))
