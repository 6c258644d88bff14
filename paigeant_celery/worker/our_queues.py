"""Which queues carry our messages: one rule for all of them, however a worker came to read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.worker.serving import queue_names

__all__ = ["OurQueues"]


class OurQueues:
    """Those whose names begin with our prefix, and those to which the steps of a loaded activity go.

    The names are enough: `-Q`, `task_queues`, `add_consumer` and `paigeant_consume` make no difference.
    """

    def __init__(self, transport: CeleryTransport) -> None:
        self._transport = transport
        self._activities, self._hosts = frozenset[str](), frozenset[str]()

    def look(self) -> None:
        """Look again at what the activities and the host's configuration name; it may be more than before."""
        self._activities, self._hosts = frozenset(self._of_activities()), frozenset(self._of_host())

    def __contains__(self, queue: object) -> bool:
        return isinstance(queue, str) and (self._has_prefix(queue) or queue in self._activities)

    def shared(self, queue: str) -> bool:
        """Say whether tasks of the host may wait on the queue as well, because its configuration names it."""
        return not self._has_prefix(queue) and queue in self._hosts

    def _has_prefix(self, queue: str) -> bool:
        return self._transport.names.activity(queue) is not None

    def _of_activities(self) -> Iterator[str]:
        for name in registry.names():
            with suppress(Exception):  # a router of the host may expect arguments
                yield from queue_names(self._transport, name)

    def _of_host(self) -> Iterator[str]:
        """Yield the queues that the host declares, and those to which it sends its own tasks."""
        app, names = self._transport.app, self._transport.names
        yield app.conf.task_default_queue
        yield from (getattr(queue, "name", queue) for queue in app.conf.task_queues or ())
        for task in (task for task in app.tasks if names.activity(task) is None):
            with suppress(Exception):
                if (queue := self._transport.publisher.routed_queue(task)) is not None:
                    yield queue
