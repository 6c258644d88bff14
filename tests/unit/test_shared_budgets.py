"""A workflow's limits hold for steps that run at the same time: each call is checked against what all of them used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from paigeant_celery import CeleryDurability, PaigeantAgent, StepPolicy, WorkflowHandle, for_each, parallel
from paigeant_celery.core.budget import Usage
from paigeant_celery.core.errors import WorkflowFailed
from paigeant_celery.store.port import Claim, Claimed, Closing, HopRecord
from paigeant_celery.store.totals import usage_of
from paigeant_celery.testing import WorkflowHarness

pytestmark = pytest.mark.anyio

EACH: dict[str, Any] = {"input_tokens": 10, "output_tokens": 5, "cost": Decimal("0.001")}  # of a request

Answer = str | Sequence[str]  # text, or the names of the tools to call


class Line:
    """A workflow of one agent that follows a script, and steps beside it, which only use something up."""

    def __init__(self, harness: WorkflowHarness, *script: Answer, **options: Any) -> None:
        self.harness, self.script, self.asked, self.called = harness, script, 0, list[str]()
        self.between: dict[int, Callable[[], None]] = {}  # what happens before the model's answer with that number
        self.agent = PaigeantAgent(FunctionModel(self._answer, model_name="m"), name="writer", **options)
        self.agent.tool_plain(self.note)
        self.handle: WorkflowHandle | None = None
        self._numbers = count(1)

    def note(self) -> str:
        self.called.append("note")
        return "noted"

    def dispatch(self, **limits: Any) -> WorkflowHandle:
        self.handle = self.harness.dispatch([self.agent.activity("write")], usage_limits=limits or None)
        return self.handle

    async def run(self, **limits: Any) -> str:
        handle = self.dispatch(**limits)
        await self.harness.deliver()
        return str(handle.result_sync(0).output)

    def beside(self, requests: int = 0, *, tool_calls: int = 0, tokens: int = 0, cost: str = "0") -> None:
        """Let a step that runs at the same time record a call: by another hop, which nothing public begins yet."""
        assert self.handle is not None
        of, records, store = self.handle.correlation_id, self.harness.store._records, self.harness.store
        hop_id, number = f"{of}.99", next(self._numbers)
        hop = HopRecord(hop_id=hop_id, queue="q", envelope="e", digest="d")
        records.queue(records.workflows[of], hop, now=store._clock())
        ask = Claim(hop_id=hop_id, owner="beside", token=str(number), max_attempts=9, digest="d", used=Usage())
        claimed = store.claim(ask)
        assert isinstance(claimed, Claimed)
        used = {"requests": requests, "tool_calls": tool_calls, "input_tokens": tokens, "output_tokens": 0}
        closing = Closing(hop_id=hop_id, owner="beside", fence=claimed.fence)
        assert store.record(closing, {"call": "{}"}, spent={"call": Usage(counters=used, cost=Decimal(cost))})
        records._take_from("beside", hop_id)
        records.workflows[of].hop_ids.remove(records.hops.pop(hop_id) and hop_id)

    def used(self) -> Usage | None:
        """Return what the store has counted for the workflow."""
        assert self.handle is not None
        sums = self.harness.store._records.workflows[self.handle.correlation_id].used
        return usage_of(sums) if sums is not None else None

    def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        number = sum(isinstance(message, ModelResponse) for message in messages)
        self.asked += 1
        if (between := self.between.get(number)) is not None:
            between()
        answer = self.script[number]
        parts: list[Any] = [TextPart(answer)] if isinstance(answer, str) else []
        parts += [ToolCallPart(name, {}) for name in (answer if not isinstance(answer, str) else ())]
        return ModelResponse(parts=parts, usage=RequestUsage(**EACH))


def usage(requests: int, tool_calls: int, *, more: int = 0) -> Usage:
    counters = {"requests": requests, "tool_calls": tool_calls}
    tokens = {"input_tokens": requests * 10, "output_tokens": requests * 5}
    return Usage(counters={**counters, **tokens}, cost=requests * Decimal("0.001"))


@pytest.mark.parametrize(
    ("limits", "beside", "said"),
    [
        ({"request_limit": 5}, {"requests": 5}, "nothing is left of the request_limit"),
        ({"request_limit": 5}, {"requests": 4}, "The next request would exceed the request_limit of 1."),
        ({"total_tokens_limit": 100}, {"tokens": 90}, "total_tokens_limit of 10"),
        ({"input_tokens_limit": 30}, {"tokens": 30}, "nothing is left of the input_tokens_limit"),
        ({"cost_limit": "0.5"}, {"cost": "0.4995"}, "`cost_limit` of 0.0005"),
    ],
)
async def test_a_step_asks_its_model_no_more_when_others_have_used_the_limit_up(
    workflow_harness: WorkflowHarness, limits: dict[str, Any], beside: dict[str, Any], said: str
) -> None:
    """Steps side by side spend at most one call each over what the workflow may."""
    line = Line(workflow_harness, ["note"], "done")
    line.between[0] = lambda: line.beside(**beside)

    with pytest.raises(WorkflowFailed) as caught:
        await line.run(**limits)

    assert caught.value.error_class == "UsageLimitExceeded"
    assert said in caught.value.text
    assert "of which all steps used" in caught.value.text
    assert (line.asked, line.called) == (1, ["note"])


async def test_a_step_goes_on_while_something_is_left(workflow_harness: WorkflowHarness) -> None:
    """The limits are inclusive, whoever uses them up."""
    line = Line(workflow_harness, ["note"], "done")
    line.between[0] = lambda: line.beside(3, tool_calls=3, tokens=100, cost="0.498")

    output = await line.run(request_limit=5, tool_calls_limit=4, total_tokens_limit=130, cost_limit="0.5")

    assert output == "done"


async def test_nothing_is_asked_when_others_have_used_the_limit_up_before(workflow_harness: WorkflowHarness) -> None:
    """The claim of a hop tells what is used by then."""
    line = Line(workflow_harness, "done")
    handle = line.dispatch(request_limit=5)
    line.beside(5)

    await workflow_harness.deliver()

    with pytest.raises(WorkflowFailed, match="nothing is left of the request_limit"):
        handle.result_sync(0)
    assert line.asked == 0


async def test_tools_in_parallel_get_only_the_calls_that_others_left(workflow_harness: WorkflowHarness) -> None:
    """A model that asks for many tools at once gets no more of them than one that asks for them in turn."""
    line = Line(workflow_harness, ["note"] * 3, "done")
    line.between[0] = lambda: line.beside(tool_calls=2)

    with pytest.raises(WorkflowFailed) as caught:
        await line.run(tool_calls_limit=4)

    assert "tool_calls_limit of 2" in caught.value.text
    assert len(line.called) <= 2


async def test_a_replayed_call_is_never_refused(workflow_harness: WorkflowHarness) -> None:
    """It is paid for. An attempt decides as the one before it did, however much others have used meanwhile."""
    line = Line(workflow_harness, ["note"], ["note"], "done")
    failures: list[Exception | None] = [OSError("away"), None]

    @line.agent.output_validator
    def check(output: str) -> str:
        if (error := failures.pop(0)) is not None:
            line.beside(9, tool_calls=9, tokens=999)
            raise error
        return output

    output = await line.run(request_limit=9, tool_calls_limit=9, total_tokens_limit=999)

    assert output == "done"
    assert (line.asked, len(line.called), failures) == (3, 2, [])


async def test_a_call_that_is_not_recorded_is_refused_on_a_replay_too(workflow_harness: WorkflowHarness) -> None:
    """The next attempt gets no new budget for what it has yet to ask."""
    line = Line(workflow_harness, ["note"], ["fail"], "done")

    failures: list[Exception | None] = [OSError("away"), None]

    @line.agent.tool_plain
    def fail() -> str:
        if (error := failures.pop(0)) is not None:
            line.beside(7)
            raise error
        return "well"

    with pytest.raises(WorkflowFailed, match="request_limit of 2"):
        await line.run(request_limit=9)

    assert (line.asked, failures) == (2, [])


async def test_a_run_whose_last_answer_is_held_counts_it_once(workflow_harness: WorkflowHarness) -> None:
    """It is recorded with the step, whose sum has it, or before another attempt, which replays it."""
    line = Line(workflow_harness, ["note"], "done")
    kept: list[Usage | None] = []
    failures: list[Exception | None] = [OSError("away"), None]

    @line.agent.output_validator
    def check(output: str) -> str:
        kept.append(line.used())
        if (error := failures.pop(0)) is not None:
            raise error
        return output

    await line.run(request_limit=9)

    assert kept == [usage(1, 1), usage(2, 1)]
    assert line.used() == usage(2, 1)


async def test_totals_are_exact_after_a_step(workflow_harness: WorkflowHarness) -> None:
    """What a tool outside the journal used counts when the step is done, and what does not count is never counted."""
    line = Line(workflow_harness, ["ask"], ["own"], "done")
    helper = Agent(
        FunctionModel(lambda *_: ModelResponse(parts=[TextPart("yes")], usage=RequestUsage(**EACH))),
        capabilities=[CeleryDurability()],
        name="helper",
    )
    seen: list[Usage | None] = []

    @line.agent.tool(metadata={"paigeant": False})
    async def ask(ctx: RunContext[object]) -> str:
        return (await helper.run("?", usage=ctx.usage)).output

    @line.agent.tool(metadata={"paigeant": False})
    async def own(ctx: RunContext[object]) -> str:
        seen.append(line.used())
        output = (await helper.run("?")).output
        seen.append(line.used())
        return output

    await line.run(request_limit=9)

    assert seen == [usage(3, 0)] * 2
    assert line.used() == usage(4, 2)


async def test_an_agent_in_a_recorded_tool_counts_with_the_tool(workflow_harness: WorkflowHarness) -> None:
    """Others learn what it used when the tool's call is recorded, even if the call fails."""
    line = Line(workflow_harness, ["ask"], "done")
    helper = Agent(FunctionModel(lambda *_: ModelResponse(parts=[TextPart("yes")], usage=RequestUsage(**EACH))))
    line.between[1] = lambda: seen.append(line.used())
    seen: list[Usage | None] = []

    @line.agent.tool
    async def ask(ctx: RunContext[object]) -> str:
        return (await helper.run("?", usage=ctx.usage)).output

    await line.run(request_limit=9)

    assert seen == [usage(2, 1)]
    assert line.used() == usage(3, 1)


