"""Advice: what a worker found in the settings of its broker, and what it recommends.

None of it stops a worker. Settings that must not be used are mistakes, which `start_checks` reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ssl import CERT_NONE, CERT_REQUIRED
from typing import Any, TypeAlias

import kombu
from celery.utils.quorum_queues import detect_quorum_queues

from paigeant_celery.broker.connection import asks_sentinels, other_servers, store_of_broker
from paigeant_celery.broker.reach import ASKING_SENTINELS
from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["Faster", "Finding", "Found", "Recommended", "advise", "advice_lines"]

CONSUMER_TIMEOUT = 30 * 60.0  # seconds; RabbitMQ's default, because the server does not tell what it is set to
STARVING = ("priority", "sorted")  # orders of Kombu in which a queue has its turn only while those before it are empty
CHECKS_CONSUMERS_SINCE = (5, 7)  # the first Kombu whose health checks cover the connection that waits for messages
UNVERIFIED = (None, "none", CERT_NONE)


@dataclass(frozen=True)
class Found:
    """A setting that may stay as it is."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """A setting that should change: its new value, and what happens without the change."""

    setting: str
    value: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Faster:
    """A package that makes a worker faster if it is installed, and why."""

    install: str
    reason: str


Finding: TypeAlias = Found | Recommended | Faster


PARSES_IN_PYTHON = Faster(
    install="paigeant_celery[fast]",
    reason="without `hiredis`, replies of Redis are parsed in Python, which takes more CPU",
)


def advise(
    transport: CeleryTransport,
    *,
    longest_step: float,
    prefetch: int,
    threads: bool,
    greenlets: int = 0,
    hiredis: bool,
) -> tuple[Finding, ...]:
    """Judge the broker settings of a worker. Opens no connection.

    `longest_step` is the longest timeout of the steps that it serves, in seconds; `prefetch` is its prefetch
    multiplier, which may also come from its command line; `threads` says whether its steps run in the threads pool;
    `greenlets` is how many tasks of others it runs at once in a pool of greenlets; `hiredis` says whether that package
    is installed.
    """
    connection = transport.app.connection_for_read()
    broker = connection.transport
    durable = transport.store is not None
    findings = [_prefetch(transport.app.conf, prefetch, redis=broker.driver_type == "redis")]
    if broker.driver_type == "redis":
        options = {**_defaults(broker.Channel), **connection.transport_options}
        findings += [_visibility(options, durable=durable, longest_step=longest_step), _liveness(options)]
        findings += _order(transport, options)
        findings += _acknowledging(options, greenlets)
        findings += _failing_over(transport)
        findings += _sentinels(broker, connection.transport_options)
        findings += _prefixed(transport, options)
    elif broker.driver_type == "amqp":
        findings += [
            _confirms(connection.transport_options, durable=durable),
            _heartbeat(transport.app.conf.broker_heartbeat),
        ]
        findings += _consumer_timeout(durable=durable, longest_step=longest_step)
        findings += _reduction(transport.app.conf, threads=threads)
        findings += _countdowns(transport)
    findings += _encryption(connection)
    findings += _cancelling(transport.app.conf, durable=durable)
    if not hiredis and (broker.driver_type == "redis" or durable):  # a worker's store is always on Redis
        findings.append(PARSES_IN_PYTHON)
    return tuple(findings)


def advice_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield what a worker prints: one line for all that is fine, and one for each recommendation."""
    fine = [finding.text for finding in findings if isinstance(finding, Found)]
    if fine:
        yield f"  settings: {', '.join(fine)}"
    for finding in findings:
        if isinstance(finding, Recommended):
            yield f"  recommended: {finding.setting} = {finding.value} ({finding.reason})"
        elif isinstance(finding, Faster):
            yield f"  recommended: pip install '{finding.install}' ({finding.reason})"


def _defaults(channel: Any) -> dict[str, object]:
    return {
        name: getattr(channel, name, None)
        for name in ("visibility_timeout", "health_check_interval", "max_connections")
    }


