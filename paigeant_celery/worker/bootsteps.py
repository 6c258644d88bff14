"""What a Celery worker does for us: checks at its start, the queues that it serves, and what it says."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from typing import Any

import click
from celery import bootsteps
from celery.concurrency.thread import TaskPool
from celery.signals import worker_shutting_down
from kombu.entity import Queue

from paigeant_celery.activities.port import Activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import CeleryTransport, transport_of
from paigeant_celery.core.errors import ConfigurationError, PaigeantError, TransientError
from paigeant_celery.core.settings import SPECIAL_CONSUME
from paigeant_celery.worker.broker_advice import advice_lines, advise
from paigeant_celery.worker.intake import Intake
from paigeant_celery.worker.revocations import Revocations

__all__ = ["AgentQueues", "Ending", "queues_of", "served_activities", "start_checks"]

logger = logging.getLogger(__name__)


class Ending(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Lets the grace of the steps that run begin when the worker is told to end, by a signal or remotely."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._embedded = bool(getattr(worker, "paigeant_embedded", False))
        self._shutdown = worker.app.paigeant_runtime.shutdown
        self._shutdown.begin()
        # Sent by a signal handler at once; a task of the solo pool keeps the worker from being closed meanwhile.
        worker_shutting_down.connect(self._told, sender=worker.hostname)  # held weakly

    def close(self, worker: Any) -> None:
        """Tell the steps before the pool waits for them."""
        self._told()

    def _told(self, **_: object) -> None:
        if not self._embedded:  # an executor lets its steps end, and its process may serve again
            self._shutdown.ask()


class AgentQueues(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Adds the queues of the served activities to those that a worker consumes.

    The queues are added when the consumer is built, before Celery looks at what kinds of queues there are.
    """

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._embedded = bool(getattr(consumer.controller, "paigeant_embedded", False))
        self._announced = self._embedded  # the executor's user reads no banner
        self._transport = transport_of(consumer.app)
        store = self._transport.store
        self._revocations = Revocations(store) if store is not None else None
        self._watching: Any = None
        self._ours: set[str] = set()
        consumer.paigeant_ours = self._ours  # to which executors add what they serve
        Intake(
            consumer,
            names=self._transport.names,
            service=lambda: consumer.app.paigeant_runtime.service,
            ours=self._ours,
            max_size=self._transport.settings.max_message_size,
        ).guard()
        if self._embedded:
            return  # the executor adds the queues of what it serves
        try:
            self._serve(consumer.app)
        except PaigeantError as error:
            raise SystemExit(f"paigeant_celery: {error}") from error

    def start(self, consumer: Any) -> None:
        """Say what is served, once the broker is connected."""
        if not self._announced:
            self._announced = True
            if not self._store_seen:
                self._look_at_store()
            served = served_activities(self._transport)
            click.echo("\n".join([banner(self._transport, served), *self._advice(consumer, served)]))
        self._ours.update(queue.name for queue in queues_of(self._transport, served_activities(self._transport)))
        if self._embedded or served_activities(self._transport):
            consumer.app.paigeant_runtime.start_sweeping()
            if self._revocations is not None and self._watching is None:
                self._watching = self._revocations.watch(consumer.timer)

    def stop(self, consumer: Any) -> None:
        """Sweep no more while the broker is away, or for good."""
        consumer.app.paigeant_runtime.stop_sweeping()
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _advice(self, consumer: Any, served: dict[str, Activity]) -> Iterator[str]:
        """Yield what is found in the broker's settings, where steps are served."""
        if served:
            findings = advise(
                self._transport,
                longest_step=longest_step(self._transport, served),
                prefetch=consumer.controller.prefetch_multiplier,
                threads=isinstance(consumer.pool, TaskPool),
            )
            yield from advice_lines(findings)

    def _look_at_store(self) -> None:
        """Check the store that was away when the worker began, and is back with its broker."""
        try:
            start_checks(self._transport)
        except PaigeantError as error:
            click.echo(f"paigeant_celery: {error}", err=True)
            raise SystemExit(1) from error

    def _serve(self, app: Any) -> None:
        from paigeant_celery.worker.install import register_tasks

        self._store_seen = start_checks(self._transport)
        register_tasks(app)
        served = served_activities(self._transport)
        queues = list(queues_of(self._transport, served))
        self._ours.update(queue.name for queue in queues)
        if self._transport.settings.consume == "only" and served:
            for queue in queues:
                app.amqp.queues.add(queue)
            app.amqp.queues.select([queue.name for queue in queues])
        for queue in queues:
            app.amqp.queues.select_add(queue)


