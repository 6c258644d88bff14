"""Calls of an agent's run, checked against its hop's journal: replayed if recorded, otherwise made and recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_ai.durable_exec import (
    BoundDurableOperation,
    CapabilityOperationId,
    DurableOperation,
    DurableOperationBackend,
    EventStreamHandlerParams,
    ModelCancelSuspendedResponseId,
    ModelCancelSuspendedResponseParams,
    ModelCompactMessagesId,
    ModelRequestId,
    ModelRequestParams,
    ResultCodec,
    durable_unit_scope,
)
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.tools import RunContext

from paigeant_celery.agents.budget import budget_of, usage_of_answer
from paigeant_celery.agents.cut_offs import when_explained
from paigeant_celery.agents.fingerprints import Digests
from paigeant_celery.agents.operation_arguments import digests_of_arguments
from paigeant_celery.agents.recorded_errors import rebuilt, survived
from paigeant_celery.agents.recorded_usage import Spending
from paigeant_celery.agents.waits import Standing, polled
from paigeant_celery.core.budget import Usage
from paigeant_celery.core.errors import NotSerializable
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.record import ASLEEP, CUT_OFF, CallKey, CallKind, Record
from paigeant_celery.journal.scope import calling, current_journal

try:  # since pydantic-ai 2.68; before that, the spans of replayed calls are exported again
    from pydantic_ai.durable_exec import record_durable_unit
except ImportError:

    def record_durable_unit(*, executed: bool) -> None:
        """Report nothing."""


__all__ = ["JournalBackend", "read_back", "recorded"]

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
    instead_of: Callable[[], CallKey | None] = lambda: None,
    may_be_last: Callable[[], bool] = lambda: False,
    may_wait: bool = False,
    spent: Callable[[], Usage | None] = lambda: None,
) -> Record:
    """Return the record of a call that is made now or was made by an earlier attempt.

    Raises the error of a recorded call that failed but whose run survived. If such a call had been cut off for a reason
    that is not known, the replay waits to be cut off again. `spending` is where the call's usage is counted,
    `unit` surrounds what is made, and what `later` says matters only if the step goes on, and is recorded then.
    `instead_of` says, once the call is made, which earlier call's record it replaces, `may_be_last` whether the run may
    end with it, and `spent` what it used, if the workflow has limits. A call that `may_wait` is made again from its top
    when it has waited.
    """
    found = journal.find(key, fingerprint)
    if found is not None:
        record_durable_unit(executed=False)
        await journal.turn(found.number)
        if spending is not None:
            spending.count(found.usage)
        if found.failure is None:
            return found
        if found.failure.error_class == CUT_OFF and found.failure.form is None:  # those of Python's futures have one
            await asyncio.Event().wait()
        raise rebuilt(found)

    def of_failed(error: BaseException) -> Record:
        usage = spending.used() if spending is not None else {}
        return replace(survived(error, fingerprint), usage=usage)

    def cut_off(error: asyncio.CancelledError) -> None:
        journal.add_later(key, of_failed(error))
        when_explained(lambda reason: journal.add_later(key, of_failed(reason)))

    failed: Exception | None = None
    async with journal.making(key, may_wait=may_wait):
        try:
            with calling(str(key), recorded=True, may_wait=may_wait), unit():
                record = await make()
        except asyncio.CancelledError as error:
            cut_off(error)
            raise
        except Exception as error:  # noqa: BLE001 - raised below, when it is its turn
            failed = error
            number = journal.add_later(key, of_failed(error), answered=True, spent=spent())
        else:
            try:
                if later(record):
                    number = journal.add_later(key, record, spent=spent())
                else:
                    number = await journal.add(
                        key, record, instead_of=instead_of(), may_be_last=may_be_last(), spent=spent()
                    )
            except asyncio.CancelledError as error:  # it is answered and may be recorded, but not for the run
                cut_off(error)
                raise
    await journal.turn(number)
    if failed is not None:
        raise failed
    record_durable_unit(executed=True)
    return record


def read_back(key: CallKey, load: Callable[[Any], ResultT], result: Any) -> ResultT:
    """Return what a record holds; raises `NotSerializable` if the installed pydantic-ai cannot read it.

    A `ValidationError` would quote the answer, and that of a tool's result would pass for a model's bad arguments.
    """
    try:
        return load(result)
    except ValidationError:
        said = (
            "the installed pydantic-ai cannot read its result back; redrive the workflow with the version that wrote it"
        )
    raise NotSerializable("result_not_serializable", f"{key.label}: {said}")


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
            key = journal.operation_key(run_id, step, name=name, call_id=call_id, digests=fingerprint)
        else:
            key = journal.key(run_id, step, kind, name=name, call_id=call_id)
        if isinstance(params, ModelCancelSuspendedResponseParams):
            return cast("ResultT", self._cancelled_later(journal, key, params, fingerprint))
        if isinstance(params, ModelRequestParams):
            return await self._answered(journal, key, params, fingerprint)
        spending = Spending(ctx.usage) if kind != "model" else None  # the run counts what a response says
        budget = budget_of(ctx)

        async def make() -> Record:
            if budget is not None and kind == "model":
                budget.check_request()
            result = self._operation.result_codec.dump(await self._handled(params, spending))
            # The result of a capability's operation says itself what was used.
            usage = spending.used() if spending is not None and kind == "event" else {}
            return Record(fingerprint=fingerprint, result=result, usage=usage)

        def spent() -> Usage | None:
            return spending.spent() if spending is not None and budget is not None else None

        record = await recorded(journal, key, fingerprint, make, spending=spending, spent=spent)
        return read_back(key, self._operation.result_codec.load, record.result)

    async def _answered(
        self, journal: HopJournal, key: CallKey, params: ModelRequestParams, fingerprint: Mapping[str, str]
    ) -> ResultT:
        """Make a model request; a poll that finds the provider's job unfinished replaces the record before it."""
        codec: ResultCodec[Any] = self._operation.result_codec
        standing: Standing | None = journal.standing.get(key.run)
        given: list[Any] = []
        is_last = False
        replaced: Standing | None = None
        spent: Usage | None = None
        budget = budget_of(params.run_context)

        async def make() -> Record:
            nonlocal replaced, is_last, spent
            if budget is not None:
                budget.check_request()
            result = await self._operation.handler(cast("ParamsT", params))
            is_last = _may_be_last(params, result)
            if budget is not None:
                spent = usage_of_answer(cast("ModelResponse", result), params.messages)
            given.append(codec.dump(result))
            replaced = polled(standing, key, params.messages, result)
            if replaced is None:
                return Record(fingerprint=fingerprint, result=given[0])
            return Record(fingerprint=replaced.fingerprint, result=codec.dump(replaced.answer))

        record = await recorded(
            journal,
            key,
            fingerprint,
            make,
            instead_of=lambda: replaced.key if replaced is not None else None,
            may_be_last=lambda: is_last,
            spent=lambda: spent,
        )
        result = read_back(key, codec.load, given[0] if given else record.result)
        journal.standing[key.run] = replaced or Standing(key, result, record.fingerprint)
        return cast("ResultT", result)

    def _cancelled_later(
        self, journal: HopJournal, key: CallKey, params: ParamsT, fingerprint: Mapping[str, str]
    ) -> None:
        """Leave a provider's job alone until no attempt can ask for it: a failed, late or lost one goes on with it."""
        if journal.find(key, fingerprint) is not None:
            return

        async def cancel() -> None:
            with calling(str(key), recorded=True), durable_unit_scope():
                await self._operation.handler(params)

        result = ASLEEP if journal.was_cut_off_asleep(key.run) else None
        journal.add_later(key, Record(fingerprint=fingerprint, result=result), cancel=cancel)

    async def _handled(self, params: Any, spending: Spending | None) -> ResultT:
        if spending is None:
            return await self._operation.handler(params)
        with spending.apart_from(_context_of(params)) as apart:
            return await self._operation.handler(replace(params, **{_context_field(params): apart}))

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
                return "operation", f"{capability}.{operation}", digests_of_arguments(params)
        if isinstance(params, EventStreamHandlerParams):
            return "event", params.event.event_kind, {}
        name = type(self._operation.operation_id).__name__
        return "operation", name, digests_of_arguments(params)


def _may_be_last(params: ModelRequestParams, answer: Any) -> bool:
    """Say whether a run may end with an answer: it asks for no tool but those that give the output."""
    outputs = {tool.name for tool in params.model_request_parameters.output_tools}
    asked = [part.tool_name for part in answer.parts if isinstance(part, ToolCallPart)]
    return outputs.issuperset(asked) and answer.state == "complete"


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
