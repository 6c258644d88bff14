"""The parts of pydantic-ai that we use although they are not promised: a release that changes them fails here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry, RunContext, _agent_graph
from pydantic_ai.durable_exec import JSON_CODEC, BaseDurabilityCapability, CallToolResult
from pydantic_ai.durable_exec._toolset import (
    DynamicToolInfo,
    DynamicToolsResult,
    RunHeldToolset,
    unwrap_tool_call_result,
    wrap_tool_call_result,
)
from pydantic_ai.durable_exec._utils import DurableModel
from pydantic_ai.durable_exec._workspace import WorkspaceCallParams
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ToolFailed, UserError
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model, _request_timeout
from pydantic_ai.models._continuation import merge_mode, merge_responses
from pydantic_ai.models._request_timeout import RequestDeadline
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tool_manager import ToolManager
from pydantic_ai.toolsets._dynamic import DynamicToolset
from pydantic_ai.usage import RunUsage

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.agents.run_context import Answer, durable_run
from paigeant_celery.core.errors import NotSerializable

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_bind_to_agent", ["self", "agent"]),
        ("_bind_models", ["self", "agent"]),
        ("_find_model_id", ["self", "model"]),
        ("_registered_model_id", ["self", "model"]),
        ("_model_stream_event_handler", ["self"]),
        ("_model_request_operation", ["self", "params"]),
        ("_model_request_stream_operation", ["self", "params"]),
        ("_build_durable_model", ["self", "ctx", "request_context"]),
        ("_bind_capability_operations", ["self", "agent"]),
        ("_find_registered_model_id_for_hook", ["self", "model"]),
        ("_resolve_model_for_request", ["self", "model_id", "run_context"]),
        ("wrap_run", ["self", "ctx", "handler"]),
        ("_durable_run_context_scope", ["self", "ctx"]),
        ("_typed_result_codec", ["self", "result_type"]),
        ("get_wrapper_toolset", ["self", "toolset"]),
        ("resolve_model_id", ["self", "ctx", "model_id"]),
        ("wrap_run_event_stream", ["self", "ctx", "stream"]),
        ("get_default_run_id", ["self"]),
        ("get_default_conversation_id", ["self", "run_id"]),
        ("get_run_start_time", ["self", "run_id"]),
    ],
)
def test_the_base_has_the_methods_that_are_overridden_or_called(name: str, expected: list[str]) -> None:
    """Under another name they would exist only here, and nobody would call them."""
    assert parameters(getattr(BaseDurabilityCapability, name)) == expected


@pytest.mark.parametrize(
    ("caller", "called"),
    [
        ("_bind_for_agent", "bound._bind_models(agent)"),
        ("_bind_for_agent", "bound._bind_to_agent(agent)"),
        ("_find_model_id", "self._registered_model_id("),
        ("_model_request_stream_operation", "self._model_stream_event_handler()"),
        ("_bind_model_operations", "handler=self._model_request_stream_operation"),
        ("_bind_for_agent", "bound._bind_capability_operations(agent)"),
        ("wrap_model_request", "await self._build_durable_model("),
        ("_durable_model_scope", "await self._resolve_model_for_request("),
        ("_invoke_capability_operation", "await self._bound_capability_operations["),
        ("_invoke_capability_operation", "self._capability_declarations["),
    ],
)
def test_the_base_calls_what_is_overridden(caller: str, called: str) -> None:
    """An override that is no longer called fails silently: models would be refused, or events not shown."""
    assert called in inspect.getsource(getattr(BaseDurabilityCapability, caller))


def test_each_run_asks_for_its_history_in_one_place() -> None:
    """There messages that an earlier attempt saved are left out, before their run would be refused."""
    resolve = _agent_graph.resolve_conversation

    assert parameters(resolve) == ["conversation", "message_history", "usage", "conversation_id"]
    assert resolve.__globals__["__name__"] == "paigeant_celery.agents.own_messages"
    beginning = inspect.getsource(Agent.iter).partition("_prepare_run(")[0]
    assert "_agent_graph.resolve_conversation(" in beginning
    assert "resolve_run_id" not in beginning
    given = (None, None, None)
    assert resolve(None, message_history=None, usage=None, conversation_id=None)[:3] == given


def test_each_save_of_a_conversation_goes_through_one_method() -> None:
    """There what an earlier attempt saved is recognized."""
    stores = pytest.importorskip("pydantic_ai.conversation_store", reason="this pydantic-ai has no such store")
    save = stores.ConversationStore.save

    assert parameters(save) == ["self", "conversation", "scope"]
    assert "save" not in vars(stores.InMemoryConversationStore)
    assert save.__globals__["__name__"] == "paigeant_celery.agents.own_messages"
    assert parameters(AgentRunResult._conversation_saved) == ["self", "revision"]


def test_models_can_be_asked_to_renew_their_clients() -> None:
    """The core asks them at the start of a run that is not durable, and nobody else does."""
    assert parameters(Model._refresh_http_client) == ["self"]
    assert parameters(BaseDurabilityCapability.wrap_model_request) == ["self", "ctx", "request_context", "handler"]


def test_operations_that_are_bound_for_any_run_ask_their_durability_only_for_models() -> None:
    """Whatever else they asked, they would ask one that stands for all runs and knows none of them."""
    source = inspect.getsource(BaseDurabilityCapability._bind_capability_operations)
    filled = {"_bound_capability_operations", "_capability_declarations"}
    while_binding = {"engine_spec", "get_durable_operation_backend", "_typed_result_codec"}

    for_models = {"_durable_model_scope", "_find_registered_model_id_for_hook"}
    asked = set(re.findall(r"\bself\.(\w+)", source))
    assert filled | for_models <= asked <= filled | for_models | while_binding


def test_a_run_takes_its_capabilities_once_and_then_asks_for_its_id() -> None:
    """A step lends its agent capabilities for one run, and takes them back when the id is asked for."""
    taken, _, after = inspect.getsource(Agent._prepare_run).partition(".get_default_run_id()")
    in_force = inspect.getsource(Agent._effective_root_capability)

    assert taken.count("self._base_run_capability()") == 1
    assert "_base_run_capability" not in after
    assert "self._effective_root_capability()" in inspect.getsource(Agent._base_run_capability)
    assert "override = self._override_root_capability.get()" in in_force
    assert "override.value if override is not None" in in_force


def test_an_agent_can_be_given_one_more_capability_to_ask() -> None:
    """It answers `ctx.in_durable_context`, and takes no part in runs: the base asks what is registered as its kind."""
    agent = Agent(TestModel(), name="a")
    assert BaseDurabilityCapability.from_agent(agent) is None

    with durable_run(agent):
        found = BaseDurabilityCapability.from_agent(agent)

        assert type(found) is Answer
        assert agent.root_capability is agent._root_capability
        assert found.in_durable_context is False  # in no hop


def test_durable_models_are_made_of_four_segments_and_time_their_requests() -> None:
    """A copy has the same segments; the deadline of a request is one that is enforced in a block."""
    segments = [
        f"{name}_segment" for name in ("request", "request_stream", "compact_messages", "cancel_suspended_response")
    ]

    assert parameters(DurableModel.__init__) == ["self", "wrapped", *segments]
    assert "_with_serving_wrapper(" in inspect.getsource(_agent_graph)
    assert parameters(DurableModel._with_serving_wrapper) == ["self", "wrap"]
    assert parameters(DurableModel._start_request_deadline)[:2] == ["self", "model_settings"]
    assert "model._start_request_deadline(" in inspect.getsource(_request_timeout)
    assert isinstance(RequestDeadline("m", 1.0, deadline=1.0).enforce(), AbstractContextManager)


def test_answers_of_a_job_are_merged_as_a_run_merges_them() -> None:
    """A poll takes the place of the answer before it only if a run would put it there."""
    one, other = (ModelResponse([], provider_response_id=name, state="suspended") for name in ("1", "2"))

    assert merge_mode(one, replace(one)) == "replace-same-id"
    assert merge_mode(one, other) != "replace-same-id"
    assert merge_responses(one, replace(one)).state == "suspended"


def test_a_run_asks_the_capabilities_of_its_tools_about_deferred_calls() -> None:
    """There the answers of handlers are recorded."""
    assert "root_capability" in {field.name for field in fields(ToolManager)}
    assert "tool_manager" in {field.name for field in fields(RunContext)}
    source = inspect.getsource(ToolManager)
    assert "cap = self.root_capability" in source
    assert ".handle_deferred_tool_calls(" in source


def test_servers_can_be_held_for_a_run_and_say_what_they_have_cached() -> None:
    """They are swapped in where they stand, and entered when they are first asked."""
    servers = pytest.importorskip("pydantic_ai.mcp", reason="the MCP client is not installed")

    assert parameters(RunHeldToolset.__init__) == ["self", "id", "toolset"]
    assert inspect.iscoroutinefunction(RunHeldToolset.entered)
    assert inspect.iscoroutinefunction(RunHeldToolset.aclose)
    assert {"tools", "instructions"} <= {field.name for field in fields(DynamicToolsResult)}
    assert {"tool_def", "max_retries"} <= {field.name for field in fields(DynamicToolInfo)}
    assert parameters(servers.MCPToolset.tool_for_tool_def) == ["self", "tool_def", "ctx"]
    assert "if self.cache_tools and self._cached_tools is not None:" in inspect.getsource(servers.MCPToolset)
    assert isinstance(inspect.getattr_static(servers.MCPToolset, "_explicit_id"), property)
    assert "toolset_func" in vars(DynamicToolset(lambda ctx: None))


def test_calls_of_workspaces_have_their_arguments_in_one_field() -> None:
    """Of a call's parameters only this is the same in every attempt."""
    assert {"run_context", "call"} <= {field.name for field in fields(WorkspaceCallParams)}


