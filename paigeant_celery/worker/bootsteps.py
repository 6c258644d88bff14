"""What a Celery worker does for us: it checks at its start, serves our queues, and prints what it serves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import click
from celery import bootsteps
from celery.concurrency.thread import TaskPool

from paigeant_celery.activities.port import Activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.core.errors import ConfigurationError, PaigeantError, TransientError
from paigeant_celery.worker.app_state import installation_of
from paigeant_celery.worker.broker_advice import advice_lines, advise
from paigeant_celery.worker.greenlets import keep_log_flowing, keep_producers_apart
from paigeant_celery.worker.guest import GuestWorker
from paigeant_celery.worker.intake import Intake
from paigeant_celery.worker.our_queues import OurQueues
from paigeant_celery.worker.outlasting import outlast_refusals
from paigeant_celery.worker.readiness import Report
from paigeant_celery.worker.revocations import Revocations
from paigeant_celery.worker.selection import NO_SELECTION, selection_of
from paigeant_celery.worker.self_report import let_workers_tell
from paigeant_celery.worker.serving import (
    banner,
    is_to_serve,
    longest_step,
    printable,
    queues_of,
    read_now,
    served_activities,
    start_checks,
    takes_no_other,
)
from paigeant_celery.worker.start_errors import refused_start
from paigeant_celery.worker.task import register_tasks
from paigeant_celery.worker.task_log import name_steps_in_task_log

__all__ = ["AgentQueues"]

KEEP_ID_EVERY = 30.0  # seconds within which a broker that was emptied is known again under each of its names

logger = logging.getLogger(__name__)


class AgentQueues(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Adds the queues of the served activities to those that a worker consumes.

    The queues are added when the consumer is built, before Celery looks at what kinds of queues there are.
    """

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        let_workers_tell()
        self._embedded = isinstance(consumer.controller, GuestWorker)
        self._announced = self._embedded  # an executor prints no banner
        installation = installation_of(consumer.app)
        self._transport, self._runtime = installation.transport, installation.runtime
        store = self._transport.store
        outbox = Outbox(self._transport.publisher, registry)
        self._revocations = Revocations(store, outbox) if store is not None else None
        self._watching: list[Any] = []  # timer entries
        self._selection, self._added, self._of_host = NO_SELECTION, frozenset[str](), frozenset[str]()
        self._all_seen, self._connected_before = True, False
        self._joined = False
        self._report = Report(self._runtime, consumer.hostname)
        self._ours = OurQueues(self._transport)
        Intake(
            consumer,
            names=self._transport.names,
            service=lambda: self._runtime.service,
            ours=self._ours,
            max_size=self._transport.settings.max_message_size,
        ).guard()
        outlast_refusals(consumer, reads_ours=lambda: any(map(self._ours.__contains__, _read_by(consumer))))
        consumer.on_connection_error_after_connected = self._losing(consumer.on_connection_error_after_connected)
        if self._embedded:
            return  # the executor adds the queues that it serves
        try:
            self._serve(consumer)
        except PaigeantError as error:
            raise refused_start(consumer.controller, error) from error

    def start(self, consumer: Any) -> None:
        """Print what is served once the broker is connected, and start sweeping."""
        consumed = frozenset(consumer.app.amqp.queues.consume_from)
        selection = self._selection.followed(added=self._added, consumed=consumed)
        served = served_activities(self._transport, selection)
        serves = self._embedded or self._joined or bool(served)
        self._runtime.serving = lambda: frozenset(read_now(self._transport))
        if serves and not self._all_seen:
            self._look_again(consumer, lambda: start_checks(self._transport, selection, embedded=self._embedded))
        elif serves and self._connected_before:
            self._look_again(consumer, lambda: self._transport.binding.check_worker(serves=True))
        self._all_seen = self._connected_before = True
        if not self._announced:
            self._announced = True
            click.echo(printable("\n".join([banner(self._transport, selection), *self._advice(consumer, served)])))
        if serves:
            self._begin(consumer)
        if not self._embedded:
            self._report.begin(consumer.pool)

    def stop(self, consumer: Any) -> None:
        """Stop sweeping because the broker is away or the worker ends."""
        self._runtime.serving, self._runtime.had_queues = None, False
        self._report.end()
        self._runtime.stop_sweeping()
        while self._watching:
            self._watching.pop().cancel()

    def _begin(self, consumer: Any) -> None:
        """Do what a worker does that serves activities."""
        self._runtime.had_queues = True
        self._runtime.start_sweeping(partial(self._leave_to_newer, consumer), partial(_read_by, consumer))
        if self._revocations is not None and not self._watching:
            self._watching += [
                self._revocations.watch(consumer.timer),
                consumer.timer.call_repeatedly(KEEP_ID_EVERY, self._transport.binding.keep_id),
            ]

    def _leave_to_newer(self, consumer: Any) -> None:
        """Take no more messages from our queues. Those that the host uses as well stay with it."""
        self._runtime.outdated = True
        read = [queue for queue in _read_by(consumer) if queue in self._ours]
        for queue in sorted(set(read) - self._of_host):
            consumer.call_soon(consumer.cancel_task_queue, queue)

    def _advice(self, consumer: Any, served: dict[str, Activity]) -> Iterator[str]:
        """Yield the findings about the broker's settings if steps are served."""
        if served:
            findings = advise(
                self._transport,
                longest_step=longest_step(self._transport, served),
                prefetch=consumer.controller.prefetch_multiplier,
                threads=isinstance(consumer.pool, TaskPool),
                greenlets=self._greenlets_of_others(consumer.pool),
                hiredis=find_spec("hiredis") is not None,
            )
            yield from advice_lines(findings)

    def _greenlets_of_others(self, pool: Any) -> int:
        """Return how many tasks that are not ours this worker runs at once, if it runs them in greenlets."""
        return int(pool.limit) if pool.is_green and not takes_no_other(self._transport, self._selection) else 0

    def _look_again(self, consumer: Any, check: Callable[[], bool]) -> None:
        """Check what was away when the worker began, or whether it is still the store's broker that has come back.

        That one gets its id back if it has lost its data.
        """
        try:
            check()
        except TransientError as error:
            logger.warning("%s; hops wait until it is back", error, extra={"action": "store_unreachable"})
        except PaigeantError as error:
            raise refused_start(consumer.controller, error) from error

    def _serve(self, consumer: Any) -> None:
        """Check what must be right, and add the queues. What is wrong stops only a worker that is to serve something.

        One that serves nothing may be the host's own, which has other work to do.
        """
        app, selection = consumer.app, selection_of(consumer.controller)
        self._selection = selection
        try:
            self._all_seen = start_checks(self._transport, selection)
        except ConfigurationError as error:
            if is_to_serve(self._transport, selection):
                raise
            text = "this worker serves no activity, so it starts in spite of: %s"
            logger.warning(text, error, extra={"action": "started_in_spite"})
        register_tasks(app, self._runtime)
        if consumer.pool.is_green:
            keep_producers_apart(app)
            keep_log_flowing()
        name_steps_in_task_log(self._transport.names)  # before the processes of a pool are forked
        consumer.add_task_queue = self._joining(consumer, consumer.add_task_queue)
        queues = list(queues_of(self._transport, served_activities(self._transport, selection), selection))
        self._added = frozenset(queue.name for queue in queues)
        if not takes_no_other(self._transport, selection):
            consumed = app.amqp.queues.consume_from
            self._of_host = frozenset(queue for queue in consumed if self._transport.names.activity(queue) is None)
        elif queues:
            for queue in queues:
                app.amqp.queues.add(queue)
            app.amqp.queues.select([queue.name for queue in queues])
        for queue in queues:
            app.amqp.queues.select_add(queue)

    def _losing(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        """Return what handles a lost connection, and lets steps go on that Celery would end for it."""

        def lose(*args: Any, **kwargs: Any) -> Any:
            with self._runtime.losing_broker():
                return handle(*args, **kwargs)

        return lose

    def _joining(self, consumer: Any, add: Callable[..., None]) -> Callable[..., None]:
        """Return `add_task_queue`, which the command `add_consumer` calls, for queues of ours as well."""

        def add_task_queue(queue: str, *args: Any, **kwargs: Any) -> None:
            ours = {ours.name: ours for ours in queues_of(self._transport, (*registry.built_in, *registry.names()))}
            if queue in ours:
                try:
                    start_checks(self._transport)
                except ConfigurationError as error:  # which did not keep a worker from starting that served nothing
                    logger.error("queue %s is not added: %s", queue, error, extra={"action": "queue_not_added"})
                    return
                self._joined = True
                self._begin(consumer)
                consumer.app.amqp.queues.add(ours[queue])
            add(queue, *args, **kwargs)
            if queue in ours:  # a worker that serves anything serves what is built in
                built_in = {self._transport.names.queue(name) for name in registry.built_in}
                for name in built_in - self._selection.excluded - {*_read_by(consumer)}:
                    consumer.app.amqp.queues.add(ours[name])
                    add(name)

        return add_task_queue


def _read_by(consumer: Any) -> Iterator[str]:
    """Yield the queues that a worker reads."""
    yield from consumer.app.amqp.queues.consume_from
