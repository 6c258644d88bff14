"""What a step gets: its workflow's ids, variables and outputs, and dependencies from the dispatcher."""

from __future__ import annotations

import asyncio
import copy
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, PrivateAttr, TypeAdapter

from paigeant_celery.core.about import About, write_about
from paigeant_celery.core.errors import NoWorkflow, UsageError
from paigeant_celery.core.jsonable import dumps, to_jsonable
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.slip import ExecutedStep
from paigeant_celery.core.steps import BlockSpec
from paigeant_celery.core.wait_inputs import (
    checked_delay,
    checked_moment,
    checked_question,
    checked_seconds,
    checked_wait_name,
)

__all__ = [
    "AskFor",
    "Blocks",
    "StepOutput",
    "Waits",
    "WorkflowContext",
    "WorkflowDependencies",
    "entered",
    "only_step_here",
    "running_step",
    "with_previous_output",
    "workflow_context",
]

ReadOutput = Callable[[ExecutedStep], Awaitable[JsonValue]]
ReadStep = Callable[[str], Awaitable[ExecutedStep]]  # by its id; raises `UsageError` if no such step ran
ReadData = Callable[[str], Awaitable[str]]  # base64 by its digest
AskFor = Callable[[str], Awaitable[JsonValue]]  # gets the token; None if the answer comes later

T = TypeVar("T")

_current: ContextVar[entered] = ContextVar("paigeant_workflow")


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """The recorded output of a step; `output` is JSON and has the same shape on every worker.

    `content` are JSON Pointers to the files and links in it, which are pydantic-ai's own objects.
    """

    step_id: str
    activity: str
    output: JsonValue
    content: tuple[str, ...] = ()

    def output_as(self, type_: type[T]) -> T:
        """Return the output validated as `type_`; raises `pydantic.ValidationError` if it does not fit.

        It is validated as JSON, so that dates, tuples and sets come back from their JSON form.
        """
        return TypeAdapter(type_).validate_json(dumps(self.output))


