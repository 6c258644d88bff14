"""Which broker this is, whatever it is called: by an id that is kept at a Redis, or by the name of a RabbitMQ cluster.

All other brokers are known by their addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from celery import Celery

from paigeant_celery.broker.reach import Link
from paigeant_celery.broker.sending import Sending
from paigeant_celery.broker.threads import BrokerThreads
from paigeant_celery.core.refusals import refusal_of
from paigeant_celery.store.port import BoundBroker

__all__ = ["KnownBy", "SeenBroker", "is_another", "look_at_broker"]

KnownBy: TypeAlias = Literal["key", "cluster", "address"]

LOOK_WITHIN = 2.0  # seconds; it takes milliseconds, and what is asked for goes on if the broker does not answer

# One script, because Kombu puts its `global_keyprefix` in front of a script's key, but not of GET's or SETNX's.
KEEP = """
if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1], 'NX') end
return redis.call('GET', KEYS[1])
"""


@dataclass(frozen=True, kw_only=True)
class SeenBroker:
    """What a process sees of its broker: its address, and what it is known by beyond that.

    `id` is None if it is known by its address alone, or if it is to have an id of ours and has none (yet, or no
    longer). `plain` is the address as earlier versions wrote it.
    """

    address: str
    plain: str
    known_by: KnownBy = "address"
    id: str | None = None


def is_another(bound: BoundBroker, seen: SeenBroker, *, known_here: str | None = None) -> bool:
    """Say whether what a process sees is another broker than the one that the store belongs to.

    `known_here` is the id that this process has seen at its broker before. The name of a cluster may change, and a
    Redis may lose its data and with it our id: it is then known by its address, or by the process that knew it.
    """
    if bound.id is None:
        return bound.address not in (seen.address, seen.plain)
    if seen.id == bound.id:
        return False
    if seen.known_by == "key" and seen.id is not None:
        return True
    return bound.address != seen.address and (seen.known_by != "key" or bound.id != known_here)


def look_at_broker(
    threads: BrokerThreads, app: Celery, address: str, *, key: str, give: str | None = None
) -> Sending[SeenBroker]:
    """Have the app's broker asked what it is known by; ends with `Unreachable` if it does not answer.

    A Redis keeps its id under `key`; it is given `give` if it has none. `address` is its address in one form for all
    URLs.
    """
    kind = app.connection_for_write().transport.driver_type
    if kind == "redis":
        ask: Callable[[Link], SeenBroker] = lambda link: _of_redis(link.connection, address, key, give)  # noqa: E731
    elif kind == "amqp":
        ask = lambda link: _of_cluster(link.connection, address)  # noqa: E731
    else:
        return Sending.made(lambda: SeenBroker(address=address, plain=address))
    within = min(LOOK_WITHIN, threads.timeout / 2)  # the message itself may wait longer
    return threads.begin(ask, lane="look at the broker", within=within)


def _of_redis(connection: Any, plain: str, key: str, give: str | None) -> SeenBroker:
    channel = connection.default_channel
    prefix = channel.global_keyprefix
    address = f"{plain} (global_keyprefix {prefix!r})" if prefix else plain
    try:
        with channel.conn_or_acquire() as client:
            found = client.register_script(KEEP)(keys=[key], args=[give or ""])
    except connection.channel_errors as error:
        refusal = refusal_of(error)
        if refusal is not None and not refusal.mistake:  # a full server or a replica: it may take an id later
            raise
        # We may not write there, or something else has.
        return SeenBroker(address=address, plain=plain)
    id_ = found.decode(errors="replace") if isinstance(found, bytes) else found
    return SeenBroker(address=address, plain=plain, known_by="key", id=id_)


def _of_cluster(connection: Any, address: str) -> SeenBroker:
    name = getattr(connection.connection, "server_properties", {}).get("cluster_name")
    if not name:
        return SeenBroker(address=address, plain=address)
    id_ = f"{name} {connection.virtual_host or '/'}"
    return SeenBroker(address=address, plain=address, known_by="cluster", id=id_)
