"""The contract of pydantic-ai's waits inside runs, row by row, and wherever the worker dies."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

import pytest
from pydantic_ai import Agent, CallDeferred, RunContext
from pydantic_ai.capabilities import AbstractCapability, HandleDeferredToolCalls
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolApproved

from paigeant_celery import (
    CeleryDurability,
    PaigeantAgent,
    WorkflowContext,
    WorkflowFailed,
    activity,
    workflow_context,
)
from paigeant_celery.activities.registry import registry
from paigeant_celery.core.about import read_about
from paigeant_celery.core.waits import Wait
from paigeant_celery.testing import WorkflowHarness
from tests.support.journalled_hop import calls, scripted
from tests.support.waiting_steps import TIME_IS_OVER, Answers, asked_for, dying_at, failed, payload, played, reply

events = pytest.importorskip("pydantic_ai.external_events", reason="pydantic-ai before 2.68 has no such waits")

from pydantic_ai.capabilities import RequestInput  # noqa: E402

Step: TypeAlias = Any
WAITS_ITSELF = {"paigeant": False}
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    gc.disable()  # only the names in steps hold what is made here until it runs, and a collection would take it
    with registry.isolated():
        yield
    gc.enable()


@dataclass
class World:
    """What is outside the worker: who was asked for what under which tokens, and what was done."""

    did: Counter[str] = field(default_factory=Counter)
    tokens: dict[str, list[str]] = field(default_factory=dict)

    def ask(self, what: str) -> Callable[[str], None]:
        """Return what asks somebody, who does not answer at once."""

        def ask(token: str) -> None:
            self.tokens.setdefault(what, []).append(token)

        return ask

    def is_asked(self, token: str) -> bool:
        """Say whether somebody knows a token."""
        return any(token in tokens for tokens in self.tokens.values())

    async def wait(self, what: str, *, timeout: timedelta | None = None) -> Any:  # noqa: ASYNC109
        """Wait for an answer."""
        return await events.wait_for_external_event(what, ask=self.ask(what), timeout=timeout)

    def agent(self, *answers: Any, **options: Any) -> PaigeantAgent[Any, Any]:
        """Return the agent of a step, whose model gives these answers."""
        return PaigeantAgent(scripted(self.did, *answers), name="asking", **options)


def in_a_tool(world: World) -> Step:
    agent = world.agent(calls("decide"), "done")

    @agent.tool_plain(metadata=WAITS_ITSELF)
    async def decide() -> Any:
        world.did["answer"] = await world.wait("may I")
        return world.did["answer"]

    return agent.activity("go")


class Asking(AbstractCapability[Any]):
    """Waits in a hook."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def before_run(self, ctx: RunContext[Any]) -> None:
        self.world.did["answer"] = await self.world.wait("may I")


def in_a_hook(world: World) -> Step:
    return world.agent("done", capabilities=[Asking(world)]).activity("go")


def in_place(world: World) -> Step:
    agent = world.agent(calls("decide"), "done")

    @agent.tool_plain(metadata=WAITS_ITSELF)
    async def decide() -> Any:
        async def ask(token: str) -> str:
            world.ask("may I")(token)
            return "at once"

        world.did["answer"] = await events.wait_for_external_event("may I", ask=ask)
        return "ok"

    return agent.activity("go")


def given_up(timeout: timedelta | None) -> Callable[[World], Step]:
    def make(world: World) -> Step:
        agent = world.agent(calls("decide"), "done")

        @agent.tool_plain(metadata=WAITS_ITSELF)
        async def decide() -> Any:
            try:
                await world.wait("may I", timeout=timeout)
            except events.ExternalEventError as error:
                world.did["error"] = str(error)
            return await world.wait("what now")

        return agent.activity("go")

    return make


def two_with_one_name(world: World) -> Step:
    agent = world.agent(calls("decide"), "done")

    @agent.tool_plain(metadata=WAITS_ITSELF)
    async def decide() -> Any:
        first = await world.wait("may I")
        second = await world.wait("may I")
        world.did["answer"] = [first, second]
        return "ok"

    return agent.activity("go")


