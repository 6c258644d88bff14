"""The handle: waiting for a workflow that is running, and reading everything about one that ended."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from pydantic_ai.models.test import TestModel

from paigeant_celery.activities.context import WorkflowContext
from paigeant_celery.activities.functions import activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.agents.agent import PaigeantAgent
from paigeant_celery.broker.transport import get_transport
from paigeant_celery.client.dead_letters import DeadLetters
from paigeant_celery.client.dispatch import WorkflowDispatcher
from paigeant_celery.client.handle import WorkflowHandle
from paigeant_celery.client.readings import WorkflowStatus
from paigeant_celery.core.errors import (
    InvalidInput,
    StoreCorrupt,
    StoreRequired,
    UnknownWorkflow,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowParked,
)
from paigeant_celery.core.events import WorkflowEvent
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.message import PaigeantMessage, encode
from paigeant_celery.core.names import CORRELATION_ID_RULE
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec
from paigeant_celery.store.port import Claim, Claimed, Closing, HopRecord, NewWorkflow
from paigeant_celery.testing import WorkflowHarness

PATIENCE = 20.0  # seconds after which a test that waits has failed


@activity
def repeat(text: str, times: int = 1) -> str:
    return text * times


@pytest.fixture(autouse=True)
def loaded(own_registry: None) -> None:
    """Let each test find the activity of this module."""
    registry.add(repeat, holder=repeat)


@pytest.fixture
def looked(workflow_harness: WorkflowHarness) -> Callable[[int], bool]:
    """Return a wait that lasts until a workflow was looked at so many times."""
    looks, workflow = threading.Semaphore(0), workflow_harness.store.workflow

    def look(correlation_id: str) -> Any:
        looks.release()
        return workflow(correlation_id)

    workflow_harness.store.workflow = look  # type: ignore[method-assign]
    return lambda times: all(looks.acquire(timeout=PATIENCE) for _ in range(times))


def types_of(events: list[WorkflowEvent]) -> list[str]:
    return [event.type for event in events]


# Waiting.


@pytest.mark.parametrize("wait", [WorkflowHandle.result_sync, lambda handle: asyncio.run(handle.result())])
def test_a_result_comes_when_the_workflow_ends(
    workflow_harness: WorkflowHarness, looked: Callable[[int], bool], wait: Callable[[WorkflowHandle], Any]
) -> None:
    """An early caller waits, with or without an event loop."""
    handle = workflow_harness.dispatch([repeat.activity("a"), repeat.activity("b")])
    results: list[Any] = []

    waiting = threading.Thread(target=lambda: results.append(wait(handle)))
    waiting.start()
    assert looked(2)
    early = list(results)
    asyncio.run(workflow_harness.deliver())
    waiting.join(PATIENCE)

    assert early == []
    assert [result.outputs for result in results] == [{"repeat": "a", "repeat-2": "b"}]


def test_waiting_without_an_end_in_sight_can_be_given_up(
    workflow_harness: WorkflowHarness, looked: Callable[[int], bool]
) -> None:
    """Closing a web request ends its waiting and leaves the workflow alone."""
    handle = workflow_harness.dispatch([repeat.activity("a")])

    async def main() -> None:
        waiting = asyncio.create_task(handle.result())
        assert await asyncio.to_thread(looked, 2)
        waiting.cancel()
        await asyncio.wait([waiting], timeout=PATIENCE)
        assert waiting.cancelled()

    asyncio.run(main())
    asyncio.run(workflow_harness.deliver())

    assert handle.result_sync(timeout=0).output == "a"


async def follow(handle: WorkflowHandle, seen: list[WorkflowEvent]) -> None:
    async for event in handle.events():
        seen.append(event)


@pytest.mark.parametrize(
    "read",
    [lambda handle, seen: seen.extend(handle.events_sync()), lambda handle, seen: asyncio.run(follow(handle, seen))],
    ids=["sync", "async"],
)
def test_events_are_given_up_to_the_end_however_long_nothing_happens(
    workflow_harness: WorkflowHarness, looked: Callable[[int], bool], read: Callable[..., None]
) -> None:
    """A page that follows a workflow shows each step as it comes, and ends with the last one."""
    handle = workflow_harness.dispatch([repeat.activity("a"), repeat.activity("b")], correlation_id="w")
    seen: list[WorkflowEvent] = []

    reader = threading.Thread(target=read, args=(handle, seen))
    reader.start()
    waited = [looked(4), asyncio.run(workflow_harness.deliver(1)), looked(4), asyncio.run(workflow_harness.deliver(1))]
    reader.join(PATIENCE)

    assert waited == [True, ["completed"], True, ["workflow_completed"]]
    assert [(event.type, event.hop_id, event.fields.get("step")) for event in seen] == [
        ("started", "w.0", None),
        ("claimed", "w.0", "repeat"),
        ("completed", "w.0", "repeat"),
        ("claimed", "w.1", "repeat-2"),
        ("completed", "w.1", "repeat-2"),
        ("workflow_completed", "w.1", None),
    ]


def test_reading_events_resumes_after_the_last_one_seen(workflow_harness: WorkflowHarness) -> None:
    """A page that was reloaded misses nothing and shows nothing twice."""
    asyncio.run(workflow_harness.run([repeat.activity("a")], correlation_id="w"))
    handle = WorkflowHandle("w", workflow_harness.transport)
    first, second, *_ = everything = list(handle.events_sync())

    async def resumed() -> list[WorkflowEvent]:
        return [event async for event in handle.events(first.cursor)]

    assert types_of(everything) == ["started", "claimed", "completed", "workflow_completed"]
    assert list(handle.events_sync(second.cursor)) == handle.events_so_far(second.cursor) == everything[2:]
    assert asyncio.run(resumed()) == everything[1:]


def test_what_an_agent_shows_is_read_while_it_runs(workflow_harness: WorkflowHarness) -> None:
    """A page shows the answer grow, and goes on where it stopped when its connection comes back."""
    shown: list[list[WorkflowEvent]] = []

    @activity
    def talk() -> str:
        closing = Closing(hop_id="w.0", owner="harness", fence=1)
        for word in ("Once", "upon"):
            workflow_harness.store.publish(closing, [{"event": "text", "data": word}])
            shown.append(handle.events_so_far(shown[-1][-1].cursor if shown else None))
        return "Once upon"

    handle = workflow_harness.dispatch([talk.activity()], correlation_id="w")
    asyncio.run(workflow_harness.deliver())

    assert [types_of(events) for events in shown] == [["started", "claimed", "agent"], ["agent"]]
    assert [(event.hop_id, event.fields) for event in (shown[0][-1], shown[1][0])] == [
        ("w.0", {"event": "text", "data": "Once"}),
        ("w.0", {"event": "text", "data": "upon"}),
    ]
    assert types_of(handle.events_so_far(shown[1][0].cursor)) == ["completed", "workflow_completed"]
    assert list(handle.events_sync()) == [*shown[0], *shown[1], *handle.events_so_far(shown[1][0].cursor)]


def test_an_event_says_what_when_and_where(workflow_harness: WorkflowHarness) -> None:
    """Attempt, queue and the like are there for people; prompts and outputs are not."""
    asyncio.run(workflow_harness.run([repeat.activity("hunter2")], correlation_id="w"))
    handle = WorkflowHandle("w", workflow_harness.transport)
    status = handle.status_sync()

    started, claimed, *_ = events = handle.events_so_far()

    assert started == WorkflowEvent(
        cursor=started.cursor,
        at=status.created_at,
        type="started",
        hop_id="w.0",
        fields={"queue": "paigeant.repeat"},
        path="repeat",
    )
    assert claimed.fields == {"step": "repeat", "attempt": "1", "fence": "1", "exhausted": "0"}
    assert "hunter2" not in repr(events)


def test_a_look_at_the_events_waits_for_nothing(workflow_harness: WorkflowHarness) -> None:
    """A command that lists what happened ends, although the workflow goes on."""
    handle = workflow_harness.dispatch([repeat.activity("a")])

    assert types_of(handle.events_so_far()) == ["started"]


def test_long_stories_are_told_whole(workflow_harness: WorkflowHarness) -> None:
    """The store returns events in parts; the reader does not have to know."""
    asyncio.run(workflow_harness.run([repeat.activity("a")] * 120, correlation_id="w"))
    handle = WorkflowHandle("w", workflow_harness.transport)

    events = handle.events_so_far()

    assert types_of(events) == ["started", *["claimed", "completed"] * 120, "workflow_completed"]
    assert list(handle.events_sync()) == events


# Waiting inside a step.


WAITS: dict[str, Callable[[WorkflowHandle], Any]] = {
    "result": lambda handle: asyncio.run(handle.result()),
    "result_sync": lambda handle: handle.result_sync(PATIENCE),
    "events": lambda handle: asyncio.run(read(handle)),
    "events_sync": lambda handle: list(handle.events_sync()),
}


async def read(handle: WorkflowHandle) -> None:
    async for _ in handle.events():
        pass


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("itself", [False, True])
def test_a_step_that_would_wait_for_a_workflow_is_told_what_to_do(
    workflow_harness: WorkflowHarness, wait: str, itself: bool
) -> None:
    """It would keep a slot that the workflow may need, and a pool full of such steps never goes on."""
    other = workflow_harness.dispatch([repeat.activity("a")], correlation_id="other")

    @activity
    def waits(context: WorkflowContext) -> Any:
        return WAITS[wait](WorkflowHandle(context.correlation_id, workflow_harness.transport) if itself else other)

    handle = workflow_harness.dispatch([waits.activity()], correlation_id="waits")
    asyncio.run(workflow_harness.redeliver(workflow_harness.pending[-1]))
    with pytest.raises(WorkflowFailed) as caught:
        handle.result_sync(timeout=0)

    assert caught.value.error_class == "WaitInsideStep"
    assert f"must not wait for the workflow '{'waits' if itself else 'other'}'" in caught.value.text
    assert "result(timeout=0)" in caught.value.text


def test_a_step_may_look_without_waiting(workflow_harness: WorkflowHarness) -> None:
    """The id that an earlier step passed on leads to the outputs once they are there."""
    other = workflow_harness.dispatch([repeat.activity("a")])

    @activity(policy=StepPolicy(backoff=0.0))
    def looks() -> list[Any]:
        return [other.result_sync(timeout=0).output, len(list(other.events_sync())), other.result_sync().output]

    handle = workflow_harness.dispatch([looks.activity()])
    first = asyncio.run(workflow_harness.redeliver(workflow_harness.pending[1]))
    asyncio.run(workflow_harness.deliver())

    failure = handle.status_sync().failure
    assert (first, failure) == ("retrying", None)
    assert handle.result_sync(timeout=0).output == ["a", 4, "a"]


@pytest.mark.parametrize("place", ["a dependency", "a tool"])
def test_nothing_that_an_agent_runs_may_wait_either(workflow_harness: WorkflowHarness, place: str) -> None:
    """Whatever code of a step waits, it is the step that keeps its slot."""
    other = workflow_harness.dispatch([repeat.activity("a")])

    def wait() -> str:
        return str(other.result_sync().output)

    agent = PaigeantAgent(
        TestModel(),
        name="asking",
        tools=[wait] if place == "a tool" else [],
        deps_factory=(lambda *_: wait()) if place == "a dependency" else None,
    )

    handle = workflow_harness.dispatch([agent.activity("ask")])
    asyncio.run(workflow_harness.redeliver(workflow_harness.pending[-1]))

    with pytest.raises(WorkflowFailed, match="WaitInsideStep"):
        handle.result_sync(timeout=0)


# Reading what ended.


def test_large_outputs_are_read_from_the_store() -> None:
    """The result has them all, wherever they were kept on the way."""
    harness = WorkflowHarness(Settings(inline_output_size=10))

    result = asyncio.run(harness.run([repeat.activity("x", 50), repeat.activity("y"), repeat.activity("z", 60)]))

    assert result.outputs == {"repeat": "x" * 50, "repeat-2": "y", "repeat-3": "z" * 60}
    assert result.output == result.output_as(str) == "z" * 60


@pytest.mark.parametrize("found", [None, '"another"'], ids=["missing", "changed"])
def test_an_output_that_is_not_as_it_was_recorded_is_no_result(found: str | None) -> None:
    """An error that names the step is better than another workflow's text, or none."""
    harness = WorkflowHarness(Settings(inline_output_size=10))
    asyncio.run(harness.run([repeat.activity("x", 50)], correlation_id="w"))
    kept = {} if found is None else {"repeat": found}
    harness.store.blobs = lambda correlation_id, names: kept  # type: ignore[method-assign]

    with pytest.raises(StoreCorrupt) as caught:
        WorkflowHandle("w", harness.transport).result_sync(timeout=0)

    assert caught.value.args == ("w: output of repeat", "missing or not as recorded")


