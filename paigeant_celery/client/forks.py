"""Forks: a new workflow that begins at a step of another one, with copies of what was recorded before it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

from paigeant_celery.broker.port import Transport
from paigeant_celery.broker.spans import dispatching
from paigeant_celery.client.beginning import Beginning
from paigeant_celery.client.checks import checked_steps
from paigeant_celery.client.forking import NewFork, Original
from paigeant_celery.core.errors import EmptyItinerary, InvalidInput, StoreCorrupt
from paigeant_celery.core.forks import name_of_ran, read_ran, without_inserted
from paigeant_celery.core.slip import ActivitySpec, ExecutedStep, Step, name_steps
from paigeant_celery.core.task_steps import TaskSignature, steps_of
from paigeant_celery.store.port import Store, WorkflowRecord

__all__ = ["Forkable"]

READ_AT_ONCE = 100  # steps


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a caller asks of a fork; not checked yet."""

    from_step: str
    prompt: str | Sequence[object] | None
    itinerary: Iterable[Step | TaskSignature] | None
    correlation_id: str | None
    deadline: datetime | None


class Forkable:
    """A workflow that others may begin from."""

    correlation_id: str
    _transport: Transport

    async def fork(
        self,
        from_step: str,
        *,
        prompt: str | Sequence[object] | None = None,
        itinerary: Iterable[Step | TaskSignature] | None = None,
        correlation_id: str | None = None,
        deadline: datetime | None = None,
    ) -> str:
        """Begin a new workflow at a step of this one, and return its correlation id. This workflow stays as it is.

        It has ended, is parked, or goes on. The new one gets copies of the recorded outputs before the step, those in
        branches too, and of the variables; what it uses is counted from 0. `from_step` is the id of a step that ended,
        or of the current one. It is asked for again as it was, with another `prompt` if one is given; `itinerary` takes
        the place of this step and all after it. Steps that the repeated ones had inserted are left out.

        `correlation_id` makes the call idempotent, as in `dispatch_workflow`. A deadline is not taken over: pass a new
        one. Raises `UnknownWorkflow`, `InvalidInput` (`unknown_path` if there is no such step, or it is in a branch,
        `not_begun`, `not_kept`, …), `WorkflowConflict`, `StoreCorrupt`, `NotRecorded` and `NotPublished`.
        """
        asked = _Asked(
            from_step=from_step, prompt=prompt, itinerary=itinerary, correlation_id=correlation_id, deadline=deadline
        )
        with dispatching() as span:
            new = await asyncio.to_thread(self._fork, asked)
            new.named_in(span)
            return await new.sent()

    def fork_sync(
        self,
        from_step: str,
        *,
        prompt: str | Sequence[object] | None = None,
        itinerary: Iterable[Step | TaskSignature] | None = None,
        correlation_id: str | None = None,
        deadline: datetime | None = None,
    ) -> str:
        """Do what `fork` does, for code without an event loop."""
        asked = _Asked(
            from_step=from_step, prompt=prompt, itinerary=itinerary, correlation_id=correlation_id, deadline=deadline
        )
        with dispatching() as span:
            new = self._fork(asked)
            new.named_in(span)
            return new.send()

    def _fork(self, asked: _Asked) -> Beginning:
        record, store = self._record("fork"), self._store("fork")
        self._transport.check_dispatch()
        with self._kept("fork"):
            original = Original.read(store, self._transport, record)
            number = original.number_before(asked.from_step)
            new = NewFork(
                from_step=asked.from_step,
                number=number,
                steps=_steps(original, asked, number),
                correlation_id=asked.correlation_id,
                deadline=asked.deadline,
            )
            return new.of(original)

    def _record(self, operation: str) -> WorkflowRecord:
        raise NotImplementedError

    def _store(self, operation: str) -> Store:
        raise NotImplementedError

    def _kept(self, operation: str) -> AbstractContextManager[None]:
        raise NotImplementedError


def _steps(original: Original, asked: _Asked, number: int) -> tuple[Step, ...]:
    """Return the steps of a fork, checked."""
    if asked.itinerary is not None:
        if asked.prompt is not None:
            raise InvalidInput("invalid_input", "prompt", "stands in the steps of `itinerary`; pass one of the two")
        earlier = [record.step_id for record in original.ran[:number]]
        steps = name_steps(checked_steps("itinerary", steps_of(asked.itinerary)), taken=earlier)
        if not steps:
            raise EmptyItinerary
        return steps
    again = _as_asked(original.store, original.record.correlation_id, original.ran[number:])
    steps = without_inserted((*again, *original.message.slip.itinerary))
    if asked.prompt is not None:
        steps = (_asking(steps[0], asked.prompt), *steps[1:])
    return tuple(checked_steps("itinerary", steps))


def _as_asked(store: Store, correlation_id: str, records: Sequence[ExecutedStep]) -> list[Step]:
    """Return what steps that ended were asked for."""
    found: list[Step] = []
    for first in range(0, len(records), READ_AT_ONCE):
        some = records[first : first + READ_AT_ONCE]
        texts = store.blobs(correlation_id, [name_of_ran(record.place) for record in some])
        for record in some:
            if (text := texts.get(name_of_ran(record.place))) is None:
                text = "an older version ran {!r}, and kept only what it gave; pass an `itinerary`, or fork later"
                raise InvalidInput("not_kept", "from_step", text.format(record.step_id))
            try:
                found.append(read_ran(text))
            except ValueError as error:
                raise StoreCorrupt(f"{correlation_id}: step {record.step_id}", str(error)) from error
    return found


def _asking(step: Step, prompt: str | Sequence[object]) -> Step:
    if not isinstance(step, ActivitySpec):
        text = f"{step.step_id!r} is no step of an agent, and has none; pass an `itinerary` to change it"
        raise InvalidInput("invalid_input", "prompt", text)
    return step.asking(prompt).model_copy(update={"step_id": step.step_id, "added_by": step.added_by})