def in_parallel_calls(world: World) -> Step:
    agent = world.agent([*calls("decide", number=1), *calls("again", number=2), *calls("work", number=3)], "done")
    answers = {}

    @agent.tool_plain(metadata=WAITS_ITSELF)
    async def decide(number: int) -> Any:
        answers[number] = await world.wait("may I")
        return "ok"

    @agent.tool_plain(metadata=WAITS_ITSELF)
    async def again(number: int) -> Any:
        answers[number] = await world.wait("may I")
        world.did["answer"] = answers[number]
        return "ok"

    @agent.tool_plain
    async def work(number: int) -> str:
        world.did["worked"] += 1
        return "ok"

    return agent.activity("go")


def nested(world: World) -> Step:
    """An agent that waits, inside a tool of another."""
    inner: Agent[None, str] = Agent(
        scripted(world.did, calls("decide"), "fine", name="inner"), capabilities=[CeleryDurability[None](name="inner")]
    )

    @inner.tool_plain(metadata=WAITS_ITSELF)
    async def decide() -> Any:
        world.did["answer"] = await world.wait("may I")
        return "ok"

    outer = world.agent(calls("delegate"), "done")

    @outer.tool_plain(metadata=WAITS_ITSELF)
    async def delegate() -> Any:
        return (await inner.run("go")).output

    return outer.activity("go")


def in_a_function(world: World) -> Step:
    """A durable agent that waits, after a wait of the function itself."""
    agent: Agent[None, str] = Agent(
        scripted(world.did, calls("decide"), "done"), capabilities=[CeleryDurability[None](name="inner")]
    )

    @agent.tool_plain(metadata=WAITS_ITSELF)
    async def decide() -> Any:
        world.did["answer"] = await world.wait("may I")
        return "ok"

    @activity
    async def asking(context: WorkflowContext) -> str:
        await context.wait_for("begin", ask=world.ask("begin"))
        return (await agent.run("go")).output

    return asking.activity()


def deleting(world: World, *capabilities: AbstractCapability[Any], **options: Any) -> Step:
    """An agent that deletes with leave, and is told a price."""
    both = [ToolCallPart("delete", {"path": path}, path) for path in "ab"]
    agent = world.agent([*both, ToolCallPart("price", {}, "p")], "done", capabilities=capabilities, **options)

    @agent.tool_plain(requires_approval=True)
    def delete(path: str) -> str:
        world.did[f"deleted {path}"] += 1
        return "deleted"

    @agent.tool_plain
    def price() -> str:
        raise CallDeferred

    return agent.activity("go")


def request_input(world: World) -> Step:
    def ask(ctx: RunContext[Any], requests: DeferredToolRequests, token: str) -> None:
        world.ask("calls")(token)

    return deleting(world, RequestInput[Any](ask, timeout=HOUR))


def request_input_in_place(world: World) -> Step:
    async def ask(ctx: RunContext[Any], requests: DeferredToolRequests, token: str) -> DeferredToolResults:
        world.ask("calls")(token)
        return requests.build_results(approvals={"a": True, "b": False}, calls={"p": 3})

    return deleting(world, RequestInput[Any](ask))


