"""A failed attempt can be traced to its line: in the log without any text, in the record and its readers with it."""

from __future__ import annotations

import asyncio
import logging
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_validator, model_serializer
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel

from paigeant_celery.activities.functions import FunctionActivity, activity
from paigeant_celery.agents.agent import PaigeantAgent
from paigeant_celery.client.dead_letters import DeadLetters
from paigeant_celery.client.handle import WorkflowHandle
from paigeant_celery.core.causes import Cause
from paigeant_celery.core.errors import (
    RemoteTraceback,
    WorkflowCancelled,
    WorkflowError,
    WorkflowFailed,
    WorkflowParked,
)
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec
from paigeant_celery.testing import WorkflowHarness

SECRET = "tiger" + "-42"
ONCE = StepPolicy(max_attempts=1)
SHORT = StepPolicy(max_attempts=1, timeout=0.05)

Step = ActivitySpec | FunctionSpec
Made = FunctionActivity[Any, Any] | PaigeantAgent[Any, Any]


def culprit() -> None:
    """Fail with a text that may be told to nobody but the readers of the record."""
    raise KeyError(SECRET)


def between() -> None:
    culprit()


def refusing() -> None:
    try:
        culprit()
    except KeyError as error:
        raise ValueError(SECRET) from error


ON_WORKER: list[Callable[[], None]] = []  # what validators call


class Output(BaseModel):
    @model_serializer
    def dump(self) -> str:
        between()
        return ""


class Deps(BaseModel):
    topic: str

    @field_validator("topic")
    @classmethod
    def check(cls, value: str) -> str:
        for call in ON_WORKER:
            call()
        return value


def plain() -> Made:
    @activity(policy=ONCE)
    def step() -> None:
        between()

    return step


def asynchronous() -> Made:
    @activity(policy=ONCE)
    async def step() -> None:
        await asyncio.sleep(0)
        between()

    return step


def in_a_group() -> Made:
    @activity(policy=ONCE)
    async def step() -> None:
        async def child() -> None:
            between()

        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    return step


def wrapped() -> Made:
    @activity(policy=ONCE)
    def step() -> None:
        try:
            between()
        except KeyError as error:
            raise RuntimeError(SECRET) from error

    return step


def ending() -> Made:
    @activity(policy=ONCE)
    async def step() -> None:
        try:
            between()
        except KeyError:
            raise SystemExit(SECRET)  # noqa: B904 - that is the case

    return step


def tool() -> Made:
    agent = PaigeantAgent(TestModel(), name="agent", policy=ONCE)

    @agent.tool_plain
    def look() -> str:
        between()
        return ""

    return agent


def output_validator() -> Made:
    agent = PaigeantAgent(TestModel(), name="agent", policy=ONCE)

    @agent.output_validator
    def judge(output: str) -> str:
        between()
        return output

    return agent


def factory() -> Made:
    def deps(data: Any, context: Any) -> None:
        between()

    return PaigeantAgent(TestModel(), name="agent", policy=ONCE, deps_factory=deps)


def unserializable() -> Made:
    @activity(policy=ONCE)
    def step() -> Output:
        return Output()

    return step


def unreadable() -> Made:
    class Sealed(BaseModel):
        sealed: str

        @field_validator("sealed")
        @classmethod
        def seal(cls, value: str) -> str:
            if value.startswith("sealed "):
                between()
            return f"sealed {value}"

    @activity(policy=ONCE)
    def step() -> list[Sealed]:
        return [Sealed(sealed="it")]

    return step


KINDS: dict[str, Callable[[], Made]] = {
    made.__name__: made
    for made in (
        plain,
        asynchronous,
        in_a_group,
        wrapped,
        ending,
        tool,
        output_validator,
        factory,
        unserializable,
        unreadable,
    )
}


def everything(cause: Cause | None) -> list[Cause]:
    """A cause with all that it came from."""
    return [cause, *everything(cause.raised_from), *(c for m in cause.group for c in everything(m))] if cause else []


def run(harness: WorkflowHarness, *steps: Step) -> WorkflowHandle:
    handle = harness.dispatch(steps)
    asyncio.run(harness.deliver())
    return handle