def test_the_result_sums_what_the_steps_used(workflow_harness: WorkflowHarness) -> None:
    """One number says what a workflow cost; functions cost nothing."""
    writer = PaigeantAgent(TestModel(custom_output_text="a draft"), name="writer")

    async def used(times: int) -> dict[str, int]:
        steps = [ActivitySpec("writer", "write", previous_output=False), repeat.activity("a")] * times
        return dict((await workflow_harness.run(steps)).usage)

    once, twice = asyncio.run(used(1)), asyncio.run(used(2))

    assert writer.name == "writer"
    assert once["requests"] == 1
    assert once["output_tokens"] > 0
    assert twice == {name: 2 * count for name, count in once.items()}


def test_a_failed_workflow_fails_whoever_waits_and_tells_its_story(workflow_harness: WorkflowHarness) -> None:
    """Waiters end, the status keeps the reason, and what ran before is still readable."""

    @activity
    def divide(by: int) -> float:
        return 1 / by

    final = StepPolicy(final_on=[ZeroDivisionError])
    failing = FunctionSpec("divide", {"by": 0}, policy=final)
    handle = workflow_harness.dispatch([repeat.activity("a"), failing, repeat.activity("b")])
    asyncio.run(workflow_harness.deliver())

    with pytest.raises(WorkflowFailed) as caught:
        asyncio.run(handle.result())
    status = handle.status_sync()

    assert status.failure is not None
    assert (status.failure.step_id, status.failure.error_class, status.failure.text) == caught.value.args[1:]
    assert (status.state, status.executed, status.remaining) == ("failed", ("repeat",), ("divide", "repeat-2"))
    assert types_of(list(handle.events_sync()))[-2:] == ["failed", "workflow_failed"]


