"""`ActivityExecutor`: serve an activity inside this process, beside whatever else it does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import importlib.util
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

from celery.concurrency.thread import TaskPool
from celery.exceptions import WorkerShutdown
from celery.worker import WorkController
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.core.errors import UnknownActivity, Unreachable, UsageError, WorkerEnded
from paigeant_celery.worker.install import install
from paigeant_celery.worker.serving import queues_of, start_checks
from paigeant_celery.worker.task import register_tasks

__all__ = ["ActivityExecutor"]

THREADS = 32  # hops at once in one embedded worker; a thread is started when it is needed
START_PATIENCE = 30.0  # seconds until the worker must have connected to its broker
STOP_PATIENCE = 30.0
IDLE_POLL = 0.1  # seconds; how soon an idle embedded worker notices that it must serve or stop

logger = logging.getLogger(__name__)

# Executors start in threads at the same time; without it an app could get two workers, and a task twice.
_starting = threading.Lock()


class ActivityExecutor:
    """Serves one activity of this process from a transport.

    `module` is the dotted name or the file of the module that makes the activity; left out, it must be loaded
    already. If it is the script that runs, it is not imported a second time. Several executors may run side
    by side in one event loop; on one transport they share one embedded Celery worker with a pool of threads.
    """

    def __init__(self, transport: CeleryTransport, name: str, module: str | None = None) -> None:
        self._transport, self._name, self._module = transport, name, module

    async def start(self, lifespan: float | None = None) -> None:
        """Serve until cancelled, or for `lifespan` seconds.

        Waits up to `STOP_PATIENCE` seconds for the steps that still run, and logs where some go on. Raises
        `UnknownActivity` that names what was searched, `ConfigurationError`, `Unreachable` where the broker does
        not answer, and `WorkerEnded` where the embedded worker ends by itself.
        """
        _load(self._module, self._name)
        _check_loaded(self._name, self._module)
        # No task: a loop that ends would cancel it, and leave behind the worker that it is starting.
        serving = asyncio.get_running_loop().run_in_executor(None, _serve, self._transport, self._name)
        try:
            worker = await asyncio.shield(serving)
            await _until_ended(worker, lifespan)
        finally:
            # Shielded: a second cancellation must not leave the worker's threads behind.
            await asyncio.shield(_leave(serving, self._name))


class _Threads(TaskPool):  # type: ignore[misc]  # Celery ships no types
    """Celery's pool of threads for a worker that is a guest in its process."""

    # Otherwise `AsyncResult.get()` would be refused in the whole process.
    task_join_will_block = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A new thread has no current app, and Celery's tracer looks the task up in that one.
        self.executor = ThreadPoolExecutor(
            max_workers=self.limit, thread_name_prefix="paigeant-hop", initializer=self.app.set_current
        )


class _Worker(WorkController):  # type: ignore[misc]
    """A Celery worker in a thread: no signal handlers, no logging set-up, no part in any cluster."""

    paigeant_embedded = True

    def on_consumer_ready(self, consumer: Any) -> None:
        drain = consumer.connection.drain_events
        # Celery's loop looks up every two seconds while nothing arrives; a guest must stop sooner.
        consumer.connection.drain_events = lambda timeout=IDLE_POLL: drain(timeout=min(timeout, IDLE_POLL))
        self.paigeant_ready.set()

    def start(self) -> None:
        self.app.set_current()
        super().start()


