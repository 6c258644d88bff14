"""Dispatching: the runway, the first message, idempotency, and looking at the workflow afterwards."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import pickle
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from paigeant_celery import get_transport
from paigeant_celery.activities.functions import activity
from paigeant_celery.agents.agent import PaigeantAgent
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.sending import Sending
from paigeant_celery.client.dispatch import WorkflowDispatcher
from paigeant_celery.client.readings import WorkflowResult, WorkflowStatus
from paigeant_celery.core.errors import (
    EmptyItinerary,
    InvalidInput,
    NotPublished,
    NotRecorded,
    StoreCorrupt,
    StoreRequired,
    UnknownWorkflow,
    Unreachable,
    UsageError,
    WorkflowConflict,
    WorkflowFailed,
    WorkflowParked,
)
from paigeant_celery.core.message import PaigeantMessage, parse
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec, RegisteredActivity
from paigeant_celery.store.port import NewWorkflow
from paigeant_celery.testing import WorkflowHarness


def message_in(delivery: Delivery) -> PaigeantMessage:
    return parse(delivery.envelope, max_size=10**9, max_steps=10**6)


def prompts_in(harness: WorkflowHarness) -> list[list[str]]:
    return [[step.prompt for step in message_in(sent).slip.itinerary] for sent in harness.pending]  # type: ignore[union-attr]


class Broken:
    """A broker that is down until it is repaired."""

    def __init__(self, harness: WorkflowHarness) -> None:
        self.begin = harness.transport.publisher.begin
        self.harness = harness
        harness.transport.publisher.begin = lambda _: Sending.made(self.refuse)  # type: ignore[method-assign]

    def refuse(self) -> None:
        raise Unreachable("broker", "redis://nowhere", "ConnectionError")

    def repair(self) -> None:
        self.harness.transport.publisher.begin = self.begin  # type: ignore[method-assign]


# The runway.


def test_the_steps_of_the_runway_are_sent_in_order_and_once(workflow_harness: WorkflowHarness) -> None:
    """A second dispatch never repeats the steps of the first, and never pays for them."""
    dispatcher = WorkflowDispatcher()
    dispatcher.add(ActivitySpec("a", "one"))
    dispatcher.add(ActivitySpec("b", "two"))

    dispatcher.dispatch_workflow_sync(workflow_harness.transport)
    with pytest.raises(EmptyItinerary):
        dispatcher.dispatch_workflow_sync(workflow_harness.transport)
    dispatcher.add(ActivitySpec("a", "three"))
    dispatcher.dispatch_workflow_sync(workflow_harness.transport)

    assert prompts_in(workflow_harness) == [["one", "two"], ["three"]]


def test_two_dispatches_at_once_send_the_runway_once(workflow_harness: WorkflowHarness) -> None:
    """Two tasks of one request see the same runway, and only one of them gets it."""
    dispatcher = WorkflowDispatcher()

    async def main() -> list[str | BaseException]:
        dispatcher.add(ActivitySpec("a", "one"))
        sends = [dispatcher.dispatch_workflow(workflow_harness.transport) for _ in range(2)]
        return await asyncio.gather(*sends, return_exceptions=True)

    first, second = asyncio.run(main())

    assert isinstance(first, str)
    assert isinstance(second, EmptyItinerary)
    assert prompts_in(workflow_harness) == [["one"]]


def test_concurrent_requests_of_one_process_do_not_mix(workflow_harness: WorkflowHarness) -> None:
    """The dispatcher is often a global of the web application."""
    dispatcher = WorkflowDispatcher()

    async def request(name: str, turn: asyncio.Barrier) -> None:
        for part in ("first", "second"):
            dispatcher.add(ActivitySpec("a", f"{name} {part}"))
            await turn.wait()
        await dispatcher.dispatch_workflow(workflow_harness.transport)

    async def main() -> None:
        turn = asyncio.Barrier(2)
        await asyncio.gather(request("x", turn), request("y", turn))

    asyncio.run(main())

    assert sorted(prompts_in(workflow_harness)) == [["x first", "x second"], ["y first", "y second"]]


def test_threads_do_not_see_each_others_steps(workflow_harness: WorkflowHarness) -> None:
    """A threaded server runs requests side by side in one process."""
    dispatcher = WorkflowDispatcher()
    dispatcher.add(ActivitySpec("a", "main"))
    seen: list[BaseException] = []

    def other() -> None:
        try:
            dispatcher.dispatch_workflow_sync(workflow_harness.transport)
        except EmptyItinerary as error:
            seen.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    dispatcher.dispatch_workflow_sync(workflow_harness.transport)

    assert [type(error) for error in seen] == [EmptyItinerary]
    assert prompts_in(workflow_harness) == [["main"]]


def test_a_dispatch_in_a_copied_context_takes_the_runway_for_both(workflow_harness: WorkflowHarness) -> None:
    """`asyncio.wait_for` and `to_thread` run the dispatch in a copy of the context that collected the steps."""
    dispatcher = WorkflowDispatcher()
    dispatcher.add(ActivitySpec("a", "one"))

    contextvars.copy_context().run(dispatcher.dispatch_workflow_sync, workflow_harness.transport)

    with pytest.raises(EmptyItinerary):
        dispatcher.dispatch_workflow_sync(workflow_harness.transport)
    assert prompts_in(workflow_harness) == [["one"]]


def test_two_dispatchers_have_runways_of_their_own(workflow_harness: WorkflowHarness) -> None:
    """A library's workflows and the application's do not meet."""
    one, other = WorkflowDispatcher(), WorkflowDispatcher()
    one.add(ActivitySpec("a", "one"))

    with pytest.raises(EmptyItinerary):
        other.dispatch_workflow_sync(workflow_harness.transport)
    assert list(workflow_harness.pending) == []


def test_a_refused_dispatch_leaves_the_runway_to_the_next(workflow_harness: WorkflowHarness) -> None:
    """After correcting one argument the caller does not have to collect the steps again."""
    dispatcher = WorkflowDispatcher()
    dispatcher.add(ActivitySpec("a", "one"))

    for wrong in ({"correlation_id": "a b"}, {"variables": {"x": object()}}, {"deadline": datetime(2020, 1, 1)}):
        with pytest.raises(InvalidInput):
            dispatcher.dispatch_workflow_sync(workflow_harness.transport, **wrong)  # type: ignore[arg-type]
    dispatcher.dispatch_workflow_sync(workflow_harness.transport, correlation_id="w")

    assert prompts_in(workflow_harness) == [["one"]]


def test_an_explicit_itinerary_leaves_the_runway_alone(workflow_harness: WorkflowHarness) -> None:
    """Server code passes its steps, whatever a script has collected."""
    dispatcher = WorkflowDispatcher()
    dispatcher.add(ActivitySpec("a", "collected"))

    dispatcher.dispatch_workflow_sync(workflow_harness.transport, itinerary=(ActivitySpec("a", p) for p in "xy"))
    dispatcher.dispatch_workflow_sync(workflow_harness.transport)

    assert prompts_in(workflow_harness) == [["x", "y"], ["collected"]]


# The first message.


def test_what_is_sent_holds_everything_that_the_workflow_needs(workflow_harness: WorkflowHarness) -> None:
    """Any worker that knows the activity can go on with nothing but the message."""
    dispatcher = WorkflowDispatcher()
    dispatcher.register(ActivitySpec("critic", "judge"), description="Judges.")
    deadline = datetime.now(timezone(timedelta(hours=2))) + timedelta(hours=1)

    workflow = dispatcher.dispatch_workflow_sync(
        workflow_harness.transport,
        itinerary=[ActivitySpec("a", "x", {"n": 1}), FunctionSpec("f", {"m": 2}), ActivitySpec("a", "y")],
        variables={"tags": ("b", "c"), "at": datetime(2026, 1, 2, tzinfo=UTC)},
        correlation_id="order-17",
        deadline=deadline,
    )

    message = message_in(workflow_harness.pending[0])
    assert workflow == message.correlation_id == "order-17"
    assert (message.message_id, message.place, message.deadline) == ("order-17.0", "0", deadline)
    assert message.variables == {"tags": ["b", "c"], "at": "2026-01-02T00:00:00Z"}
    assert message.slip.itinerary == (
        ActivitySpec("a", "x", {"n": 1}, "a"),
        FunctionSpec("f", {"m": 2}, "f"),
        ActivitySpec("a", "y", None, "a-2"),
    )
    expected = RegisteredActivity(description="Judges.", step=ActivitySpec("critic", "judge"))
    assert message.registered_activities == (expected,)
    assert message.created_at == message.sent_at
    assert abs(message.created_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_the_delivery_shows_ids_and_hides_content(workflow_harness: WorkflowHarness) -> None:
    """Flower and logs show the summary; prompts, deps and variables never get there."""
    dispatcher = WorkflowDispatcher()

    dispatcher.dispatch_workflow_sync(
        workflow_harness.transport,
        itinerary=[ActivitySpec("a", "tell nobody", {"token": "t0p"}, policy=StepPolicy(timeout=7))],
        correlation_id="w",
    )

    sent = workflow_harness.pending[0]
    assert sent == Delivery(
        activity="a",
        hop_id="w.0",
        root_id="w.0",
        parent_id=None,
        queue="paigeant.a",
        envelope=sent.envelope,
        summary="workflow w, step 1 of 1: a",
        timeout=7.0,
    )


def test_a_step_goes_to_the_queue_of_its_activity_unless_it_names_one(workflow_harness: WorkflowHarness) -> None:
    """Steps that need a GPU go to the workers that have one, even from a process without the agents."""

    @activity(queue="gpu")
    def render() -> None: ...

    dispatcher = WorkflowDispatcher()
    for step in (FunctionSpec("render"), FunctionSpec("render", queue="fast"), FunctionSpec("elsewhere")):
        dispatcher.dispatch_workflow_sync(workflow_harness.transport, itinerary=[step])

    assert [sent.queue for sent in workflow_harness.pending] == ["gpu", "fast", "paigeant.elsewhere"]
    assert message_in(workflow_harness.pending[0]).step.queue == "gpu"


def test_workflows_without_an_id_get_a_new_one_each(workflow_harness: WorkflowHarness) -> None:
    """A caller that passes no id never reaches an existing workflow."""
    dispatcher, step = WorkflowDispatcher(), ActivitySpec("a", "x")

    ids = {dispatcher.dispatch_workflow_sync(workflow_harness.transport, itinerary=[step]) for _ in range(20)}

    assert len(ids) == 20


@pytest.mark.parametrize("text", ["emoji 🦊🏳️‍🌈", "שלום עולם", "𝔉𝔬𝔵", "a\tb\r\n</x>\\\"'", "\u2028\u202e"])
def test_text_of_any_language_crosses_unchanged(workflow_harness: WorkflowHarness, text: str) -> None:
    """Prompts, deps and variables are people's own words."""
    WorkflowDispatcher().dispatch_workflow_sync(
        workflow_harness.transport, itinerary=[ActivitySpec("a", text, {text: text})], variables={text: text}
    )

    message = message_in(workflow_harness.pending[0])
    assert (message.step.prompt, message.step.deps, message.variables) == (text, {text: text}, {text: text})  # type: ignore[union-attr]


