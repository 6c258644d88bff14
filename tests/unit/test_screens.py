"""A workflow on a screen: what a handle's events are as the protocols of user interfaces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, CustomEvent, RunContext
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel

from paigeant_celery import CeleryDurability, FunctionSpec, PaigeantAgent, WorkflowHandle, activity, agent_events
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.testing import WorkflowHarness
from tests.support.ui_protocols import Screen, ag_ui, vercel

pytestmark = pytest.mark.anyio

SECRET = "hunter2"


@dataclass(kw_only=True)
class Looked(CustomEvent):
    pages: int


class Reader:
    """An agent that reads something long and sums it up, and whose model or tool fails when it is told to."""

    def __init__(self, name: str = "reader", *, attempts: int = 5, **options: Any) -> None:
        self.failures: list[str] = []
        policy = StepPolicy(backoff=0, max_attempts=attempts)
        model = FunctionModel(stream_function=self._stream, model_name="local")
        self.agent = PaigeantAgent(model, name=name, policy=policy, **options)
        self.agent.tool(self.read)

    async def read(self, ctx: RunContext[Any], page: int) -> str:
        await ctx.emit(Looked(pages=page))
        self._fail("tool")
        return "x" * 300_000

    def _fail(self, where: str) -> None:
        if where in self.failures:
            self.failures.remove(where)
            raise ConnectionError(f"the password is {SECRET}")

    async def _stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        if isinstance(messages[-1], ModelRequest) and not any(isinstance(m, ModelResponse) for m in messages):
            yield {0: DeltaToolCall("read", '{"page": 1}', tool_call_id="call-1")}
            self._fail("asking")
            return
        yield "It is "
        self._fail("writing")
        yield "long."


async def on_screens(handle: WorkflowHandle, after: str | None = None) -> list[Screen]:
    """Return what both protocols show of a workflow."""
    return [await read(agent_events(handle.events(after))) for read in (ag_ui, vercel)]


@pytest.mark.parametrize("where", [[], ["asking"], ["tool"], ["writing"], ["asking", "tool", "writing"]])
async def test_a_run_is_shown_with_what_its_tools_returned_whatever_failed(
    workflow_harness: WorkflowHarness, where: list[str]
) -> None:
    """A page shows the answer, and the whole of what it was made of."""
    reader = Reader()
    reader.failures = list(where)
    handle = workflow_harness.dispatch([reader.agent.activity(f"Use {SECRET}.")], stream=True)
    await workflow_harness.deliver()

    for screen in await on_screens(handle):
        assert screen.texts[-1] == "It is long."
        assert screen.texts[:-1] == (["It is "] if "writing" in where else [])
        assert max(map(len, screen.results.values())) == 300_000
        assert screen.error is None
    events = [event async for event in handle.events()]
    assert SECRET not in json.dumps([dict(event.fields) for event in events])
    failed = [event.fields["error"] for event in events if event.fields.get("event") == "run_failed"]
    assert failed == ["ConnectionError"] * len(where)
    cut = [event.fields["attempt"] for event in events if "cut" in event.fields]
    assert cut == [str(number) for number, place in enumerate(where, 1) if place != "tool"]  # not by the next attempt


async def test_a_screen_that_comes_later_gets_a_valid_stream_from_any_event_on(
    workflow_harness: WorkflowHarness,
) -> None:
    """A page is reloaded in the middle of a call, a text or an attempt."""
    reader = Reader()
    reader.failures = ["tool", "writing"]
    handle = workflow_harness.dispatch([reader.agent.activity("Go.")], stream=True)
    await workflow_harness.deliver()

    for event in [event async for event in handle.events()][::3]:
        await on_screens(handle, event.cursor)


async def test_steps_follow_each_other_on_one_screen(workflow_harness: WorkflowHarness) -> None:
    """Their models may give calls the same ids, and one of them may be a function that runs several agents."""
    first, second, inner = Reader("first"), Reader("second"), Reader("inner", capabilities=[CeleryDurability()])

    @activity
    async def both() -> list[str]:
        runs = [inner.agent.run("a"), inner.agent.run("b")]
        return [result.output for result in await asyncio.gather(*runs)]

    steps = [first.agent.activity("Go."), FunctionSpec("both"), second.agent.activity("Go.")]
    handle = workflow_harness.dispatch(steps, stream=True)
    await workflow_harness.deliver()

    for screen in await on_screens(handle):
        assert screen.texts == ["It is long."] * 4
        assert set(screen.results) == {"call-1", "call-1~2", "call-1~3", "call-1~4"}


async def test_the_result_of_the_last_run_ends_the_stream(workflow_harness: WorkflowHarness) -> None:
    """Who shows or stores a conversation gets the output; prompts are not among what is told."""

    class Verdict(BaseModel):
        good: bool

    agent = PaigeantAgent("test", name="judge", output_type=Verdict, instructions=SECRET)
    handle = workflow_harness.dispatch([agent.activity(SECRET), agent.activity(SECRET)], stream=True)
    await workflow_harness.deliver()

    shown = [event async for event in agent_events(handle.events())]
    results = [event for event in shown if event.event_kind == "agent_run_result"]
    assert shown[-1:] == results
    assert results[0].result.output == {"good": False}
    assert results[0].result.response.parts[0].part_kind == "tool-call"
    assert SECRET not in json.dumps([dict(event.fields) async for event in handle.events()])
    for screen in await on_screens(handle):
        assert set(screen.results.values()) == {"Final result processed."}


class Whole(TestModel):
    """A model that cannot stream."""

    request_stream = Model.request_stream


@pytest.mark.parametrize("fails", [False, True])
async def test_the_answers_of_a_model_that_cannot_stream_are_shown_whole(
    workflow_harness: WorkflowHarness, fails: bool
) -> None:
    """Whoever watches a workflow does not decide which models it may use."""
    agent = PaigeantAgent(Whole(), name="whole", policy=StepPolicy(backoff=0))
    failures = ["once"] if fails else []

    @agent.tool_plain
    def look_up() -> str:
        if failures:
            raise ConnectionError(failures.pop())
        return "facts"

    handle = workflow_harness.dispatch([agent.activity("Go.")], stream=True)
    await workflow_harness.deliver()

    assert handle.result_sync(timeout=0).output == '{"look_up":"facts"}'
    for screen in await on_screens(handle):
        assert screen.texts == ['{"look_up":"facts"}']
        assert list(screen.results.values()) == ["facts"]


async def test_a_function_model_without_a_stream_may_be_watched(workflow_harness: WorkflowHarness) -> None:
    """It says that it cannot stream in words of its own."""
    model = FunctionModel(lambda messages, info: ModelResponse(parts=[TextPart("whole")]))
    agent = PaigeantAgent(model, name="whole")

    handle = workflow_harness.dispatch([agent.activity("Go.")], stream=True)
    await workflow_harness.deliver()

    assert handle.result_sync(timeout=0).output == "whole"
    for screen in await on_screens(handle):
        assert screen.texts == ["whole"]


@pytest.mark.parametrize("error", [AssertionError, NotImplementedError])
async def test_a_watched_model_may_fail_in_mid_stream_with_what_says_that_one_cannot_stream(
    workflow_harness: WorkflowHarness, error: type[Exception]
) -> None:
    """It is not taken for a model that cannot stream, and is not asked and paid again."""
    asked = []

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        asked.append("stream")
        yield "par"
        raise error("not this")

    model = FunctionModel(lambda messages, info: ModelResponse(parts=[TextPart("whole")]), stream_function=stream)
    agent = PaigeantAgent(model, name="wrong", policy=StepPolicy(max_attempts=1))
    handle = workflow_harness.dispatch([agent.activity("Go.")], stream=True)
    await workflow_harness.deliver()

    status = await handle.status()
    assert status.failure is not None
    assert (asked, status.failure.error_class) == (["stream"], error.__name__)


async def test_what_a_tool_tells_is_shown_once(workflow_harness: WorkflowHarness) -> None:
    """A tool that is called again in the next attempt may tell the same again."""
    reader = Reader()
    reader.failures = ["tool"]
    handle = workflow_harness.dispatch([reader.agent.activity("Go.")], stream=True)
    await workflow_harness.deliver()

    kinds = [event.fields["event"] async for event in handle.events() if event.type == "agent"]
    assert kinds.count("custom") == kinds.count("function_tool_call") == kinds.count("agent_run_result") == 1


async def test_an_agent_inside_a_tool_is_told_with_the_tool_that_it_runs_in(workflow_harness: WorkflowHarness) -> None:
    """A screen can leave it out, as a plain run does."""
    inner = Reader("inner", capabilities=[CeleryDurability()])
    outer = Agent("test", name="outer", capabilities=[CeleryDurability()])

    @outer.tool_plain(metadata={"paigeant": False})
    async def ask() -> str:
        return (await inner.agent.run("Go.")).output

    @activity
    async def asking() -> str:
        return (await outer.run("Go.")).output

    handle = workflow_harness.dispatch([FunctionSpec("asking")], stream=True)
    await workflow_harness.deliver()

    told = [event.fields async for event in handle.events() if event.type == "agent" and "data" in event.fields]
    assert {fields["run"].rpartition("/")[2] for fields in told if "within" in fields} == {"inner:0"}
    assert {fields["run"] for fields in told if "within" not in fields} == {f"{handle.correlation_id}.0:outer:0"}
    for screen in await on_screens(handle):
        assert set(screen.results.values()) == {"It is long."}


async def test_a_workflow_that_fails_ends_its_stream_without_the_text_of_the_error(
    workflow_harness: WorkflowHarness,
) -> None:
    """It may quote what nobody at a screen should read."""
    reader = Reader(attempts=1)
    reader.failures = ["writing"]
    handle = workflow_harness.dispatch([reader.agent.activity("Go.")], stream=True)
    await workflow_harness.deliver()

    for screen in await on_screens(handle):
        assert "ConnectionError" in (screen.error or "")
        assert SECRET not in (screen.error or "")
        assert screen.texts == ["It is "]


async def test_what_is_made_again_after_a_redrive_is_shown_again(workflow_harness: WorkflowHarness) -> None:
    """Its journal was discarded, so that nothing of the first time counts."""
    reader = Reader(attempts=1)
    reader.failures = ["writing"]
    handle = workflow_harness.dispatch([reader.agent.activity("Go.")], stream=True)
    await workflow_harness.deliver()
    assert handle.redrive_sync(discard_journal=True)
    workflow_harness.sweep()
    await workflow_harness.deliver()

    for screen in await on_screens(handle):
        assert screen.error is None
        assert screen.texts == ["It is ", "It is long."]
        assert [len(result) for result in screen.results.values()] == [300_000, 300_000]
