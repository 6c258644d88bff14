"""The handlers of deferred tool calls of a durable run: each is asked once, whatever it would answer later."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ApprovalRequired, CallDeferred, DeferredToolRequests, DeferredToolResults, RunContext
from pydantic_ai.capabilities import AbstractCapability, HandleDeferredToolCalls, Hooks
from pydantic_ai.exceptions import ModelRetry, ToolFailed, UserError
from pydantic_ai.messages import ToolCallPart, ToolReturn, ToolReturnPart
from pydantic_ai.tools import ToolApproved, ToolDenied

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.errors import HopLost, NotSerializable
from tests.support.journalled_hop import JournalledHop, history, scripted

pytestmark = pytest.mark.anyio


class Price(BaseModel):
    """What a call that is made elsewhere gives."""

    in_cents: int = Field(alias="inCents")


def shop(did: Counter[str], *handlers: AbstractCapability[None], answers: tuple[Any, ...] = ()) -> Agent[None, Any]:
    """Return a durable agent that pays twice with approval and asks for two prices that are found elsewhere."""
    calls = [
        *(ToolCallPart("pay", {"amount": amount}, f"pay-{amount}") for amount in (1, 2)),
        *(ToolCallPart("price", {"of": of}, f"price-{of}") for of in "ab"),
    ]
    agent: Agent[None, Any] = Agent(
        scripted(did, *(answers or (calls, "done"))),
        name="shop",
        output_type=[str, DeferredToolRequests],
        capabilities=[CeleryDurability[None](), *handlers],
    )

    @agent.tool
    def pay(ctx: RunContext[None], amount: int) -> str:
        if not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"limit": 3})
        did[f"paid {amount}"] += 1
        return f"paid {amount} {ctx.tool_call_metadata}"

    @agent.tool_plain
    def price(of: str) -> Price:
        raise CallDeferred

    return agent


def returned(result: Any) -> dict[str, tuple[str, Any]]:
    """Return the outcome and the text of each call."""
    return {
        part.tool_call_id: (part.outcome, part.model_response_str())
        for message in result.all_messages()
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    }


class Fickle:
    """A handler that answers otherwise each time: it approves and prices first, and then denies."""

    def __init__(self, did: Counter[str], *, only: str = "") -> None:
        self.did, self.only = did, only

    async def __call__(self, ctx: RunContext[None], requests: DeferredToolRequests) -> DeferredToolResults:
        self.did["asked"] += 1
        first = self.did["asked"] == 1
        approved = [call for call in requests.approvals if self.only in call.tool_call_id]
        priced = [call for call in requests.calls if self.only in call.tool_call_id]
        return requests.build_results(
            approvals={
                call.tool_call_id: ToolApproved(override_args={"amount": 20}) if first else ToolDenied("no more")
                for call in approved
            },
            calls={call.tool_call_id: Price(inCents=5) if first else ToolFailed("gone") for call in priced},
            metadata={call.tool_call_id: {"by": self.did["asked"]} for call in approved},
        )


@pytest.mark.parametrize("way", ["capability", "hook"])
async def test_a_handler_is_asked_once_wherever_an_attempt_is_cut_off(way: str) -> None:
    """What ran was approved, and what the history says of it is what happened."""
    points = 0
    for after in range(9):
        did, hop = Counter[str](), JournalledHop()
        fickle = Fickle(did)
        handler: AbstractCapability[None] = HandleDeferredToolCalls(fickle)
        if way == "hook":
            handler = Hooks[None](deferred_tool_calls=lambda ctx, *, requests, fickle=fickle: fickle(ctx, requests))
        agent = shop(did, handler)
        with hop.attempt(cut_after=after):
            try:
                await agent.run("go")
            except HopLost:
                points += 1
        recorded = any("handle_deferred_tool_calls" in name for name in hop.records)
        asked = did["asked"]
        with hop.attempt():
            result = await agent.run("go")
        with hop.attempt() as again:
            replayed = await agent.run("go")

        assert did["asked"] == (asked if recorded else asked + 1)
        assert (again.made, history(replayed)) == (0, history(result))
        if did["asked"] == 1:
            assert returned(result) == {
                "pay-1": ("success", "paid 20 {'by': 1}"),
                "pay-2": ("success", "paid 20 {'by': 1}"),
                "price-a": ("success", '{"inCents":5}'),
                "price-b": ("success", '{"inCents":5}'),
            }
        outcomes = {outcome for outcome, _ in returned(result).values()}
        assert outcomes in ({"success"}, {"denied", "failed"})
    assert points >= 5


async def test_a_plain_run_and_a_hop_say_the_same() -> None:
    """Answers that are models have the text that they have outside a hop."""
    plain, did = Counter[str](), Counter[str]()

    expected = await shop(plain, HandleDeferredToolCalls(Fickle(plain))).run("go")
    with JournalledHop().attempt():
        result = await shop(did, HandleDeferredToolCalls(Fickle(did))).run("go")

    assert (returned(result), did) == (returned(expected), plain)


async def test_answers_of_several_handlers_are_recorded() -> None:
    """Each answers a part, and each part is a record: if the second waits, the first is not asked again."""
    did, hop = Counter[str](), JournalledHop()
    first, second = Counter[str](), Counter[str]()
    agent = shop(
        did,
        HandleDeferredToolCalls(Fickle(first, only="pay")),
        HandleDeferredToolCalls(Fickle(second, only="price")),
    )

    with hop.attempt():
        result = await agent.run("go")
    with hop.attempt() as again:
        replayed = await agent.run("go")

    assert (again.made, history(replayed), replayed.output) == (0, history(result), "done")
    assert (first["asked"], second["asked"]) == (1, 1)
    assert len([name for name in hop.records if "handle_deferred_tool_calls" in name]) == 2


async def test_what_nobody_answered_is_asked_again_and_what_was_answered_is_not() -> None:
    """Whoever redrives the step with a handler that knows more goes on; nothing is approved twice."""
    did, hop = Counter[str](), JournalledHop()
    first = Fickle(did, only="pay")

    with hop.attempt():
        result = await shop(did, HandleDeferredToolCalls(first)).run("go")
    left = [call.tool_call_id for call in result.output.calls]
    more = Counter[str]()
    with hop.attempt():
        later = await shop(did, HandleDeferredToolCalls(Fickle(more))).run("go")

    assert left == ["price-a", "price-b"]
    assert later.output == "done"
    assert returned(later)["pay-1"] == returned(result)["pay-1"] == ("success", "paid 20 {'by': 1}")
    assert returned(later)["price-a"] == ("success", '{"inCents":5}')
    assert (did["asked"], more["asked"], did["paid 20"]) == (1, 1, 2)


async def test_a_refusal_is_replayed_if_the_step_went_on_without_an_answer() -> None:
    """A later run was made because nobody answered; an answer now would be one to another history."""
    did, hop = Counter[str](), JournalledHop()

    async def step() -> str:
        def decline(ctx: RunContext[None], requests: DeferredToolRequests) -> DeferredToolResults | None:
            did["asked"] += 1
            return None if did["asked"] == 1 else requests.build_results(approve_all=True)

        result = await shop(did, HandleDeferredToolCalls(decline)).run("go")
        other: Agent[None, str] = Agent(
            scripted(did, "instead", name="other"), name="other", capabilities=[CeleryDurability[None]()]
        )
        return result.output if isinstance(result.output, str) else (await other.run("go")).output

    with hop.attempt():
        assert await step() == "instead"
    with hop.attempt() as again:
        assert await step() == "instead"

    assert (again.made, did["asked"]) == (0, 1)


KINDS: dict[str, Any] = {
    "approved": {"approvals": {"pay-1": True, "pay-2": ToolApproved()}},
    "denied": {"approvals": {"pay-1": False, "pay-2": ToolDenied("not today")}},
    "retried": {"calls": {"price-a": ModelRetry("of what"), "price-b": "text"}},
    "failed": {"calls": {"price-a": ToolFailed("gone"), "price-b": None}},
    "returned": {"calls": {"price-a": ToolReturn({"a": b"x"}, content="see", metadata={"m": 1}), "price-b": (1, 2)}},
    "lookalikes": {"calls": {"price-a": {"kind": "model-retry", "message": "a"}, "price-b": {"a": float("nan")}}},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_answers_of_every_kind_come_back(kind: str) -> None:
    """The model is shown the same in a plain run, in a hop and in a replay."""

    def handle(ctx: RunContext[None], requests: DeferredToolRequests) -> DeferredToolResults:
        rest = {"approvals": {"pay-1": True, "pay-2": True}, "calls": {"price-a": 1, "price-b": 2}}
        return requests.build_results(**{**rest, **KINDS[kind]})

    did, hop = Counter[str](), JournalledHop()
    agent = shop(did, HandleDeferredToolCalls(handle))
    plain = await agent.run("go")
    with hop.attempt():
        result = await agent.run("go")
    with hop.attempt() as again:
        replayed = await agent.run("go")

    assert returned(plain) == returned(result) == returned(replayed)
    assert (again.made, history(replayed)) == (0, history(result))


async def test_the_error_of_a_handler_fails_the_attempt_and_nothing_else() -> None:
    """The next one asks again."""
    did, hop = Counter[str](), JournalledHop()

    def handle(ctx: RunContext[None], requests: DeferredToolRequests) -> DeferredToolResults:
        did["asked"] += 1
        if did["asked"] == 1:
            raise ConnectionError("nobody is there")
        return requests.build_results(approve_all=True, calls={"price-a": 1, "price-b": 2})

    agent = shop(did, HandleDeferredToolCalls(handle))
    with hop.attempt(), pytest.raises(ConnectionError):
        await agent.run("go")
    with hop.attempt():
        result = await agent.run("go")

    assert (result.output, did["asked"], did["local"]) == ("done", 2, 1 + 1)


async def test_agents_that_a_handler_asks_are_paid_for_once() -> None:
    """Their usage counts in a replay as well."""
    did, hop = Counter[str](), JournalledHop()
    judge: Agent[None, str] = Agent(
        scripted(did, "yes", name="judge"), name="judge", capabilities=[CeleryDurability[None]()]
    )

    async def handle(ctx: RunContext[None], requests: DeferredToolRequests) -> DeferredToolResults:
        verdict = (await judge.run("may it", usage=ctx.usage)).output
        approvals = {call.tool_call_id: verdict == "yes" for call in requests.approvals}
        return requests.build_results(approvals=approvals, calls={"price-a": 1, "price-b": 2})

    agent = shop(did, HandleDeferredToolCalls(handle))
    plain = await agent.run("go")
    with hop.attempt():
        result = await agent.run("go")
    with hop.attempt() as again:
        replayed = await agent.run("go")

    assert plain.usage == result.usage == replayed.usage
    assert (again.made, did["judge"]) == (0, 2)


async def test_an_answer_without_a_json_form_is_refused() -> None:
    """It could not be replayed."""

    def handle(ctx: RunContext[None], requests: DeferredToolRequests) -> DeferredToolResults:
        return requests.build_results(approvals={"pay-1": ToolApproved(override_args={"amount": object()})})

    with JournalledHop().attempt(), pytest.raises(NotSerializable, match="an answer of `handle_deferred_tool_calls`"):
        await shop(Counter(), HandleDeferredToolCalls(handle)).run("go")


async def test_a_handler_cannot_reach_into_the_run() -> None:
    """As in a recorded tool, a replay would lose it."""

    def handle(ctx: RunContext[None], requests: DeferredToolRequests) -> DeferredToolResults:
        ctx.enqueue("and another thing")
        return requests.build_results(approve_all=True)

    with JournalledHop().attempt(), pytest.raises(UserError, match="enqueue"):
        await shop(Counter(), HandleDeferredToolCalls(handle)).run("go")
