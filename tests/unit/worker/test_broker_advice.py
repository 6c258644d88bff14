"""Advice: what a worker says about the settings of its broker."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import celery
import kombu
import pytest
from celery import Celery
from kombu import Exchange, Queue
from kombu.transport import redis

from paigeant_celery.broker.transport import CeleryTransport, transport_of
from paigeant_celery.core.settings import Settings
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.worker.broker_advice import advice_lines, advise

Advise = Callable[..., list[str]]

WAITS_FOR_EVER = "(a worker whose connection was cut silently would wait on it forever)"


@pytest.fixture
def lines() -> Iterator[Advise]:
    """Say what a worker prints about a broker, with a store (durable) and without one, and settings of Celery."""
    with ExitStack() as stack:

        def advised(
            broker: str,
            *,
            durable: bool = True,
            longest_step: float = 3600.0,
            prefetch: int = 1,
            threads: bool = False,
            greenlets: int = 0,
            hiredis: bool = True,
            **configuration: object,
        ) -> list[str]:
            app = stack.enter_context(Celery("shop", broker=broker, set_as_current=False))
            app.conf.update(configuration)
            store = MemoryStore(lease=10, ttl=10) if durable else None
            transport = CeleryTransport(app, settings=Settings(), store=store)
            findings = advise(
                transport,
                longest_step=longest_step,
                prefetch=prefetch,
                threads=threads,
                greenlets=greenlets,
                hiredis=hiredis,
            )
            return [line.strip() for line in advice_lines(findings)]

        yield advised


CHECKED = "health_check_interval 25 s"
COPIES = "(a copy of a longer step is delivered, and dropped)"


def test_a_sound_redis_is_one_line(lines: Advise) -> None:
    """Operators with nothing to do read one line."""
    if kombu.VERSION[:2] < (5, 7):
        pytest.skip("an older Kombu does not check the connection that waits for messages")

    assert lines("redis://h") == [
        f"settings: worker_prefetch_multiplier 1, visibility_timeout 3600 s {COPIES}, {CHECKED}"
    ]


def test_the_defaults_are_those_of_the_installed_kombu() -> None:
    """What is printed as found is what Kombu uses if nothing is set."""
    assert (redis.Channel.visibility_timeout, redis.Channel.health_check_interval) == (3600, 25)
    assert redis.Channel.socket_keepalive is None


def test_a_visibility_timeout_that_is_set_is_found(lines: Advise) -> None:
    """With a store no step runs twice because of it, whatever its value."""
    (line,) = lines("redis://h", broker_transport_options={"visibility_timeout": 60, "socket_keepalive": True})

    assert f"visibility_timeout 60 s {COPIES}" in line


@pytest.mark.parametrize(("longest_step", "recommended"), [(3600.0, True), (3599.0, False)])
def test_without_a_store_no_step_may_outlast_the_visibility_timeout(
    lines: Advise, longest_step: float, recommended: bool
) -> None:
    """Otherwise the step runs again, in parallel with the first run."""
    options = {"socket_keepalive": True}

    found = lines("redis://h", durable=False, longest_step=longest_step, broker_transport_options=options)

    assert [line for line in found if line.startswith("recommended")] == [
        "recommended: broker_transport_options['visibility_timeout'] = 7200 (without a store, a step that is not "
        "acknowledged after 3600 s is run again, and steps may take 3600 s)"
    ] * recommended
    assert ("visibility_timeout 3600 s (longer than any step)" in found[0]) is not recommended


def test_messages_that_wait_in_a_busy_worker_are_named(lines: Advise) -> None:
    """Celery's default fetches four for each slot, and a step takes minutes."""
    found = lines("memory://localhost//", prefetch=4)

    assert found == [
        "recommended: worker_prefetch_multiplier = 1 (4 lets messages wait in a busy worker while others are idle)"
    ]


@pytest.mark.skipif(celery.VERSION < (5, 6), reason="came with Celery 5.6")
def test_a_worker_that_fetches_nothing_ahead_is_sound(lines: Advise) -> None:
    """There the multiplier has no effect; Celery respects the setting only on Redis."""
    on_redis, on_rabbit = (
        lines(url, prefetch=4, worker_disable_prefetch=True) for url in ("redis://127.0.0.1:1", "amqp://127.0.0.1:1")
    )

    assert on_redis[0].startswith("settings: worker_disable_prefetch, ")
    assert any(line.startswith("recommended: worker_prefetch_multiplier = 1 ") for line in on_rabbit)