def request_input_after_a_handler(world: World) -> Step:
    def decide(ctx: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults:
        world.did["policy"] += 1
        return requests.build_results(approvals={"a": ToolApproved(override_args={"path": "c"})})

    def ask(ctx: RunContext[Any], requests: DeferredToolRequests, token: str) -> None:
        world.ask("calls")(token)

    return deleting(world, RequestInput[Any](ask), HandleDeferredToolCalls(decide))


def in_a_handler(world: World) -> Step:
    async def decide(ctx: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults:
        world.did["begun"] += 1
        first = await workflow_context().wait_for("may I", ask=world.ask("may I"))
        world.did["answer"] = [first, await world.wait("really")]
        return requests.build_results(approvals={"a": True, "b": False}, calls={"p": 3})

    return deleting(world, HandleDeferredToolCalls(decide))


def yes(wait: Wait) -> Any:
    return payload("yes")


def nobody(wait: Wait) -> None:
    """Give no answer."""


def of_calls(**answers: Any) -> Answers:
    return lambda wait: {part: answers[part] for part in wait.parts}


def fails_first(wait: Wait) -> Any:
    return failed("nobody is there") if wait.name == "may I" else payload("go on")


def times_out_first(wait: Wait) -> Any:
    return TIME_IS_OVER if wait.name == "may I" else payload("go on")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to wait, what is answered, and what is seen then: `did` of the world, and how often somebody is asked."""

    name: str
    make: Callable[[World], Step]
    answers: Answers = yes
    did: dict[str, Any]
    asked: dict[str, int]
    suspended: int = 1


ROWS = [
    Row(name="in an unrecorded tool", make=in_a_tool, did={"answer": "yes", "local": 2}, asked={"may I": 1}),
    Row(name="in a hook", make=in_a_hook, did={"answer": "yes", "local": 1}, asked={"may I": 1}),
    Row(
        name="None as the payload", make=in_a_tool, answers=lambda wait: payload(None),
        did={"answer": None, "local": 2}, asked={"may I": 1},
    ),
    Row(
        name="an answer in place", make=in_place, answers=nobody, did={"answer": "at once", "local": 2},
        asked={"may I": 1}, suspended=0,
    ),
    Row(
        name="an answer that there is none", make=given_up(None), answers=fails_first,
        did={"error": "nobody is there", "local": 2}, asked={"may I": 1, "what now": 1}, suspended=2,
    ),
    Row(
        name="nobody answers in time, and a replay", make=given_up(HOUR), answers=times_out_first,
        did={"error": "No resolution arrived within 1:00:00.", "local": 2},
        asked={"may I": 1, "what now": 1}, suspended=2,
    ),
    Row(
        name="two with one name", make=two_with_one_name, did={"answer": ["yes", "yes"], "local": 2},
        asked={"may I": 2}, suspended=2,
    ),
    Row(
        name="in parallel calls, beside one that works", make=in_parallel_calls,
        did={"answer": "yes", "worked": 1, "local": 2}, asked={"may I": 2},
    ),
    Row(name="nested", make=nested, did={"answer": "yes", "local": 2, "inner": 2}, asked={"may I": 1}),
    Row(
        name="in a function", make=in_a_function, did={"answer": "yes", "local": 2},
        asked={"begin": 1, "may I": 1}, suspended=2,
    ),
    Row(
        name="in a handler, which begins again each time", make=in_a_handler,
        did={"answer": ["yes", "yes"], "begun": 3, "deleted a": 1, "local": 2},
        asked={"may I": 1, "really": 1}, suspended=2,
    ),
    Row(
        name="`RequestInput`, approved, denied and priced", make=request_input,
        answers=of_calls(a={"approval": True}, b={"approval": False}, p={"call": 3}),
        did={"deleted a": 1, "local": 2}, asked={"calls": 1},
    ),
    Row(
        name="`RequestInput` with changed arguments", make=request_input,
        answers=of_calls(
            a={"approval": {"kind": "tool-approved", "override_args": {"path": "z"}}}, b={"approval": False},
            p={"call": {"kind": "tool-failed", "message": "gone"}},
        ),
        did={"deleted z": 1, "local": 2}, asked={"calls": 1},
    ),
    Row(
        name="`RequestInput` that nobody answers in time", make=request_input, answers=lambda wait: TIME_IS_OVER,
        did={"local": 2}, asked={"calls": 1},
    ),
    Row(
        name="`RequestInput` that answers in place", make=request_input_in_place, answers=nobody,
        did={"deleted a": 1, "local": 2}, asked={"calls": 1}, suspended=0,
    ),
    Row(
        name="`RequestInput` for what a handler left", make=request_input_after_a_handler,
        answers=of_calls(b={"approval": True}, p={"call": 3}),
        did={"policy": 1, "deleted c": 1, "deleted b": 1, "local": 2}, asked={"calls": 1},
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_wait_keeps_its_contract(workflow_harness: WorkflowHarness, row: Row) -> None:
    """Each is asked for once, holds no worker, and gives every attempt the same."""
    world = World()

    handle = workflow_harness.dispatch([row.make(world)], correlation_id="w")
    outcomes = played(workflow_harness, handle, row.answers, is_asked=world.is_asked)

    assert (outcomes.count("suspended"), outcomes[-1]) == (row.suspended, "workflow_completed")
    assert handle.result_sync(0).output == "done"
    assert dict(world.did) == row.did
    assert {what: len(tokens) for what, tokens in world.tokens.items()} == row.asked
    assert all(len(set(tokens)) == len(tokens) for tokens in world.tokens.values())


BRIEF = ("in an unrecorded tool", "`RequestInput` for what a handler left")
DYING = [row if row.name in BRIEF else pytest.param(row, marks=pytest.mark.proof) for row in ROWS]


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("row", DYING, ids=lambda row: row.name)
def test_a_wait_keeps_its_contract_wherever_the_worker_dies(row: Row, done: bool) -> None:
    """Whoever was asked by a worker that died holds a token that is good, and no other."""
    point = 0
    while True:
        world, harness = World(), WorkflowHarness()
        with registry.isolated(), dying_at(harness, point, done=done) as met:
            handle = harness.dispatch([row.make(world)], correlation_id="w")
            played(harness, handle, row.answers, is_asked=world.is_asked)
            output = handle.result_sync(0).output
        if point >= len(met):
            break

        assert output == "done"
        assert {what: len(set(tokens)) for what, tokens in world.tokens.items()} == row.asked
        assert world.did.keys() == row.did.keys()
        assert {what: did for what, did in world.did.items() if not isinstance(did, int)} == {
            what: did for what, did in row.did.items() if not isinstance(did, int)
        }
        more = {what: world.did[what] - did for what, did in row.did.items() if isinstance(did, int)}
        assert set(more.values()) <= {0, 1}  # what was in flight is done once more
        point += 1
    assert point > 2


def test_an_answer_that_the_run_refuses_is_asked_for_again(workflow_harness: WorkflowHarness) -> None:
    """Whoever wrote into the store by itself learns it from another mail, and the run is not lost."""
    world = World()
    handle = workflow_harness.dispatch([request_input(world)], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    [first] = asked_for(workflow_harness)

    wrong = {"a": {"approval": {"kind": "maybe"}}, "b": {"approval": True}, "p": {"call": 1}}
    assert reply(workflow_harness, first, wrong) == "settled"
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    [second] = asked_for(workflow_harness)
    assert reply(workflow_harness, first, wrong) == "unknown"
    assert reply(workflow_harness, second, {**wrong, "a": {"approval": False}}) == "settled"
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]

    assert handle.result_sync(0).output == "done"
    assert world.tokens == {"calls": [first.token, second.token]}
    assert world.did == {"local": 2, "deleted b": 1}


def test_whoever_answers_sees_what_is_asked(workflow_harness: WorkflowHarness) -> None:
    """A list of what is pending shows the tools and their arguments."""
    workflow_harness.dispatch([request_input(World())], correlation_id="w")
    asyncio.run(workflow_harness.deliver())

    [wait] = asked_for(workflow_harness)
    about = read_about(wait.about)

    assert (about.step, about.activity, about.question) == ("asking", "asking", None)
    assert [(call.id, call.kind, call.tool, call.arguments) for call in about.calls] == [
        ("a", "approval", "delete", {"path": "a"}), ("b", "approval", "delete", {"path": "b"}),
        ("p", "external", "price", {}),
    ]  # fmt: skip
    assert wait.until == wait.since + HOUR


def test_whoever_answers_sees_the_questions_of_a_tool_that_asks(workflow_harness: WorkflowHarness) -> None:
    """`AskUser` passes them as arguments."""
    world = World()
    questions = [{"question": "Which colour?", "header": "colour"}, {"question": "How many?", "header": "count"}]
    agent = world.agent([ToolCallPart("ask_user_question", {"questions": questions}, "q")], "done")

    @agent.tool_plain
    def ask_user_question(questions: list[dict[str, str]]) -> str:
        raise CallDeferred(kind="question")

    workflow_harness.dispatch([agent.activity("go")], correlation_id="w")
    asyncio.run(workflow_harness.deliver())

    [wait] = asked_for(workflow_harness)
    about = read_about(wait.about)
    assert about.question == "Which colour?\nHow many?"
    assert [call.kind for call in about.calls] == ["question"]


def test_a_failed_ask_is_tried_again_with_the_same_token(workflow_harness: WorkflowHarness) -> None:
    """The mail server was away; the first mail may have got through."""
    tokens: list[str] = []

    def ask(ctx: RunContext[Any], requests: DeferredToolRequests, token: str) -> None:
        tokens.append(token)
        if len(tokens) == 1:
            raise ConnectionError("no mail today")

    handle = workflow_harness.dispatch([deleting(World(), RequestInput[Any](ask))], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["retrying", "suspended"]
    [wait] = asked_for(workflow_harness)

    assert tokens == [wait.token, wait.token]
    assert handle.cancel_sync()
    assert asked_for(workflow_harness) == []
    assert reply(workflow_harness, wait, {"a": {"approval": True}}) in ("late", "unknown")


def test_an_ask_that_answers_something_else_fails_as_in_a_plain_run(workflow_harness: WorkflowHarness) -> None:
    """It is a mistake in the program; asking again for ever would hide it."""

    def ask(ctx: RunContext[Any], requests: DeferredToolRequests, token: str) -> DeferredToolResults:
        return DeferredToolResults(approvals={"other": True})

    handle = workflow_harness.dispatch([deleting(World(), RequestInput[Any](ask))], correlation_id="w")
    asyncio.run(workflow_harness.deliver())

    with pytest.raises(Exception, match="UserError: what `ask` of `RequestInput` returned does not answer"):
        handle.result_sync(0)


def test_code_that_swallows_being_left_changes_nothing(workflow_harness: WorkflowHarness) -> None:
    """What a step makes of the end of an attempt is no answer, and nothing of it is recorded."""
    world = World()
    agent: Agent[None, str] = Agent(
        scripted(world.did, calls("decide"), "done"), capabilities=[CeleryDurability[None](name="inner")]
    )

    @agent.tool_plain(metadata=WAITS_ITSELF)
    async def decide() -> Any:
        return await world.wait("may I")

    @activity
    async def asking() -> str:
        try:
            return (await agent.run("go")).output
        except asyncio.CancelledError:
            with suppress(Exception):
                await agent.run("again")  # no call of it is made
            return "gave up"

    handle = workflow_harness.dispatch([asking.activity()], correlation_id="w")
    outcomes = played(workflow_harness, handle, yes)

    assert outcomes == ["suspended", "workflow_completed"]
    assert handle.result_sync(0).output == "done"
    assert world.did == {"local": 2}


def test_a_deadline_ends_a_run_that_waits(workflow_harness: WorkflowHarness) -> None:
    """No step timeout runs meanwhile; a deadline does."""
    world = World()
    deadline = workflow_harness._now() + HOUR
    handle = workflow_harness.dispatch([in_a_tool(world)], correlation_id="w", deadline=deadline)
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]

    workflow_harness._skipped += HOUR
    workflow_harness.sweep()
    asyncio.run(workflow_harness.deliver())

    assert handle.status_sync().state == "failed"
    assert asked_for(workflow_harness) == []


@pytest.mark.parametrize(
    ("given", "path"),
    [({"name": "two\nlines"}, "name"), ({"name": ""}, "name"), ({"timeout": timedelta.max}, "timeout")],
    ids=["lines", "empty", "for ever"],
)
def test_a_wait_that_could_not_be_shown_or_would_never_end_is_refused(
    workflow_harness: WorkflowHarness, given: dict[str, Any], path: str
) -> None:
    """The name stands in Flower and in events, and no store has a time that far away."""
    world = World()

    def ask(ctx: RunContext[Any], requests: DeferredToolRequests, token: str) -> None:
        world.ask("calls")(token)

    handle = workflow_harness.dispatch([deleting(world, RequestInput[Any](ask, **given))], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["failed"]

    with pytest.raises(WorkflowFailed, match=f"invalid_wait at `{path}`"):
        handle.result_sync(0)
    assert world.tokens == {}