def test_a_step_that_fails_in_passing_is_tried_again(workflow_harness: WorkflowHarness) -> None:
    """The caller gets the output, and learns about the trouble only by asking."""
    calls: list[int] = []

    @activity
    def flaky() -> str:
        calls.append(len(calls) + 1)
        if len(calls) < 3:
            raise ConnectionError("the provider is down")
        return "done"

    result = asyncio.run(workflow_harness.run([flaky.activity(), repeat.activity("b")]))

    assert (result.outputs["flaky"], calls) == ("done", [1, 2, 3])


def test_a_status_says_when_a_failed_step_is_tried_again(workflow_harness: WorkflowHarness) -> None:
    """A person at night sees what is wrong before the workflow is over."""

    @activity(policy=StepPolicy(backoff=60))
    def flaky() -> str:
        raise ConnectionError("the provider is down")

    handle = workflow_harness.dispatch([flaky.activity()])
    asyncio.run(workflow_harness.deliver(1))
    status = handle.status_sync()

    assert status.failure is not None
    assert status.retry_at is not None
    assert (status.state, status.running) == ("retrying", False)
    assert (status.attempt, status.failure.text) == (1, "the provider is down")
    with pytest.raises(TimeoutError, match="failed with ConnectionError and is tried again at"):
        handle.result_sync(0)