def test_a_connection_that_nobody_checks_is_named(lines: Advise, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that drops it would leave a worker that looks alive and takes nothing."""
    keep_alive = f"recommended: broker_transport_options['socket_keepalive'] = True {WAITS_FOR_EVER}"

    unchecked = lines("redis://h", broker_transport_options={"health_check_interval": 0})
    kept = lines("redis://h", broker_transport_options={"health_check_interval": 0, "socket_keepalive": True})
    monkeypatch.setattr(kombu, "VERSION", (5, 6, 0, "", ""))
    older = lines("redis://h")

    assert unchecked[1:] == older[1:] == [keep_alive]
    assert kept[0].endswith(", socket_keepalive")


def test_connections_that_greenlets_need_to_acknowledge_are_named(lines: Advise) -> None:
    """A hundred tasks of the host that end at once would find ten, and come again after an hour."""
    [_, more] = lines("redis://h", greenlets=100, broker_transport_options={"socket_keepalive": True})
    enough = lines("redis://h", greenlets=100, broker_transport_options={"max_connections": 100})

    assert more.startswith("recommended: broker_transport_options['max_connections'] = 100 (")
    assert not any("max_connections" in line for line in [*enough, *lines("redis://h"), *lines("amqp://h")])


def test_a_sound_rabbitmq_is_one_line(lines: Advise) -> None:
    """Its `consumer_timeout` is the server's; exceeding it costs a copy that is dropped."""
    found = lines(
        "amqp://h//",
        threads=True,
        worker_enable_prefetch_count_reduction=False,
    )

    assert found == [
        "settings: worker_prefetch_multiplier 1, confirm_publish, broker_heartbeat 120 s, RabbitMQ's consumer_timeout "
        f"as it is {COPIES}"
    ]


def test_what_rabbitmq_needs_without_a_store_is_named(lines: Advise) -> None:
    """Nothing else keeps a message there. Our messages are confirmed unless the host says no."""
    unconfirmed = {"confirm_publish": False}

    assert lines("amqp://h//", durable=False, broker_heartbeat=0, broker_transport_options=unconfirmed)[1:] == [
        "recommended: broker_transport_options['confirm_publish'] = True (without a store, a message that the broker "
        "loses ends its workflow silently)",
        f"recommended: broker_heartbeat = 120 {WAITS_FOR_EVER}",
        "recommended: consumer_timeout (of the RabbitMQ server, in ms) = 7200000 (without a store, a step that is not "
        "acknowledged in time (30 min by default) is run again, and steps may take 3600 s)",
    ]


def test_what_stops_threads_on_rabbitmq_is_named(lines: Advise) -> None:
    """Celery's default hung there after a lost connection; on Redis it is harmless."""
    setting = "worker_enable_prefetch_count_reduction = False"

    found = [
        any(setting in line for line in lines(broker, threads=threads))
        for broker, threads in (("amqp://h//", True), ("amqp://h//", False), ("redis://h", True))
    ]

    assert found == [True, False, False]


@pytest.mark.parametrize(
    ("durable", "meaning"),
    [(True, "steps go on, and a copy is dropped"), (False, "without a store, steps begin again as tasks do")],
)
def test_what_ends_tasks_with_their_connection_is_named(lines: Advise, durable: bool, meaning: str) -> None:
    """A host wants it for its own tasks; what it means for steps depends on who drops a copy."""
    setting = "worker_cancel_long_running_tasks_on_connection_loss"

    (settings, *_) = lines("redis://h", durable=durable, **{setting: True})

    assert settings.endswith(f", {setting} ({meaning})")


@pytest.mark.parametrize(
    ("broker", "configuration", "setting"),
    [
        ("rediss://h", {}, "broker_use_ssl['ssl_cert_reqs']"),
        ("redis://h", {"broker_use_ssl": {"ssl_cert_reqs": "none"}}, "broker_use_ssl['ssl_cert_reqs']"),
        ("rediss://h?ssl_cert_reqs=none", {}, "broker_use_ssl['ssl_cert_reqs']"),
        ("amqps://h", {"broker_use_ssl": {"cert_reqs": ssl.CERT_NONE}}, "broker_use_ssl['cert_reqs']"),
    ],
)
def test_tls_that_nobody_verifies_is_told(
    lines: Advise, broker: str, configuration: dict[str, object], setting: str
) -> None:
    """Kombu verifies no certificate of Redis unless it is told to, and its only warning comes before any log."""
    assert [line for line in lines(broker, **configuration) if "certificate" in line] == [
        f"recommended: {setting} = ssl.CERT_REQUIRED (nobody verifies the certificate of the broker: who answers in "
        "its place reads every message)"
    ]


@pytest.mark.parametrize(
    ("broker", "configuration"),
    [
        ("redis://h", {"broker_use_ssl": {"ssl_cert_reqs": "required"}}),
        ("rediss://h", {"broker_use_ssl": {"ssl_ca_certs": "/ca.pem"}}),
        ("amqps://h", {}),
        ("amqp://h", {"broker_use_ssl": True}),
    ],
)
def test_tls_that_is_verified_is_found(lines: Advise, broker: str, configuration: dict[str, object]) -> None:
    """An operator sees that it is on."""
    assert "TLS, with a certificate that is verified" in lines(broker, **configuration)[0]


def test_the_server_that_stays_the_store_is_named() -> None:
    """Celery fails over to another broker, and the records cannot follow."""
    urls = ["redis://h/1", "redis://g/1", "redis://f/1"]
    with Celery("shop", broker=urls, set_as_current=False) as app:
        app.conf.paigeant_store_url = "broker"
        findings = advise(transport_of(app), longest_step=1, prefetch=1, threads=False, hiredis=True)

    assert [line for line in advice_lines(findings) if "fails over" in line] == [
        "  recommended: paigeant_store_url = the URL of one server (the store is redis://h:6379/1, the first broker of "
        "3, and stays there if Celery fails over to another; two primaries that change places need Redis Sentinel)"
    ]


def test_a_prefix_that_the_store_does_not_obey_is_said(lines: Advise) -> None:
    """Rules of access by key patterns need another line for it."""
    (line,) = lines("redis://h", broker_transport_options={"global_keyprefix": "shop:", "socket_keepalive": True})

    assert "global_keyprefix for messages alone (the keys of the store begin with 'paigeant:')" in line


@pytest.mark.parametrize(("strategy", "advised"), [("priority", True), ("sorted", True), ("round_robin", False)])
def test_an_order_in_which_one_activity_starves_the_others_is_named(
    lines: Advise, strategy: str, advised: bool
) -> None:
    """Fifty messages of the first queue came before the only one of the second."""
    options = {"queue_order_strategy": strategy, "socket_keepalive": True}
    two = [Queue("paigeant.first"), Queue("paigeant.second")]

    found = "\n".join(lines("redis://h", broker_transport_options=options, task_queues=two))
    alone = "\n".join(lines("redis://h", broker_transport_options=options, task_queues=two[:1]))

    assert ("queue_order_strategy'] = 'round_robin' (with " in found) == advised
    assert "queue_order_strategy" not in alone


@pytest.mark.parametrize(
    ("kind", "host", "exchange", "settings", "advised"),
    [
        ("quorum", "mail", "direct", {}, True),
        ("quorum", "mail", "topic", {}, False),
        ("classic", "mail", "direct", {}, False),
        ("quorum", "paigeant.second", "direct", {}, False),
        ("quorum", "mail", "direct", {"worker_detect_quorum_queues": False}, False),
    ],
)
def test_a_quorum_queue_beside_a_host_is_named_if_its_countdowns_suffer(
    lines: Advise, kind: str, host: str, exchange: str, settings: dict[str, object], advised: bool
) -> None:
    """With one slot, a task waited for 7 s behind one with a countdown; from a topic exchange it did not."""
    ours = Queue("paigeant.first", queue_arguments={"x-queue-type": kind})
    hosts = Queue(host, Exchange("mails", type=exchange), routing_key=host)

    found = "\n".join(lines("amqp://h", task_queues=[ours, hosts], **settings))

    assert ("task_default_exchange_type = 'topic' (" in found) == advised


def test_sentinels_that_are_away_are_not_waited_for(lines: Advise) -> None:
    """A worker that connects again may have to ask two that are gone before one that answers."""
    asking = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0, "retry": None, "password": "hunter2"}
    advised = lines("sentinel://h", broker_transport_options={"master_name": "main"})
    followed = lines("sentinel://h", broker_transport_options={"master_name": "main", "sentinel_kwargs": asking})

    (line,) = (line for line in advised if "sentinel" in line)
    assert line.startswith(
        "recommended: broker_transport_options['sentinel_kwargs'] = 'socket_timeout': 1.0, 'socket_connect_timeout'"
    )
    assert [line for line in followed if "sentinel" in line] == []


@pytest.mark.parametrize(
    ("broker", "durable", "named"),
    [("redis://h", True, 1), ("redis://h", False, 1), ("amqp://h", True, 1), ("amqp://h", False, 0)],
)
def test_what_makes_redis_faster_is_named_once(lines: Advise, broker: str, durable: bool, named: int) -> None:
    """The extra is named in one line if Redis is the broker, the store or both, until it is installed."""
    said = [line for line in lines(broker, durable=durable, hiredis=False) if "hiredis" in line]

    line = (
        "recommended: pip install 'paigeant_celery[fast]' "
        "(without `hiredis`, replies of Redis are parsed in Python, which takes more CPU)"
    )
    assert said == [line] * named
    assert not any("hiredis" in line for line in lines(broker, durable=durable, hiredis=True))
