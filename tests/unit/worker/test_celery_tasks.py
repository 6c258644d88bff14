"""Celery tasks of a host as steps: what the body sees, what its retries mean, and that the task stays what it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, Task, _state, current_task, shared_task, signature
from celery.app import base
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject

from paigeant_celery import (
    FunctionSpec,
    InvalidInput,
    StepPolicy,
    TaskActivity,
    TaskSpec,
    WorkflowDispatcher,
    WorkflowFailed,
    WorkflowParked,
    activity,
    for_each,
    install,
    parallel,
    register_task,
    sleep_for,
    workflow_context,
)
from paigeant_celery.activities.celery_tasks import TaskCall
from paigeant_celery.activities.context import WorkflowContext
from paigeant_celery.activities.port import StepLimits
from paigeant_celery.activities.registry import registry
from paigeant_celery.core.errors import DuplicateActivity, MessageError, UnknownActivity
from paigeant_celery.core.names import MAX_ATTEMPTS
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import ActivitySpec
from paigeant_celery.hop.service import step_policy
from paigeant_celery.testing import WorkflowHarness
from paigeant_celery.worker.celery_tasks import CeleryBody

pytestmark = pytest.mark.anyio

UNREACHABLE = "redis://127.0.0.1:1/0"


class Down(ConnectionError):
    """What a bank answers that is away."""


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose broker is away: whatever a task published would be noticed."""
    with Celery("shop", broker=UNREACHABLE, set_as_current=False) as app:
        app.conf.broker_connection_retry = False
        app.conf.task_publish_retry = False
        yield app


