"""`register_task`: the host's Celery tasks as steps, called here as Celery's own tracer would call them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from celery import Task
from celery._state import _task_stack
from celery.app.task import Context
from celery.exceptions import Ignore, NotRegistered, Reject, Retry
from celery.local import PromiseProxy, Proxy
from celery.utils.nodenames import gethostname
from celery.utils.time import maybe_make_aware
from pydantic import JsonValue

from paigeant_celery.activities.celery_tasks import TaskActivity, TaskCall
from paigeant_celery.activities.making import Making
from paigeant_celery.activities.registry import check_name, registry
from paigeant_celery.core.causes import name_of, text_of
from paigeant_celery.core.errors import InvalidInput, UsageError
from paigeant_celery.core.names import MAX_ATTEMPTS
from paigeant_celery.core.policy import StepPolicy, Verdict
from paigeant_celery.core.wait_inputs import LONGEST_WAIT

__all__ = ["CeleryBody", "register_task"]

T = TypeVar("T")


def register_task(task: Any, *, queue: str | None = None, policy: StepPolicy | None = None) -> TaskActivity:
    """Let steps of workflows run a Celery task, which stays an ordinary task of its app.

    The activity has the task's full name. A signature of the task on an itinerary is a step of it (`charge.s(17)`, or
    `signature("shop.charge", …)` where the task is not loaded), and so is what `.activity(…)` returns. The step runs
    the task's body inside its hop: `self.request.id` is the id of the hop, `self.request.retries` the attempt less one.
    `self.retry` and `autoretry_for` have the step tried again, at most `max_retries` times; `Ignore` completes it with
    null, and `Reject` parks it.

    Raises `InvalidInput` if this is no task, or its name is known and cannot be that of an activity.
    """
    _check(task)
    activity = TaskActivity(
        task, CeleryBody(task), making=Making.at(sys._getframe(1), task), queue=queue, policy=policy
    )
    registry.keep(activity)
    return activity


class CeleryBody:
    """A task of Celery as a step uses it. Nothing is asked of the task before it is needed.

    A task that its app has only promised would be made now, with the app's settings as far as they are read.
    """

    def __init__(self, task: Any) -> None:
        self._given = task

    @property
    def name(self) -> str:
        try:
            return str(self._task.name)
        except (RuntimeError, NotRegistered) as error:  # an app that makes no tasks before it is finalized, or just now
            raise UsageError(f"a Celery task has no name yet: {error}") from error

    @property
    def description(self) -> str:
        return (inspect.getdoc(self._task.run) or "").partition("\n")[0]

    @property
    def most_attempts(self) -> int | None:
        """How often a step may be tried, as `max_retries` of the task and of its automatic retries say."""
        said: list[object] = [self._task.max_retries]
        if getattr(self._task, "autoretry_for", None):
            retry_kwargs = getattr(self._task, "retry_kwargs", None) or {}
            said.append(retry_kwargs.get("max_retries", said[0]))
        numbers = [retries for retries in said if isinstance(retries, int)]
        if len(numbers) < len(said):
            return None  # one that is None knows no limit
        return min(max(*numbers, 0) + 1, MAX_ATTEMPTS)

    def bind(self, args: tuple[JsonValue, ...], kwargs: Mapping[str, JsonValue]) -> None:
        """Raise `TypeError` if the task takes no such arguments; one with `typing=False` takes any."""
        if self._task.typing is False:
            return
        try:
            signature = inspect.signature(self._task.run)
        except ValueError:  # it is not written in Python
            return
        signature.bind(*args, **kwargs)

    def make(self, call: TaskCall, read: Callable[[object], T]) -> T:
        """Call the task in this thread, and return what `read` makes of its result while the call still goes on.

        Raises `Verdict` if the task says what is to become of its attempt.
        """
        task = self._task
        run = task.run if type(task).__call__ is Task.__call__ else task  # a class may do something around each call
        _task_stack.push(task)
        task.request_stack.push(_request(task, call))
        try:
            result = run(*call.args, **call.kwargs)
            if isinstance(result, Retry):  # of `retry(throw=False)`
                raise result
            return read(result)
        except Ignore:
            return read(None)
        except Retry as error:
            raise _retrying(call, error) from error
        except Reject as error:
            raise Verdict(error, parks=True, text=_reason(error)) from error
        except Exception as error:
            if _gave_up(task, error):
                raise Verdict(error) from error
            raise
        finally:
            task.request_stack.pop()
            _task_stack.pop()

    @property
    def _task(self) -> Any:
        given = self._given
        return given._get_current_object() if issubclass(type(given), Proxy) else given


def _check(task: Any) -> None:
    kind = type(task)
    if not issubclass(kind, (Task, Proxy)):  # `isinstance` would have a promised task made
        text = f"must be a task of Celery, as `@app.task` and `@shared_task` make it, not a {kind.__name__}"
        raise InvalidInput("invalid_input", "task", f"{text}; a plain function becomes a step by `@activity`")
    if issubclass(kind, Proxy) and not (issubclass(kind, PromiseProxy) and task.__evaluated__()):
        return  # nobody knows yet
    if hasattr(type(task._get_current_object() if issubclass(kind, Proxy) else task), "activity_name"):
        raise InvalidInput(
            "invalid_input", "task", f"{task.name!r} is the task of an activity, which is a step already"
        )
    check_name(task.name)


def _request(task: Any, call: TaskCall) -> Context:
    """Return what the task finds in `self.request`.

    Celery calls it eager, as all that no message of the task's own has brought: so `self.retry` says when, and sends
    nothing.
    """
    return Context(
        task=task.name,
        id=call.hop_id,
        root_id=call.root_id,
        parent_id=call.parent_id,
        correlation_id=call.hop_id,
        args=call.args,
        kwargs=dict(call.kwargs),
        retries=call.attempt - 1,
        hostname=gethostname(),
        is_eager=True,
        called_directly=False,
        delivery_info={"is_eager": True, "exchange": None, "routing_key": None, "priority": None},
    )


def _retrying(call: TaskCall, error: Retry) -> Exception:
    if error.sig is not None and (tuple(error.sig.args), dict(error.sig.kwargs)) != (call.args, dict(call.kwargs)):
        return UsageError("`retry` with other `args` or `kwargs`: a step keeps its arguments in each attempt")
    why = error.exc
    if why is None or type(why).__name__ == "UnpickleableExceptionWrapper":
        why = error.__context__ or error
    return Verdict(why, delay=_delay(error.when))


def _delay(when: object) -> float:
    """Return the seconds until a retry; Celery takes a time without a zone as UTC."""
    if isinstance(when, datetime):
        when = (maybe_make_aware(when) - datetime.now(UTC)).total_seconds()
    seconds = float(when) if isinstance(when, (int, float)) else 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT) if seconds == seconds else 0.0


def _reason(error: Reject) -> str:
    reason = error.reason
    if isinstance(reason, BaseException):
        return f"{name_of(reason)}: {text_of(reason)}"
    return text_of(Exception(reason)) if reason is not None else "the task rejected its message"


def _gave_up(task: Any, error: BaseException) -> bool:
    """Say whether the task's `retry` raised the error, because it has no retry left."""
    frames, trace_ = [], error.__traceback__
    while trace_ is not None:
        frames.append(trace_.tb_frame)
        trace_ = trace_.tb_next
    of_retry = [frame.f_locals for frame in frames if frame.f_code is Task.retry.__code__]
    return any(found.get("self") is task and "S" in found for found in of_retry)
