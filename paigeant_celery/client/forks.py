"""Forks: a new workflow that begins at a step of another one, with copies of what was recorded before it."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

from paigeant_celery.broker.port import Transport
from paigeant_celery.broker.tracing import current_trace
from paigeant_celery.client.beginning import Beginning
from paigeant_celery.client.checks import (
    check_blocks,
    check_deadline,
    check_queues,
    checked_correlation_id,
    checked_envelope,
    checked_steps,
    files_apart,
)
from paigeant_celery.client.copied import Before, said_before
from paigeant_celery.core.errors import EmptyItinerary, InvalidInput, StoreCorrupt
from paigeant_celery.core.files import stored_files
from paigeant_celery.core.forks import folded_whole, name_of_ran, read_ran, unspent, without_inserted
from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.message import PaigeantMessage, content_digest, reread, sha256
from paigeant_celery.core.names import hop_id
from paigeant_celery.core.slip import ActivitySpec, ExecutedStep, RoutingSlip, Step, name_steps
from paigeant_celery.core.steps import check_unique
from paigeant_celery.core.task_steps import TaskSignature, steps_of
from paigeant_celery.store.earlier import executed_of
from paigeant_celery.store.pages import all_opened
from paigeant_celery.store.port import Store, WorkflowOrigin, WorkflowRecord

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
        return await (await asyncio.to_thread(self._fork, asked)).sent()

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
        return self._fork(asked).send()

    def _fork(self, asked: _Asked) -> Beginning:
        record, store = self._record("fork"), self._store("fork")
        self._transport.check_dispatch()
        with self._kept("fork"):
            return _beginning(store, self._transport, record, asked)

    def _record(self, operation: str) -> WorkflowRecord:
        raise NotImplementedError

    def _store(self, operation: str) -> Store:
        raise NotImplementedError

    def _kept(self, operation: str) -> AbstractContextManager[None]:
        raise NotImplementedError


def _beginning(store: Store, transport: Transport, record: WorkflowRecord, asked: _Asked) -> Beginning:
    original = all_opened(store, reread(record.envelope))
    ran = executed_of(store, record.correlation_id, original.slip)
    number = _number(original.slip, ran, asked.from_step)
    before = ran[:number]
    steps = _steps(store, original, ran[number:], asked, [each.step_id for each in before], transport)
    correlation_id, now = checked_correlation_id(asked.correlation_id), datetime.now(UTC)
    check_deadline(asked.deadline, now)
    slip = RoutingSlip(itinerary=steps, executed=unspent(before))
    message = PaigeantMessage(
        message_id=hop_id(correlation_id, slip.place),
        correlation_id=correlation_id,
        created_at=now,
        sent_at=now,
        deadline=asked.deadline,
        trace_context=current_trace(),
        variables=original.variables,
        slip=slip,
        registered_activities=original.registered_activities,
        stream=original.stream,
        usage_limits=original.usage_limits,
    )
    check_queues(message, transport)
    taken = Before(store, record.correlation_id, before)
    copied = [*taken.names, *stored_files(message)]
    content = _content(record, asked.from_step, message)
    message, blobs = files_apart(message, transport)
    message, far = _short(message, transport)
    return Beginning(
        transport=transport,
        message=message,
        envelope=checked_envelope(message, transport),
        blobs={**blobs, **far},
        content=content,
        origin=WorkflowOrigin(workflow=record.correlation_id, step=asked.from_step, place=str(number)),
        copied=list(dict.fromkeys(copied)),
        said=said_before(store, record.correlation_id, taken.conversations, number, fork=correlation_id),
    )


def _number(slip: RoutingSlip, ran: Sequence[ExecutedStep], from_step: str) -> int:
    """Return how many steps are before the one at which a fork begins."""
    if not isinstance(from_step, str) or not from_step:
        raise InvalidInput("unknown_path", "from_step", "must be the id of a step")
    if "/" in from_step:
        block = from_step.partition("/")[0]
        text = f"{from_step[:64]!r} is in a branch; a fork begins on the workflow's own slip: fork at {block!r}"
        raise InvalidInput("unknown_path", "from_step", text)
    ids = [record.step_id for record in ran]
    if from_step in ids:
        return ids.index(from_step)
    ahead = [step.step_id or "" for step in slip.itinerary]
    if ahead and ahead[0] == from_step:
        return len(ids)
    if from_step in ahead:
        text = f"{ahead[0]!r} comes before {from_step!r} and has not ended; fork at {ahead[0]!r}, or wait"
        raise InvalidInput("not_begun", "from_step", text)
    close = difflib.get_close_matches(from_step, [*ids, *ahead], n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {[*ids, *ahead][:20]}"
    raise InvalidInput("unknown_path", "from_step", f"there is no step {from_step[:64]!r}; {hint}")


def _steps(
    store: Store,
    original: PaigeantMessage,
    again: Sequence[ExecutedStep],
    asked: _Asked,
    earlier: Sequence[str],
    transport: Transport,
) -> tuple[Step, ...]:
    """Return the steps of a fork, checked."""
    if asked.itinerary is not None:
        if asked.prompt is not None:
            raise InvalidInput("invalid_input", "prompt", "stands in the steps of `itinerary`; pass one of the two")
        steps = name_steps(checked_steps("itinerary", steps_of(asked.itinerary)), taken=earlier)
        if not steps:
            raise EmptyItinerary
    else:
        steps = (*_as_asked(store, original.correlation_id, again), *original.slip.itinerary)
        steps = without_inserted(steps)
        if asked.prompt is not None:
            steps = (_asking(steps[0], asked.prompt), *steps[1:])
        steps = tuple(checked_steps("itinerary", steps))
    check_unique([*earlier, *(step.step_id or "" for step in steps)])
    check_blocks(steps, "itinerary", earlier, transport.settings.max_branches)
    return steps


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


def _short(message: PaigeantMessage, transport: Transport) -> tuple[PaigeantMessage, dict[str, str]]:
    """Return the message without what need not travel of a long slip, and that."""
    slip, far = folded_whole(message.slip, most=transport.settings.inline_log_size)
    return message.model_copy(update={"slip": slip}), dict(far)


def _content(record: WorkflowRecord, from_step: str, message: PaigeantMessage) -> str:
    """Return a digest of what the caller asked for; the same while the original goes on."""
    asked = content_digest(message, notation="json")
    return sha256(dumps(["fork", record.correlation_id, record.content, from_step, asked]))