@pytest.fixture
def delays(workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds between each failed attempt and the next one, for which the harness sets its clock forward."""
    skip, skipped = workflow_harness.skip, list[float]()

    def noted(delay: timedelta) -> None:
        skipped.append(round(delay.total_seconds(), 1))
        skip(delay)

    monkeypatch.setattr(workflow_harness, "skip", noted)
    return skipped


# What the body gets and sees.


async def test_a_task_runs_in_the_hop_by_its_own_body(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """The code that a shop already has is a step without being written anew."""

    @app.task(shared=False, name="shop.charge", bind=True)
    def charge(self: Task, amount: int, *, order: int) -> dict[str, object]:
        request = self.request
        seen.append((request.id, request.retries, request.root_id, request.parent_id, request.args, request.kwargs))
        return {"order": order, "amount": amount, "workflow": workflow_context().correlation_id}

    seen: list[object] = []
    register_task(charge)

    result = await workflow_harness.run([charge.s(5, order=17), charge.si(6, order=18)], correlation_id="order-17")

    assert result.outputs == {
        "shop.charge": {"order": 17, "amount": 5, "workflow": "order-17"},
        "shop.charge-2": {"order": 18, "amount": 6, "workflow": "order-17"},
    }
    assert seen == [
        ("order-17.0", 0, "order-17.0", None, (5,), {"order": 17}),
        ("order-17.1", 0, "order-17.0", "order-17.0", (6,), {"order": 18}),
    ]


async def test_a_signature_gets_the_previous_output_in_front_as_in_a_chain(
    workflow_harness: WorkflowHarness, app: Celery
) -> None:
    """A chain that somebody has becomes an itinerary as it stands; the first task gets only its own arguments."""

    @app.task(shared=False, name="shop.told")
    def told(*args: object) -> list[object]:
        return list(args)

    @activity
    def nothing() -> None: ...

    register_task(told)

    result = await workflow_harness.run(
        [told.s("first"), told.s("second"), told.si("third"), sleep_for(5), told.s(), nothing.activity(), told.s("x")]
    )

    assert list(result.outputs.values()) == [
        ["first"], [["first"], "second"], ["third"], [["third"]], None, [None, "x"],
    ]  # fmt: skip


async def test_signatures_stand_in_branches(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """Each item is the first argument of its branch, and the output before the block that of every other one."""

    @app.task(shared=False, name="shop.told", bind=True)
    def told(self: Task, *args: object) -> list[object]:
        return [self.request.id, self.request.parent_id, *args]

    register_task(told)

    result = await workflow_harness.run(
        [for_each(told.s(5), over=["p", "q"]), parallel({"left": told.s(), "right": told.si("own")})],
        correlation_id="w",
    )

    each = [["w.0-0.0", "w.0", "p", 5], ["w.0-1.0", "w.0", "q", 5]]
    assert result.output == {"left": ["w.1-0.0", "w.1", each], "right": ["w.1-1.0", "w.1", "own"]}


async def test_a_signature_may_be_put_on_the_runway(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """Scripts collect their steps one by one."""

    @app.task(shared=False, name="shop.double")
    def double(n: int) -> int:
        return 2 * n

    register_task(double)
    dispatcher = WorkflowDispatcher()
    dispatcher.add(double.s(3))
    dispatcher.add(double.s())

    assert (await workflow_harness.run(dispatcher=dispatcher)).output == 12


async def test_what_register_task_returns_makes_steps_too(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """Where a step needs an id, or limits of its own, it is written as those of functions are."""

    @app.task(shared=False, name="shop.double")
    def double(n: int = 0) -> int:
        """Double a number.

        That is all.
        """
        return 2 * n

    step = register_task(double, queue="slow", policy=StepPolicy(timeout=3))

    assert isinstance(step, TaskActivity)
    assert registry.activities() == {"shop.double": step}
    assert (step.name, step.kind, step.description, step.task) == ("shop.double", "task", "Double a number.", double)
    assert step.activity(3) == TaskSpec("shop.double", (3,), queue="slow", policy=StepPolicy(timeout=3))
    assert step(4) == 8
    one, two = step.activity(3), TaskSpec("shop.double", step_id="again")
    assert (await workflow_harness.run([one, two])).outputs == {"shop.double": 6, "again": 12}
    assert {delivery.queue for delivery in workflow_harness.delivered} == {"slow"}


async def test_the_body_runs_as_celery_would_run_it(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """A base class that opens something around each call, as Flask's recipe does, goes on doing so."""
    around: list[str] = []

    class Contextual(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            around.append("in")
            try:
                return super().__call__(*args, **kwargs)
            finally:
                around.append("out")

    @app.task(shared=False, name="shop.inside", base=Contextual, bind=True)
    def inside(self: Task) -> list[object]:
        around.append("body")
        return [self.request.id, current_task.name]

    register_task(inside)

    result = await workflow_harness.run([inside.s()], correlation_id="w")

    assert result.output == ["w.0", "shop.inside"]
    assert around == ["in", "body", "out"]


async def test_calls_beside_and_below_have_requests_of_their_own(
    workflow_harness: WorkflowHarness, app: Celery
) -> None:
    """Many steps run in one process; what one of them is told of itself must never be another's.

    A task that calls itself keeps its request, as in Celery; another task that it calls does not get it.
    """
    both_in = threading.Barrier(2, timeout=10)
    seen: list[tuple[object, ...]] = []

    @app.task(shared=False, name="shop.inner", bind=True)
    def inner(self: Task) -> object:
        return self.request.id

    @app.task(shared=False, name="shop.outer", bind=True)
    def outer(self: Task, again: bool = True) -> object:
        if not again:
            return self.request.id
        both_in.wait()
        below = (outer(again=False), inner(), inner.apply(task_id="eager").get(disable_sync_subtasks=False))
        beside: list[object] = []
        thread = threading.Thread(target=lambda: beside.append(outer.request.id))
        thread.start()
        thread.join()
        seen.append((self.request.id, below, beside, workflow_context().hop_id, self.request.called_directly))
        return None

    register_task(outer)
    for name in ("a", "b"):
        workflow_harness.dispatch([outer.s()], correlation_id=name)

    await asyncio.gather(workflow_harness.deliver(1), workflow_harness.deliver(1))

    assert sorted(seen) == [
        (f"{name}.0", (f"{name}.0", None, "eager"), [None], f"{name}.0", False) for name in ("a", "b")
    ]  # fmt: skip
    assert (outer.request.id, current_task._get_current_object()) == (None, None)


async def test_the_next_task_that_a_body_sends_hangs_on_its_hop(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """Flower shows who sent it. The step may still send tasks as any code may."""
    app.conf.update(broker_url="memory://", task_always_eager=False)
    sent: list[dict[str, Any]] = []

    @app.task(shared=False, name="shop.mail", bind=True)
    def mail(self: Task) -> None: ...

    @app.task(shared=False, name="shop.charge")
    def charge() -> None:
        mail.delay()

    register_task(charge)
    with _sending(app, sent):
        await workflow_harness.run([charge.s()], correlation_id="w")

    assert [(message["root_id"], message["parent_id"]) for message in sent] == [("w.0", "w.0")]


@contextmanager
def _sending(app: Celery, sent: list[dict[str, Any]]) -> Iterator[None]:
    """Keep the headers of what is published."""
    send = app.amqp.send_task_message

    def keep(producer: object, name: str, message: Any, **options: object) -> None:
        sent.append(message.headers)

    app.amqp.__dict__["send_task_message"] = keep
    try:
        yield
    finally:
        app.amqp.__dict__["send_task_message"] = send


async def test_a_body_cannot_change_what_its_step_is_given(
    app: Celery, make_context: Callable[..., WorkflowContext], limits: StepLimits
) -> None:
    """The message is written again for the next attempt, and for a dead letter."""

    @app.task(shared=False, name="shop.eat")
    def eat(basket: list[str], *, extra: dict[str, list[str]]) -> list[str]:
        return [basket.pop(), extra["more"].pop()]

    step = register_task(eat)
    spec = TaskSpec("shop.eat", (["apple"],), {"extra": {"more": ["pear"]}})

    result = await step.run(spec, step.check(spec), make_context(), limits=limits)

    assert result.output == ["apple", "pear"]
    assert spec == TaskSpec("shop.eat", (["apple"],), {"extra": {"more": ["pear"]}})


@pytest.mark.parametrize("raised", [None, Ignore(), Reject(), Down(), SystemExit()])
def test_a_call_leaves_nothing_in_its_thread(app: Celery, raised: BaseException | None) -> None:
    """Other code runs in it afterwards, or in a thread that gets its number."""

    @app.task(shared=False, name="shop.charge", bind=True)
    def charge(self: Task) -> str:
        if raised is not None:
            raise raised
        return str(self.request.id)

    call = TaskCall(args=(), kwargs={}, hop_id="w.0", root_id="w.0", parent_id=None, attempt=1)
    with suppress(BaseException):
        assert CeleryBody(charge).make(call, lambda result: result) == (None if raised else "w.0")

    assert (charge.request.id, current_task._get_current_object()) == (None, None)


async def test_what_a_task_yields_is_a_list_as_of_a_function(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """Its body runs while it is read, and sees its request."""

    @app.task(shared=False, name="shop.count", bind=True)
    def count(self: Task) -> Iterator[object]:
        yield self.request.id
        yield 2

    register_task(count)

    assert (await workflow_harness.run([count.s()], correlation_id="w")).output == ["w.0", 2]


async def test_an_output_that_is_not_json_parks_the_step(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """As a function's: it is not tried again, because it would be the same."""

    @app.task(shared=False, name="shop.odd")
    def odd() -> object:
        return object()

    register_task(odd)

    with pytest.raises(WorkflowParked, match="output_not_serializable"):
        await workflow_harness.run([odd.s()])


# Retries.


async def test_a_retry_waits_as_long_as_it_says(
    workflow_harness: WorkflowHarness, app: Celery, delays: list[float]
) -> None:
    """A bank says when to come back. The policy's own waits would be too early, or too late."""
    seen: list[tuple[int, str]] = []

    @app.task(shared=False, name="shop.charge", bind=True, default_retry_delay=77)
    def charge(self: Task) -> str:
        seen.append((self.request.retries, self.request.id))
        try:
            if self.request.retries < 3:
                raise Down("away")
        except Down as error:
            match self.request.retries:
                case 0:
                    raise self.retry(exc=error, countdown=5) from error
                case 1:
                    self.retry(eta=datetime.now(UTC) + timedelta(seconds=100))
                case _:
                    return self.retry(throw=False)
        return "charged"

    register_task(charge, policy=StepPolicy(backoff=4000.0))
    handle = workflow_harness.dispatch([charge.s()], correlation_id="w")

    await workflow_harness.deliver()

    assert handle.result_sync(0).output == "charged"
    assert seen == [(number, "w.0") for number in range(4)]
    assert delays == [5.0, pytest.approx(100, abs=5), 77.0]
    events = [event for event in handle.events_so_far() if event.type == "retrying"]
    assert [event.fields["error"] for event in events] == ["Down", "Down", "Retry"]


async def test_a_time_without_a_zone_is_in_utc(
    workflow_harness: WorkflowHarness, app: Celery, delays: list[float]
) -> None:
    """As in Celery. In another zone the retry would come hours off."""
    app.conf.update(timezone="Asia/Tokyo", enable_utc=True)

    @app.task(shared=False, name="shop.later", bind=True)
    def later(self: Task) -> None:
        if self.request.retries == 0:
            self.retry(eta=datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=100))

    register_task(later)

    await workflow_harness.run([later.s()])

    assert delays == [pytest.approx(100, abs=5)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"retry_backoff": 10, "retry_jitter": False, "retry_kwargs": {"max_retries": 5}}, [10, 20, 40, 80, 160]),
        ({"retry_backoff": 10, "retry_jitter": False, "retry_backoff_max": 15, "max_retries": 2}, [10, 15]),
        ({"default_retry_delay": 7, "max_retries": 2}, [7, 7]),
        ({"retry_kwargs": {"countdown": 3, "max_retries": 1}}, [3]),
        ({"max_retries": 0}, []),
    ],
)
async def test_automatic_retries_are_those_of_the_task(
    workflow_harness: WorkflowHarness,
    app: Celery,
    delays: list[float],
    options: dict[str, Any],
    expected: list[float],
) -> None:
    """What a task says about its own retries is not to be said again in a policy."""
    calls: list[int] = []

    @app.task(shared=False, name="shop.auto", autoretry_for=(Down,), **options)
    def auto() -> None:
        calls.append(auto.request.retries)
        raise Down("away")

    register_task(auto)
    handle = workflow_harness.dispatch([auto.s()])

    assert (await workflow_harness.deliver())[-1] == "parked"
    assert delays == expected
    assert calls == list(range(len(expected) + 1))
    assert handle.status_sync().failure.error_class == "Down"  # type: ignore[union-attr]


async def test_an_error_that_is_not_retried_automatically_is_judged_by_the_policy(
    workflow_harness: WorkflowHarness, app: Celery, delays: list[float]
) -> None:
    """A task with `dont_autoretry_for`, or with none at all, is a step like any other."""
    calls: list[int] = []

    @app.task(shared=False, name="shop.auto", autoretry_for=(OSError,), dont_autoretry_for=(Down,), max_retries=1)
    def auto() -> None:
        calls.append(auto.request.retries)
        raise Down("away")

    register_task(auto, policy=StepPolicy(backoff=16.0))

    workflow_harness.dispatch([auto.s()])

    assert await workflow_harness.deliver() == ["retrying", "parked"]
    assert delays == [pytest.approx(12, abs=4.1)]  # spread
    assert calls == [0, 1]


@pytest.mark.parametrize(
    ("max_retries", "policy", "step", "attempts"),
    [
        (3, None, None, 4),
        (0, None, None, 1),
        (3, StepPolicy(max_attempts=2), None, 2),
        (3, StepPolicy(max_attempts=9), None, 4),
        (3, StepPolicy(max_attempts=9), StepPolicy(max_attempts=8), 4),
        (3, None, StepPolicy(max_attempts=2), 2),
        (None, None, None, 5),
        (None, StepPolicy(max_attempts=9), None, 9),
        (None, None, StepPolicy(max_attempts=2), 2),
        (10**9, None, None, MAX_ATTEMPTS),
        (-1, None, None, 1),
    ],
)
def test_max_retries_caps_the_attempts_of_every_policy(
    app: Celery, max_retries: int | None, policy: StepPolicy | None, step: StepPolicy | None, attempts: int
) -> None:
    """A charge that may be tried once is not tried twice because a deployment allows more, also not after a crash."""

    @app.task(shared=False, name="shop.charge", max_retries=max_retries)
    def charge() -> None: ...

    limits = step_policy(
        TaskSpec("shop.charge", policy=step), register_task(charge, policy=policy), Settings(max_attempts=5)
    )

    assert limits.max_attempts == attempts
    assert limits.timeout == Settings().step_timeout


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({"retry_kwargs": {"max_retries": 5}}, 6),
        ({"retry_kwargs": {"max_retries": 1}}, 4),
        ({"retry_kwargs": {"max_retries": None}}, None),
        ({"retry_kwargs": {"countdown": 5}, "max_retries": 1}, 2),
        ({"max_retries": None}, None),
    ],
)
def test_the_retries_that_are_automatic_may_have_a_number_of_their_own(
    app: Celery, options: dict[str, Any], attempts: int | None
) -> None:
    """`retry_kwargs` is where most people write it."""

    @app.task(shared=False, name="shop.auto", autoretry_for=(Down,), **options)
    def auto() -> None: ...

    assert CeleryBody(auto).most_attempts == attempts


