"""The stores under test, with a view of their insides. After each call every hop must be in exactly one place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, cast

import redis

from paigeant_celery.store.limits import LIMITS, StoreLimits
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.port import Store
from paigeant_celery.store.redis import RedisStore
from tests.support.listing import check_listing

LEASE = 30.0  # seconds; never expires within a test
BRIEF_LEASE = 0.2
TTL = 3600.0
BRIEF_TTL = 0.3


def until(condition: Callable[[], bool], *, within: float = 10.0) -> None:
    """Poll for a condition; the time limit only ends a failing test."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.01)


class Bench(Protocol):
    """One store as the tests see it: `store`, one with a brief lease, one with a brief ttl, and its inside."""

    store: Store
    brief: Store
    short_lived: Store

    @property
    def raw(self) -> Store:
        """`store` without a look inside after each call, for concurrent calls."""

    def limit(self, limits: StoreLimits) -> None:
        """Give the stores other limits; they must not have been called yet."""

    def lapse(self) -> None:
        """Return when the leases given by `brief` are over."""

    def spend(self, part: float) -> None:
        """Return when this part of a lease given by `brief` is over."""

    def next_second(self) -> None:
        """Make the store believe that its last sweep was a second earlier."""

    def overdue(self, hop_id: str) -> None:
        """Make the store believe that the message of a queued hop should have arrived by now."""

    def late(self, correlation_id: str) -> None:
        """Make the store believe that the deadline of a workflow has passed."""

    def pass_time(self, seconds: float) -> None:
        """Make the store believe that all it knows of waits and suspended hops was recorded so much earlier."""

    def lose(self) -> None:
        """Take all records away from the store."""

    def lapse_swept(self) -> None:
        """Return when the leases given by `brief` are over, in a store that was swept all the time."""

    def expire(self) -> None:
        """Return when the workflows ended by `short_lived` are gone."""

    def left(self, owner: str) -> float | None:
        """Return how many seconds are left of an owner's lease; None if it has none."""

    def leave(self, owner: str, seconds: float) -> None:
        """Let an owner's lease end so many seconds from now."""

    def touchable(self) -> set[str]:
        """Return the owners whose leases may be extended from outside."""

    def places(self) -> tuple[dict[str, str], dict[str, list[str]], set[str], set[str]]:
        """Return the state of each hop, the places of each, owners with a lease, and owners of hops."""


class Watched:
    """A store that checks after every call that each open hop is in one place, and each closed one in none."""

    def __init__(self, store: Store, bench: Bench) -> None:
        self._store, self._bench = store, bench

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def watched(*arguments: Any, **named: Any) -> Any:
            try:
                return found(*arguments, **named)
            finally:
                check_places(self._bench)

        return watched


PLACES = {"queued": ["due"], "waiting": ["due"], "running": ["owner"], "parked": ["parked"], "suspended": ["asleep"]}


def check_places(bench: Bench) -> None:
    states, places, leases, owners = bench.places()
    expected = {hop_id: PLACES.get(state, []) for hop_id, state in states.items()}
    assert {hop_id: [place.partition(" ")[0] for place in places.get(hop_id, [])] for hop_id in states} == expected
    assert set(places) <= set(states)
    assert leases == owners
    if isinstance(bench, RedisBench):
        listed, ended = (cast("list[str]", bench.client.zrange(bench.key(each), 0, -1)) for each in ("index", "ended"))
        check_listing(listed, ended, hashes(bench, "wf"), hashes(bench, "hop"))


def hashes(bench: RedisBench, kind: str) -> dict[str, dict[str, str]]:
    start = bench.key(kind, "")
    keys = [key for key in bench.client.scan_iter(f"{start}*", count=1000) if bench.client.type(key) == "hash"]
    with bench.client.pipeline(transaction=False) as commands:
        for key in keys:
            commands.hgetall(key)
        found = commands.execute()
    return {key[len(start) :]: fields for key, fields in zip(keys, found, strict=True) if fields}


