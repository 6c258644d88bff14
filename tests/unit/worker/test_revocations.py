"""What a worker does about revoked tasks: it cancels workflows of ours and ignores everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from celery.signals import task_revoked
from celery.worker import state

from paigeant_celery import for_each
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.sending import Sending
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.port import (
    Claim,
    Claimed,
    Closing,
    Completion,
    HopRecord,
    NewWorkflow,
    Standing,
    WorkflowRecord,
)
from paigeant_celery.testing import WorkflowHarness
from paigeant_celery.worker.revocations import Revocations
from tests.support.branched_steps import dispatched, load, read


@pytest.fixture
def store() -> MemoryStore:
    """A store with a workflow that is at its first hop."""
    store = MemoryStore(lease=10, ttl=60)
    store.start(NewWorkflow(correlation_id="w", content="x", hop=hop("w.0")))
    return store


class Sent(list[HopRecord | WorkflowRecord], Outbox):
    """What was sent."""

    def begin(self, record: HopRecord | WorkflowRecord, **_: Any) -> Sending[None]:
        return Sending.made(lambda: self.append(record))


class Timer:
    """A worker's timer; whoever calls `pass_time` lets all its time pass."""

    def __init__(self) -> None:
        self.later: list[Callable[[], object]] = []

    def call_repeatedly(self, seconds: float, call: Callable[[], object]) -> None:
        assert seconds == 1.0

    def call_after(self, seconds: float, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        assert seconds > 2.0
        self.later.append(partial(call, *arguments))

    def pass_time(self) -> None:
        for call in self.later:
            call()


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture(autouse=True)
def nothing_revoked() -> Iterator[None]:
    yield
    state.revoked.clear()


@pytest.fixture
def revocations(store: MemoryStore, sent: Sent) -> Revocations:
    return Revocations(store, sent)


def hop(hop_id: str) -> HopRecord:
    return HopRecord(hop_id=hop_id, queue="q", envelope="e", digest="d")


def hand_on(store: MemoryStore, place: int) -> None:
    """Complete the hop at a place."""
    claimed = store.claim(Claim(hop_id=f"w.{place}", owner="o", token=str(place), max_attempts=5, digest=None))
    assert isinstance(claimed, Claimed)
    closing = Closing(hop_id=f"w.{place}", owner="o", fence=claimed.fence)
    store.complete(Completion(closing=closing, envelope="e", next_hop=hop(f"w.{place + 1}")))


def state_of(store: MemoryStore) -> str:
    found = store.workflow("w")
    assert found is not None
    return found.state


@pytest.mark.parametrize(("hops", "expected"), [(0, "cancelled"), (1, "cancelled"), (2, "running")])
def test_the_workflow_of_a_revoked_hop_is_cancelled_also_where_the_hop_just_ended(
    store: MemoryStore, revocations: Revocations, hops: int, expected: str
) -> None:
    """The button means the workflow and takes effect within a second; a hop that ended long ago revokes nothing."""
    state.revoked.add("w.0")
    for place in range(hops):
        hand_on(store, place)

    revocations.look()

    assert state_of(store) == expected


def test_a_message_that_came_too_late_revokes_no_workflow(store: MemoryStore, revocations: Revocations) -> None:
    """Celery treats it as revoked under its own id, which a stranger may have chosen."""
    state.revoked.add("w.0")
    task_revoked.send(sender=None, request=SimpleNamespace(id="w.0"), terminated=False, signum=None, expired=True)

    revocations.look()

    assert state_of(store) == "running"
    assert "w.0" not in state.revoked  # which workers pass on to each other
    state.revoked.add("w.0")  # now somebody really revokes it
    revocations.look()
    assert state_of(store) == "cancelled"


def test_tasks_of_others_are_none_of_our_business(store: MemoryStore, revocations: Revocations) -> None:
    """Their ids may look like anything."""
    for task_id in ("8f2c", "v.0", "w", "w.0.0"):
        state.revoked.add(task_id)

    revocations.look()

    assert state_of(store) == "running"


@pytest.mark.parametrize("sleeps", [True, False])
def test_the_sleeper_whose_hop_is_revoked_gets_a_message_that_no_worker_drops(
    store: MemoryStore, revocations: Revocations, sent: Sent, sleeps: bool
) -> None:
    """Celery drops what is revoked, on each worker that has not looked yet."""
    timer, others = Timer(), Timer()
    claimed = store.claim(Claim(hop_id="w.0", owner="o", token="t", max_attempts=5, digest=None))
    assert isinstance(claimed, Claimed)
    if sleeps:
        until = claimed.now + timedelta(seconds=60)
        store.suspend(Closing(hop_id="w.0", owner="o", fence=claimed.fence), Standing(wake_at=until))
    revocations.watch(timer)
    late = Revocations(store, sent)
    late.watch(others)

    state.revoked.add("w.0")
    revocations.look()
    assert "w.0" not in state.revoked
    state.revoked.add("w.0")  # as another worker's process still has it
    late.look()
    assert "w.0" not in state.revoked
    assert sent == []
    timer.pass_time()
    others.pass_time()

    assert [each.hop_id for each in sent] == (["w.0"] if sleeps else [])


@pytest.fixture
def branched(own_registry: None) -> WorkflowHarness:
    """A harness with a workflow that reads two sources: the first sleeps, the second has just been read."""
    load()
    harness = WorkflowHarness()
    steps = for_each([read.activity(), read.activity()], over=["sleep", "a"], step_id="readings")
    dispatched(harness, steps, hops=3)
    assert [delivery.hop_id for delivery in harness.pending] == ["w.0-1.1"]
    return harness


@pytest.mark.parametrize("task_id", ["w.0", "w.0-0.0", "w.0-1.0", "w.0-1.1"])
def test_a_revoked_hop_of_a_branch_cancels_the_whole_workflow(branched: WorkflowHarness, task_id: str) -> None:
    """The button means the workflow, whichever of its rows in Flower it is pressed on; sleepers are called off."""
    timer, sent = Timer(), Sent()
    revocations, late = Revocations(branched.store, sent), Revocations(branched.store, sent)
    revocations.watch(timer)

    state.revoked.add(task_id)
    revocations.look()
    assert state_of(branched.store) == "cancelled"
    state.revoked.add(task_id)  # as another worker's process still has it
    late.look()
    assert task_id not in state.revoked
    timer.pass_time()

    assert [each.hop_id for each in sent] == ["w.0-0.0"]


@pytest.mark.parametrize("task_id", ["w.0-1.0", "w.0-7.0", "w.0-0.0-0.0", "w.3-0.0"])
def test_a_hop_of_a_branch_that_ended_long_ago_revokes_nothing(branched: WorkflowHarness, task_id: str) -> None:
    """Nor does one that never was."""
    asyncio.run(branched.deliver())
    state.revoked.add(task_id)

    Revocations(branched.store, Sent()).look()

    assert state_of(branched.store) == "running"


def test_a_hop_of_a_branch_that_was_cut_off_revokes_nothing(own_registry: None) -> None:
    """The race is over, and the workflow goes on with the winner."""
    load()
    harness = WorkflowHarness()
    race = for_each(read.activity(), over=["wait", "a"], join="any", step_id="race")
    dispatched(harness, race, read.activity(), hops=4)
    cut_off = harness.store.hop("w.0-0.0")
    assert cut_off is not None
    assert cut_off.state == "cancelled"

    state.revoked.add("w.0-0.0")
    Revocations(harness.store, Sent()).look()

    assert state_of(harness.store) == "running"