def test_a_dispatch_is_the_same_from_async_code(workflow_harness: WorkflowHarness) -> None:
    """Each async call has a twin for code without an event loop, and they do the same."""
    dispatcher, itinerary = WorkflowDispatcher(), [ActivitySpec("a", "x")]

    asyncio.run(dispatcher.dispatch_workflow(workflow_harness.transport, itinerary=itinerary, correlation_id="w"))
    dispatcher.dispatch_workflow_sync(workflow_harness.transport, itinerary=itinerary, correlation_id="w")

    assert [sent.hop_id for sent in workflow_harness.pending] == ["w.0", "w.0"]
    assert len({sent.envelope for sent in workflow_harness.pending}) == 1


# Idempotency, and what happens when something is down.


def test_the_same_id_with_the_same_content_is_the_existing_workflow(workflow_harness: WorkflowHarness) -> None:
    """A caller that never saw the answer to its first call repeats the call and pays once."""
    dispatcher = WorkflowDispatcher()
    itinerary = [ActivitySpec("a", "x"), ActivitySpec("b", "y")]

    ids = [
        dispatcher.dispatch_workflow_sync(workflow_harness.transport, itinerary=itinerary, correlation_id="w")
        for _ in range(3)
    ]

    assert ids == ["w", "w", "w"]
    recorded = workflow_harness.store.workflow("w")
    assert recorded is not None
    assert {sent.envelope for sent in workflow_harness.pending} == {recorded.envelope}
    assert len(workflow_harness.store.events("w", after=None, limit=10)) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"itinerary": [ActivitySpec("a", "other")]},
        {"itinerary": [ActivitySpec("a", "x", deps=1)]},
        {"variables": {"x": 1}},
        {"deadline": datetime.now(UTC) + timedelta(days=1)},
    ],
    ids=["prompt", "deps", "variables", "deadline"],
)
def test_the_same_id_with_other_content_is_a_conflict(
    workflow_harness: WorkflowHarness, other: dict[str, object]
) -> None:
    """Two different requests never become one by accident of their ids."""
    dispatcher = WorkflowDispatcher()
    same = {"itinerary": [ActivitySpec("a", "x")], "correlation_id": "w"}
    dispatcher.dispatch_workflow_sync(workflow_harness.transport, **same)  # type: ignore[arg-type]

    with pytest.raises(WorkflowConflict) as caught:
        dispatcher.dispatch_workflow_sync(workflow_harness.transport, **{**same, **other})  # type: ignore[arg-type]

    assert caught.value.correlation_id == "w"
    assert prompts_in(workflow_harness) == [["x"]]


