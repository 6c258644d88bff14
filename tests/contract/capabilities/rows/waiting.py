"""Providers that take their time, and work beside the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from pydantic_ai import Agent, RunContext, capabilities
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.batch import Batch
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.output import PendingModelResponse

from paigeant_celery import CeleryDurability
from paigeant_celery.journal.hop_waits import HopWaits
from paigeant_celery.journal.scope import current_journal
from tests.contract.capabilities.row import Made, Row
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]

POLLS = 3
MOMENT = 0.01  # seconds between polls


class Background(FunctionModel):
    """A provider that works on a response in the background and is asked whether it is ready."""

    def __init__(self, world: World, *, polls: int = POLLS) -> None:
        super().__init__(self._answer, model_name="background")
        self.world, self.polls = world, polls

    def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        last = messages[-1]
        if not (isinstance(last, ModelResponse) and last.state == "suspended"):
            self.world.did("job begun")
            self.world.state["polls"] = 0
            return self._suspended()
        self.world.did("poll")
        self.world.state["polls"] += 1
        if self.world.state["polls"] < self.polls:
            return self._suspended()
        return ModelResponse(parts=[TextPart("done")], provider_response_id="job-1")

    def _suspended(self) -> ModelResponse:
        return ModelResponse(parts=[], state="suspended", provider_response_id="job-1")

    def continuation_delay(self, response: ModelResponse) -> float | None:
        return MOMENT

    async def cancel_suspended_response(self, response: ModelResponse) -> None:
        self.world.did("job cancelled")


def in_background(world: World) -> Made:
    return Agent(Background(world))


def pending(world: World) -> Made:
    return Agent(Background(world), output_type=[str, PendingModelResponse])


def with_own_sleep(world: World) -> Made:
    """Each wait of the run is slept once, whatever its process dies at."""
    agent = Agent(Background(world), name="worker", capabilities=[CeleryDurability()])

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)

    async def run() -> Any:
        with Agent.using_sleep(sleep):
            return await agent.run("go")

    return run


def paused(world: World) -> Made:
    """A model that pauses within its turn and is asked to go on."""

    def go_on(messages: Sequence[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("and two")], provider_response_id="two")

    first = ModelResponse(parts=[TextPart("one ")], state="suspended", provider_response_id="one")
    return Agent(world.model(first, go_on))


@contextmanager
def minutes_that_pass_at_once(world: World) -> Iterator[None]:
    """Let only waits move the clock, which outlives the process."""
    world.state.setdefault("clock", 0.0)

    async def pause(seconds: float) -> None:
        await asyncio.sleep(0)
        world.state["clock"] += max(0.0, seconds)

    def now() -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=world.state["clock"])

    async def sleep_until(_: HopWaits, until: datetime, **__: Any) -> None:
        await pause((until - now()).total_seconds())

    monotonic = SimpleNamespace(monotonic=lambda: world.state["clock"])
    with ExitStack() as stack:
        stack.enter_context(patch.object(HopWaits, "sleep_until", sleep_until))
        if (journal := current_journal()) is not None:
            journal.waits.now = now
        stack.enter_context(patch("pydantic_ai.models._batch_model.time", monotonic))
        stack.enter_context(Agent.using_sleep(pause))
        yield


def taking_time(agent_of: Callable[[World], Agent[Any, Any]]) -> Callable[[World], Made]:
    """Return a step that says how long it has waited in all attempts together."""

    def make(world: World) -> Made:
        agent = agent_of(world)

        async def run() -> Any:
            with minutes_that_pass_at_once(world):
                result = await agent.run("go")
            return [result.output, round(world.state["clock"])]

        return run

    return make


def is_done(world: World) -> bool:
    return bool(world.state["clock"] >= 60)


class Slow(Background):
    """A job of a minute."""

    def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        last = messages[-1]
        if not (isinstance(last, ModelResponse) and last.state == "suspended"):
            self.world.did("job begun")
            return self._suspended()
        self.world.did("poll")
        done = [TextPart("done")]
        return ModelResponse(parts=done, provider_response_id="job-1") if is_done(self.world) else self._suspended()

    def continuation_delay(self, response: ModelResponse) -> float | None:
        return 20.0


def slow(world: World) -> Agent[Any, Any]:
    return Agent(Slow(world), name="worker", capabilities=[CeleryDurability()])


class Batched(FunctionModel):
    """A provider's batch, which takes a minute."""

    def __init__(self, world: World) -> None:
        super().__init__(lambda messages, info: ModelResponse(parts=[TextPart("done")]), model_name="batched")
        self.world = world

    async def batch_create(self, requests: Any) -> Batch:
        self.world.did("batch begun")
        batch = await super().batch_create(requests)
        self.world.state["batch"] = (batch, await super().batch_results(batch))
        return replace(batch, status="in_progress")

    async def batch_status(self, batch: Batch) -> Batch:
        self.world.did("poll")
        ended, _ = self.world.state["batch"]
        return ended if is_done(self.world) else batch

    async def batch_results(self, batch: Batch) -> Any:
        _, results = self.world.state["batch"]
        return results

    async def batch_cancel(self, batch: Batch) -> Batch:
        self.world.did("batch cancelled")
        return batch


