"""What every store promises, run over each of them, and what only the one on Redis can get wrong."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol, cast

import pytest
import redis
from paigeant_celery.core.errors import ConfigurationError, InvalidInput, StoreCorrupt, TransientError, Unreachable
from paigeant_celery.core.flow import Failure
from paigeant_celery.store.port import (
    Claim,
    Claimed,
    Closing,
    Completion,
    DeadLetter,
    Dropped,
    HopRecord,
    NewWorkflow,
    RenewAnswer,
    Store,
    StoredEvent,
    Sweep,
)
from tests.support.servers import free_port

from paigeant_celery.store import open_store
from paigeant_celery.store.limits import LIMITS, Limits
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.redis import RedisStore

LEASE = 30.0  # seconds; never lapses within a test
BRIEF_LEASE = 0.2
TTL = 3600.0
BRIEF_TTL = 0.3
BACKLOG = 1100  # hops; more than one pass looks at

FAILURE = Failure(step_id="draft", error_class="ValueError", text="no such 'topic' \U0001f600 \0")


# Given: workflows, claims and closings that differ only in what a test is about.


def hop(hop_id: str = "w.0", *, envelope: str | None = None, queue: str | None = None) -> HopRecord:
    return HopRecord(
        hop_id=hop_id, queue=queue or f"q-{hop_id}", envelope=envelope or f"envelope {hop_id}", digest=f"d-{hop_id}"
    )


def new(correlation_id: str = "w", *, content: str = "same", queue: str | None = None) -> NewWorkflow:
    return NewWorkflow(correlation_id=correlation_id, content=content, hop=hop(f"{correlation_id}.0", queue=queue))


def claim(
    hop_id: str = "w.0",
    *,
    owner: str = "ann",
    token: str = "t1",
    max_attempts: int = 5,
    digest: str | None = "recorded",
) -> Claim:
    digest = f"d-{hop_id}" if digest == "recorded" else digest
    return Claim(hop_id=hop_id, owner=owner, token=token, max_attempts=max_attempts, digest=digest)


def closing(claimed: object, hop_id: str = "w.0", *, owner: str = "ann") -> Closing:
    assert isinstance(claimed, Claimed)
    return Closing(hop_id=hop_id, owner=owner, fence=claimed.fence)


def completion(close: Closing, *, next_hop: HopRecord | None = None, **more: Any) -> Completion:
    return Completion(closing=close, envelope=next_hop.envelope if next_hop else "final", next_hop=next_hop, **more)


def types(store: Store, correlation_id: str = "w") -> list[str]:
    return [event.fields["type"] for event in store.events(correlation_id, after=None, limit=1000)]


def until(condition: Callable[[], bool], *, within: float = 10.0) -> None:
    """Poll for a condition; the bound only ends a test that fails."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.01)


# The stores under test. After each call every hop must be in exactly one place.


class Bench(Protocol):
    """One store as the tests see it: `store`, one of brief lease, one of brief ttl, and its inside."""

    store: Store
    brief: Store
    short_lived: Store

    @property
    def raw(self) -> Store:
        """`store` without a look inside after each call, for calls that are made at once."""

    def limit(self, limits: Limits) -> None:
        """Give the stores, which were not called yet, other limits."""

    def lapse(self) -> None:
        """Return when the leases given by `brief` are over."""

    def spend(self, part: float) -> None:
        """Return when this part of a lease given by `brief` is over."""

    def next_second(self) -> None:
        """Make the store believe that its last sweep is a second older."""

    def overdue(self, hop_id: str) -> None:
        """Make the store believe that the message of a queued hop should have come by now."""

    def lapse_swept(self) -> None:
        """Return when the leases given by `brief` are over, for a store that was swept all the time."""

    def expire(self) -> None:
        """Return when the workflows ended by `short_lived` are gone."""

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


PLACES = {"queued": ["due"], "waiting": ["due"], "running": ["owner"], "parked": ["parked"]}


def check_places(bench: Bench) -> None:
    states, places, leases, owners = bench.places()
    expected = {hop_id: PLACES.get(state, []) for hop_id, state in states.items()}
    assert {hop_id: [place.partition(" ")[0] for place in places.get(hop_id, [])] for hop_id in states} == expected
    assert set(places) <= set(states)
    assert leases == owners


class MemoryBench:
    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.raw = MemoryStore(lease=LEASE, ttl=TTL, now=lambda: self.now)
        self.store = self.brief = self.short_lived = cast("Store", Watched(self.raw, self))

    def limit(self, limits: Limits) -> None:
        self.raw._limits = limits

    def lapse(self) -> None:
        self.spend(1.0)

    def spend(self, part: float) -> None:
        self.now += part * timedelta(seconds=LEASE)

    def next_second(self) -> None:
        self.swept(cast("datetime", self.raw._sweeping.swept_at) - timedelta(seconds=1))

    def swept(self, at: datetime) -> None:
        self.raw._sweeping = replace(self.raw._sweeping, swept_at=at)

    def overdue(self, hop_id: str) -> None:
        assert hop_id in self.raw._due
        self.raw._due[hop_id] = self.now

    def lapse_swept(self) -> None:
        self.lapse()
        self.swept(self.now - timedelta(seconds=1))

    def expire(self) -> None:
        self.now += timedelta(seconds=TTL)

    def places(self) -> tuple[dict[str, str], dict[str, list[str]], set[str], set[str]]:
        raw = self.raw
        places: dict[str, list[str]] = {hop_id: ["due"] for hop_id in raw._due}
        for hop_id in raw._parked:
            places.setdefault(hop_id, []).append("parked")
        for owner, held in raw._owned.items():
            for hop_id in held:
                places.setdefault(hop_id, []).append(f"owner {owner}")
        return {hop_id: kept.hop.state for hop_id, kept in raw._hops.items()}, places, set(raw._leases), set(raw._owned)


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

    def limit(self, limits: Limits) -> None:
        for store in self.opened:
            assert store._client is None, "its scripts are loaded"
            store._limits = limits

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
        # What is sent without a look at its queue stands ahead of all others.
        ahead = 1e13 if cast("float", self.client.zscore(self.key("due"), hop_id)) < 0 else 0
        assert self.client.zadd(self.key("due"), {hop_id: self.now() - 1 - ahead}, xx=True, ch=True) == 1

    def lapse_swept(self) -> None:
        self.lapse()
        self.client.hset(self.key("meta"), "swept_at", round(self.now()) - 1000)

    def expire(self) -> None:
        def expiring() -> list[str]:
            return [key for key in self.client.scan_iter(self.key("*")) if 0 <= self.client.pttl(key) < TTL * 500]

        until(lambda: not expiring())

    def places(self) -> tuple[dict[str, str], dict[str, list[str]], set[str], set[str]]:
        hops, owned = self.key("hop", ""), self.key("owner", "")
        states = {key[len(hops) :]: str(self.client.hget(key, "state")) for key in self.client.scan_iter(f"{hops}*")}
        places = {hop_id: ["due"] for hop_id in cast("list[str]", self.client.zrange(self.key("due"), 0, -1))}
        for hop_id in cast("list[str]", self.client.zrange(self.key("parked"), 0, -1)):
            places.setdefault(hop_id, []).append("parked")
        owners = {key[len(owned) :] for key in self.client.scan_iter(f"{owned}*")}
        for owner in owners:
            for hop_id in cast("set[str]", self.client.smembers(owned + owner)):
                places.setdefault(hop_id, []).append(f"owner {owner}")
        return states, places, set(cast("list[str]", self.client.zrange(self.key("owners"), 0, -1))), owners


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        yield MemoryBench()
        return
    yield from request.getfixturevalue("redis_bench_maker")()


@pytest.fixture
def redis_bench_maker(redis_db: Any) -> Callable[[], Iterator[RedisBench]]:
    def make() -> Iterator[RedisBench]:
        bench = RedisBench(redis_db.url, redis_db.prefix)
        yield bench
        bench.close()

    return make


@pytest.fixture
def on_redis(redis_bench_maker: Callable[[], Iterator[RedisBench]]) -> Iterator[RedisBench]:
    yield from redis_bench_maker()


# Dead letters


def letter(letter_id: str = "a") -> DeadLetter:
    return DeadLetter(
        letter_id=letter_id, reason="too_deep", text="nests too deep", hop_id="w.0", correlation_id="w",
        activity="draft", queue=None, size=5, sha256="00", sample="xxxxx", worker="ann",
    )  # fmt: skip


def test_a_buried_letter_is_found_again_as_it_was(bench: Bench) -> None:
    """An operator reads what was refused, and when."""
    assert bench.store.bury(letter())

    found = bench.store.dead_letter("a")
    assert found is not None
    assert found.at is not None
    assert replace(found, at=None, cursor="") == letter()
    assert list(bench.store.dead_letters(after=None, limit=10)) == [found]


def test_a_letter_buried_twice_is_one(bench: Bench) -> None:
    """A message that is delivered and refused again is the same letter."""
    bench.store.bury(letter())
    before = bench.store.dead_letter("a")

    assert not bench.store.bury(replace(letter(), text="other"))

    assert bench.store.dead_letters(after=None, limit=10) == [before]


def test_letters_are_read_page_by_page_newest_first(bench: Bench) -> None:
    """What went wrong last is looked at first."""
    for letter_id in "abc":
        bench.store.bury(letter(letter_id))

    first = bench.store.dead_letters(after=None, limit=2)
    second = bench.store.dead_letters(after=first[-1].cursor, limit=2)

    assert [found.letter_id for found in (*first, *second)] == ["c", "b", "a"]
    assert list(bench.store.dead_letters(after=None, limit=0)) == []
    with pytest.raises(InvalidInput):
        bench.store.dead_letters(after="x", limit=1)


def test_a_forgotten_letter_is_gone(bench: Bench) -> None:
    """What was dealt with leaves the list."""
    bench.store.bury(letter())

    assert bench.store.forget_letter("a")

    assert not bench.store.forget_letter("a")
    assert bench.store.dead_letter("a") is None
    assert list(bench.store.dead_letters(after=None, limit=10)) == []


def test_the_oldest_letters_give_way_and_are_counted(bench: Bench) -> None:
    """A flood of bad messages does not fill the store, and nobody believes that the list is whole."""
    bench.limit(replace(LIMITS, max_letters=2))
    for letter_id in "abc":
        bench.store.bury(letter(letter_id))

    assert [found.letter_id for found in bench.store.dead_letters(after=None, limit=10)] == ["c", "b"]
    assert bench.store.letters_dropped() == 1


