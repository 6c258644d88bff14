"""`CeleryDurability`: records the model and tool calls of an agent's run in its hop's journal, and replays them."""

from __future__ import annotations

import inspect
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, cast, get_args
from weakref import WeakValueDictionary

from pydantic import TypeAdapter
from pydantic_ai.agent import AbstractAgent, EventStreamHandler
from pydantic_ai.capabilities import WrapModelRequestHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    BoundDurableOperation,
    CallToolResult,
    CapabilityOperationId,
    DurabilityEngineSpec,
    DurableOperation,
    DurableOperationBackend,
    EventStreamHandlerParams,
    ModelCancelSuspendedResponseId,
    ModelCompactMessagesId,
    ModelRequestId,
    ModelRequestParams,
    conversation_id_from_run_id,
    durable_unit_scope,
)
from pydantic_ai.durable_exec._toolset import unwrap_tool_call_result, wrap_tool_call_result
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import AgentStreamEvent, ModelResponse, ModelResponseStreamEvent
from pydantic_ai.models import Model, ModelRequestContext, ModelResolutionContext
from pydantic_ai.tools import AgentDepsT, RunContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
from pydantic_ai.usage import RunUsage

from paigeant_celery.errors import NotSerializable, UsageError
from paigeant_celery.failures import rebuilt, survived
from paigeant_celery.feed import EventFeed
from paigeant_celery.fingerprints import Digests, digest
from paigeant_celery.journal import CallKey, CallKind, Record
from paigeant_celery.loop_models import LoopModels
from paigeant_celery.recorder import HopJournal, calling, current_journal, surrounding_journal

try:  # since pydantic-ai 2.68; before that, spans of replayed calls are exported again
    from pydantic_ai.durable_exec import record_durable_unit
except ImportError:

    def record_durable_unit(*, executed: bool) -> None:
        """Report nothing."""


__all__ = ["METADATA_KEY", "CeleryDurability", "idempotency_key"]

METADATA_KEY = "paigeant"  # of a tool: `metadata={"paigeant": False}` runs it again on each replay, unrecorded

_TOOL_KEYS = uuid.UUID("5c0d5d9e-4a27-4e43-8f0e-0d7a8a8c4f6b")  # namespace of idempotency keys

ParamsT = TypeVar("ParamsT")
WireT = TypeVar("WireT")
ResultT = TypeVar("ResultT")

_USAGE = TypeAdapter(RunUsage)

MODEL_EVENTS = get_args(get_args(ModelResponseStreamEvent)[0])


def idempotency_key(ctx: RunContext[Any]) -> str:
    """Return a key for the side effect of the tool call that runs: the same in each attempt, and of no other call.

    36 characters. Hand it to the service that the tool calls, which then does the work once even where the worker
    died between the effect and its record. It is stable where calls are recorded: in a hop, with a store. Raises
    `UsageError` outside a tool.
    """
    if ctx.tool_call_id is None:
        raise UsageError("`idempotency_key` names a tool call, and none is running; call it inside a tool")
    return str(uuid.uuid5(_TOOL_KEYS, json.dumps([ctx.run_id, ctx.run_step, ctx.tool_name, ctx.tool_call_id])))


