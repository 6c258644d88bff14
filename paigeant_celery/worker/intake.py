"""The intake: anything on our queues that no task can take becomes a dead letter, and the worker lives on.

Celery and Kombu trust what they read: a message that is damaged may end the worker, and no body is too large for them.
The hooks used here are not part of Celery's public interface; a contract test pins them.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from celery.exceptions import InvalidTaskError
from kombu.exceptions import ContentDisallowed

from paigeant_celery.core.errors import MessageError, OutdatedVersion, TransientError
from paigeant_celery.core.names import GIVEN_BACK_HEADER, Names
from paigeant_celery.hop.effects import PUT_BACK, PUT_BACK_PAUSE, Refused
from paigeant_celery.hop.guard import Arrival, given_back_of
from paigeant_celery.hop.service import HopService
from paigeant_celery.worker.channels import BROKEN, harden, headers_in

__all__ = ["Intake"]

STORE_WAIT = 0.5  # seconds before a message whose letter cannot be written goes back to its queue
PRECONDITION_FAILED = 406  # AMQP's reply code, which has more than one reason
# A body is ASCII JSON, in which an envelope of UTF-8 takes at most three times its bytes. Celery adds its own fields.
MOST_GROWTH = 3
MOST_BESIDE = 64 * 1024  # bytes

COMPRESSIONS = ("application/x-gzip", "gzip", "zlib")  # Kombu's names for the compression that our messages use

# What Celery's own headers may be beside None. It passes them on unread, and a worker fails over them far from here.
HEADERS: Mapping[str, type | tuple[type, ...]] = {
    "lang": str,
    "shadow": str,
    "group": str,
    "root_id": str,
    "parent_id": str,
    "argsrepr": str,
    "kwargsrepr": str,
    "origin": str,
    "group_index": int,
    "retries": int,
    "replaced_task_nesting": int,
    "ignore_result": bool,
    "stamps": dict,
    "stamped_headers": (list, tuple),
}
LONGEST_LIMIT = 1e9  # seconds; a worker adds a time limit to its clock

logger = logging.getLogger(__name__)


class Ours(Protocol):
    """Knows which queues carry our messages."""

    def __contains__(self, queue: object) -> bool: ...

    def shared(self, queue: str) -> bool:
        """Say whether tasks of the host may wait on one of them as well."""
        ...

    def look(self) -> None:
        """Look again at what the activities and the host's configuration name."""
        ...