def test_a_workflow_that_only_a_newer_version_can_read_is_shown_and_cancelled(
    workflow_harness: WorkflowHarness, make_message: Callable[..., PaigeantMessage]
) -> None:
    """Whoever looks during a deploy sees what it waits for, with the commands of either version."""
    tree = {**json.loads(encode(make_message(repeat.activity("a")))), "spec_version": "1.9"}
    tree["slip"]["itinerary"].append({"step_id": "both", "kind": "edit", "rest": []})
    envelope, store = json.dumps(tree), workflow_harness.store
    record = HopRecord(hop_id="w-1.0", queue="q", envelope=envelope, digest="d")
    store.start(NewWorkflow(correlation_id="w-1", content="x", hop=record))
    handle = WorkflowHandle("w-1", workflow_harness.transport)
    before = handle.status_sync()
    held = store.claim(Claim(hop_id="w-1.0", owner="ann", token="t", max_attempts=5, digest="d"))
    assert isinstance(held, Claimed)
    failure = Failure(step_id=None, error_class="newer_version", text="given back by ann: no such kind")
    store.give_back(Closing(hop_id="w-1.0", owner="ann", fence=held.fence), failure)

    status = handle.status_sync()
    with pytest.raises(TimeoutError, match="on queue 'q' for a worker of a newer version: given back by ann: no such"):
        handle.result_sync(0)

    assert (before.state, before.step_id, before.failure) == ("queued", "repeat", None)
    assert (status.state, status.attempt, status.failure) == ("queued", 0, failure)
    assert (status.executed, status.remaining) == ((), ("repeat", "both"))
    assert status.retry_at is not None
    assert [event.type for event in handle.events_so_far()] == ["started", "claimed", "given_back"]
    assert handle.cancel_sync()


