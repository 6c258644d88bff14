"""Runs of agents that end early, to wait for approvals, other calls or a provider: that is no result of a step."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic_ai import Agent, ApprovalRequired, CallDeferred, DeferredToolRequests, DeferredToolResults, RunContext
from pydantic_ai import output as outputs
from pydantic_ai.agent import WrapperAgent
from pydantic_ai.capabilities import AbstractCapability, HandleDeferredToolCalls
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.toolsets import ApprovalRequiredToolset, FunctionToolset

from paigeant_celery import (
    CeleryDurability,
    PaigeantAgent,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowParked,
    activity,
    register_agent,
)
from paigeant_celery.activities.registry import registry
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec
from paigeant_celery.testing import WorkflowHarness
from tests.support.journalled_hop import scripted
from tests.support.waiting_steps import asked_for, reply

try:
    from pydantic_ai.capabilities import RequestInput
except ImportError:  # in the oldest supported pydantic-ai
    RequestInput = None  # type: ignore[assignment, misc]

DURABLE = CeleryDurability[Any](name="inner")
OUTPUT: Any = [str, DeferredToolRequests]
SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    with registry.isolated():
        yield


@pytest.fixture
def asked() -> Counter[str]:
    """How often the model was asked."""
    return Counter()


def model(asked: Counter[str], *tools: str) -> FunctionModel:
    """A model that calls tools, then says that it is done."""
    calls = [ToolCallPart(name, {"path": SECRET}, f"{name}-1") for name in tools]
    return scripted(asked, calls, "done", "done", "done")


def tools(agent: Agent[Any, Any]) -> None:
    """Give an agent a tool for each way to end a run early."""

    @agent.tool_plain(requires_approval=True)
    def delete(path: str) -> str:
        return f"deleted {len(path)}"

    @agent.tool
    def send(ctx: RunContext[Any], path: str) -> str:
        if not ctx.tool_call_approved:
            raise ApprovalRequired
        return "sent"

    @agent.tool_plain
    def fetch(path: str) -> str:
        raise CallDeferred

    @agent.tool_plain
    def read(path: str) -> str:
        return "read"


@pytest.fixture(autouse=True)
def keep_what_is_made() -> Iterator[None]:
    """Here only the names in steps hold agents and functions until they run, and a collection would take them."""
    gc.disable()
    yield
    gc.enable()


def parked(harness: WorkflowHarness, step: ActivitySpec | FunctionSpec, **options: Any) -> tuple[WorkflowHandle, str]:
    """Run a workflow whose first step is parked, and return the text of its failure."""

    @activity(name="never")
    def never() -> None:
        raise AssertionError("the next step must not run")

    handle = harness.dispatch([step, never.activity()], **options)
    assert asyncio.run(harness.deliver()) == ["parked"]
    with pytest.raises(WorkflowParked) as caught:
        handle.result_sync(0)
    assert caught.value.error_class == "tools_deferred"
    assert SECRET not in caught.value.text
    return handle, caught.value.text


def paigeant(model: FunctionModel, **options: Any) -> ActivitySpec:
    agent = PaigeantAgent(model, name="guarded", output_type=OUTPUT, **options)
    tools(agent)
    return agent.activity("work")


def plain(model: FunctionModel) -> ActivitySpec:
    agent = Agent(model, name="guarded", output_type=OUTPUT)
    tools(agent)
    register_agent(agent)
    return ActivitySpec("guarded", "work")


def wrapped(model: FunctionModel) -> ActivitySpec:
    agent = Agent(model, name="guarded", output_type=OUTPUT)
    tools(agent)
    register_agent(WrapperAgent(agent), name="guarded")
    return ActivitySpec("guarded", "work")


def alone(model: FunctionModel) -> ActivitySpec:
    agent: Any = PaigeantAgent(model, name="guarded", output_type=[DeferredToolRequests, str])
    tools(agent)
    return agent.activity("work")


def function(model: FunctionModel) -> FunctionSpec:
    agent: Any = Agent(model, name="inner", output_type=OUTPUT)
    tools(agent)

    @activity
    async def running() -> object:
        return (await agent.run("work")).output

    return running.activity()


def nesting(model: FunctionModel) -> FunctionSpec:
    agent: Any = Agent(model, name="inner", output_type=OUTPUT)
    tools(agent)

    @dataclass
    class Report:
        said: object

    @activity
    async def running() -> object:
        return {"report": [Report((await agent.run("work")).output)]}

    return running.activity()


def whole(model: FunctionModel) -> FunctionSpec:
    agent: Any = Agent(model, name="inner", output_type=OUTPUT)
    tools(agent)

    @activity
    async def running() -> object:
        return await agent.run("work")

    return running.activity()


def undeclared(model: FunctionModel) -> ActivitySpec:
    agent = PaigeantAgent(model, name="guarded")
    tools(agent)
    return agent.activity("work")


def undeclared_function(model: FunctionModel) -> FunctionSpec:
    agent: Any = Agent(model, name="inner")
    tools(agent)

    @activity
    async def running() -> object:
        return (await agent.run("work")).output

    return running.activity()


AGENTS = [paigeant, plain, wrapped, alone, undeclared]
FUNCTIONS = [function, nesting, whole, undeclared_function]


@pytest.mark.parametrize("make", AGENTS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("stream", [False, True])
def test_the_agent_of_a_step_waits_for_what_it_asks_however_it_is_made(
    workflow_harness: WorkflowHarness, asked: Counter[str], make: Callable[[FunctionModel], ActivitySpec], stream: bool
) -> None:
    """Nobody else would ever answer, and what it asks for is no output."""
    step = make(model(asked, "delete", "send", "fetch"))

    handle = workflow_harness.dispatch([step], stream=stream, correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    [wait] = asked_for(workflow_harness)
    assert sorted(wait.parts) == ["delete-1", "fetch-1", "send-1"]
    approved = {"approval": True}
    assert reply(workflow_harness, wait, {"delete-1": approved, "send-1": approved}) == "recorded"
    assert reply(workflow_harness, wait, {"fetch-1": {"call": "fetched"}}) == "settled"
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]

    assert handle.result_sync(0).output == "done"
    assert asked["local"] == 2


def test_a_toolset_may_ask_for_approval(workflow_harness: WorkflowHarness, asked: Counter[str]) -> None:
    """It asks for tools that know nothing of that."""
    toolset = FunctionToolset[None]()
    agent = PaigeantAgent(model(asked, "delete"), name="guarded", toolsets=[ApprovalRequiredToolset(toolset)])

    @toolset.tool_plain
    def delete(path: str) -> str:
        asked["deleted"] += 1
        return "deleted"

    handle = workflow_harness.dispatch([agent.activity("work")], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    [wait] = asked_for(workflow_harness)
    assert asked["deleted"] == 0
    assert reply(workflow_harness, wait, {"delete-1": {"approval": True}}) == "settled"
    asyncio.run(workflow_harness.deliver())

    assert handle.result_sync(0).output == "done"
    assert asked == {"local": 2, "deleted": 1}


@pytest.mark.parametrize("make", FUNCTIONS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_asks_for_tools_is_parked_however_it_is_made(
    workflow_harness: WorkflowHarness, asked: Counter[str],
    make: Callable[[FunctionModel], ActivitySpec | FunctionSpec], stream: bool,
) -> None:  # fmt: skip
    """The next step would take the request for an answer, and nobody would ever approve it."""
    _, text = parked(workflow_harness, make(model(asked, "delete", "send", "fetch")), stream=stream)

    assert text.startswith("the run asks for approval of 'delete', 'send' and for results of 'fetch'; ")
    assert "`HandleDeferredToolCalls`" in text
    assert asked["local"] == 1


def durable_function(model: FunctionModel, *capabilities: AbstractCapability[Any]) -> FunctionSpec:
    agent: Any = Agent(model, name="inner", output_type=OUTPUT, capabilities=[DURABLE, *capabilities])
    tools(agent)

    @activity
    async def running() -> object:
        return (await agent.run("work")).output

    return running.activity()


def test_a_redrive_asks_no_model_and_parks_again_until_somebody_answers(
    workflow_harness: WorkflowHarness, asked: Counter[str]
) -> None:
    """What was paid for is replayed; with a handler deployed, the run goes on from there."""
    handle, _ = parked(workflow_harness, durable_function(model(asked, "read", "send")))

    assert handle.redrive_sync()
    workflow_harness.sweep()
    assert asyncio.run(workflow_harness.deliver()) == ["parked"]
    assert asked["local"] == 1

    with registry.isolated():
        durable_function(model(asked, "read", "send"), HandleDeferredToolCalls(approve))
        _held = activity(name="never")(lambda: "ran")
        assert handle.redrive_sync()
        workflow_harness.sweep()
        assert asyncio.run(workflow_harness.deliver()) == ["completed", "workflow_completed"]

    assert handle.result_sync(0).outputs == {"running": "done", "never": "ran"}
    assert asked["local"] == 2


async def approve(_: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults:
    return requests.build_results(approve_all=True)


def test_requests_that_are_answered_within_the_run_stop_nothing(
    workflow_harness: WorkflowHarness, asked: Counter[str]
) -> None:
    """An agent with a handler ends with its answer."""
    step = paigeant(model(asked, "delete", "send"), capabilities=[HandleDeferredToolCalls(approve)])

    result = asyncio.run(workflow_harness.run([step]))

    assert result.output == "done"
    assert asked["local"] == 2


def test_an_output_function_may_pass_a_pause_on(workflow_harness: WorkflowHarness) -> None:
    """It is what the run ends with that counts."""

    def pass_on(text: str) -> DeferredToolRequests:
        """Pass the text on."""
        return DeferredToolRequests(approvals=[ToolCallPart("delete", {"path": text}, "1")])

    def answer(_: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, {"text": SECRET})])

    agent: Any = PaigeantAgent(FunctionModel(answer), name="guarded", output_type=pass_on)

    _, text = parked(workflow_harness, agent.activity("work"))

    assert text.startswith("the run asks for approval of 'delete'; ")


@pytest.mark.parametrize("metadata", [None, {"paigeant": False}], ids=["recorded", "unrecorded"])
def test_a_pause_is_no_answer_of_a_tool(
    workflow_harness: WorkflowHarness, asked: Counter[str], metadata: dict[str, Any] | None
) -> None:
    """The outer agent's model would go on with the request of the inner one."""
    inner: Any = Agent(model(asked, "delete"), name="inner", output_type=OUTPUT)
    tools(inner)
    outer = PaigeantAgent(model(outer_asked := Counter(), "delegate"), name="outer")

    @outer.tool_plain(metadata=metadata)
    async def delegate(path: str) -> Any:
        return {"report": (await inner.run("work")).output}

    _, text = parked(workflow_harness, outer.activity("work"))

    assert text.startswith("the run asks for approval of 'delete'; ")
    assert outer_asked["local"] == 1