class Priced(BaseModel):
    at: datetime
    price: Decimal
    tags: frozenset[str] = frozenset()


NOON = datetime(2099, 6, 1, 12, tzinfo=UTC)
SIX, FAR = (NOON.astimezone(timezone(timedelta(hours=hours))) for hours in (-6, 12))


def asked(at: datetime, price: Decimal | float, tags: Iterable[str]) -> list[dict[str, Any]]:
    """Dispatches whose only contents are these, each in another place."""
    model = Priced(at=at, price=Decimal(str(price)), tags=frozenset(tags))
    inside = {"a": [{"b": at, "c": {*tags}, "d": Decimal(str(price))}]}
    plain = ActivitySpec("a", "x")
    return [
        {"itinerary": [ActivitySpec("a", "x", deps=model)]},
        {"itinerary": [ActivitySpec("a", "x", deps=inside)]},
        {"itinerary": [FunctionSpec("f", {"model": model, "inside": inside})]},
        {"itinerary": [plain], "variables": {"model": model, "inside": inside}},
        {"itinerary": [plain], "deadline": at},
        {"itinerary": [plain], "usage_limits": {"cost_limit": price}},
        {"itinerary": [plain], "deadline": at, "variables": {at.isoformat(): {at.isoformat()}}},
        {"itinerary": [plain], "registered": [ActivitySpec("b", "y", deps=model), ActivitySpec("c", "z", deps=inside)]},
    ]