class Intake:
    """Stands between the broker and Celery's consumer, but only for messages that are ours to judge."""

    def __init__(
        self, consumer: Any, *, names: Names, service: Callable[[], HopService], ours: Ours, max_size: int
    ) -> None:
        self._consumer, self._names, self._service, self._ours = consumer, names, service, ours
        self._max_size = max_size
        self._max_body = MOST_GROWTH * max_size + MOST_BESIDE
        self.reading: str | None = None

    def guard(self) -> None:
        """Wrap the consumer, once for its life, which is longer than that of a connection."""
        consumer = self._consumer
        consumer.create_task_handler = self._handling(consumer.create_task_handler)
        consumer.on_unknown_message = self._instead(consumer.on_unknown_message, "malformed")
        consumer.on_invalid_task = self._instead(consumer.on_invalid_task, "invalid_task")
        consumer.on_unknown_task = self._unknown_task(consumer.on_unknown_task)
        consumer.on_decode_error = self._decode_error(consumer.on_decode_error)
        consumer.ensure_connected = self._hardening(consumer.ensure_connected)
        consumer.add_task_queue = self._looking(consumer.add_task_queue)
        consumer.loop = self._outlasting(consumer.loop)

    def judges(self, queue: str | None, headers: object) -> bool:
        """Say whether a message is ours to judge.

        It is if it names a task of ours, on any queue. On a queue of ours it also is if it names no task, since nobody
        else would survive it, or an unknown one; but what waits on a queue of the host and names another task is the
        host's.
        """
        return self._judges(queue, headers.get("task") if isinstance(headers, dict) else None)

    def _judges(self, queue: str | None, task: object) -> bool:
        if isinstance(task, str) and self._names.activity(task) is not None:
            return True
        if queue is None or queue not in self._ours:
            return False
        return not isinstance(task, str) or not (task in self._consumer.strategies or self._ours.shared(queue))

    def _handling(self, create: Callable[..., Any]) -> Callable[..., Any]:
        def create_task_handler(*args: Any, **kwargs: Any) -> Callable[[Any], None]:
            handle = create(*args, **kwargs)

            def on_task_received(message: Any) -> None:
                queue = self._queue_of(message)
                if queue not in self._ours and not self.judges(queue, message.headers):
                    handle(message)
                    return
                fault = self._fault_of(message, queue)
                if fault is not None:
                    self._refuse(message, queue, fault)
                    return
                try:
                    handle(message)
                except BROKEN as error:  # caught first, because Celery would take some of them for a lost connection
                    self._refuse(message, queue, MessageError("malformed", "", type(error).__name__))

            return on_task_received

        return create_task_handler

    def _fault_of(self, message: Any, queue: str | None) -> MessageError | None:
        """Say why Celery could not take the message as a task, or None."""
        task = self._task_of(message)
        if not self._judges(queue, task):
            return None  # the host shares this queue with us; only Celery judges its messages
        headers = message.headers
        if not isinstance(headers, dict):
            return MessageError("malformed", "headers", "is not a mapping")
        if not isinstance(task, str):
            return MessageError("malformed", "headers", "names no task")
        if "id" not in headers:
            return MessageError("malformed", "headers.id", "is missing")
        if not isinstance(headers["id"], str):
            return MessageError("bad_envelope", "headers.id", "is not a string")
        if self._names.activity(task) is None:
            return MessageError("unknown_task", "headers.task", "is neither an activity nor a task of this worker")
        if len(message.body or b"") > self._max_body:
            return self._too_large()
        for name, kinds in HEADERS.items():
            if not _is_one(headers.get(name), kinds):
                return MessageError("malformed", f"headers.{name}", "is of wrong type")
        if not _is_time_limit(headers.get("timelimit")):
            return MessageError("malformed", "headers.timelimit", "is not two numbers of seconds")
        for name in ("eta", "expires"):  # Celery would wait for `eta`, and drop the message because of `expires`
            if headers.get(name) is not None:
                reason = "bad_envelope" if _is_time(headers[name]) else "invalid_task"
                return MessageError(reason, f"headers.{name}", "is set, which our messages never do")
        try:
            payload = message.decode()
        except ContentDisallowed:
            return MessageError("content_disallowed", "content_type", "is not application/json")
        except Exception as error:  # noqa: BLE001 - decoders raise what they like
            return MessageError("undecodable", "body", type(error).__name__)
        if message.content_type != "application/json":
            return MessageError("content_disallowed", "content_type", "is not application/json")
        if not isinstance(payload, list) or len(payload) != 3:
            return MessageError("malformed", "body", "is not a list of arguments, named arguments and embed")
        if not (isinstance(payload[0], list) and isinstance(payload[1], dict)):
            return MessageError("bad_envelope", "body", "has arguments of wrong type")
        return None if isinstance(payload[2], dict) else MessageError("malformed", "body", "has an embed of wrong type")

    def unpacking_fault(self, body: Any, headers: Any, delivery_info: object) -> MessageError | None:
        """Say what is wrong with a compressed body before it is decompressed, or None."""
        compression = headers.get("compression") if isinstance(headers, dict) else None
        if not compression or not self.judges(self._named(delivery_info), headers):
            return None
        if compression not in COMPRESSIONS:
            return MessageError("content_disallowed", "headers.compression", "is not gzip")
        try:
            size = len(zlib.decompressobj().decompress(body, self._max_body + 1))
        except (zlib.error, TypeError):
            return None  # Kombu will report that too
        return self._too_large() if size > self._max_body else None

    def _too_large(self) -> MessageError:
        text = f"is too large for an envelope of {self._max_size} bytes (`paigeant_max_message_size`)"
        return MessageError("too_large", "body", text)

    def _task_of(self, message: Any) -> object:
        """Return what a message names as its task, if it can be read."""
        headers = message.headers
        if not isinstance(headers, dict):
            return None
        return headers["task"] if "task" in headers else self._old_task(message)

    def _old_task(self, message: Any) -> object:
        """Return the task named in the body of a message of Celery's first protocol, which a host may still send."""
        if len(message.body or b"") > self._max_body:
            return None
        try:
            body = message.decode()
        except Exception:  # noqa: BLE001 - decoders raise what they like; the message is judged later
            return None
        return body.get("task") if isinstance(body, dict) else None

    def _instead(self, otherwise: Callable[..., None], reason: str) -> Callable[..., None]:
        def refuse(body: object, message: Any, *error: Exception) -> None:
            queue = self._queue_of(message)
            if not self._judges(queue, self._task_of(message)):
                otherwise(body, message, *error)
            else:
                text = type(error[0]).__name__ if error and not isinstance(error[0], InvalidTaskError) else ""
                self._refuse(message, queue, MessageError(reason, "", text))

        return refuse

    def _decode_error(self, otherwise: Callable[..., None]) -> Callable[..., None]:
        def refuse(message: Any, error: Exception) -> None:
            queue = self._queue_of(message)
            if not self._judges(queue, self._task_of(message)):
                otherwise(message, error)
                return
            reason = "content_disallowed" if isinstance(error, ContentDisallowed) else "undecodable"
            found = error if isinstance(error, MessageError) else MessageError(reason, "body", type(error).__name__)
            self._refuse(message, queue, found)

        return refuse

    def _unknown_task(self, otherwise: Callable[..., None]) -> Callable[..., None]:
        """Return a handler that refuses a step that is not loaded here; Celery would log its whole content."""

        def refuse(body: object, message: Any, error: Exception) -> None:
            task, hop_id = str(message.headers.get("task")), str(message.headers.get("id"))
            activity = self._names.activity(task)
            if activity is None:
                otherwise(body, message, error)
                return
            arrival = Arrival(
                hop_id=hop_id,
                activity=activity,
                envelope=_envelope_of(message),
                queue=self._queue_of(message),
                given_back=given_back_of(message.headers.get(GIVEN_BACK_HEADER)),
            )
            if isinstance(self._asked(message, lambda: self._service().refuse_unknown(arrival)), Refused):
                self._consumer.event_dispatcher.send("task-failed", uuid=hop_id, exception=f"NotRegistered({task!r})")

        return refuse

    def _refuse(self, message: Any, queue: str | None, fault: MessageError) -> None:
        """Keep a dead letter instead of the message; if it was a hop's own, the hop is sent again when overdue."""
        arrival = self._arrival(message.headers, message.body, queue, fault)
        if fault.reason == "too_large":
            self._asked(message, lambda: self._service().refuse_unread(arrival))
        else:
            self._asked(message, lambda: self._service().discard(arrival))

    def _arrival(self, headers: object, content: object, queue: str | None, fault: MessageError) -> Arrival:
        named = headers if isinstance(headers, dict) else {}
        activity = self._names.activity(str(named.get("task", ""))) or ""
        hop_id = str(named.get("id", ""))
        return Arrival(hop_id=hop_id, activity=activity, envelope=content, fault=fault, queue=queue)

    def _asked(self, message: Any, refuse: Callable[[], object]) -> object:
        """Refuse a message and return the answer; if the store is away or newer, the message goes back to its queue."""
        try:
            answer = refuse()
        except (TransientError, OutdatedVersion) as error:
            action = "outdated" if isinstance(error, OutdatedVersion) else "store_unreachable"
            logger.error("%s; the message goes back to its queue", error, extra={"action": action})
            time.sleep(STORE_WAIT)
            message.reject_log_error(logger, self._consumer.connection_errors, requeue=True)
            return None
        message.reject_log_error(logger, self._consumer.connection_errors)
        if answer == PUT_BACK:
            time.sleep(PUT_BACK_PAUSE)
        return answer

    def _queue_of(self, message: Any) -> str | None:
        """Return the queue that a message comes from; None if nothing tells."""
        return self._named(message.delivery_info)

    def _named(self, delivery_info: object) -> str | None:
        info = delivery_info if isinstance(delivery_info, dict) else {}
        queue = self.reading or self._consumed_by(info.get("consumer_tag")) or info.get("routing_key")
        return queue if isinstance(queue, str) else None

    def _consumed_by(self, tag: object) -> str | None:
        """Return the queue that a consumer's tag stands for; the routing key may not be the name of a host's queue."""
        tags = getattr(getattr(self._consumer, "task_consumer", None), "_active_tags", {})
        return next((queue for queue, known in tags.items() if known == tag), None)

    def _hardening(self, ensure_connected: Callable[..., Any]) -> Callable[..., Any]:
        def connected(connection: Any, *args: Any, **kwargs: Any) -> Any:
            create = connection.create_transport  # called again when the connection fails over to another broker
            connection.create_transport = lambda: harden(create(), self)
            if connection._transport is not None:
                harden(connection._transport, self)
            self._ours.look()
            return ensure_connected(connection, *args, **kwargs)

        return connected

    def _looking(self, add: Callable[..., None]) -> Callable[..., None]:
        def add_task_queue(queue: str, *args: Any, **kwargs: Any) -> None:
            self._ours.look()  # it may be that of an activity which was loaded since
            add(queue, *args, **kwargs)

        return add_task_queue

    def _outlasting(self, loop: Callable[..., Any]) -> Callable[..., Any]:
        """Return a loop that connects again if a step exceeded RabbitMQ's `consumer_timeout`, which closed the channel.

        Celery takes a closed channel for an error of the worker and ends the worker.
        """

        def outlast(*args: Any, **kwargs: Any) -> Any:
            try:
                return loop(*args, **kwargs)
            except self._consumer.channel_errors as error:
                if not (_is_consumer_timeout(error) and self._reads_ours()):
                    raise
                logger.warning(
                    "a step runs longer than RabbitMQ's `consumer_timeout`; it goes on, and this worker connects again",
                    extra={"action": "consumer_timeout"},
                )
                raise ConnectionResetError(str(error)) from error

        return outlast

    def _reads_ours(self) -> bool:
        return any(queue in self._ours for queue in self._consumer.app.amqp.queues.consume_from)

    def keep(self, queue: str, item: bytes, fault: MessageError) -> bool:
        """Keep a dead letter of a list item that is not a message; False if the store is away."""
        arrival = self._arrival(headers_in(item), item, queue, fault)
        try:
            self._service().discard(arrival)
        except TransientError as away:
            logger.error("%s; the item goes back to its queue", away, extra={"action": "store_unreachable"})
            time.sleep(STORE_WAIT)
            return False
        return True


def _is_consumer_timeout(error: Exception) -> bool:
    return getattr(error, "reply_code", None) == PRECONDITION_FAILED and "timed out" in str(error)


def _is_one(value: object, kinds: type | tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return kinds is bool
    return value is None or isinstance(value, kinds)


def _is_time_limit(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    return all(_is_one(limit, (int, float)) and 0 <= (limit or 0) <= LONGEST_LIMIT for limit in value)


def _is_time(value: object) -> bool:
    try:
        return datetime.fromisoformat(str(value)) is not None
    except ValueError:
        return False


def _envelope_of(message: Any) -> object:
    try:
        return message.decode()[0][0]
    except Exception:  # noqa: BLE001 - whatever it is, it is not an envelope
        return None
