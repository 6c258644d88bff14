"""Which broker this is, whatever it is called: by an id that is kept at a Redis, or by the name of a RabbitMQ cluster.

All other brokers are known by their addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from celery import Celery

from paigeant_celery.broker.reach import reaching_broker
from paigeant_celery.store.port import BoundBroker

__all__ = ["KnownBy", "SeenBroker", "is_another", "look_at_broker"]

KnownBy: TypeAlias = Literal["key", "cluster", "address"]

LOOK_PATIENCE = 1.0  # seconds for each step of a look at a Redis, unless the host's own options say otherwise

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


def look_at_broker(app: Celery, address: str, *, key: str, give: str | None = None) -> SeenBroker:
    """Ask the app's broker what it is known by, on a connection of its own. Raises `Unreachable`.

    A Redis keeps its id under `key`; it is given `give` if it has none. `address` is its address in one form for all
    URLs.
    """
    connection = app.connection_for_write()
    kind = connection.transport.driver_type
    if kind == "redis":
        with _connected(app, socket_timeout=LOOK_PATIENCE, socket_connect_timeout=LOOK_PATIENCE) as connection:
            return _of_redis(connection, address, key, give)
    if kind == "amqp":
        with _connected(app) as connection:
            return _of_cluster(connection, address)
    return SeenBroker(address=address, plain=address)


def _of_redis(connection: Any, plain: str, key: str, give: str | None) -> SeenBroker:
    channel = connection.default_channel
    prefix = channel.global_keyprefix
    address = f"{plain} (global_keyprefix {prefix!r})" if prefix else plain
    try:
        with channel.conn_or_acquire() as client:
            found = client.register_script(KEEP)(keys=[key], args=[give or ""])
    except connection.channel_errors:  # we may not write there, or something else has
        return SeenBroker(address=address, plain=plain)
    id_ = found.decode(errors="replace") if isinstance(found, bytes) else found
    return SeenBroker(address=address, plain=plain, known_by="key", id=id_)


def _of_cluster(connection: Any, address: str) -> SeenBroker:
    name = getattr(connection.connection, "server_properties", {}).get("cluster_name")
    if not name:
        return SeenBroker(address=address, plain=address)
    id_ = f"{name} {connection.virtual_host or '/'}"
    return SeenBroker(address=address, plain=address, known_by="cluster", id=id_)


@contextmanager
def _connected(app: Celery, **options: float) -> Iterator[Any]:
    with reaching_broker(app), app.connection_for_write() as connection:
        connection.transport_options = {**options, **connection.transport_options}
        connection.ensure_connection(max_retries=1, interval_start=0)
        yield connection