def _prefetch(conf: Any, multiplier: int, *, redis: bool) -> Finding:
    if multiplier == 1:
        return Found("worker_prefetch_multiplier 1")
    if redis and conf.get("worker_disable_prefetch"):  # Celery respects it only on Redis
        return Found("worker_disable_prefetch")
    return Recommended(
        setting="worker_prefetch_multiplier",
        value="1",
        reason=f"{multiplier} lets messages wait in a busy worker while others are idle",
    )


def _visibility(options: dict[str, Any], *, durable: bool, longest_step: float) -> Finding:
    timeout = float(options["visibility_timeout"])
    if durable:
        return Found(f"visibility_timeout {timeout:g} s (a copy of a longer step is delivered, and dropped)")
    if timeout > longest_step:
        return Found(f"visibility_timeout {timeout:g} s (longer than any step)")
    return Recommended(
        setting="broker_transport_options['visibility_timeout']",
        value=f"{2 * longest_step:g}",
        reason=f"without a store, a step that is not acknowledged after {timeout:g} s is run again, and steps may "
        f"take {longest_step:g} s",
    )


def _liveness(options: dict[str, Any]) -> Finding:
    interval = options["health_check_interval"]
    if interval and kombu.VERSION[:2] >= CHECKS_CONSUMERS_SINCE:
        return Found(f"health_check_interval {interval:g} s")
    if options.get("socket_keepalive"):
        return Found("socket_keepalive")
    return Recommended(
        setting="broker_transport_options['socket_keepalive']",
        value="True",
        reason="a worker whose connection was cut silently would wait on it forever",
    )


def _order(transport: CeleryTransport, options: dict[str, Any]) -> Iterator[Finding]:
    strategy = options.get("queue_order_strategy")
    if strategy in STARVING and len(transport.app.amqp.queues.consume_from) > 1:
        yield Recommended(
            setting="broker_transport_options['queue_order_strategy']",
            value="'round_robin'",
            reason=f"with {strategy!r}, a queue is read only while all before it are empty, so one busy activity holds "
            "up the others; to prefer one, give it workers of its own (`-Q`)",
        )


def _countdowns(transport: CeleryTransport) -> Iterator[Finding]:
    """Look at what quorum queues, perhaps only ours, do to the tasks of a host that the same worker serves.

    Celery then no longer raises the prefetch count for a task that it holds until it is due.
    """
    app, names = transport.app, transport.names
    if not (app.conf.worker_detect_quorum_queues and detect_quorum_queues(app, "amqp")[0]):
        return
    queues = app.amqp.queues.consume_from.values()
    if any(names.activity(queue.name) is None and queue.exchange.type == "direct" for queue in queues):
        yield Recommended(
            setting="task_default_exchange_type",
            value="'topic'",
            reason="one of the queues is a quorum queue, so each task with a countdown or ETA from a direct exchange "
            "takes the place of a message in this worker until it is due; name another `task_default_exchange` too, or "
            "give the steps a worker of their own (`paigeant_consume` 'only')",
        )


def _encryption(connection: Any) -> Iterator[Finding]:
    """Judge TLS. Kombu's options of Redis begin with `ssl_`; on RabbitMQ the certificate is verified unless told."""
    given = connection.ssl
    if not given:
        return
    options = {name.removeprefix("ssl_"): value for name, value in given.items()} if isinstance(given, Mapping) else {}
    if options.get("cert_reqs", CERT_REQUIRED) in UNVERIFIED:
        yield Recommended(
            setting=f"broker_use_ssl['{'ssl_' if connection.transport.driver_type == 'redis' else ''}cert_reqs']",
            value="ssl.CERT_REQUIRED",
            reason="nobody verifies the certificate of the broker: who answers in its place reads every message",
        )
    else:
        yield Found("TLS, with a certificate that is verified")


