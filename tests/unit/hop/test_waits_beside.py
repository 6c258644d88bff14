"""What goes on beside a wait: an attempt is left only when its waits and sleeps are known, and then for good."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import CeleryDurability, StepPolicy, WorkflowContext, activity
from paigeant_celery.journal import hop_waits
from paigeant_celery.testing import WorkflowHarness

YES = json.dumps({"payload": "yes"})
SLOW = 0.12  # seconds; longer than the peace after which an attempt is left


def slowed(monkeypatch: pytest.MonkeyPatch, store: object, name: str) -> None:
    """Let a call of the store take a while, as on a server far away."""
    call: Callable[..., Any] = getattr(store, name)

    def slow(*given: Any, **named: Any) -> Any:
        time.sleep(SLOW)
        return call(*given, **named)

    monkeypatch.setattr(store, name, slow)


def test_a_short_sleep_beside_a_wait_is_slept_to_its_end(workflow_harness: WorkflowHarness) -> None:
    """Left in the middle, the step would go on only when somebody answers, for nobody knows of the sleep."""

    @activity
    async def both(context: WorkflowContext) -> None:
        async def nap() -> None:
            await context.sleep_for(SLOW)
            raise ValueError("awake")

        await asyncio.gather(context.wait_for("a"), nap())

    workflow_harness.dispatch([both.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver(1)) == ["retrying"]


def test_a_sleep_that_is_being_recorded_is_not_lost_beside_a_wait(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow store must not turn an hour into for ever."""
    slowed(monkeypatch, workflow_harness.store, "record")

    @activity
    async def both(context: WorkflowContext) -> None:
        await asyncio.gather(context.wait_for("a"), context.sleep_for(3600))

    workflow_harness.dispatch([both.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    record = workflow_harness.store.workflow("w")
    assert record is not None
    assert record.wake_at is not None


def test_whoever_is_to_be_asked_is_asked_although_the_store_is_slow(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two people are asked at once: the second must not have to wait for the answer of the first."""
    slowed(monkeypatch, workflow_harness.store, "wait")
    asked: list[str] = []

    @activity
    async def both(context: WorkflowContext) -> None:
        async def second() -> None:
            while not workflow_harness.store.waits("w.0"):  # noqa: ASYNC110 - a store knows no events
                await asyncio.sleep(0)
            await context.wait_for("b", ask=asked.append)

        await asyncio.gather(context.wait_for("a"), second())

    workflow_harness.dispatch([both.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    assert len(asked) == 1


def test_code_that_swallows_its_cancellation_can_wait_no_more(workflow_harness: WorkflowHarness) -> None:
    """It would hold its slot until its timeout, and keep a worker that ends from ending."""
    raised: list[type[BaseException]] = []

    @activity
    async def stubborn(context: WorkflowContext) -> str:
        for wait in (context.wait_for, context.wait_for):
            try:
                await wait("a")
            except BaseException as error:
                raised.append(type(error))
        await context.sleep_for(3600)
        return "mine"

    workflow_harness.dispatch([stubborn.activity()], correlation_id="w")

    async def main() -> None:
        delivering = asyncio.create_task(workflow_harness.deliver())
        done, _ = await asyncio.wait([delivering], timeout=5)
        assert done
        assert delivering.result() == ["suspended"]

    asyncio.run(main())
    assert [kind.__name__ for kind in raised] == ["CancelledError", "CancelledError"]
    assert [wait.name for wait in workflow_harness.store.waits("w.0")] == ["a"]


def test_a_wait_that_a_step_has_left_standing_ends_with_it(workflow_harness: WorkflowHarness) -> None:
    """The step has its result; a task that nobody awaits must not have it wait on, or stay in the worker for ever."""
    left: list[asyncio.Task[Any]] = []

    @activity
    async def first(context: WorkflowContext) -> Any:
        tasks = [asyncio.create_task(context.wait_for(name)) for name in ("a", "b")]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        left.extend(pending)
        return done.pop().result()

    handle = workflow_harness.dispatch([first.activity()], correlation_id="w")

    async def main() -> None:
        assert await workflow_harness.deliver() == ["suspended"]
        hop = workflow_harness.store.signal("w", "b", YES, by="x", call="1").hop
        assert hop is not None
        workflow_harness._outbox.send(hop)
        assert await workflow_harness.deliver() == ["workflow_completed"]
        await asyncio.wait(left, timeout=5)
        assert [task.cancelled() for task in left] == [True]

    asyncio.run(main())
    assert handle.result_sync(timeout=0).output == "yes"


def test_a_sleep_until_a_time_that_is_counted_from_now_ends(workflow_harness: WorkflowHarness) -> None:
    """The code runs again when it wakes: the time that it first gave counts, as that of any other wait does."""

    @activity
    async def nap(context: WorkflowContext) -> str:
        await context.sleep_until(workflow_harness._now() + timedelta(hours=1))
        return "rested"

    workflow_harness.dispatch([nap.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    workflow_harness._skipped += timedelta(hours=1)
    workflow_harness.sweep()
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]


def test_a_failure_that_led_to_a_wait_is_there_again_when_it_is_answered(workflow_harness: WorkflowHarness) -> None:
    """A person was asked because the model failed: the answer must not be ignored because it works by now."""
    asked: list[None] = []

    def answer(_: list[ModelMessage], __: AgentInfo) -> ModelResponse:
        asked.append(None)
        if len(asked) == 1:
            raise ModelHTTPError(500, "m")
        return ModelResponse(parts=[TextPart("by the model")])

    agent = Agent(FunctionModel(answer), name="answering", capabilities=[CeleryDurability()])

    @activity
    async def decide(context: WorkflowContext) -> Any:
        try:
            return (await agent.run("go")).output
        except ModelHTTPError:
            return await context.wait_for("human")

    handle = workflow_harness.dispatch([decide.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    hop = workflow_harness.store.signal("w", "human", YES, by="x", call="1").hop
    assert hop is not None
    workflow_harness._outbox.send(hop)
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]

    assert handle.result_sync(timeout=0).output == "yes"
    assert len(asked) == 1


def test_a_step_whose_time_ends_while_it_only_waits_is_no_step_that_timed_out(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that is busy with others may leave it too late, which must not spend an attempt."""
    monkeypatch.setattr(hop_waits, "IN_PEACE", 60.0)
    monkeypatch.setattr(hop_waits, "BEFORE_THE_END", -60.0)

    @activity(policy=StepPolicy(timeout=0.1))
    async def wait(context: WorkflowContext) -> Any:
        return await context.wait_for("a")

    workflow_harness.dispatch([wait.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver(1)) == ["suspended"]
