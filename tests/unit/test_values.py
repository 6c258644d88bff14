"""What is given to a step or returned from it arrives as it is, or is refused before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import TypeAdapter
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import ActivitySpec, FunctionSpec, PaigeantAgent, WorkflowContext, activity
from paigeant_celery.core.errors import InvalidInput, WorkflowFailed
from paigeant_celery.testing import WorkflowHarness
from tests.support.kinds import KINDS, Kind

pytestmark = pytest.mark.anyio

Arrive = Callable[[WorkflowHarness, Kind], Awaitable[Any]]

each_kind = pytest.mark.parametrize("kind", KINDS)


def same(kind: Kind, arrived: Any) -> bool:
    """Say whether what arrived is the value down to the last class; independent of how the package compares values."""
    if kind.seen is not None:
        return type(arrived) is type(kind.value) and bool(kind.seen(arrived) == kind.seen(kind.value))
    return repr(arrived) == repr(kind.value)


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[TextPart("done")])


def agent_that_keeps(seen: list[Any], kind: Kind) -> PaigeantAgent[Any, str]:
    agent: PaigeantAgent[Any, str] = PaigeantAgent(FunctionModel(answer), name="reader", deps_type=kind.type)

    @agent.instructions
    def look(ctx: Any) -> str:
        seen.append(ctx.deps)
        return "look"

    return agent


def function_that_keeps(seen: list[Any], kind: Kind) -> Any:
    def look(value):  # type: ignore[no-untyped-def]
        seen.append(value)

    look.__annotations__ = {"value": kind.type}
    return activity(look)


async def as_deps(harness: WorkflowHarness, kind: Kind) -> Any:
    seen: list[Any] = []
    agent = agent_that_keeps(seen, kind)
    await harness.run([agent.activity("go", deps=kind.value)])
    return seen[0]


async def as_deps_by_hand(harness: WorkflowHarness, kind: Kind) -> Any:
    seen: list[Any] = []
    agent = agent_that_keeps(seen, kind)
    await harness.run([ActivitySpec("reader", "go", deps=kind.value)])
    del agent
    return seen[0]


async def as_argument(harness: WorkflowHarness, kind: Kind) -> Any:
    seen: list[Any] = []
    look = function_that_keeps(seen, kind)
    await harness.run([look.activity(kind.value)])
    return seen[0]


async def as_argument_by_hand(harness: WorkflowHarness, kind: Kind) -> Any:
    seen: list[Any] = []
    look = function_that_keeps(seen, kind)
    await harness.run([FunctionSpec(look.name, {"value": kind.value})])
    return seen[0]


async def as_variable(harness: WorkflowHarness, kind: Kind) -> Any:
    seen: list[Any] = []

    @activity
    def look(context: WorkflowContext) -> None:
        seen.append(context.variables["value"])

    await harness.run([look.activity()], variables={"value": kind.value})
    return TypeAdapter(kind.read_as).validate_json(json.dumps(seen[0]))


@each_kind
@pytest.mark.parametrize("arrive", [as_deps, as_argument], ids=["deps", "argument"])
async def test_what_a_step_is_given_arrives_as_it_is_or_is_refused(
    workflow_harness: WorkflowHarness, arrive: Arrive, kind: Kind
) -> None:
    """A limit of 3 that arrives as 10 is found by a customer; a refusal is found by whoever wrote the call."""
    place = {as_deps: "deps", as_argument: "arguments.value"}[arrive]
    if kind.lost is None:
        assert same(kind, await arrive(workflow_harness, kind))
        return

    with pytest.raises(InvalidInput) as caught:
        await arrive(workflow_harness, kind)

    assert caught.value.reason == f"invalid_{place.partition('.')[0]}"
    assert caught.value.path in {f"{place}{kind.lost}", place.partition(".")[0]}
    assert not workflow_harness.delivered
    assert not workflow_harness.pending


@each_kind
@pytest.mark.parametrize("arrive", [as_deps_by_hand, as_argument_by_hand], ids=["deps", "argument"])
async def test_a_step_made_by_hand_is_checked_by_the_type_that_is_loaded(
    workflow_harness: WorkflowHarness, arrive: Arrive, kind: Kind
) -> None:
    """Whoever does not go through the agent gets the same refusal, if the process has the agent."""
    try:
        arrived = await arrive(workflow_harness, kind)
    except InvalidInput:
        assert kind.by_hand is not None
        assert not workflow_harness.delivered
        assert not workflow_harness.pending
    else:
        assert same(kind, arrived)


@each_kind
async def test_a_variable_is_read_by_its_own_class_or_refused(workflow_harness: WorkflowHarness, kind: Kind) -> None:
    """Variables are JSON; whoever knows their class reads what was given."""
    if kind.own is None:
        assert same(kind, await as_variable(workflow_harness, kind))
        return

    with pytest.raises(InvalidInput) as caught:
        await as_variable(workflow_harness, kind)

    assert caught.value.reason == "invalid_variables"
    assert caught.value.path in {f"variables.value{kind.own}", "variables"}
    assert not workflow_harness.delivered
    assert not workflow_harness.pending


@each_kind
async def test_an_output_is_read_by_its_annotation_or_refused(workflow_harness: WorkflowHarness, kind: Kind) -> None:
    """The next step, and whoever asks for the result, read what the function returned."""

    def make():  # type: ignore[no-untyped-def]
        return kind.value

    make.__annotations__ = {"return": kind.type}
    step = activity(make)
    if kind.output is None:
        result = await workflow_harness.run([step.activity()])
        assert same(kind, result.output_as(kind.type if kind.lost is None else kind.read_as))
        return

    with pytest.raises(WorkflowFailed) as caught:
        await workflow_harness.run([step.activity()])

    assert caught.value.error_class == "output_not_serializable"
    assert f"`output{kind.output}`" in caught.value.text or "has no JSON form" in caught.value.text
