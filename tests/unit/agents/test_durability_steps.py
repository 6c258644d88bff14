"""The durability of steps' agents: given by the runner, their own, or none."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic_ai import Agent, DeferredToolRequests, RunContext
from pydantic_ai.durable_exec import JSON_CODEC, BaseDurabilityCapability, DurabilityEngineSpec, DurableOperationBackend
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.tools import DeferredToolResults

from paigeant_celery import PaigeantAgent, WorkflowDispatcher, activity
from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.errors import WorkflowParked
from paigeant_celery.testing import WorkflowHarness
from tests.support.journalled_hop import JournalledHop, calls, history, scripted

pytestmark = pytest.mark.anyio


async def test_nothing_is_recorded_outside_a_hop() -> None:
    """In a web request or a notebook the same agent has ordinary runs, with ids of their own."""
    asked: Counter[str] = Counter()
    agent = Agent(scripted(asked, calls("look"), "done"), name="free", capabilities=[CeleryDurability[None]()])
    agent.tool_plain(lambda: (1, 2), name="look")

    first, second = await agent.run("go"), await agent.run("go")

    assert asked == {"local": 4}
    assert [part.content for message in first.all_messages() for part in message.parts
            if isinstance(part, ToolReturnPart)] == [(1, 2)]  # fmt: skip
    assert first.run_id != second.run_id
    assert "free" not in str(first.run_id)
    assert first.conversation_id != second.conversation_id


class Flaky:
    """A validator that fails a number of times, as a provider does."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def __call__(self, output: str) -> str:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        return output


@pytest.mark.parametrize("own", [True, False])
async def test_the_agent_of_a_step_is_durable_once(workflow_harness: WorkflowHarness, own: bool) -> None:
    """If it has a durability of its own it gets no other; otherwise it gets one."""
    asked: Counter[str] = Counter()
    durability: list[Any] = [CeleryDurability[None]()] if own else []
    agent = PaigeantAgent(scripted(asked, calls("look"), "done"), name="worker", capabilities=durability)
    agent.tool_plain(lambda: "seen", name="look")
    agent.output_validator(Flaky(1))

    handle = workflow_harness.dispatch([agent.activity("go")])
    outcomes = await workflow_harness.deliver()

    assert outcomes == ["retrying", "workflow_completed"]
    assert asked == {"local": 2}
    [resumed] = [event.fields for event in handle.events_so_far() if event.type == "resumed"]
    assert resumed == {"replayed": "3", "made": "0"}


class OtherEngine(BaseDurabilityCapability[Any]):
    """A durability by somebody else."""

    engine_spec = DurabilityEngineSpec(
        engine_name="Other", durable_unit_noun="thing", durable_container_noun="place", codec=JSON_CODEC
    )
    in_durable_context = False

    def get_durable_operation_backend(self) -> Any:
        return OtherBackend()


class OtherBackend(DurableOperationBackend[None]):
    """A backend of the other engine, which makes nothing here."""

    def bind(self, operation: Any) -> Any:
        return operation

    def config_for_tool(self, operation: object, *, tool: object | None, tool_name: str) -> None:
        return None

    def registrations(self) -> tuple[()]:
        return ()


async def test_another_engine_beside_ours_is_an_error_that_names_both(workflow_harness: WorkflowHarness) -> None:
    """Two journals of one run would disagree; remove the agent from one of them."""
    agent = PaigeantAgent(scripted(Counter(), "done"), name="worker", capabilities=[OtherEngine()])

    handle = workflow_harness.dispatch([agent.activity("go")])
    await workflow_harness.deliver()

    failure = handle.status_sync().failure
    assert failure is not None
    assert failure.error_class == "UserError"
    assert "OtherEngine" in failure.text
    assert "CeleryDurability" in failure.text


async def test_steps_that_an_agent_inserted_are_there_after_a_replay(workflow_harness: WorkflowHarness) -> None:
    """The edit is made again, once, although the model is not asked again."""
    asked: Counter[str] = Counter()
    insertion = calls("insert_activities", steps=[{"activity": "writer"}])
    planner = PaigeantAgent(
        scripted(asked, insertion, "planned", name="planner"), name="planner", can_edit_itinerary=True
    )
    planner.output_validator(Flaky(2))
    dispatcher = WorkflowDispatcher()
    writer = PaigeantAgent(scripted(asked, "written", name="writer"), name="writer", dispatcher=dispatcher)
    writer.register_activity("write")

    handle = workflow_harness.dispatch([planner.activity("plan")], dispatcher=dispatcher)
    await workflow_harness.deliver()

    assert handle.result_sync(0).outputs == {"planner": "planned", "writer-0.1": "written"}
    assert asked == {"planner": 2, "writer": 1}
    assert [event.type for event in handle.events_so_far()].count("step_inserted") == 1


async def test_a_step_that_hides_the_fault_of_its_journal_is_parked(workflow_harness: WorkflowHarness) -> None:
    """`except Exception` around an agent must not turn a changed program into an output."""
    models = iter(["first", "second"])
    fails = Flaky(1)

    @activity
    async def careless() -> str:
        model = scripted(Counter(), "done", name=next(models))
        agent = Agent(model, name="inner", capabilities=[CeleryDurability[None]()])
        try:
            output = (await agent.run("go")).output
        except Exception:
            return "a default"
        return fails(output)

    handle = workflow_harness.dispatch([careless.activity()])
    outcomes = await workflow_harness.deliver()

    assert outcomes == ["retrying", "parked"]
    with pytest.raises(WorkflowParked, match=r"step 'careless'.* its model changed"):
        handle.result_sync(0)


