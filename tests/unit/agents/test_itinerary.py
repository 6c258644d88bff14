"""Editing the itinerary: what a model may insert, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_ai.messages import ModelMessage, ModelResponse, RetryPromptPart, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from paigeant_celery.activities.context import WorkflowContext
from paigeant_celery.activities.port import StepLimits
from paigeant_celery.agents.agent import PaigeantAgent
from paigeant_celery.agents.itinerary import Edit, Insertion
from paigeant_celery.client.dispatch import WorkflowDispatcher
from paigeant_celery.client.readings import WorkflowResult
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import ActivitySpec, RegisteredActivity
from paigeant_celery.testing import WorkflowHarness

MakeMessage = Callable[..., PaigeantMessage]
MakeContext = Callable[..., WorkflowContext]

CRITIC = ActivitySpec("critic", "Judge it.", {"strict": True}, policy=StepPolicy(timeout=9), queue="gpu")
REGISTERED = (
    RegisteredActivity(description="Finds faults.", step=CRITIC),
    RegisteredActivity(description="", step=ActivitySpec("editor", "Mend it.")),
)


@pytest.fixture
def make_edit(make_message: MakeMessage, make_context: MakeContext) -> Callable[..., Edit]:
    """Make edits of a planner's step, with another step after it."""

    def make(*, added: int = 3, allowed: frozenset[str] | None = None, visits: int = 16) -> Edit:
        message = make_message(
            ActivitySpec("planner", "plan"),
            ActivitySpec("editor", "end"),
            registered=REGISTERED,
        )
        return Edit(
            context=make_context(message),
            max_added_steps=added,
            allowed_activities=allowed,
            limits=StepLimits(max_visits=visits, max_output_size=1024),
        )

    return make


def wanted(*names: str, prompt: str | None = None) -> list[Insertion]:
    return [Insertion(activity=name, prompt=prompt) for name in names]


def test_a_registered_activity_is_inserted_with_everything_but_its_prompt(make_edit: Callable[..., Edit]) -> None:
    """Deps, queue and limits are set on registration: a model must not reach another customer's data by asking."""
    edit = make_edit()

    edit.insert([Insertion(activity="critic", prompt="Only the style."), Insertion(activity="critic")])

    style = ActivitySpec("critic", "Only the style.", {"strict": True}, policy=StepPolicy(timeout=9), queue="gpu")
    assert edit.inserted == (style, CRITIC)
    assert edit.notes() == (
        {"type": "step_inserted", "activity": "critic"},
        {"type": "step_inserted", "activity": "critic"},
    )


@pytest.mark.parametrize("field", ["deps", "queue", "policy", "step_id", "agent_name"])
def test_a_model_can_name_nothing_but_activity_and_prompt(field: str) -> None:
    """The tool has no argument by which anything else could be changed."""
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Insertion.model_validate({"activity": "critic", field: "x"})


REFUSALS = [
    pytest.param({}, wanted("critic", "ghost"), "activity_not_allowed", "[1].activity", id="unknown"),
    pytest.param({}, wanted("critic", "planner"), "activity_not_allowed", "[1].activity", id="not-registered"),
    pytest.param(
        {"allowed": frozenset({"critic", "ghost"})}, wanted("critic", "editor"), "activity_not_allowed",
        "[1].activity", id="forbidden",
    ),
    pytest.param({"added": 2}, wanted("critic", "editor", "critic"), "too_many_added_steps", "", id="too-many"),
    pytest.param({"added": 0}, wanted("critic"), "too_many_added_steps", "", id="none-allowed"),
    pytest.param({"visits": 2}, wanted("editor", "editor"), "too_many_visits", "", id="visits"),
    pytest.param({}, wanted("critic", "editor", prompt=" "), "empty_prompt", "prompt", id="empty-prompt"),
    pytest.param({}, wanted("critic", prompt="a\ud800"), "invalid_text", "prompt", id="broken-text"),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "insertions", "reason", "path"), REFUSALS)