class MemoryBench:
    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.limit(LIMITS)

    def limit(self, limits: StoreLimits) -> None:
        self.raw = MemoryStore(lease=LEASE, ttl=TTL, now=lambda: self.now, limits=limits)
        self.store = self.brief = self.short_lived = cast("Store", Watched(self.raw, self))

    def lapse(self) -> None:
        self.spend(1.0)

    def spend(self, part: float) -> None:
        self.now += part * timedelta(seconds=LEASE)

    def next_second(self) -> None:
        self.swept(cast("datetime", self.raw._sweeping.swept_at) - timedelta(seconds=1))

    def swept(self, at: datetime) -> None:
        self.raw._sweeping = replace(self.raw._sweeping, swept_at=at)

    def overdue(self, hop_id: str) -> None:
        assert hop_id in self.raw._records.due
        self.raw._records.due[hop_id] = self.now

    def late(self, correlation_id: str) -> None:
        assert correlation_id in self.raw._records.deadlines
        self.raw._records.deadlines[correlation_id] = self.now

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        for leases in (self.raw._records.leases, self.raw._records.touchable):
            for owner in leases:
                leases[owner] += timedelta(seconds=seconds)
        swept_at = self.raw._sweeping.swept_at
        if swept_at is not None:
            self.swept(swept_at + timedelta(seconds=seconds))

    def lose(self) -> None:
        empty = MemoryStore(lease=LEASE, ttl=TTL)
        self.raw._records, self.raw._sweeping, self.raw._letters = empty._records, empty._sweeping, empty._letters

    def lapse_swept(self) -> None:
        self.lapse()
        self.swept(self.now - timedelta(seconds=1))

    def expire(self) -> None:
        self.now += timedelta(seconds=TTL)

    def left(self, owner: str) -> float | None:
        until = self.raw._records.leases.get(owner)
        return (until - self.now).total_seconds() if until is not None else None

    def leave(self, owner: str, seconds: float) -> None:
        assert owner in self.raw._records.leases
        self.raw._records.leases[owner] = self.now + timedelta(seconds=seconds)

    def touchable(self) -> set[str]:
        return set(self.raw._records.touchable)

    def places(self) -> tuple[dict[str, str], dict[str, list[str]], set[str], set[str]]:
        raw = self.raw._records
        places: dict[str, list[str]] = {hop_id: ["due"] for hop_id in raw.due}
        for hop_id in raw.parked:
            places.setdefault(hop_id, []).append("parked")
        for hop_id in raw.asleep:
            places.setdefault(hop_id, []).append("asleep")
        for owner, held in raw.owned.items():
            for hop_id in held:
                places.setdefault(hop_id, []).append(f"owner {owner}")
        return {hop_id: kept.hop.state for hop_id, kept in raw.hops.items()}, places, set(raw.leases), set(raw.owned)


