"""What a Celery worker does for us: it checks at its start, serves our queues, and prints what it serves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import click
from celery import bootsteps
from celery.concurrency.thread import TaskPool

from paigeant_celery.activities.port import Activity
from paigeant_celery.core.errors import PaigeantError
from paigeant_celery.worker.app_state import installation_of
from paigeant_celery.worker.broker_advice import advice_lines, advise
from paigeant_celery.worker.guest import GuestWorker
from paigeant_celery.worker.intake import Intake
from paigeant_celery.worker.revocations import Revocations
from paigeant_celery.worker.serving import banner, longest_step, printable, queues_of, served_activities, start_checks
from paigeant_celery.worker.task import register_tasks

__all__ = ["AgentQueues"]

logger = logging.getLogger(__name__)


class AgentQueues(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Adds the queues of the served activities to those that a worker consumes.

    The queues are added when the consumer is built, before Celery looks at what kinds of queues there are.
    """

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        guest = consumer.controller if isinstance(consumer.controller, GuestWorker) else None
        self._embedded = guest is not None
        self._announced = self._embedded  # an executor prints no banner
        installation = installation_of(consumer.app)
        self._transport, self._runtime = installation.transport, installation.runtime
        store = self._transport.store
        self._revocations = Revocations(store) if store is not None else None
        self._watching: Any = None
        self._ours = guest.ours if guest is not None else set[str]()
        Intake(
            consumer,
            names=self._transport.names,
            service=lambda: self._runtime.service,
            ours=self._ours,
            max_size=self._transport.settings.max_message_size,
        ).guard()
        if self._embedded:
            return  # the executor adds the queues that it serves
        try:
            self._serve(consumer.app)
        except PaigeantError as error:
            raise SystemExit(f"paigeant_celery: {error}") from error

    def start(self, consumer: Any) -> None:
        """Print what is served once the broker is connected, and start sweeping."""
        if not self._announced:
            self._announced = True
            if not self._store_seen:
                self._look_at_store()
            served = served_activities(self._transport)
            click.echo(printable("\n".join([banner(self._transport, served), *self._advice(consumer, served)])))
        self._ours.update(queue.name for queue in queues_of(self._transport, served_activities(self._transport)))
        if self._embedded or served_activities(self._transport):
            self._runtime.start_sweeping()
            if self._revocations is not None and self._watching is None:
                self._watching = self._revocations.watch(consumer.timer)

    def stop(self, consumer: Any) -> None:
        """Stop sweeping because the broker is away or the worker ends."""
        self._runtime.stop_sweeping()
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _advice(self, consumer: Any, served: dict[str, Activity]) -> Iterator[str]:
        """Yield the findings about the broker's settings if steps are served."""
        if served:
            findings = advise(
                self._transport,
                longest_step=longest_step(self._transport, served),
                prefetch=consumer.controller.prefetch_multiplier,
                threads=isinstance(consumer.pool, TaskPool),
            )
            yield from advice_lines(findings)

    def _look_at_store(self) -> None:
        """Check the store if it was away when the worker began; it may have come back together with the broker."""
        try:
            start_checks(self._transport)
        except PaigeantError as error:
            click.echo(f"paigeant_celery: {error}", err=True)
            raise SystemExit(1) from error

    def _serve(self, app: Any) -> None:
        self._store_seen = start_checks(self._transport)
        register_tasks(app, self._runtime)
        served = served_activities(self._transport)
        queues = list(queues_of(self._transport, served))
        self._ours.update(queue.name for queue in queues)
        if self._transport.settings.consume == "only" and served:
            for queue in queues:
                app.amqp.queues.add(queue)
            app.amqp.queues.select([queue.name for queue in queues])
        for queue in queues:
            app.amqp.queues.select_add(queue)
