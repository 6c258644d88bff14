"""Durability given for each run: bound to its agent once in a process, and known to the contexts of agent steps."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic._internal._generate_schema import GenerateSchema
from pydantic_ai import Agent, RunContext
from pydantic_ai.agent import WrapperAgent
from pydantic_ai.capabilities import AbstractCapability, Hooks, durable_operation
from pydantic_ai.durable_exec import BaseDurabilityCapability, ModelRequestId
from pydantic_ai.models.function import FunctionModel

from paigeant_celery import ActivitySpec, PaigeantAgent, WorkflowDispatcher, activity, register_agent
from paigeant_celery.agents import durability
from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.agents.recorded_calls import JournalBackend
from paigeant_celery.testing import WorkflowHarness
from tests.support.journalled_hop import JournalledHop, calls, scripted

pytestmark = pytest.mark.anyio


class Place(BaseModel):
    name: str


class Notes(AbstractCapability[Any]):
    """Has operations, whose schemas are built when a durability is bound to the agent."""

    id = "notes"

    def __init__(self) -> None:
        self._models: list[str] = []  # a list, because threads that add to a Counter lose calls

    @property
    def made(self) -> Counter[str]:
        return Counter(self._models)

    @durable_operation(name="write")
    async def write(self, ctx: RunContext[Any], places: dict[str, Place]) -> list[Place]:
        self._models.append(str(ctx.model.model_name))
        return list(places.values())

    async def before_run(self, ctx: RunContext[Any]) -> None:
        assert await self.write(ctx, {"a": Place(name="b")}) == [Place(name="b")]


@contextmanager
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count the schemas that pydantic builds, and the bindings of operations."""
    counted: Counter[str] = Counter()
    generate, bind = GenerateSchema.__init__, durability._operations_for_any_run

    def counting(self: Any, *arguments: Any, **given: Any) -> None:
        counted["schemas"] += 1
        generate(self, *arguments, **given)

    def binding(agent: Any) -> Any:
        counted["bindings"] += 1
        return bind(agent)

    with monkeypatch.context() as patched:
        patched.setattr(GenerateSchema, "__init__", counting)
        patched.setattr(durability, "_operations_for_any_run", binding)
        yield counted


def model_of(name: str = "local") -> FunctionModel:
    return scripted(Counter(), calls("look"), "done", name=name)


def with_tool(agent: Any) -> Any:
    agent.tool_plain(lambda: "seen", name="look")
    return agent


def default(notes: Notes) -> Any:
    agent = with_tool(PaigeantAgent(model_of(), name="worker", deps_type=dict[str, Place], capabilities=[notes]))
    return agent.activity("go", {"home": Place(name="x")}), (agent,)


def editing(notes: Notes) -> Any:
    """It gets a further capability for each run, which has a tool."""
    dispatcher = WorkflowDispatcher()
    agent = with_tool(PaigeantAgent(model_of(), name="worker", can_edit_itinerary=True, capabilities=[notes]))
    critic = PaigeantAgent(model_of(), name="critic", dispatcher=dispatcher)
    critic.register_activity("Judge.")
    return agent.activity("go"), (agent, critic, dispatcher)


def wrapped(notes: Notes) -> Any:
    agent: WrapperAgent[Any, str] = WrapperAgent(with_tool(Agent(model_of(), name="worker", capabilities=[notes])))
    register_agent(agent, name="worker")
    return ActivitySpec("worker", "go"), (agent,)


def function(notes: Notes, **given: Callable[[], Any]) -> Any:
    """A function gives a new durability to each run."""
    agent = with_tool(Agent(model_of(), name="inner", capabilities=[notes]))

    @activity(name="step")
    async def step() -> str:
        made = {name: make() for name, make in given.items()}
        more = made.pop("capabilities", [])
        return (await agent.run("go", capabilities=[CeleryDurability(**made), *more])).output

    return step.activity(), (agent, step)


def function_with_all(notes: Notes) -> Any:
    async def handler(ctx: RunContext[Any], events: AsyncIterable[Any]) -> None:
        async for _ in events:
            pass

    return function(
        notes,
        models=lambda: {"other": model_of("other")},
        event_stream_handler=lambda: handler,
        capabilities=lambda: [Hooks[Any]()],
    )


