"""`@activity`: a function that is still a function, and a step whose arguments are checked by its signature."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field, SecretStr

from paigeant_celery.activities.context import WorkflowContext, entered, workflow_context
from paigeant_celery.activities.functions import FunctionActivity, activity
from paigeant_celery.activities.port import ActivityResult, StepLimits
from paigeant_celery.activities.registry import registry
from paigeant_celery.core.errors import InvalidInput, MessageError, NotSerializable, UsageError
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec, Step
from paigeant_celery.testing import WorkflowHarness

if TYPE_CHECKING:
    from decimal import Decimal as MissingAtRunTime

MakeContext = Callable[..., WorkflowContext]
RunStep = Callable[..., object]


class Line(BaseModel):
    article: str
    count: int = Field(ge=1)


@dataclass
class Place:
    town: str
    since: date


class Pool:
    """Something that cannot be made from JSON."""


def break_down(value: str) -> str:
    raise KeyError(value)


@pytest.fixture
def run_step(make_context: MakeContext, limits: StepLimits) -> RunStep:
    """Run a step of a function as a hop does, and return its output."""

    def run(function: FunctionActivity[..., Any], step: Step, context: WorkflowContext | None = None) -> object:
        context = context or make_context()

        async def main() -> ActivityResult:
            with entered(context):
                return await function.run(step, function.check(step), context, limits=limits)

        return asyncio.run(main()).output

    return run


# Still a function.


def test_calling_it_calls_the_function() -> None:
    """Code and tests that already call the function can go on doing so."""

    @activity
    def add(a: int, b: int = 2) -> int:
        """Add two numbers.

        That is all.
        """
        return a + b

    assert (add(1), add(1, b=5), add("x", "y")) == (3, 6, "xy")  # type: ignore[arg-type]
    assert (add.__name__, add.__wrapped__, add.description) == ("add", add.function, "Add two numbers.")  # type: ignore[attr-defined]


def test_calling_an_async_one_gives_something_to_await() -> None:
    """The step wraps the coroutine function, not its result."""

    @activity
    async def double(n: int) -> int:
        return 2 * n

    assert asyncio.run(double(4)) == 8


def test_it_is_registered_under_its_name_with_its_options() -> None:
    """A worker finds it by importing its module, and sends its steps where it says."""

    @activity
    def plain() -> None: ...

    @activity(name="shop.count", queue="slow", policy=StepPolicy(timeout=3))
    def counted() -> None: ...

    assert registry.activities() == {"plain": plain, "shop.count": counted}
    assert plain.activity() == FunctionSpec("plain")
    assert counted.activity() == FunctionSpec("shop.count", policy=StepPolicy(timeout=3), queue="slow")


def test_its_origin_is_where_it_is_written_whatever_wraps_it() -> None:
    """Two functions under the same decorator are not mistaken for each other."""

    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return inner

    @logged
    def one(a: int) -> int:
        return a

    @logged
    def other() -> None: ...

    first, second = activity(one), activity(other)

    assert first.origin != second.origin
    assert first.origin == f"{__file__}:{one.__wrapped__.__code__.co_firstlineno}"  # type: ignore[attr-defined]
    assert first.activity(a=1) == FunctionSpec("one", {"a": 1})


@pytest.mark.parametrize("name", ["a b", "../x", "1st", "a" * 129, "ä"])
def test_a_name_that_cannot_name_a_queue_is_refused(name: str) -> None:
    """It is found on import, not by a broker."""
    with pytest.raises(InvalidInput) as caught:
        activity(name=name)(lambda: None)

    assert (caught.value.reason, caught.value.path) == ("bad_agent_name", "name")
    assert registry.activities() == {}


def test_a_function_without_a_name_needs_one() -> None:
    """A lambda is called `<lambda>` everywhere."""
    with pytest.raises(
        InvalidInput, match=r"^bad_agent_name at `name`: '<lambda>' cannot name a queue and a task; a name has"
    ):
        activity(lambda: None)

    assert activity(name="nothing")(lambda: None).name == "nothing"


# The arguments of a step.


@activity
def order(
    article: str, lines: list[Line], day: date = date(2026, 1, 2), *, kind: Literal["new", "old"] = "new"
) -> None:
    """Order something."""


def test_arguments_are_written_by_name_and_defaults_left_to_the_worker() -> None:
    """A worker with a newer default uses its own, and the order of the parameters may change."""
    by_place = order.activity("a", [Line(article="x", count=1)], kind="old")
    by_name = order.activity(kind="old", lines=[{"article": "x", "count": 1}], article="a")  # type: ignore[list-item]

    assert by_place == by_name
    assert by_place.arguments == {"article": "a", "lines": [{"article": "x", "count": 1}], "kind": "old"}


@pytest.mark.parametrize(
    ("call", "path", "text"),
    [
        (lambda: order.activity(), "arguments", "order: missing a required argument: 'article'"),
        (lambda: order.activity("a"), "arguments", "order: missing a required argument: 'lines'"),
        (lambda: order.activity("a", [], None, 4), "arguments", "order: too many positional arguments"),
        (lambda: order.activity("a", [], knd="x"), "arguments", "order: got an unexpected keyword argument 'knd'"),
        (lambda: order.activity("a", [], article="b"), "arguments", "order: multiple values for argument 'article'"),
        (lambda: order.activity(7, []), "arguments.article", "Input should be a valid string"),
        (lambda: order.activity("a", [], "hunter2"), "arguments.day", None),
        (lambda: order.activity("a", [], kind="hunter2"), "arguments.kind", "Input should be 'new' or 'old'"),
        (
            lambda: order.activity("a", [{"article": "hunter2", "count": 0}]),
            "arguments.lines.0.count",
            "Input should be greater than or equal to 1",
        ),
        (
            lambda: order.activity("a", Pool()),
            "arguments.lines",
            "a `Pool` has no JSON form; pass what it has as JSON, or make it on the worker",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused_where_the_step_is_made(
    call: Callable[[], FunctionSpec], path: str, text: str | None
) -> None:
    """The caller's own line fails, by the name of the argument and without its value."""
    with pytest.raises(InvalidInput) as caught:
        call()

    assert (caught.value.reason, caught.value.path) == ("invalid_arguments", path)
    assert text is None or caught.value.text == text
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [({"lines": []}, "arguments.article"), ({"article": "a", "lines": [], "x": 1}, "arguments.x")],
    ids=["missing", "unknown"],
)
def test_a_step_of_another_version_that_does_not_fit_is_refused(arguments: dict[str, Any], path: str) -> None:
    """The worker says which argument of the message its function does not take, before anything runs."""
    with pytest.raises(MessageError) as caught:
        order.check(FunctionSpec("order", arguments))

    assert (caught.value.reason, caught.value.path) == ("invalid_arguments", path)