async def test_a_conversation_is_carried_on() -> None:
    """Each attempt of the run gets the earlier messages; their answers are not asked for again."""
    earlier = [ModelRequest(parts=[UserPromptPart("Hello")]), ModelResponse(parts=[TextPart("Hello")])]
    seen: list[int] = []

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.append(len(messages))
        return ModelResponse(parts=[TextPart("done")])

    agent = Agent(FunctionModel(answer), name="talker", capabilities=[CeleryDurability[None]()])
    hop = JournalledHop()
    with hop.attempt():
        result = await agent.run("go on", message_history=earlier)
    with hop.attempt():
        replayed = await agent.run("go on", message_history=earlier)

    assert seen == [3]
    assert history(result) == history(replayed)
    assert len(result.all_messages()) == 4


async def test_a_run_that_waits_for_an_approval_is_replayed_and_goes_on() -> None:
    """What was asked for, and what was decided, is the same in each attempt; the tool acts once."""
    asked: Counter[str] = Counter()
    agent: Agent[None, str | DeferredToolRequests] = Agent(
        scripted(asked, calls("look", "pay"), "done"),
        name="payer",
        output_type=[str, DeferredToolRequests],
        capabilities=[CeleryDurability[None]()],
    )
    agent.tool_plain(lambda: "seen", name="look")

    @agent.tool(requires_approval=True)
    def pay(ctx: RunContext[None]) -> str:
        asked["pay"] += 1
        return "paid"

    async def run() -> tuple[Any, ...]:
        waiting = await agent.run("go")
        assert isinstance(waiting.output, DeferredToolRequests)
        [call] = waiting.output.approvals
        decided = DeferredToolResults(approvals={call.tool_call_id: True})
        result = await agent.run(message_history=waiting.all_messages(), deferred_tool_results=decided)
        return call.tool_call_id, result.output, history(result), result.usage

    hop = JournalledHop()
    with hop.attempt():
        first = await run()
    with hop.attempt() as again:
        replayed = await run()

    assert first == replayed
    assert (first[:2], again.made) == (("pay-2", "done"), 0)
    assert asked == {"local": 2, "pay": 1}


def test_two_agents_may_not_share_a_bound_durability() -> None:
    """One passed to the constructor is bound to its agent; each agent gets a copy and keeps its own name."""
    durability = CeleryDurability[None]()
    first = Agent(scripted(Counter(), "a"), name="first", capabilities=[durability])
    second = Agent(scripted(Counter(), "b"), name="second", capabilities=[durability])

    found = [CeleryDurability.from_agent(agent) for agent in (first, second)]

    assert [own.name for own in found if own is not None] == ["first", "second"]


MODULE = """
from pydantic_ai import Agent
from paigeant_celery import CeleryDurability, PaigeantAgent

def make():
    return Agent(model(), capabilities=[CeleryDurability()])

triage = Agent(model(), capabilities=[CeleryDurability()])
step = PaigeantAgent(model(), capabilities=[CeleryDurability()])
factory = make()
in_a_list = [make(), make()]

class Team:
    reader = make()
"""


def unnamed_agents(asked: Counter[str]) -> dict[str, Any]:
    """Load a module whose agents have no name when they are made."""
    module: dict[str, Any] = {"__name__": "shop_agents", "model": lambda: scripted(asked, calls("look"), "done")}
    exec(compile(MODULE, "/shop_agents.py", "exec"), module)
    agents = [module["triage"], module["step"], module["factory"], *module["in_a_list"], module["Team"].reader]
    for agent in agents:
        agent.tool_plain(lambda: "seen", name="look")
    return module


async def test_an_agent_that_gets_its_name_later_may_be_durable_from_the_start() -> None:
    """`triage = PaigeantAgent(…, capabilities=[CeleryDurability()])` is what people write first."""
    asked: Counter[str] = Counter()
    module, hop = unnamed_agents(asked), JournalledHop()
    agents = [module["triage"], module["factory"], *module["in_a_list"], module["Team"].reader]

    with hop.attempt():
        first = [(await agent.run("go")).run_id for agent in agents]
    module, before = unnamed_agents(asked), asked.total()  # as another process does
    agents = [module["triage"], module["factory"], *module["in_a_list"], module["Team"].reader]
    with hop.attempt() as journal:
        again = [(await agent.run("go")).run_id for agent in agents]

    assert first == again == ["w.0:triage:0", "w.0:factory:0", *(f"w.0:agent:{number}" for number in range(3))]
    assert (asked.total(), journal.made) == (before, 0)


async def test_a_run_is_found_again_whatever_the_code_that_runs_an_unnamed_agent_calls_it() -> None:
    """pydantic-ai names such an agent after the first variable that runs it, which differs between processes."""
    asked: Counter[str] = Counter()
    hop, module, later = JournalledHop(), unnamed_agents(asked), unnamed_agents(asked)
    somebody = module["in_a_list"][0]
    somebody_else = later["in_a_list"][0]

    with hop.attempt():
        await somebody.run("go")
    before = asked.total()
    with hop.attempt() as journal:
        await somebody_else.run("go")

    assert (somebody.name, somebody_else.name) == ("somebody", "somebody_else")
    assert (asked.total(), journal.made) == (before, 0)


async def test_the_step_of_an_agent_that_is_named_by_its_global_is_durable(workflow_harness: WorkflowHarness) -> None:
    """Its own durability records under the name of the activity."""
    asked: Counter[str] = Counter()
    step = unnamed_agents(asked)["step"]
    step.output_validator(Flaky(1))

    handle = workflow_harness.dispatch([step.activity("go")])
    outcomes = await workflow_harness.deliver()

    assert (step.name, outcomes) == ("step", ["retrying", "workflow_completed"])
    assert asked == {"local": 2}
    assert "resumed" in [event.type for event in handle.events_so_far()]
