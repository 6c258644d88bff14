"""The intake: what arrives on our queues and no task can take becomes a dead letter, and the worker lives on.

Celery 5.7 lets some malformed messages end a worker (a body that is no list of three, bad base64, a header without
`id`), and Kombu's Redis transport any list item that is no message. The hooks used here are not part of Celery's public
interface; a contract test pins them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from celery.exceptions import InvalidTaskError
from kombu.exceptions import ContentDisallowed

from paigeant_celery.errors import MessageError, TransientError
from paigeant_celery.guard import Arrival
from paigeant_celery.hop import HopService
from paigeant_celery.names import Names

__all__ = ["Intake"]

STORE_WAIT = 0.5  # seconds before a message goes back to its queue whose letter cannot be written
# What code raises that expects a message and gets something else.
BROKEN = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError)

logger = logging.getLogger(__name__)


class Intake:
    """Stands between the broker and Celery's consumer, for the queues of our activities alone."""

    def __init__(self, consumer: Any, *, names: Names, service: Callable[[], HopService], ours: set[str]) -> None:
        self._consumer, self._names, self._service, self.ours = consumer, names, service, ours
        self.reading: str | None = None  # the queue whose item Kombu's Redis transport hands on

    def guard(self) -> None:
        """Wrap the consumer; once for its life, which outlasts connections."""
        consumer = self._consumer
        consumer.create_task_handler = self._handling(consumer.create_task_handler)
        consumer.on_unknown_message = self._instead(consumer.on_unknown_message, "malformed")
        consumer.on_invalid_task = self._instead(consumer.on_invalid_task, "invalid_task")
        consumer.on_unknown_task = self._unknown_task(consumer.on_unknown_task)
        consumer.on_decode_error = self._decode_error(consumer.on_decode_error)
        consumer.ensure_connected = self._hardening(consumer.ensure_connected)

    def _handling(self, create: Callable[..., Any]) -> Callable[..., Any]:
        def create_task_handler(*args: Any, **kwargs: Any) -> Callable[[Any], None]:
            handle = create(*args, **kwargs)

            def on_task_received(message: Any) -> None:
                queue = self._queue_of(message)
                if queue is None:
                    handle(message)
                    return
                fault = self._fault_of(message)
                if fault is not None:
                    self._refuse(message, queue, fault)
                    return
                try:
                    handle(message)
                except BROKEN as error:  # before those that Celery takes for a lost connection
                    self._refuse(message, queue, MessageError("malformed", "", type(error).__name__))

            return on_task_received

        return create_task_handler

    def _fault_of(self, message: Any) -> MessageError | None:
        """Say why Celery could not take the message as a task, or None."""
        headers = message.headers
        if not isinstance(headers, dict) or not isinstance(headers.get("task"), str):
            return MessageError("malformed", "headers", "names no task")
        if "id" not in headers:
            return MessageError("malformed", "headers.id", "is missing")
        if not isinstance(headers["id"], str):
            return MessageError("bad_envelope", "headers.id", "is no text")
        if headers["task"] not in self._consumer.strategies and self._names.activity(headers["task"]) is None:
            return MessageError("unknown_task", "headers.task", "is no activity, and no task that this worker has")
        try:
            payload = message.decode()
        except ContentDisallowed:
            return MessageError("content_disallowed", "content_type", "is not application/json")
        except Exception as error:  # noqa: BLE001 - decoders raise what they like
            return MessageError("undecodable", "body", type(error).__name__)
        if message.content_type != "application/json" and self._names.activity(headers["task"]) is not None:
            return MessageError("content_disallowed", "content_type", "is not application/json")
        if not isinstance(payload, list) or len(payload) != 3:
            return MessageError("malformed", "body", "is no list of arguments, named arguments and embed")
        if not (isinstance(payload[0], list) and isinstance(payload[1], dict)):
            return MessageError("bad_envelope", "body", "has arguments of another type")
        return (
            None if isinstance(payload[2], dict) else MessageError("malformed", "body", "has an embed of another type")
        )

    def _instead(self, otherwise: Callable[..., None], reason: str) -> Callable[..., None]:
        def refuse(body: object, message: Any, *error: Exception) -> None:
            queue = self._queue_of(message)
            if queue is None:
                otherwise(body, message, *error)
            else:
                text = type(error[0]).__name__ if error and not isinstance(error[0], InvalidTaskError) else ""
                self._refuse(message, queue, MessageError(reason, "", text))

        return refuse

    def _decode_error(self, otherwise: Callable[..., None]) -> Callable[..., None]:
        def refuse(message: Any, error: Exception) -> None:
            queue = self._queue_of(message)
            if queue is None:
                otherwise(message, error)
                return
            reason = "content_disallowed" if isinstance(error, ContentDisallowed) else "undecodable"
            self._refuse(message, queue, MessageError(reason, "body", type(error).__name__))

        return refuse

    def _unknown_task(self, otherwise: Callable[..., None]) -> Callable[..., None]:
        """Return what ends the workflow of a step that is not loaded here; Celery would log all of its content."""

        def refuse(body: object, message: Any, error: Exception) -> None:
            task, hop_id = str(message.headers.get("task")), str(message.headers.get("id"))
            activity = self._names.activity(task)
            if activity is None:
                otherwise(body, message, error)
                return
            arrival = Arrival(
                hop_id=hop_id, activity=activity, envelope=_envelope_of(message), queue=self._queue_of(message)
            )
            if self._asked(message, lambda: self._service().refuse_unknown(arrival)):
                self._consumer.event_dispatcher.send("task-failed", uuid=hop_id, exception=f"NotRegistered({task!r})")

        return refuse

    def _refuse(self, message: Any, queue: str, fault: MessageError) -> None:
        """Keep a dead letter instead of the message; a hop whose message it was is sent again when it is overdue."""
        headers = message.headers if isinstance(message.headers, dict) else {}
        arrival = Arrival(
            hop_id=str(headers.get("id", "")),
            activity=self._names.activity(str(headers.get("task", ""))) or "",
            envelope=_text_of(message.body),
            fault=fault,
            queue=queue,
        )
        self._asked(message, lambda: self._service().discard(arrival))

    def _asked(self, message: Any, refuse: Callable[[], None]) -> bool:
        """Refuse a message; where the store is away, it goes back to its queue. Says which."""
        try:
            refuse()
        except TransientError as away:
            logger.error("%s; the message goes back to its queue", away, extra={"action": "store_unreachable"})
            time.sleep(STORE_WAIT)
            message.reject_log_error(logger, self._consumer.connection_errors, requeue=True)
            return False
        message.reject_log_error(logger, self._consumer.connection_errors)
        return True

    def _queue_of(self, message: Any) -> str | None:
        """Return the queue of ours from which a message comes, or None."""
        info = message.delivery_info if isinstance(message.delivery_info, dict) else {}
        queue = self.reading if self.reading is not None else info.get("routing_key")
        return queue if isinstance(queue, str) and queue in self.ours else None

    def _hardening(self, ensure_connected: Callable[..., Any]) -> Callable[..., Any]:
        def connected(connection: Any, *args: Any, **kwargs: Any) -> Any:
            if connection.transport.driver_type == "redis":
                connection.transport.Channel = _hardened(connection.transport.Channel, self)
            return ensure_connected(connection, *args, **kwargs)

        return connected

    def keep(self, queue: str, item: bytes, fault: MessageError) -> None:
        """Keep a dead letter of a list item that is no message."""
        arrival = Arrival(hop_id="", activity="", envelope=_text_of(item), fault=fault, queue=queue)
        try:
            self._service().discard(arrival)
        except TransientError as away:  # it is taken off the queue already, and no hop of ours
            logger.error("no dead letter is kept: %s", away, extra={"action": "store_unreachable"})


def _hardened(channel: Any, intake: Intake) -> Any:
    """Return the Redis channel class with an intake between its reading and everything that follows."""

    class Hardened(channel):  # type: ignore[misc]
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
                    intake.reading = _text_of(answer[0]).rsplit(self.sep, 1)[0]
                return answer

            client.parse_response = noting
            try:
                return super()._brpop_read(**options)
            except BROKEN as error:  # some of which Kombu takes for a lost connection
                queue = intake.reading
                if len(taken) != 2 or queue is None or queue not in intake.ours:
                    raise
                fault = MessageError("malformed", "", f"is no message of Celery ({type(error).__name__})")
                intake.keep(queue, taken[1], fault)
                return True
            finally:
                del client.parse_response
                intake.reading = None

    return Hardened


def _envelope_of(message: Any) -> object:
    try:
        return message.decode()[0][0]
    except Exception:  # noqa: BLE001 - whatever it is, it is no envelope
        return None


def _text_of(content: Iterable[int] | str | bytes | None) -> str:
    return content.decode(errors="backslashreplace") if isinstance(content, bytes) else str(content)
