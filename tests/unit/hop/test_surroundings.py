"""What a host puts around its steps: entered where it blocks nobody, seen by all code of the step, left in any case."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from pydantic_ai.models.test import TestModel

from paigeant_celery import (
    PaigeantAgent,
    StepPolicy,
    WorkflowContext,
    WorkflowFailed,
    WorkflowHandle,
    activity,
    workflow_context,
)
from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop.surroundings import around_step_of
from paigeant_celery.testing import WorkflowHarness

pytestmark = pytest.mark.anyio

PATIENCE = 20.0  # seconds after which a test that waits has failed

app: ContextVar[str | None] = ContextVar("app", default=None)
local = threading.local()


@contextmanager
def in_context(context: WorkflowContext) -> Iterator[None]:
    """Do what an application context does: set a variable, and reset it in the context in which it was set."""
    token = app.set(context.hop_id)
    local.app = context.hop_id
    yield
    local.app = None
    app.reset(token)


@asynccontextmanager
async def in_async_context(context: WorkflowContext) -> AsyncIterator[None]:
    token = app.set(context.hop_id)
    yield
    app.reset(token)


class InContext:
    """The same as a class."""

    def __init__(self, context: WorkflowContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = app.set(self._context.hop_id)

    def __exit__(self, *_: object) -> None:
        app.reset(self._token)


class InAsyncContext(InContext):
    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


async def awaited(context: WorkflowContext) -> AbstractContextManager[None]:
    return in_context(context)


class Callee:
    def __call__(self, context: WorkflowContext) -> AbstractContextManager[None]:
        return in_context(context)


def with_more(context: WorkflowContext, *, more: int) -> AbstractContextManager[None]:
    assert more == 1
    return in_context(context)


async def run(around_step: Any, *steps: Any, **settings: Any) -> WorkflowHandle:
    """Run a workflow until nothing is left to deliver."""
    harness = WorkflowHarness(Settings(**settings), around_step=around_step)
    handle = harness.dispatch(steps, correlation_id="w")
    await harness.deliver()
    return handle


FORMS = [
    in_context, in_async_context, InContext, InAsyncContext, awaited, Callee(), partial(with_more, more=1),
    lambda context: in_context(context), lambda context: in_async_context(context),
]  # fmt: skip


@pytest.mark.parametrize("around_step", FORMS, ids=range(len(FORMS)))
async def test_what_it_sets_is_seen_by_all_code_of_a_step(around_step: Any) -> None:
    """An application context that half of the code sees is worse than none."""
    seen: dict[str, str | None] = {}

    def sees(name: str) -> None:
        assert workflow_context().hop_id == app.get()
        seen[name] = app.get()

    @activity
    def sync_step() -> None:
        sees("sync function")

    @activity
    async def async_step() -> None:
        sees("async function")
        await asyncio.to_thread(sees, "thread of an async function")

    async def made(data: None, context: WorkflowContext) -> None:
        sees("deps factory")

    agent = PaigeantAgent(TestModel(), name="agent", deps_factory=made)

    @agent.tool_plain
    def sync_tool() -> str:
        sees("sync tool")
        return ""

    @agent.tool_plain
    async def async_tool() -> str:
        sees("async tool")
        return ""

    handle = await run(around_step, sync_step.activity(), async_step.activity(), agent.activity("go"))

    assert handle.result_sync(0).status == "completed"
    assert seen == {
        "sync function": "w.0",
        **dict.fromkeys(("async function", "thread of an async function"), "w.1"),
        **dict.fromkeys(("deps factory", "sync tool", "async tool"), "w.2"),
    }
    assert app.get() is None


async def test_a_sync_one_has_the_thread_of_a_sync_function_and_never_that_of_the_loop() -> None:
    """Code that keeps its state for each thread works as around a task, and what blocks, blocks nobody else."""
    threads: list[threading.Thread] = []

    @contextmanager
    def around(context: WorkflowContext) -> Iterator[None]:
        threads.append(threading.current_thread())
        with in_context(context):
            yield
        threads.append(threading.current_thread())

    @activity
    def sync_step() -> str:
        threads.append(threading.current_thread())
        return local.app

    @activity
    async def async_step() -> None: ...

    handle = await run(around, sync_step.activity(), async_step.activity())

    assert handle.result_sync(0).outputs["sync_step"] == "w.0"
    assert len(set(threads[:3])) == 1
    assert threads[3] is threads[4]
    assert threading.current_thread() not in threads
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()


async def test_steps_side_by_side_have_one_each() -> None:
    """What one step sets must not reach another one on the same event loop."""
    both = asyncio.Barrier(2)

    @activity
    async def step() -> str | None:
        await both.wait()
        return app.get()

    outcomes = await asyncio.gather(run(in_context, step.activity()), run(in_async_context, step.activity()))

    assert [handle.result_sync(0).output for handle in outcomes] == ["w.0", "w.0"]


def raising(at: str) -> Callable[[WorkflowContext], AbstractContextManager[None]]:
    """Return one that fails the first time, when it is made, entered or left."""
    left = [KeyError("once")]

    def fail(place: str) -> None:
        if place == at and left:
            raise left.pop()

    @contextmanager
    def around(_: WorkflowContext) -> Iterator[None]:
        fail("entered")
        yield
        fail("left")

    def make(context: WorkflowContext) -> AbstractContextManager[None]:
        fail("made")
        return around(context)

    return make


@pytest.mark.parametrize("at", ["made", "entered", "left"])
async def test_its_error_fails_the_attempt(at: str, caplog: pytest.LogCaptureFixture) -> None:
    """What commits at the end may fail; the step's work is then gone, and so it is done again."""
    runs: list[int] = []

    @activity
    def step() -> int:
        runs.append(workflow_context().attempt)
        return len(runs)

    handle = await run(raising(at), step.activity())

    assert handle.result_sync(0).output == len(runs)
    assert runs == ([1, 2] if at == "left" else [2])
    retried = [event for event in handle.events_sync() if event.type == "retrying"]
    assert [event.fields["error"] for event in retried] == ["KeyError"]
    told = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "around_step_failed"]
    assert told == (["`paigeant_around_step` raised KeyError after the step had ended"] if at == "left" else [])