@pytest.mark.skipif(RequestInput is None, reason="pydantic-ai before 2.68 has no such capability")
def test_a_wait_inside_a_recorded_tool_is_refused_with_what_to_do(
    workflow_harness: WorkflowHarness, asked: Counter[str]
) -> None:
    """Nobody is asked for an answer that could not be taken, and the remedy is no other engine."""

    def ask(*_: Any) -> None:
        asked["person"] += 1

    inner: Any = Agent(
        model(asked, "delete"), name="inner", output_type=OUTPUT, capabilities=[RequestInput[Any](ask), DURABLE]
    )
    tools(inner)
    outer = PaigeantAgent(model(Counter(), "delegate"), name="outer")

    @outer.tool_plain
    async def delegate(path: str) -> Any:
        return (await inner.run("work")).output

    _, text = parked(workflow_harness, outer.activity("work"))

    assert text.startswith("a recorded call cannot wait, because it is made again as a whole; ")
    assert "`metadata={'paigeant': False}`" in text
    assert "AWS" not in text
    assert asked == {"local": 1}


@pytest.mark.skipif(RequestInput is None, reason="pydantic-ai before 2.68 has no such capability")
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_run_that_is_not_durable_does_not_wait_in_its_process(
    workflow_harness: WorkflowHarness, asked: Counter[str], is_async: bool, at_once: bool
) -> None:
    """It would hold the slot until the step runs out of time, and no answer from outside reaches it."""

    def ask(_: Any, requests: DeferredToolRequests, __: str) -> DeferredToolResults | None:
        return requests.build_results(approve_all=True) if at_once else None

    agent: Any = Agent(model(asked, "delete"), name="plain", capabilities=[RequestInput[Any](ask)])
    tools(agent)

    @activity(name="running")
    def in_thread() -> object:
        return asyncio.run(agent.run("work")).output

    @activity(name="running_too")
    async def on_loop() -> object:
        return (await agent.run("work")).output

    step = on_loop.activity() if is_async else in_thread.activity()
    if at_once:
        handle = workflow_harness.dispatch([step])
        assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]
        assert handle.result_sync(0).output == "done"
        return

    _, text = parked(workflow_harness, step)
    assert text.startswith("a run that is not durable would wait in this process and hold its slot")
    assert "`CeleryDurability`" in text