def _failing_over(transport: CeleryTransport) -> Iterator[Finding]:
    """Say where the store stays if only the broker fails over."""
    others, store = other_servers(transport.app), transport.store
    if (
        others
        and store is not None
        and store.endpoint == store_of_broker(transport.app, lease=transport.settings.lease)
    ):
        yield Recommended(
            setting="paigeant_store_url",
            value="the URL of one server",
            reason=f"the store is {store.address}, the first broker of {len(others) + 1}, and stays there if Celery "
            "fails over to another; two primaries that change places need Redis Sentinel",
        )


def _sentinels(broker: Any, options: Mapping[str, Any]) -> Iterator[Finding]:
    """Look at how long a worker would wait for a sentinel. What publishes and sweeps sets this by itself."""
    if asks_sentinels(broker) and not ASKING_SENTINELS.keys() <= (options.get("sentinel_kwargs") or {}).keys():
        yield Recommended(
            setting="broker_transport_options['sentinel_kwargs']",
            value=", ".join(f"{name!r}: {value!r}" for name, value in ASKING_SENTINELS.items()),
            reason="this worker would wait some seconds for a sentinel that is away, and without a bound for one that "
            "hangs, before it asks the next",
        )


def _prefixed(transport: CeleryTransport, options: Mapping[str, Any]) -> Iterator[Finding]:
    if options.get("global_keyprefix") and transport.store is not None:
        prefix = transport.settings.prefix
        yield Found(f"global_keyprefix for messages alone (the keys of the store begin with {prefix + ':'!r})")


def _acknowledging(options: dict[str, Any], greenlets: int) -> Iterator[Finding]:
    # Our own hops take turns at it.
    if greenlets > (options["max_connections"] or greenlets):
        yield Recommended(
            setting="broker_transport_options['max_connections']",
            value=str(greenlets),
            reason="acknowledging a task takes a connection, and without a free one it fails with "
            "`MaxConnectionsError`, so that the task is delivered again; steps take turns at it",
        )


def _confirms(options: dict[str, Any], *, durable: bool) -> Finding:
    if options.get("confirm_publish", True):  # as our own connections have it
        return Found("confirm_publish")
    lost = "only a sweep resends a message that the broker loses" if durable else (
        "without a store, a message that the broker loses ends its workflow silently"
    )  # fmt: skip
    return Recommended(setting="broker_transport_options['confirm_publish']", value="True", reason=lost)


def _heartbeat(seconds: float | None) -> Finding:
    if seconds:
        return Found(f"broker_heartbeat {seconds:g} s")
    return Recommended(
        setting="broker_heartbeat",
        value="120",
        reason="a worker whose connection was cut silently would wait on it forever",
    )


def _consumer_timeout(*, durable: bool, longest_step: float) -> Iterator[Finding]:
    if durable:
        yield Found("RabbitMQ's consumer_timeout as it is (a copy of a longer step is delivered, and dropped)")
    elif longest_step >= CONSUMER_TIMEOUT:
        yield Recommended(
            setting="consumer_timeout (of the RabbitMQ server, in ms)",
            value=f"{2000 * longest_step:.0f}",
            reason="without a store, a step that is not acknowledged in time (30 min by default) is run again, and "
            f"steps may take {longest_step:g} s",
        )


def _reduction(conf: Any, *, threads: bool) -> Iterator[Finding]:
    # Celery 5.7 restores a reduced count from a step's thread, but on the connection of the worker's own thread.
    if threads and conf.worker_enable_prefetch_count_reduction:
        yield Recommended(
            setting="worker_enable_prefetch_count_reduction",
            value="False",
            reason="in the threads pool, a worker may take no more messages after a lost connection",
        )


def _cancelling(conf: Any, *, durable: bool) -> Iterator[Finding]:
    if conf.worker_cancel_long_running_tasks_on_connection_loss:
        meaning = "steps go on, and a copy is dropped" if durable else "without a store, steps begin again as tasks do"
        yield Found(f"worker_cancel_long_running_tasks_on_connection_loss ({meaning})")
