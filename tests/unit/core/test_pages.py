"""Steps to come that leave the slip for the store: which do, and that a workflow runs all of them, in order."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import ActivitySpec, PaigeantAgent, WorkflowDispatcher, activity
from paigeant_celery.core.errors import IllegalEvent, MessageError, NewerMessage, StoreCorrupt, WorkflowParked
from paigeant_celery.core.flow import Advance, Completed, Limits, decide
from paigeant_celery.core.message import PaigeantMessage, encode, parse, reread, sha256
from paigeant_celery.core.names import SPEC_VERSION
from paigeant_celery.core.pages import PAGED_AT_ONCE, name_of_page, opened, page_in, paged
from paigeant_celery.core.slip import Earlier, RoutingSlip
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.outputs import MOST_BROUGHT, brought_with_claim
from paigeant_celery.store.pages import with_next_page
from paigeant_celery.testing import WorkflowHarness

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
EARLIER = Earlier(count=1, digest="d")
MakeMessage = Callable[..., PaigeantMessage]


def slip_of(*prompts: str, earlier: Earlier | None = EARLIER) -> RoutingSlip:
    steps = [ActivitySpec(f"a{number % 3}", prompt, step_id=f"s{number}") for number, prompt in enumerate(prompts)]
    return RoutingSlip(itinerary=tuple(steps), earlier=earlier)


def all_steps(slip: RoutingSlip, pages: dict[str, str]) -> RoutingSlip:
    while slip.later is not None:
        slip = opened(slip, page_in(pages[name_of_page(slip.later.page)], slip.later))
    return slip


@pytest.mark.parametrize("most", [0, 300, 1000, 4096])
@pytest.mark.parametrize("prompts", [["x"] * 60, ["x" * 5000] * 4, ["x", "y" * 9000, *["z"] * 30]])
def test_pages_have_all_steps_in_their_order(prompts: list[str], most: int) -> None:
    """However large a step is, it has a place."""
    whole = slip_of(*prompts)

    slip, pages = paged(whole, most=most)

    assert all_steps(slip, dict(pages)) == whole
    assert (slip.length, slip.visits, slip.next_step) == (whole.length, whole.visits, whole.next_step)
    inline = sum(len(step.model_dump_json()) for step in slip.itinerary)
    assert inline <= max(most // 2, len(whole.itinerary[0].model_dump_json())) or slip == whole


def test_a_slip_is_paged_only_if_that_is_worth_it_and_older_versions_notice() -> None:
    """One of 1.2 that saw all records would end the workflow with the last step that travels."""
    assert paged(slip_of(*["x"] * 60, earlier=None), most=100)[1] == {}
    assert paged(slip_of(*["x"] * 3), most=4096)[1] == {}
    assert paged(slip_of("x" * 5000), most=100)[1] == {}
    once, pages = paged(slip_of(*["x"] * 60), most=1000)
    assert pages
    assert paged(once, most=1000) == (once, {})


def test_steps_that_are_inserted_before_a_page_get_one_of_their_own() -> None:
    """What is in a page never changes, because a hop that is delivered once more reads it."""
    once, first = paged(slip_of(*["x"] * 60), most=1000)
    added = tuple(ActivitySpec("b", "y", step_id=f"b-1.{number}") for number in range(40))
    grown = once.model_copy(update={"itinerary": (*added, *once.itinerary)})

    slip, second = paged(grown, most=1000)

    assert second
    assert not first.keys() & second.keys()
    assert all_steps(slip, {**first, **second}).itinerary == (*added, *all_steps(once, dict(first)).itinerary)
    assert slip.visits["b"] == 40


def test_a_script_records_so_many_pages_at_once_and_the_rest_with_the_next_step() -> None:
    """Redis serves nobody else while a script runs."""
    slip, pages = paged(slip_of(*["x" * 100] * 250), most=200)
    again, more = paged(slip, most=200)

    assert len(pages) == len(more) == PAGED_AT_ONCE
    assert slip.later is not None
    assert len(slip.itinerary) == 250 - slip.later.count
    assert again.length == slip.length


@pytest.mark.parametrize("damage", [None, "{}", "no JSON"])
def test_a_page_that_is_missing_or_changed_is_not_run(make_message: MakeMessage, damage: str | None) -> None:
    """A step that somebody wrote into the store must not run, and none be left out."""
    slip, _ = paged(slip_of("x", *["y" * 500] * 5), most=100)
    message = make_message(ActivitySpec("a", "x")).model_copy(update={"slip": slip})
    newer = message.model_copy(update={"spec_version": "1.99"})

    with pytest.raises(StoreCorrupt, match="w-1: steps to come"):
        with_next_page(MemoryStore(lease=60, ttl=60), message, brought=damage)
    with pytest.raises(StoreCorrupt):  # a digest is the same in each version
        with_next_page(MemoryStore(lease=60, ttl=60), newer, brought=damage)


def test_a_page_of_a_newer_version_is_left_to_newer_workers(make_message: MakeMessage) -> None:
    """It may have steps of a kind that this version does not know."""
    slip, pages = paged(slip_of("x", "y" * 500), most=100)
    assert slip.later is not None
    text = next(iter(pages.values())).replace('"kind":"agent"', '"kind":"wait"')
    later = slip.later.model_copy(update={"page": sha256(text)})
    message = make_message(ActivitySpec("a", "x")).model_copy(
        update={"slip": slip.model_copy(update={"later": later}), "spec_version": "1.99"}
    )

    with pytest.raises(NewerMessage):
        with_next_page(MemoryStore(lease=60, ttl=60), message, brought=text)
    same = message.model_copy(update={"spec_version": SPEC_VERSION})
    with pytest.raises(StoreCorrupt):
        with_next_page(MemoryStore(lease=60, ttl=60), same, brought=text)


def test_a_claim_brings_a_page_unless_it_is_large(make_message: MakeMessage) -> None:
    """It costs no round trip, and reading a large one would block the event loop."""
    first = make_message(ActivitySpec("a", "x"))
    for size, brought in ((500, True), (MOST_BROUGHT, False)):
        slip, pages = paged(slip_of("x", "y" * size, "z" * size), most=100)
        message = first.model_copy(update={"slip": slip})
        assert len(pages) == 2
        assert brought_with_claim(message) == ((list(pages)[-1],) if brought else ())
    before = first.model_copy(update={"slip": paged(slip_of("x", "x", "y" * 500), most=600)[0]})
    assert before.slip.later is not None
    assert brought_with_claim(before) == ()


def test_a_step_does_not_end_while_those_after_it_are_not_there(make_message: MakeMessage) -> None:
    """The workflow would end early."""
    slip, _ = paged(slip_of("x", "y" * 500), most=100)
    message = make_message(ActivitySpec("a", "x")).model_copy(update={"slip": slip})
    event = Completed(place="1", attempt=1, started_at=NOON, output=None)

    with pytest.raises(IllegalEvent, match="page"):
        decide(message, event, now=NOON, limits=Limits(max_steps=9, max_message_size=2**20))


@pytest.mark.parametrize("without", ["earlier", "itinerary"])
def test_a_slip_that_only_says_what_comes_later_is_refused(make_message: MakeMessage, without: str) -> None:
    """Nobody writes one."""
    message = underway(make_message, ["x"] * 30)
    tree = json.loads(encode(message))
    tree["slip"][without] = () if without == "itinerary" else None
    tree["message_id"] = f"w-1.{1 if without == 'earlier' else message.place}"
    if without == "earlier":
        tree["slip"]["executed"][0]["place"] = "0"

    with pytest.raises(MessageError, match=re.escape("`slip.later`: the steps before these are missing")):
        parse(json.dumps(tree), max_size=2**20, max_steps=400)


def test_a_slip_with_pages_counts_all_its_steps(make_message: MakeMessage) -> None:
    """No message may bring more steps than are allowed, or steps of which nothing is known."""
    message = underway(make_message, ["x"] * 30)

    parse(encode(message), max_size=2**20, max_steps=30)
    with pytest.raises(MessageError, match="too_many_steps"):
        parse(encode(message), max_size=2**20, max_steps=29)
    for name, value in (("page", "steps:../1"), ("count", 0), ("count", "2"), ("size", -1)):
        tree = json.loads(encode(message))
        tree["slip"]["later"][name] = value
        with pytest.raises(MessageError, match=f"slip.later.{name}"):
            parse(json.dumps(tree), max_size=2**20, max_steps=400)


def underway(make_message: MakeMessage, prompts: list[str]) -> PaigeantMessage:
    """A message after two steps, as a worker reads it."""
    message = make_message(*(ActivitySpec("a", prompt) for prompt in prompts))
    for place in ("0", "1"):
        event = Completed(place=place, attempt=1, started_at=NOON, output=None)
        limits = Limits(max_steps=400, max_message_size=2**20, inline_log_size=1000)
        decision = decide(message, event, now=NOON, limits=limits)
        assert isinstance(decision, Advance), decision
        message = reread(decision.envelope)
    assert message.slip.later is not None
    return message


def test_a_long_workflow_runs_and_shows_all_its_steps(workflow_harness: WorkflowHarness) -> None:
    """Neither who watches it nor who gets its result notices that steps did not travel."""
    runs: list[str] = []

    @activity
    async def told(text: str) -> str:
        runs.append(text[:7])
        return text

    texts = [f"step-{number:02}" + "x" * (MOST_BROUGHT if number == 30 else 0) for number in range(60)]
    names = [text[:7] for text in texts]
    handle = workflow_harness.dispatch(
        [told.activity(text=text).identified(name) for name, text in zip(names, texts, strict=True)]
    )
    far = 0
    for place in range(60):
        status = handle.status_sync()
        assert (list(status.executed), list(status.remaining)) == (names[:place], names[place:])
        far += reread(handle._record("test").envelope).slip.later is not None
        assert asyncio.run(workflow_harness.deliver(1)) == ["completed" if place < 59 else "workflow_completed"]

    assert runs == names
    assert list(handle.result_sync(0).outputs.values()) == texts
    assert far > 30


def test_a_workflow_of_which_a_page_is_lost_waits_for_a_person(workflow_harness: WorkflowHarness) -> None:
    """It does not end as if the rest had run; what has run is known."""

    @activity
    async def told(text: str) -> str:
        return text

    handle = workflow_harness.dispatch([told.activity(text="x" * 100) for _ in range(60)])
    asyncio.run(workflow_harness.deliver(10))
    kept = workflow_harness.store._records.workflows[handle.correlation_id].blobs
    for name in [name for name in kept if name.startswith("steps:")]:
        del kept[name]

    outcomes = asyncio.run(workflow_harness.deliver())

    assert outcomes[-1] == "refused: store_corrupt"
    with pytest.raises(WorkflowParked):
        handle.result_sync(0)
    status = handle.status_sync()  # of what its message still has
    assert (status.state, status.failure and status.failure.error_class) == ("parked", "store_corrupt")
    assert status.remaining[0] == status.step_id


def test_an_agent_inserts_steps_before_those_that_do_not_travel(workflow_harness: WorkflowHarness) -> None:
    """They run next, and what was planned runs after them."""
    dispatcher = WorkflowDispatcher()

    def plan(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) > 1:
            return ModelResponse(parts=[TextPart("planned")])
        steps: list[dict[str, Any]] = [{"activity": "critic", "prompt": f"Judge {n}."} for n in range(2)]
        return ModelResponse(parts=[ToolCallPart("insert_activities", {"steps": steps})])

    def judge(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("fine")])

    critic = PaigeantAgent(FunctionModel(judge), name="critic", dispatcher=dispatcher)
    critic.register_activity("Judge.")
    planner = PaigeantAgent(FunctionModel(plan), name="planner", can_edit_itinerary=True)

    @activity
    async def told(text: str) -> str:
        return text

    for place in range(60):
        step = planner.activity("Plan.") if place in (9, 30) else told.activity(text="x" * 100)
        dispatcher.add(step)
    handle = workflow_harness.dispatch(dispatcher=dispatcher)
    asyncio.run(workflow_harness.deliver())

    ran = list(handle.result_sync(0).outputs)
    planned = [name for name in ran if not name.startswith("critic")]
    assert planned == ["told", *(f"told-{n}" for n in range(2, 10)), "planner", *(f"told-{n}" for n in range(10, 30)),
                       "planner-2", *(f"told-{n}" for n in range(30, 59))]  # fmt: skip
    assert ran[10:12] == ["critic-9.1", "critic-9.2"]
    assert ran[33:35] == ["critic-32.1", "critic-32.2"]
