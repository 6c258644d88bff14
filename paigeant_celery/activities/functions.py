"""Plain functions as activities: `@activity`. Loads no agent library."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import sys
from collections.abc import Callable, Coroutine, Iterable
from functools import cached_property, partial, update_wrapper
from types import FrameType
from typing import (
    Annotated,
    Any,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    get_type_hints,
    overload,
)

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model

from paigeant_celery.activities.context import WorkflowContext
from paigeant_celery.activities.lazy import GivenUp, Limit, Reading, read_in_thread, read_on_loop, reading
from paigeant_celery.activities.making import Making
from paigeant_celery.activities.pauses import no_waits_in_process
from paigeant_celery.activities.port import ActivityResult, StepLimits
from paigeant_celery.activities.registry import check_name, registry
from paigeant_celery.activities.results import result_of
from paigeant_celery.activities.stacks import still_running
from paigeant_celery.activities.threads import call_in_step
from paigeant_celery.core.certainty import certainty_of
from paigeant_celery.core.crossing import OWN, cross, reader_of, refuse_lost
from paigeant_celery.core.errors import InvalidInput, MessageError, UsageError
from paigeant_celery.core.faults import first_fault, raised_by_validator
from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import FunctionSpec, Step, TaskSpec

__all__ = ["FunctionActivity", "activity", "in_own_thread", "read_beside", "reading_in_own_thread"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class FunctionActivity(Generic[P, R]):
    """A function that can be a step; calling it calls the function.

    On the worker an async function runs on the event loop and a sync one in a thread. A thread cannot be
    stopped: a sync function that times out runs to its end, or to the next item that it yields, and its result is
    discarded.
    """

    kind: Literal["function"] = "function"

    def __init__(
        self, function: Callable[..., Any], *, name: str, queue: str | None, policy: StepPolicy | None, description: str
    ) -> None:
        check_name(name)
        _check_kinds(name, function)
        update_wrapper(self, function)
        self.function = function
        self.name, self.queue, self.policy, self.description = name, queue, policy, description
        code = getattr(inspect.unwrap(function), "__code__", None)
        self.origin = f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)
        self.making = Making.at(_maker(), function)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def activity(self, /, *args: P.args, **kwargs: P.kwargs) -> FunctionSpec:
        """Return a step that calls the function with these arguments, leaving out its `WorkflowContext`.

        Raises `InvalidInput` if the arguments do not fit the signature, or would not come back from JSON as they are.
        """
        try:
            bound = inspect.Signature(self._parameters).bind(*args, **kwargs)
            crossed = cross(dict(bound.arguments), path="arguments", readers=self._readers)
            step = FunctionSpec(self.name, crossed, policy=self.policy, queue=self.queue)
            self._arguments_of(step)
        except TypeError as error:
            raise InvalidInput("invalid_arguments", "arguments", f"{self.name}: {error}{self._context_hint}") from None
        except MessageError as error:
            raise InvalidInput(error.reason, error.path, error.text) from None
        return step

    def check(self, step: Step) -> object:
        """Return the function's arguments by their names.

        Raises `MessageError` if the step is not a function step or its arguments do not fit, and `InvalidInput` if they
        fit, but are not what the caller gave.
        """
        arguments = self._arguments_of(step)
        refuse_lost(step.given, arguments, readers=self._readers, path="arguments")
        return arguments

    async def run(self, step: Step, given: Any, context: WorkflowContext, *, limits: StepLimits) -> ActivityResult:
        """Call the function with the arguments `given` and return its result as JSON."""
        first = (context,) if self._takes_context else ()
        call, limit = partial(self.function, *first, **given), Limit(size=limits.max_output_size)
        record = partial(result_of, declared=self._declared_output)
        with no_waits_in_process():
            if inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function):
                return record(await read_on_loop(reading(call(), limit)))
            return await reading_in_own_thread(lambda read: record(read(reading(call(), limit))))

    def _arguments_of(self, step: Step) -> dict[str, Any]:
        if not isinstance(step, FunctionSpec):
            runs = "a Celery task" if isinstance(step, TaskSpec) else "an agent"
            text = f"{step.activity!r} is a function, but the step runs {runs}; use a `FunctionSpec`"
            raise MessageError("invalid_envelope", "kind", text)
        try:
            checked = self._model.model_validate_json(dumps(step.arguments))
        except MessageError:
            raise
        except ValidationError as error:
            place, _, text = first_fault(error)
            path = ".".join(["arguments", *(str(part).removeprefix("argument_") for part in place)])
            raise MessageError("invalid_arguments", path, text) from raised_by_validator(error)
        except Exception as error:
            text = f"a validator raised {type(error).__name__}"
            raise MessageError("invalid_arguments", "arguments", text) from error
        return {name: getattr(checked, _field(name)) for name in step.arguments}

    @cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return get_type_hints(_innermost(self.function), include_extras=True)
        except (NameError, TypeError) as error:
            text = f"the annotations of {self.name!r} cannot be read ({error}); import their names at run time"
            raise MessageError("invalid_arguments", "arguments", text) from error

    @cached_property
    def _declared_output(self) -> Any:
        try:
            declared = self._hints.get("return", OWN)
        except MessageError:  # nothing else asks for the annotations of a function without parameters
            return OWN
        return declared if declared is OWN else reader_of(declared) or OWN

    @cached_property
    def _readers(self) -> dict[str, _ArgumentReader]:
        """What reads each argument on the worker; nothing for those of which the annotation says nothing."""
        try:
            return {
                parameter.name: _ArgumentReader(self._model_of([parameter]), parameter.name)
                for parameter in self._parameters
                if parameter.name in self._hints
            }
        except MessageError:  # an annotation cannot be made from JSON, which `check` says
            return {}

    @property
    def _context_hint(self) -> str:
        """Say how a function gets the context if it looks as if it wanted to."""
        named = {"context", "ctx"} & {parameter.name for parameter in self._parameters}
        if self._takes_context or not (named or WorkflowContext in self._hints.values()):
            return ""
        return "; a first parameter annotated `WorkflowContext` gets the context"

    @cached_property
    def _takes_context(self) -> bool:
        first = next(iter(inspect.signature(self.function).parameters), None)
        return first is not None and self._hints.get(first) is WorkflowContext

    @cached_property
    def _parameters(self) -> tuple[inspect.Parameter, ...]:
        return tuple(inspect.signature(self.function).parameters.values())[1 if self._takes_context else 0 :]

    @cached_property
    def _model(self) -> type[BaseModel]:
        return self._model_of(self._parameters)

    def _model_of(self, parameters: Iterable[inspect.Parameter]) -> type[BaseModel]:
        fields: dict[str, Any] = {
            _field(parameter.name): (
                _under_its_name(parameter.name, self._hints.get(parameter.name, Any)),
                ... if parameter.default is inspect.Parameter.empty else parameter.default,
            )
            for parameter in parameters
        }
        config = ConfigDict(
            extra="forbid",
            arbitrary_types_allowed=False,
            hide_input_in_errors=True,
        )
        try:
            return create_model(f"{self.name} arguments", __config__=config, **fields)
        except PydanticUserError as error:
            text = f"an annotation of {self.name!r} cannot be made from JSON; take an id or a model instead"
            raise MessageError("invalid_arguments", "arguments", text) from error


class _ArgumentReader:
    """Reads and writes one argument just as it is read among all arguments, whose settings reach into its type."""

    around = 1  # its name, in the place of an error

    def __init__(self, model: type[BaseModel], name: str) -> None:
        self._model, self._name = model, name
        self._is_certain = certainty_of(model.__pydantic_core_schema__)

    def certainty(self, value: Any, /) -> bool:
        """Say whether the argument is known to read a value back equal."""
        return self._is_certain is not None and self._is_certain(self._holding(value))

    def validate_json(self, data: str, /) -> Any:
        return self._value_of(self._model.model_validate_json(f"{{{dumps(self._name)}:{data}}}"))

    def validate_python(self, value: Any, /, *, strict: bool | None = None) -> Any:
        return self._value_of(self._model.model_validate({self._name: value}, strict=strict))

    def dump_json(self, value: Any, /, *, round_trip: bool, by_alias: bool, warnings: bool) -> bytes:
        text = self._holding(value).model_dump_json(round_trip=round_trip, by_alias=by_alias, warnings=warnings)
        [written] = json.loads(text).values()
        return dumps(written).encode()

    def _holding(self, value: Any) -> BaseModel:
        return self._model.model_construct(**{_field(self._name): value})

    def _value_of(self, holder: BaseModel) -> Any:
        return getattr(holder, _field(self._name))


def _innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that has the annotations, without what wraps it."""
    function = inspect.unwrap(function)
    while isinstance(function, partial):
        function = inspect.unwrap(function.func)
    called: Callable[..., Any] = type(function).__call__  # of an object that can be called
    return function if inspect.isroutine(function) or inspect.isclass(function) else called


