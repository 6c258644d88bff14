"""The Celery task of an activity: the options that it pins, and how a delivery reaches its hop."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from celery import Celery, Task
from celery.app import trace

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import transport_of
from paigeant_celery.core.causes import beyond_plumbing, cause_of
from paigeant_celery.core.errors import HopFailed, MessageError
from paigeant_celery.core.names import ATTEMPT_HEADER, GIVEN_BACK_HEADER, MAX_ATTEMPTS
from paigeant_celery.hop.guard import Arrival, given_back_of
from paigeant_celery.worker.hop_events import sending_together
from paigeant_celery.worker.reporting import brief, confidential
from paigeant_celery.worker.runtime import HopRuntime

__all__ = ["HopTask", "register_tasks"]

# What Celery itself would run after a task. Our messages never carry any of these.
EMBEDDED = ("callbacks", "errbacks", "chain", "chord", "group")


class HopTask(Task):  # type: ignore[misc]  # Celery ships no types
    """A Celery task that runs hops of one activity. No default of the host changes the options that it pins."""

    abstract = True
    # A string, because every process that dispatches through a host's app makes these tasks. Celery imports the class
    # when a worker first needs it, and with it what only workers use.
    Request = "paigeant_celery.worker.request:HopRequest"
    typing = False  # the guard checks the arguments and says what is wrong
    acks_late = True
    acks_on_failure_or_timeout = True
    acks_on_failure = True
    acks_on_timeout = True
    reject_on_worker_lost = True
    ignore_result = True
    store_errors_even_if_ignored = False
    track_started = False
    send_events = True
    serializer = "json"
    compression = None
    rate_limit = "0/s"  # no limit; None would mean the host's default
    priority = 0
    time_limit = None
    soft_time_limit = None
    max_retries = 0

    activity_name: ClassVar[str]
    runtime: ClassVar[HopRuntime]

    @classmethod
    def annotate(cls) -> None:
        """Ignore the host's annotations; those that would change us are reported at start-up."""

    def start_strategy(self, app: Celery, consumer: Any, **kwargs: Any) -> Any:
        """Have Celery take in our messages as any, and send their events together."""
        with sending_together(consumer):
            return super().start_strategy(app, consumer, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        """Take this delivery through its hop."""
        __tracebackhide__ = True  # those who report errors leave this frame out
        answer = self._answer(args, kwargs)
        del args, kwargs  # others report variables, and the envelope is confidential
        if isinstance(answer, HopFailed):
            raise answer
        return answer

    def on_failure(self, exc: BaseException, *arguments: Any) -> None:
        """Let Flower show the frames of the step, without the lines of source that Celery adds to them."""
        if isinstance(exc, HopFailed):
            arguments[-1].traceback = str(cause_of(exc))

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, str] | HopFailed:
        """Return a summary for Flower, or the error that says that the workflow failed or is parked."""
        with confidential():
            try:
                return self.runtime.perform(self._arrival(args, kwargs))
            except HopFailed as error:
                return error.with_traceback(beyond_plumbing(error.__traceback__))

    def _arrival(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arrival:
        request = self.request
        fault = _fault_of(request, args, kwargs)
        for name in EMBEDDED:  # Celery reads them again after the task, whatever it raises
            setattr(request, name, None)
        return Arrival(
            hop_id=str(request.id),
            activity=self.activity_name,
            envelope=args[0] if args else None,
            fault=fault,
            queue=_queue_of(request.delivery_info),
            attempt=_attempt_of(request) or 1,
            given_back=given_back_of(getattr(request, GIVEN_BACK_HEADER, None)),
        )


def _fault_of(request: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> MessageError | None:
    """Say what is wrong with the message around the envelope, or None."""
    foreign = [name for name in EMBEDDED if getattr(request, name, None)]
    foreign += [name for name in ("eta", "expires") if getattr(request, name, None)]
    if foreign:
        return MessageError("bad_envelope", "embed", f"carries {', '.join(foreign)}, which our messages never do")
    if _attempt_of(request) is None:
        return MessageError("bad_envelope", ATTEMPT_HEADER, f"is not a number from 1 to {MAX_ATTEMPTS}")
    if not isinstance(request.id, str):
        return MessageError("bad_envelope", "id", "the task id is not a string")
    if len(args) != 1 or kwargs:
        return MessageError(
            "bad_envelope", "args", f"one envelope is expected, not {len(args)} and {len(kwargs)} named"
        )
    return None


def _attempt_of(request: Any) -> int | None:
    """Return which attempt the message asks for, 1 if it does not say, or None if the number is not valid."""
    attempt = getattr(request, ATTEMPT_HEADER, None)
    if attempt is None:
        return 1
    return attempt if type(attempt) is int and 1 <= attempt <= MAX_ATTEMPTS else None


def _queue_of(delivery_info: object) -> str | None:
    """Return the routing key of a delivery, which is the name of the queue for most queues."""
    key = delivery_info.get("routing_key") if isinstance(delivery_info, dict) else None
    return key if isinstance(key, str) else None


def register_tasks(app: Celery, runtime: HopRuntime) -> None:
    """Make a task for each activity that has none yet, also for one that is there twice, which others report."""
    transport = transport_of(app)
    logging.getLogger(trace.__name__).addFilter(brief)
    for name in (*registry.built_in, *registry.names()):
        task_name = transport.names.task(name)
        if task_name not in app.tasks:
            app.register_task(_task(task_name, name, runtime))


def _task(task_name: str, activity: str, runtime: HopRuntime) -> HopTask:
    attributes = {"name": task_name, "activity_name": activity, "runtime": runtime, "__module__": HopTask.__module__}
    made: HopTask = type(f"HopTask_{activity}", (HopTask,), attributes)()
    return made
