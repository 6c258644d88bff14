"""Durability of an agent's steps: kept beside the agent, which stays as it is for everybody else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.capabilities import AbstractCapability, CombinedCapability
from pydantic_ai.models.function import FunctionModel

from paigeant_celery import ActivitySpec, PaigeantAgent, register_agent
from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.testing import WorkflowHarness
from tests.support.journalled_hop import calls, scripted

pytestmark = pytest.mark.anyio


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The models of the agents that durability was bound to, one for each time."""
    bound: list[object] = []
    bind = CeleryDurability._bind_models

    def binding(self: Any, agent: Any) -> None:
        bound.append(agent.model)
        bind(self, agent)

    monkeypatch.setattr(CeleryDurability, "_bind_models", binding)
    return bound


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many calls of each kind are recorded."""
    recorded: Counter[str] = Counter()
    find = HopJournal.find

    def finding(self: HopJournal, key: Any, fingerprint: Any) -> Any:
        recorded[key.kind] += 1
        return find(self, key, fingerprint)

    monkeypatch.setattr(HopJournal, "find", finding)
    return recorded


async def hop(harness: WorkflowHarness, step: ActivitySpec) -> None:
    harness.dispatch([step])
    assert await harness.deliver() == ["workflow_completed"]


async def test_durability_is_bound_once_and_anew_to_another_model(
    workflow_harness: WorkflowHarness, bound: list[object]
) -> None:
    """The model of an agent may be set after its first runs."""
    asked: Counter[str] = Counter()
    agent = PaigeantAgent(scripted(asked, "done", name="first"), name="once")
    own = agent.root_capability.capabilities

    for _ in range(3):
        await hop(workflow_harness, agent.activity("go"))
    assert bound == [agent.model]

    agent.model = scripted(asked, "done", name="second")
    for _ in range(2):
        await hop(workflow_harness, agent.activity("go"))

    assert bound[1:] == [agent.model]
    assert asked == {"first": 3, "second": 2}
    assert list(agent.root_capability.capabilities)[: len(own)] == list(own)
    assert CeleryDurability.from_agent(agent) is None


async def test_tools_and_listeners_that_come_later_take_part(
    workflow_harness: WorkflowHarness, recorded: Counter[str]
) -> None:
    """What is kept beside the agent is its capabilities and nothing else."""
    agent = PaigeantAgent(scripted(Counter(), "done"), name="growing")
    await hop(workflow_harness, agent.activity("go"))
    agent.model = scripted(Counter(), calls("look"), "done")
    seen: list[str] = []

    @agent.tool_plain
    def look() -> str:
        return "seen"

    @agent.on_event
    async def listen(ctx: RunContext[Any], event: Any) -> None:
        seen.append(type(event).__name__)

    await hop(workflow_harness, agent.activity("go"))

    assert recorded == {"model": 3, "tool": 1}
    assert "FunctionToolCallEvent" in seen


class Inside(AbstractCapability[Any]):
    """Runs the agent once more in one hook of its first run."""

    def __init__(self, hook: str) -> None:
        self.hook, self.is_inside = hook, False

    async def _run(self, ctx: RunContext[Any], hook: str) -> None:
        if hook != self.hook or self.is_inside:
            return
        self.is_inside = True
        assert ctx.agent is not None
        await ctx.agent.run("inside", deps=ctx.deps)

    async def for_run(self, ctx: RunContext[Any]) -> AbstractCapability[Any]:
        await self._run(ctx, "for_run")
        return self

    async def before_run(self, ctx: RunContext[Any]) -> None:
        await self._run(ctx, "before_run")

    async def after_run(self, ctx: RunContext[Any], *, result: Any) -> Any:
        await self._run(ctx, "after_run")
        return result


@pytest.mark.parametrize("hook", ["for_run", "before_run", "after_run"])
async def test_a_run_of_the_agent_inside_its_own_is_not_recorded(
    workflow_harness: WorkflowHarness, recorded: Counter[str], hook: str
) -> None:
    """It never was: durability is that of the step, and the code of the step runs again."""
    inside, asked = Inside(hook), Counter[str]()
    agent = PaigeantAgent(scripted(asked, "done"), name="twice", capabilities=[inside])

    await hop(workflow_harness, agent.activity("go"))

    assert inside.is_inside
    assert asked == {"local": 2}
    assert recorded == {"model": 1}


async def test_hooks_and_tools_get_the_agent_itself(workflow_harness: WorkflowHarness) -> None:
    """They may compare it with the one that they know."""
    seen: list[object] = []
    agent = PaigeantAgent(scripted(Counter(), calls("look"), "done"), name="itself")
    agent.tool(lambda ctx: str(seen.append(ctx.agent)), name="look")

    await hop(workflow_harness, agent.activity("go"))

    assert len(seen) == 1
    assert seen[0] is agent


async def test_a_run_with_overridden_capabilities_is_durable_too(
    workflow_harness: WorkflowHarness, recorded: Counter[str]
) -> None:
    """What `agent.override` says counts until its end; durability comes on top."""

    @contextmanager
    def overridden(data: Any, context: Any) -> Iterator[None]:
        with agent.override(spec={"instructions": "Be brief.", "capabilities": []}):
            yield

    instructions: list[str | None] = []

    def answer(messages: list[Any], info: Any) -> Any:
        instructions.append(messages[-1].instructions)
        return inner.function(messages, info)  # type: ignore[misc]

    inner = scripted(Counter(), "done")
    agent = PaigeantAgent(FunctionModel(answer), name="overridden", deps_factory=overridden)

    await hop(workflow_harness, agent.activity("go"))

    assert instructions == ["Be brief."]
    assert recorded == {"model": 1}


async def test_an_agent_that_runs_in_its_own_way_is_durable_in_each_run(
    workflow_harness: WorkflowHarness, recorded: Counter[str]
) -> None:
    """It may run twice, and each run gets the capabilities that it passes on."""

    class Thorough(Agent[Any, str]):
        async def run(self, *arguments: Any, **given: Any) -> Any:
            await super().run(*arguments, **given)
            return await super().run(*arguments, **given)

    agent = Thorough(scripted(Counter(), "done"), name="thorough")
    register_agent(agent)

    await hop(workflow_harness, ActivitySpec("thorough", "go"))

    assert recorded == {"model": 2}


async def test_an_agent_under_two_names_has_runs_of_both(workflow_harness: WorkflowHarness) -> None:
    """The name is in the ids of its runs, by which records are found again."""
    runs: list[str | None] = []
    agent = Agent(scripted(Counter(), calls("look"), "done"))
    agent.tool(lambda ctx: str(runs.append(ctx.run_id)), name="look")
    register_agent(agent, name="one")
    register_agent(agent, name="two")

    for name in ("one", "two", "one"):
        await hop(workflow_harness, ActivitySpec(name, "go"))

    assert [str(run).split(":")[1] for run in runs] == ["one", "two", "one"]


async def test_instructions_of_a_group_are_its_own(workflow_harness: WorkflowHarness) -> None:
    """Other capabilities beside it are no reason to ask its members in its place."""

    class Group(CombinedCapability[Any]):
        def get_instructions(self) -> Any:
            return "Of the group."

    class Member(AbstractCapability[Any]):
        def get_instructions(self) -> Any:
            return "Of the member."

    instructions: list[str | None] = []

    def answer(messages: list[Any], info: Any) -> Any:
        instructions.append(messages[-1].instructions)
        return inner.function(messages, info)  # type: ignore[misc]

    inner = scripted(Counter(), "done")
    agent = PaigeantAgent(FunctionModel(answer), name="group", capabilities=[Group([Member()])])

    await agent.run("go")
    await hop(workflow_harness, agent.activity("go"))

    assert instructions == ["Of the group."] * 2