def dispatched(harness: WorkflowHarness, *, registered: Iterable[ActivitySpec] = (), **arguments: Any) -> str:
    dispatcher = WorkflowDispatcher()
    for step in registered:
        dispatcher.register(step)
    return dispatcher.dispatch_workflow_sync(harness.transport, correlation_id="w", **arguments)


@pytest.mark.parametrize("place", range(8))
def test_equal_content_in_another_notation_is_the_same_workflow(workflow_harness: WorkflowHarness, place: int) -> None:
    """The retry comes from a server in another zone, with another hash seed, or from code that rounds otherwise."""
    first = asked(NOON, Decimal("1.50"), ["pear", "fig", "plum"])[place]
    same = asked(SIX, 1.5, ["plum", "pear", "fig"])[place]
    others = [asked(SIX.replace(minute=1), 2.5, ["plum"])[place], asked(SIX.replace(tzinfo=UTC), 2, ["fig"])[place]]
    if "registered" in same:
        same["registered"].reverse()
    dispatched(workflow_harness, **first)

    assert dispatched(workflow_harness, **same) == "w"
    for other in others:
        with pytest.raises(WorkflowConflict):
            dispatched(workflow_harness, **other)


def test_what_is_sent_keeps_the_notation_of_the_caller(workflow_harness: WorkflowHarness) -> None:
    """A customer is greeted in his own time, and a price has both its digits."""
    deps = Priced(at=FAR, price=Decimal("1.50"), tags=frozenset({"b", "a"}))
    dispatched(workflow_harness, itinerary=[ActivitySpec("a", "x", deps=deps)], deadline=SIX)
    message = message_in(workflow_harness.pending[0])

    assert message.slip.itinerary[0].deps == {"at": "2099-06-02T00:00:00+12:00", "price": "1.50", "tags": ["a", "b"]}  # type: ignore[union-attr]
    assert message.deadline is not None
    assert message.deadline.utcoffset() == timedelta(hours=-6)


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ({"prompt": "at 2099-06-01T12:00:00Z"}, {"prompt": "at 2099-06-01T13:00:00+01:00"}),
        ({"prompt": "2099-06-01T12:00:00Z"}, {"prompt": "2099-06-01T13:00:00+01:00"}),
        ({"deps": {"version": "1.10"}}, {"deps": {"version": "1.1"}}),
        ({"deps": [1, 2]}, {"deps": [2, 1]}),
        ({"deps": True}, {"deps": 1}),
        ({"deps": {"at": "2099-06-01T12:00:00"}}, {"deps": {"at": "2099-06-01T12:00:00Z"}}),
    ],
)
def test_what_only_looks_equal_is_a_conflict(
    workflow_harness: WorkflowHarness, first: dict[str, Any], other: dict[str, Any]
) -> None:
    """Nobody gets the answer to another question."""
    dispatched(workflow_harness, itinerary=[ActivitySpec("a", **{"prompt": "x", **first})])

    with pytest.raises(WorkflowConflict):
        dispatched(workflow_harness, itinerary=[ActivitySpec("a", **{"prompt": "x", **other})])