class CeleryDurability(BaseDurabilityCapability[AgentDepsT]):
    """Makes an agent's run durable inside a hop: what was answered is not asked again.

    Each model request and tool call is recorded when it ended; after a crash, a retry or a shutdown the next attempt
    replays the records, on whatever worker, and makes only the calls that are missing. The call that was in flight is
    made again: side effects of tools happen at least once (`idempotency_key`). Code between the calls runs again:
    instructions, history processors, output validators and output functions, and tools with
    `metadata={"paigeant": False}`. Tool results are what JSON makes of them, from the first attempt on.

    The agent of a step has it anyway. Attach it to agents that a function step or such a tool runs itself. Outside a
    hop, without a store, and inside a recorded tool call it does nothing.

    - `event_stream_handler`: gets the events of calls that are made, live; those of replayed calls are not repeated.
    - `models`: further models by the names that runs ask for. `name`: of the agent, where it has none.

    Raises `NonDeterminismError`, which parks the hop, where the code asks for other calls than it did, and
    `NotSerializable` where a tool gives what has no JSON form.
    """

    engine_spec = DurabilityEngineSpec(
        engine_name="Celery",
        durable_unit_noun="call",
        durable_container_noun="hop",
        codec=JSON_CODEC,
        serialization_failure=lambda error: NotSerializable(
            "result_not_serializable", f"a result has no JSON form ({type(error).__name__}), and is recorded"
        ),
        tool_config_key=METADATA_KEY,
    )

    def __init__(
        self,
        *,
        models: Mapping[str, Model] | None = None,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(models=models, event_stream_handler=event_stream_handler, name=name)
        self._inferred = LoopModels()
        self._given: WeakValueDictionary[str, Model] = WeakValueDictionary()
        self._backend: DurableOperationBackend[None] = _JournalBackend(Digests())
        self._tool_results = self._typed_result_codec(CallToolResult)

    @property
    def in_durable_context(self) -> bool:
        """Whether calls are recorded here."""
        return current_journal() is not None

    def get_durable_operation_backend(self) -> DurableOperationBackend[None]:
        """Return what records and replays operations."""
        return self._backend

    def get_default_run_id(self) -> str | None:
        """Return an id that is the same in each attempt."""
        journal = current_journal()
        return journal.next_run_id(self.name) if journal is not None else None

    def get_default_conversation_id(self, run_id: str) -> str | None:
        """Return an id that is the same in each attempt."""
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    async def get_run_start_time(self, run_id: str) -> datetime | None:
        """Return when the run began in its first attempt: its time limit counts from there."""
        journal = current_journal()
        return journal.started_at(run_id, datetime.now(UTC)) if journal is not None else None

    def get_wrapper_toolset(self, toolset: AbstractToolset[AgentDepsT]) -> AbstractToolset[AgentDepsT] | None:
        """Record the calls of all tools, whatever toolset they are of, with or without an id."""
        return _RecordedToolset(toolset, self) if self.in_durable_context else None

    @property
    def has_wrap_run_event_stream(self) -> bool:
        """Whether models are asked for streams: for a handler of events, or for those who watch the workflow."""
        return super().has_wrap_run_event_stream or (self.in_durable_context and _feed() is not None)

    async def wrap_run_event_stream(
        self, ctx: RunContext[AgentDepsT], *, stream: AsyncIterable[AgentStreamEvent]
    ) -> AsyncIterator[AgentStreamEvent]:
        """Show those who watch what is not the model's; they saw that when it came."""
        feed, journal = _feed(), current_journal()
        passing = cast("AsyncGenerator[AgentStreamEvent]", super().wrap_run_event_stream(ctx, stream=stream))
        async with aclosing(passing):
            async for event in passing:
                if feed is not None and journal is not None and not _is_told(journal, ctx, event):
                    feed.put(ctx.run_id or "", ctx.run_step, event)
                yield event

    def _model_stream_event_handler(self) -> EventStreamHandler[AgentDepsT] | None:
        handler, feed = super()._model_stream_event_handler(), _feed()
        return handler if feed is None else _shown_to(feed, handler)

    async def wrap_model_request(
        self,
        ctx: RunContext[AgentDepsT],
        *,
        request_context: ModelRequestContext,
        handler: WrapModelRequestHandler,
    ) -> ModelResponse:
        """Let the model renew a client that was used on an event loop which ended, as it does where nothing is durable.

        A durable run leaves that to whatever makes the requests.
        """
        if self.in_durable_context:
            request_context.model._refresh_http_client()
        return await super().wrap_model_request(ctx, request_context=request_context, handler=handler)

    async def resolve_model_id(self, ctx: ModelResolutionContext[AgentDepsT], *, model_id: str) -> Model | None:
        """Return one model for a name on each event loop, which keeps its connections from hop to hop."""
        found = await super().resolve_model_id(ctx, model_id=model_id) or self._given.get(model_id)
        if found is not None or surrounding_journal() is None:
            return found
        with suppress(UserError, ValueError):  # pydantic-ai tries again, and says what is wrong
            return self._inferred.get(model_id)
        return None

    def _bind_to_agent(self, agent: AbstractAgent[AgentDepsT, Any]) -> None:
        """Bind no toolsets, which the base does by their ids: all are wrapped for each run."""

    def _bind_models(self, agent: AbstractAgent[AgentDepsT, Any]) -> None:
        """Also take an agent that gets its model for each run."""
        try:
            super()._bind_models(agent)
        except UserError:
            if agent.model is not None:
                raise
            self._default_model_id, self._models_by_id = None, dict(self._extra_models)

    def _find_model_id(self, model: Model) -> str | None:
        """Also take an instance that was given for a run: its requests are made in this process."""
        try:
            return super()._find_model_id(model)
        except UserError:
            model_id = f"{model.model_id}#{id(model)}"
            self._given[model_id] = model
            return model_id

    def _registered_model_id(self, model: Model) -> tuple[bool, str | None]:
        registered, model_id = super()._registered_model_id(model)
        if registered:
            return True, model_id
        given = next((model_id for model_id, kept in self._given.items() if kept is model), None)
        name = given or self._inferred.name_of(model)
        return name is not None, name

    async def call_tool(
        self,
        ctx: RunContext[AgentDepsT],
        call: Callable[[RunContext[AgentDepsT]], Awaitable[Any]],
        *,
        kind: Literal["tool", "validator"],
        name: str,
        arguments: object,
    ) -> Any:
        """Return what a tool gave now or before, or raise what it raised to steer the run.

        The usage of agents that ran inside it counts both times.
        """
        journal = current_journal()
        assert journal is not None
        fingerprint = {"arguments": digest(arguments)}

        async def make() -> Record:
            spent = copy(ctx.usage)
            before = copy(spent)
            try:
                with self._durable_run_context_scope(replace(ctx, usage=spent)) as inside:
                    result = self._dumped(await wrap_tool_call_result(call(inside)), name)
            finally:
                ctx.usage.incr(spent - before)
            return Record(fingerprint=fingerprint, result=result, usage=_counted(spent - before))

        key = journal.key(ctx.run_id or "", ctx.run_step, kind, name=name, call_id=ctx.tool_call_id or "")
        record, replayed = await _recorded(journal, key, fingerprint, make)
        if replayed and record.usage:
            ctx.usage.incr(_USAGE.validate_python(record.usage))
        return unwrap_tool_call_result(self._tool_results.load(record.result))

    def _dumped(self, result: CallToolResult, name: str) -> object:
        try:
            return self._tool_results.dump(result)
        except NotSerializable as error:
            text = f"tool {name!r}: {error.text}; return JSON, or give it `metadata={{{METADATA_KEY!r}: False}}`"
            raise NotSerializable(error.reason, text) from error


@dataclass
class _RecordedToolset(WrapperToolset[AgentDepsT]):
    """All tools of a run; their calls are recorded but for those whose metadata says no."""

    durability: CeleryDurability[AgentDepsT]

    async def get_tools(self, ctx: RunContext[AgentDepsT]) -> dict[str, ToolsetTool[AgentDepsT]]:
        tools = await self.wrapped.get_tools(ctx)
        if current_journal() is None:
            return tools
        return {name: self._with_recorded_validator(tool) for name, tool in tools.items()}

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[AgentDepsT], tool: ToolsetTool[AgentDepsT]
    ) -> Any:
        if current_journal() is None:
            return await self.wrapped.call_tool(name, tool_args, ctx, tool)
        if not _is_recorded(tool):
            with calling(f"{ctx.run_id}/{ctx.tool_call_id}", recorded=False):
                return await self.wrapped.call_tool(name, tool_args, ctx, tool)

        async def call(inside: RunContext[AgentDepsT]) -> Any:
            return await self.wrapped.call_tool(name, tool_args, inside, tool)

        return await self.durability.call_tool(ctx, call, kind="tool", name=name, arguments=tool_args)

    def _with_recorded_validator(self, tool: ToolsetTool[AgentDepsT]) -> ToolsetTool[AgentDepsT]:
        validator = tool.args_validator_func
        if validator is None or not _is_recorded(tool):
            return tool

        async def validate(ctx: RunContext[AgentDepsT], **arguments: Any) -> None:
            async def call(inside: RunContext[AgentDepsT]) -> None:
                answer = validator(inside, **arguments)
                if inspect.isawaitable(answer):
                    await answer

            await self.durability.call_tool(ctx, call, kind="validator", name=tool.tool_def.name, arguments=arguments)

        return replace(tool, args_validator_func=validate)


