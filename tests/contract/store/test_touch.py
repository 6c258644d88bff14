"""TOUCH: the lease of a process that lives but cannot renew is extended from outside while its steps may go on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paigeant_celery.store.port import Claim, Closing, Store
from tests.contract.store.bench import LEASE, Bench
from tests.contract.store.given import claim, closing, completion, hop, new

LONG = 3600.0  # seconds, in which no test ends
SOON = LEASE / 3  # what is left of a lease


def begun(store: Store, *, owner: str = "here:7", timeout: float = LONG, workflow: str = "w") -> Closing:
    """Claim the first hop of a new workflow, whose step may take this long."""
    store.start(new(workflow))
    asked = claim(f"{workflow}.0", owner=owner)
    return closing(store.claim(Claim(**{**vars(asked), "timeout": timeout})), asked.hop_id, owner=owner)


def is_extended(bench: Bench) -> bool:
    """Touch an owner whose lease ends soon, and say whether it ends later now."""
    bench.leave("here:7", SOON)
    assert list(bench.store.touch(host="here", owners=["here:7"])) == ["here:7"]
    left = bench.left("here:7")
    assert left is not None
    assert left <= SOON or LEASE - left < SOON
    return left > SOON


def test_a_touched_owner_keeps_its_hops_for_longer_than_its_lease(bench: Bench) -> None:
    """A library loads a model in one call that lets no other thread run; the step must not begin again meanwhile."""
    begun(bench.store)

    assert is_extended(bench)
    assert is_extended(bench)


def test_only_those_are_touched_who_are_named(bench: Bench) -> None:
    """The others are stopped or gone, as whoever asks has seen."""
    begun(bench.store)
    bench.leave("here:7", SOON)

    bench.store.touch(host="here", owners=["here:8"])

    assert (bench.left("here:7") or LEASE) <= SOON
    assert bench.left("here:8") is None


def test_touching_says_who_is_on_a_host(bench: Bench) -> None:
    """The process that touches knows no hop; it asks who is there and looks whether they live."""
    taken = begun(bench.store)
    begun(bench.store, owner="there:8", workflow="v")
    before = bench.store.touch(host="here", owners=[])
    bench.store.complete(completion(taken))

    assert list(before) == ["here:7"]
    assert list(bench.store.touch(host="here", owners=["here:7", "here:9"])) == []
    assert list(bench.store.touch(host="there", owners=[])) == ["there:8"]


def test_a_lapsed_owner_is_not_revived_by_touching(bench: Bench) -> None:
    """Only the owner itself knows whether it still runs what it claimed."""
    begun(bench.store)
    bench.store.sweep(host="there")
    bench.leave("here:7", -SOON)

    bench.store.touch(host="here", owners=["here:7"])

    bench.next_second()
    assert [found.hop_id for found in bench.store.sweep(host="there").overdue] == ["w.0"]
    assert list(bench.store.touch(host="here", owners=["here:7"])) == []
    assert bench.left("here:7") is None


def short(store: Store) -> None:
    begun(store, timeout=0.001)


def renewed(store: Store) -> None:
    taken = begun(store)
    store.renew("here:7", {taken.hop_id: taken.fence}, touchable=0.001)


def said_nothing(store: Store) -> None:
    taken = begun(store)
    store.renew("here:7", {taken.hop_id: taken.fence})


def no_timeout(store: Store) -> None:
    begun(store, timeout=0.0)


def only_before(store: Store) -> None:
    store.complete(completion(begun(store, workflow="v")))
    begun(store, timeout=0.001)


@pytest.mark.parametrize("given", [short, renewed, said_nothing, no_timeout, only_before])
def test_a_process_that_hangs_for_good_loses_its_hops(bench: Bench, given: Callable[[Store], None]) -> None:
    """It is there and looks alive, but its steps have taken as long as they may: somebody else must begin them."""
    given(bench.store)
    bench.spend(0.5)

    assert not is_extended(bench)


def longer_later(store: Store) -> None:
    begun(store, timeout=0.001, workflow="v")
    begun(store)


def longer_before(store: Store) -> None:
    begun(store)
    begun(store, timeout=0.001, workflow="v")


def longer_since_renewed(store: Store) -> None:
    taken = begun(store, timeout=0.001)
    store.renew("here:7", {taken.hop_id: taken.fence}, touchable=LONG)


def asked_about_another(store: Store) -> None:
    begun(store)
    taken = begun(store, timeout=0.001, workflow="v")
    store.renew("here:7", {taken.hop_id: taken.fence}, touchable=None)


def revived(store: Store) -> None:
    taken = begun(store)
    store.sweep(host="here", dead=["here:7"])
    store.renew("here:7", {taken.hop_id: taken.fence}, touchable=LONG)


@pytest.mark.parametrize("given", [longer_later, longer_before, longer_since_renewed, asked_about_another, revived])
def test_the_longest_step_of_a_process_says_how_long_it_is_kept(bench: Bench, given: Callable[[Store], None]) -> None:
    """One lease covers all hops of a process, and any of its steps may keep the others from renewing."""
    given(bench.store)
    bench.spend(0.5)

    assert is_extended(bench)


def test_nothing_of_touching_stays_when_an_owner_has_closed_its_hops(bench: Bench) -> None:
    """Owners come and go with each process; a record of each would fill the store."""
    taken = begun(bench.store)
    bench.store.complete(completion(taken, next_hop=hop("w.1")))

    assert bench.touchable() == set()