@pytest.mark.parametrize("kind", KINDS)
def test_a_bug_two_calls_down_is_named_in_the_log_and_shown_by_every_reader(
    workflow_harness: WorkflowHarness, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Whoever is called at night must not have to run a paid step again to find the line."""
    made = KINDS[kind]()
    handle = run(workflow_harness, made.activity() if isinstance(made, FunctionActivity) else made.activity("go"))

    failure = handle.status_sync().failure
    with pytest.raises(WorkflowFailed) as caught:
        handle.result_sync(0)
    (logged,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    (letter,) = DeadLetters(workflow_harness.transport).list() or [None]
    frames = [frame for cause in everything(failure and failure.cause) for frame in cause.frames]

    assert {(__file__, culprit.__name__), (__file__, between.__name__)} <= {(f.file, f.function) for f in frames}
    told = [logged.getMessage(), logged.trace]  # type: ignore[attr-defined]  # an extra field
    assert all(f'File "{__file__}", line {culprit.__code__.co_firstlineno + 2}, in culprit' in text for text in told)
    assert SECRET not in repr(vars(logged))
    shown = "".join(traceback.format_exception(caught.value))
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in culprit" in shown
    assert SECRET in str(caught.value.__cause__)
    if letter is not None:
        assert "in culprit" in letter.trace
        assert SECRET not in repr(letter)


def test_every_failed_attempt_is_logged_with_what_is_done_about_it(
    workflow_harness: WorkflowHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Attempts may fail in different places."""

    @activity(policy=StepPolicy(max_attempts=2))
    def step() -> None:
        between()

    handle = run(workflow_harness, step.activity())
    records = [record for record in caplog.records if record.name == "paigeant_celery.hop.failures"]

    assert [(r.action, r.attempt, r.error, r.levelname) for r in records] == [  # type: ignore[attr-defined]
        ("hop_retried", 1, "KeyError", "WARNING"), ("hop_parked", 2, "KeyError", "ERROR"),
    ]  # fmt: skip
    assert all(record.where.endswith("in culprit") for record in records)  # type: ignore[attr-defined]
    assert "is tried again in" in records[0].getMessage()
    assert "is parked" in records[1].getMessage()
    events = {event.type: dict(event.fields) for event in handle.events_so_far()}
    assert events["retrying"]["where"] == events["parked"]["where"] == records[0].where  # type: ignore[attr-defined]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_step_that_ran_out_of_time_says_where_it_was(workflow_harness: WorkflowHarness, asynchronous: bool) -> None:
    """The text says only how long it ran."""
    ended: list[bool] = []

    @activity(policy=SHORT)
    async def waits() -> None:
        await sleeping()

    async def sleeping() -> None:
        await asyncio.Event().wait()

    @activity(policy=SHORT)
    def blocks() -> None:
        holding()

    def holding() -> None:
        while not ended:
            time.sleep(0.005)

    handle = run(workflow_harness, (waits if asynchronous else blocks).activity())
    ended.append(True)

    failure = handle.status_sync().failure
    assert failure is not None
    assert failure.error_class == "TimeoutError"
    assert failure.where.endswith("sleeping" if asynchronous else "holding")


@pytest.mark.parametrize("part", ["tool", "generator", "instructions", "output_validator"])
def test_sync_code_of_an_agent_that_hangs_ends_with_the_steps_timeout_and_says_where(
    workflow_harness: WorkflowHarness, part: str
) -> None:
    """The threads of pydantic-ai cannot be given up, so the timeout would wait for them."""
    release, ended = threading.Event(), threading.Event()
    policy = StepPolicy(timeout=0.5, max_attempts=1)  # a busy machine takes a while to get to the sync code
    agent = PaigeantAgent(TestModel(), name="agent", policy=policy)

    def hanging() -> str:
        release.wait(5)
        ended.set()
        return "late"

    def yielding() -> Any:
        yield hanging()

    match part:
        case "tool":
            agent.tool_plain(hanging)
        case "generator":
            agent.tool_plain(yielding)
        case "instructions":
            agent.instructions(hanging)
        case _:
            agent.output_validator(lambda output: hanging())

    failure = run(workflow_harness, agent.activity("go")).status_sync().failure
    waited = not ended.is_set()
    release.set()

    assert failure is not None
    assert (failure.error_class, waited) == ("TimeoutError", True)
    assert failure.where.endswith(".hanging")
    assert ended.wait(5)


@pytest.mark.parametrize("error", [GeneratorExit, StopIteration])
def test_an_error_that_no_future_can_carry_keeps_its_name(
    workflow_harness: WorkflowHarness, error: type[BaseException]
) -> None:
    """Sync code of an agent runs in a thread; in a coroutine, these two mean that the coroutine itself ends."""

    def answer(messages: object, info: object) -> Any:
        raise error("out")

    agent = PaigeantAgent(FunctionModel(answer), name="agent", policy=ONCE)

    failure = run(workflow_harness, agent.activity("go")).status_sync().failure

    assert failure is not None
    assert (failure.error_class, failure.text) == (error.__name__, "out")
    assert failure.where.endswith("answer")


def test_a_step_that_cancels_itself_says_where(workflow_harness: WorkflowHarness) -> None:
    """No error was raised that could say it."""

    @activity(policy=ONCE)
    async def step() -> None:
        raise asyncio.CancelledError

    failure = run(workflow_harness, step.activity()).status_sync().failure

    assert failure is not None
    assert failure.where.endswith("step")


@pytest.mark.parametrize("call", [between, refusing])
def test_deps_that_a_validator_refuses_say_where(
    workflow_harness: WorkflowHarness,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[], None],
) -> None:
    """The error that the validator raised is not the one that is reported."""
    agent = PaigeantAgent(TestModel(), name="agent", deps_type=Deps)

    handle = workflow_harness.dispatch([agent.activity("go", Deps(topic=SECRET))])
    monkeypatch.setattr(sys.modules[__name__], "ON_WORKER", [call])
    asyncio.run(workflow_harness.deliver())

    failure = handle.status_sync().failure
    assert failure is not None
    assert failure.error_class == "invalid_deps"
    assert failure.cause is not None
    assert "in culprit" in failure.cause.without_texts
    assert "in culprit" in caplog.text
    assert SECRET not in caplog.text
    (letter,) = DeadLetters(workflow_harness.transport).list()
    assert "in culprit" in letter.trace


