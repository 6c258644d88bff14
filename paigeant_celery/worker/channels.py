"""The channels that a worker reads through: Kombu's own, watched where they would end the worker or flood its memory.

Nothing used here is part of Kombu's public interface; a contract test pins it.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from kombu.message import Message

from paigeant_celery.core.errors import MessageError

__all__ = ["BROKEN", "Watch", "harden", "headers_in"]

# What code raises that expects a message and gets something else.
BROKEN = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError)


class Watch(Protocol):
    """Who judges what comes through a channel; `ours` are the names of the queues that it watches.

    `reading` is the queue whose item a Redis channel hands on, None between two.
    """

    ours: set[str]
    reading: str | None

    def keep(self, queue: str, item: bytes, fault: MessageError) -> bool:
        """Keep a dead letter of a list item that is no message; False where that cannot be done now."""
        ...

    def unpacking_fault(self, body: Any, headers: Any, delivery_info: object) -> MessageError | None:
        """Say what is wrong with a compressed body before it is decompressed, or None."""
        ...


def harden(transport: Any, watch: Watch) -> Any:
    """Give a transport, before it connects, channels and messages that are watched; returns it."""
    if transport.driver_type == "redis":
        transport.Channel = _reading(transport.Channel, watch)
    if hasattr(transport, "Channel"):
        transport.Channel = _measuring(transport.Channel, watch)
    elif hasattr(getattr(transport, "Connection", None), "Channel"):  # AMQP, where connections make channels
        channel = _measuring(transport.Connection.Channel, watch)
        transport.Connection = type("Connection", (transport.Connection,), {"Channel": channel})
    return transport


def headers_in(item: bytes) -> object:
    """Return what stands for headers in a list item, which may still tell whose message it was."""
    try:
        return json.loads(item)["headers"]
    except BROKEN:
        return None


def _reading(channel: Any, watch: Watch) -> Any:
    """Return the Redis channel class, with what it takes from a list watched until Celery has it."""

    class Reading(channel):  # type: ignore[misc]
        def _connparams(self, *args: Any, **kwargs: Any) -> Any:
            # A message is acknowledged, or given back at the end, after its connection was closed, as when the server
            # is restarted: Kombu falls over the missing address, which ends a worker, and a lost connection does not.
            if self.connection is None or self.connection.client is None:
                raise ConnectionResetError("the connection of this channel is closed")
            return super()._connparams(*args, **kwargs)

        def _brpop_read(self, **options: Any) -> Any:
            client, parse = self.client, self.client.parse_response
            taken: list[Any] = []

            def noting(*args: Any, **kwargs: Any) -> Any:
                answer = parse(*args, **kwargs)
                if answer:
                    taken.extend(answer)
                    watch.reading = bytes(answer[0]).decode(errors="backslashreplace").rsplit(self.sep, 1)[0]
                return answer

            client.parse_response = noting
            try:
                return super()._brpop_read(**options)
            except BROKEN as error:  # some of which Kombu takes for a lost connection
                queue = watch.reading
                if len(taken) != 2 or queue is None or queue not in watch.ours:
                    raise
                fault = MessageError("malformed", "", f"is no message of Celery ({type(error).__name__})")
            finally:
                del client.parse_response
                watch.reading = None
            self._set_aside(queue, taken[0], taken[1], fault)
            return True

        def _set_aside(self, queue: str, key: bytes, item: bytes, fault: MessageError) -> None:
            """Keep a dead letter instead of an item, or put it back; it may have come as far as the unacknowledged."""
            kept, tag = watch.keep(queue, item, fault), _tag_in(item)
            if self._is_unacknowledged(tag):
                self.qos.ack(tag) if kept else self.qos.reject(tag, requeue=True)
            elif not kept:
                self.client.lpush(key, item)

        def _is_unacknowledged(self, tag: object) -> bool:
            try:
                return self.qos.get(tag) is not None
            except BROKEN:
                return False

    return Reading


def _tag_in(item: bytes) -> object:
    try:
        return json.loads(item)["properties"]["delivery_tag"]
    except BROKEN:
        return None


def _measuring(channel: Any, watch: Watch) -> Any:
    """Return the channel class with messages that are measured before they are decompressed."""

    class Measured(Message):
        __slots__ = ()

        def __init__(self, body: Any = None, headers: Any = None, delivery_info: Any = None, **fields: Any) -> None:
            fault = watch.unpacking_fault(body, headers, delivery_info)
            if fault is not None:  # Kombu decompresses no message that has errors, and hands them on
                self.errors = [(type(fault), fault, None)]  # type: ignore[list-item]
            super().__init__(  # type: ignore[no-untyped-call]
                body=body, headers=headers, delivery_info=delivery_info, **fields
            )

    # In front of Kombu's own class and behind the transport's, which knows where body and headers are.
    message = type("Message", (channel.Message, Measured), {})
    return type("Channel", (channel,), {"Message": message})