@pytest.mark.parametrize("make", [default, editing, wrapped, function, function_with_all])
async def test_a_second_hop_binds_nothing_and_builds_no_schema(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch, make: Callable[[Notes], Any]
) -> None:
    """Schemas of messages take seconds to build, in which the event loop serves nobody else."""
    notes = Notes()
    step, holder = make(notes)
    dispatcher = next((part for part in holder if isinstance(part, WorkflowDispatcher)), None)
    counted: list[Counter[str]] = []
    for _ in range(3):
        with built(monkeypatch) as count:
            workflow_harness.dispatch([step], dispatcher=dispatcher, stream=True)
            assert await workflow_harness.deliver() == ["workflow_completed"]
        counted.append(count)

    assert counted[0]["bindings"] == 1
    assert counted[2] == {}
    assert notes.made == {"local": 3}


async def test_requests_to_one_model_share_its_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each took 6 KB while it waited, and hundreds may wait at once in a process."""
    bound, bind = list[object](), JournalBackend.bind

    def binding(self: Any, operation: Any) -> Any:
        bound.append(operation.operation_id)
        return bind(self, operation)

    agent = with_tool(Agent(model_of(), name="worker", capabilities=[CeleryDurability(models={"b": model_of("b")})]))
    monkeypatch.setattr(JournalBackend, "bind", binding)
    for model in (None, None, "b", "b", None):
        with JournalledHop().attempt():
            assert (await agent.run("go", model=model)).output == "done"

    streamed = [(one.model_name, one.streaming) for one in bound if isinstance(one, ModelRequestId)]
    assert streamed == [("local", False), ("local", True), ("b", False), ("b", True)]


async def test_the_operations_of_an_agent_use_the_models_of_the_run_that_calls_them() -> None:
    """They are bound once; what was given for one run is not kept for the next."""
    notes = Notes()
    agent = with_tool(Agent(model_of(), name="a", capabilities=[notes]))
    for name in ("one", "two"):
        model = model_of(name)
        with JournalledHop().attempt():
            durable = CeleryDurability[Any](models={"mine": model})
            await agent.run("go", model="mine", capabilities=[durable])
        with JournalledHop().attempt(), agent.override(model=model):
            await agent.run("go", capabilities=[CeleryDurability[Any]()])

    assert notes.made == {"one": 2, "two": 2}


def test_threads_that_run_an_agent_first_bind_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions in threads run the same agent side by side."""
    notes = Notes()
    agent = with_tool(Agent(model_of(), name="a", capabilities=[notes]))

    def hop(_: int) -> str:
        with JournalledHop().attempt():
            return str(asyncio.run(agent.run("go", capabilities=[CeleryDurability[Any]()])).output)

    with built(monkeypatch) as counted, ThreadPoolExecutor(4) as threads:
        assert list(threads.map(hop, range(8))) == ["done"] * 8

    assert counted["bindings"] == 1
    assert notes.made == {"local": 8}