def test_no_flood_of_bad_messages_hides_a_parked_hop(bench: Bench) -> None:
    """Its letter is the only thing that shows it to a person."""
    bench.limit(replace(LIMITS, max_letters=2))
    bench.store.start(new())
    bench.store.park(closing(bench.store.claim(claim())), FAILURE, letter("parked"))
    for letter_id in "abc":
        bench.store.bury(letter(letter_id))

    def listed(after: str | None = None) -> list[str]:
        return [found.letter_id for found in bench.store.dead_letters(after=after, limit=10)]

    assert listed() == ["c", "b", "parked"]
    assert bench.store.letters_dropped() == 1
    (newest,) = bench.store.dead_letters(after=None, limit=1)
    assert listed(after=newest.cursor) == ["b", "parked"]


def test_expired_letters_before_that_of_a_parked_hop_are_passed_over(bench: Bench) -> None:
    """A page is filled with what is still there."""
    bench.store.start(new())
    bench.store.park(closing(bench.store.claim(claim())), FAILURE, letter("parked"))
    for letter_id in "abc":
        bench.short_lived.bury(letter(letter_id))

    bench.expire()

    assert [found.letter_id for found in bench.store.dead_letters(after=None, limit=1)] == ["parked"]
    assert bench.store.forget_letter("parked")
    assert list(bench.store.dead_letters(after=None, limit=10)) == []


def test_letters_expire_uncounted(bench: Bench) -> None:
    """They are kept as long as ended workflows."""
    bench.short_lived.bury(letter())
    bench.expire()

    assert bench.store.dead_letter("a") is None
    assert list(bench.store.dead_letters(after=None, limit=10)) == []
    assert bench.store.bury(letter())
    assert bench.store.letters_dropped() == 0


# START


def test_a_started_workflow_waits_as_its_first_hop(bench: Bench) -> None:
    """After `dispatch_workflow` returns, the run is on record whatever happens to the message."""
    assert bench.store.start(new()) == "started"

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.hop_id, record.queue, record.envelope) == ("running", "w.0", "q-w.0", "envelope w.0")
    assert (record.running, record.attempt, record.failure, record.content) == (False, 0, None, "same")
    assert record.created_at == record.updated_at
    assert types(bench.store) == ["started"]


def moment(bench: Bench) -> datetime:
    """The store's clock."""
    bench.store.start(new("clock"))
    claimed = bench.store.claim(claim("clock.0", token="clock"))
    assert isinstance(claimed, Claimed)
    return claimed.now


def test_an_adopted_workflow_waits_as_the_hop_of_its_message(bench: Bench) -> None:
    """It goes on where it stood, under the rules of any other."""
    adopted = NewWorkflow(correlation_id="w", content="same", hop=hop("w.3"))
    sent_at = moment(bench) - timedelta(seconds=50)

    assert bench.store.adopt(adopted, sent_at=sent_at, max_age=timedelta(seconds=60)) == "adopted"

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.hop_id, record.running) == ("running", "w.3", False)
    assert types(bench.store) == ["adopted"]
    assert isinstance(bench.store.claim(claim("w.3")), Claimed)


def test_a_workflow_whose_message_is_too_old_is_not_adopted(bench: Bench) -> None:
    """Its age is judged by the store's clock."""
    sent_at = moment(bench) - timedelta(seconds=61)

    assert bench.store.adopt(new(), sent_at=sent_at, max_age=timedelta(seconds=60)) == "expired"

    assert bench.store.workflow("w") is None
    assert bench.store.claim(claim()) == Dropped(reason="unknown")


@pytest.mark.parametrize("content", ["same", "other"])
def test_a_workflow_that_is_known_is_not_adopted(bench: Bench, content: str) -> None:
    """A stranger's message under its id changes nothing of it."""
    bench.store.start(new())
    before = bench.store.workflow("w")

    stranger = NewWorkflow(correlation_id="w", content=content, hop=hop("w.7"))
    assert bench.store.adopt(stranger, sent_at=moment(bench), max_age=timedelta(days=1)) == "known"

    assert bench.store.workflow("w") == before
    assert bench.store.claim(claim("w.7")) == Dropped(reason="unknown")


def test_the_same_content_again_is_the_existing_workflow(bench: Bench) -> None:
    """A caller that repeats a request with its idempotency key starts nothing twice."""
    bench.store.start(new())
    before = bench.store.workflow("w")

    assert bench.store.start(new()) == "exists"

    assert bench.store.workflow("w") == before
    assert types(bench.store) == ["started"]


def test_other_content_under_a_taken_id_is_a_conflict(bench: Bench) -> None:
    """Two different runs never share an id, so no one reads the other's result."""
    bench.store.start(new())
    before = bench.store.workflow("w")

    assert bench.store.start(new(content="other")) == "conflict"

    assert bench.store.workflow("w") == before


def test_the_content_of_an_ended_workflow_still_decides(bench: Bench) -> None:
    """A repeated request after the end returns the finished run and pays for nothing."""
    bench.store.start(new())
    bench.store.complete(completion(closing(bench.store.claim(claim()))))

    assert bench.store.start(new()) == "exists"
    assert bench.store.start(new(content="other")) == "conflict"


# CLAIM


def test_a_queued_hop_is_given_to_the_first_who_asks(bench: Bench) -> None:
    """A step is run by one worker, and the handle shows that it runs."""
    bench.store.start(new())

    claimed = bench.store.claim(claim())

    assert isinstance(claimed, Claimed)
    assert (claimed.fence, claimed.attempt, claimed.exhausted) == (1, 1, False)
    record = bench.store.workflow("w")
    assert record is not None
    assert (record.running, record.attempt, record.envelope) == (True, 1, "envelope w.0")
    assert record.updated_at == claimed.now
    assert types(bench.store) == ["started", "claimed"]


def test_a_claim_repeated_with_its_token_gets_the_same_answer(bench: Bench) -> None:
    """The client repeats a call whose reply was lost; otherwise nobody would run the hop."""
    bench.store.start(new())
    first = bench.store.claim(claim())

    assert bench.store.claim(claim()) == first

    assert types(bench.store) == ["started", "claimed"]


@pytest.mark.parametrize(("owner", "token"), [("ben", "t2"), ("ann", "t2"), ("ben", "t1")])
def test_a_running_hop_is_given_to_no_other_delivery(bench: Bench, owner: str, token: str) -> None:
    """A copy of the message does not pay for the model twice, not even in the same worker."""
    bench.store.start(new())
    bench.store.claim(claim())

    assert bench.store.claim(claim(owner=owner, token=token)) == Dropped(reason="running")


def test_an_unknown_hop_is_not_run(bench: Bench) -> None:
    """A message from another deployment or from long ago does nothing here."""
    assert bench.store.claim(claim("nobody.0")) == Dropped(reason="unknown")


@pytest.mark.parametrize("token", ["t1", "t2"])
def test_a_closed_hop_is_not_run_again(bench: Bench, token: str) -> None:
    """The broker may deliver a finished step again; it stays finished."""
    bench.store.start(new())
    bench.store.complete(completion(closing(bench.store.claim(claim())), next_hop=hop("w.1")))
    bench.store.fail(closing(bench.store.claim(claim("w.1")), "w.1"), FAILURE)

    assert bench.store.claim(claim(token=token)) == Dropped(reason="finished")
    assert bench.store.claim(claim("w.1", token=token)) == Dropped(reason="finished")


def test_an_altered_envelope_is_refused_and_changes_nothing(bench: Bench) -> None:
    """Someone who writes to the broker cannot change what a recorded step does."""
    bench.store.start(new())
    before = bench.store.workflow("w")

    assert bench.store.claim(claim(digest="of another envelope")) == Dropped(reason="altered")

    assert bench.store.workflow("w") == before
    assert types(bench.store) == ["started"]


def test_a_claim_without_digest_skips_the_comparison(bench: Bench) -> None:
    """A message that cannot be read can still fail its workflow, instead of leaving it waiting for ever."""
    bench.store.start(new())

    assert isinstance(bench.store.claim(claim(digest=None)), Claimed)


def test_a_hop_of_a_lapsed_owner_is_taken_over_with_a_higher_fence(bench: Bench) -> None:
    """A step of a killed worker runs again elsewhere."""
    bench.store.start(new())
    bench.brief.claim(claim())
    bench.lapse()

    taken = bench.store.claim(claim(owner="ben", token="t2"))

    assert isinstance(taken, Claimed)
    assert (taken.fence, taken.attempt, taken.exhausted) == (2, 2, False)
    assert bench.store.claim(claim(token="t1")) == Dropped(reason="running")


def test_an_owner_takes_its_own_lapsed_hop_for_another_delivery(bench: Bench) -> None:
    """A worker that stood still for a while can run the redelivered step itself."""
    bench.store.start(new())
    bench.brief.claim(claim())
    bench.lapse()

    taken = bench.store.claim(claim(token="t2"))

    assert isinstance(taken, Claimed)
    assert (taken.fence, taken.attempt) == (2, 2)


def test_a_token_repeated_after_a_lapse_revives_the_claim(bench: Bench) -> None:
    """A slow reply is no second run."""
    bench.store.start(new())
    first = bench.brief.claim(claim())
    bench.lapse()

    assert bench.store.claim(claim()) == first

    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")


def test_a_hop_begun_too_often_may_only_be_closed(bench: Bench) -> None:
    """A step that kills its worker each time ends as failed and does not take down one worker after another."""
    bench.store.start(new())
    for number in (1, 2):
        assert isinstance(bench.brief.claim(claim(token=f"t{number}", max_attempts=2)), Claimed)
        bench.lapse()

    spent = bench.store.claim(claim(token="t3", max_attempts=2))

    assert isinstance(spent, Claimed)
    assert (spent.fence, spent.attempt, spent.exhausted) == (3, 2, True)
    assert bench.store.claim(claim(token="t3", max_attempts=2)) == spent
    assert bench.store.fail(closing(spent), FAILURE)


def test_of_many_who_claim_at_once_one_wins(bench: Bench) -> None:
    """Copies of a message on many workers are one run."""
    bench.store.start(new())
    raw = cast("Any", bench).raw
    together = threading.Barrier(8)

    def race(number: int) -> object:
        together.wait(10)
        return raw.claim(claim(owner=f"owner-{number}", token=f"t{number}"))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(race, range(8)))

    assert sum(isinstance(answer, Claimed) for answer in answers) == 1
    assert answers.count(Dropped(reason="running")) == 7
    check_places(bench)


# RENEW


