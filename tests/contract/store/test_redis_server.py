"""Servers that are unavailable, full, of another kind or badly configured, and what the store says about them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from paigeant_celery.core.errors import ConfigurationError, TransientError, Unreachable
from paigeant_celery.store.redis import RedisStore
from tests.contract.store.bench import LEASE, TTL, RedisBench, everything
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, new, told
from tests.support.servers import free_port


def test_an_unreachable_store_is_named_without_its_password() -> None:
    """The log says which server is down, without any secret."""
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


# Valkey names the command, Redis 7 does not; before these it was an error of a class of its own.
NOT_PERMITTED = r"\(ACL failure.*hset|The user executing the script can't run this command|NoPermissionError"


def test_a_command_that_is_not_permitted_is_named_as_such(own_redis: Callable[..., Any]) -> None:
    """Missing permissions on the server are not mistaken for damaged records."""
    server = own_redis()
    with redis.Redis.from_url(server.url) as admin:
        admin.acl_setuser("app", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-hset"])
    store = RedisStore(server.url.replace("//", "//app:any@"), prefix="p", lease=LEASE, ttl=TTL)

    with pytest.raises(Unreachable, match=NOT_PERMITTED) as caught:
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
    """A managed Redis works, with a warning about what could not be checked."""
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
    """At start-up the operator is told that it cannot work, and what can."""
    server = own_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    store = RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL)

    with pytest.raises(ConfigurationError, match="Redis Cluster"):
        store.check(allow_eviction=False)

    store.close()