def test_a_parked_workflow_goes_on_when_it_is_redriven(workflow_harness: WorkflowHarness) -> None:
    """The cause is fixed, and what was done before is not done again."""
    broken, calls = [True], []

    @activity
    def first() -> str:
        calls.append("first")
        return "kept"

    @activity(policy=StepPolicy(max_attempts=2))
    def second() -> str:
        calls.append("second")
        if broken:
            raise ConnectionError("the provider is down")
        return "done"

    handle = workflow_harness.dispatch([first.activity(), second.activity()])
    asyncio.run(workflow_harness.deliver())
    with pytest.raises(WorkflowParked, match=r"ConnectionError: the provider is down; fix the cause"):
        handle.result_sync(0)
    assert handle.status_sync().state == "parked"
    letters = DeadLetters(workflow_harness.transport)
    (letter,) = letters.list()
    assert (letter.reason, letter.hop_id) == ("ConnectionError", f"{handle.correlation_id}.1")
    assert "the provider is down" not in repr(letter)

    broken.clear()
    assert letters.redrive(letter.letter_id)
    assert letters.list() == []
    workflow_harness.sweep()
    asyncio.run(workflow_harness.deliver())

    assert handle.result_sync(0).outputs == {"first": "kept", "second": "done"}
    assert calls == ["first", "second", "second", "second"]
    assert not handle.redrive_sync()


REDRIVES: dict[str, Callable[..., bool]] = {
    "handle": lambda handle, _, **more: asyncio.run(handle.redrive(**more)),
    "handle, sync": lambda handle, _, **more: handle.redrive_sync(**more),
    "letter": lambda _, letters, **more: letters.redrive(letters.list()[0].letter_id, **more),
}


@pytest.mark.parametrize("way", REDRIVES)
def test_what_a_parked_step_recorded_is_kept_unless_it_is_discarded(
    workflow_harness: WorkflowHarness, way: str
) -> None:
    """Going on pays for nothing twice; starting over must be asked for explicitly."""

    @activity(policy=StepPolicy(max_attempts=1))
    def broken() -> None:
        raise ConnectionError

    store = workflow_harness.store
    handle = workflow_harness.dispatch([broken.activity()], correlation_id="w")
    letters = DeadLetters(workflow_harness.transport)

    def parked_again() -> None:
        store._records.hops["w.0"].journal["call"] = "1"
        workflow_harness.sweep()
        asyncio.run(workflow_harness.deliver())
        assert handle.status_sync().state == "parked"

    parked_again()
    assert REDRIVES[way](handle, letters)
    assert store.journal("w.0") == {"call": "1"}

    parked_again()
    assert REDRIVES[way](handle, letters, discard_journal=True)
    assert store.journal("w.0") == {}


