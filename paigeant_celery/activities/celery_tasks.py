"""Celery tasks of the host as activities. Knows no Celery: whoever registers a task hands its body over."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from pydantic import JsonValue

from paigeant_celery.activities.context import WorkflowContext
from paigeant_celery.activities.functions import reading_in_own_thread
from paigeant_celery.activities.lazy import Limit, reading
from paigeant_celery.activities.making import Making
from paigeant_celery.activities.pauses import no_waits_in_process
from paigeant_celery.activities.port import ActivityResult, StepLimits
from paigeant_celery.activities.results import result_of
from paigeant_celery.core.errors import InvalidInput, MessageError, UsageError
from paigeant_celery.core.message import parent_of
from paigeant_celery.core.names import ACTIVITY_NAME_RULE, FIRST_PLACE, hop_id, is_free_name
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import Step
from paigeant_celery.core.task_steps import TaskSpec

__all__ = ["TaskActivity", "TaskBody", "TaskCall"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TaskCall:
    """One call of a task, as the task may look at it: its arguments, and the ids of the hops that lead to it."""

    args: tuple[JsonValue, ...]
    kwargs: Mapping[str, JsonValue]
    hop_id: str
    root_id: str
    parent_id: str | None
    attempt: int


class TaskBody(Protocol):
    """A Celery task as a step uses it."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def most_attempts(self) -> int | None:
        """How often it may be tried, as its `max_retries` says."""
        ...

    def bind(self, args: tuple[JsonValue, ...], kwargs: Mapping[str, JsonValue]) -> None:
        """Raise `TypeError` if the task takes no such arguments."""
        ...

    def make(self, call: TaskCall, read: Callable[[object], T]) -> T:
        """Call the task in this thread, and return what `read` makes of its result while the call still goes on.

        Raises `Verdict` if the task says what is to become of its attempt.
        """
        ...


class TaskActivity:
    """A Celery task that can be a step; the task itself stays what it is. Made by `register_task`.

    On the worker its body runs in a thread, which cannot be stopped: a task that times out runs to its end, and its
    result is discarded.
    """

    kind: Literal["task"] = "task"

    def __init__(
        self, task: Any, body: TaskBody, *, making: Making, queue: str | None, policy: StepPolicy | None
    ) -> None:
        self.task, self._body = task, body
        self.making, self.origin = making, making.calls[0]
        self.queue, self.policy = queue, policy

    @property
    def name(self) -> str:
        """The task's full name; raises `UsageError` if no slip can have it."""
        name = self._body.name
        if not is_free_name(name):
            raise UsageError(
                f"the Celery task {name[:64]!r} cannot be a step; a name has {ACTIVITY_NAME_RULE}. Give it a `name=`"
            )
        return name

    @property
    def description(self) -> str:
        return self._body.description

    @property
    def most_attempts(self) -> int | None:
        return self._body.most_attempts

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.task(*args, **kwargs)

    def activity(self, /, *args: Any, **kwargs: Any) -> TaskSpec:
        """Return a step that runs the task with these arguments, after the output of the step before it.

        That is what `task.s(…)` says; a step of `task.si(…)` gets no output. Raises `InvalidInput` if the arguments do
        not fit the task, or would not come back from JSON as they are.
        """
        step = TaskSpec(self.name, args, kwargs, policy=self.policy, queue=self.queue)
        try:
            self.check(step)
        except MessageError as error:
            raise InvalidInput(error.reason, error.path, error.text) from None
        return step

    def check(self, step: Step) -> TaskSpec:
        """Return the step; raises `MessageError` if it is none of a task, or the task takes no such arguments.

        Whether there will be an output in front of them is not known here, so they must fit with one or without.
        """
        if not isinstance(step, TaskSpec):
            text = (
                f"{step.activity!r} is a Celery task, but the step is of another kind; use its `.s(…)`, or a `TaskSpec`"
            )
            raise MessageError("invalid_envelope", "kind", text)
        try:
            self._body.bind(step.args, step.kwargs)
        except TypeError as error:
            if step.immutable or not self._takes_output(step):
                raise MessageError("invalid_arguments", "arguments", f"{step.task_name}: {error}") from None
        return step

    async def run(self, step: Step, given: Any, context: WorkflowContext, *, limits: StepLimits) -> ActivityResult:
        """Call the task in a thread, as a sync function, and return its result as JSON."""
        assert isinstance(given, TaskSpec)
        call, limit = _call_of(given, context), Limit(size=limits.max_output_size)

        def work(read: Callable[..., Any]) -> ActivityResult:
            return self._body.make(call, lambda result: result_of(read(reading(result, limit))))

        with no_waits_in_process():
            return await reading_in_own_thread(work)

    def _takes_output(self, step: TaskSpec) -> bool:
        try:
            self._body.bind((None, *step.args), step.kwargs)
        except TypeError:
            return False
        return True


def _call_of(step: TaskSpec, context: WorkflowContext) -> TaskCall:
    previous = context.previous_output
    before = () if step.immutable or previous is None else (previous.output,)
    return TaskCall(
        args=(*before, *copy.deepcopy(step.args)),  # what the task makes of them is none of the message's
        kwargs=copy.deepcopy(step.kwargs),
        hop_id=context.hop_id,
        root_id=hop_id(context.correlation_id, FIRST_PLACE),
        parent_id=parent_of(context.message),
        attempt=context.attempt,
    )