async def test_an_error_when_it_is_left_pays_for_no_model_call_twice() -> None:
    """The next attempt goes on from the journal."""
    model = TestModel()
    agent = PaigeantAgent(model, name="agent")
    requests: list[None] = []

    @agent.instructions
    def noted() -> str:
        return ""

    original = model.request

    async def request(*args: Any, **kwargs: Any) -> Any:
        requests.append(None)
        return await original(*args, **kwargs)

    model.request = request  # type: ignore[method-assign]

    handle = await run(raising("left"), agent.activity("go"))

    assert handle.result_sync(0).status == "completed"
    assert len(requests) == 1


@pytest.mark.parametrize("kind", [contextmanager, asynccontextmanager])
async def test_an_error_that_it_swallows_fails_the_step_all_the_same(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A step that failed has no output that could travel on."""
    if kind is contextmanager:

        @contextmanager
        def around(_: WorkflowContext) -> Iterator[None]:
            with pytest.raises(KeyError):
                yield
    else:

        @asynccontextmanager
        async def around(_: WorkflowContext) -> AsyncIterator[None]:
            with pytest.raises(KeyError):
                yield

    @activity(policy=StepPolicy(final_on=("KeyError",)))
    def step() -> None:
        raise KeyError("x")

    handle = await run(around, step.activity())

    with pytest.raises(WorkflowFailed, match="KeyError"):
        handle.result_sync(0)
    told = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "around_step_failed"]
    assert told == ["`paigeant_around_step` swallowed KeyError, but the step has failed"]


async def test_an_error_that_it_puts_in_the_place_of_the_steps_counts() -> None:
    """A host may translate its own errors, and a policy then names what they become."""

    @contextmanager
    def around(_: WorkflowContext) -> Iterator[None]:
        try:
            yield
        except KeyError as error:
            raise LookupError("translated") from error

    @activity(policy=StepPolicy(final_on=("LookupError",)))
    def step() -> None:
        raise KeyError("x")

    handle = await run(around, step.activity())

    with pytest.raises(WorkflowFailed, match="LookupError: translated"):
        handle.result_sync(0)


ONCE = {"max_attempts": 1, "step_timeout": 0.1}


@pytest.mark.parametrize("at", ["entered", "left"])
async def test_one_that_never_returns_ends_with_the_steps_timeout(at: str) -> None:
    """It holds its thread and no slot of the worker."""
    release, left = threading.Event(), threading.Event()

    @contextmanager
    def around(_: WorkflowContext) -> Iterator[None]:
        if at == "entered":
            release.wait(PATIENCE)
        try:
            yield
            release.wait(PATIENCE)
        finally:
            left.set()

    @activity
    async def step() -> None: ...

    handle = await run(around, step.activity(), **ONCE)

    status = handle.status_sync()
    assert status.failure is not None
    assert (status.state, status.failure.error_class) == ("parked", "TimeoutError")
    assert status.failure.where.endswith(".around")
    assert not left.is_set()
    release.set()
    assert await asyncio.to_thread(left.wait, PATIENCE)  # what was entered is left, even if nobody waits for it


async def test_a_function_that_cannot_be_stopped_keeps_its_context_to_its_end() -> None:
    """It may still use what the context manager would close."""
    release, order = threading.Event(), list[str]()
    left = threading.Event()

    @contextmanager
    def around(_: WorkflowContext) -> Iterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            order.append("left")
            raise
        finally:
            left.set()

    @activity
    def step() -> None:
        release.wait(PATIENCE)
        order.append("ended")

    handle = await run(around, step.activity(), **ONCE)

    assert handle.status_sync().state == "parked"
    assert order == []
    release.set()
    assert await asyncio.to_thread(left.wait, PATIENCE)
    assert order == ["ended", "left"]


@pytest.mark.parametrize("form", [contextmanager, asynccontextmanager])
@pytest.mark.parametrize("error", [GeneratorExit, SystemExit, KeyboardInterrupt, StopIteration, asyncio.CancelledError])
async def test_no_error_of_a_step_passes_it_by(form: Any, error: type[BaseException]) -> None:
    """Connections are given back whatever ends the step."""
    left: list[str] = []

    if form is contextmanager:

        @contextmanager
        def around(_: WorkflowContext) -> Iterator[None]:
            try:
                yield
            finally:
                left.append("left")
    else:

        @asynccontextmanager
        async def around(_: WorkflowContext) -> AsyncIterator[None]:
            try:
                yield
            finally:
                left.append("left")

    @activity
    async def step() -> None:
        raise error

    handle = await run(around, step.activity(), max_attempts=1)

    failure = handle.status_sync().failure
    assert failure is not None
    # A coroutine cannot raise StopIteration: Python makes a RuntimeError of it.
    assert failure.error_class == ("RuntimeError" if error is StopIteration else error.__name__)
    assert left == ["left"]


def undecorated(_: WorkflowContext) -> Iterator[None]:
    yield


async def async_undecorated(_: WorkflowContext) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("nowhere.around", "'nowhere.around' cannot be imported (No module named 'nowhere')"),
        ("json.nothing", "'json.nothing' cannot be imported (module 'json' has no attribute 'nothing')"),
        ("json:decoder.nothing", "'json:decoder.nothing' cannot be imported (module 'json.decoder' has no attrib"),
        ("around", "'around' is no dotted path, such as `module.function`"),
        ("", "'' is no dotted path, such as `module.function`"),
        ("string.digits", "'string.digits' is not a function"),
        (undecorated, "undecorated is a generator function; put `@contextlib.contextmanager` above it"),
        (partial(undecorated), "partial is a generator function; put `@contextlib.contextmanager` above it"),
        (async_undecorated, "async_undecorated is an async generator function; put `@contextlib.asynccontextmanager`"),
        (contextmanager(lambda: iter([None])), "<lambda> must take one argument, the `WorkflowContext`"),
        (in_context(None), "_GeneratorContextManager is a context manager; name a function that returns one for each"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_setting_is_told_before_a_step_runs(named: Any, said: str) -> None:
    """A worker that starts and then fails each step is found out too late."""
    with pytest.raises(ConfigurationError) as caught:
        around_step_of(named)

    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"`paigeant_around_step`: {said}")


@pytest.mark.parametrize("named", ["tests.unit.hop.test_surroundings.in_context", "contextlib:nullcontext"])
def test_the_setting_may_be_a_path_with_or_without_a_colon(named: str) -> None:
    """Celery takes both forms."""
    assert callable(around_step_of(named))


async def test_a_function_that_returns_no_context_manager_is_named() -> None:
    """That can be known only when it is called."""

    @activity
    def step() -> None: ...

    handle = await run(lambda _: 3, step.activity(), max_attempts=1)

    failure = handle.status_sync().failure
    assert failure is not None
    assert failure.text == "`paigeant_around_step` returned a int, which is no context manager"