def in_batches(world: World) -> Agent[Any, Any]:
    every = timedelta(seconds=20)
    given = capabilities.BatchModelRequests(
        max_wait=timedelta(milliseconds=1), poll_interval=every, max_poll_interval=every
    )
    return Agent(Batched(world), name="worker", capabilities=[CeleryDurability(), given])


class InBackground(capabilities.AbstractCapability[Any]):
    """Runs tools beside the run, and lets the run go on when they end: what the harness' background tools do."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks: list[asyncio.Task[Any]] = []

    async def wrap_tool_execute(self, ctx: RunContext[Any], **given: Any) -> Any:
        self.tasks.append(asyncio.create_task(given["handler"](given["args"])))
        return "working on it"

    async def after_node_run(self, ctx: RunContext[Any], *, node: Any, result: Any) -> Any:
        if Agent.is_end_node(result):
            for task in self.tasks:
                ctx.enqueue(f"the result is {await task}")
            self.tasks.clear()
        return result


def background_tools(world: World) -> Made:
    agent = Agent(
        world.model(call("compute"), "working on it", "the result is 42"),
        capabilities=[InBackground(world)],
    )

    @agent.tool_plain
    async def compute() -> int:
        world.did("compute")
        await asyncio.sleep(0.2)  # the model has answered by then
        return 42

    return agent


def slow_tool(world: World) -> Made:
    agent = Agent(world.model(call("slow", "quick"), "done"))

    @agent.tool_plain
    async def slow() -> str:
        world.did("slow")
        await asyncio.sleep(0.02)
        return "slow"

    @agent.tool_plain
    async def quick() -> str:
        world.did("quick")
        return "quick"

    return agent


ROWS = [
    Row(name="a response that the provider makes in the background", make=in_background, killed=True),
    Row(name="a response in the background that takes a minute", make=taking_time(slow), killed=True),
    Row(name="a batch that takes a minute", make=taking_time(in_batches), of=("BatchModelRequests",), killed=True),
    Row(name="the same with `Agent.using_sleep` in a function step", make=with_own_sleep),
    Row(name="a model that pauses within its turn", make=paused),
    Row(
        name="`PendingModelResponse`",
        make=pending,
        of=("PendingModelResponse",),
        refused="Paused: response_pending: ",
        why="the run ends instead of waiting, and is parked with `response_pending`; without it the step waits",
    ),
    Row(
        name="tools that run beside the run and add to it when they end",
        make=background_tools,
    ),
    Row(name="parallel tools of which one is slow", make=slow_tool),
]