async def test_a_discarded_journal_is_paid_for_twice(workflow_harness: WorkflowHarness) -> None:
    """A workflow that is begun again from the top of a step has the less left."""
    line = Line(workflow_harness, ["fail"], ["note"], "done", policy=StepPolicy(max_attempts=1))
    failures: list[Exception | None] = [OSError("away"), None]

    @line.agent.tool_plain
    def fail() -> str:
        if (error := failures.pop(0)) is not None:
            raise error
        return "well"

    handle = line.dispatch(request_limit=3)
    assert await workflow_harness.deliver() == ["parked"]
    assert handle.redrive_sync(discard_journal=True)
    workflow_harness.sweep()

    assert await workflow_harness.deliver() == ["failed"]

    with pytest.raises(WorkflowFailed, match="all steps used 3"):
        handle.result_sync(0)
    assert line.asked == 3
    assert line.used() == usage(3, 2)


async def test_without_limits_nothing_is_counted(workflow_harness: WorkflowHarness) -> None:
    """A workflow without limits costs what it did."""
    line = Line(workflow_harness, ["note"], "done")

    await line.run()

    assert line.used() is None


async def test_code_that_survives_a_refused_call_gets_no_other(workflow_harness: WorkflowHarness) -> None:
    """An agent inside a tool is refused like the step that runs it, and the step's own next request is, too."""
    line = Line(workflow_harness, ["ask"], "done")
    helper = Agent(
        FunctionModel(lambda *_: ModelResponse(parts=[TextPart("yes")], usage=RequestUsage(**EACH))),
        capabilities=[CeleryDurability()],
        name="helper",
    )
    told: list[str] = []

    @line.agent.tool(metadata={"paigeant": False})
    async def ask(ctx: RunContext[object]) -> str:
        try:
            return (await helper.run("?", usage=ctx.usage)).output
        except UsageLimitExceeded:
            told.append("refused")
            return "no"

    line.between[0] = lambda: line.beside(tokens=120)
    handle = line.dispatch(total_tokens_limit=130)
    await workflow_harness.deliver()

    with pytest.raises(WorkflowFailed):
        handle.result_sync(0)
    assert told == ["refused"]