@pytest.mark.skipif(RequestInput is None, reason="pydantic-ai before 2.68 has no such capability")
def test_nobody_is_asked_by_a_run_in_a_thread(workflow_harness: WorkflowHarness) -> None:
    """Whoever answers would find that nobody waits."""
    asked = list[str]()
    agent: Any = Agent(
        model(Counter(), "delete"),
        name="inner",
        capabilities=[DURABLE, RequestInput[Any](lambda _, __, token: asked.append(token))],
    )
    tools(agent)

    @activity
    def running() -> object:
        return asyncio.run(agent.run("work")).output

    handle = workflow_harness.dispatch([running.activity()])
    assert asyncio.run(workflow_harness.deliver()) == ["failed"]
    with pytest.raises(WorkflowFailed, match="only on the event loop that runs it"):
        handle.result_sync(0)
    assert asked == []
    assert not workflow_harness.store.asked(after=None, limit=9)


@pytest.mark.parametrize("error", [ApprovalRequired, CallDeferred])
def test_a_deferral_raised_by_a_function_is_parked_at_once(
    workflow_harness: WorkflowHarness, error: type[Exception]
) -> None:
    """There is no agent to catch it, and four more attempts would raise it again."""
    runs: list[str] = []

    @activity
    def calling() -> None:
        runs.append("ran")
        raise error

    _, text = parked(workflow_harness, calling.activity())

    assert text.startswith(f"`{error.__name__}` was raised outside a tool of an agent; ")
    assert runs == ["ran"]


