"""What a worker does about revoked tasks: it cancels workflows of ours and ignores everything else."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery.signals import task_revoked
from celery.worker import state

from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.port import Claim, Claimed, Closing, Completion, HopRecord, NewWorkflow
from paigeant_celery.worker.revocations import Revocations


@pytest.fixture
def store() -> MemoryStore:
    """A store with a workflow that is at its first hop."""
    store = MemoryStore(lease=10, ttl=60)
    store.start(NewWorkflow(correlation_id="w", content="x", hop=hop("w.0")))
    return store


@pytest.fixture
def revocations(store: MemoryStore) -> Iterator[Revocations]:
    yield Revocations(store)
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
