"""The clients of Kombu's Redis channels."""

from __future__ import annotations

from typing import Any

from kombu import Connection, Queue
from kombu.transport import redis

from paigeant_celery.broker.one_client import keep_one_client
from tests.support.servers import RedisDatabase


def kept(url: str) -> Connection:
    connection = Connection(url)
    keep_one_client(connection.transport)
    return connection


def client_of(channel: Any) -> Any:
    with channel.conn_or_acquire() as client:
        return client


def test_a_channel_makes_one_client_for_all_that_it_sends(redis_db: RedisDatabase) -> None:
    """Kombu makes one for each message that is sent, noted and acknowledged."""
    queue = f"{redis_db.prefix}-sent"
    with kept(redis_db.url) as connection:
        channel = connection.default_channel
        before = client_of(channel)
        for number in range(3):
            with connection.Producer() as producer:
                producer.publish(number, exchange="", routing_key=queue, declare=[Queue(queue)])
        read = [message.payload for _ in range(3) if (message := channel.basic_get(queue)) and not message.ack()]

        assert read == [0, 1, 2]
        assert client_of(channel) is before
        assert type(before) is redis.redis.Redis


def test_what_waits_on_a_connection_of_its_own_shares_no_client(redis_db: RedisDatabase) -> None:
    """The connection on which a worker waits for messages would be given to a command."""
    with kept(redis_db.url) as connection:
        channel = connection.default_channel

        assert channel.client is not client_of(channel)
        assert channel.client.connection_pool is channel.async_pool


def test_a_channel_that_was_disconnected_makes_a_new_client(redis_db: RedisDatabase) -> None:
    """So does one in a forked child, for which Kombu lets go of the pools in the same way."""
    with kept(redis_db.url) as connection:
        channel = connection.default_channel
        before = client_of(channel)
        channel._after_fork()

        after = client_of(channel)

        assert after is not before
        assert after.connection_pool is channel.pool
        assert after.ping()


def test_other_connections_and_transports_stay_as_they_are() -> None:
    """Those of the host are its own."""
    memory = Connection("memory://").transport
    before = memory.Channel
    keep_one_client(memory)

    assert memory.Channel is before
    assert kept("redis://127.0.0.1:1").transport.Channel is not redis.Channel
    assert Connection("redis://127.0.0.1:1").transport.Channel is redis.Channel