def test_an_edit_that_breaks_one_rule_is_refused_whole(
    make_edit: Callable[..., Edit], rules: dict[str, Any], insertions: list[Insertion], reason: str, path: str
) -> None:
    """Half an edit would run steps that the model meant to come together."""
    edit = make_edit(**rules)

    with pytest.raises(InvalidInput) as caught:
        edit.insert(insertions)

    assert (caught.value.reason, caught.value.path) == (reason, path)
    assert edit.inserted == ()
    assert edit.notes() == ({"type": "edit_refused", "reason": reason},)


def test_the_limit_counts_all_edits_of_a_run_and_a_refused_one_costs_nothing(make_edit: Callable[..., Edit]) -> None:
    """Asking many times does not get around the limit, and a mistake does not use it up."""
    edit = make_edit(added=2)
    edit.insert(wanted("critic"))
    with pytest.raises(InvalidInput) as caught:
        edit.insert(wanted("critic", "critic"))

    edit.insert(wanted("editor"))

    assert caught.value.text == "this step may insert 1 more, not 2"
    assert [step.activity for step in edit.inserted] == ["critic", "editor"]
    assert [note["type"] for note in edit.notes()] == ["step_inserted", "step_inserted", "edit_refused"]


def test_a_slip_may_be_filled_to_its_limits_exactly(make_edit: Callable[..., Edit]) -> None:
    """The limits themselves still work."""
    edit = make_edit(added=2, visits=2)

    edit.insert(wanted("critic", "editor"))

    assert len(edit.inserted) == 2


# Through a model, and through whole workflows.


def calls_once(*arguments: dict[str, Any]) -> tuple[FunctionModel, list[ModelMessage], list[AgentInfo]]:
    """A model that calls the tool once with each of `arguments`, all in one response, then answers."""
    seen: list[ModelMessage] = []
    infos: list[AgentInfo] = []

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen[:] = messages
        infos.append(info)
        if len(infos) == 1:
            return ModelResponse(parts=[ToolCallPart("insert_activities", args) for args in arguments])
        return ModelResponse(parts=[TextPart("planned")])

    return FunctionModel(respond), seen, infos


def plan(
    harness: WorkflowHarness, model: FunctionModel | TestModel, **options: Any
) -> tuple[WorkflowResult, list[tuple[str, str]]]:
    """Run a planner with a registered critic; return the result and the hop events that are notes."""
    dispatcher = WorkflowDispatcher()
    planner: PaigeantAgent[Any, str] = PaigeantAgent(model, name="planner", dispatcher=dispatcher, **options)
    critic: PaigeantAgent[Any, str] = PaigeantAgent(
        TestModel(custom_output_text="judged"), name="critic", dispatcher=dispatcher, description="Finds faults."
    )
    critic.register_activity("Judge it.")
    planner.add_to_runway("Plan.")

    result = asyncio.run(harness.run(dispatcher=dispatcher, correlation_id="w"))

    events = harness.store.events("w", after=None, limit=100)
    notes = [(e.fields["type"], e.fields.get("activity") or e.fields.get("reason", "")) for e in events]
    return result, [note for note in notes if note[0] in {"step_inserted", "edit_refused"}]


def test_a_model_that_may_edit_sees_the_activities_and_inserts_one(workflow_harness: WorkflowHarness) -> None:
    """An agent decides at run time what the workflow still needs."""
    model, messages, infos = calls_once({"steps": [{"activity": "critic", "prompt": "Only the style."}]})

    result, notes = plan(workflow_harness, model, can_edit_itinerary=True)

    returned = [part.content for m in messages for part in m.parts if isinstance(part, ToolReturnPart)]
    assert result.outputs == {"planner": "planned", "critic-0.1": "judged"}
    assert notes == [("step_inserted", "critic")]
    assert returned == ["Inserted: critic"]
    assert [tool.name for tool in infos[0].function_tools] == ["insert_activities"]
    assert infos[0].instructions is not None
    assert "- critic: Finds faults. Default prompt: Judge it." in infos[0].instructions
    assert "up to 3 steps" in infos[0].instructions