class _JournalBackend(DurableOperationBackend[None]):
    """Binds the operations of pydantic-ai's base to the journal of the hop that runs when they are called."""

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

        async def make() -> Record:
            with durable_unit_scope():
                result = await self._operation.handler(params)
            return Record(fingerprint=fingerprint, result=self._operation.result_codec.dump(result))

        ctx = _context_of(params)
        call_id = ctx.tool_call_id or _call_id_of(params) or ""
        key = journal.key(ctx.run_id or "", ctx.run_step, kind, name=name, call_id=call_id)
        record, _ = await _recorded(journal, key, fingerprint, make)
        return self._operation.result_codec.load(record.result)

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
                return "operation", f"{capability}.{operation}", {}
        if isinstance(params, EventStreamHandlerParams):
            return "event", params.event.event_kind, {}
        return "operation", type(self._operation.operation_id).__name__, {}


async def _recorded(
    journal: HopJournal, key: CallKey, fingerprint: Mapping[str, str], make: Callable[[], Awaitable[Record]]
) -> tuple[Record, bool]:
    """Return the record of a call, and whether an earlier attempt made it; raises what that raised and survived."""
    record = journal.find(key, fingerprint)
    if record is not None:
        record_durable_unit(executed=False)
        if record.failure is not None:
            raise rebuilt(record)
        return record, True
    async with journal.making():
        try:
            with calling(str(key), recorded=True):
                record = await make()
        except Exception as error:
            journal.add_later(key, survived(error, fingerprint))
            raise
        await journal.add(key, record)
    record_durable_unit(executed=True)
    return record, False