def test_a_cancelled_workflow_ends_at_once(workflow_harness: WorkflowHarness) -> None:
    """Its next step is not run, those who wait are told, and cancelling again is not an error."""
    handle = workflow_harness.dispatch([repeat.activity("a"), repeat.activity("b")])
    asyncio.run(workflow_harness.deliver(1))

    assert asyncio.run(handle.cancel())

    assert asyncio.run(workflow_harness.deliver()) == ["dropped: cancelled"]
    with pytest.raises(WorkflowCancelled):
        handle.result_sync()
    assert handle.status_sync().remaining == ("repeat-2",)
    assert handle.cancel_sync()


def test_a_workflow_that_ended_is_not_cancelled(workflow_harness: WorkflowHarness) -> None:
    """A recorded output stays, and the caller is told that the cancellation came too late."""
    handle = workflow_harness.dispatch([repeat.activity("a")])
    asyncio.run(workflow_harness.deliver())

    assert not handle.cancel_sync()
    with pytest.raises(UnknownWorkflow):
        WorkflowHandle("another", workflow_harness.transport).cancel_sync()

    assert handle.status_sync().state == "completed"


def test_a_status_shows_that_a_worker_runs_the_step(workflow_harness: WorkflowHarness) -> None:
    """A running step can be told from one that waits for a worker."""
    seen = []

    @activity
    def look() -> None:
        seen.append(handle.status_sync())

    handle = workflow_harness.dispatch([look.activity()])
    asyncio.run(workflow_harness.deliver())

    (status,) = seen
    assert (status.state, status.running) == ("running", True)
    assert (status.running, status.attempt, status.step_id, status.executed) == (True, 1, "look", ())
    assert (handle.status_sync().running, handle.status_sync().step_id) == (False, None)


def test_a_status_tells_apart_whatever_the_current_step_waits_for(workflow_harness: WorkflowHarness) -> None:
    """`running` would be a lie to someone who has not started a worker yet."""

    @activity(policy=StepPolicy(backoff=60, max_attempts=2))
    def flaky() -> None:
        raise ConnectionError("the provider is down")

    store = workflow_harness.store
    handle = workflow_harness.dispatch([flaky.activity()])
    hop, states = f"{handle.correlation_id}.0", [handle.status_sync().state]
    claimed = store.claim(Claim(hop_id=hop, owner="o", token="t", max_attempts=2, digest=None))
    states.append(handle.status_sync().state)
    assert handle.status_sync().in_progress
    store.release(Closing(hop_id=hop, owner="o", fence=claimed.fence))
    states.append(handle.status_sync().state)
    asyncio.run(workflow_harness.deliver(1))
    states.append(handle.status_sync().state)
    asyncio.run(workflow_harness.deliver(1))
    states.append(handle.status_sync().state)
    assert not handle.status_sync().in_progress
    handle.redrive_sync()
    states.append(handle.status_sync().state)
    assert handle.status_sync().in_progress
    handle.cancel_sync()
    states.append(handle.status_sync().state)

    assert states == ["queued", "running", "queued", "retrying", "parked", "queued", "cancelled"]


def test_waiting_for_a_step_that_was_begun_before_says_so(workflow_harness: WorkflowHarness) -> None:
    """People who read that no worker has taken it look for a worker, and there is one."""

    @activity(policy=StepPolicy(backoff=60))
    def flaky() -> None:
        raise ConnectionError("the provider is down")

    handle = workflow_harness.dispatch([flaky.activity()])
    asyncio.run(workflow_harness.deliver(1))
    workflow_harness._send_retries()

    with pytest.raises(TimeoutError, match=r"waits on queue 'paigeant.flaky'; begun 1 times before$"):
        handle.result_sync(0)


