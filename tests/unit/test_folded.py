"""Workflows with a folded slip and with a whole one, side by side: whoever asks sees the same, and is as strict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from paigeant_celery import (
    DeadLetters,
    PaigeantAgent,
    StepPolicy,
    StoreCorrupt,
    UnknownWorkflow,
    WorkflowDispatcher,
    WorkflowError,
    WorkflowHandle,
    activity,
    workflow_context,
)
from paigeant_celery.broker.port import Delivery
from paigeant_celery.core.message import reread
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec
from paigeant_celery.hop.effects import Drop, Summary
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.testing import WorkflowHarness

WHOLE, FOLDED = 2**30, 0  # of `paigeant_inline_log_size`
HELD: list[object] = []  # activities of the test that runs; the registry does not keep them


@pytest.fixture(autouse=True)
def hold() -> Iterator[None]:
    yield
    HELD.clear()


@dataclass
class Trial:
    """One workflow in a harness, and what was seen of it."""

    harness: WorkflowHarness
    handle: WorkflowHandle
    seen: list[Any]

    def deliver(self, hops: int | None = None, *, times: int = 1) -> None:
        self.seen.append(asyncio.run(self.harness.deliver(hops, times=times)))

    def look(self) -> None:
        """Note all that can be seen from outside, but for times."""
        status = self.handle.status_sync()
        self.seen.append(replace(status, created_at=NOON, updated_at=NOON, retry_at=None))
        try:
            result = self.handle.result_sync(0)
        except (WorkflowError, TimeoutError) as error:
            self.seen.append((type(error), str(error)))
        else:
            self.seen.append(result)

    def seen_of_all(self) -> list[Any]:
        self.look()
        events = [
            (event.type, event.hop_id, {name: value for name, value in event.fields.items() if name != "delay_ms"})
            for event in self.handle.events_so_far()
        ]
        sent = [replace(delivery, envelope="") for delivery in self.harness.delivered]
        letters = [(letter.reason, letter.hop_id, letter.text) for letter in DeadLetters(self.harness.transport).list()]
        return [*self.seen, events, sent, letters]

    @property
    def folded(self) -> int:
        """How many records are in the store alone."""
        earlier = reread(self.handle._record("test").envelope).slip.earlier
        return earlier.count if earlier is not None else 0


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
Steps = Sequence[ActivitySpec | FunctionSpec]


def both(steps: Steps, play: Callable[[Trial], None], *, folds: int, settings: Any = None, **more: Any) -> list[Any]:
    """Play the same with a whole and with a folded slip, and return what was seen of both."""
    found = []
    for size in (WHOLE, FOLDED):
        harness = WorkflowHarness(Settings(inline_log_size=size, **(settings or {})))
        dispatcher = WorkflowDispatcher()
        for step in steps:
            if isinstance(step, ActivitySpec):
                dispatcher.register(step)
        handle = harness.dispatch(steps, correlation_id="w", dispatcher=dispatcher, **more)
        trial = Trial(harness, handle, [])
        play(trial)
        found.append(trial.seen_of_all())
        assert trial.folded == (0 if size == WHOLE else folds)
    assert found[1] == found[0]
    return found[1]


def telling(count: int, wanted: list[str]) -> list[FunctionSpec]:
    """Return steps s0, s1, ... that return what they see of others."""

    @activity
    async def tell(name: str) -> dict[str, Any]:
        context, found = workflow_context(), dict[str, Any]()
        for step_id in wanted:
            try:
                found[step_id] = (await context.output(step_id)).output
            except Exception as error:
                found[step_id] = f"{type(error).__name__}: {error}"
        previous = context.previous_output
        return {
            "name": name,
            "found": found if name == str(count - 1) else {},
            "previous": previous and previous.step_id,
        }

    HELD.append(tell)
    return [FunctionSpec("tell", {"name": f"{number}"}, step_id=f"s{number}") for number in range(count)]


def agent(name: str, answer: Callable[[list[ModelMessage], AgentInfo], ModelResponse], **more: Any) -> PaigeantAgent:
    return PaigeantAgent(FunctionModel(answer), name=name, **more)


def test_every_step_sees_the_outputs_of_all_before_it() -> None:
    """Of the first, of the last, of itself, and of one that never was."""
    found = both(telling(6, ["s0", "s3", "s4", "s5", "ghost"]), Trial.deliver, folds=5, settings={"max_steps": 6})

    told = found[2].outputs["s5"]["found"]
    assert [told[name]["name"] for name in ("s0", "s3", "s4")] == ["0", "3", "4"]
    assert told["ghost"].startswith("UsageError: no step 'ghost' ran before 's5'; these did: ['s0', 's1', 's2',")
    assert [told[name]["previous"] for name in ("s0", "s3", "s4")] == [None, "s2", "s3"]


def test_large_outputs_are_found_as_well() -> None:
    """They are in the store by the ids of their steps, beside the records that say what they are."""
    found = both(telling(5, ["s0", "s2"]), Trial.deliver, folds=4, settings={"inline_output_size": 0})

    assert found[2].output["found"]["s0"]["name"] == "0"


def stands_of(copy: Delivery, harness: WorkflowHarness) -> Summary | None:
    """Return what a copy of a message is told about its hop, which Celery and Flower show."""
    arrival = Arrival(hop_id=copy.hop_id, activity=copy.activity, envelope=copy.envelope)
    answer = harness._service.open(arrival)
    assert isinstance(answer, Drop)
    return answer.stands


def test_where_a_workflow_stands_is_seen_at_each_step() -> None:
    """Its state, its steps and what they used, at each place on the way; and what a copy of each message is told."""

    def play(trial: Trial) -> None:
        while trial.handle.status_sync().in_progress:
            trial.deliver(1, times=2)
            trial.look()
        trial.seen.append([stands_of(copy, trial.harness) for copy in trial.harness.delivered])

    found = both(telling(6, ["s0"]), play, folds=5)
    assert {stands.step_id for stands in found[-6]} == {f"s{number}" for number in range(6)}


def test_a_model_may_insert_an_activity_as_often_as_before() -> None:
    """A loop that a model makes ends at `paigeant_max_visits`, or at `paigeant_max_steps`, at the same step."""

    def plan(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        if isinstance(messages[-1], ModelRequest) and isinstance(messages[-1].parts[-1], ToolReturnPart):
            return ModelResponse(parts=[TextPart(str(messages[-1].parts[-1].content))])
        return ModelResponse(parts=[ToolCallPart("insert_activities", {"steps": [{"activity": "planner"}]})])

    planner = agent("planner", plan, can_edit_itinerary=True, max_added_steps=1)

    for settings, state, folds in (({"max_visits": 5}, "completed", 4), ({"max_steps": 5}, "parked", 3)):
        found = both([planner.activity("plan")], Trial.deliver, folds=folds, settings=settings)
        assert found[1].state == state, found[1]


def test_a_budget_ends_a_workflow_at_the_same_step() -> None:
    """What steps have used counts whether their records travel or not: requests, tokens and money."""

    def spend(_messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("x")], usage=RequestUsage(input_tokens=7, cost=Decimal("0.1")))

    spender = agent("spender", spend)
    for limits in ({"request_limit": 4}, {"input_tokens_limit": 30}, {"cost_limit": "0.45"}):
        found = both(
            [spender.activity("spend")] * 8,
            Trial.deliver,
            folds=3,
            usage_limits=limits,
        )
        assert (found[1].state, len(found[1].executed)) == ("failed", 4), limits


def test_a_conversation_that_lost_a_turn_goes_on_with_neither() -> None:
    """How many earlier steps spoke is known from their sums."""

    def play(trial: Trial, *, conversation_id: str | None = None) -> None:
        trial.deliver(4)
        store = trial.harness.store
        trial.seen.append(
            trial.handle.conversation_sync("talk", conversation_id=conversation_id)[-1]["parts"][0]["content"]
        )
        whole = store.conversation
        store.conversation = lambda key, heard=None: whole(key, heard).split("\n", 1)[1]  # type: ignore[method-assign]
        trial.deliver()

    def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart(f"turn {len(messages)}")])

    talker = agent("talker", answer)
    for names in ({"conversation": "talk"}, {"conversation": "talk", "conversation_id": "all"}):
        found = both(
            [talker.activity("say", **names)] * 6,
            lambda trial, names=names: play(trial, conversation_id=names.get("conversation_id")),
            folds=3,
        )
        assert "turn 7" in found
        assert ["refused: conversation_lost"] in found


@pytest.mark.parametrize("discard", [False, True])
def test_retries_redrives_and_cancels_find_the_workflow_where_it_stood(discard: bool) -> None:
    """What failed, was parked and goes on is the same step; what was cancelled keeps what it had."""

    tries: list[int] = []

    @activity(policy=StepPolicy(max_attempts=2))
    def shaky() -> str:
        tries.append(workflow_context().attempt)
        if len(tries) < 4:
            raise ConnectionError("away")
        return "there"

    steps = telling(7, ["s1"])
    steps.insert(4, shaky.activity())

    def play(trial: Trial) -> None:
        tries.clear()
        trial.deliver()
        trial.look()
        assert trial.handle.redrive_sync(discard_journal=discard)
        trial.harness.sweep()
        trial.deliver(3)
        trial.look()
        assert trial.handle.cancel_sync()
        trial.deliver()

    found = both(steps, play, folds=5)
    assert tries == [1, 2, 1, 2]
    assert found[-5].state == "cancelled"


def test_a_workflow_of_lost_data_is_a_dead_letter_and_says_why() -> None:
    """A slip of which the store has the rest cannot be adopted by one that lost it."""
    harness = WorkflowHarness(Settings(inline_log_size=FOLDED))
    handle = harness.dispatch(telling(4, []), correlation_id="w")
    asyncio.run(harness.deliver(2))
    store = harness.store
    lost = WorkflowHarness(Settings(inline_log_size=FOLDED))
    lost.pending.extend(harness.pending)

    assert asyncio.run(lost.deliver()) == ["refused: store_lost"]
    assert store.workflow("w") is not None
    with pytest.raises(UnknownWorkflow):
        WorkflowHandle("w", lost.transport).status_sync()
    assert handle.status_sync().executed == ("s0", "s1")
    (letter,) = DeadLetters(lost.transport).list()
    assert (letter.reason, letter.hop_id) == ("store_lost", "w.2")


def test_a_workflow_that_expires_while_it_is_read_is_unknown() -> None:
    """It is not damaged: its record was there in one call, and its outputs were gone in the next."""
    harness = WorkflowHarness(Settings(inline_log_size=FOLDED, result_ttl=60))
    asyncio.run(harness.run(telling(4, []), correlation_id="w"))
    store, clock = harness.store, [datetime.now(UTC)]
    store._clock = lambda: clock[0]
    read = store.blobs

    def expire(correlation_id: str, names: Sequence[str]) -> Any:
        clock[0] += timedelta(seconds=61)
        return read(correlation_id, names)

    for ask in (WorkflowHandle.status_sync, lambda handle: handle.result_sync(0)):
        clock[0] = datetime.now(UTC)
        store.blobs = expire  # type: ignore[method-assign]
        with pytest.raises(UnknownWorkflow):
            ask(WorkflowHandle("w", harness.transport))


def test_a_record_that_was_changed_is_no_status_and_no_result() -> None:
    """An error that names the workflow is better than a status without some of its steps."""
    harness = WorkflowHarness(Settings(inline_log_size=FOLDED))
    asyncio.run(harness.run(telling(4, []), correlation_id="w"))
    harness.store.blobs = lambda correlation_id, names: {}  # type: ignore[method-assign]

    for ask in (WorkflowHandle.status_sync, lambda handle: handle.result_sync(0)):
        with pytest.raises(StoreCorrupt, match="w: records of earlier steps"):
            ask(WorkflowHandle("w", harness.transport))