@pytest.mark.parametrize(
    "options",
    [{}, {"can_edit_itinerary": False, "max_added_steps": 9}, {"can_edit_itinerary": True, "max_added_steps": 0}],
)
def test_an_agent_that_may_not_edit_has_no_tool_for_it(
    workflow_harness: WorkflowHarness, options: dict[str, Any]
) -> None:
    """A model cannot be talked into using a tool that it does not have."""
    infos: list[AgentInfo] = []

    def respond(_: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        infos.append(info)
        return ModelResponse(parts=[TextPart("planned")])

    result, notes = plan(workflow_harness, FunctionModel(respond), **options)

    assert (result.outputs, notes) == ({"planner": "planned"}, [])
    assert [(info.function_tools, info.instructions) for info in infos] == [([], None)]


def test_an_agent_with_nothing_to_insert_has_no_tool_either(workflow_harness: WorkflowHarness) -> None:
    """A tool that can only refuse would cost tokens in every request."""
    model = TestModel(custom_output_text="planned")

    result, notes = plan(workflow_harness, model, can_edit_itinerary=True, allowed_activities=["other"])

    assert (result.outputs, notes) == ({"planner": "planned"}, [])
    assert model.last_model_request_parameters is not None
    assert model.last_model_request_parameters.function_tools == []


@pytest.mark.parametrize(
    ("activity", "reason"),
    [("ghost", "activity_not_allowed"), ("planner", "activity_not_allowed")],
)
def test_a_refused_edit_is_told_to_the_model_and_the_workflow_goes_on(
    workflow_harness: WorkflowHarness, activity: str, reason: str
) -> None:
    """A model's mistake costs one tool call, and it is recorded."""
    model, messages, _ = calls_once({"steps": [{"activity": "critic"}, {"activity": activity}]})

    result, notes = plan(workflow_harness, model, can_edit_itinerary=True)

    told = [part for m in messages for part in m.parts if isinstance(part, (ToolReturnPart, RetryPromptPart))]
    assert [str(part.content) for part in told] == [
        f"Nothing was inserted. {reason} at `[1].activity`: you may insert: critic"
    ]
    assert (result.outputs, notes) == ({"planner": "planned"}, [("edit_refused", reason)])


def test_an_argument_that_the_tool_does_not_have_is_refused(workflow_harness: WorkflowHarness) -> None:
    """Only the prompt may change, whatever a prompt injection makes the model try."""
    model, messages, _ = calls_once({"steps": [{"activity": "critic", "deps": {"admin": True}}]})

    result, notes = plan(workflow_harness, model, can_edit_itinerary=True)

    told = [part.content for m in messages for part in m.parts if isinstance(part, (ToolReturnPart, RetryPromptPart))]
    assert len(told) == 1
    assert "extra_forbidden" in str(told[0])
    assert (result.outputs, notes) == ({"planner": "planned"}, [])


def test_two_calls_in_one_response_share_one_limit(workflow_harness: WorkflowHarness) -> None:
    """Parallel tool calls do not exceed a limit that each of them sees as free."""
    one = {"steps": [{"activity": "critic"}]}
    model, _, _ = calls_once(one, one, one)

    result, notes = plan(workflow_harness, model, can_edit_itinerary=True, max_added_steps=2)

    assert list(result.outputs) == ["planner", "critic-0.1", "critic-0.2"]
    assert notes == [("step_inserted", "critic"), ("step_inserted", "critic"), ("edit_refused", "too_many_added_steps")]


def test_a_step_that_fails_inserts_nothing(workflow_harness: WorkflowHarness) -> None:
    """Edits belong to the run that made them; a failed run leaves none behind."""
    infos: list[AgentInfo] = []

    def respond(_: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        infos.append(info)
        if len(infos) == 1:
            return ModelResponse(parts=[ToolCallPart("insert_activities", {"steps": [{"activity": "critic"}]})])
        raise RuntimeError("the provider is down")

    with pytest.raises(Exception, match="the provider is down"):
        plan(workflow_harness, FunctionModel(respond), can_edit_itinerary=True)

    events = [event.fields["type"] for event in workflow_harness.store.events("w", after=None, limit=100)]
    assert events == ["started", "claimed", *["retrying", "resent", "claimed"] * 4, "parked"]