def bound(agent: Agent[None, Any]) -> CeleryDurability[None]:
    found = CeleryDurability.from_agent(agent)
    assert found is not None
    return found


def test_binding_fills_the_tables_of_models_that_are_read() -> None:
    """The default is under `default`, others under the names that runs ask for."""
    default, other = TestModel(), TestModel()
    agent = Agent(default, name="a", capabilities=[CeleryDurability[None](models={"other": other})])

    durability = bound(agent)

    assert durability._models_by_id == {"default": default, "other": other}
    assert durability._extra_models == {"other": other}
    assert durability._default_model_id is None


def test_an_agent_without_a_model_is_bound_by_the_tables_alone() -> None:
    """The base refuses it and leaves the tables to us."""
    other = TestModel()

    durability = bound(Agent(name="a", capabilities=[CeleryDurability[None](models={"other": other})]))

    assert (durability._default_model_id, durability._models_by_id) == (None, {"other": other})


def test_the_base_finds_models_by_their_instance_through_wrappers() -> None:
    """None is the default's id; the base refuses an unregistered instance, but ours accepts it."""
    default, other, stranger = TestModel(), TestModel(), TestModel()
    durability = bound(Agent(default, name="a", capabilities=[CeleryDurability[None](models={"other": other})]))
    find = BaseDurabilityCapability._find_model_id

    assert BaseDurabilityCapability._registered_model_id(durability, default) == (True, None)
    assert BaseDurabilityCapability._registered_model_id(durability, other) == (True, "other")
    assert BaseDurabilityCapability._registered_model_id(durability, stranger) == (False, None)
    assert (find(durability, WrapperModel(default)), find(durability, WrapperModel(other))) == (None, "other")
    with pytest.raises(UserError):
        find(durability, stranger)
    given = durability._find_model_id(stranger)
    assert given is not None
    assert durability._registered_model_id(stranger) == (True, given)


