"""What the steps of a workflow use is summed over hops and kept within the workflow's limits."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage, UsageLimits

from paigeant_celery import PaigeantAgent, activity
from paigeant_celery.core.budget import WorkflowLimits
from paigeant_celery.core.errors import InvalidInput, WorkflowFailed
from paigeant_celery.testing import WorkflowHarness

pytestmark = pytest.mark.anyio


class Talker:
    """An agent that calls its tool a number of times and reports what each of its requests used."""

    def __init__(self, name: str, *, times: int, **usage: Any) -> None:
        self.asked, self._times, self._usage = 0, times, usage
        self.agent = PaigeantAgent(FunctionModel(self._answer, model_name=name), name=name)
        self.agent.tool_plain(self.note)

    def note(self) -> str:
        return "noted"

    def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.asked += 1
        answered = sum(isinstance(message, ModelResponse) for message in messages)
        part = ToolCallPart("note", {}) if answered < self._times else TextPart("done")
        return ModelResponse(parts=[part], usage=RequestUsage(**self._usage))


@pytest.fixture
def two() -> tuple[Talker, Talker]:
    """Two agents with three requests and two tool calls each."""
    return (
        Talker("first", times=2, input_tokens=10, output_tokens=5, cost=Decimal("0.001")),
        Talker("second", times=2, input_tokens=10, output_tokens=5, cost=Decimal("0.002")),
    )


async def test_status_and_result_show_what_all_steps_used(
    workflow_harness: WorkflowHarness, two: tuple[Talker, Talker]
) -> None:
    """One number to look at, wherever the steps ran."""
    steps = [talker.agent.activity("talk") for talker in two]
    handle = workflow_harness.dispatch(steps)

    await workflow_harness.deliver(1)
    halfway = handle.status_sync()
    await workflow_harness.deliver()
    result = handle.result_sync(0)

    half = {"requests": 3, "tool_calls": 2, "input_tokens": 30, "output_tokens": 15}
    assert (halfway.usage, halfway.cost) == (half, Decimal("0.003"))
    assert result.usage == {name: 2 * count for name, count in half.items()}
    assert result.cost == Decimal("0.009")
    assert (handle.status_sync().usage, handle.status_sync().cost) == (result.usage, result.cost)


async def test_a_workflow_within_its_limits_completes(
    workflow_harness: WorkflowHarness, two: tuple[Talker, Talker]
) -> None:
    """The limits are inclusive, as pydantic-ai's are."""
    limits = UsageLimits(request_limit=6, tool_calls_limit=4, total_tokens_limit=90, cost_limit=Decimal("0.009"))

    result = await workflow_harness.run([talker.agent.activity("talk") for talker in two], usage_limits=limits)

    assert result.output == "done"


@pytest.mark.parametrize(
    ("limits", "asked", "said"),
    [
        ({"request_limit": 5}, 2, "a request_limit of 5, of which earlier steps used 3"),
        ({"request_limit": 3}, 0, "nothing is left of the request_limit"),
        ({"tool_calls_limit": 3}, 2, "a tool_calls_limit of 3, of which earlier steps used 2"),
        ({"total_tokens_limit": 70}, 2, "a total_tokens_limit of 70, of which earlier steps used 45"),
        ({"output_tokens_limit": 15}, 0, "nothing is left of the output_tokens_limit"),
        ({"cost_limit": "0.006"}, 2, "a cost_limit of 0.006, of which earlier steps used 0.003"),
    ],
)
async def test_the_step_that_would_use_more_fails_the_workflow(
    workflow_harness: WorkflowHarness, two: tuple[Talker, Talker], limits: dict[str, Any], asked: int, said: str
) -> None:
    """A runaway agent costs only what was allowed, and the message names the limit and who used it up."""
    with pytest.raises(WorkflowFailed) as caught:
        await workflow_harness.run([talker.agent.activity("talk") for talker in two], usage_limits=limits)

    assert (caught.value.step_id, caught.value.error_class) == ("second", "UsageLimitExceeded")
    assert said in caught.value.text
    assert two[1].asked == asked


async def test_a_retried_step_counts_what_it_replays(workflow_harness: WorkflowHarness) -> None:
    """An attempt does not get a new budget, and no call is counted twice."""
    shaky = Talker("shaky", times=2, input_tokens=10, cost=Decimal("0.001"))
    failures = [OSError("away"), None]

    @shaky.agent.output_validator
    def check(output: str) -> str:
        if (error := failures.pop(0)) is not None:
            raise error
        return output

    handle = workflow_harness.dispatch([shaky.agent.activity("talk")], usage_limits={"request_limit": 3})
    await workflow_harness.deliver()
    result = handle.result_sync(0)

    assert shaky.asked == 3
    assert result.usage == {"requests": 3, "tool_calls": 2, "input_tokens": 30, "output_tokens": 0}
    assert result.cost == Decimal("0.003")


async def test_a_step_whose_cost_is_negative_completes(workflow_harness: WorkflowHarness) -> None:
    """Its output was paid for."""
    odd = Talker("odd", times=0, cost=Decimal("-1"))

    result = await workflow_harness.run([odd.agent.activity("talk")])

    assert (result.output, result.cost) == ("done", None)


async def test_without_limits_an_error_says_nothing_of_them(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pydantic-ai's own limit of a run is not a limit of the workflow, even if a message has empty limits."""
    monkeypatch.setattr(WorkflowLimits, "given", lambda _: WorkflowLimits())
    endless = Talker("endless", times=100)

    with pytest.raises(WorkflowFailed, match="request_limit of 50") as caught:
        await workflow_harness.run([endless.agent.activity("talk")], usage_limits={})

    assert "the workflow has" not in caught.value.text
    assert endless.asked == 50


async def test_functions_use_nothing(workflow_harness: WorkflowHarness, two: tuple[Talker, Talker]) -> None:
    """A workflow whose budget is spent may still store what it has."""

    @activity
    def keep() -> str:
        return "kept"

    result = await workflow_harness.run(
        [two[0].agent.activity("talk"), keep.activity()], usage_limits={"request_limit": 3}
    )

    assert result.output == "kept"


def test_limits_are_checked_before_anything_is_sent(
    workflow_harness: WorkflowHarness, two: tuple[Talker, Talker]
) -> None:
    """A mistake in a limit is the caller's, not the worker's."""
    with pytest.raises(InvalidInput, match="invalid_usage_limits"):
        workflow_harness.dispatch([two[0].agent.activity("talk")], usage_limits={"requests": 3})
    with pytest.raises(InvalidInput, match="stream"):
        workflow_harness.dispatch([two[0].agent.activity("talk")], stream="yes")  # type: ignore[arg-type]

    assert not workflow_harness.pending
