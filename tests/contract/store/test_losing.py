"""A store that has lost its records says so: a hop that is unknown was not overtaken; its message brings it back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from paigeant_celery.core.errors import HopUnknown
from paigeant_celery.store.port import Claimed, Closing, Dropped, NewWait, NewWorkflow, RenewAnswer, Standing, Store
from tests.contract.store.bench import Bench, RedisBench, everything
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, letter, new, told, types

ASKS = NewWait(wait_id="a", token="w.0~s", kind="token", name="a")
WRITES: dict[str, Callable[[Store, Closing], object]] = {
    "complete": lambda store, close: store.complete(completion(close, next_hop=hop("w.1"))),
    "finish": lambda store, close: store.complete(completion(close)),
    "fail": lambda store, close: store.fail(close, FAILURE),
    "retry_at": lambda store, close: store.retry_at(close, FAILURE, delay=1),
    "give_back": lambda store, close: store.give_back(close, FAILURE),
    "park": lambda store, close: store.park(close, FAILURE, letter()),
    "release": lambda store, close: store.release(close),
    "record": lambda store, close: store.record(close, {"call": "1"}),
    "wait": lambda store, close: store.wait(close, ASKS),
    "suspend": lambda store, close: store.suspend(close, Standing()),
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

    assert not WRITES[write](bench.store, close)


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
        assert not write(bench.store, before)
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


PARTS = ["hop:w.0", "wf:w", "hop:w.0 hops:w events:w", "wf:w hops:w"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("claimed", [True, False])
def test_a_message_brings_back_the_part_of_a_workflow_that_was_lost(
    on_redis: RedisBench, part: str, *, claimed: bool
) -> None:
    """A server that evicts keys loses them one by one, and does not ask which belong together."""
    store, sent_at = on_redis.store, datetime.now(UTC)
    store.start(new())
    close = closing(store.claim(claim())) if claimed else Closing(hop_id="w.0", owner="ann", fence=1)
    on_redis.client.delete(*(on_redis.key(key) for key in part.split()))

    for write in WRITES.values():
        with pytest.raises(HopUnknown):
            write(on_redis.raw, close)
    assert on_redis.raw.renew("ann", {"w.0": close.fence}).unknown == {"w.0"}
    assert on_redis.raw.claim(claim(token="t2")) == Dropped(reason="unknown")
    assert on_redis.raw.adopt(new(), sent_at=sent_at, max_age=DAY) == "adopted"

    record = store.workflow("w")
    assert record is not None
    assert (record.state, record.hop_id) == ("running", "w.0")
    assert store.complete(completion(close)) is None


def test_an_owner_that_lapses_takes_no_hop_from_the_owner_that_runs_it_now(on_redis: RedisBench) -> None:
    """The set of the first one still names the hop, because its record was lost alone."""
    on_redis.brief.start(new())
    on_redis.brief.claim(claim())
    on_redis.client.delete(on_redis.key("hop:w.0"))
    on_redis.raw.adopt(new(), sent_at=datetime.now(UTC), max_age=DAY)
    second = closing(on_redis.raw.claim(claim(owner="ben")), owner="ben")

    on_redis.lapse()
    on_redis.raw.sweep(host="here")

    assert on_redis.store.claim(claim(owner="cem")) == Dropped(reason="running")
    assert on_redis.store.renew("ben", {"w.0": second.fence}) == RenewAnswer(lost=frozenset())


@pytest.mark.parametrize("end", ["complete", "cancel"])
def test_a_workflow_that_went_on_or_ended_is_not_adopted_at_a_hop_that_was_lost(on_redis: RedisBench, end: str) -> None:
    """A late copy of an earlier message would have it run again."""
    store = on_redis.store
    store.start(new())
    close = closing(store.claim(claim()))
    if end == "complete":
        store.complete(completion(close, next_hop=hop("w.1")))
    else:
        store.cancel("w")
    on_redis.client.delete(on_redis.key("hop:w.0"))
    before = everything(on_redis)

    assert on_redis.raw.adopt(new(), sent_at=datetime.now(UTC), max_age=DAY) == "known"

    assert everything(on_redis) == before