def test_a_renewed_lease_keeps_the_hop(bench: Bench) -> None:
    """A step may run far longer than the lease."""
    bench.store.start(new())
    claimed = bench.brief.claim(claim())
    bench.spend(0.5)

    assert bench.store.renew("ann", {"w.0": closing(claimed).fence}) == RenewAnswer(lost=frozenset())

    bench.spend(0.75)
    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")


def test_renewing_revives_lapsed_hops_that_nobody_took(bench: Bench) -> None:
    """A pause of a worker that nobody noticed costs nothing."""
    bench.store.start(new())
    claimed = bench.brief.claim(claim())
    bench.lapse()

    assert bench.store.renew("ann", {"w.0": closing(claimed).fence}) == RenewAnswer(lost=frozenset())

    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")
    assert bench.store.complete(completion(closing(claimed)))


def test_renewing_reports_hops_that_are_no_longer_the_owners(bench: Bench) -> None:
    """A worker that came back late cancels the run it lost, and keeps the others."""
    bench.store.start(new("kept"))
    bench.store.start(new("taken"))
    bench.store.start(new("ended"))
    kept, taken, ended = (bench.brief.claim(claim(f"{name}.0")) for name in ("kept", "taken", "ended"))
    bench.lapse()
    bench.store.claim(claim("taken.0", owner="ben"))
    bench.store.fail(closing(bench.store.claim(claim("ended.0", owner="ben")), "ended.0", owner="ben"), FAILURE)

    answer = bench.store.renew(
        "ann",
        {
            "kept.0": closing(kept).fence,
            "taken.0": closing(taken).fence,
            "ended.0": closing(ended).fence,
            "gone.0": 1,
        },
    )

    assert answer == RenewAnswer(lost=frozenset({"taken.0", "ended.0", "gone.0"}))


def test_a_hop_that_its_own_claim_closed_is_not_lost(bench: Bench) -> None:
    """A renewal between the commit and the end of the run cancels nothing."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())
    bench.store.complete(completion(closing(claimed), next_hop=hop("w.1")))

    assert bench.store.renew("ann", {"w.0": closing(claimed).fence}) == RenewAnswer(lost=frozenset())


def test_an_owner_that_runs_nothing_keeps_no_lease_alive(bench: Bench) -> None:
    """A hop whose claim was lost on the way back is taken over, though its owner lives."""
    bench.store.start(new())
    bench.brief.claim(claim())
    bench.lapse()

    assert bench.store.renew("ann", {}) == RenewAnswer(lost=frozenset(), stray={"w.0": 1})
    assert bench.store.renew("stranger", {}) == RenewAnswer(lost=frozenset())

    assert isinstance(bench.store.claim(claim(owner="ben", token="t2")), Claimed)


# COMPLETE and FAIL


def test_a_completed_hop_hands_over_to_the_next_one_in_one_step(bench: Bench) -> None:
    """No crash can leave a finished step without its successor, or a successor without its output."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())

    notes = [{"type": "itinerary_edited", "added": "1"}]
    done = completion(closing(claimed), next_hop=hop("w.1"), blobs={"draft": '"grün"'}, notes=notes)
    assert bench.store.complete(done)

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.hop_id, record.queue, record.envelope) == ("running", "w.1", "q-w.1", "envelope w.1")
    assert (record.running, record.attempt) == (False, 0)
    assert bench.store.blob("w", "draft") == '"grün"'
    events = [event.fields for event in bench.store.events("w", after=None, limit=10)]
    assert events[2:] == [
        {"type": "itinerary_edited", "hop": "w.0", "added": "1"},
        {"type": "completed", "hop": "w.0", "next_hop": "w.1"},
    ]
    assert isinstance(bench.store.claim(claim("w.1", owner="ben")), Claimed)


def test_completing_the_last_hop_completes_the_workflow(bench: Bench) -> None:
    """The result can be read from the store alone."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())

    assert bench.store.complete(completion(closing(claimed), blobs={"draft": "1"}))

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.envelope, record.hop_id, record.queue) == ("completed", "final", "w.0", "q-w.0")
    assert (record.running, record.attempt, record.failure) == (False, 1, None)
    assert bench.store.blob("w", "draft") == "1"
    assert types(bench.store) == ["started", "claimed", "completed", "workflow_completed"]


def test_a_completion_may_be_repeated(bench: Bench) -> None:
    """A commit whose reply was lost is repeated and forwards the workflow once."""
    bench.store.start(new())
    done = completion(closing(bench.store.claim(claim())), next_hop=hop("w.1"), notes=[{"type": "edited"}])
    assert bench.store.complete(done)
    bench.store.claim(claim("w.1"))
    before = bench.store.workflow("w"), types(bench.store)

    assert bench.store.complete(done)

    assert (bench.store.workflow("w"), types(bench.store)) == before


def test_the_last_completion_may_be_repeated(bench: Bench) -> None:
    """The end of a workflow is recorded once."""
    bench.store.start(new())
    done = completion(closing(bench.store.claim(claim())))
    assert bench.store.complete(done)
    before = bench.store.workflow("w"), types(bench.store)

    assert bench.store.complete(done)
    assert not bench.store.fail(done.closing, FAILURE)

    assert (bench.store.workflow("w"), types(bench.store)) == before


def test_a_late_completion_that_nobody_overtook_is_accepted(bench: Bench) -> None:
    """A paid answer is not thrown away because a lease ended a moment before."""
    bench.store.start(new())
    claimed = bench.brief.claim(claim())
    bench.lapse()

    assert bench.store.complete(completion(closing(claimed), next_hop=hop("w.1")))


def test_an_overtaken_owner_can_close_nothing(bench: Bench) -> None:
    """Of two runs of one step only one is forwarded."""
    bench.store.start(new())
    late = closing(bench.brief.claim(claim()))
    bench.lapse()
    taken = bench.store.claim(claim(owner="ben", token="t2"))
    before = bench.store.workflow("w"), types(bench.store)

    assert not bench.store.complete(completion(late, next_hop=hop("w.1")))
    assert not bench.store.fail(late, FAILURE)

    assert (bench.store.workflow("w"), types(bench.store)) == before
    assert bench.store.complete(completion(closing(taken, owner="ben"), next_hop=hop("w.1")))
    assert not bench.store.complete(completion(late, next_hop=hop("w.1")))


@pytest.mark.parametrize("wrong", [{"fence": 2}, {"owner": "ben"}, {"hop_id": "other.0"}])
def test_only_the_claim_itself_closes_a_hop(bench: Bench, wrong: Mapping[str, Any]) -> None:
    """A mistake in one worker does not end another's step."""
    bench.store.start(new())
    bench.store.claim(claim())
    stranger = Closing(**{"hop_id": "w.0", "owner": "ann", "fence": 1, **wrong})

    assert not bench.store.complete(completion(stranger))
    assert not bench.store.fail(stranger, FAILURE)

    assert types(bench.store) == ["started", "claimed"]


def test_a_queued_hop_cannot_be_closed(bench: Bench) -> None:
    """What was never claimed has no outcome."""
    bench.store.start(new())

    assert not bench.store.complete(completion(Closing(hop_id="w.0", owner="", fence=0)))
    assert not bench.store.fail(Closing(hop_id="w.0", owner="", fence=0), FAILURE)


@pytest.mark.parametrize("failure", [FAILURE, Failure(step_id=None, error_class="too_deep", text="lone \udc80")])
def test_a_failed_hop_fails_its_workflow_and_keeps_the_envelope(bench: Bench, failure: Failure) -> None:
    """The caller learns which step failed and why, and the outputs so far are not lost."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())

    assert bench.store.fail(closing(claimed), failure)
    assert bench.store.fail(closing(claimed), failure)
    assert not bench.store.complete(completion(closing(claimed)))

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.failure, record.envelope) == ("failed", failure, "envelope w.0")
    assert types(bench.store) == ["started", "claimed", "failed", "workflow_failed"]
    last = bench.store.events("w", after=None, limit=10)[-1]
    assert last.fields == {
        "type": "workflow_failed",
        "hop": "w.0",
        "step": failure.step_id or "",
        "error": failure.error_class,
    }


def test_a_large_text_comes_back_unchanged(bench: Bench) -> None:
    """Outputs in any language and of megabytes survive the store."""
    bench.store.start(new())
    text = '"' + "é\U0001f600\u202e" * 200_000 + '"'

    done = completion(closing(bench.store.claim(claim())), next_hop=hop("w.1", envelope=text), blobs={"draft": text})
    assert bench.store.complete(done)

    record = bench.store.workflow("w")
    assert record is not None
    assert record.envelope == text
    assert bench.store.blob("w", "draft") == text


# Reading


def test_what_is_not_there_is_none(bench: Bench) -> None:
    """A mistyped id is told apart from an empty result."""
    bench.store.start(new())

    assert bench.store.workflow("other") is None
    assert bench.store.blob("w", "draft") is None
    assert bench.store.blob("other", "draft") is None
    assert list(bench.store.events("other", after=None, limit=10)) == []


def test_events_are_read_on_from_a_cursor(bench: Bench) -> None:
    """A dashboard follows a workflow without reading it anew each time."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())
    first = bench.store.events("w", after=None, limit=1)
    bench.store.complete(completion(closing(claimed)))

    rest = bench.store.events("w", after=first[-1].cursor, limit=100)

    assert [event.fields["type"] for event in [*first, *rest]] == [
        "started",
        "claimed",
        "completed",
        "workflow_completed",
    ]
    assert all(event.fields["hop"] == "w.0" for event in rest)
    assert list(bench.store.events("w", after=rest[-1].cursor, limit=100)) == []
    assert list(bench.store.events("w", after=None, limit=0)) == []
    moments = [event.at for event in [*first, *rest]]
    assert moments == sorted(moments)
    assert moments[0].tzinfo is not None


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1-x", "+"])
def test_a_cursor_that_is_none_is_refused(bench: Bench, cursor: str) -> None:
    """A wrong cursor from a web request is the caller's mistake and no fault of the store."""
    bench.store.start(new())

    with pytest.raises(InvalidInput, match="bad_cursor"):
        bench.store.events("w", after=cursor, limit=1)


@pytest.mark.parametrize("cursor", ["18446744073709551616-0", "1-0.", "1-0.x", "1-0.1-0.1-0"])
def test_a_cursor_that_only_looks_like_one_is_refused(bench: Bench, cursor: str) -> None:
    """The store is not asked for what it would choke on."""
    with pytest.raises(InvalidInput, match="bad_cursor"):
        bench.store.events("w", after=cursor, limit=1)