class WorkflowDependencies(BaseModel):
    """Dependencies whose fields cross the queue as JSON; subclass it to add your own.

    On the worker `previous_output` is the output of the step before this one, or None for the first.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    made_by_the_step: ClassVar[frozenset[str]] = frozenset({"_previous_output"})  # and so does not have to cross

    _previous_output: StepOutput | None = PrivateAttr(default=None)

    @property
    def previous_output(self) -> StepOutput | None:
        """The output of the step before this one."""
        return self._previous_output


def with_previous_output(deps: Any, previous: StepOutput | None) -> Any:
    """Return `deps`; if it is a `WorkflowDependencies`, return a copy that holds the previous output.

    A copy, because a `deps_factory` may give every step the same object.
    """
    if not isinstance(deps, WorkflowDependencies):
        return deps
    own = deps.model_copy()
    own._previous_output = previous
    return own


class Waits(Protocol):
    """What lets a step wait; its hop has it."""

    async def wait_for(self, name: str, *, ask: AskFor | None, timeout: float | None, about: str) -> JsonValue: ...  # noqa: ASYNC109

    async def sleep_until(self, when: datetime, *, name: str) -> None: ...

    async def sleep_for(self, seconds: float, *, name: str) -> None: ...


class Blocks(Protocol):
    """What opens the branches of a block and joins them; its hop has it. The answer is an `ActivityResult`."""

    async def joined(self, step: BlockSpec, *, read_output: Callable[[str], Awaitable[JsonValue]]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class WorkflowContext:
    """Ids, variables and outputs of the workflow, as seen from the step that runs now.

    `attempt` is 1 the first time. `variables` cannot be changed. `previous_output` is the output of the step
    before this one, or None for the first.
    """

    correlation_id: str
    hop_id: str
    step_id: str
    activity: str
    attempt: int
    deadline: datetime | None
    variables: Mapping[str, JsonValue]
    previous_output: StepOutput | None
    message: PaigeantMessage = field(repr=False)
    read_output: ReadOutput = field(repr=False)
    read_data: ReadData = field(repr=False)
    read_step: ReadStep = field(repr=False)
    waits: Waits | None = field(default=None, repr=False)
    blocks: Blocks | None = field(default=None, repr=False)
    history: tuple[str, ...] = field(default=(), repr=False)  # of its conversation, a text for each earlier step

    @property
    def path(self) -> str:
        """The id of the step; in a branch, behind the ids of blocks and the names of branches: `readings/4/reader`."""
        return self.message.path

    def wait_for(
        self,
        name: str,
        *,
        ask: Callable[[str], object] | None = None,
        timeout: float | timedelta | None = None,
        question: str | None = None,
    ) -> Coroutine[Any, Any, JsonValue]:
        """Wait for an answer from outside, for as long as it takes, and return it; the worker is free meanwhile.

        Without `ask` the step waits for the signal `name` (`handle.signal(name, payload)`). `ask` gets a token, sync or
        async, and hands it to whoever answers (`handle.resolve(token, payload)`); what it returns, unless that is None,
        is the answer. It may be called again after a crash, with the same token. Everybody who may answer is shown the
        `question`. After `timeout` seconds `WaitTimedOut` is raised.

        An async function runs again from its top when it goes on: what it awaited here before is returned again, and
        agents with `CeleryDurability` are replayed; anything else that it does is done again, and what runs beside the
        wait is cut off. So is an `asyncio.timeout` around it, which begins anew each time: pass `timeout`. Cancel a
        wait that you need no more, or the step stands at it. Raises `UsageError` in a sync function, which cannot be
        left.
        """
        _check_on_loop("wait_for")
        about = About(step=self.path, activity=self.activity, question=checked_question(question))
        return self._waits().wait_for(
            checked_wait_name(name),
            ask=None if ask is None else partial(_asked, ask),
            timeout=checked_seconds(timeout, "timeout"),
            about=write_about(about),
        )

    def sleep_for(self, delay: float | timedelta) -> Coroutine[Any, Any, None]:
        """Sleep for so many seconds, counted from the first attempt; the worker is free meanwhile. As `wait_for`."""
        _check_on_loop("sleep_for")
        return self._waits().sleep_for(checked_delay(delay, "delay"), name="a time")

    def sleep_until(self, when: datetime) -> Coroutine[Any, Any, None]:
        """Sleep until a time, not at all if it is over; the worker is free meanwhile. As `wait_for`.

        The time that the first attempt gives counts, also if it is counted from now.
        """
        _check_on_loop("sleep_until")
        return self._waits().sleep_until(checked_moment(when, "when"), name="a time")

    def _waits(self) -> Waits:
        if self.waits is None:
            raise NoWorkflow
        return self.waits

    async def output(self, step_id: str) -> StepOutput:
        """Return the output of an earlier step; raises `UsageError` if no such step ran."""
        return await recorded_output(await self.read_step(step_id), self.read_output)


async def recorded_output(record: ExecutedStep, read: ReadOutput) -> StepOutput:
    """Return the output of an executed step, read from the store if it did not travel."""
    # A copy, so that changes the step makes to it do not change the record that travels on.
    travels = record.output_ref is None and not record.is_block
    output = copy.deepcopy(record.output) if travels else await read(record)
    return StepOutput(step_id=record.step_id, activity=record.activity, output=output, content=record.content)


async def open_context(
    message: PaigeantMessage,
    *,
    attempt: int,
    read_output: ReadOutput,
    read_data: ReadData,
    read_step: ReadStep,
    history: tuple[str, ...] = (),
    waits: Waits | None = None,
    blocks: Blocks | None = None,
) -> WorkflowContext:
    """Build the context of the step that `message` is about to run."""
    step, previous = message.step, message.slip.wanted
    return WorkflowContext(
        correlation_id=message.correlation_id,
        hop_id=message.message_id,
        step_id=step.step_id or "",
        activity=step.activity,
        attempt=attempt,
        deadline=message.deadline,
        variables=MappingProxyType(copy.deepcopy(message.variables)),
        previous_output=await recorded_output(previous, read_output) if previous else None,
        message=message,
        read_output=read_output,
        read_data=read_data,
        read_step=read_step,
        history=history,
        waits=waits,
        blocks=blocks,
    )


async def _asked(ask: Callable[[str], object], token: str) -> JsonValue:
    answer = await asyncio.to_thread(ask, token) if not _is_async(ask) else ask(token)
    return to_jsonable(await answer if inspect.isawaitable(answer) else answer, reason="result_not_serializable")


def _is_async(ask: object) -> bool:
    while isinstance(ask, partial):
        ask = ask.func
    return inspect.iscoroutinefunction(ask) or inspect.iscoroutinefunction(getattr(ask, "__call__", None))  # noqa: B004


def _check_on_loop(called: str) -> None:
    """Raise `UsageError` in the thread of a sync function, which cannot be left while it waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise UsageError(f"a sync function cannot wait; make it `async`, and `await context.{called}(…)`") from None


def workflow_context() -> WorkflowContext:
    """Return the context of the step that is running; raises `NoWorkflow` outside a step."""
    try:
        return _current.get().context
    except LookupError:
        raise NoWorkflow from None


class entered(AbstractContextManager[WorkflowContext]):  # noqa: N801 - used as a verb: `with entered(context):`
    """Make `workflow_context()` return `context` inside the block."""

    def __init__(self, context: WorkflowContext) -> None:
        self.context = context
        self.runs = False
        self._token: Token[entered] | None = None

    def __enter__(self) -> WorkflowContext:
        self._token, self.runs = _current.set(self), True
        return self.context

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runs = False
        if self._token is not None:
            _current.reset(self._token)


# The step that this process runs in its main thread, as a child of Celery's prefork pool does. There is no other one.
_only: list[str] = []
_ONE_OF_MANY = nullcontext()


def only_step_here(step_id: str) -> AbstractContextManager[None]:
    """Count every thread of the process as part of a step, if it is run for the main thread, which waits for it."""
    if threading.current_thread() is not threading.main_thread():
        return _ONE_OF_MANY
    return _only_step(step_id)


@contextmanager
def _only_step(step_id: str) -> Iterator[None]:
    _only.append(step_id)
    try:
        yield
    finally:
        _only.remove(step_id)


def running_step() -> str | None:
    """Return the id of the step that this code is part of, or None.

    Tasks and threads that a step starts are part of it until it ends. Later they are not, whatever context they keep.
    A thread that was started without the step's context is recognized only if the process runs no other step.
    """
    step = _current.get(None)
    if step is not None:
        return step.context.step_id if step.runs else None
    if _only and threading.current_thread() is not threading.main_thread():
        return _only[-1]
    return None
