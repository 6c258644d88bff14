"""Answers that are ready before anybody is asked fit the waits that they are for, in the words of pydantic-ai."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
from pydantic_ai import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import CallDeferred, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import (
    ActivitySpec,
    InvalidAnswer,
    PaigeantAgent,
    PendingWait,
    WorkflowContext,
    WorkflowWaits,
    activity,
)
from paigeant_celery.testing import WorkflowHarness

try:
    from pydantic_ai.capabilities import RequestInput
except ImportError:
    RequestInput = None  # type: ignore[assignment, misc]


def cashier(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Pay twice and look once; then say what came of it."""
    returns = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
    if returns:
        return ModelResponse(parts=[TextPart("; ".join(str(part.content) for part in returns))])
    calls = [("pay", {"cents": 10}, "a"), ("pay", {"cents": 2000}, "b"), ("look", {"where": "shelf"}, "c")]
    return ModelResponse(parts=[ToolCallPart(name, arguments, tool_call_id=id_) for name, arguments, id_ in calls])


def till(*capabilities: AbstractCapability[object]) -> ActivitySpec:
    """Make a step of an agent that may pay only with an approval, and cannot look itself."""
    agent = PaigeantAgent(
        FunctionModel(cashier), output_type=[str, DeferredToolRequests], name="till", capabilities=capabilities
    )

    @agent.tool_plain(requires_approval=True)
    def pay(cents: int) -> str:
        return f"paid {cents}"

    @agent.tool_plain
    def look(where: str) -> str:
        raise CallDeferred

    return agent.activity("go")


Answers = Mapping[str, object]

ANSWERS: list[tuple[Answers, str]] = [
    ({"pay": True, "look": "two cups"}, "paid 10; paid 2000; two cups"),
    ({"pay": False, "look": {"cups": 2}}, "The tool call was denied.; The tool call was denied.; {'cups': 2}"),
    ({"pay": ToolDenied("too much"), "look": ToolFailed("dark")}, "too much; too much; dark"),
    ({"pay": lambda call: call.arguments["cents"] < 100, "look": 1}, "paid 10; The tool call was denied.; 1"),
    ({"pay": lambda call: ToolApproved(override_args={"cents": 1}), "look": 1}, "paid 1; paid 1; 1"),
]


@pytest.mark.parametrize(("answers", "output"), ANSWERS)
def test_calls_of_tools_get_the_answers_of_their_tools(
    answers: Answers, output: str, workflow_harness: WorkflowHarness
) -> None:
    """One writes the name of the tool and what `DeferredToolResults` would have for its call."""
    result = asyncio.run(workflow_harness.run([till()], answers=answers))

    assert result.output == output


PER_CALL = {"a": True, "b": ToolDenied("no"), "c": 3}
OF_WAIT: list[Callable[[PendingWait], object]] = [
    lambda wait: PER_CALL,
    lambda wait: {call.id: PER_CALL[call.id] for call in wait.calls},
    lambda wait: DeferredToolResults(approvals={"a": True, "b": ToolDenied("no")}, calls={"c": 3}),
    lambda wait: {"approvals": {"a": True, "b": {"kind": "tool-denied", "message": "no"}}, "calls": {"c": 3}},
]


@pytest.mark.parametrize("of_wait", OF_WAIT)
def test_the_whole_wait_may_be_answered_at_once(
    of_wait: Callable[[PendingWait], object], workflow_harness: WorkflowHarness
) -> None:
    """A function that sees all calls may decide on them together."""
    step = till()
    handle = workflow_harness.dispatch([step])
    asyncio.run(workflow_harness.deliver())
    (wait,) = handle.pending_sync()
    assert [(call.id, call.kind, call.tool, call.arguments) for call in wait.calls] == [
        ("a", "approval", "pay", {"cents": 10}),
        ("b", "approval", "pay", {"cents": 2000}),
        ("c", "external", "look", {"where": "shelf"}),
    ]

    result = asyncio.run(workflow_harness.run([step], answers={wait.name: of_wait}))

    assert result.output == "paid 10; no; 3"


def test_calls_without_an_answer_are_named_by_their_tools(workflow_harness: WorkflowHarness) -> None:
    """The name of the tool is what the author of the agent knows."""
    with pytest.raises(WorkflowWaits, match=r"\(pay, pay, look\)"):
        asyncio.run(workflow_harness.run([till()], answers={"pay": True}))


def test_an_answer_of_the_wrong_form_is_told_before_it_counts(workflow_harness: WorkflowHarness) -> None:
    """An approval is no text."""
    with pytest.raises(InvalidAnswer, match="approvals"):
        asyncio.run(workflow_harness.run([till()], answers={"pay": "yes", "look": 1}))


def test_an_answer_that_is_no_json_is_named_by_its_class(workflow_harness: WorkflowHarness) -> None:
    """What pydantic raises names neither the wait nor what to give."""

    @activity
    async def waits(context: WorkflowContext) -> object:
        return await context.wait_for("paid")

    with pytest.raises(InvalidAnswer, match="object has no JSON form"):
        asyncio.run(workflow_harness.run([waits.activity()], answers={"paid": object()}))


@pytest.mark.skipif(RequestInput is None, reason="pydantic-ai before 2.68 has no such capability")
@pytest.mark.parametrize("name", ["pay", "consent"])
def test_a_run_that_asks_within_itself_gets_the_same_answers(name: str, workflow_harness: WorkflowHarness) -> None:
    """Its author named the wait; the tools are named as always."""
    tokens: list[str] = []
    step = till(RequestInput(lambda ctx, requests, token: tokens.append(token), name="consent"))
    answers: Answers = {"consent": PER_CALL} if name == "consent" else {"pay": ToolDenied("no"), "look": 3}

    result = asyncio.run(workflow_harness.run([step], answers=answers))

    assert result.output == ("paid 10; no; 3" if name == "consent" else "no; no; 3")
    assert len(tokens) == 1