def test_an_ended_workflow_goes_away_after_its_time(bench: Bench) -> None:
    """The store does not grow for ever, and a workflow that runs is never removed."""
    bench.store.start(new("running"))
    bench.store.start(new())
    bench.store.complete(completion(closing(bench.store.claim(claim())), next_hop=hop("w.1"), blobs={"draft": "1"}))
    bench.short_lived.complete(completion(closing(bench.store.claim(claim("w.1")), "w.1")))
    bench.expire()

    assert bench.store.workflow("w") is None
    assert bench.store.blob("w", "draft") is None
    assert types(bench.store) == []
    assert bench.store.claim(claim()) == Dropped(reason="unknown")
    assert bench.store.workflow("running") is not None
    assert bench.store.start(new(content="other")) == "started"


# The store as a whole


def test_the_first_broker_is_remembered(bench: Bench) -> None:
    """Two brokers that share a prefix by mistake are found at start-up."""
    assert bench.store.bind_broker("redis://one/0") == "redis://one/0"
    assert bench.store.bind_broker("redis://two/0") == "redis://one/0"


def test_a_closed_store_can_be_used_again(bench: Bench) -> None:
    """Shutdown order does not matter."""
    bench.store.start(new())

    bench.store.close()
    bench.store.close()

    assert bench.store.workflow("w") is not None


def test_stores_are_chosen_by_url() -> None:
    """The same code runs on a laptop and in a deployment."""
    made = [
        open_store(url, prefix="p", lease=1, ttl=1)
        for url in (
            "memory://",
            "redis://:s3cret@host:7000/2",
            "rediss://host?ssl_cert_reqs=CERT_NONE",
            "unix:///s?db=1",
        )
    ]

    assert [(store.address, store.shared) for store in made] == [
        ("memory://", False),
        ("redis://host:7000/2", True),
        ("rediss://host:6379/0", True),
        ("unix:///s?db=1", True),
    ]
    assert "s3cret" not in "".join(map(repr, made))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "sentinel://:s3cret@host:26379/0",
        "amqp://:s3cret@host",
        "redis://:s3cret@host:port/0",
        "redis://:x#s3cret@host/0",
        "redis://:1/s3cret@host/0",
        "redis://:1?s3cret@host/0",
        "redis://host/s3cret",
        "redis://:s3cret@host/0?nonsense=1",
        "redis://:s3cret@host/0?socket_timeout=long",
        "rediss://:s3cret@host/0?ssl_cert_reqs=s3cret",
    ],
)
def test_a_store_url_that_is_not_understood_is_refused_without_its_password(url: str) -> None:
    """A typing error stops the worker at start, and the password stays out of the log."""
    with pytest.raises(ConfigurationError) as caught:
        open_store(url, prefix="p", lease=1, ttl=1)

    assert "store URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


# RELEASE


def test_a_hop_that_its_owner_does_not_run_is_named_by_renew(bench: Bench) -> None:
    """The reply to a claim was lost for good, and the worker is busy with other steps."""
    for name in ("v", "w"):
        bench.store.start(new(name))
        bench.store.claim(claim(f"{name}.0"))

    assert bench.store.renew("ann", {"v.0": 1}) == RenewAnswer(lost=frozenset(), stray={"w.0": 1})
    assert bench.store.renew("ann", {"v.0": 1, "w.0": 1}) == RenewAnswer(lost=frozenset())


def test_a_released_hop_is_sent_by_the_next_sweep_and_has_its_attempt_back(bench: Bench) -> None:
    """Nobody ran it, so it must not count; and nobody waits for a lease."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())

    assert bench.store.release(closing(claimed))

    assert bench.store.sweep(host="there") == Sweep(overdue=(hop(),))
    again = bench.store.claim(claim(owner="ben", token="t2"))
    assert isinstance(again, Claimed)
    assert (again.fence, again.attempt) == (2, 1)
    assert types(bench.store) == ["started", "claimed", "released", "resent", "claimed"]


def test_the_owner_of_a_released_hop_can_write_nothing(bench: Bench) -> None:
    """It said that it does not run it; a late claim gets it anew."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())
    bench.store.release(closing(claimed))

    assert not bench.store.release(closing(claimed))
    assert not bench.store.complete(completion(closing(claimed)))
    assert not bench.store.fail(closing(claimed), FAILURE)
    assert bench.store.renew("ann", {"w.0": 1}) == RenewAnswer(lost=frozenset({"w.0"}))
    late = bench.store.claim(claim())
    assert isinstance(late, Claimed)
    assert (late.fence, late.attempt) == (2, 1)


def test_only_a_claim_that_is_open_is_released(bench: Bench) -> None:
    """A release that comes late takes nothing away."""
    bench.store.start(new())
    first = lapsed_of(bench, bench.store.claim(claim(owner="here:7")))
    second = bench.store.claim(claim(owner="ben", token="t2"))
    overtaken = bench.store.release(first)
    bench.store.complete(completion(closing(second, owner="ben")))

    assert not overtaken
    assert not bench.store.release(closing(second, owner="ben"))


def lapsed_of(bench: Bench, claimed: object) -> Closing:
    """A claim whose hop was sent again because its process is gone."""
    close = closing(claimed, owner="here:7")
    bench.store.sweep(host="here", dead=["here:7"])
    return close


# RETRY_AT, PARK, CANCEL, REDRIVE


def failed_once(bench: Bench, *, delay: float) -> Closing:
    """A workflow whose first attempt failed and waits."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))
    assert bench.store.retry_at(first, FAILURE, delay=delay)
    return first


def parked(bench: Bench) -> Closing:
    """A workflow whose hop needs a person."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))
    assert bench.store.park(first, FAILURE)
    return first


def test_a_failed_attempt_waits_for_its_time(bench: Bench) -> None:
    """A provider's outage costs no worker slot; the handle says what happened and when it goes on."""
    failed_once(bench, delay=60)

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.running, record.attempt, record.failure) == ("running", False, 1, FAILURE)
    assert record.retry_at is not None
    assert record.retry_at - record.updated_at == timedelta(seconds=60)
    assert bench.store.claim(claim(token="t2")) == Dropped(reason="waiting")
    assert bench.store.claim(claim()) == Dropped(reason="waiting")
    assert bench.store.sweep(host="there") == Sweep()
    assert types(bench.store) == ["started", "claimed", "retrying"]


def test_a_retry_is_sent_when_its_time_has_come(bench: Bench) -> None:
    """However many messages wait before it: a message of this attempt was never sent."""
    failed_once(bench, delay=60)
    bench.overdue("w.0")

    assert bench.store.sweep(host="there") == Sweep(overdue=(hop(),))

    again = bench.store.claim(claim(owner="ben", token="t2"))
    assert isinstance(again, Claimed)
    assert (again.fence, again.attempt) == (2, 2)
    record = bench.store.workflow("w")
    assert record is not None
    assert (record.running, record.retry_at, record.failure) == (True, None, None)
    assert types(bench.store) == ["started", "claimed", "retrying", "resent", "claimed"]


def test_a_retry_without_delay_is_sent_by_the_next_sweep(bench: Bench) -> None:
    """A delay may be nothing."""
    failed_once(bench, delay=0)

    assert bench.store.sweep(host="there") == Sweep(overdue=(hop(),))


def test_the_owner_of_a_failed_attempt_holds_nothing(bench: Bench) -> None:
    """A renewal that was on its way when the attempt ended does not bring it back."""
    first = failed_once(bench, delay=60)

    assert bench.store.renew("ann", {"w.0": first.fence}) == RenewAnswer(lost=frozenset())
    assert not bench.store.release(first)
    assert not bench.store.complete(completion(first))
    assert not bench.store.park(first, FAILURE)
    bench.overdue("w.0")
    bench.store.sweep(host="there")
    assert bench.store.renew("ann", {"w.0": first.fence}) == RenewAnswer(lost=frozenset({"w.0"}))
    assert not bench.store.retry_at(first, FAILURE, delay=1)


def test_an_attempt_that_lapsed_and_nobody_took_may_still_wait_or_park(bench: Bench) -> None:
    """Its worker was frozen, and is the one that knows what went wrong."""
    for name, close in (("v", bench.store.park), ("w", partial(bench.store.retry_at, delay=60.0))):
        bench.store.start(new(name))
        held = closing(bench.brief.claim(claim(f"{name}.0")), f"{name}.0")
        bench.store.sweep(host="there", dead=["ann"])

        assert close(held, FAILURE)


def test_closing_calls_that_are_repeated_change_nothing(bench: Bench) -> None:
    """The client repeats a call whose reply was lost."""
    for name, close in (("v", bench.store.park), ("w", partial(bench.store.retry_at, delay=60.0))):
        bench.store.start(new(name))
        held = closing(bench.store.claim(claim(f"{name}.0")), f"{name}.0")

        assert [close(held, FAILURE), close(held, FAILURE)] == [True, True]

        assert len(types(bench.store, name)) == 3


def test_an_overtaken_owner_neither_retries_nor_parks(bench: Bench) -> None:
    """Another worker has the step; what this one knows of it is old."""
    bench.store.start(new())
    old = closing(bench.brief.claim(claim()))
    bench.store.sweep(host="there", dead=["ann"])
    bench.store.claim(claim(owner="ben", token="t2"))

    assert not bench.store.retry_at(old, FAILURE, delay=1)
    assert not bench.store.park(old, FAILURE)

    assert types(bench.store) == ["started", "claimed", "resent", "claimed"]


def test_a_parked_workflow_waits_for_a_person(bench: Bench) -> None:
    """Nothing of it is sent or forgotten; copies of its message are dropped."""
    parked(bench)

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.failure, record.running, record.envelope) == (
        "parked", FAILURE, False, "envelope w.0",
    )  # fmt: skip
    assert bench.store.claim(claim(token="t2")) == Dropped(reason="parked")
    assert bench.store.sweep(host="there") == Sweep()
    assert types(bench.store) == ["started", "claimed", "parked"]


def test_the_records_of_a_parked_workflow_do_not_expire(bench: Bench) -> None:
    """A person may be on holiday; its letter stays, even where the message was refused before."""
    bench.store.start(new())
    bench.short_lived.bury(letter())
    bench.short_lived.bury(letter("b"))
    bench.short_lived.park(closing(bench.store.claim(claim())), FAILURE, letter())

    bench.expire()

    assert bench.store.workflow("w") is not None
    assert bench.store.dead_letter("a") is not None
    assert [found.letter_id for found in bench.store.dead_letters(after=None, limit=10)] == ["a"]