class EmbeddedWorker:
    """The one worker that the executors of a transport share; it runs while any of them serves."""

    def __init__(self, transport: CeleryTransport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._served: dict[str, int] = {}
        self._worker: Any = None
        self._thread: threading.Thread | None = None
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    @property
    def address(self) -> str:
        """Where its broker is, without password."""
        return self._transport.broker

    def serve(self, name: str) -> None:
        """Consume the queues of an activity from now on."""
        with self._lock:
            queues = self._queues(name)
            if self.ended.done():  # by itself: begin anew
                self._worker, self._thread = None, None
                self._served.clear()
            if self._worker is None:
                self._start(queues)
            elif name not in self._served:
                self._in_worker(partial(self._add, queues))
            self._served[name] = self._served.get(name, 0) + 1

    def leave(self, name: str) -> None:
        """Stop consuming them; the last to leave stops the worker, which finishes the steps that it runs."""
        with self._lock:
            if self.ended.done():
                return
            self._served[name] -= 1
            if self._served[name] == 0:
                del self._served[name]
                if self._served:
                    self._in_worker(partial(self._cancel, self._queues(name)))
                else:
                    self._stop()

    def _queues(self, name: str) -> list[Queue]:
        return list(queues_of(self._transport, {name: registry.get(name)}))

    def _start(self, queues: list[Queue]) -> None:
        start_checks(self._transport, embedded=True)
        _reach_broker(self._transport)
        app = self._transport.app
        for queue in queues:
            app.amqp.queues.add(queue)
        app.amqp.queues.select([queue.name for queue in queues])
        register_tasks(app)
        self._worker = worker = _Worker(
            app=app,
            pool_cls=_Threads,
            concurrency=THREADS,
            hostname=f"paigeant-{id(self):x}@%h",
            use_eventloop=False,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        worker.consumer.paigeant_ours.update(queue.name for queue in queues)
        worker.paigeant_ready = threading.Event()
        self.ended = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=_run_worker, args=(worker, self.ended), name="paigeant-worker", daemon=True
        )
        self._thread.start()
        if not worker.paigeant_ready.wait(START_PATIENCE):
            self._stop()
            late = f"the worker was not ready within {START_PATIENCE:g} s"
            raise Unreachable("broker", self._transport.broker, late)

    def _stop(self) -> None:
        worker, thread, self._worker, self._thread = self._worker, self._thread, None, None
        worker.consumer.call_soon(_shut_down)
        if thread is not None:
            thread.join(STOP_PATIENCE)
            if thread.is_alive():
                logger.warning(
                    "steps of this process go on after its executor has stopped",
                    extra={"action": "executor_left_steps"},
                )
        self.ended = concurrent.futures.Future()

    def _add(self, queues: list[Queue]) -> None:
        register_tasks(self._transport.app)
        consumer = self._worker.consumer
        consumer.update_strategies()
        for queue in queues:
            consumer.paigeant_ours.add(queue.name)  # guarded before the first message comes
            consumer.app.amqp.queues.select_add(queue)
            consumer.add_task_queue(queue.name)

    def _cancel(self, queues: list[Queue]) -> None:
        for queue in queues:
            self._worker.consumer.cancel_task_queue(queue.name)

    def _in_worker(self, call: Any) -> None:
        """Do something in the worker's own thread, for a Celery consumer belongs to one, and wait for it."""
        done = threading.Event()

        def act() -> None:
            try:
                call()
            finally:
                done.set()

        self._worker.consumer.call_soon(act)
        done.wait(START_PATIENCE)


def _run_worker(worker: Any, ended: concurrent.futures.Future[None]) -> None:
    try:
        worker.start()
    finally:
        ended.set_result(None)


async def _until_ended(worker: EmbeddedWorker, lifespan: float | None) -> None:
    """Wait for `lifespan` seconds, or for ever; raise `WorkerEnded` where the worker ends before."""
    ended, _ = await asyncio.wait([asyncio.wrap_future(worker.ended)], timeout=lifespan)
    if ended:
        raise WorkerEnded(worker.address)


def _reach_broker(transport: CeleryTransport) -> None:
    """Raise `Unreachable` where the broker does not answer.

    A worker would try for ever instead, and cannot be stopped while it does.
    """
    with transport.app.connection_for_read() as connection:
        refusals = (*connection.connection_errors, *connection.channel_errors)
        try:
            connection.ensure_connection(interval_start=0.2, interval_max=1.0, timeout=START_PATIENCE)
        except (OperationalError, OSError, *refusals) as error:
            raise Unreachable("broker", transport.broker, type(error).__name__) from error


def _shut_down() -> None:
    raise WorkerShutdown(0)


async def _leave(serving: asyncio.Future[EmbeddedWorker], name: str) -> None:
    """Stop serving, where a start that may still be under way succeeds."""
    await asyncio.wait([serving])
    if serving.exception() is None:
        await asyncio.to_thread(serving.result().leave, name)


def _serve(transport: CeleryTransport, name: str) -> EmbeddedWorker:
    """Serve an activity from the app's embedded worker, which the first executor makes."""
    with _starting:
        worker = _embedded(transport)
        worker.serve(name)
        return worker


def _embedded(transport: CeleryTransport) -> EmbeddedWorker:
    install(transport.app)
    app = cast("Any", transport.app)
    if not hasattr(app, "paigeant_embedded"):
        app.paigeant_embedded = EmbeddedWorker(transport)
    return cast("EmbeddedWorker", app.paigeant_embedded)


def _load(module: str | None, name: str) -> None:
    if module is None or _is_main(module):
        return
    if module.endswith(".py"):
        _load_file(Path(module), name)
        return
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise  # the module is there, and something that it imports is not
        raise UnknownActivity(
            name, f"the module {module!r}, which does not exist (sys.path: {sys.path[:3]} …)"
        ) from error


def _load_file(file: Path, name: str) -> None:
    if not file.is_file():
        raise UnknownActivity(name, f"the file {str(file)!r}, which does not exist")
    path = file.resolve()
    if any(_is_made_from(module, path) for module in list(sys.modules.values())):
        return
    module_name = file.stem if file.stem not in sys.modules else str(path)
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"the file {str(file)!r} is no Python module")
    sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]  # the next to ask shall get this error, too
        raise


def _is_made_from(module: object, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and file.endswith(path.name) and Path(file).resolve() == path


def _is_main(module: str) -> bool:
    """Say whether `module` is the script that runs, by its name (`python -m`) or by its file."""
    main = sys.modules.get("__main__")
    if main is None:
        return False
    spec = getattr(main, "__spec__", None)
    if module == "__main__" or (spec is not None and module in {spec.name, spec.name.removesuffix(".__main__")}):
        return True
    file = getattr(main, "__file__", None)
    if file is None:
        return False
    if module.endswith(".py"):
        return Path(module).resolve() == Path(file).resolve()
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None and Path(found.origin).resolve() == Path(file).resolve()


def _check_loaded(name: str, module: str | None) -> None:
    try:
        registry.get(name)
    except UnknownActivity as error:
        searched = f"the module {module!r} and what it loads; {error.searched}" if module else error.searched
        raise UnknownActivity(name, searched, error.close) from None
