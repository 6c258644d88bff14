"""A store that has lost its records says so: a hop that is unknown was not overtaken; its message brings it back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from paigeant_celery.core.errors import HopUnknown
from paigeant_celery.store.port import Claimed, Closing, Dropped, NewWorkflow, RenewAnswer, Store
from tests.contract.store.bench import Bench
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, letter, new, told, types

WRITES: dict[str, Callable[[Store, Closing], object]] = {
    "complete": lambda store, close: store.complete(completion(close, next_hop=hop("w.1"))),
    "finish": lambda store, close: store.complete(completion(close)),
    "fail": lambda store, close: store.fail(close, FAILURE),
    "retry_at": lambda store, close: store.retry_at(close, FAILURE, delay=1),
    "give_back": lambda store, close: store.give_back(close, FAILURE),
    "park": lambda store, close: store.park(close, FAILURE, letter()),
    "release": lambda store, close: store.release(close),
    "record": lambda store, close: store.record(close, {"call": "1"}),
    "publish": lambda store, close: store.publish(close, [told(1)]),
}
DAY = timedelta(days=1)


def adopt(bench: Bench, *, begun: int = 0, hop_id: str = "w.0") -> None:
    adopted = NewWorkflow(correlation_id="w", content="same", hop=hop(hop_id))
    assert bench.store.adopt(adopted, sent_at=datetime.now(UTC), max_age=10_000 * DAY, begun=begun) == "adopted"


@pytest.mark.parametrize("write", WRITES)
def test_whoever_writes_for_a_hop_without_a_record_is_told_so(bench: Bench, write: str) -> None:
    """An owner that believed in another one would acknowledge the only message that can bring the hop back."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))
    bench.lose()

    with pytest.raises(HopUnknown, match=r"w\.0"):
        WRITES[write](bench.store, close)

    assert bench.store.workflow("w") is None
    assert bench.store.dead_letters(after=None, limit=9) == []


@pytest.mark.parametrize("write", WRITES)
def test_whoever_was_overtaken_is_not_told_that_the_hop_is_unknown(bench: Bench, write: str) -> None:
    """Its message would be adopted and run beside the other one."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))
    bench.store.cancel("w")

    assert WRITES[write](bench.store, close) is False


def test_a_renewal_tells_hops_without_a_record_from_those_that_were_lost(bench: Bench) -> None:
    """The runs of both end, but only the message of the first one goes on."""
    for name in ("kept", "taken", "cancelled"):
        bench.store.start(new(name))
    fences = {f"{name}.0": closing(bench.store.claim(claim(f"{name}.0"))).fence for name in ("kept", "cancelled")}
    bench.store.claim(claim("taken.0", owner="ben"))
    bench.store.cancel("cancelled")

    answer = bench.store.renew("ann", {**fences, "taken.0": 1, "gone.0": 1})

    lost = frozenset({"taken.0", "cancelled.0"})
    unknown = frozenset({"gone.0"})
    assert answer == RenewAnswer(lost=lost, cancelled=frozenset({"cancelled.0"}), unknown=unknown)


def test_nobody_who_claimed_a_lost_record_can_write_for_the_adopted_one(bench: Bench) -> None:
    """The same owner may run the hop again already; its first run must not be taken for the second."""
    bench.store.start(new())
    before = closing(bench.store.claim(claim()))
    bench.lose()
    adopt(bench)

    after = closing(bench.store.claim(claim(token="t2")))

    assert (after.hop_id, after.owner) == (before.hop_id, before.owner)
    for write in WRITES.values():
        assert write(bench.store, before) is False
    assert bench.store.renew("ann", {"w.0": before.fence}).lost == {"w.0"}
    assert bench.store.complete(completion(after))


def test_an_adopted_hop_counts_on_from_the_attempts_of_its_message(bench: Bench) -> None:
    """A store that keeps losing its data does not have a step begun for ever."""
    adopt(bench, begun=2, hop_id="w.3")

    third = bench.store.claim(claim("w.3", max_attempts=3))
    assert isinstance(third, Claimed)
    assert (third.attempt, third.exhausted) == (3, False)

    bench.lose()
    adopt(bench, begun=3, hop_id="w.3")
    spent = bench.store.claim(claim("w.3", max_attempts=3))
    assert isinstance(spent, Claimed)
    assert (spent.attempt, spent.exhausted) == (3, True)


def test_an_emptied_store_takes_workflows_as_a_new_one_does(bench: Bench) -> None:
    """Workers go on: nothing of what they ask needs what was there before."""
    bench.store.start(new())
    bench.store.claim(claim())
    bench.store.sweep(host="here")
    bench.lose()

    assert bench.store.sweep(host="here").overdue == ()
    assert bench.store.renew("ann", {}) == RenewAnswer(lost=frozenset())
    assert bench.store.claim(claim()) == Dropped(reason="unknown")
    assert bench.store.cancel("w") == bench.store.redrive("w") == "unknown"
    assert bench.store.start(new()) == "started"
    assert types(bench.store) == ["started"]