@pytest.mark.parametrize("end", ["redrive", "cancel"])
def test_the_letter_of_a_parked_hop_goes_when_it_needs_no_person_any_more(bench: Bench, end: str) -> None:
    """The list of dead letters is a list of what is to be done."""
    bench.store.start(new())
    bench.store.bury(letter("another"))
    bench.store.park(closing(bench.store.claim(claim())), FAILURE, letter())

    getattr(bench.store, end)("w")

    assert [found.letter_id for found in bench.store.dead_letters(after=None, limit=10)] == ["another"]


def test_a_hop_is_parked_with_its_letter_or_not_at_all(bench: Bench) -> None:
    """No crash comes between them, and an overtaken owner leaves none."""
    bench.store.start(new())
    old = closing(bench.brief.claim(claim()))
    bench.store.sweep(host="there", dead=["ann"])
    held = closing(bench.store.claim(claim(owner="ben", token="t2")), owner="ben")

    assert not bench.store.park(old, FAILURE, letter("late"))
    assert [bench.store.park(held, FAILURE, letter()) for _ in range(2)] == [True, True]

    assert [found.letter_id for found in bench.store.dead_letters(after=None, limit=10)] == ["a"]


def test_a_redriven_workflow_has_all_its_attempts(bench: Bench) -> None:
    """The cause is mended, and the step begins as if for the first time."""
    parked(bench)

    assert bench.store.redrive("w") == "redriven"

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.failure, record.attempt) == ("running", None, 0)
    assert bench.store.sweep(host="there") == Sweep(overdue=(hop(),))
    again = bench.store.claim(claim(owner="ben", token="t2"))
    assert isinstance(again, Claimed)
    assert (again.fence, again.attempt) == (2, 1)
    assert types(bench.store) == ["started", "claimed", "parked", "redriven", "resent", "claimed"]


def test_only_a_parked_workflow_is_redriven(bench: Bench) -> None:
    """Asking twice, or for one that runs, changes nothing."""
    parked(bench)
    bench.store.redrive("w")

    assert bench.store.redrive("w") == "not_parked"
    assert bench.store.redrive("v") == "unknown"

    assert types(bench.store)[-1] == "redriven"


@pytest.mark.parametrize("where", ["queued", "running", "waiting", "parked"])
def test_a_workflow_is_cancelled_wherever_it_stands(bench: Bench, where: str) -> None:
    """Whoever asks gets the end of it at once, and no later step begins."""
    if where in ("queued", "running"):
        bench.store.start(new())
    held = bench.store.claim(claim()) if where == "running" else None
    if where == "waiting":
        failed_once(bench, delay=60)
    if where == "parked":
        parked(bench)

    assert bench.store.cancel("w") == "cancelled"

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.failure, record.running, record.envelope) == (
        "cancelled", None, False, "envelope w.0",
    )  # fmt: skip
    assert bench.store.claim(claim(token="t2")) == Dropped(reason="cancelled")
    assert bench.store.sweep(host="there") == Sweep()
    assert types(bench.store)[-1] == "workflow_cancelled"
    if held is not None:
        assert not bench.store.complete(completion(closing(held)))
        assert not bench.store.fail(closing(held), FAILURE)
        assert bench.store.claim(claim()) == Dropped(reason="cancelled")


def test_the_owner_of_a_cancelled_hop_learns_of_it_when_it_renews(bench: Bench) -> None:
    """A run that nobody wants stops within one renewal, and is told why."""
    for name in ("v", "w"):
        bench.store.start(new(name))
        bench.store.claim(claim(f"{name}.0"))
    bench.store.cancel("w")

    answer = bench.store.renew("ann", {"v.0": 1, "w.0": 1})

    assert answer == RenewAnswer(lost=frozenset({"w.0"}), cancelled=frozenset({"w.0"}))
    assert bench.store.renew("ann", {"v.0": 1, "w.0": 1}) == answer


def test_cancelling_again_or_too_late_changes_nothing(bench: Bench) -> None:
    """A call whose reply was lost is repeated; an output that is recorded stays."""
    bench.store.start(new("v"))
    bench.store.complete(completion(closing(bench.store.claim(claim("v.0")), "v.0")))
    bench.store.start(new())
    bench.store.cancel("w")

    assert [bench.store.cancel(name) for name in ("u", "v", "w")] == ["unknown", "ended", "cancelled"]

    assert types(bench.store) == ["started", "workflow_cancelled"]


def test_a_cancelled_workflow_expires_as_an_ended_one(bench: Bench) -> None:
    """Its record is kept for as long as that of one that completed."""
    bench.store.start(new())
    bench.short_lived.cancel("w")

    bench.expire()

    assert bench.store.workflow("w") is None


# SWEEP


def resent(found: Sweep) -> list[str]:
    return [again.hop_id for again in found.overdue]


def test_the_hop_of_a_lapsed_owner_is_sent_again_and_runs_elsewhere(bench: Bench) -> None:
    """A machine is lost in the middle of a step; its lease ends and another one runs the step."""
    bench.store.start(new())
    bench.brief.claim(claim())
    before = bench.store.sweep(host="there")
    bench.lapse_swept()

    found = bench.store.sweep(host="there")

    assert (before, found) == (Sweep(), Sweep(overdue=(hop(),)))
    record = bench.store.workflow("w")
    assert record is not None
    assert not record.running
    again = bench.store.claim(claim(owner="ben", token="t2"))
    assert isinstance(again, Claimed)
    assert (again.fence, again.attempt) == (2, 2)
    assert types(bench.store) == ["started", "claimed", "resent", "claimed"]


def lapsed(bench: Bench) -> Claimed:
    """The claim of a hop whose owner is gone, after it was sent again."""
    bench.store.start(new())
    claimed = bench.store.claim(claim(owner="here:7"))
    assert isinstance(claimed, Claimed)
    assert bench.store.sweep(host="here", dead=["here:7"]) == Sweep(overdue=(hop(),))
    return claimed


def test_the_hop_of_a_dead_process_does_not_wait_for_its_lease(bench: Bench) -> None:
    """A worker that was killed is missed at once by one on the same machine."""
    for name, owner in (("w", "here:7"), ("v", "there:7")):
        bench.store.start(new(name))
        bench.store.claim(claim(f"{name}.0", owner=owner))

    seen = bench.store.sweep(host="here")
    found = bench.store.sweep(host="here", dead=["here:7"])

    assert (seen, found) == (Sweep(owners=("here:7",)), Sweep(overdue=(hop(),)))
    assert bench.store.sweep(host="here", dead=["here:7"]) == Sweep()


def test_an_owner_that_comes_back_before_anyone_took_its_hop_has_it_again(bench: Bench) -> None:
    """A worker that was frozen for a minute goes on, and no model call is made twice."""
    claimed = lapsed(bench)

    assert bench.store.renew("here:7", {"w.0": claimed.fence}) == RenewAnswer(lost=frozenset())

    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")
    assert bench.store.complete(completion(closing(claimed, owner="here:7")))


def test_a_completion_after_the_hop_was_sent_again_is_accepted_while_nobody_took_it(bench: Bench) -> None:
    """What a model was paid for is kept, also where the lease ended meanwhile."""
    claimed = lapsed(bench)

    assert bench.store.complete(completion(closing(claimed, owner="here:7"), next_hop=hop("w.1")))

    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="finished")
    record = bench.store.workflow("w")
    assert record is not None
    assert record.hop_id == "w.1"


def test_an_owner_whose_lapsed_hop_was_taken_can_write_nothing(bench: Bench) -> None:
    """Two workers ran the step, and one output counts."""
    claimed = lapsed(bench)
    bench.store.claim(claim(owner="ben", token="t2"))

    assert bench.store.renew("here:7", {"w.0": claimed.fence}) == RenewAnswer(lost=frozenset({"w.0"}))
    assert not bench.store.complete(completion(closing(claimed, owner="here:7")))
    assert not bench.store.fail(closing(claimed, owner="here:7"), FAILURE)


def test_a_claim_whose_reply_was_lost_gets_its_answer_after_the_lease_too(bench: Bench) -> None:
    """The client repeats the call late, and nobody else was given the hop."""
    claimed = lapsed(bench)

    assert bench.store.claim(claim(owner="here:7")) == claimed

    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")


def test_an_overdue_hop_is_sent_again_when_its_queue_is_empty(bench: Bench) -> None:
    """Its message was lost between broker and worker, where no acknowledgement is missed."""
    bench.store.start(new())
    early = bench.store.sweep(host="there")
    bench.overdue("w.0")
    bench.next_second()

    asked = bench.store.sweep(host="there")
    found = bench.store.sweep(host="there", queues={"q-w.0": True})

    assert (early, asked) == (Sweep(), Sweep(queues=("q-w.0",)))
    assert found == Sweep(overdue=(hop(),))
    assert bench.store.sweep(host="there", queues={"q-w.0": True}) == Sweep()


def test_an_overdue_hop_behind_others_is_not_sent_again(bench: Bench) -> None:
    """A queue that is worked off slowly is not made longer by copies."""
    bench.store.start(new())
    bench.overdue("w.0")

    assert bench.store.sweep(host="there", queues={"q-w.0": False}) == Sweep()

    bench.next_second()
    assert bench.store.sweep(host="there") == Sweep()


def test_a_hop_that_later_ones_have_overtaken_is_sent_again(bench: Bench) -> None:
    """Its message was lost while the queue is full of others."""
    for name in ("first", "second", "third"):
        bench.store.start(new(name, queue="shared"))
    assert isinstance(bench.store.claim(claim("second.0")), Claimed)
    for name in ("first", "third"):
        bench.overdue(f"{name}.0")

    found = bench.store.sweep(host="there")

    assert (resent(found), found.queues) == (["first.0"], ("shared",))


def test_a_message_that_comes_after_its_hop_was_sent_again_overtakes_nobody(bench: Bench) -> None:
    """A worker is killed before a long queue, and the broker puts its message back at the head of it.

    Were the copy at the end taken for the one that came, all others would count as lost, and be sent once more.
    """
    for name in ("first", "second", "third"):
        bench.store.start(new(name, queue="shared"))
    bench.store.claim(claim("first.0", owner="here:7"))
    copied = bench.store.sweep(host="here", dead=["here:7"])

    assert isinstance(bench.store.claim(claim("first.0", owner="ben", token="t2")), Claimed)

    for name in ("second", "third"):
        bench.overdue(f"{name}.0")
    bench.next_second()
    assert resent(copied) == ["first.0"]
    assert bench.store.sweep(host="there") == Sweep(queues=("shared",))
    assert bench.store.sweep(host="there", queues={"shared": False}) == Sweep()


