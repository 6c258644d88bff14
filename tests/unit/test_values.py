"""What is given to a step or returned from it arrives as it is, or is refused before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest
from pydantic import AliasPath, BaseModel, Field, TypeAdapter
from pydantic_ai import RunContext, ToolOutput
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import ActivitySpec, FunctionSpec, PaigeantAgent, WorkflowContext, activity
from paigeant_celery.core.errors import InvalidInput, WorkflowFailed
from paigeant_celery.testing import WorkflowHarness
from tests.support.kinds import KINDS, Circle, Kind

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
    assert caught.value.path == f"{place}{kind.lost}"
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
    assert f"`output{kind.output}`" in caught.value.text


@pytest.mark.parametrize(
    ("output", "annotation", "recorded"),
    [
        ((1, 2), Sequence[int], [1, 2]),
        (Circle(radius=7), BaseModel, {"name": "shape", "radius": 7}),
        (Circle(radius=7), object, {"name": "shape", "radius": 7}),
        ({"day": date(2026, 1, 2), "seen": {2, 1}}, dict[str, Any], {"day": "2026-01-02", "seen": [1, 2]}),
        ({"name": "a"}, Circle, {"name": "a"}),
        ({1: "a"}, dict[int, str], {"1": "a"}),
    ],
)
async def test_what_an_annotation_leaves_open_is_read_by_its_own_class(
    workflow_harness: WorkflowHarness, output: Any, annotation: Any, recorded: Any
) -> None:
    """A function that ended well is not parked for an annotation that says less than its output."""

    def make():  # type: ignore[no-untyped-def]
        return output

    make.__annotations__ = {"return": annotation}
    step = activity(make)

    assert (await workflow_harness.run([step.activity()])).output == recorded


class Query(BaseModel):
    limit: int = Field(10, serialization_alias="maxItems")
    page: int = Field(1, validation_alias=AliasPath("paging", "page"))


@dataclass
class Search:
    queries: list[Query]
    first: Query = field(default_factory=Query)


async def test_the_names_in_json_do_not_depend_on_the_values(workflow_harness: WorkflowHarness) -> None:
    """A name that is not read comes back equal if its field has the default, but the next step looks for the other."""
    search, seen = Search([Query()]), []

    @activity
    def look(context: WorkflowContext, search: Search) -> Search:
        seen.append(context.variables["search"])
        return search

    step = look.activity(search)
    result = await workflow_harness.run([step], variables={"search": search})

    usual = {"limit": 10, "paging": {"page": 1}}
    written = {"queries": [usual], "first": usual}
    assert [step.arguments["search"], seen[0], result.output] == [written] * 3


def counted(count: int) -> dict[int, str]:
    return {count: "a"}


def counted_or_not(context: RunContext[None], count: int) -> dict[int, str] | None:
    return {count: "a"} if count else None


async def counted_later(count: int) -> dict[int, str]:
    return {count: "a"}


@pytest.mark.parametrize(
    "output_type",
    [
        dict[int, str] | None,
        [dict[int, str], str],
        ToolOutput(dict[int, str]),
        counted,
        ToolOutput(counted),
        [counted_or_not, str],
        counted_later,
    ],
)
async def test_the_output_of_an_agent_may_be_declared_in_any_way(
    workflow_harness: WorkflowHarness, output_type: Any
) -> None:
    """What its output functions say they return, and alternatives, are types of it as well."""

    def count(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        tool = info.output_tools[0]
        named = tool.parameters_json_schema.get("properties", {})
        arguments = {"count": 1} if "count" in named else {"response": {"1": "a"}} if named else {"1": "a"}
        return ModelResponse(parts=[ToolCallPart(tool.name, arguments)])

    agent: Any = PaigeantAgent(FunctionModel(count), output_type=output_type, name="counter")

    result = await workflow_harness.run([agent.activity("go")])

    assert result.output == {"1": "a"}


async def test_the_output_of_an_agent_is_read_by_its_type_if_that_says_more(workflow_harness: WorkflowHarness) -> None:
    """A model that answers with numbers as keys is not paid in vain."""

    def count(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        [tool] = info.output_tools
        named = "properties" in tool.parameters_json_schema
        return ModelResponse(parts=[ToolCallPart(tool.name, {"response": {"1": "a"}} if named else {"1": "a"})])

    agent = PaigeantAgent(FunctionModel(count), output_type=dict[int, str], name="counter")

    result = await workflow_harness.run([agent.activity("go")])

    assert result.output == {"1": "a"}
    assert result.output_as(dict[int, str]) == {1: "a"}
