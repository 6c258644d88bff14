"""The seam to a store: five small parts, so that its users ask only for what they need."""

from __future__ import annotations

from itertools import combinations

from paigeant_celery.store import port
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.redis import RedisStore

PARTS = (port.HopStore, port.JournalStore, port.EventStore, port.LetterStore, port.StoreServer)


def operations(of: type) -> set[str]:
    """Return the public names that a class itself defines."""
    return {name for name in vars(of) if not name.startswith("_")}


def test_each_operation_of_a_store_stands_in_one_of_its_five_parts() -> None:
    """A signature shows which parts of the store its owner may touch."""
    assert set(PARTS) < set(port.Store.__mro__)
    assert operations(port.Store) == set()
    assert [(a, b) for a, b in combinations(PARTS, 2) if operations(a) & operations(b)] == []


def test_the_stores_offer_what_the_parts_name_and_nothing_else() -> None:
    """Nobody could rely on what only one of them can do."""
    named = set[str]().union(*map(operations, PARTS))

    assert operations(RedisStore) == named
    assert operations(MemoryStore) == named
