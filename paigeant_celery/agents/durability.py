"""`CeleryDurability`: records the model and tool calls of an agent's run in its hop's journal and replays them."""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import aclosing, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast
from weakref import WeakValueDictionary

from pydantic_ai.agent import AbstractAgent, Agent, EventStreamHandler
from pydantic_ai.capabilities import AbstractCapability, WrapModelRequestHandler, WrapRunHandler
from pydantic_ai.durable_exec import (
    BaseDurabilityCapability,
    CallToolResult,
    DurableOperationBackend,
    ModelRequestParams,
    conversation_id_from_run_id,
)
from pydantic_ai.durable_exec._utils import DurableModel
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import AgentStreamEvent, ModelResponse
from pydantic_ai.models import Model, ModelRequestContext, ModelResolutionContext
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import AgentDepsT, RunContext
from pydantic_ai.toolsets import AbstractToolset

from paigeant_celery.agents.asked_outside import beginning_run
from paigeant_celery.agents.binding import Operations, inner, is_bound, operations_of
from paigeant_celery.agents.engine import ENGINE
from paigeant_celery.agents.external_events import waiting
from paigeant_celery.agents.fingerprints import Digests
from paigeant_celery.agents.guarded_context import guarded
from paigeant_celery.agents.models import LoopModels
from paigeant_celery.agents.naming import GlobalName, maker_frame
from paigeant_celery.agents.own_messages import give_back_own
from paigeant_celery.agents.recorded_calls import JournalBackend
from paigeant_celery.agents.recorded_models import RecordedModel, keeping_times
from paigeant_celery.agents.recorded_servers import with_recorded_servers
from paigeant_celery.agents.recorded_tools import RecordedToolset
from paigeant_celery.agents.run_context import durable_run, has_begun
from paigeant_celery.agents.stream import cannot_stream, feed_here, show_rest, shown_run, shown_to
from paigeant_celery.agents.tool_values import ToolResults
from paigeant_celery.agents.waits import recorded_sleep
from paigeant_celery.core.errors import UsageError
from paigeant_celery.journal.scope import current_journal, running, surrounding_call, surrounding_journal

try:  # since pydantic-ai 2.68; before that, the spans of replayed calls are exported again
    from pydantic_ai.durable_exec import replay_scope
except ImportError:
    replay_scope = nullcontext  # type: ignore[assignment]

__all__ = ["CeleryDurability", "bind_operations", "idempotency_key"]

MOST_MODELS = 64  # of one agent, whose operations are kept
UNNAMED = "agent"  # what pydantic-ai calls such an agent in its traces

_calling: ContextVar[CeleryDurability[Any]] = ContextVar("paigeant_durability")  # whose run calls an operation

_TOOL_KEYS = uuid.UUID("5c0d5d9e-4a27-4e43-8f0e-0d7a8a8c4f6b")  # namespace of idempotency keys


def idempotency_key(ctx: RunContext[Any]) -> str:
    """Return a key for the side effect of the running tool call: the same in each attempt, different for each call.

    It has 36 characters. Pass it to the service that the tool calls, which then does the work once even if the worker
    dies between the effect and its record. It is stable when calls are recorded: in a hop, with a store. Raises
    `UsageError` outside a tool.
    """
    if getattr(ctx, "tool_call_id", None) is None:
        raise UsageError("`idempotency_key` names a tool call, but none is running; call it inside a tool")
    return str(uuid.uuid5(_TOOL_KEYS, json.dumps([ctx.run_id, ctx.run_step, ctx.tool_name, ctx.tool_call_id])))