def test_a_workflow_recorded_with_the_digest_of_its_text_is_found(workflow_harness: WorkflowHarness) -> None:
    """A version before this one recorded it, or a process that has only the JSON of a price."""
    text = {"at": "2099-06-01T13:00:00+01:00", "price": "1.50", "tags": ["a"]}
    dispatched(workflow_harness, itinerary=[ActivitySpec("a", "x", deps=text)])
    value = Priced.model_validate(text)

    assert dispatched(workflow_harness, itinerary=[ActivitySpec("a", "x", deps=value)]) == "w"


def test_a_step_that_was_changed_is_what_it_says(workflow_harness: WorkflowHarness) -> None:
    """What its caller gave before does not count, and a copy by pickle counts as what it says."""
    step = ActivitySpec("a", "x", deps=Priced(at=NOON, price=Decimal("1.50")))
    changed = step.model_copy(update={"deps": {**step.deps, "price": "1.60"}})  # type: ignore[dict-item]
    dispatched(workflow_harness, itinerary=[step])

    assert pickle.loads(pickle.dumps(step)) == step == copy.deepcopy(step)
    assert dispatched(workflow_harness, itinerary=[pickle.loads(pickle.dumps(step))]) == "w"
    with pytest.raises(WorkflowConflict):
        dispatched(workflow_harness, itinerary=[changed])


def test_a_workflow_that_ended_is_not_sent_again(workflow_harness: WorkflowHarness) -> None:
    """A repeated request after the end finds the result, and no worker is bothered."""

    @activity
    def greet(name: str) -> str:
        return f"hello {name}"

    async def main() -> tuple[WorkflowResult, list[Delivery]]:
        await workflow_harness.run([greet.activity(name="Ada")], correlation_id="w")
        handle = workflow_harness.dispatch([greet.activity(name="Ada")], correlation_id="w")
        return await handle.result(timeout=0), list(workflow_harness.pending)

    result, pending = asyncio.run(main())

    assert (result.output, pending) == ("hello Ada", [])