def test_a_step_of_an_agent_is_refused() -> None:
    """Two teams that use the same name for two kinds of step find out at once."""
    with pytest.raises(MessageError) as caught:
        order.check(ActivitySpec("order", "please"))

    assert caught.value.args == (
        "invalid_envelope",
        "kind",
        "'order' is a function, but the step runs an agent; use a `FunctionSpec`",
    )


def test_arguments_that_have_no_name_are_refused_at_the_import() -> None:
    """A step's arguments travel by name."""

    def some(*numbers: int) -> None: ...

    def named(**numbers: int) -> None: ...

    def by_place(context: WorkflowContext, number: int, /) -> None: ...

    for function, parameter in ((some, "*numbers"), (named, "**numbers"), (by_place, "number")):
        with pytest.raises(UsageError, match="a step's arguments have names, but") as caught:
            activity(function)
        assert f"`{parameter}" in str(caught.value)
    assert registry.activities() == {}


def test_a_parameter_without_an_annotation_takes_any_json() -> None:
    """Small functions need no types."""

    @activity
    def look(anything) -> None: ...  # type: ignore[no-untyped-def]

    assert look.activity({"a": [1, None]}).arguments == {"anything": {"a": [1, None]}}


def takes_a_pool(pool: Pool) -> None: ...


def takes_what_is_missing(pool: MissingAtRunTime) -> None: ...


def takes_what_breaks(pool: Annotated[str, AfterValidator(break_down)]) -> None: ...


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (takes_a_pool, "an annotation of 'connect' cannot be made from JSON; take an id or a model instead"),
        (
            takes_what_is_missing,
            "the annotations of 'connect' cannot be read (name 'MissingAtRunTime' is not defined); import their names "
            "at run time",
        ),
        (takes_what_breaks, "a validator raised KeyError"),
    ],
)
def test_an_annotation_that_cannot_check_is_a_fault_of_the_message(function: Callable[..., None], text: str) -> None:
    """It is refused with a reason and a remedy; the worker does not lose the message to a traceback."""
    connect = activity(name="connect")(function)

    with pytest.raises(MessageError) as caught:
        connect.check(FunctionSpec("connect", {"pool": "hunter2"}))

    assert caught.value.args == ("invalid_arguments", "arguments", text)


def test_defaults_of_any_kind_are_left_to_the_function() -> None:
    """A list or a model as a default is common, and cannot be hashed."""

    @activity
    def order(article: str, tags: list[str] = [], line: Line = Line(article="x", count=1)) -> None: ...  # noqa: B006, B008

    assert order.activity("a").arguments == {"article": "a"}
    assert order.activity("a", ["new"]).arguments == {"article": "a", "tags": ["new"]}


def test_an_argument_is_known_by_its_own_name_whatever_aliases_its_annotation_has(run_step: RunStep) -> None:
    """An annotation that a model's field shares with it, for example, has the names of the field."""

    @activity
    def add(
        first: Annotated[int, Field(alias="firstNumber")],
        second: Annotated[int, Field(validation_alias="secondNumber", serialization_alias="2")] = 2,
    ) -> int:
        return first + second

    assert run_step(add, add.activity(1)) == 3
    assert run_step(add, add.activity(first=1, second=4)) == 5
    assert run_step(add, FunctionSpec("add", {"first": 1, "second": 5})) == 6
    with pytest.raises(MessageError) as caught:
        add.check(FunctionSpec("add", {"firstNumber": 1}))
    assert caught.value.path in {"arguments.first", "arguments.firstNumber"}


