"""Those who watch a workflow see what its agents do while they do it, if the dispatcher asked for that."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from paigeant_celery import PaigeantAgent, WorkflowEvent
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.port import Closing
from paigeant_celery.testing import WorkflowHarness

pytestmark = pytest.mark.anyio

WORDS = ("Foxes ", "are ", "red.")


class Writer:
    """An agent that looks something up and then writes three words, one after the other."""

    def __init__(self) -> None:
        self.fail_at: int | None = None
        self.written = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        model = FunctionModel(stream_function=self._stream, model_name="local")
        self.agent = PaigeantAgent(model, name="writer", policy=StepPolicy(backoff=0))
        self.agent.tool_plain(self.look_up)

    def look_up(self, topic: str) -> str:
        return f"facts about {topic}"

    async def _stream(
        self, messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        if not any(isinstance(message, ModelResponse) for message in messages):
            yield {0: DeltaToolCall("look_up", '{"topic": "foxes"}', tool_call_id="call-1")}
            return
        for number, word in enumerate(WORDS):
            if self.fail_at == number:
                self.fail_at = None
                raise ConnectionError("the line is cut")
            yield word
            self.written.set()
            await self.go_on.wait()


def text_of(events: list[WorkflowEvent]) -> str:
    """Return the text that part events add up to."""
    text = ""
    for event in events:
        data = json.loads(event.fields.get("data", "{}"))
        if event.fields.get("event") == "part_start" and data["part"]["part_kind"] == "text":
            text += data["part"]["content"]
        if event.fields.get("event") == "part_delta":
            text += data["delta"].get("content_delta", "")
    return text


def calls(events: list[WorkflowEvent]) -> list[tuple[str, str, str]]:
    """Return which calls were made or replayed, in which attempt."""
    return [
        (event.fields["attempt"], event.fields["event"], event.fields["name"] or event.fields["call"])
        for event in events
        if event.fields.get("event", "").startswith("call_")
    ]


async def test_words_and_tool_calls_are_told(workflow_harness: WorkflowHarness) -> None:
    """A page shows an answer as it is written, from any process."""
    writer = Writer()  # held, because the registry does not hold it
    handle = workflow_harness.dispatch([writer.agent.activity("Write.")], stream=True)
    await workflow_harness.deliver()

    events = [event async for event in handle.events()]

    told = [event for event in events if event.type == "agent"]
    assert text_of(told) == "Foxes are red."
    kinds = [event.fields["event"] for event in told]
    assert kinds.index("function_tool_call") < kinds.index("function_tool_result")
    assert calls(told) == [("1", "call_made", "model"), ("1", "call_made", "look_up"), ("1", "call_made", "model")]
    assert {event.hop_id for event in told} == {events[0].hop_id}
    assert [event.type for event in events if event.type != "agent"] == [
        "started", "claimed", "completed", "workflow_completed",
    ]  # fmt: skip
    assert events[-1].type == "workflow_completed"


async def test_a_word_is_seen_before_the_next_one_is_written(workflow_harness: WorkflowHarness) -> None:
    """Live means while the model still writes."""
    writer = Writer()
    writer.go_on.clear()
    handle = workflow_harness.dispatch([writer.agent.activity("Write.")], stream=True)

    running = asyncio.create_task(workflow_harness.deliver())
    seen: list[WorkflowEvent] = []
    async with asyncio.timeout(20):
        async for event in handle.events():
            seen.append(event)
            if text_of(seen) == WORDS[0]:
                break
        assert not running.done()
        writer.go_on.set()
        await running

    rest = [event async for event in handle.events(after=seen[-1].cursor)]
    assert text_of(rest) == "".join(WORDS[1:])


async def test_reading_resumes_behind_any_event(workflow_harness: WorkflowHarness) -> None:
    """A reloaded page shows the rest, and nothing twice."""
    writer = Writer()  # held, because the registry does not hold it
    handle = workflow_harness.dispatch([writer.agent.activity("Write.")], stream=True)
    await workflow_harness.deliver()
    events = [event async for event in handle.events()]

    for number, event in enumerate(events):
        assert [found async for found in handle.events(after=event.cursor)] == events[number + 1 :]


async def test_the_next_attempt_tells_only_what_is_new(workflow_harness: WorkflowHarness) -> None:
    """Events of replayed calls are not sent again; the call that was cut off starts again."""
    writer = Writer()
    writer.fail_at = 2
    handle = workflow_harness.dispatch([writer.agent.activity("Write.")], stream=True)

    assert await workflow_harness.deliver() == ["retrying", "workflow_completed"]

    told = [event for event in [event async for event in handle.events()] if event.type == "agent"]
    by_attempt = [[event for event in told if event.fields["attempt"] == attempt] for attempt in "12"]
    assert text_of(by_attempt[0]) == "Foxes are "
    assert text_of(by_attempt[1]) == "Foxes are red."
    assert calls(by_attempt[1]) == [
        ("2", "call_replayed", "model"), ("2", "call_replayed", "look_up"), ("2", "call_made", "model"),
    ]  # fmt: skip
    assert [event for event in by_attempt[1] if event.fields["event"] == "function_tool_call"] == []


async def test_a_store_that_takes_long_over_events_costs_a_step_none_of_its_time(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that came in time is not thrown away because its last words are still on their way to a screen."""
    publish = MemoryStore.publish

    def slow(store: MemoryStore, closing: Closing, events: Sequence[Mapping[str, str]]) -> bool:
        if not answered.is_set():
            answered.wait(1.1)  # longer than the step may take
            answered.set()
        return publish(store, closing, events)

    monkeypatch.setattr(MemoryStore, "publish", slow)
    answered = threading.Event()
    agent = PaigeantAgent("test", name="brief", policy=StepPolicy(timeout=1, max_attempts=1))
    handle = workflow_harness.dispatch([agent.activity("Write.")], stream=True)

    assert await workflow_harness.deliver() == ["workflow_completed"]

    assert text_of([event async for event in handle.events()]) == "success (no tool calls)"


async def test_nothing_of_what_agents_do_is_told_unasked(workflow_harness: WorkflowHarness) -> None:
    """It costs calls to the store, and the events hold what models say."""
    agent = PaigeantAgent("test", name="silent")
    handle = workflow_harness.dispatch([agent.activity("Write.")])
    await workflow_harness.deliver()

    assert {event.type async for event in handle.events()} == {
        "started", "claimed", "completed", "workflow_completed",
    }  # fmt: skip
