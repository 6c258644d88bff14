"""Calls of an agent's run, checked against its hop's journal: replayed if recorded, otherwise made and recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, TypeVar

from pydantic_ai.durable_exec import (
    BoundDurableOperation,
    CapabilityOperationId,
    DurableOperation,
    DurableOperationBackend,
    EventStreamHandlerParams,
    ModelCancelSuspendedResponseId,
    ModelCompactMessagesId,
    ModelRequestId,
    ModelRequestParams,
    durable_unit_scope,
)
from pydantic_ai.tools import RunContext

from paigeant_celery.agents.cut_offs import when_explained
from paigeant_celery.agents.fingerprints import Digests
from paigeant_celery.agents.operation_arguments import digest_of_arguments
from paigeant_celery.agents.recorded_errors import rebuilt, survived
from paigeant_celery.agents.recorded_usage import Spending
from paigeant_celery.journal.hop_journal import HopJournal, calling, current_journal
from paigeant_celery.journal.operations import ARGUMENTS
from paigeant_celery.journal.record import CallKey, CallKind, Record

try:  # since pydantic-ai 2.68; before that, the spans of replayed calls are exported again
    from pydantic_ai.durable_exec import record_durable_unit
except ImportError:

    def record_durable_unit(*, executed: bool) -> None:
        """Report nothing."""


__all__ = ["JournalBackend", "recorded"]

CUT_OFF = asyncio.CancelledError.__name__

ParamsT = TypeVar("ParamsT")
WireT = TypeVar("WireT")
ResultT = TypeVar("ResultT")


async def recorded(
    journal: HopJournal,
    key: CallKey,
    fingerprint: Mapping[str, str],
    make: Callable[[], Awaitable[Record]],
    *,
    spending: Spending | None = None,
    unit: Callable[[], AbstractContextManager[object]] = durable_unit_scope,
    later: Callable[[Record], bool] = lambda record: False,
) -> Record:
    """Return the record of a call that is made now or was made by an earlier attempt.

    Raises the error of a recorded call that failed but whose run survived. If such a call had been cut off for a reason
    that is not known, the replay waits to be cut off again. `spending` is where the call's usage is counted,
    `unit` surrounds what is made, and what `later` says matters only if the step goes on, and is recorded then.
    """
    record = journal.find(key, fingerprint)
    if record is not None:
        record_durable_unit(executed=False)
        if spending is not None:
            spending.count(record.usage)
        if record.failure is None:
            return record
        if record.failure.error_class == CUT_OFF and record.failure.form is None:  # those of Python's futures have one
            await asyncio.Event().wait()
        raise rebuilt(record)

    def failed(error: BaseException) -> None:
        usage = spending.used() if spending is not None else {}
        journal.add_later(key, replace(survived(error, fingerprint), usage=usage))

    async with journal.making():
        try:
            with calling(str(key), recorded=True), unit():
                record = await make()
        except (Exception, asyncio.CancelledError) as error:
            failed(error)
            if isinstance(error, asyncio.CancelledError):
                when_explained(failed)
            raise
        try:
            if later(record):
                journal.add_later(key, record)
            else:
                await journal.add(key, record)
        except asyncio.CancelledError as error:  # it is answered and may be recorded, but not for the run
            failed(error)
            when_explained(failed)
            raise
    record_durable_unit(executed=True)
    return record


class JournalBackend(DurableOperationBackend[None]):
    """Binds the operations of pydantic-ai's base class to the journal of the hop that runs when they are called."""

    def __init__(self, digests: Digests) -> None:
        self._digests = digests

    def bind(
        self, operation: DurableOperation[ParamsT, WireT, ResultT]
    ) -> BoundDurableOperation[ParamsT, WireT, ResultT]:
        return _RecordedOperation(operation, self._digests)

    def config_for_tool(self, operation: object, *, tool: object | None, tool_name: str) -> None:
        return None

    def registrations(self) -> Sequence[Callable[..., object]]:
        return ()


class _RecordedOperation(BoundDurableOperation[ParamsT, WireT, ResultT]):
    """An operation whose calls are recorded: a model request, an event handler's event, a capability's operation."""

    def __init__(self, operation: DurableOperation[ParamsT, WireT, ResultT], digests: Digests) -> None:
        self._operation, self._digests = operation, digests

    @property
    def operation(self) -> DurableOperation[ParamsT, WireT, ResultT]:
        return self._operation

    async def __call__(self, params: ParamsT, *, config: object | None = None) -> ResultT:
        journal = current_journal()
        if journal is None:
            return await self._operation.handler(params)
        kind, name, fingerprint = self._identity(params)
        ctx = _context_of(params)
        run_id, step, call_id = ctx.run_id or "", ctx.run_step, ctx.tool_call_id or _call_id_of(params) or ""
        if kind == "operation":
            key = journal.operation_key(run_id, step, name=name, call_id=call_id, digest=fingerprint[ARGUMENTS])
        else:
            key = journal.key(run_id, step, kind, name=name, call_id=call_id)
        spending = Spending(ctx.usage) if kind != "model" else None  # the run counts what a response says

        async def make() -> Record:
            result = self._operation.result_codec.dump(await self._handled(params, spending))
            # The result of a capability's operation says itself what was used.
            usage = spending.used() if spending is not None and kind == "event" else {}
            return Record(fingerprint=fingerprint, result=result, usage=usage)

        record = await recorded(journal, key, fingerprint, make, spending=spending)
        return self._operation.result_codec.load(record.result)

    async def _handled(self, params: Any, spending: Spending | None) -> ResultT:
        if spending is None:
            return await self._operation.handler(params)
        try:
            apart = replace(_context_of(params), usage=spending.apart)
            return await self._operation.handler(replace(params, **{_context_field(params): apart}))
        finally:
            spending.settle()

    def _identity(self, params: object) -> tuple[CallKind, str, dict[str, str]]:
        match self._operation.operation_id:
            case ModelRequestId(model_name=model_name):
                assert isinstance(params, ModelRequestParams)
                return "model", "", self._digests.of_request(params, model_name=model_name)
            case ModelCompactMessagesId(model_name=model_name):
                return "model", "compact", {"model": model_name}
            case ModelCancelSuspendedResponseId(model_name=model_name):
                return "model", "cancel", {"model": model_name}
            case CapabilityOperationId(capability_id=capability, operation=operation):
                return "operation", f"{capability}.{operation}", {ARGUMENTS: digest_of_arguments(params)}
        if isinstance(params, EventStreamHandlerParams):
            return "event", params.event.event_kind, {}
        name = type(self._operation.operation_id).__name__
        return "operation", name, {ARGUMENTS: digest_of_arguments(params)}


def _context_of(params: Any) -> RunContext[Any]:
    context = getattr(params, _context_field(params))
    assert isinstance(context, RunContext)
    return context


def _context_field(params: Any) -> str:
    return "run_context" if hasattr(params, "run_context") else "ctx"


def _call_id_of(params: object) -> str | None:
    """Return the tool call that an event is about: parallel tools end in a different order when they are replayed."""
    found = getattr(params.event, "tool_call_id", None) if isinstance(params, EventStreamHandlerParams) else None
    return found if isinstance(found, str) else None
