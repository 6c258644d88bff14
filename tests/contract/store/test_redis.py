"""What only the store on Redis can get wrong: replies, scripts, leftovers and connections."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
import redis

from paigeant_celery.core.waits import make_token
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Claimed, Closing, Dropped, NewWait, NewWorkflow, RenewAnswer, Standing, Sweep
from paigeant_celery.store.redis import RedisStore
from tests.contract.store.bench import LEASE, TTL, RedisBench
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, new, numbers, told, types


def test_an_answer_of_the_sweep_holds_a_few_large_envelopes(on_redis: RedisBench) -> None:
    """A hundred of one mebibyte each would not arrive within the socket timeout."""
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
    assert (left.pop("sent"), left.pop("reached")) == (-1, -1)  # one number per queue, not per workflow
    assert left.pop("meta") == -1  # the format
    assert (left.pop("index"), left.pop("ended")) == (-1, -1)  # each workflow leaves them when it expires
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
    """A step whose message was lost can be found and resent."""
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

    assert answer == RenewAnswer(lost=frozenset({"w7.0"}), unknown=frozenset({"none.0"}))
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
    """Make the next reply get lost; return the list into which it is put."""
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
    """A pool may grow while a lease is renewed; the client's lock is then released only in the parent."""
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
    return str(store._server.connected().redis.client_id())


def in_child(ask: Callable[[], tuple[object, ...]]) -> str:
    """Call a function in a forked child and return its result as text; a child that waits too long is ended."""
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


def test_waits_that_an_older_version_left_behind_are_removed(on_redis: RedisBench) -> None:
    """Its CANCEL ends a workflow whose hop sleeps, but knows neither of the indexes."""
    for name in ("cancelled", "gone"):
        on_redis.store.start(new(name))
        close = closing(on_redis.store.claim(claim(f"{name}.0")), f"{name}.0")
        on_redis.store.wait(close, ask(f"{name}.0"))
        on_redis.store.suspend(close, Standing(tokens=[f"{name}.0~s"]))
    client = on_redis.client
    client.hset(on_redis.key("hop", "cancelled.0"), "state", "cancelled")
    client.hset(on_redis.key("wf", "cancelled"), "state", "cancelled")
    client.delete(on_redis.key("hop", "gone.0"), on_redis.key("wf", "gone"))

    assert on_redis.raw.asked(after=None, limit=9) == []
    assert on_redis.raw.signal("cancelled", "paid", "1", by="ann", call="c").outcome == "ended"
    on_redis.pass_time(25 * 3600)
    assert on_redis.raw.sweep(host="there") == Sweep()

    assert not client.exists(on_redis.key("asleep"), on_redis.key("asked"))


def test_a_sweep_takes_an_open_wait_of_an_older_cancelled_hop_from_the_index(on_redis: RedisBench) -> None:
    """Also if nobody reads the index."""
    on_redis.store.start(new())
    close = closing(on_redis.store.claim(claim()))
    on_redis.store.wait(close, ask("w.0"))
    on_redis.store.suspend(close, Standing(tokens=["w.0~s"]))
    on_redis.client.hset(on_redis.key("hop", "w.0"), "state", "cancelled")
    on_redis.pass_time(25 * 3600)

    assert on_redis.raw.sweep(host="there") == Sweep()

    assert not on_redis.client.exists(on_redis.key("asleep"), on_redis.key("asked"))


def test_a_suspended_hop_whose_workflow_is_lost_is_sent_so_that_its_message_brings_it_back(
    on_redis: RedisBench,
) -> None:
    """A server that evicts keys leaves no hop asleep for ever."""
    on_redis.store.start(new())
    on_redis.store.suspend(closing(on_redis.store.claim(claim())), Standing())
    on_redis.client.delete(on_redis.key("wf", "w"))
    on_redis.pass_time(25 * 3600)

    assert on_redis.raw.sweep(host="there").overdue == (hop(),)
    assert on_redis.raw.claim(claim(token="t2")) == Dropped(reason="unknown")


def test_a_pass_gives_only_so_many_waits_up(on_redis: RedisBench) -> None:
    """The rest is left to the next one, which may follow at once; no script runs for long."""
    on_redis.limit(replace(LIMITS, most_timed_out=3))
    for name in ("a", "b", "c"):
        on_redis.store.start(new(name))
        close = closing(on_redis.store.claim(claim(f"{name}.0")), f"{name}.0")
        for number in range(2):
            on_redis.store.wait(close, ask(f"{name}.0", str(number), timeout=60.0 + len(name)))
        on_redis.store.suspend(close, Standing())
    on_redis.pass_time(120)

    passes = [on_redis.raw.sweep(host="there") for _ in range(3)]

    assert [(len(each.overdue), each.full) for each in passes] == [(2, True), (1, False), (0, False)]


def ask(hop_id: str, name: str = "", *, timeout: float | None = None) -> NewWait:
    token = make_token(hop_id, f"s{name}")
    return NewWait(wait_id=name, token=token, kind="token", name=name, timeout=timeout)
