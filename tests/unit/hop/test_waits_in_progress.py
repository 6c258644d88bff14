"""A wait beside something that goes on: the attempt is left only when nothing does, and learns of answers meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import CeleryDurability, WorkflowContext, activity
from paigeant_celery.core.flow import Stands
from paigeant_celery.core.waits import Wait
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.run import Opened, Outcome
from paigeant_celery.store.port import Closing, NewWait
from paigeant_celery.testing import WorkflowHarness

YES = json.dumps({"payload": "yes"})


class Slow:
    """A model whose answer the test gives."""

    def __init__(self) -> None:
        self.asked, self.answered, self.requests = asyncio.Event(), asyncio.Event(), 0
        self.agent = Agent(FunctionModel(self._answer), name="slow", capabilities=[CeleryDurability()])

    async def _answer(self, _: list[ModelMessage], __: AgentInfo) -> ModelResponse:
        self.requests += 1
        self.asked.set()
        await self.answered.wait()
        return ModelResponse(parts=[TextPart("done")])


def begun(harness: WorkflowHarness, step: Any) -> Opened:
    """Return the hop `w.0`, claimed."""
    harness.dispatch([step], correlation_id="w")
    delivery = harness.pending.popleft()
    arrival = Arrival(hop_id=delivery.hop_id, activity=delivery.activity, envelope=delivery.envelope)
    opened = harness._service.open(arrival)
    assert isinstance(opened, Opened)
    return opened


def settled(harness: WorkflowHarness, opened: Opened, name: str) -> None:
    """Answer the wait of a name, and have the next renewal tell the run."""
    assert harness.store.signal("w", name, YES, by="x", call=name).outcome == "settled"
    closing = opened.closing
    answer = harness.store.renew(closing.owner, {closing.hop_id: closing.fence})
    assert opened.journal is not None
    opened.journal.waits.notice(answer.settled[closing.hop_id])


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - a condition of a store, which knows no events
            await asyncio.sleep(0.001)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test on a loop of its own."""

    async def limited() -> None:
        async with asyncio.timeout(10):
            await main()

    asyncio.run(limited())


def test_a_run_is_not_left_while_a_call_is_in_flight_and_gets_its_answer(workflow_harness: WorkflowHarness) -> None:
    """A model's answer that is nearly there must not be thrown away, and asked for again, because of a wait."""

    async def main() -> None:
        slow, got = Slow(), list[Any]()

        @activity
        async def both(context: WorkflowContext) -> list[Any]:
            async def wait() -> None:
                got.append(await context.wait_for("a"))

            waiting = asyncio.create_task(wait())
            result = await slow.agent.run("go")
            await waiting
            return [*got, result.output]

        opened = begun(workflow_harness, both.activity())
        running = asyncio.create_task(workflow_harness._service.run(opened))
        await slow.asked.wait()
        await until(lambda: bool(workflow_harness.store.waits("w.0")))
        settled(workflow_harness, opened, "a")
        await until(lambda: bool(got))
        slow.answered.set()
        workflow_harness._service.close(opened, await running)

        record = workflow_harness.store.workflow("w")
        assert record is not None
        assert record.state == "completed"
        assert slow.requests == 1

    run(main)


def test_a_run_is_left_soon_after_the_last_call_has_ended(workflow_harness: WorkflowHarness) -> None:
    """What it has paid for is recorded, and the next attempt does not ask the model again."""

    async def main() -> None:
        slow = Slow()

        @activity
        async def both(context: WorkflowContext) -> list[Any]:
            return list(await asyncio.gather(context.wait_for("a"), _output(slow.agent.run("go"))))

        opened = begun(workflow_harness, both.activity())
        running = asyncio.create_task(workflow_harness._service.run(opened))
        await slow.asked.wait()
        slow.answered.set()
        outcome: Outcome = await running
        assert isinstance(outcome.event, Stands)
        assert outcome.event.names == ("a",)
        assert workflow_harness._service.close(opened, outcome).outcome == "suspended"

        hop = workflow_harness.store.signal("w", "a", YES, by="x", call="1").hop
        assert hop is not None
        workflow_harness._outbox.send(hop)
        assert await workflow_harness.deliver() == ["workflow_completed"]
        assert slow.requests == 1

    run(main)


def test_code_that_is_left_can_begin_no_call_and_what_it_returns_does_not_count(
    workflow_harness: WorkflowHarness,
) -> None:
    """Code that swallows its cancellation would otherwise pay for a model whose answer is asked for again."""

    async def main() -> None:
        slow, raised = Slow(), list[BaseException]()
        slow.answered.set()

        @activity
        async def stubborn(context: WorkflowContext) -> str:
            try:
                await context.wait_for("a")
            except asyncio.CancelledError:
                try:
                    await slow.agent.run("go")
                except BaseException as error:
                    raised.append(error)
            return "mine"

        opened = begun(workflow_harness, stubborn.activity())
        outcome = await workflow_harness._service.run(opened)

        assert isinstance(outcome.event, Stands)
        assert isinstance(raised[0], asyncio.CancelledError)
        assert slow.requests == 0

    run(main)