def test_no_backlog_stands_before_a_retry_or_a_hop_that_was_given_back(bench: Bench) -> None:
    """Thousands of hops that wait for few workers hold nobody up who waits for something else."""
    store = cast("Any", bench).raw  # where each hop is, is looked up after each call of the other
    for name in ("retried", "released", "redriven"):
        store.start(new(name))
    for number in range(BACKLOG):
        store.start(new(f"w{number}", queue="shared"))
        bench.overdue(f"w{number}.0")
    claims = {
        hop_id: closing(store.claim(claim(hop_id)), hop_id) for hop_id in ("retried.0", "released.0", "redriven.0")
    }
    store.retry_at(claims["retried.0"], FAILURE, delay=0)
    store.release(claims["released.0"])
    store.park(claims["redriven.0"], FAILURE)
    store.redrive("redriven")

    found = store.sweep(host="there")

    assert sorted(resent(found)) == ["redriven.0", "released.0", "retried.0"]
    assert found.queues == ("shared",)


def test_one_pass_is_made_in_a_second_whoever_asks(bench: Bench) -> None:
    """A hundred workers sweep no more than one."""
    bench.store.start(new())
    bench.store.sweep(host="there")
    bench.overdue("w.0")

    same_second = [bench.store.sweep(host=host).queues for host in ("here", "there")]
    bench.next_second()
    next_second = [bench.store.sweep(host=host).queues for host in ("here", "there")]

    assert (same_second, next_second) == ([(), ()], [("q-w.0",), ()])


def test_a_pass_sends_a_hundred_hops_at_most(bench: Bench) -> None:
    """After a long outage the broker is not flooded."""
    for number in range(130):
        bench.store.start(new(f"w{number}", queue="shared"))
        bench.overdue(f"w{number}.0")

    passes = [resent(bench.store.sweep(host="there", queues={"shared": True})) for _ in range(3)]

    assert [len(each) for each in passes] == [100, 30, 0]
    assert len({hop_id for each in passes for hop_id in each}) == 130


def test_after_an_outage_nobody_takes_over_what_runs(bench: Bench) -> None:
    """The store was away for all; every run in flight would begin a second time."""
    bench.brief.start(new())
    claimed = bench.brief.claim(claim())
    bench.brief.sweep(host="there")
    bench.lapse()
    for _ in range(3):
        bench.next_second()

    assert bench.brief.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")
    assert bench.brief.sweep(host="there") == Sweep()
    assert bench.brief.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")

    assert bench.brief.renew("ann", {"w.0": closing(claimed).fence}) == RenewAnswer(lost=frozenset())
    assert bench.brief.complete(completion(closing(claimed)))


def test_an_owner_that_does_not_come_back_after_an_outage_is_replaced(bench: Bench) -> None:
    """The hold ends after one lease."""
    bench.brief.start(new())
    bench.brief.claim(claim())
    bench.brief.sweep(host="there")
    bench.lapse()
    for _ in range(3):
        bench.next_second()
    held = bench.brief.sweep(host="there")
    bench.spend(1.0)
    bench.lapse_swept()

    assert held == Sweep()
    assert isinstance(bench.store.claim(claim(owner="ben", token="t2")), Claimed)


# RECORD and the journal


def test_a_journal_holds_what_its_owner_recorded(bench: Bench) -> None:
    """Whoever runs the hop next need not ask a model again for what it has answered."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))

    assert bench.store.journal("w.0") == {}
    assert bench.store.record(first, {"call 1": '{"v":1}'})
    assert bench.store.record(first, {"call 2": "two \U0001f600", "call 3": "3"})
    assert bench.store.record(first, {"call 2": "two \U0001f600"})

    assert bench.store.journal("w.0") == {"call 1": '{"v":1}', "call 2": "two \U0001f600", "call 3": "3"}
    assert bench.store.journal("w.1") == {}


@pytest.mark.parametrize("end", ["release", "retry_at", "park", "lapse"])
def test_a_journal_outlives_the_attempt(bench: Bench, end: str) -> None:
    """That is what it is for."""
    bench.store.start(new())
    first = closing(bench.brief.claim(claim()))
    bench.store.record(first, {"call": "1"})

    if end == "release":
        bench.store.release(first)
    elif end == "retry_at":
        bench.store.retry_at(first, FAILURE, delay=1)
    elif end == "park":
        bench.store.park(first, FAILURE)
        bench.store.redrive("w")
    else:
        bench.lapse_swept()
        bench.store.sweep(host="there")

    assert bench.store.journal("w.0") == {"call": "1"}


def test_who_was_overtaken_records_nothing(bench: Bench) -> None:
    """A worker that was cut off for a while must not mix its answers with those of the run that goes on."""
    bench.store.start(new())
    first = closing(bench.brief.claim(claim()))
    bench.lapse_swept()
    bench.store.sweep(host="there")
    second = closing(bench.store.claim(claim(owner="bob", token="t2")), owner="bob")

    assert not bench.store.record(first, {"late": "1"})
    assert bench.store.record(second, {"call": "2"})

    assert bench.store.journal("w.0") == {"call": "2"}


def test_an_owner_whose_lease_lapsed_untaken_still_records(bench: Bench) -> None:
    """Nobody else runs the hop; what was paid for is kept."""
    bench.store.start(new())
    first = closing(bench.brief.claim(claim()))
    bench.lapse_swept()
    bench.store.sweep(host="there")

    assert bench.store.record(first, {"call": "1"})

    assert bench.store.journal("w.0") == {"call": "1"}


@pytest.mark.parametrize("end", ["complete", "fail", "retry_at", "park", "cancel", "release"])
def test_nothing_is_recorded_for_a_hop_that_is_closed(bench: Bench, end: str) -> None:
    """What a run does after it was given up is no part of the next attempt, but for one whose hop waits untaken."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))
    ending(bench, close)[end]()

    assert not bench.store.record(close, {"late": "1"})

    assert bench.store.journal("w.0") == {}


def ending(bench: Bench, close: Closing) -> Mapping[str, Callable[[], object]]:
    """All ways in which a hop is closed or given back."""
    return {
        "complete": lambda: bench.store.complete(completion(close, next_hop=hop("w.1"))),
        "fail": lambda: bench.store.fail(close, FAILURE),
        "retry_at": lambda: bench.store.retry_at(close, FAILURE, delay=60),
        "park": lambda: bench.store.park(close, FAILURE),
        "cancel": lambda: bench.store.cancel("w"),
        "release": lambda: bench.store.release(close),
    }


def test_a_redriven_hop_begins_anew_where_its_journal_is_discarded(bench: Bench) -> None:
    """The way out where the code changed so that it cannot go on."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))
    bench.store.record(first, {"call": "1"})
    bench.store.park(first, FAILURE)

    assert bench.store.redrive("w", discard_journal=True) == "redriven"

    assert bench.store.journal("w.0") == {}
    assert bench.store.events("w", after=None, limit=10)[-1].fields == {
        "type": "redriven", "hop": "w.0", "journal": "discarded",
    }  # fmt: skip


def test_a_journal_goes_with_its_workflow(bench: Bench) -> None:
    """Records of an ended workflow are of no use to anybody."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))
    bench.store.record(first, {"call": "1"})
    bench.short_lived.complete(completion(first))

    bench.expire()

    assert bench.store.journal("w.0") == {}


# PUBLISH, and what an agent shows while it runs


def told(number: int) -> dict[str, str]:
    return {"event": "text", "data": f"part {number}"}


def numbers(events: Sequence[StoredEvent]) -> list[int]:
    return [int(event.fields["data"].split()[1]) for event in events if event.fields["type"] == "agent"]


def a_story(bench: Bench) -> list[str]:
    """Two hops that publish, one of them twice, and at once; returns what must be read, in this order."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))
    bench.store.publish(first, [told(1), told(2)])
    bench.store.publish(first, [told(3)])
    bench.store.complete(completion(first, next_hop=hop("w.1")))
    second = closing(bench.store.claim(claim("w.1")), "w.1")
    bench.store.publish(second, [told(4)])
    bench.store.complete(completion(second))
    return ["started", "claimed", *["agent"] * 3, "completed", "claimed", "agent", "completed", "workflow_completed"]


def test_what_an_agent_publishes_is_read_among_the_events_of_its_workflow(bench: Bench) -> None:
    """Who watches a workflow sees the text grow between the step's begin and its end, however fast it all was."""
    story = a_story(bench)

    events = bench.store.events("w", after=None, limit=100)

    assert [event.fields["type"] for event in events] == story
    assert [dict(event.fields) for event in events if event.fields["type"] == "agent"] == [
        {"type": "agent", "hop": hop_id, **told(number)}
        for number, hop_id in ((1, "w.0"), (2, "w.0"), (3, "w.0"), (4, "w.1"))
    ]
    moments = [event.at for event in events]
    assert max(moments) - min(moments) < timedelta(minutes=1)
    assert len({event.cursor for event in events}) == len(events)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_reading_on_from_any_cursor_gives_exactly_what_follows(bench: Bench, limit: int) -> None:
    """A browser that connects again misses nothing and shows nothing twice."""
    a_story(bench)
    everything = list(bench.store.events("w", after=None, limit=100))

    for read, event in enumerate(everything, start=1):
        found = list(bench.store.events("w", after=event.cursor, limit=limit))
        assert found == everything[read : read + limit]


