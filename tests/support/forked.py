"""Workflows that are forked, on both stores: their activities, and how they are run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

import paigeant_celery.testing
from paigeant_celery import FunctionSpec, PaigeantAgent, StepPolicy, WorkflowContext, WorkflowHandle, activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.store.redis import RedisStore
from paigeant_celery.testing import WorkflowHarness
from tests.support.branched_steps import load
from tests.support.servers import RedisDatabase

__all__ = ["LARGE", "Writer", "fail", "forkable_steps", "give", "given", "harness", "inner_outputs", "run", "told"]

LARGE = "x" * 3000


class Writer:
    """An agent that answers with its name and the prompt that it was given, and remembers what it was sent."""

    def __init__(self, name: str, **more: Any) -> None:
        self.name, self.sent = name, list[list[str]]()
        self.agent = PaigeantAgent(FunctionModel(self.answer), name=name, **more)

    def answer(self, messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        parts = [part for message in messages for part in message.parts if isinstance(part, UserPromptPart)]
        self.sent.append([str(part.content).partition("\n")[0] for part in parts])
        usage = RequestUsage(input_tokens=10, output_tokens=1)
        return ModelResponse(parts=[TextPart(f"{self.name}: {self.sent[-1][-1]}")], usage=usage)


@activity
async def told(context: WorkflowContext) -> Any:
    """Say what a step may know: the variables, and the outputs of the steps before it."""
    before = context.previous_output
    return {"variables": dict(context.variables), "previous": before.output if before is not None else None}


@activity
async def inner_outputs(context: WorkflowContext, paths: list[str]) -> Any:
    return [(await context.output(path)).output for path in paths]


@activity
async def give(context: WorkflowContext, what: Any) -> Any:
    return what


@activity(policy=StepPolicy(max_attempts=1, final_on=[LookupError]))
async def fail(context: WorkflowContext) -> Any:
    raise LookupError("no such source")


def given(step_id: str, what: Any) -> FunctionSpec:
    return FunctionSpec("give", {"what": what}, step_id=step_id)


@pytest.fixture(autouse=True)
def forkable_steps() -> Iterator[None]:
    """Load the activities into an otherwise empty registry."""
    with registry.isolated():
        load()
        for each in (told, inner_outputs, give, fail):
            registry.add(each, holder=each)
        yield


@pytest.fixture(params=["memory", "redis"])
def harness(
    request: pytest.FixtureRequest, redis_db: RedisDatabase, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WorkflowHarness]:
    if request.param == "memory":
        yield WorkflowHarness()
        return
    store = RedisStore(redis_db.url, prefix=redis_db.prefix, lease=10, ttl=60)
    monkeypatch.setattr(paigeant_celery.testing, "MemoryStore", lambda **_: store)
    yield WorkflowHarness()
    store.close()


def run(harness: WorkflowHarness, *steps: Any, **more: Any) -> WorkflowHandle:
    handle = harness.dispatch(list(steps), correlation_id="w", **more)
    asyncio.run(harness.deliver())
    return handle
