"""Publishing hops: Celery task messages that none of the host's defaults change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.port import Delivery
from paigeant_celery.core.errors import Unreachable
from paigeant_celery.core.names import ATTEMPT_HEADER, SPEC_VERSION, VERSION_HEADER, Names

__all__ = ["PUBLISH_RETRY", "CeleryPublisher", "broker_address", "connected"]

PUBLISH_RETRY = {"max_retries": 8, "interval_start": 0.0, "interval_step": 0.2, "interval_max": 1.0}
# Seconds by which Celery's time limits exceed ours: a run that cannot be cancelled is given up after half a minute,
# and an output may wait a quarter of an hour for a store that is unavailable.
LIMIT_MARGIN = 20 * 60.0
LONGEST_STEP = 30 * 86400.0  # seconds; used if neither step nor activity sets a timeout
NOT_FOUND = "404"  # AMQP's reply code for a missing queue; other transports use it too
COMPRESS_FROM = 8 * 1024  # bytes of envelope; below that, gzip gains little


class _Direct:
    """A Celery router that routes nothing, because the queue of a hop is decided before it is sent."""

    def route(self, options: dict[str, Any], *_: object, **__: object) -> dict[str, Any]:
        return options


class CeleryPublisher:
    """Sends hops as Celery task messages that none of the host's defaults change."""

    def __init__(self, app: Celery, names: Names) -> None:
        self._app, self._names = app, names

    def queue_for(self, activity: str, queue: str | None) -> str:
        """Return the step's own queue, or else the activity's, the host's route, or the one of its name."""
        if queue is not None:
            return queue
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

    def publish(self, delivery: Delivery) -> None:
        """Send the message; raises `Unreachable` when Celery has used up its retries."""
        limit = delivery.timeout if delivery.timeout is not None else LONGEST_STEP
        with reaching_broker(self._app):
            self._app.send_task(
                self._names.task(delivery.activity),
                args=[delivery.envelope],
                kwargs={},
                task_id=delivery.hop_id,
                root_id=delivery.root_id,
                parent_id=delivery.parent_id,
                queue=self.declared(delivery.queue),
                router=_Direct(),
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
                headers={VERSION_HEADER: SPEC_VERSION, ATTEMPT_HEADER: delivery.attempt},
                retry=True,
                retry_policy=PUBLISH_RETRY,
            )

    def waiting(self, queue: str) -> int:
        """Return how many messages wait on a queue; 0 if the broker does not know the queue, or no longer does."""
        # A connection of its own, because a pooled one does not survive a refused declaration.
        with connected(self._app) as connection, connection.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).message_count)
            except connection.channel_errors as error:
                if str(getattr(error, "reply_code", "")) == NOT_FOUND:
                    return 0
                raise

    def _compression(self, delivery: Delivery) -> str | None:
        # None would use the host's default, which workers elsewhere may lack.
        large = len(delivery.envelope) >= COMPRESS_FROM
        return "gzip" if large or self._app.conf.task_compression else None


@contextmanager
def connected(app: Celery) -> Iterator[Any]:
    """Yield a separate connection to the broker; raises `Unreachable`."""
    with reaching_broker(app), app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.1)
        yield connection


@contextmanager
def reaching_broker(app: Celery) -> Iterator[None]:
    """Raise `Unreachable` for what Kombu raises if the broker is unavailable or refuses."""
    try:
        yield
    except (OperationalError, OSError) as error:
        raise Unreachable("broker", broker_address(app), type(error).__name__) from error
    except _refusals(app) as error:
        raise Unreachable("broker", broker_address(app), f"{type(error).__name__}: {error}") from error


def _refusals(app: Celery) -> tuple[type[Exception], ...]:
    # What Kombu does not retry: a wrong password or virtual host, a queue declared differently.
    connection = app.connection_for_write()
    return (*connection.connection_errors, *connection.channel_errors)


def broker_address(app: Celery) -> str:
    """Return the address of the app's broker, without password."""
    url = app.conf.broker_write_url or "amqp://"
    first = url[0] if isinstance(url, (list, tuple)) else str(url).partition(";")[0]
    return str(maybe_sanitize_url(first))
