"""`ActivityExecutor`: serves an activity inside this process, beside whatever else the process does."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import sys
import threading
from pathlib import Path

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.core.errors import InvalidInput, PaigeantError, UnknownActivity, UsageError, WorkerEnded
from paigeant_celery.worker.app_state import installation_of
from paigeant_celery.worker.embedded import EmbeddedWorker
from paigeant_celery.worker.install import install

__all__ = ["ActivityExecutor"]

logger = logging.getLogger(__name__)

# Executors may start in several threads at once; without this lock an app could get two workers, or a task twice.
_starting = threading.Lock()


class ActivityExecutor:
    """Serves one activity of this process from a transport.

    `module` is the dotted name or the file of the module that makes the activity; without it, the activity must be
    loaded already. If it is the running script, it is not imported a second time. Several executors may run side by
    side in one event loop; on one transport they share one embedded Celery worker with a pool of threads.
    """

    def __init__(self, transport: CeleryTransport, name: str, module: str | None = None) -> None:
        _check_kinds(transport, name, module)
        self._transport, self._name, self._module = transport, name, module

    async def start(self, lifespan: float | None = None) -> None:
        """Serve until cancelled, or for `lifespan` seconds.

        At the end it waits up to half a minute for the steps that still run, and logs if some go on. Raises an
        `UnknownActivity` that names what was searched, `ConfigurationError`, `Unreachable` if the broker does not
        answer, `UsageError` if paigeant_celery is already installed in the transport's app with another store, and
        `WorkerEnded` if the embedded worker ends by itself.
        """
        try:
            await self._serve(lifespan)
        except Exception as error:
            # Whoever starts executors as tasks often looks at their errors only at the end, or never.
            said = error if isinstance(error, PaigeantError) else type(error).__name__
            logger.error("the executor of %r ended: %s", self._name, said, extra={"action": "executor_failed"})
            raise

    async def _serve(self, lifespan: float | None) -> None:
        _load(self._module, self._name)
        _check_loaded(self._name, self._module)
        # Not a task: a loop that ends would cancel it and abandon the worker that it is starting.
        serving = asyncio.get_running_loop().run_in_executor(None, _serve, self._transport, self._name)
        try:
            worker = await asyncio.shield(serving)
            await _until_ended(worker, lifespan)
        finally:
            # Shielded: a second cancellation must not abandon the worker's threads.
            await asyncio.shield(_leave(serving, self._name))


def _check_kinds(transport: object, name: object, module: object) -> None:
    if not isinstance(transport, CeleryTransport):
        text = f"must be what `get_transport(…)` returns, not a {type(transport).__name__}"
        raise InvalidInput("invalid_input", "transport", text)
    if not isinstance(name, str):
        text = f"must be the name of an activity, not a {type(name).__name__}"
        raise InvalidInput("invalid_input", "name", text)
    if module is not None and not isinstance(module, str):
        text = f"must be a string, the dotted name or the file of a module, not a {type(module).__name__}"
        raise InvalidInput("invalid_input", "module", text)


async def _until_ended(worker: EmbeddedWorker, lifespan: float | None) -> None:
    """Wait for `lifespan` seconds, or forever; raise `WorkerEnded` if the worker ends before that."""
    ended, _ = await asyncio.wait([asyncio.wrap_future(worker.ended)], timeout=lifespan)
    if ended:
        raise WorkerEnded(worker.address)


async def _leave(serving: asyncio.Future[EmbeddedWorker], name: str) -> None:
    """Wait for a start that may still be under way and, if it succeeds, stop serving."""
    await asyncio.wait([serving])
    if serving.exception() is None:
        await asyncio.to_thread(serving.result().leave, name)


def _serve(transport: CeleryTransport, name: str) -> EmbeddedWorker:
    """Serve an activity from the app's embedded worker, which the first executor starts."""
    with _starting:
        worker = _embedded(transport)
        worker.serve(name)
        return worker


def _embedded(transport: CeleryTransport) -> EmbeddedWorker:
    """Return the embedded worker of the transport's app, whose hops are recorded where the transport records them."""
    installed = install(transport.app, store=transport.store)
    if transport.store_address != installed.store_address:  # `install` takes no store for any store
        raise UsageError(
            f"the app has the store {installed.store_address}, but this transport has {transport.store_address}; "
            "get the transport again with `get_transport(app=…)`"
        )
    return installation_of(transport.app).embedded


def _load(module: str | None, name: str) -> None:
    if module is None or _is_main(module):
        return
    if module.endswith(".py"):
        _load_file(Path(module), name)
        return
    if module.startswith(".") or "/" in module or "\\" in module:
        text = f"the module {module!r}, which is no dotted name such as 'shop.agents' and no file that ends in '.py'"
        raise UnknownActivity(name, text)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise  # the module exists, but something that it imports does not
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
        raise UsageError(f"the file {str(file)!r} is not a Python module")
    sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]  # so that the next caller gets this error too
        raise


def _is_made_from(module: object, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and file.endswith(path.name) and Path(file).resolve() == path


def _is_main(module: str) -> bool:
    """Say whether `module` is the running script, by its name (`python -m`) or by its file."""
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