async def test_branches_count_once_and_their_block_does_not(workflow_harness: WorkflowHarness) -> None:
    """The record of a block has what its branches used; the store has counted that with their own steps."""
    line = Line(workflow_harness, ["note"], "done")
    step = line.agent.activity("write")
    branches = parallel({"one": step, "two": [step, step]}, step_id="both")
    line.handle = workflow_harness.dispatch([step, branches, step], usage_limits={"request_limit": 10})

    await workflow_harness.deliver()

    assert line.handle.result_sync(0).usage == usage(10, 5).counters
    assert line.used() == usage(10, 5)


@pytest.mark.parametrize("limits", [{"request_limit": 30}, {"total_tokens_limit": 450}, {"cost_limit": "0.030"}])
async def test_branches_at_the_same_time_use_at_most_one_call_each_too_many(
    workflow_harness: WorkflowHarness, limits: dict[str, Any]
) -> None:
    """Twenty agents would make a hundred requests, and may make thirty."""
    branches, most, asked = 20, 30, 0

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        nonlocal asked
        asked += 1
        number = sum(isinstance(message, ModelResponse) for message in messages)
        await asyncio.sleep(0)
        part = ToolCallPart("note", {}) if number < 4 else TextPart("done")
        return ModelResponse(parts=[part], usage=RequestUsage(**EACH))

    agent = PaigeantAgent(FunctionModel(answer, model_name="m"), name="reader")
    agent.tool_plain(name="note")(lambda: "noted")
    readings = for_each(agent.activity("read"), over=list(range(branches)), max_at_once=branches, step_id="readings")
    handle = workflow_harness.dispatch([readings], usage_limits=limits)
    await workflow_harness.deliver(1)
    pending = [workflow_harness.pending.popleft() for _ in range(branches)]

    await asyncio.gather(*map(workflow_harness.redeliver, pending))

    assert most <= asked <= most + branches
    await workflow_harness.deliver()
    with pytest.raises(WorkflowFailed, match="UsageLimitExceeded"):
        handle.result_sync(0)
