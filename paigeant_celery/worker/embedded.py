"""The embedded worker of an app: one Celery worker in a thread, which serves what its executors ask for."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable
from functools import partial

from celery.exceptions import WorkerShutdown
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.core.errors import Unreachable
from paigeant_celery.worker.guest import GuestThreads, GuestWorker
from paigeant_celery.worker.runtime import HopRuntime
from paigeant_celery.worker.serving import queues_of, start_checks
from paigeant_celery.worker.task import register_tasks

__all__ = ["EmbeddedWorker"]

THREADS = 32  # hops at once in one embedded worker; threads start as they are needed
START_PATIENCE = 30.0  # seconds within which the worker must connect to its broker
STOP_PATIENCE = 30.0

logger = logging.getLogger(__name__)


class EmbeddedWorker:
    """The one worker that the executors of a transport share; it runs while any of them serves."""

    def __init__(self, transport: CeleryTransport, runtime: HopRuntime) -> None:
        self._transport, self._runtime = transport, runtime
        self._lock = threading.Lock()
        self._served: dict[str, int] = {}
        self._worker: GuestWorker | None = None
        self._thread: threading.Thread | None = None
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    @property
    def address(self) -> str:
        """The address of its broker, without the password."""
        return self._transport.broker

    def serves(self, name: str) -> bool:
        """Say whether an executor serves an activity now; any serves what is built in."""
        return name in (*self._served, *self._built_in()) and not self.ended.done()

    def serve(self, name: str) -> None:
        """Consume the queues of an activity from now on."""
        with self._lock:
            queues = self._queues(name, *registry.built_in)
            if self.ended.done():  # it ended by itself; start a new one
                self._worker, self._thread = None, None
                self._served.clear()
            if self._worker is None:
                self._start(queues)
            elif name not in self._served:
                _in_worker(self._worker, partial(self._add, self._worker, queues))
            self._served[name] = self._served.get(name, 0) + 1

    def leave(self, name: str) -> None:
        """Stop consuming them; the last to leave stops the worker, which finishes its running steps."""
        with self._lock:
            worker = self._worker
            if self.ended.done() or worker is None:
                return
            self._served[name] -= 1
            if self._served[name] == 0:
                del self._served[name]
                if self._served:
                    left = {queue.name for queue in self._queues(*self._served, *registry.built_in)}
                    gone = [queue for queue in self._queues(name) if queue.name not in left]
                    _in_worker(worker, partial(_cancel, worker, gone))
                else:
                    self._stop(worker)

    def _built_in(self) -> tuple[str, ...]:
        return registry.built_in if self._served else ()

    def _queues(self, *names: str) -> list[Queue]:
        return list(queues_of(self._transport, names))

    def _start(self, queues: list[Queue]) -> None:
        start_checks(self._transport, embedded=True)
        _reach_broker(self._transport)
        app = self._transport.app
        for queue in queues:
            app.amqp.queues.add(queue)
        app.amqp.queues.select([queue.name for queue in queues])
        register_tasks(app, self._runtime)
        self._worker = worker = GuestWorker(
            app=app,
            pool_cls=GuestThreads,
            concurrency=THREADS,
            hostname=f"paigeant-{id(self):x}@%h",
            use_eventloop=False,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        self.ended = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=_run_worker, args=(worker, self.ended), name="paigeant-worker", daemon=True
        )
        self._thread.start()
        if not worker.ready.wait(START_PATIENCE):
            self._stop(worker)
            late = f"the worker was not ready within {START_PATIENCE:g} s"
            raise Unreachable("broker", self._transport.broker, late)

    def _stop(self, worker: GuestWorker) -> None:
        thread, self._worker, self._thread = self._thread, None, None
        worker.consumer.call_soon(_shut_down)
        if thread is not None:
            thread.join(STOP_PATIENCE)
            if thread.is_alive():
                logger.warning(
                    "steps of this process go on after its executor has stopped",
                    extra={"action": "executor_left_steps"},
                )
            else:
                self._runtime.leave_touched()
        self.ended = concurrent.futures.Future()

    def _add(self, worker: GuestWorker, queues: list[Queue]) -> None:
        register_tasks(self._transport.app, self._runtime)
        consumer = worker.consumer
        consumer.update_strategies()
        for queue in queues:
            consumer.app.amqp.queues.select_add(queue)
            consumer.add_task_queue(queue.name)


def _cancel(worker: GuestWorker, queues: list[Queue]) -> None:
    for queue in queues:
        worker.consumer.cancel_task_queue(queue.name)


def _in_worker(worker: GuestWorker, call: Callable[[], None]) -> None:
    """Call something in the worker's own thread, to which its consumer belongs, and wait for it."""
    done = threading.Event()

    def act() -> None:
        try:
            call()
        finally:
            done.set()

    worker.consumer.call_soon(act)
    done.wait(START_PATIENCE)


def _run_worker(worker: GuestWorker, ended: concurrent.futures.Future[None]) -> None:
    try:
        worker.start()
    finally:
        ended.set_result(None)


def _reach_broker(transport: CeleryTransport) -> None:
    """Raise `Unreachable` if the broker does not answer.

    A worker would try forever instead, and it cannot be stopped while it tries.
    """
    with transport.app.connection_for_read() as connection:
        refusals = (*connection.connection_errors, *connection.channel_errors)
        try:
            connection.ensure_connection(interval_start=0.2, interval_max=1.0, timeout=START_PATIENCE)
        except (OperationalError, OSError, *refusals) as error:
            raise Unreachable("broker", transport.broker, type(error).__name__) from error


def _shut_down() -> None:
    raise WorkerShutdown(0)
