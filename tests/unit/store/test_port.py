"""The seam to a store: eight small parts, so that its users ask only for what they need."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations

import pytest

from paigeant_celery.core.flow import WorkflowState
from paigeant_celery.store import port
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.redis import RedisStore

PARTS = (
    port.HopStore,
    port.WaitStore,
    port.BranchStore,
    port.JournalStore,
    port.ConversationKeeper,
    port.EventStore,
    port.LetterStore,
    port.QueryStore,
    port.EditStore,
    port.StoreServer,
)


def operations(of: type) -> set[str]:
    """Return the public names that a class itself defines."""
    return {name for name in vars(of) if not name.startswith("_")}


def test_each_operation_of_a_store_stands_in_one_of_its_eight_parts() -> None:
    """A signature shows which parts of the store its owner may touch."""
    assert set(PARTS) < set(port.Store.__mro__)
    assert operations(port.Store) == set()
    assert [(a, b) for a, b in combinations(PARTS, 2) if operations(a) & operations(b)] == []


def test_the_stores_offer_what_the_parts_name_and_nothing_else() -> None:
    """Nobody could rely on what only one of them can do."""
    named = set[str]().union(*map(operations, PARTS))

    assert operations(RedisStore) == named
    assert operations(MemoryStore) == named


NOW = datetime(2026, 1, 2, tzinfo=UTC)
SENT = port.WorkflowRecord(
    correlation_id="w",
    state="running",
    content="c",
    envelope="{}",
    hop_id="w.0",
    queue="q",
    running=False,
    attempt=0,
    failure=None,
    created_at=NOW,
    updated_at=NOW,
)


def test_a_hop_that_is_neither_claimed_nor_waits_for_anything_awaits_its_message() -> None:
    """Only then does sending it again help; a hop that waits for its retry would refuse it."""
    assert SENT.awaits_message
    assert not replace(SENT, running=True).awaits_message
    assert not replace(SENT, retry_at=NOW).awaits_message
    assert not replace(SENT, suspended=True).awaits_message


@pytest.mark.parametrize("state", ["parked", "completed", "failed", "cancelled"])
def test_the_hop_of_a_workflow_that_does_not_run_awaits_no_message(state: WorkflowState) -> None:
    """Nobody may run it."""
    assert not replace(SENT, state=state).awaits_message
