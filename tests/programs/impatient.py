"""Steps that wait for other workflows, each in its own way, which none of them may do; and steps that yield."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

from pydantic_ai.models.test import TestModel

from paigeant_celery import (
    FunctionSpec,
    PaigeantAgent,
    StepPolicy,
    WorkflowContext,
    WorkflowDispatcher,
    WorkflowHandle,
    activity,
    get_transport,
)
from paigeant_celery.celery import app

ONCE = StepPolicy(timeout=60.0, max_attempts=1)


def start(correlation_id: str, queue: str | None = None) -> WorkflowHandle:
    """Dispatch a workflow of one step and return its handle."""
    transport, dispatcher = get_transport(app=app), WorkflowDispatcher()
    dispatcher.dispatch_workflow_sync(
        transport, itinerary=[FunctionSpec("child", {}, queue=queue)], correlation_id=f"{correlation_id}-child"
    )
    return dispatcher.handle(f"{correlation_id}-child", transport)


@activity
def child() -> str:
    return "done"


@activity(policy=ONCE)
def waits(context: WorkflowContext, how: str) -> Any:
    """Start a workflow and wait for it."""
    if how == "for itself":
        return WorkflowDispatcher().handle(context.correlation_id, get_transport(app=app)).result_sync().output
    handle = start(context.correlation_id)
    if how == "its events":
        return [event.type for event in handle.events_sync()]
    if how == "in a loop of its own":
        return asyncio.run(handle.result()).output
    if how == "in a pool":
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return pool.submit(handle.result_sync).result().output
    if how == "while it yields":
        return (handle.result_sync().output for _ in range(1))
    if how == "for a Celery task":
        return app.AsyncResult("never").get()
    assert how == "for its result"
    return handle.result_sync().output


@activity(policy=ONCE)
async def waits_too(context: WorkflowContext, how: str) -> Any:
    """Start a workflow and wait for it on the event loop."""
    handle = start(context.correlation_id)
    if how == "its events":
        return [event.type async for event in handle.events()]
    if how == "in a thread":
        return (await asyncio.to_thread(handle.result_sync)).output
    if how == "in the loop's pool":
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(None, handle.result_sync)).output
    if how == "in a task":
        return (await asyncio.create_task(handle.result())).output
    assert how == "for its result"
    return (await handle.result(30)).output


asking = PaigeantAgent(TestModel(call_tools=["ask"]), policy=ONCE)


@asking.tool_plain
def ask() -> str:
    """Wait for a workflow."""
    return str(start("asked").result_sync().output)


@activity(policy=ONCE)
def looks(context: WorkflowContext) -> list[object]:
    """Do what a step may do with another workflow, which is all but waiting for its end."""
    handle = start(context.correlation_id, queue=f"{app.conf.paigeant_prefix}-unserved")
    try:
        handle.result_sync(timeout=0)
    except TimeoutError:
        seen: list[object] = ["not yet"]
    return [*seen, handle.status_sync().step_id, handle.events_so_far()[0].type, handle.cancel_sync()]


@activity(policy=ONCE)
def reads(correlation_id: str) -> Any:
    """Read the output of a workflow that has ended."""
    handle = WorkflowDispatcher().handle(correlation_id, get_transport(app=app))
    return [handle.result_sync(60).output, [event.type for event in handle.events_sync()][-1]]


@activity(policy=ONCE)
def yields() -> Iterator[str]:
    """Yield where this is read."""
    yield threading.current_thread().name
    yield from map(str, range(2))