def test_binding_toolsets_is_all_that_the_base_does_in_the_method_that_does_nothing_here() -> None:
    """Anything else that it did would be missing."""
    source = inspect.getsource(BaseDurabilityCapability._bind_to_agent).split('"""')[-1]
    statements = [line.strip() for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert statements[-1] == "self._register_toolsets(agent)"
    assert len(statements) <= 2


async def test_the_context_inside_a_call_refuses_to_reach_into_the_run() -> None:
    """Both would be missing on a replay, in which the tool does not run."""
    durability = bound(Agent(TestModel(), name="a", capabilities=[CeleryDurability[None]()]))
    ctx = RunContext(deps=None, model=TestModel(), usage=RunUsage())
    scope: AbstractContextManager[RunContext[None]] = durability._durable_run_context_scope(ctx)

    with scope as inside:
        assert inside.usage is ctx.usage
        with pytest.raises(UserError, match="enqueue"):
            inside.enqueue("more")
        with pytest.raises(UserError, match="cancel"):
            inside.cancel()


def raises(error: Exception) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    "call",
    [
        lambda: {"a": [1, None]},
        lambda: None,
        raises(ModelRetry("again")),
        raises(ToolFailed("no")),
        raises(ApprovalRequired(metadata={"why": "money"})),
        raises(CallDeferred(metadata={"until": "noon"})),
    ],
    ids=["result", "nothing", "retry", "failed", "approval", "deferred"],
)
async def test_what_a_tool_did_crosses_json(call: Callable[[], Any]) -> None:
    """A record holds the result, or what the tool raised to steer the run."""
    codec = CeleryDurability[None]()._typed_result_codec(CallToolResult)

    async def tool() -> Any:
        return call()

    wrapped = codec.dump(await wrap_tool_call_result(tool()))
    loaded = codec.load(JSON_CODEC.load(Any, JSON_CODEC.dump(Any, wrapped)))

    assert outcome(lambda: unwrap_tool_call_result(loaded)) == outcome(call)


def outcome(call: Callable[[], Any]) -> tuple[Any, ...]:
    """Return a call's result, or the class and fields of what it raises."""
    try:
        return (call(),)
    except Exception as error:
        return type(error), vars(error)


async def test_other_errors_of_a_tool_are_not_caught() -> None:
    """A bug in the tool ends the attempt, which is retried by its own rules."""

    async def tool() -> Any:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await wrap_tool_call_result(tool())


async def test_a_result_that_is_no_json_is_reported_by_our_error() -> None:
    """The engine's description maps it; otherwise pydantic's own error would be retried."""
    codec = CeleryDurability[None]()._typed_result_codec(CallToolResult)

    async def tool() -> Any:
        return object()

    with pytest.raises(NotSerializable):
        codec.dump(await wrap_tool_call_result(tool()))