def test_who_follows_while_agents_publish_misses_and_repeats_nothing(bench: Bench) -> None:
    """Both are written many times in one millisecond, and read in between."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))

    def write() -> None:
        for number in range(100):
            bench.raw.publish(close, [told(2 * number), told(2 * number + 1)])
        bench.raw.complete(completion(close, notes=[{"n": str(number)} for number in range(100)]))

    with ThreadPoolExecutor(1) as writer:
        written, found, after = writer.submit(write), list[StoredEvent](), None
        while not found or found[-1].fields["type"] != "workflow_completed":
            batch = bench.raw.events("w", after=after, limit=7)
            found.extend(batch)
            after = batch[-1].cursor if batch else after
        written.result()

    assert numbers(found) == list(range(200))
    assert [event.fields["n"] for event in found if event.fields["type"] == "note"] == [str(n) for n in range(100)]
    assert found == list(bench.store.events("w", after=None, limit=1000))


def test_a_cursor_of_a_version_without_streams_is_read_on_from(bench: Bench) -> None:
    """A deployment that is updated disturbs nobody who follows a workflow."""
    a_story(bench)
    started, claimed, *rest = bench.store.events("w", after=None, limit=100)

    assert re.fullmatch("[0-9]+-[0-9]+", started.cursor)
    assert re.fullmatch("[0-9]+-[0-9]+", claimed.cursor)
    assert list(bench.store.events("w", after=claimed.cursor, limit=100)) == rest


def test_the_oldest_of_too_much_that_is_published_gives_way_and_is_counted(bench: Bench) -> None:
    """An agent that talks for hours fills no server, and nobody takes the rest for the whole."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))
    bench.store.publish(close, [told(number) for number in range(10)])
    early = bench.store.events("w", after=None, limit=7)[-1].cursor
    assert numbers(bench.store.events("w", after=early, limit=1)) == [5]
    for begin in range(10, 12_010, 500):
        bench.store.publish(close, [told(number) for number in range(begin, begin + 500)])

    (dropped, *kept), read = everything_after(bench, early), 5

    first = numbers(kept)[0]
    assert dropped.fields == {"type": "events_dropped", "hop": "w.0", "count": str(first - read)}
    assert numbers(kept) == list(range(first, 12_010))
    assert 10_000 <= len(kept) < 10_200
    assert everything_after(bench, dropped.cursor) == kept
    assert everything_after(bench, kept[0].cursor) == kept[1:]
    assert [event.fields["type"] for event in everything_after(bench, None)[:3]] == [
        "started", "claimed", "events_dropped",
    ]  # fmt: skip


def everything_after(bench: Bench, after: str | None) -> list[StoredEvent]:
    return list(bench.store.events("w", after=after, limit=20_000))


def test_who_was_overtaken_publishes_nothing(bench: Bench) -> None:
    """Two attempts do not talk at once."""
    bench.store.start(new())
    first = closing(bench.brief.claim(claim()))
    bench.lapse_swept()
    bench.store.sweep(host="there")
    assert bench.store.publish(first, [told(1)])  # nobody has taken it over yet
    second = closing(bench.store.claim(claim(owner="bob", token="t2")), owner="bob")

    assert not bench.store.publish(first, [told(2)])
    assert bench.store.publish(second, [told(3)])

    assert numbers(bench.store.events("w", after=None, limit=100)) == [1, 3]


@pytest.mark.parametrize("end", ["complete", "fail", "retry_at", "park", "cancel", "release"])
def test_nothing_is_published_for_a_hop_that_is_closed(bench: Bench, end: str) -> None:
    """A run that was given up shows nothing any more."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))
    ending(bench, close)[end]()
    before = types(bench.store)

    assert not bench.store.publish(close, [told(1)])

    assert types(bench.store) == before


def test_what_was_published_goes_with_its_workflow(bench: Bench) -> None:
    """It is there for as long as the result."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))
    bench.store.publish(close, [told(1)])
    bench.short_lived.complete(completion(close))

    bench.expire()

    assert list(bench.store.events("w", after=None, limit=100)) == []


# Only Redis


def test_a_record_that_cannot_be_read_is_named_once_and_stops_no_sweep(on_redis: RedisBench) -> None:
    """Whatever another program wrote, the other workflows are looked after."""
    for name in ("broken", "sound"):
        on_redis.raw.start(new(name))
        on_redis.overdue(f"{name}.0")
    on_redis.client.hdel(on_redis.key("hop", "broken.0"), "envelope")
    queues = {"q-broken.0": True, "q-sound.0": True}

    found = on_redis.raw.sweep(host="there", queues=queues)

    assert found == Sweep(overdue=(hop("sound.0"),), corrupted=(on_redis.key("hop", "broken.0"),))
    assert on_redis.raw.sweep(host="there", queues=queues) == Sweep()


def test_an_answer_of_the_sweep_holds_a_few_large_envelopes(on_redis: RedisBench) -> None:
    """A hundred of a mebibyte each would not cross within the socket timeout."""
    for number in range(12):
        large = hop(f"w{number}.0", envelope="x" * 2**20, queue="shared")
        on_redis.raw.start(NewWorkflow(correlation_id=f"w{number}", content="same", hop=large))
        on_redis.overdue(f"w{number}.0")

    passes = [len(on_redis.raw.sweep(host="there", queues={"shared": True}).overdue) for _ in range(4)]

    assert passes == [4, 4, 4, 0]


def test_no_record_outlives_its_workflow(on_redis: RedisBench) -> None:
    """Redis does not fill with leftovers of finished runs."""
    ends: Mapping[str, Callable[[Closing], bool]] = {
        "done": lambda last: on_redis.store.complete(completion(last)),
        "failed": lambda last: on_redis.store.fail(last, FAILURE),
    }
    for name, end in ends.items():
        on_redis.store.start(new(name))
        first = closing(on_redis.store.claim(claim(f"{name}.0")), f"{name}.0")
        on_redis.store.record(first, {"call": "1"})
        on_redis.store.publish(first, [told(1)])
        on_redis.store.complete(completion(first, next_hop=hop(f"{name}.1"), blobs={"draft": "1"}))
        last = closing(on_redis.store.claim(claim(f"{name}.1")), f"{name}.1")
        assert end(last)

    keys = sorted(on_redis.client.scan_iter(on_redis.key("*")))

    left = {key.removeprefix(on_redis.prefix + ":"): on_redis.client.pttl(key) for key in keys}
    assert (left.pop("sent"), left.pop("reached")) == (-1, -1)  # a number for each queue, no workflow's
    kinds = ("wf", "hops", "events", "stream", "blob")
    expected = {f"{kind}:{name}" for kind in kinds for name in ("done", "failed")}
    expected |= {f"hop:{name}.{place}" for name in ("done", "failed") for place in (0, 1)}
    assert set(left) == expected | {"journal:done.0", "journal:failed.0"}
    assert all(TTL * 900 < ttl <= TTL * 1000 for ttl in left.values())
    for name in ("done", "failed"):
        ends_at = {on_redis.client.pexpiretime(key) for key in keys if name in key}
        assert len(ends_at) == 1
    assert not on_redis.client.hexists(on_redis.key("hop", "done.0"), "envelope")


def test_a_queued_hop_becomes_due(on_redis: RedisBench) -> None:
    """A step whose message was lost can be found and sent again."""
    before = on_redis.now()

    on_redis.store.start(new())

    due = cast("float", on_redis.client.zscore(on_redis.key("due"), "w.0"))
    assert before + 5000 - 1 <= due <= on_redis.now() + 5000


def test_a_thousand_hops_are_renewed_in_one_call(own_redis: Callable[..., Any]) -> None:
    """The lease of a worker that runs a thousand agents costs one round trip."""
    fences, bench = {}, RedisBench(own_redis().url, "p")
    for number in range(1000):
        bench.raw.start(new(f"w{number}"))
        fences[f"w{number}.0"] = closing(bench.raw.claim(claim(f"w{number}.0"))).fence
    bench.raw.renew("ann", {})  # loads the script
    bench.client.config_resetstat()

    answer = bench.raw.renew("ann", {**fences, "w7.0": 2, "none.0": 1})

    assert answer == RenewAnswer(lost=frozenset({"w7.0", "none.0"}))
    calls = cast("Mapping[str, Mapping[str, int]]", bench.client.info("commandstats"))
    sent = {name: calls[name]["calls"] for name in calls if name.startswith("cmdstat_eval")}
    assert sent == {"cmdstat_evalsha": 1}
    bench.close()