def test_errors_that_say_that_a_workflow_did_not_complete_have_a_base(workflow_harness: WorkflowHarness) -> None:
    """A caller that only wants to know that there is no result catches one class."""
    step = plain()
    assert isinstance(step, FunctionActivity)
    parked, cancelled = (workflow_harness.dispatch([step.activity()]) for _ in range(2))
    cancelled.cancel_sync()
    asyncio.run(workflow_harness.deliver())

    for handle, kind in ((parked, WorkflowParked), (cancelled, WorkflowCancelled)):
        with pytest.raises(WorkflowError) as caught:
            handle.result_sync(0)
        assert type(caught.value) is kind
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again), vars(again)) == (kind, str(caught.value), vars(caught.value))
        assert str(again.__cause__) == str(caught.value.__cause__)


def test_a_hop_that_cannot_be_closed_says_where_and_quotes_nothing(
    workflow_harness: WorkflowHarness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is ours or a library's, and its text may quote the output."""

    @activity
    def step() -> str:
        return SECRET

    monkeypatch.setattr(workflow_harness.store, "complete", lambda completion: culprit())
    handle = run(workflow_harness, step.activity())

    failure = handle.status_sync().failure
    assert failure is not None
    assert failure.cause is not None
    assert failure.cause.frames[-1].function == "culprit"
    assert "in culprit" in caplog.text
    assert SECRET not in caplog.text


def test_a_failed_attempt_that_another_owner_overtook_is_logged_as_well(
    workflow_harness: WorkflowHarness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else would say that it failed."""
    step = plain()
    assert isinstance(step, FunctionActivity)
    monkeypatch.setattr(workflow_harness.store, "park", lambda *_: None)

    run(workflow_harness, step.activity())

    (logged,) = (record for record in caplog.records if record.name == "paigeant_celery.hop.failures")
    assert (logged.action, logged.where.endswith("in culprit")) == ("hop_overtaken", True)  # type: ignore[attr-defined]
    assert "another owner took it over" in logged.getMessage()


class Outspoken(type):
    """The class of a class that cannot be asked for anything."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__", "__mro__"):
            raise RuntimeError(SECRET)
        return super().__getattribute__(name)


class Nowhere(Exception):
    __module__ = None  # type: ignore[assignment]


class Pointed(Exception):
    __module__ = 7  # type: ignore[assignment]


class Probing(Exception):
    @property
    def retry_after(self) -> float:
        raise RuntimeError(SECRET)

    status_code = retry_after


class Shy(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(SECRET)


class Unasked(Exception, metaclass=Outspoken):
    pass


class Patient(Exception):
    retry_after = 10**400


@pytest.mark.parametrize("kind", ["Nowhere", "Pointed", "Probing", "Shy", "Unasked", "Patient"])
def test_an_error_that_raises_errors_when_it_is_looked_at_parks_its_step_at_once(
    workflow_harness: WorkflowHarness, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Otherwise Celery logs the text of all of them, and the step runs again when the lease of its owner is over."""

    @activity(policy=ONCE)
    async def step() -> None:
        raise globals()[kind](SECRET)

    failure = run(workflow_harness, step.activity()).status_sync().failure

    assert failure is not None
    assert failure.error_class == kind
    assert SECRET not in caplog.text


def test_a_serializer_that_fails_is_named_to_those_who_may_read_its_text(
    workflow_harness: WorkflowHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Our own error does not quote it."""
    step = unserializable()
    assert isinstance(step, FunctionActivity)

    failure = run(workflow_harness, step.activity()).status_sync().failure

    assert failure is not None
    assert failure.error_class == "output_not_serializable"
    assert f"Error calling function `dump`: KeyError: '{SECRET}'" in str(failure.cause)
    assert SECRET not in failure.text
    assert SECRET not in caplog.text
