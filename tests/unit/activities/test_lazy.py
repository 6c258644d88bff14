"""Lazy results of steps: read where the function ran, within its time, and with errors of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import enum
import io
import itertools
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError
from pydantic_ai import Agent, ModelRetry, ToolOutput
from pydantic_ai.models.test import TestModel

from paigeant_celery.activities.context import WorkflowContext, entered, workflow_context
from paigeant_celery.activities.functions import FunctionActivity, activity
from paigeant_celery.activities.lazy import Limit, reading
from paigeant_celery.activities.port import ActivityResult, StepLimits
from paigeant_celery.agents.agent import PaigeantAgent, register_agent
from paigeant_celery.core.errors import NotSerializable, WorkflowFailed
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec
from paigeant_celery.testing import WorkflowHarness

MakeContext = Callable[..., WorkflowContext]

PATIENCE = 20.0  # seconds


def numbers() -> Iterator[int]:
    yield from (1, 2)


async def anumbers() -> AsyncIterator[int]:
    for number in (1, 2):
        await asyncio.sleep(0)
        yield number


async def one() -> int:
    await asyncio.sleep(0)
    return 1


def sub(items: Iterable[Any]) -> Iterator[Any]:
    yield items


class Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    rows: Iterable[int]
    note: Any = None


class Rows(RootModel[Iterable[int]]): ...


@dataclass(frozen=True)
class Place:
    town: str
    streets: Any


class Query:
    """Something whose items are made each time that it is asked, as a query of an ORM."""

    def __init__(self, *rows: Any) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class AsyncQuery:
    def __aiter__(self) -> AsyncIterator[int]:
        return anumbers()


class Later:
    """Something to await that is no coroutine."""

    def __await__(self) -> Any:
        return one().__await__()


@pytest.fixture
def run_function(make_context: MakeContext) -> Callable[..., Any]:
    """Run a function as a step without arguments, as a hop does, and return its output."""

    def run(function: Callable[..., Any], *, timeout: float | None = None, max_output_size: int = 1024) -> Any:
        made = FunctionActivity(function, name="f", queue=None, policy=None, description="")
        limits = StepLimits(max_visits=1, max_output_size=max_output_size)

        async def main() -> ActivityResult:
            async with asyncio.timeout(timeout):
                with entered(context := make_context()):
                    return await made.run(FunctionSpec("f", {}), {}, context, limits=limits)

        return asyncio.run(main()).output

    return run


def rows_of_sqlite() -> Any:
    connection = sqlite3.connect(":memory:")  # it refuses every thread but its own
    return connection.execute("select 1, 'a' union all select 2, 'b'")


def a_pool() -> Any:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return [pool.submit(lambda: 1), pool.submit(numbers)]


LAZY: dict[str, tuple[Callable[[], Any], Any]] = {
    "a generator": (numbers, [1, 2]),
    "an empty generator": (lambda: (_ for _ in ()), []),
    "a map": (lambda: map(str, (1, 2)), ["1", "2"]),
    "a filter": (lambda: filter(None, (0, 1)), [1]),
    "a zip": (lambda: zip((1, 2), "ab", strict=True), [[1, "a"], [2, "b"]]),
    "a reversed list": (lambda: reversed([1, 2]), [2, 1]),
    "an endless iterator, cut": (lambda: itertools.islice(itertools.count(), 2), [0, 1]),
    "groups, each only valid until the next": (
        lambda: itertools.groupby("aab"),
        [["a", ["a", "a"]], ["b", ["b"]]],
    ),
    "a range": (lambda: range(2), [0, 1]),
    "a view of a dict": (lambda: {"a": 1}.items(), [["a", 1]]),
    "a query": (lambda: Query(1, numbers()), [1, [1, 2]]),
    "a cursor": (rows_of_sqlite, [[1, "a"], [2, "b"]]),
    "lines": (lambda: io.StringIO("a\nb"), ["a\n", "b"]),
    "a partial generator function": (partial(sub, (1,)), [[1]]),
    "an async generator of a sync function": (lambda: anumbers(), [1, 2]),
    "something async to iterate over": (AsyncQuery, [1, 2]),
    "a coroutine of a sync function": (lambda: one(), 1),
    "something to await": (Later, 1),
    "futures of a pool": (a_pool, [1, [1, 2]]),
    "a list of them": (lambda: [numbers(), one(), [anumbers()]], [[1, 2], 1, [[1, 2]]]),
    "a dict of them": (lambda: {"a": numbers(), "b": {"c": one()}}, {"a": [1, 2], "b": {"c": 1}}),
    "a tuple of them": (lambda: (numbers(), 3), [[1, 2], 3]),
    "a generator of them": (lambda: sub(sub(numbers())), [[[1, 2]]]),
    "an async generator in a generator": (lambda: sub(anumbers()), [[1, 2]]),
    "a model's iterable": (
        lambda: Report(rows=numbers(), note=[numbers()], more=map(str, [1])),
        {"rows": [1, 2], "note": [[1, 2]], "more": ["1"]},
    ),
    "a root model": (lambda: [Rows(numbers())], [[1, 2]]),
    "a dataclass": (lambda: {"at": Place("Rome", numbers())}, {"at": {"town": "Rome", "streets": [1, 2]}}),
}


@pytest.mark.parametrize("lazy", LAZY)
def test_what_a_sync_function_leaves_to_be_made_is_a_list_or_a_value(lazy: str, run_function: Any) -> None:
    """A step that yields pages, or returns a query, need not wrap it in `list`."""
    function, expected = LAZY[lazy]

    assert run_function(function) == expected


@pytest.mark.parametrize("lazy", LAZY)
def test_what_an_async_function_leaves_to_be_made_is_the_same(lazy: str, run_function: Any) -> None:
    """Turning a step into an async one changes nothing about its output."""
    function, expected = LAZY[lazy]

    async def step() -> Any:
        return function()

    assert run_function(step) == expected


def test_an_async_generator_function_is_a_step(run_function: Any) -> None:
    """Async code that pages through an API yields as well."""
    assert run_function(anumbers) == [1, 2]


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@pytest.mark.parametrize(
    "result",
    [
        {"a": (1, Place("Rome", [1])), 2: {3}, "b": StepPolicy(timeout=1)},
        ip_network("10.0.0.0/8"),  # it has 16 million items, and a JSON form
        Right.READ,
        Right,
        MappingProxyType({"a": 1}),
        "text",
    ],
)
def test_what_is_not_lazy_stays_the_very_object(result: Any) -> None:
    """How a value is recorded may depend on its type, so nothing is rebuilt without need."""
    with pytest.raises(StopIteration) as end:
        next(reading(result, Limit(size=1)))

    assert end.value.value is result


def traced(marks: list[Any], function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    @wraps(function)
    def wrapper(*args: Any) -> Iterator[Any]:
        marks.append(threading.current_thread())
        return function(*args)

    return wrapper


def test_it_is_read_in_the_thread_and_context_of_the_function(run_function: Any) -> None:
    """Connections of the thread are still the function's, and it still knows its workflow between two items."""
    marks: list[Any] = []
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    def pages() -> Iterator[Any]:
        marks.append(threading.current_thread())
        variable.set(3)
        yield workflow_context().step_id
        yield asyncio.run(one())  # there is no event loop in its way
        yield variable.get()

    output = run_function(traced(marks, pages))

    assert output == ["writer", 1, 3]
    assert marks[0] is marks[1] is not threading.main_thread()