def test_a_step_that_goes_on_after_a_wait_is_not_said_to_be_new(workflow_harness: WorkflowHarness) -> None:
    """It was begun, and its wait spent no attempt: what is missing is a worker that takes it now."""

    @activity
    async def settle(context: WorkflowContext) -> None:
        await context.wait_for("paid")

    handle = workflow_harness.dispatch([settle.activity()])
    asyncio.run(workflow_harness.deliver(1))
    handle.signal_sync("paid", None)

    with pytest.raises(TimeoutError, match=r"waits on queue 'paigeant.settle'; no worker has taken it yet$"):
        handle.result_sync(0)


def test_a_look_at_the_events_needs_a_store_and_a_workflow(workflow_harness: WorkflowHarness) -> None:
    """A command line says what is missing instead of showing an empty list."""
    with pytest.raises(UnknownWorkflow):
        WorkflowHandle("nobody", workflow_harness.transport).events_so_far()

    workflow_harness.transport.store = None  # type: ignore[assignment]
    with pytest.raises(StoreRequired):
        WorkflowHandle("nobody", workflow_harness.transport).events_so_far()


def test_a_handle_shows_its_workflow(workflow_harness: WorkflowHarness) -> None:
    """People who wait for it log it."""
    assert repr(WorkflowHandle("w-1", workflow_harness.transport)) == "WorkflowHandle('w-1')"


# Ids that name no workflow.


def test_a_workflow_whose_time_is_over_is_unknown() -> None:
    """Its record is gone, and nobody knows that it ever was."""
    clock = [datetime.now(UTC)]
    harness = WorkflowHarness(Settings(result_ttl=60))
    harness.store._clock = lambda: clock[0]
    asyncio.run(harness.run([repeat.activity("x")], correlation_id="w"))
    clock[0] += timedelta(seconds=61)

    for ask in (WorkflowHandle.status_sync, WorkflowHandle.events_so_far, WorkflowHandle.cancel_sync):
        with pytest.raises(UnknownWorkflow):
            ask(WorkflowHandle("w", harness.transport))


@pytest.mark.parametrize("given", [None, 17, UUID(int=1), b"w", ["w"]])
def test_an_id_that_is_no_string_is_refused_at_once(workflow_harness: WorkflowHarness, given: Any) -> None:
    """Django's `<uuid:…>` gives a `UUID`, which would be unknown for ever."""
    with pytest.raises(InvalidInput, match=f"^invalid_input at `correlation_id`: .* not a {type(given).__name__};"):
        WorkflowDispatcher().handle(given, workflow_harness.transport)


@pytest.mark.parametrize(
    ("given", "store", "hint"),
    [
        ("w", "redis://h:6379/0", "never dispatched there, has another `paigeant_prefix`, or ended longer ago than"),
        ("w", "memory://", "set `PAIGEANT_REDIS_URL`, or pass the transport that they were dispatched to"),
        ("w.12", "redis://h:6379/0", "this is the id of a hop or task, and its workflow is 'w'"),
        ("a b", "redis://h:6379/0", f"a correlation id has {CORRELATION_ID_RULE}"),
    ],
)
def test_an_unknown_id_is_answered_with_the_likeliest_reason(given: str, store: str, hint: str) -> None:
    """The id was copied from Flower, or the script had no variable."""
    assert hint in str(UnknownWorkflow(given, store))


def test_what_is_no_transport_is_refused_wherever_one_is_taken() -> None:
    """`dispatcher.handle(transport, id)` is a common slip."""
    for make in (lambda: WorkflowHandle("w", "redis"), lambda: DeadLetters("redis")):  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match=r"^invalid_input at `transport`: must be what `get_transport\(…\)`"):
            make()


# Nobody serves the step.


IN_MEMORY = (
    "in memory, no executor: no other process can reach it, and this one has no `ActivityExecutor` for 'repeat'; start "
    "one, or set `PAIGEANT_REDIS_URL` (or `PAIGEANT_TRANSPORT`) and start a worker"
)