class CeleryDurability(BaseDurabilityCapability[AgentDepsT]):
    """Makes an agent's run durable inside a hop: what was answered is not asked again.

    Each model request and tool call is recorded when it ends; the last answer of a step's own agent up to 20 ms later,
    or with the step. After a crash, a retry or a shutdown the next attempt replays the records, on any worker, and
    makes only the missing calls. A call that was in flight is made again:
    side effects of tools happen at least once (see `idempotency_key`). Code between the calls runs again:
    instructions, history processors, output validators and output functions, and tools with
    `metadata={"paigeant": False}`. Tool results have their JSON form from the first attempt on, which
    the model is shown as it would be shown the results themselves.

    The agent of a step has it already. Attach it to agents that a function step or such a tool runs itself. It does
    nothing outside a hop, without a store, or inside a recorded tool call.

    - `event_stream_handler`: gets the events of calls that are made, live; those of replayed calls are not repeated.
    - `models`: further models by the names that runs ask for.
    - `name`: names the agent's runs in the journal. By default it is the agent's name, or else that of the global
      variable that holds the agent. An agent with neither needs no name: its runs are counted in the order in which
      they start.

    Raises `NonDeterminismError`, which parks the hop, if the code asks for different calls than before, and
    `NotSerializable` if a tool returns something without a JSON form.
    """

    engine_spec = ENGINE

    def __init__(
        self,
        *,
        models: Mapping[str, Model] | None = None,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(models=models, event_stream_handler=event_stream_handler, name=name)
        self._find_name: Callable[[object], str | None] = lambda _: None
        self._inferred = LoopModels()
        self._given: WeakValueDictionary[str, Model] = WeakValueDictionary()
        self._backend: DurableOperationBackend[None] = JournalBackend(Digests())
        self._tool_results = ToolResults(self._typed_result_codec(CallToolResult))

    def for_agent(self, agent: AbstractAgent[AgentDepsT, Any]) -> AbstractCapability[AgentDepsT]:
        """Return the capability to use with the agent, whose name may not be known yet: it is asked for in each run."""
        if self.name or agent.name:
            return super().for_agent(agent)
        unnamed = copy.copy(self)
        unnamed.name, unnamed._find_name = UNNAMED, GlobalName(maker_frame(agent).f_globals)
        return super(CeleryDurability, unnamed).for_agent(agent)

    @property
    def in_durable_context(self) -> bool:
        """Whether calls are recorded here."""
        return current_journal() is not None

    def get_durable_operation_backend(self) -> DurableOperationBackend[None]:
        """Return what records and replays operations."""
        return self._backend

    def get_default_run_id(self) -> str | None:
        """Return an id that is the same in every attempt."""
        has_begun(self._agent)  # the first that an agent asks for when it has taken its capabilities
        journal = current_journal()
        if journal is None:
            return None
        return journal.next_run_id(self._run_name(self._agent), within=surrounding_call())

    def _run_name(self, agent: AbstractAgent[Any, Any] | None) -> str:
        """Return what names the runs of an agent in its hops' journals."""
        # An unnamed agent's own name is not asked for: pydantic-ai takes it from a variable of the code that first runs
        # it, which may differ from process to process.
        return self._find_name(agent) or self.name

    def get_default_conversation_id(self, run_id: str) -> str | None:
        """Return an id that is the same in every attempt."""
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    async def get_run_start_time(self, run_id: str) -> datetime | None:
        """Return None: the time that a run may take counts from the start of each attempt, as a step's does.

        The start is recorded nevertheless, because workers of earlier versions park a replay that has none.
        """
        journal = current_journal()
        if journal is not None:
            journal.note_start(run_id, datetime.now(UTC))
        return None

    def get_wrapper_toolset(self, toolset: AbstractToolset[AgentDepsT]) -> AbstractToolset[AgentDepsT] | None:
        """Record the calls of all tools, whatever their toolset, with or without an id, and what MCP servers offer."""
        if not self.in_durable_context:
            return None
        return RecordedToolset(with_recorded_servers(toolset), self._tool_results, self._durable_run_context_scope)

    def _durable_run_context(self, ctx: RunContext[AgentDepsT]) -> RunContext[AgentDepsT]:
        """Return a context for a recorded call; the base class names another remedy for what it refuses."""
        return guarded(ctx)

    @property
    def has_wrap_run_event_stream(self) -> bool:
        """Whether models are asked for streams: for an event handler, or for those who watch the workflow."""
        return super().has_wrap_run_event_stream or (self.in_durable_context and feed_here() is not None)

    async def wrap_run_event_stream(
        self, ctx: RunContext[AgentDepsT], *, stream: AsyncIterable[AgentStreamEvent]
    ) -> AsyncIterator[AgentStreamEvent]:
        """Show watchers the events that they have not had; they saw the model's when they came."""
        feed = feed_here() if self.in_durable_context else None
        passing = cast("AsyncGenerator[AgentStreamEvent]", super().wrap_run_event_stream(ctx, stream=stream))
        async with aclosing(passing):
            async for event in passing:
                if feed is not None:
                    show_rest(feed, ctx, event)
                yield event

    def _model_stream_event_handler(self) -> EventStreamHandler[AgentDepsT] | None:
        handler, feed = super()._model_stream_event_handler(), feed_here()
        return handler if feed is None else shown_to(feed, handler)

    async def _model_request_stream_operation(self, params: ModelRequestParams) -> ModelResponse:
        """Ask a model that cannot stream for its whole answer, if nobody but watchers wants a stream of it."""
        try:
            return await super()._model_request_stream_operation(params)
        except (NotImplementedError, AssertionError) as error:
            if not cannot_stream(error) or feed_here() is None or super()._model_stream_event_handler() is not None:
                raise
            return await self._model_request_operation(params)

    async def wrap_run(self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Keep replayed calls from exporting their spans and counting their tokens again, and waits from starting anew.

        Its waits for people are waits of the hop, and watchers are shown the end. When the run has ended well, the
        failures that it survived are recorded, and messages that an earlier attempt has saved are not given to be saved
        again. Raises `NonDeterminismError` if the run ends although it went on from there in an earlier attempt.
        """
        if (journal := current_journal()) is None:
            return await super().wrap_run(ctx, handler=handler)
        assert self._agent is not None
        run_id, agent = ctx.run_id or "", self._agent
        sleeping = Agent.using_sleep(recorded_sleep(journal, run_id))
        with replay_scope(), durable_run(agent), waiting(), sleeping, running(run_id), beginning_run(run_id):
            feed, run = feed_here(), super().wrap_run(ctx, handler=handler)
            result = await (run if feed is None else shown_run(feed, run_id, run))
        journal.check_end(run_id)
        await journal.settle(run_id)
        give_back_own(journal, result)
        return result

    async def wrap_model_request(
        self,
        ctx: RunContext[AgentDepsT],
        *,
        request_context: ModelRequestContext,
        handler: WrapModelRequestHandler,
    ) -> ModelResponse:
        """Let the model renew a client whose event loop has ended, as it does in a run that is not durable.

        A durable run leaves that to the code that makes the requests. None is made in a hop that is lost, not even
        by an agent inside a recorded tool call.
        """
        if (journal := surrounding_journal()) is not None:
            journal.check_not_lost()
        if self.in_durable_context:
            request_context.model._refresh_http_client()
        async with keeping_times(ctx) as made:
            response = await super().wrap_model_request(ctx, request_context=request_context, handler=handler)
            made(response.failed_attempts)
        return response

    async def _build_durable_model(
        self, ctx: RunContext[AgentDepsT], request_context: ModelRequestContext
    ) -> DurableModel:
        return RecordedModel.of(await super()._build_durable_model(ctx, request_context))

    def _model_of(self, agent: AbstractAgent[Any, Any]) -> Model | None:
        """Return the model that an agent has for its runs, on the loop that runs here; None if it has none."""
        if not isinstance(agent.model, str):
            return agent.model
        return self._extra_models.get(agent.model) or self._inferred.get(agent.model)

    async def resolve_model_id(self, ctx: ModelResolutionContext[AgentDepsT], *, model_id: str) -> Model | None:
        """Return one model per name and event loop, which keeps its connections from hop to hop."""
        found = await super().resolve_model_id(ctx, model_id=model_id) or self._given.get(model_id)
        if found is not None or surrounding_journal() is None:
            return found
        with suppress(UserError, ValueError):  # pydantic-ai tries again and says what is wrong
            return self._inferred.get(model_id)
        return None

    def _bind_to_agent(self, agent: AbstractAgent[AgentDepsT, Any]) -> None:
        """Bind no toolsets. The base class binds them by id, but here all are wrapped for each run."""

    def _bind_capability_operations(self, agent: AbstractAgent[AgentDepsT, Any]) -> None:
        """Bind the operations of the agent's capabilities, once for all its runs."""
        operations, declarations = operations_of(agent, lambda: _operations_for_any_run(agent))
        self._bound_capability_operations = dict(operations)
        self._capability_declarations = dict(declarations)

    async def _invoke_capability_operation(self, *arguments: Any, **given: Any) -> Any:
        """Let the operation use this run's models; it is bound for any run."""
        token = _calling.set(self)
        try:
            return await super()._invoke_capability_operation(*arguments, **given)
        finally:
            _calling.reset(token)

    def _bind_model_operations(self, *arguments: Any, **given: Any) -> Any:
        """Return the operations of a model, which all requests to it share: each request would bind its own."""
        return self._operations_of_model(*arguments, **given)

    def _bind_models(self, agent: AbstractAgent[AgentDepsT, Any]) -> None:
        """Also accept an agent that gets its model for each run."""
        # They are bound to this object, not to a copy of it for one run.
        self._operations_of_model = lru_cache(MOST_MODELS)(super()._bind_model_operations)
        try:
            super()._bind_models(agent)
        except UserError:
            if agent.model is not None:
                raise
            self._default_model_id, self._models_by_id = None, dict(self._extra_models)

    def _find_model_id(self, model: Model) -> str | None:
        """Also accept a model instance that was given for a run, because its requests are made in this process."""
        try:
            return super()._find_model_id(model)
        except UserError:
            model_id = f"{model.model_id}#{id(model)}"
            self._given[model_id] = model
            return model_id

    async def _resolve_model_for_request(self, model_id: str | None, run_context: RunContext[AgentDepsT]) -> Model:
        """Also serve an operation of an agent without a model of its own: it gets the run's model."""
        if model_id is None and "default" not in self._models_by_id and isinstance(run_context.model, Model):
            return run_context.model
        return await super()._resolve_model_for_request(model_id, run_context)

    def _registered_model_id(self, model: Model) -> tuple[bool, str | None]:
        registered, model_id = super()._registered_model_id(model)
        if registered:
            return True, model_id
        given = next((model_id for model_id, kept in self._given.items() if kept is model), None)
        name = given or self._inferred.name_of(model)
        return name is not None, name


async def bind_operations(agent: AbstractAgent[Any, Any]) -> None:
    """Bind the operations of an agent that is about to run in a hop, beside the event loop."""
    agent = inner(agent)
    if not is_bound(agent):
        await asyncio.to_thread(operations_of, agent, lambda: _operations_for_any_run(agent))


class _AnyRun(CeleryDurability[Any]):
    """Stands for the durability of whichever run calls an operation: it has no models and no handler of its own."""

    def _durable_model_scope(self, *arguments: Any, **given: Any) -> Any:
        return _calling.get()._durable_model_scope(*arguments, **given)

    def _find_registered_model_id_for_hook(self, model: Model) -> str | None:
        return _calling.get()._find_registered_model_id_for_hook(model)


def _operations_for_any_run(agent: AbstractAgent[Any, Any]) -> Operations:
    shared = _AnyRun()
    super(CeleryDurability, shared)._bind_capability_operations(agent)
    return shared._bound_capability_operations, shared._capability_declarations