def test_a_generator_that_waits_holds_up_nobody(run_function: Any) -> None:
    """The loop belongs to all steps of the process."""
    others = threading.Event()

    def waits() -> Iterator[bool]:
        asyncio.run_coroutine_threadsafe(tick(), loop).result(PATIENCE)
        yield others.is_set()

    async def tick() -> None:
        others.set()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        made = FunctionActivity(waits, name="f", queue=None, policy=None, description="")
        run = made.run(FunctionSpec("f", {}), {}, None, limits=StepLimits(max_visits=1, max_output_size=99))  # type: ignore[arg-type]
        assert asyncio.run_coroutine_threadsafe(run, loop).result(PATIENCE).output == [True]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def fails_late(error: BaseException) -> Iterator[int]:
    yield 1
    raise error


@pytest.mark.parametrize("nested", [False, True])
def test_what_it_raises_is_the_error_of_the_step(nested: bool, run_function: Any) -> None:
    """It is judged by `retry_on` and `final_on`, and `show` tells what went wrong."""
    for error in (ConnectionError("gone"), ZeroDivisionError(), StopAsyncIteration("x")):
        with pytest.raises(type(error)) as caught:
            run_function(lambda error=error: {"a": fails_late(error)} if nested else fails_late(error))

        assert caught.value is error


