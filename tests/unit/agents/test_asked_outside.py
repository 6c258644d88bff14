"""What the agent of a step asks of whoever answers from outside: approvals, and results of calls."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic_ai import ApprovalRequired, CallDeferred, DeferredToolRequests, RunContext
from pydantic_ai.capabilities import HandleDeferredToolCalls
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.tools import DeferredToolResults
from pydantic_ai.usage import UsageLimits

from paigeant_celery import PaigeantAgent, WorkflowContext, WorkflowFailed
from paigeant_celery.activities.registry import registry
from paigeant_celery.agents.answered_runs import run_to_end
from paigeant_celery.agents.step_runs import StepRuns
from paigeant_celery.core.errors import Paused
from paigeant_celery.core.waits import Wait
from paigeant_celery.testing import WorkflowHarness
from tests.support.journalled_hop import scripted
from tests.support.waiting_steps import asked_for, dying_at, played, reply

YES: Mapping[str, Any] = {"approval": True}
NO: Mapping[str, Any] = {"approval": {"kind": "tool-denied", "message": "not today"}}


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    gc.disable()  # only the names in steps hold what is made here until it runs, and a collection would take it
    with registry.isolated():
        yield
    gc.enable()


@pytest.fixture
def did() -> Counter[str]:
    """What was done, and how often."""
    return Counter()


def call(tool: str, call_id: str, **arguments: Any) -> ToolCallPart:
    return ToolCallPart(tool, arguments, call_id)


def bank(did: Counter[str], *answers: Any, **options: Any) -> PaigeantAgent[Any, Any]:
    """An agent that pays with leave, is told prices from outside, and reads without either."""
    options.setdefault("output_type", [str, DeferredToolRequests])
    agent = PaigeantAgent(scripted(did, *answers), name="bank", **options)

    @agent.tool
    def pay(ctx: RunContext[Any], amount: int) -> str:
        if amount > 9 and not ctx.tool_call_approved:
            raise ApprovalRequired
        did[f"paid {amount}"] += 1
        return f"paid {amount}"

    @agent.tool
    def close(ctx: RunContext[Any]) -> str:
        """Close with the leave of two."""
        if not ctx.tool_call_approved:
            raise ApprovalRequired
        if did["first leave"] == 0:
            did["first leave"] += 1
            raise CallDeferred
        raise AssertionError("never reached")

    @agent.tool_plain
    def price(of: str) -> str:
        raise CallDeferred

    @agent.tool_plain
    def read(of: str) -> str:
        did[f"read {of}"] += 1
        return "read"

    return agent


def answering(**answers: Any) -> Callable[[Wait], Mapping[str, Any]]:
    return lambda wait: {part: answers[part] for part in wait.parts}


ROUNDS = [
    [
        call("pay", "big", amount=10),
        call("pay", "small", amount=1),
        call("price", "p", of="tea"),
        call("read", "r", of="b"),
    ],
    [call("pay", "more", amount=20), call("pay", "other", amount=30)],
    "done",
]
ANSWERS = answering(
    big=YES, p={"call": {"cents": 3}}, more=NO,
    other={"approval": {"kind": "tool-approved", "override_args": {"amount": 15}}},
)  # fmt: skip
DONE = {"paid 10": 1, "paid 1": 1, "read b": 1, "paid 15": 1, "local": 3}


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_only_what_was_approved_runs_once_round_after_round(
    workflow_harness: WorkflowHarness, did: Counter[str], declared: bool
) -> None:
    """Whoever denies a payment must be able to rely on it; what needs no leave waits for nobody."""
    agent = bank(did, *ROUNDS, **({} if declared else {"output_type": str}))

    handle = workflow_harness.dispatch([agent.activity("go")], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    assert did == {"local": 1, "paid 1": 1, "read b": 1}
    outcomes = played(workflow_harness, handle, ANSWERS)

    assert outcomes == ["suspended", "workflow_completed"]
    assert did == DONE
    result = handle.result_sync(0)
    assert (result.output, result.usage["requests"], result.usage["tool_calls"]) == ("done", 3, 4)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_rounds_survive_the_death_of_a_worker_at_each_write(done: bool) -> None:
    """A second payment would be worse than none."""
    point = 0
    while True:
        did, harness = Counter[str](), WorkflowHarness()
        with registry.isolated(), dying_at(harness, point, done=done) as met:
            handle = harness.dispatch([bank(did, *ROUNDS).activity("go")], correlation_id="w")
            played(harness, handle, ANSWERS)
            assert handle.result_sync(0).output == "done"
        if point >= len(met):
            break
        assert did.keys() == DONE.keys()
        assert all(did[what] - DONE[what] in (0, 1) for what in DONE)
        point += 3  # others are those of the table of waits
    assert point > 6


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_a_call_that_asks_again_when_it_is_answered_is_asked_for_again(
    workflow_harness: WorkflowHarness, did: Counter[str], declared: bool
) -> None:
    """Two must agree. The run has ended by then, and another goes on with its history, usage and messages."""
    options = {} if declared else {"output_type": str}
    agent = bank(did, [call("close", "c"), call("read", "r", of="a")], "closed", **options)
    step = agent.activity("go")

    handle = workflow_harness.dispatch([step], correlation_id="w")
    outcomes = played(workflow_harness, handle, lambda wait: {"c": YES if not did["first leave"] else {"call": "both"}})

    assert outcomes == ["suspended", "suspended", "workflow_completed"]
    assert did == {"local": 2, "first leave": 1, "read a": 1}
    assert handle.result_sync(0).output == "closed"
    assert handle.result_sync(0).usage["requests"] == 2


def test_limits_of_usage_hold_over_a_wait(workflow_harness: WorkflowHarness, did: Counter[str]) -> None:
    """A run that was paid for in three attempts has one budget."""
    agent = bank(did, *ROUNDS)

    handle = workflow_harness.dispatch(
        [agent.activity("go")], correlation_id="w", usage_limits=UsageLimits(request_limit=2)
    )
    played(workflow_harness, handle, ANSWERS)

    with pytest.raises(WorkflowFailed, match="request_limit"):
        handle.result_sync(0)
    assert did["local"] == 2


def test_a_conversation_has_the_whole_run_and_the_next_step_hears_it(
    workflow_harness: WorkflowHarness, did: Counter[str]
) -> None:
    """What was asked and answered belongs to it, be it one run or two."""
    heard: list[ModelMessage] = []

    def listen(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        heard.extend(messages)
        return ModelResponse(parts=[TextPart("heard")])

    first = bank(did, [call("close", "c"), call("pay", "big", amount=10)], "closed")
    second = PaigeantAgent(FunctionModel(listen), name="second")
    steps = [agent.activity("go", conversation="talk") for agent in (first, second)]

    handle = workflow_harness.dispatch(steps, correlation_id="w")
    answers = {"c": YES, "big": NO}
    played(
        workflow_harness,
        handle,
        lambda wait: {part: answers[part] if not did["first leave"] else {"call": "both"} for part in wait.parts},
    )

    assert handle.result_sync(0).outputs == {"bank": "closed", "second": "heard"}
    told = {
        part.tool_call_id: part.content for each in heard for part in each.parts if isinstance(part, ToolReturnPart)
    }
    assert told == {"c": "both", "big": "not today"}


def test_a_handler_is_asked_first_and_once(workflow_harness: WorkflowHarness, did: Counter[str]) -> None:
    """A policy decides what it can; people are asked for the rest."""

    def policy(ctx: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults:
        did["policy"] += 1
        return requests.build_results(calls={each.tool_call_id: 3 for each in requests.calls})

    agent = bank(did, ROUNDS[0], "done", capabilities=[HandleDeferredToolCalls(policy)])

    handle = workflow_harness.dispatch([agent.activity("go")], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    [wait] = asked_for(workflow_harness)
    assert wait.parts == ("big",)
    assert reply(workflow_harness, wait, {"big": YES}) == "settled"
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]

    assert handle.result_sync(0).output == "done"
    assert (did["policy"], did["local"], did["paid 10"]) == (1, 2, 1)


def test_what_was_made_for_the_step_is_left_and_made_again(
    workflow_harness: WorkflowHarness, did: Counter[str]
) -> None:
    """A connection must not be held for days."""

    @contextmanager
    def connected(data: Any, context: WorkflowContext) -> Iterator[str]:
        did["entered"] += 1
        try:
            yield "connection"
        finally:
            did["left"] += 1

    agent = bank(did, [call("pay", "big", amount=10)], "done", deps_type=str, deps_factory=connected)

    handle = workflow_harness.dispatch([agent.activity("go")], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    assert (did["entered"], did["left"]) == (1, 1)
    played(workflow_harness, handle, answering(big=YES))

    assert handle.result_sync(0).output == "done"
    assert (did["entered"], did["left"], did["paid 10"]) == (2, 2, 1)


def test_without_a_store_a_step_that_would_wait_is_set_aside(did: Counter[str]) -> None:
    """Nobody would remember what it waits for."""
    agent = bank(did, [call("pay", "big", amount=10)], "done")

    with pytest.raises(Paused, match="store_required"):
        asyncio.run(run_to_end(agent, StepRuns(agent, lambda: "bank"), "go"))