def slowly_recorded(harness: WorkflowHarness, name: str, occurrence: int) -> None:
    """Let the store take a while to record a wait."""
    record = harness.store.wait

    def slow(closing: Closing, new: NewWait) -> Wait | None:
        if (new.name, json.loads(new.wait_id)[-1]) == (name, occurrence):
            time.sleep(0.05)
        return record(closing, new)

    harness.store.wait = slow  # type: ignore[method-assign]


def test_signals_of_one_name_reach_waits_in_the_order_in_which_they_began(workflow_harness: WorkflowHarness) -> None:
    """A store that is slow for a moment must not swap what the code gets."""

    @activity
    async def three(context: WorkflowContext) -> list[Any]:
        return list(await asyncio.gather(*(context.wait_for("paid") for _ in range(3))))

    handle = workflow_harness.dispatch([three.activity()], correlation_id="w")
    slowly_recorded(workflow_harness, "paid", 0)
    for number in range(3):
        handle.signal_sync("paid", number)
    asyncio.run(workflow_harness.deliver())

    assert handle.result_sync(0).output == [0, 1, 2]


@pytest.mark.parametrize("how", ["wait", "ask", "sleep", "sleep on"])
def test_code_that_is_left_cannot_hold_its_worker_with_another_wait(
    workflow_harness: WorkflowHarness, how: str
) -> None:
    """A wait in a `finally` would hold the slot until somebody answers it, and ask before the code comes there."""

    async def main() -> None:
        asked, swallowed = list[str](), list[BaseException]()

        async def cleaning_up(context: WorkflowContext) -> None:
            if how == "wait":
                await context.wait_for("cleaned up")
            elif how == "ask":
                await context.wait_for("cleaned up", ask=asked.append)
            elif how == "sleep":
                await context.sleep_for(3600)
            else:
                await context.sleep_until(datetime.now(UTC) + timedelta(hours=1))

        @activity
        async def stubborn(context: WorkflowContext) -> None:
            try:
                await context.wait_for("a")
            finally:
                try:
                    await cleaning_up(context)
                except asyncio.CancelledError as error:
                    swallowed.append(error)
                await cleaning_up(context)

        opened = begun(workflow_harness, stubborn.activity())
        outcome = await workflow_harness._service.run(opened)

        assert isinstance(outcome.event, Stands)
        assert outcome.event.names == ("a",)
        assert [wait.name for wait in workflow_harness.store.waits("w.0")] == ["a"]
        assert len(swallowed) == 1
        assert asked == []

    run(main)


def test_a_wait_whose_time_ends_while_its_run_goes_on_raises_there(workflow_harness: WorkflowHarness) -> None:
    """The store gives it up by comparing, so that an answer that was faster counts."""

    async def main() -> None:
        slow, ended = Slow(), list[str]()

        @activity
        async def both(context: WorkflowContext) -> str:
            async def wait() -> None:
                try:
                    await context.wait_for("a", timeout=0.05)
                except TimeoutError as error:
                    ended.append(type(error).__name__)

            waiting = asyncio.create_task(wait())
            result = await slow.agent.run("go")
            await waiting
            return str(result.output)

        opened = begun(workflow_harness, both.activity())
        running = asyncio.create_task(workflow_harness._service.run(opened))
        await slow.asked.wait()
        await until(lambda: bool(ended))
        slow.answered.set()
        workflow_harness._service.close(opened, await running)

        assert ended == ["WaitTimedOut"]
        assert [wait.state for wait in workflow_harness.store.waits("w.0")] == ["timed_out"]
        assert workflow_harness.store.signal("w", "a", YES, by="x", call="1").outcome == "ended"

    run(main)


def test_no_time_limit_of_the_step_runs_while_it_waits(workflow_harness: WorkflowHarness) -> None:
    """An approval that takes two days is no step that hangs."""

    @activity(name="patient")
    async def patient(context: WorkflowContext) -> Any:
        return await context.wait_for("a")

    handle = workflow_harness.dispatch([patient.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    workflow_harness._skipped += timedelta(days=2)
    workflow_harness.sweep()
    assert asyncio.run(workflow_harness.deliver()) == []
    hop = workflow_harness.store.signal("w", "a", YES, by="x", call="1").hop
    assert hop is not None
    workflow_harness._outbox.send(hop)
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]
    assert handle.result_sync(timeout=0).output == "yes"


async def _output(running: Awaitable[Any]) -> Any:
    return (await running).output
