"""Records on Redis that another program damaged: they are reported by name, and nothing is half done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from paigeant_celery.core.errors import StoreCorrupt
from paigeant_celery.store.port import Claimed, Closing, NewWait, Standing, Sweep
from tests.contract.store.bench import RedisBench, everything
from tests.contract.store.blocks import at, page, plan
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, new, told


def test_a_record_that_cannot_be_read_is_named_once_and_stops_no_sweep(on_redis: RedisBench) -> None:
    """Whatever another program wrote, the other workflows are still swept."""
    for name in ("broken", "sound"):
        on_redis.raw.start(new(name))
        on_redis.overdue(f"{name}.0")
    on_redis.client.hdel(on_redis.key("hop", "broken.0"), "envelope")
    queues = {"q-broken.0": True, "q-sound.0": True}

    found = on_redis.raw.sweep(host="there", queues=queues)

    assert found == Sweep(overdue=(hop("sound.0"),), corrupted=(on_redis.key("hop", "broken.0"),))
    assert on_redis.raw.sweep(host="there", queues=queues) == Sweep()


@pytest.mark.parametrize("field", ["queue", "envelope", "digest"])
def test_a_record_that_is_no_text_spoils_no_other(on_redis: RedisBench, field: str) -> None:
    """Its bytes come as lone surrogates, so that whoever sends hops refuses this one alone, and can set it aside."""
    for name in ("odd", "sound"):
        on_redis.raw.start(new(name))
        on_redis.overdue(f"{name}.0")
    on_redis.client.hset(on_redis.key("hop", "odd.0"), field, b"\xff\xfe")
    asked = on_redis.raw.sweep(host="there").queues

    found = on_redis.raw.sweep(host="there", queues=dict.fromkeys(asked, True))

    sent = {again.hop_id: again for again in found.overdue}
    assert sent.pop("sound.0") == hop("sound.0")
    assert [getattr(again, field) for again in sent.values()] == ["\udcff\udcfe"]


def test_a_count_of_messages_that_is_no_number_ends_no_sweep(on_redis: RedisBench) -> None:
    """It is counted anew, and reported once."""
    for name in ("odd", "sound"):
        on_redis.raw.start(new(name))
        on_redis.overdue(f"{name}.0")
    on_redis.client.hset(on_redis.key("sent"), "q-odd.0", "many")
    queues = {"q-odd.0": True, "q-sound.0": True}

    found = on_redis.raw.sweep(host="there", queues=queues)

    assert {again.hop_id for again in found.overdue} == {"odd.0", "sound.0"}
    assert found.corrupted == (on_redis.key("sent"),)
    assert on_redis.client.hget(on_redis.key("sent"), "q-odd.0") in (b"1", "1")


WHO_NOTICES = {
    "due": ["start", "claim", "renew", "complete", "fail", "sweep"],
    "sent": ["start", "complete", "sweep"],
    "reached": ["claim", "sweep"],
    "host:ann": ["claim", "renew", "touch", "complete", "fail"],
    "owners": ["claim", "renew", "touch", "complete", "fail", "sweep"],
    "owner:ann": ["claim", "renew", "complete", "fail"],
    "events:w": ["start", "claim", "publish", "complete", "fail", "events"],
    "stream:w": ["publish", "events"],
    "wf:w": ["start", "claim", "complete", "fail", "workflow"],
    "hop:w.0": ["start", "claim", "renew", "record", "publish", "complete"],
    "journal:w.0": ["record", "journal"],
    "hops:w": ["start", "complete", "fail"],
    "blob:w": ["start", "complete", "fail", "blob"],
}


LATER = {
    "due": ["start", "release", "claim again", "retry_at", "workflow", "park", "redrive", "cancel"],
    "parked": ["park", "redrive", "cancel"],
    "owners": ["release", "claim again", "retry_at", "park", "cancel"],
    "owner:ann": ["release", "claim again", "retry_at", "park"],
    "host:ann": ["release", "claim again", "retry_at", "park"],
    "events:w": ["start", "release", "claim again", "retry_at", "park", "redrive", "cancel"],
    "wf:w": ["start", "claim again", "retry_at", "workflow", "park", "redrive", "cancel"],
    "hop:w.0": ["start", "release", "claim again", "retry_at", "workflow", "park", "redrive", "cancel"],
}


@pytest.mark.parametrize("key", LATER)
def test_a_key_of_another_type_is_reported_by_retries_parking_and_cancelling(on_redis: RedisBench, key: str) -> None:
    """They report it just like the calls of a workflow in which nothing goes wrong."""
    store = on_redis.raw

    calls: Mapping[str, Callable[[], object]] = {
        "start": lambda: store.start(new()),
        "claim": lambda: store.claim(claim()),
        "release": lambda: store.release(Closing(hop_id="w.0", owner="ann", fence=1)),
        "claim again": lambda: store.claim(claim(token="t2")),
        "retry_at": lambda: store.retry_at(Closing(hop_id="w.0", owner="ann", fence=2), FAILURE, delay=0),
        "workflow": lambda: store.workflow("w"),
        "sweep": lambda: store.sweep(host="there"),
        "claim once more": lambda: store.claim(claim(token="t3")),
        "park": lambda: store.park(Closing(hop_id="w.0", owner="ann", fence=3), FAILURE),
        "redrive": lambda: store.redrive("w"),
        "cancel": lambda: store.cancel("w"),
    }

    assert who_notices(on_redis, key, calls, but=("claim", "sweep", "claim once more")) == LATER[key]


OF_WAITS = {
    "asked": ["wait", "resolve", "time_out", "signal", "asked", "sweep", "cancel"],
    "asleep": ["suspend", "resolve", "time_out", "signal", "sweep", "cancel"],
    "due": ["suspend", "resolve", "time_out", "signal", "sweep", "cancel"],
    "sent": ["suspend", "resolve", "time_out", "signal", "sweep"],
    "hop:w.0": ["wait", "suspend", "resolve", "time_out", "signal", "waits", "cancel"],
    "events:w": ["wait", "suspend", "resolve", "signal", "cancel"],
    "blob:w": ["wait", "signal", "cancel"],
    "wf:w": ["suspend", "resolve", "signal", "cancel"],
}


@pytest.mark.parametrize("key", OF_WAITS)
def test_a_key_of_another_type_is_reported_by_what_concerns_waits(on_redis: RedisBench, key: str) -> None:
    """Nobody is asked, and no answer is taken, by halves."""
    store, held = on_redis.raw, Closing(hop_id="w.0", owner="ann", fence=1)
    parts = ("a", "b")
    store.start(new())
    store.claim(claim())
    ask = NewWait(wait_id="1", token="w.0~s", kind="token", name="ask", parts=parts)
    calls: Mapping[str, Callable[[], object]] = {
        "wait": lambda: store.wait(held, ask),
        "suspend": lambda: store.suspend(held, Standing(tokens=["w.0~s"])),
        "resolve": lambda: store.resolve("w.0~s", {"a": "1"}, by="ann", call="c"),
        "time_out": lambda: store.time_out("w.0~s"),
        "signal": lambda: store.signal("w", "paid", "1", by="ann", call="c"),
        "asked": lambda: store.asked(after=None, limit=9),
        "waits": lambda: store.waits("w.0"),
        "sweep": lambda: store.sweep(host="there"),
        "cancel": lambda: store.cancel("w"),
    }

    assert who_notices(on_redis, key, calls, but=()) == OF_WAITS[key]


OF_BRANCHES: Mapping[str, list[str]] = {
    "due": [
        "open_block",
        "suspend",
        "branches",
        "hop",
        "claim",
        "renew",
        "complete",
        "park",
        "redrive",
        "fail",
        "sweep",
        "cancel",
    ],
    "parked": ["park", "redrive", "sweep", "cancel"],
    "asleep": ["suspend", "complete", "park", "fail", "sweep", "cancel"],
    "asked": ["redrive", "sweep", "cancel"],
    "sent": ["open_block", "suspend", "complete", "park", "fail", "sweep"],
    "deadlines": ["open_block", "suspend", "complete", "park", "redrive", "fail", "sweep", "cancel"],
    "ending": ["sweep", "cancel"],
    "kept": ["park", "redrive", "sweep", "cancel"],
    "owner:ann": ["suspend", "claim", "renew", "complete", "park", "fail"],
    "events:w": ["open_block", "suspend", "claim", "complete", "park", "redrive", "fail", "cancel"],
    "blob:w": ["hold", "complete", "redrive", "fail", "cancel"],
    "hops:w": ["hold", "complete", "fail", "cancel"],
    "wf:w": ["open_block", "suspend", "claim", "record", "renew", "complete", "park", "redrive", "fail", "cancel"],
    "hop:w.0": [
        "hold",
        "open_block",
        "suspend",
        "branches",
        "claim",
        "record",
        "renew",
        "complete",
        "park",
        "redrive",
        "fail",
        "cancel",
    ],
    "hop:w.0-0.0": ["hold", "open_block", "branches", "hop", "claim", "record", "renew", "complete"],
    "hop:w.0-1.0": ["hold", "open_block", "branches", "park", "redrive"],
}


@pytest.mark.parametrize("key", OF_BRANCHES)
def test_a_key_of_another_type_is_reported_by_what_concerns_branches(on_redis: RedisBench, key: str) -> None:
    """No branch is written, opened, counted or cut off by halves."""
    store, block = on_redis.raw, Closing(hop_id="w.0", owner="ann", fence=1)
    first, second, last = (Closing(hop_id=at(number), owner="ann", fence=1) for number in range(3))
    items = {"item": "1"}
    store.start(new())
    store.claim(claim())
    calls: Mapping[str, Callable[[], object]] = {
        "hold": lambda: store.hold(block, page(0, 5, blobs=items)),
        "open_block": lambda: store.open_block(block, plan(5, window=2, collects=True)),
        "suspend": lambda: store.suspend(block, Standing(branches=True)),
        "branches": lambda: store.branches("w.0", first=0, limit=9),
        "hop": lambda: store.hop(at(0)),
        "claim": lambda: store.claim(claim(at(0))),
        "claim next": lambda: store.claim(claim(at(1))),
        "record": lambda: store.record(first, {"call": "1"}),
        "renew": lambda: store.renew("ann", {at(0): 1}),
        "complete": lambda: store.complete(completion(first, end="{}")),
        "park": lambda: store.park(second, FAILURE),
        "redrive": lambda: store.redrive("w", place="0-1.0"),
        "claim last": lambda: store.claim(claim(at(2))),
        "fail": lambda: store.fail(last, FAILURE, end="{}"),
        "sweep": lambda: store.sweep(host="there"),
        "cancel": lambda: store.cancel("w"),
    }

    assert who_notices(on_redis, key, calls, but=("claim next", "claim last")) == OF_BRANCHES[key]


def test_waits_with_rubbish_in_their_fields_are_reported(on_redis: RedisBench) -> None:
    """And a hop that sleeps but lacks fields ends no sweep."""
    store = on_redis.raw
    store.start(new())
    close = closing(store.claim(claim()))
    store.wait(close, NewWait(wait_id="1", token="w.0~s", kind="token", name="ask"))
    store.suspend(close, Standing(tokens=["w.0~s"]))
    key = on_redis.key("hop", "w.0")
    on_redis.client.hset(key, ":since:w.0~s", "x")

    for read in (lambda: store.waits("w.0"), lambda: store.workflow("w"), lambda: store.asked(after=None, limit=1)):
        assert fault_of(read) is not None
    on_redis.client.hdel(key, "digest")
    assert fault_of(lambda: store.resolve("w.0~s", {"": "1"}, by="ann", call="c")) is not None
    on_redis.pass_time(25 * 3600)
    assert store.sweep(host="there") == Sweep(corrupted=(key,))
    assert store.sweep(host="there") == Sweep()


@pytest.mark.parametrize("field", ["block:written", "block:opened", "block:under_way", "how:0", "order:0", "branch:1"])
def test_a_block_with_rubbish_in_its_fields_is_reported(on_redis: RedisBench, field: str) -> None:
    """Nothing is read from it as if it were right, and no end of a branch is counted into it."""
    store = on_redis.raw
    store.start(new())
    block = closing(store.claim(claim()))
    store.hold(block, page(0, 3))
    store.open_block(block, plan(3, window=2, collects=True))
    store.complete(completion(closing(store.claim(claim(at(0))), at(0)), end="{}"))
    close = closing(store.claim(claim(at(1))), at(1))
    on_redis.client.hset(on_redis.key("hop", "w.0"), field, "odd" if field != "branch:1" else "")
    before = everything(on_redis)

    assert fault_of(lambda: store.branches("w.0", first=0, limit=9)) is not None
    if field in ("block:opened", "block:under_way"):
        assert fault_of(lambda: store.complete(completion(close, end="{}"))) is not None
    assert everything(on_redis) == before


@pytest.mark.parametrize("key", WHO_NOTICES)
def test_a_key_of_another_type_is_reported_and_nothing_is_half_done(on_redis: RedisBench, key: str) -> None:
    """Another program that writes under our prefix cannot make the records contradict each other."""
    store = on_redis.raw
    first, second = (Closing(hop_id=f"w.{place}", owner="ann", fence=1) for place in (0, 1))
    calls: Mapping[str, Callable[[], object]] = {
        "start": lambda: store.start(new()),
        "claim": lambda: store.claim(claim()),
        "renew": lambda: store.renew("ann", {"w.0": 1}),
        "touch": lambda: store.touch(host="ann", owners=["ann"]),
        "record": lambda: store.record(first, {"call": "1"}),
        "publish": lambda: store.publish(first, [told(1)]),
        "complete": lambda: store.complete(completion(first, next_hop=hop("w.1"))),
        "claim next": lambda: store.claim(claim("w.1")),
        "fail": lambda: store.fail(second, FAILURE),
        "workflow": lambda: store.workflow("w"),
        "blob": lambda: store.blob("w", "draft"),
        "events": lambda: store.events("w", after=None, limit=1),
        "journal": lambda: store.journal("w.0"),
        "sweep": lambda: store.sweep(host="there"),
    }

    assert who_notices(on_redis, key, calls, but=("claim next",)) == WHO_NOTICES[key]


def who_notices(
    on_redis: RedisBench, key: str, calls: Mapping[str, Callable[[], object]], *, but: tuple[str, ...]
) -> list[str]:
    """Make each call (except some) while the key is not ours, then again correctly; return those that reported it."""
    client, full = on_redis.client, on_redis.key(key)
    refused = []
    for name, call in calls.items():
        if name in but:
            call()
            continue
        moved = bool(client.exists(full)) and client.rename(full, f"{full}.kept")
        client.set(full, "not ours")
        before = everything(on_redis)
        fault = fault_of(call)
        if fault is not None:
            refused.append(name)
            assert fault.key == full
            assert everything(on_redis) == before
        client.delete(full)
        if moved:
            client.rename(f"{full}.kept", full)
        call()
    return refused


def fault_of(call: Callable[[], object]) -> StoreCorrupt | None:
    try:
        call()
    except StoreCorrupt as error:
        return error
    return None


@pytest.mark.parametrize(
    "damage",
    [{"fence": "x"}, {"attempt": "x"}, {"state": "odd"}, {"state": "running"}, {"workflow": None}, {"state": None}],
)
def test_a_hop_with_rubbish_in_its_record_is_reported(on_redis: RedisBench, damage: Mapping[str, str | None]) -> None:
    """A damaged record is named, so that a person can fix it; the worker goes on."""
    on_redis.raw.start(new())
    for name, value in damage.items():
        if value is None:
            on_redis.client.hdel(on_redis.key("hop", "w.0"), name)
        else:
            on_redis.client.hset(on_redis.key("hop", "w.0"), name, value)
    before = everything(on_redis)

    with pytest.raises(StoreCorrupt, match=r"hop:w\.0"):
        on_redis.raw.claim(claim())

    assert everything(on_redis) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("state", "odd"), ("created_at", "x"), ("failure", "{"), ("content", b"\xff"), ("hop", None)],
)
def test_a_workflow_with_rubbish_in_its_record_is_reported(
    on_redis: RedisBench, name: str, value: str | bytes | None
) -> None:
    """A handle says what is wrong with the record instead of raising something unreadable."""
    on_redis.raw.start(new())
    key = on_redis.key("wf", "w")
    if name == "failure":  # which is read of workflows that have one
        on_redis.client.hset(key, "state", "failed")
    if value is None:
        on_redis.client.hdel(key, name)
    else:
        on_redis.client.hset(key, name, value)

    with pytest.raises(StoreCorrupt, match="wf:w"):
        on_redis.raw.workflow("w")


def test_a_claim_reports_blobs_that_are_not_ours_only_if_it_wants_some(on_redis: RedisBench) -> None:
    """Nothing is claimed then, and whoever sets the hop aside still can."""
    store = on_redis.raw
    store.start(new())
    on_redis.client.set(on_redis.key("blob:w"), "not ours")
    before = everything(on_redis)

    assert fault_of(lambda: store.claim(replace(claim(), wanted=("draft",)))) is not None
    assert everything(on_redis) == before
    assert isinstance(store.claim(claim()), Claimed)