class RedisBench:
    def __init__(self, url: str, prefix: str) -> None:
        self.url, self.prefix = url, prefix
        self.opened = [
            RedisStore(url, prefix=prefix, lease=lease, ttl=ttl)
            for lease, ttl in ((LEASE, TTL), (BRIEF_LEASE, TTL), (LEASE, BRIEF_TTL))
        ]
        self.store, self.brief, self.short_lived = (cast("Store", Watched(store, self)) for store in self.opened)
        self.raw = self.opened[0]
        self.client = redis.Redis.from_url(url, decode_responses=True)

    def limit(self, limits: StoreLimits) -> None:
        for store in self.opened:
            assert store._server.client is None, "its scripts are loaded"
            store._server.limits = limits

    def close(self) -> None:
        self.client.close()
        for store in self.opened:
            store.close()

    def key(self, *parts: str) -> str:
        return ":".join((self.prefix, *parts))

    def now(self) -> float:
        seconds, micros = self.client.time()
        return seconds * 1000 + micros / 1000

    def lapse(self) -> None:
        brief = self.now() + LEASE * 500  # the other leases end later than this
        until(lambda: not self.client.zcount(self.key("owners"), self.now(), brief))

    def spend(self, part: float) -> None:
        end = self.now() + part * BRIEF_LEASE * 1000
        until(lambda: self.now() > end)

    def next_second(self) -> None:
        self.client.hincrby(self.key("meta"), "swept_at", -1000)

    def overdue(self, hop_id: str) -> None:
        # Hops that are sent without a look at their queue come before all others.
        ahead = 1e13 if cast("float", self.client.zscore(self.key("due"), hop_id)) < 0 else 0
        assert self.client.zadd(self.key("due"), {hop_id: self.now() - 1 - ahead}, xx=True, ch=True) == 1

    def late(self, correlation_id: str) -> None:
        assert self.client.zadd(self.key("deadlines"), {correlation_id: self.now() - 1}, xx=True, ch=True) == 1

    def pass_time(self, seconds: float) -> None:
        earlier = round(seconds * 1000)
        for index in ("asleep", "asked"):
            for member in cast("list[str]", self.client.zrange(self.key(index), 0, -1)):
                self.client.zincrby(self.key(index), -earlier, member)
        for key in self.client.scan_iter(self.key("hop", "*")):
            for name, value in cast("dict[str, str]", self.client.hgetall(key)).items():
                if value.isdecimal() and name.startswith(("wake_at", ":since:", ":until:", ":at:")):
                    self.client.hset(key, name, int(value) - earlier)

    def lose(self) -> None:
        self.client.delete(*self.client.scan_iter(self.key("*")))

    def lapse_swept(self) -> None:
        self.lapse()
        self.client.hset(self.key("meta"), "swept_at", round(self.now()) - 1000)

    def expire(self) -> None:
        def expiring() -> list[str]:
            return [key for key in self.client.scan_iter(self.key("*")) if 0 <= self.client.pttl(key) < TTL * 500]

        until(lambda: not expiring())

    def left(self, owner: str) -> float | None:
        until = cast("float | None", self.client.zscore(self.key("owners"), owner))
        return (until - self.now()) / 1000 if until is not None else None

    def leave(self, owner: str, seconds: float) -> None:
        assert self.client.zadd(self.key("owners"), {owner: self.now() + seconds * 1000}, xx=True, ch=True) == 1

    def touchable(self) -> set[str]:
        return set(self.client.scan_iter(self.key("touchable", "*")))

    def places(self) -> tuple[dict[str, str], dict[str, list[str]], set[str], set[str]]:
        hops, owned = self.key("hop", ""), self.key("owner", "")
        keys = list(self.client.scan_iter(f"{hops}*", count=1000))
        with self.client.pipeline(transaction=False) as commands:  # there may be hundreds
            for key in keys:
                commands.hget(key, "state")
            found = commands.execute()
        states = {key[len(hops) :]: str(state) for key, state in zip(keys, found, strict=True)}
        places = {hop_id: ["due"] for hop_id in cast("list[str]", self.client.zrange(self.key("due"), 0, -1))}
        for hop_id in cast("list[str]", self.client.zrange(self.key("parked"), 0, -1)):
            places.setdefault(hop_id, []).append("parked")
        for hop_id in cast("list[str]", self.client.zrange(self.key("asleep"), 0, -1)):
            places.setdefault(hop_id, []).append("asleep")
        owners = {key[len(owned) :] for key in self.client.scan_iter(f"{owned}*", count=1000)}
        for owner in owners:
            for hop_id in cast("set[str]", self.client.smembers(owned + owner)):
                places.setdefault(hop_id, []).append(f"owner {owner}")
        return states, places, set(cast("list[str]", self.client.zrange(self.key("owners"), 0, -1))), owners


def everything(on_redis: RedisBench) -> dict[str, object]:
    client: Any = on_redis.client
    how = {"hash": "HGETALL", "set": "SMEMBERS"}  # in no order, which may change while nothing is written

    def read(key: str) -> object:
        return client.execute_command(how.get(client.type(key), "DUMP"), key, NEVER_DECODE=True)

    return {key: read(key) for key in client.scan_iter(on_redis.key("*"))}