async def test_a_copy_of_an_agent_is_bound_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies share the attributes of the original, but not its runs."""
    agent = with_tool(Agent(model_of(), name="a", capabilities=[Notes()]))
    with built(monkeypatch) as counted:
        for used in (agent, copy(agent), agent):
            with JournalledHop().attempt():
                await used.run("go", capabilities=[CeleryDurability[Any]()])

    assert counted["bindings"] == 2


def test_an_agent_that_nobody_holds_is_collected() -> None:
    """What is bound to an agent goes with it: functions may make an agent for each call."""

    def run() -> weakref.ref[Any]:
        agent = with_tool(Agent(model_of(), name="a", capabilities=[Notes()]))
        with JournalledHop().attempt():
            asyncio.run(agent.run("go", capabilities=[CeleryDurability[Any]()]))
        return weakref.ref(agent)

    agent = run()
    gc.collect()

    assert agent() is None


class Asking(AbstractCapability[Any]):
    """Notes at each hook whether its context says that it is durable."""

    id = "asking"

    def __init__(self) -> None:
        self.said: dict[str, bool] = {}

    def ask(self, place: str, ctx: RunContext[Any]) -> None:
        self.said[place] = ctx.in_durable_context

    async def before_run(self, ctx: RunContext[Any]) -> None:
        self.ask("before_run", ctx)
        await self.operation(ctx)

    async def wrap_run(self, ctx: RunContext[Any], *, handler: Any) -> Any:
        self.ask("wrap_run", ctx)
        return await handler()

    async def before_model_request(self, ctx: RunContext[Any], request_context: Any) -> Any:
        self.ask("before_model_request", ctx)
        return request_context

    async def before_tool_execute(self, ctx: RunContext[Any], *, args: Any, **_: Any) -> Any:
        self.ask("before_tool_execute", ctx)
        return args

    async def after_run(self, ctx: RunContext[Any], *, result: Any) -> Any:
        self.ask("after_run", ctx)
        return result

    @durable_operation(name="operation")
    async def operation(self, ctx: RunContext[Any]) -> None:
        self.ask("inside an operation", ctx)


def asking_agent(asking: Asking, **given: Any) -> PaigeantAgent[Any, str]:
    model = scripted(Counter(), calls("recorded", "unrecorded"), "done")
    agent: PaigeantAgent[Any, str] = PaigeantAgent(model, name="worker", capabilities=[asking], **given)
    agent.tool(lambda ctx: asking.ask("inside a tool", ctx), name="recorded")
    agent.tool(
        lambda ctx: asking.ask("inside an unrecorded tool", ctx), name="unrecorded", metadata={"paigeant": False}
    )
    return agent


HOOKS = ["before_run", "wrap_run", "before_model_request", "before_tool_execute", "after_run"]


async def test_the_contexts_of_an_agent_step_say_that_they_are_durable(workflow_harness: WorkflowHarness) -> None:
    """Capabilities ask it to choose what can be replayed; inside what is recorded there is nothing to replay."""
    asking = Asking()
    agent = asking_agent(asking)

    await agent.run("before")
    assert set(asking.said.values()) == {False}
    for _ in range(2):
        workflow_harness.dispatch([agent.activity("go")])
        assert await workflow_harness.deliver() == ["workflow_completed"]
        assert asking.said == {
            **dict.fromkeys(HOOKS, True),
            "inside an unrecorded tool": True,
            "inside a tool": False,
            "inside an operation": False,
        }
    await agent.run("after")

    assert set(asking.said.values()) == {False}


@pytest.mark.parametrize("durable", [True, False])
async def test_a_run_of_a_function_says_whether_it_is_durable(workflow_harness: WorkflowHarness, durable: bool) -> None:
    """The agent of a step may also be run by a function, with or without durability."""
    asking = Asking()
    agent = asking_agent(asking)

    @activity(name="by_function")
    async def by_function() -> str:
        if not durable:
            await agent.run("go", capabilities=[CeleryDurability[Any]()])
        return (await agent.run("go", capabilities=[CeleryDurability[Any]()] if durable else [])).output

    workflow_harness.dispatch([agent.activity("go"), by_function.activity()])
    assert await workflow_harness.deliver() == ["completed", "workflow_completed"]

    asking.said.pop("wrap_run")  # durability is inside all other capabilities, and begins there
    assert {place for place, said in asking.said.items() if said} == (
        {*HOOKS, "inside an unrecorded tool"} - {"wrap_run"} if durable else set()
    )


async def test_capabilities_may_ask_what_the_engine_of_an_agent_step_records(workflow_harness: WorkflowHarness) -> None:
    """Some choose by it whether to record the calls of their tools themselves."""
    seen: list[bool] = []

    class Choosing(AbstractCapability[Any]):
        async def before_model_request(self, ctx: RunContext[Any], request_context: Any) -> Any:
            def ask(capability: AbstractCapability[Any]) -> None:
                if isinstance(capability, BaseDurabilityCapability):
                    seen.append("function" in capability.engine_spec.wrapped_toolset_kinds)

            assert ctx.root_capability is not None
            ctx.root_capability.apply(ask)
            return request_context

    agent: PaigeantAgent[Any, str] = PaigeantAgent(
        scripted(Counter(), "done"), name="worker", capabilities=[Choosing()]
    )

    workflow_harness.dispatch([agent.activity("go")])

    assert await workflow_harness.deliver() == ["workflow_completed"]
    assert seen
    assert all(seen)