@pytest.mark.parametrize("given", [{}, {"exc": Down("away")}])
async def test_a_retry_that_the_task_has_not_left_is_the_end(
    workflow_harness: WorkflowHarness, app: Celery, given: dict[str, Any]
) -> None:
    """Also where the number is given to `retry` itself: nothing tries it again, and a person decides."""
    calls: list[int] = []

    @app.task(shared=False, name="shop.charge", bind=True, max_retries=None)
    def charge(self: Task) -> None:
        calls.append(self.request.retries)
        self.retry(countdown=1, max_retries=1, **given)

    register_task(charge, policy=StepPolicy(max_attempts=9))
    handle = workflow_harness.dispatch([charge.s()])

    assert await workflow_harness.deliver() == ["retrying", "parked"]
    assert calls == [0, 1]
    expected = "Down" if given else MaxRetriesExceededError.__name__
    assert handle.status_sync().failure.error_class == expected  # type: ignore[union-attr]


async def test_a_redriven_step_has_all_its_retries_again(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """Whoever fixed the bank does not want to hear that its time is over."""
    calls: list[int] = []

    @app.task(shared=False, name="shop.charge", bind=True, max_retries=1)
    def charge(self: Task) -> str:
        calls.append(self.request.retries)
        if len(calls) < 4:
            self.retry(countdown=1)
        return "charged"

    register_task(charge)
    handle = workflow_harness.dispatch([charge.s()])
    await workflow_harness.deliver()
    assert handle.redrive_sync()
    workflow_harness.sweep()

    assert await workflow_harness.deliver() == ["retrying", "workflow_completed"]
    assert calls == [0, 1, 0, 1]


async def test_a_policy_may_end_retries_earlier_than_the_task(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """Whoever builds the workflow knows which errors are worth it, and how often."""

    @app.task(shared=False, name="shop.charge", bind=True, max_retries=9)
    def charge(self: Task) -> None:
        self.retry(exc=Down("away"), countdown=1)

    register_task(charge)

    final = workflow_harness.dispatch([TaskSpec("shop.charge", policy=StepPolicy(final_on=[ConnectionError]))])
    assert await workflow_harness.deliver() == ["failed"]
    with pytest.raises(WorkflowFailed, match="Down: away"):
        final.result_sync(0)

    workflow_harness.dispatch([TaskSpec("shop.charge", policy=StepPolicy(max_attempts=2))])
    assert await workflow_harness.deliver() == ["retrying", "parked"]

    workflow_harness.dispatch([TaskSpec("shop.charge", policy=StepPolicy(max_attempts=2, retry_on=[KeyError]))])
    assert await workflow_harness.deliver() == ["retrying", "parked"]


async def test_a_retry_publishes_nothing(
    workflow_harness: WorkflowHarness, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry is the hop's. A message of the task's own would run it once more, beside the workflow."""

    def published(*_: object, **__: object) -> None:
        raise AssertionError("something was published")

    @app.task(shared=False, name="shop.charge", bind=True)
    def charge(self: Task) -> str:
        if self.request.retries == 0:
            self.retry(countdown=1)
        return "charged"

    register_task(charge)
    monkeypatch.setattr(Task, "apply_async", published)
    monkeypatch.setattr(Celery, "send_task", published)

    assert (await workflow_harness.run([charge.s()])).output == "charged"


async def test_a_retry_with_other_arguments_is_refused(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """A step keeps what it was given. Dropping the new arguments would charge the old amount again."""

    @app.task(shared=False, name="shop.charge", bind=True)
    def charge(self: Task, amount: int) -> None:
        self.retry(args=(amount - 1,), countdown=1)

    @app.task(shared=False, name="shop.same", bind=True)
    def same(self: Task, amount: int) -> int:
        if self.request.retries == 0:
            self.retry(args=(amount,), countdown=1)
        return amount

    register_task(charge)
    register_task(same)

    with pytest.raises(WorkflowFailed, match="a step keeps its arguments"):
        await workflow_harness.run([charge.s(3)])
    assert (await workflow_harness.run([same.s(3)])).output == 3


async def test_a_task_that_another_one_calls_directly_raises_its_own_error(
    workflow_harness: WorkflowHarness, app: Celery, delays: list[float]
) -> None:
    """As in Celery: there is nothing to try again but the step, and its own policy says when."""

    @app.task(shared=False, name="shop.inner", bind=True, max_retries=0)
    def inner(self: Task) -> None:
        self.retry(exc=Down("away"), countdown=1000)

    @app.task(shared=False, name="shop.outer", max_retries=1)
    def outer() -> None:
        inner()

    register_task(outer, policy=StepPolicy(backoff=4.0))

    workflow_harness.dispatch([outer.s()])

    assert await workflow_harness.deliver() == ["retrying", "parked"]
    assert delays == [pytest.approx(3, abs=1.1)]  # spread


# Ignore and Reject.


async def test_ignore_completes_the_step_with_null(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """A task that finds nothing to do says so, and the workflow goes on."""

    @app.task(shared=False, name="shop.skip")
    def skip() -> str:
        raise Ignore

    register_task(skip)

    assert (await workflow_harness.run([skip.s()])).outputs == {"shop.skip": None}


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (Reject("the card is stolen"), "the card is stolen"),
        (Reject(ValueError("no such card"), requeue=True), "ValueError: no such card"),
        (Reject(), "the task rejected its message"),
    ],
)
@pytest.mark.parametrize("policy", [None, StepPolicy(retry_on=[KeyError]), StepPolicy(final_on=[Exception])])
async def test_reject_parks_the_step(
    workflow_harness: WorkflowHarness, app: Celery, raised: Reject, text: str, policy: StepPolicy | None
) -> None:
    """It is set aside for a person, as a broker's dead letters are, whatever attempts are left."""
    calls: list[int] = []

    @app.task(shared=False, name="shop.charge")
    def charge() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise raised
        return "charged"

    register_task(charge, policy=policy)
    handle = workflow_harness.dispatch([charge.s()])

    assert await workflow_harness.deliver() == ["parked"]
    failure = handle.status_sync().failure
    assert failure is not None
    assert (failure.error_class, failure.text) == ("Reject", text)

    assert handle.redrive_sync()
    workflow_harness.sweep()
    assert await workflow_harness.deliver() == ["workflow_completed"]


# What is checked.


async def test_arguments_that_the_task_does_not_take_are_refused_at_dispatch(
    workflow_harness: WorkflowHarness, app: Celery
) -> None:
    """With or without a previous output they can never fit, and nothing is enqueued."""

    @app.task(shared=False, name="shop.charge", bind=True)
    def charge(self: Task, total: int, *, order: int) -> None: ...

    @app.task(shared=False, name="shop.any", typing=False)
    def anything(total: int) -> None: ...

    step = register_task(charge)
    register_task(anything)

    for wrong in (charge.s(1, 2, order=3), charge.s(1), charge.s(1, order=3, oder=4), charge.si(order=3)):
        with pytest.raises(InvalidInput, match=r"^invalid_arguments at `itinerary\[0\]\.arguments`: shop\.charge: "):
            await workflow_harness.run([wrong])
    with pytest.raises(InvalidInput, match=r"^invalid_arguments at `arguments`: shop\.charge: missing a required"):
        step.activity(1)
    assert step.activity(order=3) == TaskSpec("shop.charge", (), {"order": 3})  # after another step
    workflow_harness.dispatch([charge.s(1, order=3), charge.s(order=3), anything.s(1, 2, 3)])


async def test_arguments_from_a_process_without_the_task_are_checked_by_the_worker(
    workflow_harness: WorkflowHarness, app: Celery
) -> None:
    """The body never begins, and the dead letter says which argument is wrong."""
    dispatched = WorkflowDispatcher().dispatch_workflow_sync(
        workflow_harness.transport, itinerary=[signature("shop.charge", args=(1, 2), kwargs={"order": 3})]
    )

    @app.task(shared=False, name="shop.charge")
    def charge(*, order: int) -> None: ...

    register_task(charge)

    assert await workflow_harness.deliver() == ["refused: invalid_arguments"]
    failure = WorkflowDispatcher().handle(dispatched, workflow_harness.transport).status_sync().failure
    assert failure is not None
    assert "shop.charge: too many positional arguments" in failure.text


@pytest.mark.parametrize("step", [FunctionSpec("shop.charge"), ActivitySpec("shop.charge", "go")])
def test_a_step_of_another_kind_is_refused(app: Celery, step: Any) -> None:
    """The name belongs to a task; calling it with what was meant for an agent would be chance."""

    @app.task(shared=False, name="shop.charge")
    def charge() -> None: ...

    with pytest.raises(MessageError, match=r"'shop\.charge' is a Celery task, but the step is of another kind"):
        register_task(charge).check(step)


def test_a_function_is_no_task() -> None:
    """The same name may be a function elsewhere; the text says what the step is."""

    @activity
    def count() -> None: ...

    with pytest.raises(MessageError, match="is a function, but the step runs a Celery task"):
        count.check(TaskSpec("count"))


async def test_a_task_that_is_not_registered_is_an_unknown_activity(
    workflow_harness: WorkflowHarness, app: Celery
) -> None:
    """That it is a task of the app does not make it a step: its owner decides."""

    @app.task(shared=False, name="shop.charge")
    def charge() -> None: ...

    with pytest.raises(UnknownActivity, match=r"shop\.charge"):
        await workflow_harness.run([charge.s()])


async def test_a_canvas_is_refused_before_anything_is_enqueued(workflow_harness: WorkflowHarness, app: Celery) -> None:
    """In a list, alone, on the runway and in the test kit."""

    @app.task(shared=False, name="shop.charge")
    def charge() -> None: ...

    register_task(charge)
    dispatcher, slow = WorkflowDispatcher(), charge.s().set(queue="slow")

    with pytest.raises(InvalidInput, match=r"^invalid_input at `itinerary\[1\]`: `chain` of Celery is no step"):
        await workflow_harness.run([charge.s(), charge.s() | charge.s()])
    with pytest.raises(
        InvalidInput, match=r"^invalid_input at `itinerary\[1\]\.options\.queue`: a step has no `queue`"
    ):
        dispatcher.dispatch_workflow_sync(workflow_harness.transport, itinerary=[charge.s(), slow])
    with pytest.raises(InvalidInput, match=r"^invalid_input at `step\.options\.queue`"):
        dispatcher.add(slow)
    for run in (
        lambda: dispatcher.dispatch_workflow_sync(workflow_harness.transport, itinerary=charge.s()),
        lambda: workflow_harness.dispatch(charge.s()),
    ):
        with pytest.raises(InvalidInput, match="is a list of steps, not a Signature; put the step into one"):
            run()
    assert not workflow_harness.pending


# Registering.


@pytest.mark.parametrize("given", [None, "shop.charge", len, Task])
def test_what_is_no_task_is_refused(given: object) -> None:
    """A function has `@activity`."""
    with pytest.raises(InvalidInput, match=r"^invalid_input at `task`: must be a task of Celery, .* by `@activity`$"):
        register_task(given)


def test_the_name_of_a_task_must_be_one_that_a_slip_can_have(app: Celery) -> None:
    """It is told where the task is registered, if its name is known by then, and by the worker otherwise."""

    @app.task(shared=False, name="my task")
    def promised() -> None: ...

    @app.task(shared=False, name="_flow")
    def flow() -> None: ...

    activity = register_task(promised)
    assert registry.names() == []
    assert registry.nameless() == [activity.origin]

    with pytest.raises(InvalidInput, match=r"^bad_agent_name at `name`: 'my task' cannot name a queue and a task"):
        register_task(promised)
    with pytest.raises(InvalidInput, match=r"'_flow' is the name of a task of our own"):
        register_task(app.tasks["_flow"])


def test_registering_a_task_makes_nothing_of_the_app_yet(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module is still loading: settings that come further down must still reach the task."""
    monkeypatch.setattr(registry, "_subscribers", [])  # apps that other tests have installed, and finalized

    @app.task(shared=False)
    def charge() -> None: ...

    register_task(charge)

    assert not charge.__evaluated__()
    assert not app.configured
    assert not app.finalized
    app.conf.task_acks_late = True
    assert charge.acks_late is True


async def test_a_shared_task_is_that_of_the_current_app(
    workflow_harness: WorkflowHarness, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reusable Django apps have no other ones."""

    monkeypatch.setattr(_state, "_on_app_finalizers", set())  # later apps have no such task

    @shared_task(name="shop.shared", bind=True)
    def shared(self: Task, n: int) -> list[object]:
        return [self.request.id, n]

    register_task(shared)
    with app:
        app.set_current()
        app.finalize()
        assert "shop.shared" in app.tasks

        assert (await workflow_harness.run([shared.s(3)], correlation_id="w")).output == ["w.0", 3]


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_shared_task_is_registered_whoever_hears_first_that_its_app_is_ready(
    ours_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery tells a set of listeners in any order: one makes the task, and another one is ours."""
    heard: list[Callable[[Celery], object]] = []
    monkeypatch.setattr(_state, "_on_app_finalizers", set())
    monkeypatch.setattr(_state, "connect_on_app_finalize", heard.append)
    monkeypatch.setattr(_state, "_announce_app_finalized", lambda app: [hear(app) for hear in heard])
    monkeypatch.setattr(base, "_announce_app_finalized", _state._announce_app_finalized)

    name = f"shop.heard_{ours_first}"  # apps of other tests may be alive

    @shared_task(name=name)
    def shared(n: int) -> int:
        return n

    register_task(shared)
    with Celery("shop", broker=UNREACHABLE, set_as_current=False) as app:
        app.set_current()
        heard.insert(0 if ours_first else len(heard), install)
        app.finalize()

        assert f"paigeant.{name}" in app.tasks


def test_a_task_stays_an_ordinary_task(app: Celery) -> None:
    """What the host does with it besides goes on as before."""
    calls: list[object] = []

    @app.task(shared=False, name="shop.charge", bind=True, rate_limit="9/s", acks_late=True)
    def charge(self: Task, n: int) -> int:
        calls.append((self.request.id, self.request.called_directly))
        return 2 * n

    before = dict(vars(type(app.tasks["shop.charge"]))), charge.request, dict(app.tasks)
    register_task(charge).activity(3)

    after = dict(vars(type(app.tasks["shop.charge"]))), charge.request, dict(app.tasks)
    assert after == before
    assert (charge(2), charge.apply((3,), task_id="x").get()) == (4, 6)
    assert calls == [(None, True), ("x", False)]
    assert charge.name in app.tasks


def test_an_app_gets_a_task_of_ours_for_each_that_is_registered(app: Celery) -> None:
    """Whether it is registered before or after the app is finalized, and beside the task itself."""
    app.conf.update(broker_url="memory://", paigeant_prefix="hops")
    install(app)

    @app.task(shared=False, name="shop.early")
    def early() -> None: ...

    register_task(early)
    app.finalize()

    @app.task(shared=False, name="shop.late")
    def late() -> None: ...

    register_task(late)

    assert {"shop.early", "hops.shop.early", "shop.late", "hops.shop.late"} <= set(app.tasks)
    assert app.tasks["shop.early"].run is not app.tasks["hops.shop.early"].run
    with pytest.raises(InvalidInput, match=r"'hops\.shop\.early' is the task of an activity, which is a step already"):
        register_task(app.tasks["hops.shop.early"])


def test_a_task_may_be_registered_again(app: Celery) -> None:
    """Two modules that both need it as a step need not agree on who says so."""

    @app.task(shared=False, name="shop.charge")
    def charge() -> None: ...

    register_task(charge)
    second = register_task(charge, queue="slow")

    assert registry.get("shop.charge") is second


def test_two_things_of_one_name_are_told(app: Celery) -> None:
    """As two agents are: nobody knows which one a slip means."""

    @app.task(shared=False, name="shop.charge")
    def charge() -> None: ...

    @activity(name="shop.charge")
    def other() -> None: ...

    register_task(charge)
    with pytest.raises(DuplicateActivity):
        registry.get("shop.charge")


def test_the_registry_keeps_what_nobody_holds(app: Celery) -> None:
    """`register_task(charge)` is a line of its own; nobody keeps what it returns."""

    @app.task(shared=False, name="shop.charge")
    def charge() -> None: ...

    register_task(charge)

    assert registry.names() == ["shop.charge"]
    with registry.isolated():
        assert registry.names() == []


def test_options_are_checked_as_those_of_functions(app: Celery) -> None:
    """A queue that no broker can have is found where it is written."""

    @app.task(shared=False, name="shop.charge")
    def charge() -> None: ...

    with pytest.raises(InvalidInput, match="invalid_queue"):
        register_task(charge, queue="")
    with pytest.raises(InvalidInput, match="invalid_policy"):
        register_task(charge, policy={"timeout": 3})  # type: ignore[arg-type]
