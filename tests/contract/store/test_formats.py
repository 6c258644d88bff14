"""Stores of two formats side by side: a newer worker has begun, and what the older ones may still do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from paigeant_celery.core.errors import ConfigurationError, OutdatedVersion, StoreCorrupt
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Claimed, Dropped, OpenHops, Standing, Suspended
from paigeant_celery.store.redis import RedisStore
from tests.contract.store.bench import LEASE, PLACES, TTL, RedisBench
from tests.contract.store.blocks import (
    asks,
    at,
    clean,
    complete,
    page,
    plan,
    run,
    sent_by,
    succeed,
    wait_in,
    waiting_block,
)
from tests.contract.store.given import FAILURE, claim, closing, ending, letter, new
from tests.proof.machine.test_store_machine import altered

NEWER = LIMITS.format + 1


@pytest.fixture
def newer(on_redis: RedisBench) -> Iterator[RedisStore]:
    limits = replace(LIMITS, format=NEWER)
    store = RedisStore(on_redis.url, prefix=on_redis.prefix, lease=LEASE, ttl=TTL, limits=limits)
    yield store
    store.close()


def format_of(bench: RedisBench) -> str | None:
    return bench.client.hget(bench.key("meta"), "format")


def test_a_newer_worker_stops_the_claims_sweeps_and_redrives_of_older_ones(
    on_redis: RedisBench, newer: RedisStore
) -> None:
    """An older worker would misread what a newer one writes, so it begins nothing more, and says what to do."""
    old = on_redis.store
    for correlation_id in ("w", "parked"):
        old.start(new(correlation_id))
    held = old.claim(claim("parked.0"))
    assert old.park(closing(held, "parked.0"), FAILURE)

    newer.raise_format()

    for begin in (lambda: old.claim(claim()), lambda: old.sweep(host="h"), lambda: old.redrive("parked")):
        with pytest.raises(OutdatedVersion, match="install that version here too, and restart") as refused:
            begin()
        assert (refused.value.found, refused.value.own) == (NEWER, LIMITS.format)
    assert isinstance(newer.claim(claim()), Claimed)
    assert newer.redrive("parked") == "redriven"


@pytest.mark.parametrize("end", ["complete", "fail", "retry_at", "park", "release"])
def test_an_older_worker_closes_what_it_claimed_before(on_redis: RedisBench, newer: RedisStore, end: str) -> None:
    """A deploy loses no answer that was paid for."""
    old = on_redis.store
    old.start(new())
    held = old.claim(claim())

    newer.raise_format()

    assert old.claim(claim()) == held  # the reply to the claim was lost, and the client asks again
    assert old.renew("ann", {"w.0": 1}).lost == frozenset()
    assert old.record(closing(held), {"call": "{}"})
    assert old.publish(closing(held), [{"event": "seen"}])
    assert ending(on_redis, closing(held))[end]()


def test_an_older_worker_opens_and_ends_the_branches_that_it_claimed_before(
    on_redis: RedisBench, newer: RedisStore
) -> None:
    """What its blocks open, newer workers run; and the ends of its branches count and let others go on."""
    old = on_redis.store
    old.start(new())
    block = closing(old.claim(claim()))
    assert old.hold(block, page(0, 2)) == 2

    newer.raise_format()

    assert old.hold(block, page(2, 1)) == 3
    opened = old.open_block(block, plan(3, window=1))
    assert opened is not None
    assert [each.hop_id for each in opened.hops] == [at(0)]
    assert old.suspend(block, Standing(branches=True)) == Suspended()
    with pytest.raises(OutdatedVersion):
        old.claim(claim(at(0)))
    assert succeed(newer, at(0)) == [at(1)]
    assert [each.hop.state for each in old.branches("w.0", first=0, limit=9)] == ["done", "queued", "held"]


def test_an_older_worker_ends_a_branch_after_a_newer_one_has_begun(on_redis: RedisBench, newer: RedisStore) -> None:
    """A deploy in the middle of a fan-out loses no answer that was paid for, and the block goes on."""
    waiting_block(on_redis, 3, window=2, collects=True)
    running = [run(on_redis.store, at(number)) for number in (0, 1)]

    newer.raise_format()

    assert sent_by(complete(on_redis.store, running[0])) == [at(2)]
    assert sent_by(on_redis.store.park(running[1], FAILURE)) == []
    with pytest.raises(OutdatedVersion):
        on_redis.store.redrive("w", place="0-1.0")
    assert newer.redrive("w", place="0-1.0") == "redriven"
    assert succeed(newer, at(1)) == []
    assert succeed(newer, at(2)) == ["w.0"]


def test_what_a_version_without_branches_cancels_is_cleaned_by_newer_sweeps(on_redis: RedisBench) -> None:
    """An old web server knows no hop but the current one. The branches lose it all the same, and leave nothing."""
    waiting_block(on_redis, 6, window=5)
    running = run(on_redis.store, at(0))
    wait_in(on_redis.store, at(1), asks(at(1)))
    on_redis.store.retry_at(run(on_redis.store, at(2)), FAILURE, delay=0)
    without_branches = altered(on_redis.url, ("end_block(workflow, hop, below)\n", ""), limits=LIMITS)
    old = RedisStore(on_redis.url, prefix=on_redis.prefix, lease=LEASE, ttl=TTL)
    old._server._client.value = without_branches

    assert old.cancel("w") == "cancelled"

    assert not on_redis.store.record(running, {"call": "1"})
    assert complete(on_redis.store, running) is None
    assert on_redis.raw.sweep(host="there", dead=["ann"]).overdue == ()
    on_redis.pass_time(25 * 3600)
    for number in (3, 4):
        on_redis.overdue(at(number))
    assert on_redis.raw.sweep(host="there", queues={f"q-{at(number)}": True for number in (3, 4)}).overdue == ()
    assert clean(on_redis) == []
    assert on_redis.store.open_hops() == OpenHops(due=0, running=0, parked=0)
    assert on_redis.store.asked(after=None, limit=9) == []
    without_branches.redis.close()


def test_an_older_dispatcher_and_the_commands_go_on(on_redis: RedisBench, newer: RedisStore) -> None:
    """Web servers are often deployed after the workers, and nobody must wait for that to end a workflow."""
    newer.raise_format()
    old = on_redis.store

    assert [old.start(new()), old.start(new())] == ["started", "exists"]
    assert (record := old.workflow("w")) is not None
    assert record.state == "running"
    assert [event.fields["type"] for event in old.events("w", after=None, limit=9)] == ["started"]
    assert old.bury(letter())
    assert old.dead_letter("a") is not None
    assert old.cancel("w") == "cancelled"
    assert format_of(on_redis) == str(NEWER)
    assert newer.claim(claim()) == Dropped(reason="cancelled")


def test_only_workers_raise_the_format(on_redis: RedisBench, newer: RedisStore) -> None:
    """A program of a newer version that only dispatches, looks or cancels stops no worker."""
    newer.start(new())
    newer.start(new("v"))
    newer.check(allow_eviction=True)
    newer.workflow("w")
    newer.cancel("v")

    assert format_of(on_redis) is None
    assert isinstance(on_redis.store.claim(claim()), Claimed)
    assert format_of(on_redis) == str(LIMITS.format)


@pytest.mark.parametrize("begin", ["raise_format", "claim", "sweep"])
def test_whatever_a_newer_worker_does_first_stops_older_ones(
    on_redis: RedisBench, newer: RedisStore, begin: str
) -> None:
    """Also if the store was away when it started, or was emptied since."""
    on_redis.store.start(new())
    on_redis.store.sweep(host="h")
    assert format_of(on_redis) == str(LIMITS.format)
    begins: dict[str, Callable[[], object]] = {
        "raise_format": newer.raise_format,
        "claim": lambda: newer.claim(claim()),
        "sweep": lambda: newer.sweep(host="h"),
    }

    begins[begin]()

    with pytest.raises(OutdatedVersion):
        on_redis.store.sweep(host="h")


def test_an_emptied_store_takes_the_format_of_whoever_begins_and_then_the_newest(
    on_redis: RedisBench, newer: RedisStore
) -> None:
    """Workers of both versions that are there get over it, and the older ones stop again."""
    newer.raise_format()
    on_redis.client.delete(on_redis.key("meta"))

    on_redis.store.sweep(host="h")
    before = format_of(on_redis)
    newer.sweep(host="h")

    assert (before, format_of(on_redis)) == (str(LIMITS.format), str(NEWER))


def test_a_worker_checks_the_format_at_its_start(on_redis: RedisBench, newer: RedisStore) -> None:
    """An older one does not start; a newer one does, and reads what is there."""
    on_redis.store.raise_format()
    assert list(newer.check(allow_eviction=True)) == list(on_redis.store.check(allow_eviction=True))

    newer.raise_format()
    with pytest.raises(ConfigurationError, match=f"have format {NEWER}, and this version writes {LIMITS.format}"):
        on_redis.store.check(allow_eviction=True)
    with pytest.raises(OutdatedVersion):
        on_redis.store.raise_format()

    on_redis.client.hset(on_redis.key("meta"), "format", "two")
    with pytest.raises(ConfigurationError, match="no number as their format"):
        newer.check(allow_eviction=True)


def test_a_state_of_a_newer_format_is_told_from_a_record_of_somebody_else(
    on_redis: RedisBench, newer: RedisStore
) -> None:
    """The remedy for the one is an upgrade, for the other another prefix: who mixes them up loses workflows."""
    on_redis.store.start(new())
    on_redis.client.hset(on_redis.key("wf", "w"), "state", "undoing")
    with pytest.raises(StoreCorrupt):
        on_redis.store.workflow("w")

    newer.raise_format()

    with pytest.raises(OutdatedVersion):
        on_redis.store.workflow("w")


def test_what_is_due_has_a_state_that_the_first_format_knows() -> None:
    """A sweep of an old worker throws out of `due` what it does not know: its hop would be lost.

    Every test of the stores checks after each call that hops are where `PLACES` says.
    """
    assert {state for state, places in PLACES.items() if "due" in places} == {"queued", "waiting"}