def test_a_model_that_checks_its_items_raises_its_own_error(run_function: Any) -> None:
    """Pydantic checks the items of an iterable field only when they are read."""
    with pytest.raises(ValidationError):
        run_function(lambda: Report(rows=iter(["x"])))  # type: ignore[list-item]


def test_the_attempts_of_a_generator_are_counted(workflow_harness: WorkflowHarness) -> None:
    """A page that could not be fetched is fetched again."""
    runs = itertools.count(1)

    @activity(policy=StepPolicy(max_attempts=3))
    def pages() -> Iterator[int]:
        yield 1
        if next(runs) < 3:
            raise ConnectionError("gone")

    @activity(policy=StepPolicy(final_on=("ZeroDivisionError",)))
    def wrong() -> Iterator[float]:
        yield 1 / 0

    result = asyncio.run(workflow_harness.run([pages.activity()]))
    with pytest.raises(WorkflowFailed, match="ZeroDivisionError"):
        asyncio.run(workflow_harness.run([wrong.activity()]))

    assert (result.output, next(runs)) == ([1], 4)


def endless(closed: list[Any], items: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from items
    finally:
        closed.append(threading.current_thread())


def test_a_generator_whose_time_is_over_is_read_no_further(run_function: Any) -> None:
    """A thread cannot be stopped, but it need not go on for ever; what it opened is closed where it was opened."""
    closed: list[Any] = []
    started: list[Any] = []

    def step() -> Iterator[Any]:
        started.append(threading.current_thread())
        return endless(closed, ({} for _ in itertools.count()))

    with pytest.raises(TimeoutError):
        run_function(step, timeout=0.05, max_output_size=1 << 40)

    started[0].join(PATIENCE)
    assert closed == started


def test_the_time_of_an_async_step_ends_while_its_result_is_read(run_function: Any) -> None:
    """Nothing in it awaits, yet its time limit and the other steps get their turn."""
    closed: list[Any] = []

    async def step() -> Any:
        return [endless(closed, itertools.repeat(""))]

    async def astep() -> AsyncIterator[Any]:
        try:
            for item in itertools.count():
                yield sub(sub((item,)))
        finally:
            closed.append(await one())

    for function in (step, astep):
        with pytest.raises(TimeoutError):
            run_function(function, timeout=0.05, max_output_size=1 << 40)

    assert closed == [threading.main_thread(), 1]


def test_what_a_thread_waits_for_on_the_loop_ends_with_the_step(run_function: Any) -> None:
    """A coroutine that a sync function returns is cancelled like that of an async one."""
    ended: list[str] = []
    threads: list[Any] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    def step() -> list[Awaitable[None]]:
        threads.append(threading.current_thread())
        return [forever()]

    with pytest.raises(TimeoutError):
        run_function(step, timeout=0.05)

    threads[0].join(PATIENCE)
    assert ended == ["cancelled"]


@pytest.mark.parametrize(
    "item", ["x" * 50, {"text": "x" * 50}, (("x" * 50) for _ in range(1)), None, itertools.count()]
)
def test_a_result_that_grows_too_large_is_read_no_further(item: Any, run_function: Any) -> None:
    """An endless one would otherwise take all memory of the worker long before its time is over."""
    closed: list[Any] = []

    async def astep() -> Any:
        return endless(closed, itertools.repeat(item))

    async def generates() -> AsyncIterator[Any]:
        for _ in itertools.count():
            yield item

    with pytest.raises(
        NotSerializable, match="at most 1024 bytes of an output are kept, and no more was read"
    ) as caught:
        run_function(lambda: endless(closed, itertools.chain([item], itertools.repeat(item))))
    for function in (astep, generates):
        with pytest.raises(NotSerializable, match="paigeant_max_output_size"):
            run_function(function)

    assert (caught.value.reason, len(closed)) == ("output_too_large", 2)


def test_what_just_fits_is_read(run_function: Any) -> None:
    """The bound is that of the recorded JSON, and nothing is refused too early."""
    assert run_function(lambda: iter(["é" * 10] * 44), max_output_size=1024) == ["é" * 10] * 44


def test_what_goes_too_deep_or_holds_itself_is_refused(run_function: Any) -> None:
    """Reading a result never goes on for ever, whatever it is made of."""

    def deeper() -> Iterator[Any]:
        yield deeper()

    ring: list[Any] = []
    ring.append(ring)
    knot = Report(rows=[1])
    object.__setattr__(knot, "note", knot)

    for result in (deeper(), ring, knot):
        with pytest.raises(NotSerializable, match="output_not_serializable"):
            run_function(iter([result]).__next__)


@dataclass
class Node:
    """Of a tree whose parts know their parents."""

    parent: Node | None = None
    left: Node | None = None
    right: Node | None = None
    rows: object = ()


def tree(depth: int, parent: Node | None = None) -> Node:
    node = Node(parent, rows=iter([depth]))
    if depth:
        node.left, node.right = tree(depth - 1, node), tree(depth - 1, node)
    return node


def test_objects_that_know_each_other_are_read_once(run_function: Any) -> None:
    """There are more ways through a few such objects than anybody can walk."""
    shared = Node(rows=iter([1]))
    steps = reading(tree(8), Limit(size=100_000))

    met = sum(1 for _ in itertools.islice(steps, 10_000))

    assert met == 2 * (2**9 - 1)  # the one item of each node, and the end after it
    assert [node["rows"] for node in run_function(lambda: [shared, shared])] == [[1], [1]]


class Table:
    """Something that iterates over the names of its columns, and so not over what it holds."""

    def keys(self) -> list[str]:
        return ["a"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())


@pytest.mark.parametrize("result", [Table(), object(), lambda: 1])
def test_what_has_no_json_form_still_has_none(result: Any, run_function: Any) -> None:
    """Half of a table would be recorded as if it were the whole."""
    with pytest.raises(NotSerializable, match="output_not_serializable"):
        run_function(lambda: result)


def test_a_future_of_another_running_loop_is_awaited_there(run_function: Any) -> None:
    """A library may have a loop of its own, and its futures work only there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> asyncio.Task[int]:
        return asyncio.create_task(one())

    try:
        assert run_function(lambda: asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE)) == 1
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_what_an_output_function_of_an_agent_yields_is_read_beside_the_loop(workflow_harness: WorkflowHarness) -> None:
    """It may block, and nobody knows in which thread pydantic-ai made it."""
    threads: list[Any] = []

    def lines(text: str) -> Iterable[str]:
        for line in (text, text):
            threads.append(threading.current_thread())
            yield line

    agent = Agent(TestModel(), output_type=ToolOutput(lines), name="liner")
    register_agent(agent)

    result = asyncio.run(workflow_harness.run([ActivitySpec("liner", "say a line")]))

    assert result.output == ["a", "a"]
    assert threading.main_thread() not in threads


def test_what_a_tool_yields_is_read_beside_the_loop_and_may_steer_the_run(workflow_harness: WorkflowHarness) -> None:
    """A tool that pages through a service blocks nobody, and asks the model to try again like any other."""
    threads: list[Any] = []
    tries = itertools.count()

    def pages() -> Iterable[int]:
        """Page."""
        threads.append(threading.current_thread())
        yield 1
        if next(tries) == 0:
            raise ModelRetry("again")
        yield 2

    agent = PaigeantAgent(TestModel(), name="paging", tools=[pages], retries=2)

    result = asyncio.run(workflow_harness.run([agent.activity("page")]))

    assert result.output == '{"pages":[1,2]}'
    assert len(threads) == 2
    assert threading.main_thread() not in threads