def start_checks(transport: CeleryTransport, *, embedded: bool = False) -> bool:
    """Raise `ConfigurationError` with everything that is wrong; say whether the store was there to be looked at."""
    store_seen = True
    mistakes = list(transport.mistakes())
    if transport.in_memory and not embedded:
        mistakes.append(
            "the broker is `memory://`, which no other process can reach; set `PAIGEANT_REDIS_URL` or `broker_url`, "
            "or serve the activity inside your program with `ActivityExecutor`"
        )
    try:
        registry.activities()
        mistakes.extend(_unknown_names(transport))
    except PaigeantError as error:
        mistakes.append(str(error))
    try:
        mistakes.extend(_store_mistakes(transport))
    except TransientError as error:
        logger.warning("%s; hops wait until it is back", error, extra={"action": "store_unreachable"})
        store_seen = False
    if mistakes:
        raise ConfigurationError(mistakes)
    return store_seen


def served_activities(transport: CeleryTransport) -> dict[str, Activity]:
    """Return the loaded activities that this worker serves, as `paigeant_consume` says."""
    consume = transport.settings.consume
    loaded = registry.activities()
    if consume == "no":
        return {}
    if isinstance(consume, tuple):
        return {name: activity for name, activity in loaded.items() if name in consume}
    return loaded


def queues_of(transport: CeleryTransport, served: dict[str, Activity]) -> Iterator[Queue]:
    """Yield the queues of activities: the one that their name leads to, and the one of the name itself.

    A process that does not know the activity's own queue sends to the latter.
    """
    publisher = transport.publisher
    names = [publisher.queue_for(name, None) for name in served] + [transport.names.queue(name) for name in served]
    for name in dict.fromkeys(names):
        yield publisher.declared(name)


def longest_step(transport: CeleryTransport, served: dict[str, Activity]) -> float:
    """Return how long one attempt of what is served may take, in seconds, where a step itself says nothing else."""
    own = [activity.policy.timeout for activity in served.values() if activity.policy is not None]
    return max([transport.settings.step_timeout, *(timeout for timeout in own if timeout is not None)])


def banner(transport: CeleryTransport, served: dict[str, Activity]) -> str:
    """Return what a worker says at its start."""
    lines = [f"[paigeant_celery] mode: {transport.mode}, store: {transport.store_address}"]
    lines += [
        f"  . {name} ({activity.kind}) from {transport.publisher.queue_for(name, None)}"
        for name, activity in sorted(served.items())
    ]
    if not served:
        lines.append("  . no activity is served; name the modules of your agents with `-I` or `imports`")
    return "\n".join(lines)


def _unknown_names(transport: CeleryTransport) -> Iterator[str]:
    consume, loaded = transport.settings.consume, registry.activities()
    if consume == "only" and not loaded:
        yield "`paigeant_consume` is 'only', and no activity is loaded; add the modules of your agents to `imports`"
    if isinstance(consume, tuple):
        known = ", ".join(sorted(loaded)) or "none"
        for name in consume:
            if name not in loaded:
                close = difflib.get_close_matches(name, [*loaded, *SPECIAL_CONSUME], n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                yield f"`paigeant_consume` names {name!r}, which is not loaded; loaded: {known}{hint}"


def _store_mistakes(transport: CeleryTransport) -> Iterator[str]:
    store = transport.store
    if store is None:
        return
    try:
        for warning in store.check(allow_eviction=transport.settings.allow_eviction):
            logger.warning(warning, extra={"action": "store_checked"})
        bound = store.bind_broker(transport.broker_identity)
    except ConfigurationError as error:
        yield from error.mistakes
        return
    if bound != transport.broker_identity:
        yield (
            f"the store {store.address} belongs to the broker {bound} under the prefix "
            f"{transport.settings.prefix!r}, and this worker uses {transport.broker_identity}; choose another "
            "`paigeant_prefix`, or another store"
        )
