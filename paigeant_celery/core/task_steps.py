"""Steps that run Celery tasks of the host, and the signatures that stand for them on an itinerary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

from pydantic import Field, JsonValue

from paigeant_celery.core.crossing import cross
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.jsonable import is_json
from paigeant_celery.core.names import ACTIVITY_NAME_RULE, is_activity_name
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.step_fields import ActivityName, StepFields, build

__all__ = ["TaskSignature", "TaskSpec", "is_signature", "step_of", "steps_of"]

# What a signature may be besides that of one task, by the name of its class, and what stands for it on a slip.
_CANVAS = {
    "chain": "put its tasks into the itinerary one after the other",
    "group": "put `parallel(…)` or `for_each(…)` into the itinerary",
    "chord": "put `parallel(…)` or `for_each(…)` into the itinerary, and the body after it",
    **dict.fromkeys(("xmap", "xstarmap", "chunks"), "put `for_each(…)` into the itinerary"),
}
_OF_STEP = "name it in a `TaskSpec`, or in `register_task`, as `{argument}`"
_QUEUE = _OF_STEP.format(argument="queue=")
_TIMEOUT = _OF_STEP.format(argument="policy=StepPolicy(timeout=…)")
_NEXT = "put what comes next into the itinerary"
_ERRORS = "a failed or parked workflow is seen in `handle.status()` and `handle.events()`"
_PARALLEL = "put `parallel(…)` or `for_each(…)` into the itinerary, and what gets their results after it"
_POLICY = "what is tried again, and when, is said by the step's `StepPolicy`"

# What to do instead of giving an option of execution to a signature.
_INSTEAD = {
    **dict.fromkeys(("queue", "exchange", "exchange_type", "routing_key"), _QUEUE),
    "countdown": "put `sleep_for(…)` in front of the step",
    "eta": "put `sleep_until(…)` in front of the step",
    "expires": "give the workflow a `deadline=`",
    "link": _NEXT,
    "chain": _NEXT,
    "link_error": _ERRORS,
    "chord": _PARALLEL,
    **dict.fromkeys(("group_id", "group_index"), _PARALLEL),
    **dict.fromkeys(("time_limit", "soft_time_limit"), _TIMEOUT),
    **dict.fromkeys(("retry", "retry_policy", "max_retries"), _POLICY),
    **dict.fromkeys(("task_id", "root_id", "parent_id"), "the step's task has the id of its hop"),
    **dict.fromkeys(("ignore_result", "store_errors_even_if_ignored"), "the workflow keeps the outputs of its steps"),
}
_LEAVE_OUT = "leave it out: a step travels in the messages of its workflow"


class TaskSignature(Protocol):
    """A signature of a Celery task, such as `charge.s(order=17)`, as far as a step has what it has."""

    @property
    def task(self) -> Any: ...

    @property
    def args(self) -> Any: ...

    @property
    def kwargs(self) -> Any: ...

    @property
    def options(self) -> Any: ...

    @property
    def immutable(self) -> Any: ...

    @property
    def subtask_type(self) -> Any: ...


class TaskSpec(StepFields):
    """A step that runs a Celery task registered by `register_task`, with JSON arguments.

    Unless it is `immutable`, the task gets the output of the step before it in front of its `args`, as in a chain. A
    step without one before it gets only its own arguments.

    Raises `InvalidInput` (`bad_agent_name`, `invalid_arguments`, …).
    """

    kind: Literal["task"] = "task"
    task_name: ActivityName
    args: tuple[JsonValue, ...] = ()
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    immutable: bool = Field(default=False, strict=True)

    def __init__(
        self,
        task_name: str,
        args: Iterable[object] = (),
        kwargs: Mapping[str, object] | None = None,
        step_id: str | None = None,
        policy: StepPolicy | None = None,
        *,
        queue: str | None = None,
        immutable: bool = False,
    ) -> None:
        given = {"args": _listed(args), "kwargs": _named({} if kwargs is None else kwargs)}
        build(
            self,
            task_name=task_name,
            **{name: _crossed(part, name) for name, part in given.items()},
            step_id=step_id,
            policy=policy,
            queue=queue,
            immutable=immutable,
        )

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @property
    def activity(self) -> str:
        return self.task_name


def is_signature(given: object) -> bool:
    """Say whether an object is a signature of Celery, which this does not import."""
    return any(base.__name__ == "Signature" and base.__module__ == "celery.canvas" for base in type(given).__mro__)


def steps_of(given: Iterable[Any]) -> Iterator[Any]:
    """Yield what is on an itinerary, with the step of a Celery task in the place of each signature."""
    for index, part in enumerate(given):
        yield step_of(part, path=f"itinerary[{index}]")


def step_of(given: Any, *, path: str) -> Any:
    """Return the step that a signature of a Celery task stands for, or anything else as it is.

    Raises `InvalidInput` if the signature says more than a step of a workflow can have, and what to do about it.
    """
    if not is_signature(given):
        return given
    _check_one_task(given, path)
    _check_options(given, path)
    try:
        return TaskSpec(given.task, given.args or (), given.kwargs or {}, immutable=bool(given.immutable))
    except InvalidInput as error:
        raise InvalidInput(error.reason, f"{path}.{error.path}", error.text) from None


def _check_one_task(given: TaskSignature, path: str) -> None:
    kinds = [base.__name__.lstrip("_") for base in type(given).__mro__]
    kind = next((name for name in kinds if name in _CANVAS), given.subtask_type)
    if kind is not None:
        remedy = _CANVAS.get(kind, "put the tasks that it is made of into the itinerary")
        raise InvalidInput("invalid_input", path, f"`{kind}` of Celery is no step; {remedy}")
    if not isinstance(given.task, str) or not is_activity_name(given.task):
        text = f"{str(given.task)[:64]!r} cannot name a step; a name has {ACTIVITY_NAME_RULE}. Give the task a `name=`"
        raise InvalidInput("bad_agent_name", f"{path}.task", text)


def _check_options(given: TaskSignature, path: str) -> None:
    for name, value in dict(given.options or {}).items():
        if value is None or (isinstance(value, (list, tuple)) and not value):
            continue
        text = f"a step has no `{name}` of Celery; {_INSTEAD.get(name, _LEAVE_OUT)}"
        raise InvalidInput("invalid_input", f"{path}.options.{name}", text)


def _listed(args: object) -> list[object]:
    if not isinstance(args, (list, tuple)):
        raise InvalidInput("invalid_arguments", "args", f"must be a list of arguments, not a {type(args).__name__}")
    return list(args)


def _named(kwargs: object) -> dict[Any, object]:
    if not isinstance(kwargs, Mapping):
        raise InvalidInput("invalid_arguments", "kwargs", f"must be arguments by name, not a {type(kwargs).__name__}")
    return dict(kwargs)


def _crossed(given: object, name: str) -> JsonValue:
    """Return arguments as the JSON that the task gets; nothing reads them as the classes that they were of."""
    try:
        tree = cross(given, path="arguments").tree
    except InvalidInput as error:
        raise InvalidInput(error.reason, name + error.path.removeprefix("arguments"), error.text) from None
    if (found := _not_json(given, name)) is not None:
        path, part = found
        text = f"a Celery task gets JSON, and no `{type(part).__name__}`; pass what it has as JSON"
        raise InvalidInput("invalid_arguments", path, text)
    return tree


def _not_json(given: Any, path: str) -> tuple[str, object] | None:
    """Return the first part of a value that is no JSON itself, with its path."""
    if is_json(given):
        return None
    parts: Iterable[tuple[str, object]] = ()
    if type(given) is dict:
        parts = ((f"{path}.{key}", part) for key, part in given.items())
    elif type(given) is list:
        parts = ((f"{path}[{index}]", part) for index, part in enumerate(given))
    return next((found for at, part in parts if (found := _not_json(part, at)) is not None), (path, given))