def test_a_function_with_a_durable_agent_asks_no_model_again(
    workflow_harness: WorkflowHarness, asked: Counter[str]
) -> None:
    """Its journal is replayed, as that of an agent's step is."""
    agent: Any = Agent(
        model(asked, "delete"), name="inner", output_type=OUTPUT, capabilities=[CeleryDurability(name="inner")]
    )
    tools(agent)

    @activity
    async def running() -> object:
        return (await agent.run("work")).output

    handle, _ = parked(workflow_harness, running.activity())
    assert handle.redrive_sync()
    workflow_harness.sweep()
    assert asyncio.run(workflow_harness.deliver()) == ["parked"]

    assert asked["local"] == 1


@pytest.mark.skipif(not hasattr(outputs, "PendingModelResponse"), reason="pydantic-ai before 2.68 never ends a run so")
def test_a_response_that_the_provider_still_works_on_is_collected_when_the_step_waits_for_it(
    workflow_harness: WorkflowHarness, asked: Counter[str]
) -> None:
    """What was submitted is paid for; the corrected step goes on with it."""

    class Background(FunctionModel):
        def continuation_delay(self, response: ModelResponse) -> float | None:
            return 0.01

    def answer(_: list[ModelMessage], __: AgentInfo) -> ModelResponse:
        asked["model"] += 1
        if asked["model"] == 1:
            return ModelResponse(parts=[TextPart("half ")], state="suspended", provider_response_id="r")
        return ModelResponse(parts=[TextPart("whole")])

    model = Background(answer)
    with registry.isolated():
        early: Any = PaigeantAgent(model, name="background", output_type=[str, outputs.PendingModelResponse])
        handle = workflow_harness.dispatch([early.activity("work")])
        assert asyncio.run(workflow_harness.deliver()) == ["parked"]
    with pytest.raises(WorkflowParked, match="response_pending: the provider still works on the response"):
        handle.result_sync(0)

    with registry.isolated():
        _waiting = PaigeantAgent(model, name="background")
        assert handle.redrive_sync()
        workflow_harness.sweep()
        assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]

    assert handle.result_sync(0).output == "half whole"
    assert asked["model"] == 2
