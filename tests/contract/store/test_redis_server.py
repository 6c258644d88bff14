"""Servers that are unavailable, full, of another kind or badly configured, and what the store says about them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from paigeant_celery.core.errors import ConfigurationError, TransientError, Unreachable
from paigeant_celery.core.waits import WHOLE
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Closed, NewWait, Standing
from paigeant_celery.store.redis import RedisStore
from paigeant_celery.store.redis_client import PERMISSIONS, script_texts
from tests.contract.store.bench import LEASE, TTL, RedisBench, everything
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, new, told
from tests.support.processes import eventually
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


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("", "NOAUTH: it asks for a password"),
        (":s3cret@", "WRONGPASS: it does not know"),
        ("nobody:s3cret@", "WRONGPASS: it does not know this user, or not with this password"),
    ],
)
def test_a_wrong_password_ends_a_start_and_is_waited_out_later(
    own_redis: Callable[..., Any], user: str, said: str
) -> None:
    """A mistyped secret is found at start-up and is not printed; one that is changed later ends no worker."""
    server = own_redis("--requirepass", "right")
    store = RedisStore(server.url.replace("//", f"//{user}"), prefix="p", lease=LEASE, ttl=TTL)

    with pytest.raises(ConfigurationError) as at_start:
        store.check(allow_eviction=False)
    with pytest.raises(Unreachable) as later:
        store.claim(claim())

    for text in (str(at_start.value), str(later.value)):
        assert said in text
        assert "start or fix it" not in text
        assert "s3cret" not in text
    assert "s3cret" not in str(later.value.__cause__)
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
    asks = NewWait(wait_id="1", token="a.0~s", kind="token", name="ask")
    assert bench.store.wait(held["a"], asks) is not None
    bench.client.config_set("maxmemory", "1")
    before = everything(bench)

    for refused in (
        lambda: bench.store.start(new("d")),
        lambda: bench.store.claim(claim("c.0")),
        lambda: bench.store.complete(completion(held["a"], next_hop=hop("a.1"))),
        lambda: bench.store.complete(completion(held["a"], blobs={"draft": "1"})),
        lambda: bench.store.record(held["a"], {"call": "1"}),
        lambda: bench.store.publish(held["a"], [told(1)]),
        lambda: bench.store.wait(held["a"], replace(asks, token="a.0~t", instead_of=asks.token)),
        lambda: bench.store.suspend(held["a"], Standing(tokens=[asks.token])),
        lambda: bench.store.resolve(asks.token, {WHOLE: "1"}, by="ann", call="c"),
        lambda: bench.store.signal("a", "paid", "1", by="ann", call="c"),
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

        with pytest.raises(Unreachable, match="READONLY: it is a replica"):
            store.start(new())

        admin.execute_command("REPLICAOF", "NO", "ONE")
    assert store.start(new()) == "started"
    store.close()


@pytest.mark.parametrize(
    ("keys", "taken", "at_start", "later"),
    [
        ("p:*", "-hset -zadd", "may not use HSET, ZADD; `ACL SETUSER … ~p:* +@read", "NOPERM"),
        ("other:*", "", "NOPERM: the rules of its user do not permit these keys", "NOPERM"),
        ("p:*", "-evalsha -eval", "NOPERM: the rules of its user do not permit `EVALSHA`", "permit `EVALSHA`"),
        ("p:*", "-client", "NOPERM: the rules of its user do not permit `CLIENT SETNAME`", "`CLIENT SETNAME`"),
    ],
)
def test_what_is_not_permitted_is_named_with_the_rule_that_suffices(
    own_redis: Callable[..., Any], keys: str, taken: str, at_start: str, later: str
) -> None:
    """Missing permissions are neither an outage nor damaged records, and no restart of Redis cures them."""
    server = own_redis()
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", "nopass", f"~{keys}", "+@all", *taken.split())
    store = RedisStore(server.url.replace("//", "//app:any@"), prefix="p", lease=LEASE, ttl=TTL)

    with pytest.raises(ConfigurationError) as refused:
        store.check(allow_eviction=False)
    with pytest.raises(Unreachable, match=later) as waited:
        store.start(new())

    assert at_start in str(refused.value)
    assert f"~p:* {PERMISSIONS}" in str(refused.value)
    assert f"~p:* {PERMISSIONS}" in str(waited.value)
    assert "envelope" not in str(waited.value)
    store.close()


def test_the_rule_that_is_named_suffices(own_redis: Callable[..., Any]) -> None:
    """Whoever copies it from the text, or the page, is done."""
    server = own_redis("--appendonly", "yes")
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", "nopass", "~p:*", *PERMISSIONS.split())
        store = RedisStore(server.url.replace("//", "//app:any@"), prefix="p", lease=LEASE, ttl=TTL)

        warnings = store.check(allow_eviction=False)
        store.start(new())
        claimed = store.claim(claim())
        store.renew("ann", {"w.0": 1})
        done = store.complete(completion(closing(claimed), next_hop=hop("w.1"), blobs={"draft": "1"}))
        store.sweep(host="here")
        store.cancel("w")
        store.forget_letter("x")

        assert (warnings, done) == ([], Closed())
        assert admin.execute_command("ACL", "LOG") == []
        assert [key for key in admin.keys("*") if b"probe" in key] == []
    store.close()


def test_the_probe_tries_each_command_of_the_scripts() -> None:
    """A script that begins to use another one would be refused in the middle of a workflow."""
    texts = {name: text for name, text in script_texts(LIMITS).items() if name != "probe"}
    used = {command for text in texts.values() for command in re.findall(r"redis\.p?call\('([A-Z]+)'", text)}
    tried = set(re.findall(r"\{'([A-Z]+)'", script_texts(LIMITS)["probe"]))

    assert used - {"TIME"} == tried


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min-replicas-to-write": "1"}, "NOREPLICAS: fewer replicas follow it"),
        ({"maxmemory": "1"}, "OOM: the server is full"),
    ],
)
def test_a_server_that_refuses_writes_for_a_while_is_named_and_waited_for(
    own_redis: Callable[..., Any], settings: dict[str, str], said: str
) -> None:
    """An operator at night reads what it is, and need not guess from the name of a class."""
    server = own_redis()
    store = RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL)
    with redis.Redis.from_url(server.url) as admin:
        for name, value in settings.items():
            admin.config_set(name, value)
    store.check(allow_eviction=False)

    with pytest.raises(Unreachable) as caught:
        store.start(new())

    assert said in str(caught.value)
    assert "start or fix it" not in str(caught.value)
    store.close()


def test_a_server_that_cannot_write_to_its_disk_is_named(own_redis: Callable[..., Any], tmp_path: Path) -> None:
    """It answers each write with MISCONF until a snapshot succeeds again."""
    folder = tmp_path / "data"
    folder.mkdir()
    server = own_redis("--save", "1 1", "--dir", str(folder))
    store = RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL)
    store.start(new())
    with redis.Redis.from_url(server.url) as admin:
        shutil.rmtree(folder)
        with contextlib.suppress(redis.ResponseError):  # it may have begun one by itself
            admin.bgsave()
        eventually(
            lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", what="the snapshot did not fail"
        )

        with pytest.raises(Unreachable, match="MISCONF: it cannot write to its disk"):
            store.start(new("v"))
    store.close()


def test_a_server_that_is_busy_with_another_script_is_named(own_redis: Callable[..., Any]) -> None:
    """Its owner can end that script; nothing of ours takes so long."""
    server = own_redis("--lua-time-limit", "50")
    store = RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL)
    store.start(new())
    with redis.Redis.from_url(server.url) as other:
        running = threading.Thread(target=lambda: _endless(server.url))
        running.start()
        with pytest.raises(Unreachable, match="BUSY: a script there has been running"):
            eventually(lambda: store.workflow("w") is None, what="the server answered all the time")
        other.script_kill()
        running.join(10)

    assert store.workflow("w") is not None
    store.close()


def _endless(url: str) -> None:
    with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as client, contextlib.suppress(redis.RedisError):
        client.eval("while true do end", 0)


def test_a_database_that_the_server_does_not_have_ends_a_start(own_redis: Callable[..., Any]) -> None:
    """The number is a mistake in a URL, and no later one makes it right."""
    store = RedisStore(own_redis().url.replace("/0", "/99"), prefix="p", lease=LEASE, ttl=TTL)

    with pytest.raises(ConfigurationError, match="it has no database of this number"):
        store.check(allow_eviction=False)
    store.close()


def test_connections_to_a_demoted_primary_are_left(own_redis: Callable[..., Any]) -> None:
    """A name that means another server after a failover is looked up again."""
    server = own_redis()
    store = RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL)
    store.start(new())
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(Unreachable, match="READONLY"):
            store.start(new("v"))

        assert [client for client in admin.client_list() if client["name"] == "paigeant"] == []
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


@pytest.mark.parametrize(("used", "said"), [(0.5, None), (0.95, "is nearly full"), (1.5, "is full")])
def test_a_server_that_is_full_or_soon_will_be_is_warned_about(
    own_redis: Callable[..., Any], used: float, said: str | None
) -> None:
    """It still answers what is read, so that whoever looks would find nothing wrong."""
    server = own_redis("--appendonly", "yes")
    store = RedisStore(server.url, prefix="p", lease=LEASE, ttl=TTL)
    store.check(allow_eviction=False)  # loads what takes memory
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("maxmemory", int(admin.info("memory")["used_memory"] / used))

    warnings = store.check(allow_eviction=False)

    assert len(warnings) == (said is not None)
    assert all(str(said) in warning and "raise `maxmemory`" in warning for warning in warnings)
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