def _is_recorded(tool: ToolsetTool[Any]) -> bool:
    return (tool.tool_def.metadata or {}).get(METADATA_KEY) is not False


def _context_of(params: Any) -> RunContext[Any]:
    context = params.run_context if hasattr(params, "run_context") else params.ctx
    assert isinstance(context, RunContext)
    return context


def _call_id_of(params: object) -> str | None:
    """Return the tool call that an event tells of: parallel tools end in another order when they are replayed."""
    found = getattr(params.event, "tool_call_id", None) if isinstance(params, EventStreamHandlerParams) else None
    return found if isinstance(found, str) else None


def _counted(usage: RunUsage) -> dict[str, Any]:
    """Return what a record says of usage: nothing where there is none."""
    if not usage.has_values() and not usage.unmeasured_requests:
        return {}
    counted = _USAGE.dump_python(usage, mode="json", exclude_defaults=True)
    return cast("dict[str, Any]", counted)


def _feed() -> EventFeed | None:
    journal = surrounding_journal()
    return journal.feed if journal is not None else None


def _is_told(journal: HopJournal, ctx: RunContext[Any], event: AgentStreamEvent) -> bool:
    """Say whether those who watch have had an event: the model's own when they came, others in an earlier attempt."""
    if isinstance(event, MODEL_EVENTS):
        return True
    part = getattr(event, "part", None)
    name, call_id = getattr(part, "tool_name", None), getattr(part, "tool_call_id", None)
    if not isinstance(name, str) or not isinstance(call_id, str):
        return False
    return journal.holds(ctx.run_id or "", ctx.run_step, "tool", name=name, call_id=call_id)


def _shown_to(feed: EventFeed, handler: EventStreamHandler[Any] | None) -> EventStreamHandler[Any]:
    """Return a handler that shows the model's events to those who watch, and hands them on."""

    async def show(ctx: RunContext[Any], stream: AsyncIterable[AgentStreamEvent]) -> None:
        async def passing() -> AsyncIterator[AgentStreamEvent]:
            async for event in stream:
                feed.put(ctx.run_id or "", ctx.run_step, event)
                yield event

        events = passing()
        if handler is not None:
            await handler(ctx, events)
        async for _ in events:  # what the handler left
            pass

    return show