def _check_kinds(name: str, function: Callable[..., Any]) -> None:
    """Raise `UsageError` for a method, and if an argument has no name.

    The first may have none, because it may be the context.
    """
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is not None and first.name in {"self", "cls"} and first.annotation is inspect.Parameter.empty:
        raise UsageError(f"{name}: a step is a function, not a method; take it out of its class")
    nameless: set[object] = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in nameless:
            raise UsageError(f"{name}: a step's arguments have names, but `{parameter}` takes arguments without one")
        nameless.add(inspect.Parameter.POSITIONAL_ONLY)


def _maker() -> FrameType:
    """Return the frame of the code that makes a function an activity."""
    frame = sys._getframe(1)
    while frame.f_globals is globals() and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _field(name: str) -> str:
    """A field name that no attribute of a pydantic model can hide."""
    return f"argument_{name}"


def _under_its_name(name: str, hint: Any) -> Any:
    """Return the type of an argument that is read under its own name, even if the annotation has an alias for it."""
    return Annotated[hint, Field(alias=name, validation_alias=name, serialization_alias=name)]


class Decorator(Protocol):
    """What `activity(name=…)` returns; a function's context parameter is not an argument of its steps."""

    @overload
    def __call__(self, function: Callable[Concatenate[WorkflowContext, P], R], /) -> FunctionActivity[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> FunctionActivity[P, R]: ...


@overload
def activity(function: Callable[Concatenate[WorkflowContext, P], R], /) -> FunctionActivity[P, R]: ...


@overload
def activity(function: Callable[P, R], /) -> FunctionActivity[P, R]: ...


@overload
def activity(*, name: str | None = None, queue: str | None = None, policy: StepPolicy | None = None) -> Decorator: ...


def activity(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    policy: StepPolicy | None = None,
) -> Any:
    """Make a sync or async function a step of workflows.

    The activity has the function's name. Its arguments are JSON, checked by the annotations; a first parameter
    annotated `WorkflowContext` receives the context. The result is recorded as JSON; what a generator yields is a
    list.

    Raises `InvalidInput` (`bad_agent_name`).
    """

    def decorate(function: Callable[..., Any]) -> FunctionActivity[..., Any]:
        if not callable(function):
            text = f"`@activity` is for functions, not for a {type(function).__name__}; names are given as `name=`"
            raise InvalidInput("invalid_input", "function", text)
        made: FunctionActivity[..., Any] = FunctionActivity(
            function,
            name=str(getattr(function, "__name__", "")) if name is None else name,
            queue=queue,
            policy=policy,
            description=(inspect.getdoc(function) or "").partition("\n")[0],
        )
        registry.add(made, holder=made)
        return made

    return decorate if function is None else decorate(function)


async def read_beside(result: object, limit: Limit) -> Any:
    """Read a result of unknown code; if anything in it is lazy, in a thread of its own, because it may block."""
    steps = reading(result, limit)
    try:
        wanted = next(steps)
    except StopIteration as end:
        return end.value
    return await reading_in_own_thread(lambda read: read(steps, wanted))


async def reading_in_own_thread(work: Callable[[Callable[..., Any]], T]) -> T:
    """Do some work in its own thread. It gets the function that reads there until nobody waits for it any more."""
    loop = asyncio.get_running_loop()
    given_up = GivenUp()

    def read(steps: Reading, wanted: Coroutine[Any, Any, Any] | None = None) -> Any:
        return read_in_thread(steps, loop, given_up, wanted)

    try:
        return await in_own_thread(lambda: work(read))
    finally:
        given_up.begin()


async def in_own_thread(call: Callable[[], T]) -> T:
    """Call a function in the thread of this step, or in one made for it, in a copy of the context.

    The loop's own executor is not used: a function that hangs keeps its thread forever, and name resolution, for
    example, must always find a free thread there.
    """
    future, thread = call_in_step(contextvars.copy_context(), partial(_outcome, call))
    try:
        ended = await asyncio.wrap_future(future)
    except asyncio.CancelledError as error:
        error.__cause__ = still_running(thread)  # says what a step that ran out of time was doing
        raise
    return ended()


def _outcome(call: Callable[[], T]) -> Callable[[], T]:
    """Make a call and return what gives its result or raises its error."""
    try:
        value = call()
    except BaseException as error:  # noqa: BLE001 - the waiting caller gets what it raised
        return partial(_reraise, error)  # asyncio makes a `TimeoutError` anew, without its frames
    return lambda: value


def _reraise(error: BaseException) -> NoReturn:
    if isinstance(error, StopIteration):  # a coroutine cannot raise it
        raise RuntimeError(f"the function raised StopIteration: {error}") from error
    raise error