def test_a_call_whose_reply_was_lost_is_repeated_and_runs_once(
    on_redis: RedisBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network error at the wrong moment neither loses a step nor runs it twice."""
    on_redis.raw.start(new())
    lost = losing_one_reply(monkeypatch)

    claimed = on_redis.raw.claim(claim())

    assert lost[0][0] == "claimed"
    assert isinstance(claimed, Claimed)
    assert (claimed.fence, claimed.attempt) == (1, 1)
    assert types(on_redis.raw) == ["started", "claimed"]


def test_what_is_published_is_there_once_where_the_reply_was_lost(
    on_redis: RedisBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads a sentence twice because the network failed."""
    on_redis.raw.start(new())
    close = closing(on_redis.raw.claim(claim()))
    on_redis.raw.publish(close, [told(1)])  # the server has the script now
    lost = losing_one_reply(monkeypatch)

    assert on_redis.raw.publish(close, [told(2)])

    assert lost == [1]
    assert on_redis.raw.publish(close, [told(3)])
    assert numbers(on_redis.raw.events("w", after=None, limit=100)) == [1, 2, 3]


def losing_one_reply(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let the next reply be lost on its way; returns the list that it is put into."""
    read = redis.Connection.read_response
    lost: list[Any] = []

    def lose_one(self: Any, *arguments: Any, **named: Any) -> Any:
        reply = read(self, *arguments, **named)
        if not lost:
            lost.append(reply)
            self.disconnect()
            raise redis.ConnectionError("the reply was lost")
        return reply

    monkeypatch.setattr(redis.Connection, "read_response", lose_one)
    return lost


def test_scripts_that_the_server_forgot_are_loaded_again(on_redis: RedisBench) -> None:
    """A restart or failover of Redis needs no restart of the workers."""
    on_redis.store.start(new())

    on_redis.client.script_flush()

    assert isinstance(on_redis.store.claim(claim()), Claimed)


WHO_NOTICES = {
    "due": ["start", "claim", "renew", "complete", "fail", "sweep"],
    "sent": ["start", "complete", "sweep"],
    "reached": ["claim", "sweep"],
    "host:ann": ["claim", "renew", "complete", "fail"],
    "owners": ["claim", "renew", "complete", "fail", "sweep"],
    "owner:ann": ["claim", "renew", "complete", "fail"],
    "events:w": ["start", "claim", "publish", "complete", "fail", "events"],
    "stream:w": ["publish", "events"],
    "wf:w": ["start", "claim", "complete", "fail", "workflow"],
    "hop:w.0": ["start", "claim", "renew", "record", "publish", "complete"],
    "journal:w.0": ["record", "journal"],
    "hops:w": ["start", "complete", "fail"],
    "blob:w": ["complete", "fail", "blob"],
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
    """As by the calls of a workflow in which nothing goes wrong."""
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


@pytest.mark.parametrize("key", WHO_NOTICES)
def test_a_key_of_another_type_is_reported_and_nothing_is_half_done(on_redis: RedisBench, key: str) -> None:
    """Another program that writes under our prefix cannot make the records contradict each other."""
    store = on_redis.raw
    first, second = (Closing(hop_id=f"w.{place}", owner="ann", fence=1) for place in (0, 1))
    calls: Mapping[str, Callable[[], object]] = {
        "start": lambda: store.start(new()),
        "claim": lambda: store.claim(claim()),
        "renew": lambda: store.renew("ann", {"w.0": 1}),
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
    """Make each call (but some) while the key is not ours, then rightly; return which of them reported it."""
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


def everything(on_redis: RedisBench) -> dict[str, object]:
    client: Any = on_redis.client
    return {key: client.execute_command("DUMP", key, NEVER_DECODE=True) for key in client.scan_iter(on_redis.key("*"))}


@pytest.mark.parametrize(
    "damage",
    [{"fence": "x"}, {"attempt": "x"}, {"state": "odd"}, {"state": "running"}, {"workflow": None}, {"state": None}],
)
def test_a_hop_with_rubbish_in_its_record_is_reported(on_redis: RedisBench, damage: Mapping[str, str | None]) -> None:
    """A damaged record is named, so that a person can mend it; the worker lives on."""
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
    ("name", "value"), [("state", "odd"), ("created_at", "x"), ("failure", "{"), ("content", b"\xff"), ("hop", None)]
)
def test_a_workflow_with_rubbish_in_its_record_is_reported(
    on_redis: RedisBench, name: str, value: str | bytes | None
) -> None:
    """A handle says what is wrong with the record instead of raising something unreadable."""
    on_redis.raw.start(new())
    key = on_redis.key("wf", "w")
    if value is None:
        on_redis.client.hdel(key, name)
    else:
        on_redis.client.hset(key, name, value)

    with pytest.raises(StoreCorrupt, match="wf:w"):
        on_redis.raw.workflow("w")


def test_an_unreachable_store_is_named_without_its_password() -> None:
    """The log says which server is down, and nothing secret."""
    store = RedisStore("redis://user:s3cret@127.0.0.1:1/3", prefix="p", lease=LEASE, ttl=TTL)

    with pytest.raises(Unreachable) as caught:
        store.claim(claim())

    assert (caught.value.what, caught.value.address, caught.value.cause) == (
        "store",
        "redis://127.0.0.1:1/3",
        "ConnectionError",
    )
    assert "s3cret" not in "".join((str(caught.value), repr(caught.value), repr(store), str(caught.value.__cause__)))


def test_a_wrong_password_is_named_without_it(own_redis: Callable[..., Any]) -> None:
    """A mistyped secret is found at start-up and is not printed."""
    server = own_redis("--requirepass", "right")
    store = RedisStore(server.url.replace("//", "//:s3cret@"), prefix="p", lease=LEASE, ttl=TTL)

    with pytest.raises(Unreachable, match="AuthenticationError") as caught:
        store.check(allow_eviction=False)

    assert "s3cret" not in str(caught.value) + str(caught.value.__cause__)
    store.close()


def test_a_store_that_comes_back_is_used_again(own_redis: Callable[..., Any]) -> None:
    """A restart of Redis with an append-only file loses no workflow and needs no restart of the workers."""
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    store = RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL)
    store.start(new())
    claimed = store.claim(claim())

    server.stop()
    with pytest.raises(Unreachable):
        store.renew("ann", {"w.0": 1})
    server.start()

    assert store.claim(claim()) == claimed
    assert store.complete(completion(closing(claimed)))
    store.close()


def test_a_server_that_hangs_costs_seconds_and_not_a_lease(own_redis: Callable[..., Any]) -> None:
    """A stalled Redis is noticed while there is still time to renew."""
    server = own_redis()
    store = RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL)
    store.start(new())
    os.kill(server.pid, signal.SIGSTOP)
    begun = time.monotonic()

    try:
        with pytest.raises(Unreachable, match="TimeoutError"):
            store.workflow("w")
        assert time.monotonic() - begun < 5
    finally:
        os.kill(server.pid, signal.SIGCONT)
        store.close()


def test_a_full_store_refuses_new_work_and_lets_workflows_end(own_redis: Callable[..., Any]) -> None:
    """Nothing is half recorded when memory runs out, and finishing what runs frees it."""
    server = own_redis("--maxmemory-policy", "noeviction")
    bench = RedisBench(server.url, "p")
    for name in ("a", "b", "c"):
        bench.store.start(new(name))
    held = {name: closing(bench.store.claim(claim(f"{name}.0")), f"{name}.0") for name in ("a", "b")}
    bench.client.config_set("maxmemory", "1")
    before = everything(bench)

    for refused in (
        lambda: bench.store.start(new("d")),
        lambda: bench.store.claim(claim("c.0")),
        lambda: bench.store.complete(completion(held["a"], next_hop=hop("a.1"))),
        lambda: bench.store.complete(completion(held["a"], blobs={"draft": "1"})),
        lambda: bench.store.record(held["a"], {"call": "1"}),
        lambda: bench.store.publish(held["a"], [told(1)]),
    ):
        with pytest.raises(TransientError, match="full"):
            refused()
    assert everything(bench) == before

    assert bench.store.complete(completion(held["a"]))
    assert bench.store.fail(held["b"], FAILURE)
    record = bench.store.workflow("b")
    assert record is not None
    assert record.state == "failed"
    bench.close()


def test_a_demoted_primary_is_away_and_not_corrupt(own_redis: Callable[..., Any]) -> None:
    """During a failover workers wait; they do not park sound workflows."""
    server = own_redis()
    store = RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL)
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("REPLICAOF", "127.0.0.1", free_port())

        with pytest.raises(Unreachable, match="ReadOnlyError"):
            store.start(new())

        admin.execute_command("REPLICAOF", "NO", "ONE")
    assert store.start(new()) == "started"
    store.close()


def test_a_command_that_is_not_permitted_is_named_as_such(own_redis: Callable[..., Any]) -> None:
    """Missing rights on the server are not mistaken for damaged records."""
    server = own_redis()
    with redis.Redis.from_url(server.url) as admin:
        admin.acl_setuser("app", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-hset"])
    store = RedisStore(server.url.replace("//", "//app:any@"), prefix="p", lease=LEASE, ttl=TTL)

    with pytest.raises(Unreachable, match=r"\(ACL failure.*hset|NoPermissionError") as caught:
        store.start(new())

    assert "envelope" not in str(caught.value)
    store.close()


def test_a_server_that_may_evict_is_refused_unless_allowed(own_redis: Callable[..., Any]) -> None:
    """Workflows do not vanish because a cache setting was inherited."""
    server = own_redis("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "yes")
    store = RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL)

    with pytest.raises(ConfigurationError, match=r"maxmemory-policy allkeys-lru.*paigeant_allow_eviction"):
        store.check(allow_eviction=False)
    (warning,) = store.check(allow_eviction=True)

    assert "paigeant_allow_eviction" in warning
    store.close()


def test_a_server_without_append_only_file_is_warned_about(own_redis: Callable[..., Any]) -> None:
    """The operator knows that a restart of Redis loses workflows."""
    lasting, fleeting = own_redis("--appendonly", "yes"), own_redis()
    stores = [RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL) for server in (lasting, fleeting)]

    assert list(stores[0].check(allow_eviction=False)) == []
    (warning,) = stores[1].check(allow_eviction=False)

    assert "appendonly" in warning
    for store in stores:
        store.close()


def test_a_server_that_hides_its_configuration_is_warned_about(own_redis: Callable[..., Any]) -> None:
    """A managed Redis works, and says what nobody could check."""
    server = own_redis()
    with redis.Redis.from_url(server.url) as admin:
        admin.acl_setuser(
            "app", enabled=True, nopass=True, keys=["p:*"], categories=["+@all"], commands=["-config", "-info"]
        )
    store = RedisStore(server.url.replace("//", "//app:any@"), prefix="p", lease=LEASE, ttl=TTL)

    (warning,) = store.check(allow_eviction=False)

    assert "CONFIG GET" in warning
    assert store.start(new()) == "started"
    store.close()


def test_a_cluster_is_refused(own_redis: Callable[..., Any]) -> None:
    """What cannot work is said at the start, with what can."""
    server = own_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    store = RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL)

    with pytest.raises(ConfigurationError, match="Redis Cluster"):
        store.check(allow_eviction=False)

    store.close()


def test_records_of_another_format_are_refused(on_redis: RedisBench) -> None:
    """An old worker beside new ones stops at start-up instead of misreading records."""
    on_redis.store.bind_broker("redis://one/0")
    on_redis.store.check(allow_eviction=True)
    on_redis.client.hset(on_redis.key("meta"), "format", "2")

    with pytest.raises(ConfigurationError, match="format '2'"):
        on_redis.store.check(allow_eviction=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_opens_its_own_connections(on_redis: RedisBench) -> None:
    """Prefork children do not read each other's replies."""
    on_redis.raw.start(new())
    before = connection_of(on_redis.raw)

    told = in_child(lambda: (isinstance(on_redis.raw.claim(claim()), Claimed), connection_of(on_redis.raw)))

    claimed, childs = told.split()
    assert (claimed, connection_of(on_redis.raw)) == ("True", before)
    assert childs != before
    assert on_redis.raw.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_forked_while_a_connection_is_made_does_not_wait_for_the_parent(
    on_redis: RedisBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool may grow while a lease is renewed; what the client locks then comes free in the parent alone."""
    store = RedisStore(on_redis.url, prefix=on_redis.prefix, lease=LEASE, ttl=TTL)
    making, go_on, make = threading.Event(), threading.Event(), redis.ConnectionPool.make_connection

    def slowly(pool: redis.ConnectionPool) -> Any:
        making.set()
        go_on.wait(20)
        return make(pool)

    def ask_again() -> tuple[object, ...]:
        monkeypatch.undo()
        return (store.workflow("nobody"),)

    monkeypatch.setattr(redis.ConnectionPool, "make_connection", slowly)
    asking = threading.Thread(target=store.workflow, args=("nobody",))
    asking.start()
    assert making.wait(20)
    try:
        assert in_child(ask_again) == "None"
    finally:
        go_on.set()
        asking.join(20)
        store.close()


def connection_of(store: RedisStore) -> str:
    """The server's number of the connection that the store uses."""
    return str(store._connected().redis.client_id())


def in_child(ask: Callable[[], tuple[object, ...]]) -> str:
    """Call a function in a forked child and return what it gave, as text; a child that waits too long is ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(10)
            os.write(writing, " ".join(map(str, ask())).encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        answer = told.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return answer
