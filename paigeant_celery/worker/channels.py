"""The channels that a worker reads from: Kombu's own, kept from ending the worker or flooding its memory.

Nothing used here is part of Kombu's public interface; a contract test pins it.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from kombu.message import Message

from paigeant_celery.broker.one_client import keep_one_client
from paigeant_celery.core.errors import MessageError

__all__ = ["BROKEN", "Watch", "harden", "headers_in"]

# What code raises if it expects a message and gets something else.
BROKEN = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError)


class Watch(Protocol):
    """Judges what comes through a channel.

    `reading` is the queue whose item a Redis channel is passing on, or None between two items.
    """

    reading: str | None

    def judges(self, queue: str | None, headers: object) -> bool:
        """Say whether a message with these headers on this queue is ours to judge."""
        ...

    def keep(self, queue: str, item: bytes, fault: MessageError) -> bool:
        """Keep a dead letter of a list item that is not a message; False if that cannot be done now."""
        ...

    def unpacking_fault(self, body: Any, headers: Any, delivery_info: object) -> MessageError | None:
        """Say what is wrong with a compressed body before it is decompressed, or None."""
        ...


def harden(transport: Any, watch: Watch) -> Any:
    """Return the transport, with channels and messages that are watched; it must not have connected yet."""
    keep_one_client(transport)
    if transport.driver_type == "redis":
        transport.Channel = _reading(transport.Channel, watch)
    if hasattr(transport, "Channel"):
        transport.Channel = _measuring(transport.Channel, watch)
    elif hasattr(getattr(transport, "Connection", None), "Channel"):  # AMQP, whose connections make channels
        channel = _measuring(transport.Connection.Channel, watch)
        transport.Connection = type("Connection", (transport.Connection,), {"Channel": channel})
    return transport


def headers_in(item: bytes) -> object:
    """Return the headers in a list item, whatever they are; they may still tell whose message it was."""
    try:
        return json.loads(item)["headers"]
    except BROKEN:
        return None


def _reading(channel: Any, watch: Watch) -> Any:
    """Return the Redis channel class, which now watches each list item until Celery has it."""

    class Tagged(channel.Message):  # type: ignore[misc]
        def __init__(self, payload: Any, **fields: Any) -> None:
            tag = payload["properties"]["delivery_tag"]
            sound = isinstance(tag, (str, int, float)) and not isinstance(tag, bool)
            if not sound and watch.judges(watch.reading, payload.get("headers")):
                raise TypeError("the delivery tag cannot be written to Redis, which would end the worker")
            super().__init__(payload, **fields)

    class Reading(channel):  # type: ignore[misc]
        Message = Tagged

        def _connparams(self, *args: Any, **kwargs: Any) -> Any:
            # A message may be acknowledged or given back after its connection was closed, for example by a restart of
            # the server. Kombu then fails for lack of an address, which ends a worker; a lost connection does not.
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
            except BROKEN as error:  # Kombu takes some of these for a lost connection
                queue = watch.reading
                if len(taken) != 2 or queue is None or not watch.judges(queue, headers_in(taken[1])):
                    raise
                fault = MessageError("malformed", "", f"is not a Celery message ({type(error).__name__})")
            finally:
                del client.parse_response
                watch.reading = None
            self._set_aside(queue, taken[0], taken[1], fault)
            return True

        def _set_aside(self, queue: str, key: bytes, item: bytes, fault: MessageError) -> None:
            """Keep a dead letter instead of an item, or put it back; it may already be among the unacknowledged."""
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
    """Return the channel class; its messages are now measured before they are decompressed."""

    class Measured(Message):
        __slots__ = ()

        def __init__(self, body: Any = None, headers: Any = None, delivery_info: Any = None, **fields: Any) -> None:
            fault = watch.unpacking_fault(body, headers, delivery_info)
            if fault is not None:  # Kombu does not decompress a message with errors, but passes the errors on
                self.errors = [(type(fault), fault, None)]  # type: ignore[list-item]
            super().__init__(  # type: ignore[no-untyped-call]
                body=body, headers=headers, delivery_info=delivery_info, **fields
            )

    # In the order of classes before Kombu's own and after the transport's, which knows where body and headers are.
    message = type("Message", (channel.Message, Measured), {})
    return type("Channel", (channel,), {"Message": message})
