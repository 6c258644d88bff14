"""Blocks through the whole tree: how branches end, what their block makes of it, and what becomes of the others."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paigeant_celery import (
    ActivitySpec,
    StepPolicy,
    WorkflowContext,
    WorkflowDispatcher,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowParked,
    activity,
    for_each,
    parallel,
    sleep_for,
    sub_workflow,
)
from paigeant_celery.broker.port import Delivery
from paigeant_celery.core.message import sha256
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.run import Opened
from paigeant_celery.store.port import HopRecord, OpenHops
from paigeant_celery.testing import WorkflowHarness
from tests.support.branched_steps import dispatched, gather, load, read, repair

NOTHING_OPEN = OpenHops(due=0, running=0, parked=0, asleep=0)
AN_HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def loaded(own_registry: None) -> None:
    """Let each test find the steps."""
    load()


def readings(*items: str, **options: Any) -> Any:
    return for_each(read.activity(), over=items, step_id="readings", **options)


def delivered(harness: WorkflowHarness) -> list[str]:
    return asyncio.run(harness.deliver())


def token_of(harness: WorkflowHarness, place: str) -> str:
    (wait,) = harness.store.waits(f"w.{place}")
    return wait.token


def failure_of(handle: WorkflowHandle) -> tuple[str | None, str, str]:
    with pytest.raises(WorkflowFailed) as failed:
        handle.result_sync(timeout=0)
    return failed.value.step_id, failed.value.error_class, failed.value.text


def opened(harness: WorkflowHarness, delivery: Delivery) -> Opened:
    """Claim a hop, as a worker does that runs it from now on."""
    arrival = Arrival(hop_id=delivery.hop_id, activity=delivery.activity, envelope=delivery.envelope)
    hop = harness._service.open(arrival)
    assert isinstance(hop, Opened)
    return hop


# How a block ends.


def test_the_first_failure_fails_the_workflow_and_cuts_the_others_off(workflow_harness: WorkflowHarness) -> None:
    """The failure is that of the branch, by its path, and nothing goes on beside a workflow that has failed."""
    handle = dispatched(workflow_harness, readings("wait", "sleep", "fail", "signal"), gather.activity())

    assert failure_of(handle) == ("readings/2/read", "LookupError", "no such source")
    assert workflow_harness.store.open_hops() == NOTHING_OPEN
    assert handle.resolve_sync(token_of(workflow_harness, "0-0.0"), 1).outcome == "late"
    assert delivered(workflow_harness) == []


def test_a_branch_that_only_sleeps_gives_what_it_was_given(workflow_harness: WorkflowHarness) -> None:
    """A sleep passes the previous output on, in a branch as well, however large the item is."""
    items = ["a", "x" * 5000]

    result = asyncio.run(workflow_harness.run([for_each(sleep_for(1), over=items), gather.activity()]))

    assert result.outputs["for-each"] == items

    @activity
    def write() -> str:
        return items[1]

    result = asyncio.run(workflow_harness.run([write.activity(), sub_workflow(sleep_for(1)), gather.activity()]))
    assert result.outputs["sub-workflow"] == items[1]


def test_a_run_that_was_cut_off_writes_nothing(workflow_harness: WorkflowHarness) -> None:
    """It may end long after its workflow, on another machine."""
    handle = dispatched(workflow_harness, readings("a", "fail"), hops=1)
    running, failing = workflow_harness.pending
    workflow_harness.pending.clear()
    hop = opened(workflow_harness, running)
    assert asyncio.run(workflow_harness.redeliver(failing)) == "failed"
    assert delivered(workflow_harness) == ["failed"]
    before = handle.events_so_far()

    renewed = workflow_harness.store.renew("harness", {running.hop_id: hop.closing.fence})
    closed = workflow_harness._service.close(hop, asyncio.run(workflow_harness._service.run(hop)))

    assert renewed.cancelled == {running.hop_id}
    assert closed.outcome == "overtaken"
    assert asyncio.run(workflow_harness.redeliver(running)) == "dropped: cancelled"
    assert handle.events_so_far() == before
    assert workflow_harness.store.journal(running.hop_id) == {}


def test_collected_failures_stand_in_the_output(workflow_harness: WorkflowHarness) -> None:
    """A reader that could not read one source still gets the others, in their order."""
    steps = [readings("a", "fail", "b", on_failure="collect"), gather.activity()]

    result = asyncio.run(workflow_harness.run(steps))

    failed = {"failed": "LookupError", "text": "no such source"}
    assert result.output == ["read a", failed, "read b"]


def test_a_join_that_cannot_be_met_any_more_is_missed(workflow_harness: WorkflowHarness) -> None:
    """Three judges and a quorum of two: after two failures nobody waits for the third."""
    handle = dispatched(workflow_harness, readings("fail", "wait", "fail", join=2))

    step, error, text = failure_of(handle)
    assert (step, error) == ("readings", "JoinMissed")
    assert text == (
        "0 of 3 branches succeeded, and 2 failed; 2 had to succeed. "
        "readings/0/read failed with LookupError: no such source"
    )
    assert workflow_harness.store.open_hops() == NOTHING_OPEN


def test_any_ends_with_the_first_and_cuts_the_losers_off(workflow_harness: WorkflowHarness) -> None:
    """The slower models need not be paid for."""
    handle = dispatched(workflow_harness, readings("wait", "fail", "a", "sleep", join="any"), gather.activity())

    failed = {"failed": "LookupError", "text": "no such source"}
    assert handle.result_sync(timeout=0).output == [failed, "read a"]
    assert workflow_harness.store.open_hops() == NOTHING_OPEN
    assert [event.type for event in handle.events_so_far()].count("joined") == 1


def test_a_block_that_takes_too_long_fails(workflow_harness: WorkflowHarness) -> None:
    """However long a person takes to answer in one of its branches."""
    handle = dispatched(workflow_harness, readings("a", "wait", timeout=60), gather.activity())
    workflow_harness.skip(61)
    delivered(workflow_harness)

    text = "the block took longer than 60 s; 1 of 2 branches had ended"
    assert failure_of(handle) == ("readings", "TimeoutError", text)
    assert workflow_harness.store.open_hops() == NOTHING_OPEN


def test_a_block_in_a_branch_that_takes_too_long_fails_its_branch(workflow_harness: WorkflowHarness) -> None:
    """The block around it decides what that means."""
    inner = readings("wait", timeout=60)
    steps = [parallel({"slow": inner, "fast": gather.activity()}, on_failure="collect")]
    result = asyncio.run(workflow_harness.run(steps))

    text = "the block took longer than 60 s; 0 of 1 branches had ended"
    assert result.output == {"slow": {"failed": "TimeoutError", "text": text}, "fast": None}


@pytest.mark.parametrize("options", [{}, {"join": 2}], ids=["a failure", "a missed join"])
def test_the_error_of_a_block_shows_where_its_branch_failed(
    workflow_harness: WorkflowHarness, options: dict[str, Any]
) -> None:
    """Also through blocks in blocks: whoever looks needs the line of the code, on whatever machine that ran."""
    handle = dispatched(workflow_harness, sub_workflow(readings("a", "fail", **options)))

    with pytest.raises(WorkflowFailed) as failed:
        handle.result_sync(timeout=0)

    told = str(failed.value.__cause__)
    assert "branched_steps.py" in told
    assert "LookupError: no such source" in told


def test_the_output_of_a_block_keeps_no_frames_of_what_failed(workflow_harness: WorkflowHarness) -> None:
    """It is read by models and by whoever gets the result; the frames are for whoever looks after the code."""
    handle = dispatched(workflow_harness, readings("fail", on_failure="collect"))

    assert handle.result_sync(timeout=0).output == [{"failed": "LookupError", "text": "no such source"}]
    record = workflow_harness.store.workflow("w")
    assert record is not None
    assert "branched_steps.py" not in record.envelope


# Ends from outside.


@pytest.mark.parametrize("nested", [False, True])
def test_a_cancelled_workflow_ends_all_its_branches(workflow_harness: WorkflowHarness, nested: bool) -> None:
    """Whatever they do at that moment: nothing of it goes on, and no copy of a message runs anything."""
    block = readings("wait", "park", "sleep", "a", "b", max_at_once=3)
    handle = dispatched(workflow_harness, sub_workflow(block) if nested else block, hops=4 + nested)
    waiting = list(workflow_harness.pending)
    assert waiting != []

    assert handle.cancel_sync()

    assert set(delivered(workflow_harness)) == {"dropped: cancelled"}
    assert workflow_harness.store.open_hops() == NOTHING_OPEN
    assert workflow_harness.store.dead_letters(after=None, limit=10) == []
    assert handle.events_so_far()[-1].type == "workflow_cancelled"
    assert workflow_harness.store.redrive("w", place="0-1.0") == "not_parked"


@pytest.mark.parametrize("nested", [False, True])
def test_a_deadline_ends_a_block_that_sleeps(workflow_harness: WorkflowHarness, nested: bool) -> None:
    """Nobody runs it at that moment, and its branches may wait for years."""
    block = readings("wait", "a")
    deadline = datetime.now(UTC) + AN_HOUR
    handle = workflow_harness.dispatch(
        [sub_workflow(block) if nested else block], correlation_id="w", deadline=deadline
    )
    delivered(workflow_harness)
    workflow_harness.skip(AN_HOUR)
    delivered(workflow_harness)

    step, error, text = failure_of(handle)
    assert error == "deadline"
    assert text == f"the deadline {deadline.isoformat()} passed before the step"
    assert step is not None
    assert step.startswith("sub-workflow" if nested else "readings")
    assert workflow_harness.store.open_hops() == NOTHING_OPEN


def test_a_deadline_that_passes_while_branches_run_fails_the_workflow(workflow_harness: WorkflowHarness) -> None:
    """Even one that collects failures: nothing may begin any more."""

    @activity
    async def slow(context: WorkflowContext) -> str:
        workflow_harness._skipped += AN_HOUR
        return "late"

    block = parallel({"slow": [slow.activity(), slow.activity()]}, on_failure="collect")
    handle = workflow_harness.dispatch([block], correlation_id="w", deadline=datetime.now(UTC) + AN_HOUR)
    outcomes = delivered(workflow_harness)

    assert outcomes == ["suspended", "completed", "failed", "failed"]
    assert failure_of(handle)[:2] == ("parallel", "deadline")


# Branches that wait for a person.


def test_a_parked_branch_lets_the_others_go_on_and_is_joined_after_a_redrive(
    workflow_harness: WorkflowHarness,
) -> None:
    """One bad source keeps nobody from reading the other nineteen, and nothing is read twice."""
    handle = dispatched(workflow_harness, readings("park", "a", "signal"), gather.activity())
    record = workflow_harness.store.workflow("w")
    assert record is not None
    assert record.state == "running"

    handle.signal_sync("paid", "b")
    assert delivered(workflow_harness) == ["branch_completed"]
    with pytest.raises(WorkflowParked, match="readings/0/read"):
        handle.result_sync(timeout=0)

    repair()
    assert workflow_harness.store.redrive("w", place="0-0.0") == "redriven"
    workflow_harness.sweep()
    assert delivered(workflow_harness) == ["branch_completed", "completed", "workflow_completed"]
    assert handle.result_sync(timeout=0).output == ["readable", "read a", "b"]


def test_a_parked_branch_gives_its_place_to_the_next(workflow_harness: WorkflowHarness) -> None:
    """A narrow window would otherwise stand still until somebody looks."""
    handle = dispatched(workflow_harness, readings("park", "a", "b", max_at_once=1))

    assert [event.type for event in handle.events_so_far()].count("branch_completed") == 2
    letters = workflow_harness.store.dead_letters(after=None, limit=10)
    assert [letter.hop_id for letter in letters] == ["w.0-0.0"]


def test_a_parked_branch_can_still_succeed(workflow_harness: WorkflowHarness) -> None:
    """A join that only it can meet is not missed yet."""
    handle = dispatched(workflow_harness, readings("park", "fail", join="any"))
    with pytest.raises(WorkflowParked):
        handle.result_sync(timeout=0)

    repair()
    workflow_harness.store.redrive("w", place="0-0.0")
    workflow_harness.sweep()
    delivered(workflow_harness)

    assert handle.result_sync(timeout=0).output == ["readable", {"failed": "LookupError", "text": "no such source"}]


# Repeated deliveries.


def test_repeated_deliveries_open_and_join_nothing_twice(workflow_harness: WorkflowHarness) -> None:
    """A broker may deliver each message twice; the models are paid for once."""
    ran: list[str] = []

    @activity
    async def count(context: WorkflowContext) -> str:
        ran.append(context.hop_id)
        return context.path

    inner = for_each(count.activity(), over=[1, 2], step_id="inner")
    steps = [parallel({"a": [count.activity(), inner], "b": sub_workflow(count.activity())}), count.activity()]
    result = asyncio.run(workflow_harness.run(steps, correlation_id="w", deliver_twice=True))

    assert result.outputs["parallel"] == {
        "a": ["parallel/a/inner/0/count", "parallel/a/inner/1/count"],
        "b": "parallel/b/sub-workflow/0/count",
    }
    assert sorted(ran) == ["w.0-0.0", "w.0-0.1-0.0", "w.0-0.1-1.0", "w.0-1.0-0.0", "w.1"]
    types = [event.type for event in WorkflowHandle("w", workflow_harness.transport).events_so_far()]
    assert (types.count("branches_opened"), types.count("joined")) == (3, 3)


def test_a_copy_of_a_hop_in_a_branch_says_how_it_stands(workflow_harness: WorkflowHarness) -> None:
    """Flower shows the copy, and must not show a running hop as ended."""
    handle = dispatched(workflow_harness, readings("a", "wait", "park", "fail", on_failure="collect"))
    copies = {delivery.hop_id: delivery for delivery in workflow_harness.delivered}
    stands = {
        hop_id: workflow_harness._service.open(
            Arrival(hop_id=hop_id, activity=delivery.activity, envelope=delivery.envelope)
        ).stands.outcome  # type: ignore[union-attr]
        for hop_id, delivery in copies.items()
    }

    assert stands == {
        "w.0": "suspended",
        "w.0-0.0": "branch_completed",
        "w.0-1.0": "suspended",
        "w.0-2.0": "failed",
        "w.0-3.0": "failed",
    }
    assert handle.cancel_sync()


def test_a_copy_of_a_finished_hop_sends_its_successor_in_the_branch(workflow_harness: WorkflowHarness) -> None:
    """A worker may die between recording the next hop and sending it."""
    handle = dispatched(workflow_harness, sub_workflow([gather.activity(), gather.activity()]), hops=2)
    (lost,) = workflow_harness.pending
    workflow_harness.pending.clear()

    assert asyncio.run(workflow_harness.redeliver(workflow_harness.delivered[-1])) == "dropped: finished"

    assert [delivery.hop_id for delivery in workflow_harness.pending] == [lost.hop_id] == ["w.0-0.1"]
    assert delivered(workflow_harness) == ["branch_completed", "workflow_completed"]
    assert handle.result_sync(timeout=0).output is None


def test_what_a_step_retries_in_a_branch_concerns_no_other_branch(workflow_harness: WorkflowHarness) -> None:
    """Each hop has its own attempts."""
    tried: list[str] = []

    @activity(policy=StepPolicy(max_attempts=2))
    async def shaky(context: WorkflowContext) -> int:
        tried.append(context.path)
        if context.attempt == 1 and "/1/" in context.path:
            raise ValueError("not yet")
        return context.attempt

    result = asyncio.run(workflow_harness.run([for_each(shaky.activity(), over=[0, 1, 2], step_id="all")]))

    assert result.output == [1, 2, 1]
    assert tried == ["all/0/shaky", "all/1/shaky", "all/2/shaky", "all/1/shaky"]


# Branches that nobody here can run.


def test_a_branch_that_is_refused_is_parked_and_lets_the_next_one_go_on(workflow_harness: WorkflowHarness) -> None:
    """A worker that lacks one agent must not hold up a whole fan-out."""
    steps = [for_each(ActivitySpec("elsewhere", "go"), over=[1, 2], max_at_once=1, step_id="all")]
    sent = WorkflowDispatcher().dispatch_workflow_sync(workflow_harness.transport, itinerary=steps, correlation_id="w")
    outcomes = delivered(workflow_harness)

    assert outcomes == ["suspended", "refused: unknown_agent", "refused: unknown_agent"]
    with pytest.raises(WorkflowParked, match="all/0/elsewhere"):
        WorkflowHandle(sent, workflow_harness.transport).result_sync(timeout=0)
    letters = workflow_harness.store.dead_letters(after=None, limit=10)
    assert {letter.hop_id for letter in letters} == {"w.0-0.0", "w.0-1.0"}


def test_a_branch_that_did_not_begin_before_the_deadline_fails_and_wakes_its_block(
    workflow_harness: WorkflowHarness,
) -> None:
    """Whoever sweeps ends it, if no worker serves its queue."""
    handle = workflow_harness.dispatch([readings("a")], correlation_id="w", deadline=datetime.now(UTC) + AN_HOUR)
    asyncio.run(workflow_harness.deliver(1))
    (unserved,) = workflow_harness.pending
    workflow_harness.pending.clear()
    workflow_harness._skipped += AN_HOUR
    envelope = unserved.envelope
    end_late = workflow_harness._sweeper._end_late
    assert end_late is not None

    end_late(HopRecord(hop_id=unserved.hop_id, queue=unserved.queue, envelope=envelope, digest=sha256(envelope)))

    assert [delivery.hop_id for delivery in workflow_harness.pending] == ["w.0"]
    assert delivered(workflow_harness) == ["failed"]
    assert failure_of(handle)[:2] == ("readings", "deadline")
    assert asyncio.run(workflow_harness.redeliver(unserved)) == "dropped: finished"


def test_a_block_whose_owner_was_overtaken_opens_nothing(workflow_harness: WorkflowHarness) -> None:
    """Its worker was away for longer than its lease, and another one has opened the branches by now."""
    workflow_harness.dispatch([readings("a", "b")], correlation_id="w")
    hop = opened(workflow_harness, workflow_harness.pending.popleft())
    store = workflow_harness.store
    store.release(hop.closing)
    workflow_harness.sweep()
    again = opened(workflow_harness, workflow_harness.pending.popleft())
    before = store.block("w.0")

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(workflow_harness._service.run(hop))
    assert (store.block("w.0"), list(workflow_harness.pending)) == (before, [])

    outcome = asyncio.run(workflow_harness._service.run(again))
    assert workflow_harness._service.close(hop, outcome).outcome == "overtaken"
    assert workflow_harness._service.close(again, outcome).outcome == "suspended"
    assert delivered(workflow_harness) == ["branch_completed", "branch_completed", "workflow_completed"]