def test_a_repeated_dispatch_of_a_workflow_whose_record_is_damaged_says_that_the_store_is_corrupt(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the error of any other record that cannot be read; the caller's steps stay with the caller."""
    dispatcher = WorkflowDispatcher()
    dispatcher.dispatch_workflow_sync(
        workflow_harness.transport, itinerary=[ActivitySpec("a", "x")], correlation_id="w"
    )
    recorded = workflow_harness.store.workflow("w")
    assert recorded is not None
    dispatcher.add(ActivitySpec("a", "x"))

    with monkeypatch.context() as damage:
        damage.setattr(workflow_harness.store, "workflow", lambda _: replace(recorded, envelope="{"))
        with pytest.raises(StoreCorrupt, match="'w: envelope': invalid_envelope") as caught:
            dispatcher.dispatch_workflow_sync(workflow_harness.transport, correlation_id="w")

    assert caught.value.key == "w: envelope"
    assert prompts_in(workflow_harness) == [["x"]]
    dispatcher.dispatch_workflow_sync(workflow_harness.transport, correlation_id="w")
    assert prompts_in(workflow_harness) == [["x"], ["x"]]


def test_a_broker_that_is_down_is_told_and_the_same_call_sends_later(workflow_harness: WorkflowHarness) -> None:
    """The error says that the workflow is recorded and how to get it going."""
    dispatcher, broken = WorkflowDispatcher(), Broken(workflow_harness)
    dispatcher.add(ActivitySpec("a", "x"))
    with pytest.raises(NotPublished) as caught:
        dispatcher.dispatch_workflow_sync(workflow_harness.transport)
    workflow = caught.value.correlation_id
    assert f"again with `correlation_id={workflow!r}`" in str(caught.value)

    broken.repair()
    dispatcher.dispatch_workflow_sync(
        workflow_harness.transport, itinerary=[ActivitySpec("a", "x")], correlation_id=workflow
    )

    assert [sent.hop_id for sent in workflow_harness.pending] == [f"{workflow}.0"]


def test_without_a_store_a_broker_that_is_down_leaves_the_runway(workflow_harness: WorkflowHarness) -> None:
    """Nothing was recorded or sent, so the steps are still to be dispatched."""
    dispatcher, broken = WorkflowDispatcher(), Broken(workflow_harness)
    workflow_harness.transport.store = None  # type: ignore[assignment]
    dispatcher.add(ActivitySpec("a", "x"))
    with pytest.raises(Unreachable):
        dispatcher.dispatch_workflow_sync(workflow_harness.transport)

    broken.repair()
    dispatcher.dispatch_workflow_sync(workflow_harness.transport)

    assert prompts_in(workflow_harness) == [["x"]]


# The handle.


def test_the_status_says_where_the_workflow_stands(workflow_harness: WorkflowHarness) -> None:
    """Support can answer where an order is without reading a queue."""

    @activity
    def one() -> int:
        return 1

    steps = [one.activity(), FunctionSpec("two"), FunctionSpec("three")]
    workflow = WorkflowDispatcher().dispatch_workflow_sync(
        workflow_harness.transport, itinerary=steps, correlation_id="w"
    )
    asyncio.run(workflow_harness.deliver(1))
    handle = WorkflowDispatcher().handle(workflow, workflow_harness.transport)

    status = handle.status_sync()

    assert status == WorkflowStatus(
        correlation_id="w",
        state="queued",
        step_id="two",
        activity="two",
        queue="paigeant.two",
        attempt=0,
        executed=("one",),
        remaining=("two", "three"),
        failure=None,
        ahead=0,
        created_at=status.created_at,
        updated_at=status.updated_at,
    )
    assert asyncio.run(handle.status()) == status


def test_the_result_has_every_output_and_the_summed_usage(workflow_harness: WorkflowHarness) -> None:
    """One call returns what all steps made, by step, and what it cost."""

    @activity
    def number(n: int) -> int:
        return n

    async def main() -> tuple[WorkflowResult, WorkflowResult, list[str], list[str]]:
        result = await workflow_harness.run([number.activity(4), number.activity(2)], correlation_id="w")
        handle = WorkflowDispatcher().handle("w", workflow_harness.transport)
        seen = [event.type async for event in handle.events()]
        return result, await handle.result(timeout=0), seen, [event.type for event in handle.events_sync()]

    result, awaited, events, events_sync = asyncio.run(main())

    assert result == awaited
    assert (result.output, result.outputs, result.status) == (2, {"number": 4, "number-2": 2}, "completed")
    assert (result.output_as(str | int), result.output_as(float, step_id="number")) == (2, 4.0)  # type: ignore[arg-type]
    assert events == events_sync == ["started", "claimed", "completed", "claimed", "completed", "workflow_completed"]
    with pytest.raises(UsageError, match=r"no step 'x' in this result; there are \['number', 'number-2'\]"):
        result.output_as(int, step_id="x")


def test_the_result_of_a_failed_workflow_raises_what_failed(workflow_harness: WorkflowHarness) -> None:
    """The caller learns the step, the class and the text, and nobody waits forever."""

    @activity
    def divide(by: int) -> float:
        return 1 / by

    with pytest.raises(WorkflowFailed) as caught:
        asyncio.run(workflow_harness.run([divide.activity(by=0)], correlation_id="w"))

    assert caught.value.args == ("w", "divide", "ZeroDivisionError", "division by zero")


def test_waiting_for_a_result_ends_with_the_timeout_and_leaves_the_workflow(workflow_harness: WorkflowHarness) -> None:
    """A request handler answers in time while the workflow goes on."""
    dispatcher = WorkflowDispatcher()
    dispatcher.dispatch_workflow_sync(
        workflow_harness.transport, itinerary=[ActivitySpec("a", "x")], correlation_id="w"
    )
    handle = dispatcher.handle("w", workflow_harness.transport)

    with pytest.raises(TimeoutError, match=r"^workflow w did not end within 0.02 s and goes on: ") as caught:
        handle.result_sync(timeout=0.02)
    assert str(caught.value).endswith("step 'a' waits on queue 'paigeant.a'; no worker has taken it yet")
    with pytest.raises(TimeoutError):
        asyncio.run(handle.result(timeout=0))
    assert handle.status_sync().state == "queued"


READS: list[Callable[..., object]] = [
    lambda handle: handle.status_sync(),
    lambda handle: handle.result_sync(timeout=0),
    lambda handle: list(handle.events_sync()),
    lambda handle: asyncio.run(handle.status()),
    lambda handle: asyncio.run(handle.result(timeout=0)),
    lambda handle: asyncio.run(anext(handle.events())),
]


@pytest.mark.parametrize("read", READS)
def test_reading_without_a_store_says_what_to_set(
    workflow_harness: WorkflowHarness, read: Callable[..., object]
) -> None:
    """Message-only mode has nothing to ask, and says so instead of waiting."""
    workflow_harness.transport.store = None  # type: ignore[assignment]
    handle = WorkflowDispatcher().handle("w", workflow_harness.transport)

    with pytest.raises(StoreRequired, match=r"`(status|result|events)` reads the store.*`paigeant_store_url`"):
        read(handle)


@pytest.mark.parametrize("read", READS)
def test_reading_a_workflow_that_does_not_exist_says_where_it_was_looked_for(
    workflow_harness: WorkflowHarness, read: Callable[..., object]
) -> None:
    """A wrong id or a wrong store is not mistaken for a slow workflow."""
    handle = WorkflowDispatcher().handle("nobody", workflow_harness.transport)

    with pytest.raises(UnknownWorkflow) as caught:
        read(handle)

    assert caught.value.args == ("nobody", "memory://")


def test_an_agent_puts_its_steps_on_its_dispatchers_runway(workflow_harness: WorkflowHarness) -> None:
    """The quick start: make an agent, put work on the runway, dispatch."""
    dispatcher = WorkflowDispatcher()
    writer = PaigeantAgent("test", name="writer", dispatcher=dispatcher, queue="slow", policy=StepPolicy(timeout=9))
    writer.register_activity("write again")

    writer.add_to_runway("write", step_id="draft")
    dispatcher.dispatch_workflow_sync(workflow_harness.transport)

    message = message_in(workflow_harness.pending[0])
    assert message.slip.itinerary == (
        ActivitySpec("writer", "write", None, "draft", StepPolicy(timeout=9), queue="slow"),
    )
    assert [entry.step.prompt for entry in message.registered_activities] == ["write again"]


def test_the_default_transport_is_in_memory_and_one_per_process() -> None:
    """The first script of a newcomer needs no server, and dispatcher and executor meet."""
    dispatcher = WorkflowDispatcher()
    dispatcher.add(ActivitySpec("nobody", "x"))

    workflow = dispatcher.dispatch_workflow_sync()

    assert dispatcher.handle(workflow).status_sync().queue == "paigeant.nobody"
    assert get_transport() is get_transport("inmemory")


# What goes wrong around a step.


def test_an_error_while_the_next_step_is_sent_parks_the_workflow_with_its_output(
    workflow_harness: WorkflowHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A host's own route function may raise; nobody waits forever because of it, and nothing is made twice."""
    runs: list[str] = []

    @activity
    def one() -> int:
        runs.append("one")
        return 1

    @activity
    def two() -> int:
        return 2

    routed = workflow_harness.transport.publisher.queue_for

    def route(activity: str, queue: str | None) -> str:
        raise KeyError("two")

    handle = workflow_harness.dispatch([one.activity(), two.activity()])
    workflow_harness.transport.publisher.queue_for = route  # type: ignore[method-assign]

    assert asyncio.run(workflow_harness.deliver()) == ["parked"]

    with pytest.raises(WorkflowParked) as caught:
        handle.result_sync(0)
    text = "after the step ran, its output could not be sent on: 'two'; what the step gave is kept"
    assert caught.value.args[1:3] == ("one", "KeyError")
    assert caught.value.text.startswith(text)

    workflow_harness.transport.publisher.queue_for = routed  # type: ignore[method-assign]
    assert handle.redrive_sync()
    workflow_harness.sweep()

    assert asyncio.run(workflow_harness.deliver()) == ["completed", "workflow_completed"]
    assert handle.result_sync(0).outputs == {"one": 1, "two": 2}
    assert runs == ["one"]


def test_an_error_while_a_message_is_opened_fails_the_workflow(workflow_harness: WorkflowHarness) -> None:
    """Two agents of the same name appeared while the message waited."""
    first = PaigeantAgent("test", name="twice")
    handle = workflow_harness.dispatch([first.activity("x")])
    second = PaigeantAgent("test", name="twice")

    assert asyncio.run(workflow_harness.deliver()) == ["refused: unexpected_error"]

    with pytest.raises(WorkflowFailed) as caught:
        handle.result_sync(0)
    assert caught.value.args[1:3] == ("twice", "unexpected_error")
    assert first is not second


def test_a_workflow_of_a_dispatcher_with_another_store_runs_and_the_log_tells_why_it_is_not_seen(
    workflow_harness: WorkflowHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Its work is done; a caller that waits for it in the wrong place finds out why."""

    @activity
    def one() -> int:
        return 1

    elsewhere = WorkflowHarness()
    elsewhere.dispatch([one.activity()], correlation_id="w")

    assert asyncio.run(workflow_harness.redeliver(elsewhere.pending[0])) == "workflow_completed"

    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "or the dispatcher has no store, or another one, and cannot see it" in record.getMessage()


def test_a_workflow_that_has_begun_is_not_sent_again(workflow_harness: WorkflowHarness) -> None:
    """A client that repeats its request all day does not fill the queues."""

    @activity
    def one() -> int:
        return 1

    @activity
    def two() -> int:
        return 2

    steps = [one.activity(), two.activity()]
    workflow_harness.dispatch(steps, correlation_id="w")
    asyncio.run(workflow_harness.deliver(1))

    workflow_harness.dispatch(steps, correlation_id="w")

    assert [sent.hop_id for sent in workflow_harness.pending] == ["w.1"]


def test_a_workflow_that_waits_for_its_retry_is_not_sent_again(workflow_harness: WorkflowHarness) -> None:
    """The store would refuse the message until the retry is due, and sends it then."""

    @activity(policy=StepPolicy(max_attempts=2, backoff=60))
    def stumble() -> int:
        raise OSError("not now")

    workflow_harness.dispatch([stumble.activity()], correlation_id="w")
    asyncio.run(workflow_harness.deliver(1))
    record = workflow_harness.store.workflow("w")
    assert record is not None
    assert record.retry_at is not None

    workflow_harness.dispatch([stumble.activity()], correlation_id="w")

    assert list(workflow_harness.pending) == []


def test_a_store_that_is_away_leaves_the_id_to_try_again_with(workflow_harness: WorkflowHarness) -> None:
    """If only the reply was lost, the workflow is recorded, and a second one would do everything twice."""
    dispatcher, start = WorkflowDispatcher(), workflow_harness.store.start
    dispatcher.add(ActivitySpec("a", "x"))

    def lose_the_reply(new: NewWorkflow) -> Literal["started", "exists", "conflict"]:
        start(new)
        raise Unreachable("store", "redis://nowhere", "TimeoutError")

    workflow_harness.store.start = lose_the_reply  # type: ignore[method-assign]
    with pytest.raises(NotRecorded) as caught:
        dispatcher.dispatch_workflow_sync(workflow_harness.transport)
    workflow_harness.store.start = start  # type: ignore[method-assign]

    again = dispatcher.dispatch_workflow_sync(workflow_harness.transport, correlation_id=caught.value.correlation_id)

    assert again == caught.value.correlation_id
    assert f"again with `correlation_id={again!r}`" in str(caught.value)
    assert [sent.hop_id for sent in workflow_harness.pending] == [f"{again}.0"]
