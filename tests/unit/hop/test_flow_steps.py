"""Steps that wait, as hops: no worker waits with them, and the steps around them notice nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from paigeant_celery import (
    ActivitySpec,
    InvalidInput,
    PaigeantAgent,
    SleepSpec,
    StoreRequired,
    WorkflowConflict,
    WorkflowContext,
    WorkflowDispatcher,
    WorkflowFailed,
    activity,
    sleep_for,
    sleep_until,
    wait_for,
)
from paigeant_celery.core.settings import Settings
from paigeant_celery.testing import WorkflowHarness

DAY = timedelta(days=1)


def soon(**later: float) -> datetime:
    return datetime.now(UTC) + timedelta(**later)


def delivered(harness: WorkflowHarness) -> list[str]:
    return asyncio.run(harness.deliver())


def after(harness: WorkflowHarness, time: timedelta) -> list[str]:
    """Set the clock forward, let the store wake what is due, and say what became of it."""
    harness._skipped += time
    harness.sweep()
    return delivered(harness)


def signal(harness: WorkflowHarness, name: str, payload: object, *, of: str = "w") -> str:
    found = harness.store.signal(of, name, json.dumps({"payload": payload}), by="bank", call=f"{name} {payload}")
    if found.hop is not None:
        harness._outbox.send(found.hop)
    return found.outcome


@pytest.fixture
def seen() -> Any:
    """A function that returns what it sees of the step before it."""

    @activity
    async def seen(context: WorkflowContext) -> Any:
        before = context.previous_output
        return [before.step_id, before.activity, before.output] if before is not None else None

    return seen


def test_a_wait_gives_the_payload_of_its_signal_to_the_next_step(workflow_harness: WorkflowHarness, seen: Any) -> None:
    """The step that ships reads what the bank said."""
    handle = workflow_harness.dispatch([wait_for("paid"), seen.activity()], correlation_id="w")
    assert delivered(workflow_harness) == ["suspended"]
    assert workflow_harness.delivered[-1].queue == "paigeant._flow"
    record = workflow_harness.store.workflow("w")
    assert record is not None
    assert (record.suspended, record.attempt) == (True, 0)
    status = handle.status_sync()
    assert (status.step_id, status.activity, status.queue) == ("wait-paid", "_flow", "paigeant._flow")
    assert (status.executed, status.remaining) == ((), ("wait-paid", "seen"))

    assert signal(workflow_harness, "paid", {"cents": 17}) == "settled"
    assert delivered(workflow_harness) == ["completed", "workflow_completed"]

    result = handle.result_sync(timeout=0)
    assert result.outputs == {"wait-paid": {"cents": 17}, "seen": ["wait-paid", "_flow", {"cents": 17}]}


def test_two_waits_of_one_name_take_two_signals_in_their_order(workflow_harness: WorkflowHarness) -> None:
    """Early ones are kept, first in, first out."""
    handle = workflow_harness.dispatch([wait_for("part"), wait_for("part")], correlation_id="w")
    assert [signal(workflow_harness, "part", number) for number in (1, 2)] == ["kept", "kept"]

    assert delivered(workflow_harness) == ["completed", "workflow_completed"]
    assert handle.result_sync(timeout=0).outputs == {"wait-part": 1, "wait-part-2": 2}


def test_a_wait_that_is_over_fails_its_workflow_and_is_not_tried_again(workflow_harness: WorkflowHarness) -> None:
    """Another attempt would wait as long for what did not come."""
    handle = workflow_harness.dispatch([wait_for("paid", timeout=timedelta(days=3))], correlation_id="w")
    assert delivered(workflow_harness) == ["suspended"]
    assert after(workflow_harness, 2 * DAY) == []
    assert after(workflow_harness, DAY) == ["failed"]

    assert signal(workflow_harness, "paid", 1) == "ended"
    with pytest.raises(WorkflowFailed, match="WaitTimedOut: no answer to the wait 'paid' came in time") as failed:
        handle.result_sync(timeout=0)
    assert failed.value.step_id == "wait-paid"
    assert [event.type for event in handle.events_so_far()].count("retrying") == 0


def test_a_timeout_of_nothing_only_asks_whether_the_signal_came(workflow_harness: WorkflowHarness) -> None:
    """Whoever does not want to wait need not."""
    workflow_harness.dispatch([wait_for("paid", timeout=0)], correlation_id="w")
    signal(workflow_harness, "paid", 1)
    workflow_harness.dispatch([wait_for("paid", timeout=0)], correlation_id="v")

    assert delivered(workflow_harness)[:1] == ["workflow_completed"]
    for _ in range(3):
        after(workflow_harness, timedelta(seconds=1))
    record = workflow_harness.store.workflow("v")
    assert record is not None
    assert record.state == "failed"


@pytest.mark.parametrize(
    "make", [lambda: sleep_for(3600), lambda: sleep_for(timedelta(hours=1)), lambda: sleep_until(soon(hours=1))]
)
def test_a_sleep_holds_no_worker_and_ends_once(
    workflow_harness: WorkflowHarness, seen: Any, make: Callable[[], SleepSpec]
) -> None:
    """However often its worker dies meanwhile: the end is that of the first attempt."""
    workflow_harness.dispatch([make(), seen.activity()], correlation_id="w")
    assert delivered(workflow_harness) == ["suspended"]
    (hop,) = workflow_harness.delivered
    assert after(workflow_harness, timedelta(minutes=40)) == []
    assert asyncio.run(workflow_harness.redeliver(hop)) == "dropped: suspended"  # a copy of its message
    assert after(workflow_harness, timedelta(minutes=19)) == []
    assert after(workflow_harness, timedelta(minutes=1)) == ["completed", "workflow_completed"]


@pytest.mark.parametrize("step", [sleep_for(0), sleep_until(datetime(1970, 1, 1, tzinfo=UTC)), sleep_until(soon())])
def test_a_time_that_is_over_is_not_waited_for(workflow_harness: WorkflowHarness, seen: Any, step: Any) -> None:
    """A workflow that was late in the steps before goes on at once."""
    workflow_harness.dispatch([step, seen.activity()], correlation_id="w")

    assert delivered(workflow_harness) == ["completed", "workflow_completed"]


def test_a_sleep_that_outlasts_every_calendar_ends_with_its_workflow(workflow_harness: WorkflowHarness) -> None:
    """It can be cancelled, and its store is asked about it now and then."""
    handle = workflow_harness.dispatch([sleep_until(datetime.max.replace(tzinfo=UTC))], correlation_id="w")
    assert delivered(workflow_harness) == ["suspended"]
    assert after(workflow_harness, 400 * DAY) in ([], ["suspended"])
    assert handle.cancel_sync()
    assert handle.status_sync().state == "cancelled"


@pytest.mark.parametrize("inline", [1024, 0])
def test_the_steps_around_a_sleep_do_not_notice_it(inline: int, seen: Any) -> None:
    """Not even if the output is in the store, or the first records have left the message."""

    @activity
    async def large(size: int) -> str:
        return "x" * size

    harness = WorkflowHarness(Settings(inline_log_size=inline))
    steps = [large.activity(5), large.activity(5000), sleep_for(60), sleep_for(60), seen.activity(), sleep_for(60)]
    handle = harness.dispatch(steps, correlation_id="w")
    outcomes = delivered(harness)
    while harness.store.workflow("w").state == "running":  # type: ignore[union-attr]
        outcomes += after(harness, timedelta(minutes=1))

    assert outcomes == [
        *["completed"] * 2,
        *["suspended", "completed"] * 2,
        "completed",
        "suspended",
        "workflow_completed",
    ]
    result = handle.result_sync(timeout=0)
    assert result.output == ["large-2", "large", "x" * 5000]
    assert list(result.outputs) == ["large", "large-2", "seen"]
    assert handle.status_sync().executed == ("large", "large-2", "sleep", "sleep-2", "seen", "sleep-3")


def test_an_agent_after_a_sleep_reads_the_output_before_it_and_goes_on_with_its_conversation(
    workflow_harness: WorkflowHarness,
) -> None:
    """Its own last answer is in its history, and is not told to it once more."""
    prompts: list[list[str]] = []

    def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        prompts.append(
            [str(part.content) for message in messages for part in message.parts if hasattr(part, "content")]
        )
        return ModelResponse(parts=[TextPart(f"answer {len(prompts)}")])

    agent = PaigeantAgent(FunctionModel(answer), name="agent")
    steps = [
        agent.activity("first"), sleep_for(60), agent.activity("second"), sleep_for(60),
        ActivitySpec("agent", "third", conversation="talk"), sleep_for(60),
        ActivitySpec("agent", "fourth", conversation="talk"),
    ]  # fmt: skip
    workflow_harness.dispatch(steps, correlation_id="w")
    delivered(workflow_harness)
    for _ in range(3):
        after(workflow_harness, timedelta(minutes=1))

    assert prompts[0] == ["first"]
    assert '<previous_output step="agent" activity="agent">\nanswer 1' in prompts[1][-1]
    assert prompts[3][1:] == ["answer 3", "fourth"]


def test_a_wait_does_not_read_the_output_before_it(monkeypatch: pytest.MonkeyPatch, seen: Any) -> None:
    """It may be large, and a wait may wake often; the step after it reads it."""
    read: list[str] = []

    @activity
    async def large() -> str:
        return "x" * 50_000

    harness = WorkflowHarness()
    blobs = harness.store.blobs
    monkeypatch.setattr(harness.store, "blobs", lambda of, names: read.extend(names) or blobs(of, names))
    harness.dispatch([large.activity(), sleep_for(60), sleep_for(60), seen.activity()], correlation_id="w")
    delivered(harness)
    after(harness, timedelta(minutes=1))
    assert read == []

    assert after(harness, timedelta(minutes=1)) == ["completed", "workflow_completed"]
    assert read == ["large"]


def test_what_a_host_puts_around_its_steps_is_not_put_around_a_wait(seen: Any) -> None:
    """It runs no code of the host, whose hook may know its own activities alone."""
    around: list[str] = []

    @contextmanager
    def surrounded(context: WorkflowContext) -> Iterator[None]:
        around.append(context.activity)
        yield

    harness = WorkflowHarness(around_step=surrounded)
    harness.dispatch([sleep_for(0), seen.activity(), wait_for("never")], correlation_id="w")

    assert delivered(harness) == ["completed", "completed", "suspended"]
    assert around == ["seen"]


def test_a_workflow_of_nothing_but_sleeps_has_no_output(workflow_harness: WorkflowHarness) -> None:
    """It is of little use, but it ends."""
    handle = workflow_harness.dispatch([sleep_for(0)], correlation_id="w")
    assert delivered(workflow_harness) == ["workflow_completed"]

    result = handle.result_sync(timeout=0)
    assert (result.output, result.outputs, result.steps) == (None, {}, ())


def test_waits_stand_in_slips_that_are_folded_and_paged(workflow_harness: WorkflowHarness, seen: Any) -> None:
    """A long workflow may wait at any place of it."""
    harness = WorkflowHarness(Settings(inline_log_size=600))
    steps = [step for n in range(12) for step in (wait_for("go"), seen.activity(), sleep_for(60 * (n % 2)))]
    handle = harness.dispatch(steps, correlation_id="w")
    for number in range(12):
        assert signal(harness, "go", number) == "kept"
    for _ in range(14):
        after(harness, timedelta(minutes=1))

    result = handle.result_sync(timeout=0)
    assert [result.outputs[f"seen-{n}" if n > 1 else "seen"][2] for n in range(1, 13)] == list(range(12))
    assert len(handle.status_sync().executed) == 36


def test_no_model_can_insert_a_wait(workflow_harness: WorkflowHarness) -> None:
    """Nobody would know what to send; a workflow that stands for ever is worse than one that fails."""
    dispatcher = WorkflowDispatcher()
    with pytest.raises(InvalidInput, match="must be a step of an agent"):
        dispatcher.register(wait_for("paid"))  # type: ignore[arg-type]
    editor = PaigeantAgent(
        TestModel(custom_output_args={}, call_tools=[]), name="editor", dispatcher=dispatcher, can_edit_itinerary=True
    )
    with pytest.raises(InvalidInput, match="'_flow' is the activity of waits, sleeps and blocks;"):
        workflow_harness.dispatch([ActivitySpec("_flow", "wait"), editor.activity("x")])


def test_no_activity_of_a_user_takes_the_name() -> None:
    """Its steps would be waits, and waits would be its steps."""
    text = "'_flow' is the name of a task of our own. Pass another `name=`"
    with pytest.raises(InvalidInput, match=text):
        PaigeantAgent("test", name="_flow")
    with pytest.raises(InvalidInput, match=text):

        @activity
        def _flow() -> None: ...


def test_a_workflow_starts_when_it_is_told_to(workflow_harness: WorkflowHarness, seen: Any) -> None:
    """A report for Monday is sent on Friday, and no worker holds it over the weekend."""
    start = soon(days=3)
    handle = workflow_harness.dispatch([seen.activity()], correlation_id="w", start_at=start)
    assert delivered(workflow_harness) == ["suspended"]
    assert handle.status_sync().remaining == ("start", "seen")
    assert after(workflow_harness, 2 * DAY) == []
    again = workflow_harness.dispatch([seen.activity()], correlation_id="w", start_at=start)
    assert again.status_sync().step_id == "start"
    with pytest.raises(WorkflowConflict):
        workflow_harness.dispatch([seen.activity()], correlation_id="w", start_at=start + DAY)
    with pytest.raises(WorkflowConflict):
        workflow_harness.dispatch([seen.activity()], correlation_id="w")

    assert after(workflow_harness, DAY) == ["completed", "workflow_completed"]
    assert handle.result_sync(timeout=0).outputs == {"seen": None}


def test_a_start_in_the_past_is_now(workflow_harness: WorkflowHarness, seen: Any) -> None:
    """And the same request after the start is the same workflow."""
    start = soon(days=-1)
    workflow_harness.dispatch([seen.activity()], correlation_id="w", start_at=start)
    assert delivered(workflow_harness) == ["completed", "workflow_completed"]
    workflow_harness.dispatch([seen.activity()], correlation_id="w", start_at=start)
    assert delivered(workflow_harness) == []


def test_a_deadline_goes_on_while_a_workflow_waits(workflow_harness: WorkflowHarness, seen: Any) -> None:
    """No step timeout runs, but who set a deadline means it."""
    handle = workflow_harness.dispatch([wait_for("paid"), seen.activity()], correlation_id="w", deadline=soon(hours=1))
    assert delivered(workflow_harness) == ["suspended"]
    assert after(workflow_harness, timedelta(minutes=59)) == []
    after(workflow_harness, timedelta(minutes=2))

    with pytest.raises(WorkflowFailed, match="deadline"):
        handle.result_sync(timeout=0)


@pytest.mark.parametrize(
    ("steps", "options", "named"),
    [
        ([wait_for("paid")], {}, "wait_for"),
        ([ActivitySpec("a", "x"), sleep_for(1)], {}, "sleep_for"),
        ([sleep_until(soon())], {}, "sleep_until"),
        ([ActivitySpec("a", "x")], {"start_at": soon(days=-1)}, "start_at"),
    ],
)
def test_nothing_can_wait_without_a_store(
    workflow_harness: WorkflowHarness, steps: list[Any], options: dict[str, Any], named: str
) -> None:
    """Nobody would remember what for; the caller learns it, not an operator days later."""
    workflow_harness.transport.store = None  # type: ignore[assignment]
    for dispatch in (WorkflowDispatcher().dispatch_workflow_sync,):
        with pytest.raises(StoreRequired, match=f"`{named}`"):
            dispatch(workflow_harness.transport, itinerary=steps, **options)
    assert not workflow_harness.pending
