"""Publishing hops: Celery task messages that none of the host's defaults change."""

from __future__ import annotations

import struct
from typing import Any, cast

from celery import Celery
from kombu.entity import Queue

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.reach import Link
from paigeant_celery.broker.sending import Sending
from paigeant_celery.broker.threads import BrokerThreads
from paigeant_celery.broker.tracing import workflow_trace
from paigeant_celery.core.errors import InvalidInput, MessageError
from paigeant_celery.core.names import (
    ATTEMPT_HEADER,
    GIVEN_BACK_HEADER,
    MAX_QUEUE_LENGTH,
    SPEC_VERSION,
    VERSION_HEADER,
    Names,
    queue_fault,
)

__all__ = ["CeleryPublisher"]

# Seconds by which Celery's time limits exceed ours: a run that cannot be cancelled is given up after half a minute,
# and an output may wait a quarter of an hour for a store that is unavailable.
LIMIT_MARGIN = 20 * 60.0
LONGEST_STEP = 30 * 86400.0  # seconds; used if neither step nor activity sets a timeout
LOOK_WITHIN = 1.0  # seconds; a sweep asks for many queues
NOT_FOUND = "404"  # AMQP's reply code for a missing queue; other transports use it too
COMPRESS_FROM = 8 * 1024  # bytes of envelope; below that, gzip gains little


class _Direct:
    """A Celery router that routes nothing, because the queue of a hop is decided before it is sent."""

    def route(self, options: dict[str, Any], *_: object, **__: object) -> dict[str, Any]:
        return options


class CeleryPublisher:
    """Sends hops as Celery task messages that none of the host's defaults change."""

    def __init__(self, app: Celery, names: Names, threads: BrokerThreads) -> None:
        self._app, self._names, self._threads = app, names, threads

    def queue_for(self, activity: str, queue: str | None) -> str:
        """Return the step's own queue, or else the activity's, the host's route, or the one of its name.

        No route sends what is built in anywhere else.

        Raises `InvalidInput` if not every broker can have a queue of that name, or the exchange that the host gives it.
        """
        chosen = self._chosen(activity, queue)
        if fault := queue_fault(chosen) or _exchange_fault(self.declared(chosen)):
            raise InvalidInput("invalid_queue", "queue", f"{fault} (the activity {activity!r} is sent there)")
        return chosen

    def _chosen(self, activity: str, queue: str | None) -> str:
        if queue is not None:
            return queue
        if activity in registry.built_in:  # on a queue of another activity, a worker without that one would take both
            return self._names.queue(activity)
        loaded = registry.find(activity)
        if loaded is not None and loaded.queue is not None:
            return loaded.queue
        return self.routed_queue(self._names.task(activity)) or self._names.queue(activity)

    def routed_queue(self, task: str) -> str | None:
        """Return the queue to which a route of the host sends a task, or None."""
        route = self._app.amqp.router.lookup_route(task, (), {}, {})
        queue = route.get("queue") if isinstance(route, dict) else route
        if isinstance(queue, Queue):
            return str(queue.name)
        return queue if isinstance(queue, str) else None

    def declared(self, queue: str) -> Queue:
        """Return the queue as the host declares it, otherwise as Celery would declare a new one."""
        queues = self._app.amqp.queues
        if queue in queues:
            return cast("Queue", queues[queue])
        declared: Any = queues.new_missing(queue)
        if queues.max_priority is not None:  # as `add` would, which also makes a worker consume the queue
            declared.queue_arguments = {"x-max-priority": queues.max_priority, **(declared.queue_arguments or {})}
        return cast("Queue", declared)

    def begin(self, delivery: Delivery) -> Sending[None]:
        """Have the message sent by a thread of ours.

        It ends with `Unreachable` if the broker is away or refuses, and with `MessageError` if no broker can ever take
        the message.
        """
        queue = self.declared(delivery.queue)  # here: what the host's configuration raises is the caller's
        return self._threads.begin(lambda link: self._send(delivery, queue, link), lane=delivery.queue)

    def waiting(self, queue: str) -> int:
        """Return how many messages wait on a queue; 0 if the broker does not know the queue, or no longer does."""
        looking = self._threads.begin(
            lambda link: _waiting(queue, link.connection), lane=f"look at {queue}", within=LOOK_WITHIN
        )
        return looking.wait()

    def _send(self, delivery: Delivery, queue: Queue, link: Link) -> None:
        link.returned = False
        try:
            # Here and not by the caller: what makes a trace current in Sentry ends with the block, before we send.
            with workflow_trace(delivery.trace_context):
                self._send_task(delivery, queue, link)
                if link.returned:
                    link.declare_again()
                    self._send_task(delivery, queue, link)
        except (struct.error, UnicodeError) as error:  # AMQP writes names, ids and keys in 255 bytes of UTF-8
            raise MessageError("unsendable", "", f"no broker can take its message: {error}") from error

    def _send_task(self, delivery: Delivery, queue: Queue, link: Link) -> None:
        limit = delivery.timeout if delivery.timeout is not None else LONGEST_STEP
        self._app.send_task(
            self._names.task(delivery.activity),
            args=[delivery.envelope],
            kwargs={},
            task_id=delivery.hop_id,
            root_id=delivery.root_id,
            parent_id=delivery.parent_id,
            queue=queue,
            router=_Direct(),
            producer=link.producer,
            serializer="json",
            compression=self._compression(delivery),
            soft_time_limit=limit + LIMIT_MARGIN,
            time_limit=limit + 2 * LIMIT_MARGIN,
            expires=None,
            priority=0,
            delivery_mode=2,
            ignore_result=True,
            add_to_parent=False,
            argsrepr=f"({delivery.summary})",
            kwargsrepr="{}",
            headers=_headers(delivery),
            mandatory=True,  # RabbitMQ returns what has no queue any more, and drops it otherwise
            retry=False,  # our threads try again themselves, and know when nobody waits any longer
        )

    def _compression(self, delivery: Delivery) -> str | None:
        # None would use the host's default, which workers elsewhere may lack.
        large = len(delivery.envelope) >= COMPRESS_FROM
        return "gzip" if large or self._app.conf.task_compression else None


def _headers(delivery: Delivery) -> dict[str, str | int]:
    headers: dict[str, str | int] = {VERSION_HEADER: SPEC_VERSION, ATTEMPT_HEADER: delivery.attempt}
    return {**headers, GIVEN_BACK_HEADER: delivery.given_back} if delivery.given_back else headers


def _exchange_fault(queue: Queue) -> str:
    """Say why messages cannot be routed to a queue that the host declares; "" if they can."""
    for what, name in (("exchange", queue.exchange.name or ""), ("routing key", queue.routing_key or "")):
        if (size := len(name.encode(errors="surrogatepass"))) > MAX_QUEUE_LENGTH:
            return f"the {what} of the queue {queue.name!r} is {size} bytes long; AMQP allows {MAX_QUEUE_LENGTH}"
    return ""


def _waiting(queue: str, connection: Any) -> int:
    # A channel of its own, because none survives a refused declaration.
    with connection.channel() as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except connection.channel_errors as error:
            if str(getattr(error, "reply_code", "")) == NOT_FOUND:
                return 0
            raise