@pytest.fixture
def in_memory() -> Iterator[WorkflowHandle]:
    """A workflow that nobody runs, in the memory of this process."""
    with Celery("host", broker="memory://localhost//", set_as_current=False) as app:
        app.conf.paigeant_store_url = "memory://"
        transport, dispatcher = get_transport(app=app), WorkflowDispatcher()
        steps = [repeat.activity("a").model_copy(update={"queue": "nobody-takes-this"})]
        yield dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)


@pytest.mark.parametrize("wait", [WorkflowHandle.result_sync, lambda handle, t: asyncio.run(handle.result(t))])
def test_waiting_for_what_no_executor_serves_says_so(in_memory: WorkflowHandle, wait: Callable[..., Any]) -> None:
    """A script whose shell lacks the variable keeps its workflows to itself."""
    with pytest.raises(TimeoutError) as caught:
        wait(in_memory, 0.01)

    at = "step 'repeat' waits on queue 'nobody-takes-this'; no worker has taken it yet"
    known = f"workflow {in_memory.correlation_id} did not end within 0.01 s and goes on: {at}; {IN_MEMORY}"
    assert str(caught.value) == known


async def first_events(handle: WorkflowHandle) -> None:
    async with asyncio.timeout(0.1):
        async for _ in handle.events():
            pass


@pytest.mark.parametrize(
    "wait",
    [
        lambda handle: handle.result_sync(0.1),
        lambda handle: asyncio.run(handle.result(0.1)),
        lambda handle: asyncio.run(first_events(handle)),
    ],
    ids=["result_sync", "result", "events"],
)
def test_whoever_waits_for_nobody_is_told_once_while_waiting(
    in_memory: WorkflowHandle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wait: Callable[[WorkflowHandle], None],
) -> None:
    """Without a timeout they would wait forever, and nothing would ever say why."""
    monkeypatch.setattr("paigeant_celery.client.handle.REMIND_AFTER", 0.0)

    with pytest.raises(TimeoutError):
        wait(in_memory)

    said = [record for record in caplog.records if record.__dict__.get("action") == "nobody_serves"]
    assert [record.getMessage() for record in said] == [f"waiting for workflow {in_memory.correlation_id}: {IN_MEMORY}"]


@pytest.mark.parametrize(
    ("unswept", "known"),
    [
        (None, "; no worker has used the store memory:// so far (prefix 'paigeant'); start one, or compare with the "
               "store that it prints when it starts"),
        (35.4, "; no worker has used the store memory:// for 35 s (prefix 'paigeant'); start one, or compare with the "
               "store that it prints when it starts"),
        (1.2, ""),
    ],
)  # fmt: skip
def test_waiting_for_what_no_worker_serves_names_the_store(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch, unswept: float | None, known: str
) -> None:
    """Workers and program may have found different stores; each of them says its own."""
    handle = workflow_harness.dispatch([repeat.activity("a")], correlation_id="w")
    monkeypatch.setattr(type(workflow_harness.store), "shared", True)
    monkeypatch.setattr(workflow_harness.store, "unswept", lambda: unswept)

    with pytest.raises(TimeoutError) as caught:
        handle.result_sync(0)

    at = "step 'repeat' waits on queue 'paigeant.repeat'; no worker has taken it yet"
    assert str(caught.value) == f"workflow w has not ended and goes on: {at}{known}"


def test_a_workflow_that_ends_after_the_last_look_is_not_said_to_go_on(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the error would look for a worker that is missing."""
    handle = workflow_harness.dispatch([repeat.activity("a")], correlation_id="w")
    status_of = handle.status_sync

    def a_little_later() -> WorkflowStatus:
        asyncio.run(workflow_harness.deliver())
        return status_of()

    monkeypatch.setattr(handle, "status_sync", a_little_later)

    with pytest.raises(TimeoutError, match=r"^workflow w has not ended, but is completed now; call `result` "):
        handle.result_sync(0)
