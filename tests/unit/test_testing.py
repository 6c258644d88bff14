"""The test kit does what tests of others expect of it."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai.models.test import TestModel

from paigeant_celery import (
    FunctionSpec,
    PaigeantAgent,
    PendingWait,
    WorkflowContext,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowParked,
    WorkflowWaits,
    activity,
    for_each,
    parallel,
    sleep_for,
    wait_for,
)
from paigeant_celery.testing import WorkflowHarness
from tests.support.branched_steps import load, read, stumble
from tests.support.processes import run_script
from tests.support.provider_jobs import BackgroundModel, Provider


def made_and_dropped() -> FunctionSpec:
    @activity
    def answer() -> int:
        return 42

    return answer.activity()


def test_a_step_runs_whose_function_nothing_else_holds(workflow_harness: WorkflowHarness) -> None:
    """Tests make agents and functions in functions of their own; when Python collects them is not theirs to know."""
    handle = workflow_harness.dispatch([made_and_dropped()])
    gc.collect()

    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]
    assert handle.result_sync(timeout=0).output == 42


def shop() -> FunctionSpec:
    """Make a step that waits for two signals and an answer, one after the other."""

    @activity
    async def shop(context: WorkflowContext) -> list[Any]:
        return [
            await context.wait_for("paid"),
            await context.wait_for("paid"),
            await context.wait_for("address", ask=lambda token: None, question="Where to?"),
        ]

    return shop.activity()


class Payment(BaseModel):
    cents: int


def test_each_wait_gets_the_answer_of_its_name(workflow_harness: WorkflowHarness) -> None:
    """A test says what people and programs answer, as it says with what a model answers."""
    seen: list[PendingWait] = []

    async def address(wait: PendingWait) -> str:
        seen.append(wait)
        return f"answer to {wait.question}"

    answers = {"paid": Payment(cents=3), "address": address}
    result = asyncio.run(workflow_harness.run([shop()], answers=answers, correlation_id="w"))

    assert result.output == [{"cents": 3}, {"cents": 3}, "answer to Where to?"]
    assert [(wait.name, wait.kind, wait.step_id, wait.workflow) for wait in seen] == [
        ("address", "token", "shop", "w")
    ]  # fmt: skip


def test_a_wait_without_an_answer_ends_the_test_with_what_is_pending(workflow_harness: WorkflowHarness) -> None:
    """Whoever forgot an answer must neither wait nor guess its name."""
    step = shop()

    with pytest.raises(WorkflowWaits, match=r"'w' waits for an answer to 'address'.*pass an answer in `answers=`"):
        asyncio.run(workflow_harness.run([step], answers={"paid": None}, correlation_id="w"))
    with pytest.raises(WorkflowWaits, match="the signal 'paid'"):
        asyncio.run(workflow_harness.run([step], answers={"payed": 1}))


def test_time_is_set_forward_for_sleeps_and_timeouts(workflow_harness: WorkflowHarness) -> None:
    """A test of a reminder after a week takes no week."""

    @activity
    async def remind(context: WorkflowContext) -> list[str]:
        await context.sleep_for(timedelta(days=7))
        await context.sleep_until(datetime.now(UTC) + timedelta(days=30))
        told = []
        for name in ("first", "second"):
            try:
                told.append(str(await context.wait_for(name, timeout=timedelta(days=1))))
            except TimeoutError:
                told.append(f"no {name}")
        return told

    began = time.monotonic()
    result = asyncio.run(workflow_harness.run([remind.activity()], answers={"second": "it"}))

    assert result.output == ["no first", "it"]
    assert time.monotonic() - began < 60
    with pytest.raises(WorkflowFailed, match="WaitTimedOut"):
        asyncio.run(workflow_harness.run([patient()]))


def patient() -> FunctionSpec:
    """Make a step that waits for a day."""

    @activity
    async def patient(context: WorkflowContext) -> Any:
        return await context.wait_for("word", timeout=timedelta(days=1))

    return patient.activity()


def test_steps_that_wait_get_their_answers_and_take_no_time(workflow_harness: WorkflowHarness) -> None:
    """A workflow that starts on Monday and waits for a payment is tested today."""

    @activity
    async def ship(context: WorkflowContext) -> Any:
        return context.previous_output and context.previous_output.output

    steps = [wait_for("paid", timeout=60), sleep_for(timedelta(days=3)), ship.activity()]
    start_at = datetime.now(UTC) + timedelta(days=4)

    answers = {"paid": {"cents": 3}}
    result = asyncio.run(workflow_harness.run(steps, start_at=start_at, answers=answers, correlation_id="w"))

    assert result.outputs == {"wait-paid": {"cents": 3}, "ship": {"cents": 3}}
    *_, ended = WorkflowHandle("w", workflow_harness.transport).events_sync()
    assert ended.at - start_at >= timedelta(days=3)
    with pytest.raises(WorkflowFailed, match="WaitTimedOut"):
        asyncio.run(workflow_harness.run(steps))


def test_a_job_at_a_provider_takes_no_time(workflow_harness: WorkflowHarness) -> None:
    """Its run polls every half minute, and the test does not wait for any of them."""
    jobs = Provider(lambda: jobs.asked.count("poll") >= 5, interval=30.0)
    agent = PaigeantAgent(BackgroundModel(jobs), name="waiting")

    result = asyncio.run(workflow_harness.run([agent.activity("go")]))

    assert result.output == "done"
    assert jobs.asked == ["submit", *["poll"] * 5]


def test_a_test_can_stop_where_a_workflow_waits(workflow_harness: WorkflowHarness) -> None:
    """It looks at what is pending, answers through the handle, or lets time pass."""
    step = patient()
    answered, late = (workflow_harness.dispatch([step]) for _ in range(2))

    assert asyncio.run(workflow_harness.deliver()) == ["suspended", "suspended"]
    assert asyncio.run(workflow_harness.deliver()) == []
    (wait,) = answered.pending_sync()
    assert (wait.name, answered.status_sync().state) == ("word", "suspended")

    answered.signal_sync("word", "hello")
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]
    assert answered.result_sync(timeout=0).output == "hello"

    workflow_harness.skip(timedelta(hours=23))
    assert not workflow_harness.pending
    workflow_harness.skip(timedelta(hours=1))
    assert asyncio.run(workflow_harness.deliver()) == ["failed"]
    with pytest.raises(WorkflowFailed, match="WaitTimedOut"):
        late.result_sync(timeout=0)


def test_a_repeated_delivery_answers_nothing_twice(workflow_harness: WorkflowHarness) -> None:
    """A broker may deliver the message of a hop again while it waits."""
    asked = []

    def paid(wait: PendingWait) -> int:
        asked.append(wait.name)
        return len(asked)

    answers = {"paid": paid, "address": "there"}
    result = asyncio.run(workflow_harness.run([shop()], answers=answers, deliver_twice=True))

    assert result.output == [1, 2, "there"]


def test_what_a_prepared_function_raises_ends_the_test(workflow_harness: WorkflowHarness) -> None:
    """It holds the assertions of the test."""

    def paid(wait: PendingWait) -> int:
        raise AssertionError("not this one")

    with pytest.raises(AssertionError, match="not this one"):
        asyncio.run(workflow_harness.run([shop()], answers={"paid": paid}))


# Branches.


def test_waits_in_branches_are_answered_in_the_order_of_their_places(workflow_harness: WorkflowHarness) -> None:
    """A function that answers sees the same order in each run of the test, and no sleep takes time."""
    load()
    asked: list[str] = []

    def size(wait: PendingWait) -> str:
        asked.append(wait.hop_id)
        return f"size {len(asked)}"

    inner = for_each(read.activity(), over=["wait", "sleep"], step_id="inner")
    block = parallel({"a": [read.activity(), inner], "b": for_each(read.activity(), over=["signal", "wait"])})
    answers = {"size": size, "paid": 3}
    result = asyncio.run(workflow_harness.run([block], answers=answers, correlation_id="w"))

    assert result.output == {"a": ["size 1", "read sleep"], "b": [3, "size 2"]}
    assert asked == ["w.0-0.1-0.0", "w.0-1.0-1.0"]


def test_a_wait_in_a_branch_without_an_answer_is_named_with_its_path(workflow_harness: WorkflowHarness) -> None:
    """Whoever forgot one of many answers must not look for it."""
    load()
    block = for_each(read.activity(), over=["a", "wait", "signal"], step_id="readings")

    with pytest.raises(WorkflowWaits) as waits:
        asyncio.run(workflow_harness.run([block], answers={"paid": 1}))

    assert "waits for an answer to 'size' (in readings/1/read), since" in str(waits.value)
    assert "paid" not in str(waits.value)


def test_calls_of_tools_in_branches_are_approved_by_their_names(workflow_harness: WorkflowHarness) -> None:
    """A refund for each of three orders, and a person for each of them."""
    agent = PaigeantAgent(TestModel(), name="clerk")

    @agent.tool_plain(requires_approval=True)
    def refund() -> str:
        return "refunded"

    answers = iter([True, False])
    block = for_each(agent.activity("refund it"), over=[1, 2], step_id="orders")
    run = workflow_harness.run([block], answers={"refund": lambda call: next(answers)}, correlation_id="w")
    result = asyncio.run(run)

    assert result.output == ['{"refund":"refunded"}', '{"refund":"The tool call was denied."}']


def test_retries_in_branches_take_no_time_and_come_in_the_order_of_their_times(
    workflow_harness: WorkflowHarness,
) -> None:
    """A test of a flaky source takes no minute."""
    load()
    block = for_each(stumble.activity(), over=[1, 2, 3], step_id="all")
    handle = workflow_harness.dispatch([block])
    began = time.monotonic()
    outcomes = asyncio.run(workflow_harness.deliver())

    assert outcomes == ["suspended", *["retrying"] * 3, *["parked"] * 3]
    assert time.monotonic() - began < 30
    with pytest.raises(WorkflowParked, match="all/0/stumble"):
        handle.result_sync(timeout=0)


def test_a_parked_branch_ends_a_run_when_the_others_have_ended(workflow_harness: WorkflowHarness) -> None:
    """The answers of its siblings are given all the same, as people would give them."""
    load()
    block = for_each(read.activity(), over=["park", "wait", "sleep"], step_id="readings")

    with pytest.raises(WorkflowParked, match="readings/0/read"):
        asyncio.run(workflow_harness.run([block], answers={"size": 1}, correlation_id="w"))

    branches = workflow_harness.store.branches("w.0", first=0, limit=10)
    assert [branch.how for branch in branches] == [None, "succeeded", "succeeded"]


def test_the_kit_needs_no_pytest() -> None:
    """Django's own tests run in projects that do not have it."""
    script = """
import asyncio, sys
sys.modules["pytest"] = None
from paigeant_celery import activity
from paigeant_celery.testing import WorkflowHarness, workflow_harness

@activity
def answer() -> int:
    return 42

print(asyncio.run(WorkflowHarness().run([answer.activity()])).output, type(workflow_harness()).__name__)
"""

    assert run_script(script, cold=True) == "42 WorkflowHarness\n"
