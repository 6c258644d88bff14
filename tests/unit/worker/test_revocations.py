"""What a worker does about revoked tasks: it cancels workflows of ours and ignores everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from celery.signals import task_revoked
from celery.worker import state

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
from paigeant_celery.worker.revocations import Revocations


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


@pytest.fixture
def revocations(store: MemoryStore, sent: Sent) -> Iterator[Revocations]:
    yield Revocations(store, sent)
    state.revoked.clear()


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
