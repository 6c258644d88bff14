"""What a host puts around each step: the context manager that it names, and what it keeps for threads."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from contextvars import Context, copy_context
from functools import partial
from operator import attrgetter
from threading import Thread
from types import TracebackType
from typing import Any, Protocol, TypeAlias, TypeVar

from paigeant_celery.activities.context import WorkflowContext
from paigeant_celery.activities.stacks import still_running
from paigeant_celery.activities.threads import HostResources, NoResources, OwnThread, thread_of_step
from paigeant_celery.core.errors import ConfigurationError, UsageError

__all__ = ["AroundStep", "Host", "Surroundings", "around_step_of", "ended"]

T = TypeVar("T")

AnyManager: TypeAlias = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]
AroundStep: TypeAlias = Callable[[WorkflowContext], AnyManager | Awaitable[AnyManager]]

LEAVE_PATIENCE = 5.0  # seconds in which something is let go of after a step; it goes on without anyone waiting
NOT_SET = object()

logger = logging.getLogger(__name__)


class Host(HostResources, Protocol):
    """The framework of a host, such as Django."""

    def step(self) -> AbstractAsyncContextManager[None]:
        """Surround a step with what its code expects, and let go of it afterwards."""
        ...


class NoHost(NoResources):
    """A process without a framework that we know."""

    def step(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class Surroundings:
    """Surrounds steps with what their host names in `paigeant_around_step`, and with what its framework needs."""

    def __init__(
        self, *, host: Host | None = None, around_step: Callable[[], AroundStep | None] = lambda: None
    ) -> None:
        self._host, self._around_step = host or NoHost(), around_step

    @asynccontextmanager
    async def around(self, context: WorkflowContext) -> AsyncIterator[None]:
        """Surround the code of a step, and give it a thread for what is sync in it."""
        async with self._host.step():
            thread = OwnThread(self._host)
            try:
                async with _Around(self._around_step(), context, thread, self._host):
                    with thread_of_step(thread) as working:
                        try:
                            yield
                        except asyncio.CancelledError as error:
                            error.__cause__ = error.__cause__ or _where_of(working)
                            raise
            finally:
                await ended(thread)


def _where_of(working: Collection[Thread]) -> BaseException | None:
    """Return where the code of a step is that is given up, or None if none of it is in a thread.

    Between the tasks of an agent's run, asyncio makes cancellations anew, and what was said in one of them is lost.
    """
    return next(filter(None, map(still_running, list(working))), None)


async def ended(thread: OwnThread, *, last: Callable[[], None] | None = None) -> None:
    """End a thread, after a last call in this context, and wait until the host keeps nothing for it.

    If a call that nobody waits for any more is still in it, the thread ends later.
    """
    free = thread.free
    if last is not None:
        thread.make_inside(copy_context(), last)
    end = thread.close()
    if free and not end.done():
        await asyncio.wait([asyncio.wrap_future(end)], timeout=LEAVE_PATIENCE)


class _Around(AbstractAsyncContextManager[None]):
    """Enters and leaves what `paigeant_around_step` makes: on the loop if it is async, else in the step's thread.

    What a sync one sets in contextvars is set for the whole step. None swallows an error, because a step that failed
    has no output.
    """

    def __init__(self, around_step: AroundStep | None, context: WorkflowContext, thread: OwnThread, host: Host) -> None:
        self._around_step, self._context, self._thread, self._host = around_step, context, thread, host
        self._manager: AnyManager | None = None
        self._inside: Context | None = None  # of the thread; what is set in it can be reset only in it

    async def __aenter__(self) -> None:
        if self._around_step is None:
            return
        self._inside = copy_context()
        made = await self._made(self._around_step)
        if isinstance(made, AbstractAsyncContextManager):
            await made.__aenter__()
        elif isinstance(made, AbstractContextManager):
            await self._enter_in_thread(made)
        else:
            raise UsageError(f"`paigeant_around_step` returned a {type(made).__name__}, which is no context manager")
        self._manager = made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._manager is None:
            return
        try:
            if isinstance(self._manager, AbstractAsyncContextManager):
                swallowed = await self._manager.__aexit__(kind, error, trace)
            else:
                swallowed = await self._leave_in_thread(self._manager, kind, error, trace)
        except Exception as raised:
            if error is None:
                self._tell("raised %s after the step had ended", type(raised).__name__)
            raise
        if swallowed and error is not None:
            self._tell("swallowed %s, but the step has failed", type(error).__name__)

    async def _made(self, around_step: AroundStep) -> object:
        if _is_async(around_step):
            made: Any = around_step(self._context)
        else:
            made = await self._in_thread(partial(around_step, self._context))
            self._adopt()
        return await made if inspect.isawaitable(made) else made

    async def _enter_in_thread(self, manager: AbstractContextManager[Any]) -> None:
        entering = self._submit(manager.__enter__)
        try:
            await self._awaited(entering)
        except asyncio.CancelledError as error:
            self._submit(partial(_leave_entered, entering, manager, error))
            raise
        self._adopt()

    async def _leave_in_thread(
        self,
        manager: AbstractContextManager[Any],
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        free = self._thread.free
        leaving = self._submit(partial(manager.__exit__, kind, error, trace))
        if not isinstance(error, asyncio.CancelledError):
            return await self._awaited(leaving)
        # Whoever cancelled the step does not wait for a function that still runs in the thread. It is left after that.
        leaving.add_done_callback(self._tell_if_failed)
        if free:
            await asyncio.wait([asyncio.wrap_future(leaving)], timeout=LEAVE_PATIENCE)
        return None

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await self._awaited(self._submit(call))

    async def _awaited(self, future: Future[T]) -> T:
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError as error:
            if not self._thread.free:
                assert self._thread.thread is not None
                error.__cause__ = still_running(self._thread.thread)
            raise

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        assert self._inside is not None
        return self._thread.submit(self._inside.run, call)

    def _adopt(self) -> None:
        """Set what was set in the thread."""
        assert self._inside is not None
        for variable, value in self._inside.items():
            if variable.get(NOT_SET) is not value:
                variable.set(value)
        self._host.enter_context()

    def _tell_if_failed(self, leaving: Future[bool | None]) -> None:
        if (raised := leaving.exception()) is not None:
            self._tell("raised %s after the step was cancelled", type(raised).__name__)

    def _tell(self, text: str, name: str) -> None:
        fields = {"action": "around_step_failed", "hop": self._context.hop_id, "error": name}
        logger.warning(f"`paigeant_around_step` {text}", name, extra=fields)


def _leave_entered(entering: Future[Any], manager: AbstractContextManager[Any], error: BaseException) -> None:
    if entering.exception() is None:
        manager.__exit__(type(error), error, error.__traceback__)


def around_step_of(named: object) -> AroundStep | None:
    """Return the function that the setting `paigeant_around_step` names; raises `ConfigurationError`."""
    found = _imported(named) if isinstance(named, str) else named
    if found is None:
        return None
    if (fault := _fault_of(found)) is not None:
        raise ConfigurationError([f"`paigeant_around_step`: {_shown(named)} {fault}"])
    function: AroundStep = found  # type: ignore[assignment]
    return function


def _imported(named: str) -> object:
    module, _, name = named.partition(":") if ":" in named else named.rpartition(".")
    if not module or not name:
        raise ConfigurationError([f"`paigeant_around_step`: {named!r} is no dotted path, such as `module.function`"])
    try:
        return attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        text = f"{named!r} cannot be imported ({error})"
    except Exception as error:  # noqa: BLE001 - whatever the module does when it is imported
        text = f"{named!r} cannot be imported, because its module raised {type(error).__name__}"
    raise ConfigurationError([f"`paigeant_around_step`: {text}"])


def _fault_of(found: object) -> str | None:
    if isinstance(found, (AbstractContextManager, AbstractAsyncContextManager)):
        return "is a context manager; name a function that returns one for each step"
    if not callable(found):
        return "is not a function"
    code = _code_of(found)
    if inspect.isgeneratorfunction(code):
        return "is a generator function; put `@contextlib.contextmanager` above it"
    if inspect.isasyncgenfunction(code):
        return "is an async generator function; put `@contextlib.asynccontextmanager` above it"
    try:
        inspect.signature(found).bind(NOT_SET)
    except TypeError:
        return "must take one argument, the `WorkflowContext`"
    except ValueError:  # it is written in C and has no signature
        return None
    return None


def _is_async(around_step: AroundStep) -> bool:
    code = inspect.unwrap(_code_of(around_step))
    return inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code) or hasattr(code, "__aenter__")


def _code_of(found: Any) -> Any:
    """Return the function behind a partial or an object that can be called."""
    while isinstance(found, partial):
        found = found.func
    return found if inspect.isroutine(found) or inspect.isclass(found) else type(found).__call__


def _shown(named: object) -> str:
    return repr(named) if isinstance(named, str) else str(getattr(named, "__qualname__", type(named).__name__))
