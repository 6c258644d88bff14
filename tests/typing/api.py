"""Checked by a strict type checker, never run: the types of deps and outputs survive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import assert_type

from pydantic import BaseModel, JsonValue
from pydantic_ai import Agent, BinaryContent, CachePoint, ImageUrl, RunContext, TextContent

from paigeant_celery import (
    ActivitySpec,
    Answered,
    AskedCall,
    FunctionSpec,
    GivenAnswer,
    Inbox,
    PaigeantAgent,
    PendingWait,
    SleepSpec,
    StepOutput,
    StepPolicy,
    TaskSpec,
    WaitSpec,
    WorkflowContext,
    WorkflowDependencies,
    WorkflowDispatcher,
    WorkflowHandle,
    WorkflowLimits,
    WorkflowResult,
    activity,
    get_transport,
    register_agent,
    register_task,
    sleep_for,
    sleep_until,
    wait_for,
)
from paigeant_celery.testing import WorkflowHarness


class Draft(BaseModel):
    text: str


class Verdict(BaseModel):
    good: bool


class ShopDeps(WorkflowDependencies):
    tenant: str


class Pool:
    """Something that cannot cross a queue."""


dispatcher = WorkflowDispatcher()


# Agents keep the types of their deps and output, as `pydantic_ai.Agent` does.

writer = PaigeantAgent(
    "anthropic:claude-sonnet-4-5", output_type=Draft, deps_type=ShopDeps, dispatcher=dispatcher, name="writer"
)
plain = PaigeantAgent("anthropic:claude-sonnet-4-5")
choosing: PaigeantAgent[object, Draft | Verdict] = PaigeantAgent(output_type=[Draft, Verdict])

PaigeantAgent("anthropic:claude-sonnet-4-5", instrutions="be kind")  # type: ignore[call-arg]

assert_type(writer, PaigeantAgent[ShopDeps, Draft])
assert_type(plain, PaigeantAgent[object, str])
ordinary: Agent[ShopDeps, Draft] = writer


@writer.tool
async def tenant(ctx: RunContext[ShopDeps]) -> str:
    assert_type(ctx.deps, ShopDeps)
    assert_type(ctx.deps.previous_output, StepOutput | None)
    return ctx.deps.tenant


@writer.tool  # type: ignore[arg-type]
async def of_another_type(ctx: RunContext[Pool]) -> str:
    return str(ctx.deps)


async def runs() -> None:
    assert_type((await writer.run("now", deps=ShopDeps(tenant="a"))).output, Draft)
    assert_type((await plain.run("now")).output, str)
    assert_type((await choosing.run("now")).output, Draft | Verdict)


# Steps.

assert_type(writer.activity("write", ShopDeps(tenant="a")), ActivitySpec)
assert_type(writer.activity("write", {"tenant": "a"}, step_id="first", policy=StepPolicy(timeout=3.0)), ActivitySpec)
assert_type(writer.add_to_runway(prompt="write", deps=ShopDeps(tenant="a")), ActivitySpec)
assert_type(writer.register_activity(prompt="write"), ActivitySpec)
writer.activity()  # type: ignore[call-arg]
parts: list[str | ImageUrl] = ["what is it?", ImageUrl("https://example.com/a.png")]
assert_type(writer.activity(parts), ActivitySpec)
assert_type(
    writer.register_activity(["x", BinaryContent(b"", media_type="image/png"), {"kind": "cache-point"}]), ActivitySpec
)
assert_type(writer.add_to_runway(("x", TextContent("y"), CachePoint())), ActivitySpec)
assert_type(ActivitySpec("writer", ["x", {"kind": "image-url", "url": "https://example.com/a.png"}]), ActivitySpec)
writer.activity(ImageUrl("https://example.com/a.png"))  # type: ignore[arg-type]
writer.activity(["x", b"y"])  # type: ignore[list-item]


# Steps that wait.

assert_type(wait_for("paid", timeout=3.5, step_id="money"), WaitSpec)
assert_type(wait_for("paid", timeout=timedelta(days=1)), WaitSpec)
assert_type(sleep_for(90), SleepSpec)
assert_type(sleep_for(timedelta(days=1), step_id="night"), SleepSpec)
assert_type(sleep_until(datetime.now(UTC)), SleepSpec)
wait_for("paid", 5)  # type: ignore[call-arg]
wait_for(writer)  # type: ignore[arg-type]
sleep_for("5")  # type: ignore[arg-type]
sleep_until(5)  # type: ignore[arg-type]


# What is made on the worker has the type that the agent asks for.


@asynccontextmanager
async def open_pool(data: dict[str, JsonValue], context: WorkflowContext) -> AsyncIterator[Pool]:
    yield Pool()


def make_wrong(data: dict[str, JsonValue], context: WorkflowContext) -> int:
    return 3


pooled = PaigeantAgent("anthropic:claude-sonnet-4-5", deps_type=Pool, deps_factory=open_pool)
assert_type(pooled, PaigeantAgent[Pool, str])
PaigeantAgent("anthropic:claude-sonnet-4-5", deps_type=Pool, deps_factory=make_wrong)  # type: ignore[arg-type]
register_agent(Agent("anthropic:claude-sonnet-4-5"), name="any_agent", queue="slow")


# Functions keep their parameters, without the context.


@activity
def score(limit: int) -> int:
    return limit


@activity
async def rank(context: WorkflowContext, limit: int, *, label: str = "") -> list[str]:
    return [label] * limit


@activity(name="judge", queue="slow", policy=StepPolicy(timeout=3.0))
def judged(context: WorkflowContext, draft: Draft) -> Verdict:
    return Verdict(good=bool(draft.text))


assert_type(score.activity(limit=3), FunctionSpec)
assert_type(rank.activity(3, label="a"), FunctionSpec)
assert_type(judged.activity(Draft(text="a")), FunctionSpec)
score.activity(limit="three")  # type: ignore[arg-type]
score.activity()  # type: ignore[call-arg]
rank.activity("three")  # type: ignore[arg-type]


# Celery tasks. Celery has no types of its own; this is a signature as `celery-types` describes it.


class Signature:
    task: str
    args: tuple[object, ...]
    kwargs: dict[str, object]
    options: dict[str, object]
    subtask_type: str
    immutable: bool


async def tasks(charge: Signature) -> None:
    await dispatcher.dispatch_workflow(itinerary=[writer.activity("write"), charge])
    dispatcher.dispatch_workflow_sync(itinerary=(charge, charge))
    await WorkflowHarness().run([charge, score.activity(limit=3)])
    dispatcher.add(charge)
    dispatcher.add("shop.charge")  # type: ignore[arg-type]
    dispatcher.add({"task": "shop.charge"})  # type: ignore[arg-type]


assert_type(register_task(object(), queue="slow", policy=StepPolicy(timeout=3.0)).activity(1, order=17), TaskSpec)
assert_type(TaskSpec("shop.charge", (1,), {"order": 17}, "payment", immutable=True), TaskSpec)
TaskSpec("shop.charge", order=17)  # type: ignore[call-arg]


# Outputs.


async def outputs(step: StepOutput, context: WorkflowContext, handle: WorkflowHandle) -> None:
    assert_type(step.output, JsonValue)
    assert_type(step.output_as(Draft), Draft)
    assert_type((await context.output("first")).output_as(list[Draft]), list[Draft])

    result = await handle.result(timeout=3)
    assert_type(result, WorkflowResult)
    assert_type(result.output, JsonValue)
    assert_type(result.output_as(Draft), Draft)
    assert_type(result.output_as(list[int], step_id="first"), list[int])
    assert_type(handle.result_sync().output_as(Verdict), Verdict)


async def answers(handle: WorkflowHandle, inbox: Inbox) -> None:
    (wait,) = await handle.pending()
    assert_type(wait, PendingWait)
    assert_type(wait.calls[0].arguments, JsonValue)
    assert_type(inbox.pending_sync(limit=3, after=wait.cursor), Sequence[PendingWait])

    told = await inbox.approve(wait.token, "call-1", override_args={"amount": 3}, by="ann")
    assert_type(told, Answered)
    assert_type(told.first, GivenAnswer | None)
    assert_type(await handle.deny(wait.token, message="no"), Answered)
    assert_type(handle.resolve_sync(wait.token, {"size": 3}), Answered)
    assert_type(await handle.signal("paid", {"amount": 3}, signal_id="evt-1"), Answered)
    inbox.approve_sync(wait.token, override_args=[3])  # type: ignore[arg-type]


async def dispatches() -> None:
    transport = get_transport()
    correlation_id = await dispatcher.dispatch_workflow(transport, itinerary=[writer.activity("a"), score.activity(3)])
    assert_type(correlation_id, str)
    assert_type(dispatcher.dispatch_workflow_sync(itinerary=[rank.activity(3)]), str)
    await dispatcher.dispatch_workflow(itinerary=[writer.activity("a"), wait_for("paid"), sleep_for(1)])
    dispatcher.dispatch_workflow_sync(itinerary=[wait_for("paid")], start_at=datetime.now(UTC))
    dispatcher.add(sleep_until(datetime.now(UTC)))
    dispatcher.register(wait_for("paid"))  # type: ignore[arg-type]
    dispatcher.dispatch_workflow_sync(start_at=5)  # type: ignore[arg-type]
    dispatcher.dispatch_workflow_sync(stream=True, usage_limits=WorkflowLimits(request_limit=3, cost_limit="0.5"))
    WorkflowLimits(requests=3)  # type: ignore[call-arg]
    assert_type(dispatcher.handle(correlation_id, transport), WorkflowHandle)


# Tests.


async def tests(workflow_harness: WorkflowHarness) -> None:
    def decide(call: AskedCall) -> bool:
        assert_type(call.arguments, JsonValue)
        return call.tool == "refund"

    async def address(wait: PendingWait) -> str:
        assert_type(wait.question, str | None)
        assert_type(wait.calls, tuple[AskedCall, ...])
        return wait.name

    answers = {"refund": decide, "address": address, "paid": {"cents": 3}, "word": None}
    assert_type(await workflow_harness.run([score.activity(3)], answers=answers), WorkflowResult)
    assert_type(await workflow_harness.deliver(), list[str])
    workflow_harness.skip(timedelta(hours=1))
    await workflow_harness.run([score.activity(3)], answers=True)  # type: ignore[arg-type]