# Running.


def test_arguments_arrive_as_the_types_of_the_signature(run_step: RunStep) -> None:
    """The function works with dates and models, just as if it were called directly."""

    @activity
    def look(place: Place, line: Line, days: set[date], pair: tuple[int, str], anything, none: int | None = 3) -> Any:  # type: ignore[no-untyped-def]
        return [repr(value) for value in (place, line, sorted(days), pair, anything, none)]

    step = look.activity(
        Place("Turin", date(2026, 1, 2)), Line(article="x", count=2), {date(2026, 1, 3)}, (1, "a"), [7]
    )

    assert run_step(look, step) == [
        "Place(town='Turin', since=datetime.date(2026, 1, 2))",
        "Line(article='x', count=2)",
        "[datetime.date(2026, 1, 3)]",
        "(1, 'a')",
        "[7]",
        "3",
    ]


def test_a_parameter_may_have_any_name(run_step: RunStep) -> None:
    """Nobody should have to know which names a library reserves."""

    @activity
    def odd(json: int, copy: int, model_config: int, schema: int, argument_json: int, _private: int, self: int) -> int:
        return int(f"{json}{copy}{model_config}{schema}{argument_json}{_private}{self}")

    assert run_step(odd, odd.activity(1, 2, 3, 4, 5, 6, self=7)) == 1234567


def test_an_async_function_runs_on_the_loop_and_a_sync_one_beside_it(run_step: RunStep) -> None:
    """A function that blocks holds up no other step of the process."""

    @activity
    def blocks() -> bool:
        return threading.current_thread() is threading.main_thread()

    @activity
    async def awaits() -> bool:
        await asyncio.sleep(0)
        return threading.current_thread() is threading.main_thread()

    assert (run_step(blocks, blocks.activity()), run_step(awaits, awaits.activity())) == (False, True)


def test_the_context_comes_first_and_is_no_argument_of_the_step(run_step: RunStep, make_context: MakeContext) -> None:
    """The dispatcher knows nothing about it; the running step gets its own workflow."""
    context = make_context()

    @activity
    def sync_one(context: WorkflowContext, n: int) -> list[Any]:
        return [context.correlation_id, workflow_context() is context, n]

    @activity
    async def async_one(whatever: WorkflowContext, /, n: int = 4) -> list[Any]:
        return [whatever.correlation_id, workflow_context() is whatever, n]

    steps = (sync_one.activity(3), async_one.activity())

    assert [step.arguments for step in steps] == [{"n": 3}, {}]
    assert run_step(sync_one, steps[0], context) == ["w-1", True, 3]
    assert run_step(async_one, steps[1], context) == ["w-1", True, 4]


def test_what_it_returns_becomes_json(run_step: RunStep) -> None:
    """The next step reads the same shape on any worker."""

    @activity
    def locate() -> Place:
        return Place("Turin", date(2026, 1, 2))

    @activity
    def connect() -> Pool:
        return Pool()

    assert run_step(locate, locate.activity()) == {"town": "Turin", "since": "2026-01-02"}
    with pytest.raises(NotSerializable, match=r"^output_not_serializable: `output`: a `Pool` has no JSON form"):
        run_step(connect, connect.activity())


def test_what_it_raises_is_what_the_hop_sees(run_step: RunStep) -> None:
    """The class and text of the error are what the workflow fails with."""

    @activity
    def divide(by: int) -> float:
        return 1 / by

    with pytest.raises(ZeroDivisionError, match="division by zero"):
        run_step(divide, divide.activity(by=0))


def test_an_async_function_behind_a_sync_wrapper_is_awaited(run_step: RunStep) -> None:
    """Many decorators return a plain function that returns a coroutine."""

    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @activity
    @logged
    async def double(number: int) -> int:
        return 2 * number

    assert run_step(double, double.activity(4)) == 8


def test_an_output_that_holds_a_secret_is_not_recorded(run_step: RunStep) -> None:
    """The record would hold asterisks, and the next step would use them."""

    @activity
    def token() -> dict[str, SecretStr]:
        return {"token": SecretStr("hunter2")}

    with pytest.raises(NotSerializable) as caught:
        run_step(token, token.activity())

    assert caught.value.reason == "output_not_serializable"
    assert "hunter2" not in str(caught.value)


def test_an_object_that_can_be_called_is_read_by_the_annotations_of_its_call(
    workflow_harness: WorkflowHarness,
) -> None:
    """It has none itself, and said that they could not be read."""

    class Shout:
        def __call__(self, context: WorkflowContext, text: str, times: int) -> str:
            return text.upper() * times

    shout = activity(name="shout")(Shout())

    with pytest.raises(InvalidInput, match=r"arguments\.times"):
        shout.activity(text="a", times="many")
    result = asyncio.run(workflow_harness.run([shout.activity(text="a", times=2)]))
    assert result.output == "AA"
