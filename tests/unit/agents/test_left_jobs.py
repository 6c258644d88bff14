"""Jobs of runs that sleep when their workflow is cancelled: a worker cancels them, and runs nothing for that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.capabilities import BatchModelRequests, Hooks
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel

from paigeant_celery import (
    ActivitySpec,
    CeleryDurability,
    PaigeantAgent,
    WorkflowHandle,
    activity,
    register_agent,
    workflow_context,
)
from paigeant_celery.activities.registry import registry
from paigeant_celery.core.errors import Unreachable
from paigeant_celery.core.slip import SleepSpec
from paigeant_celery.hop import left_jobs
from paigeant_celery.testing import WorkflowHarness
from tests.support.provider_jobs import BackgroundModel, BatchModel, Provider

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    with registry.isolated():
        yield


@pytest.fixture
def jobs() -> Provider:
    """A provider whose jobs are never done."""
    return Provider(lambda: False, interval=30.0)


async def asleep(harness: WorkflowHarness, *steps: Any, stream: bool = False, polls: int = 1) -> WorkflowHandle:
    """Return a workflow whose hop sleeps after so many polls."""
    handle = harness.dispatch(steps, correlation_id="w", stream=stream)
    assert await harness.deliver() == ["suspended"]
    for _ in range(polls):
        harness.skip(timedelta(seconds=40))
        assert await harness.deliver() == ["suspended"]
    return handle


def made(way: str, jobs: Provider, ran: list[str]) -> Agent[Any, str]:
    """Return the agent `waiting`, made in one of the ways in which agents are; `ran` is told what else of it runs."""

    def deps_factory(data: Any, context: Any) -> None:
        ran.append("deps")

    async def before(ctx: Any, request_context: Any) -> Any:
        ran.append("hook")
        return request_context

    hooks: Any = Hooks(before_model_request=before)
    soon = timedelta(milliseconds=1)
    every = timedelta(seconds=30)
    batches = BatchModelRequests(max_wait=soon, poll_interval=every, max_poll_interval=every)
    background = BackgroundModel(jobs)
    models: dict[str, Model] = {
        "batch": BatchModel(jobs),
        "wrapped": WrapperModel(background),
        "fallback": FallbackModel(background, BackgroundModel(jobs, name="other")),
    }
    if way == "registered":
        agent: Agent[Any, str] = Agent(background, name="another", capabilities=[hooks])
        register_agent(agent, name="waiting", deps_factory=deps_factory)
        return agent
    more: list[Any] = [hooks]
    if way == "batch":
        more.append(batches)
    if way in ("durable", "by name"):
        more.append(CeleryDurability(models={"ours": background} if way == "by name" else None, name="of its own"))
    model = "ours" if way == "by name" else models.get(way, background)
    return PaigeantAgent(model, name="waiting", capabilities=more, deps_factory=deps_factory)


WAYS = ["background", "streamed", "batch", "wrapped", "fallback", "durable", "by name", "registered"]


@pytest.mark.parametrize("way", WAYS)
async def test_the_job_of_a_sleeper_is_cancelled_with_its_workflow(way: str, jobs: Provider) -> None:
    """What nobody wants must not be paid for; nobody asks the model, and no code of the agent runs."""
    harness, ran = WorkflowHarness(), list[str]()
    agent = made(way, jobs, ran)
    handle = await asleep(harness, ActivitySpec("waiting", "go"), stream=way == "streamed")
    asked = [*jobs.asked]
    assert (asked.count("poll"), set(ran)) == (1, {"deps", "hook"})
    ran.clear()

    assert handle.cancel_sync()
    assert await harness.deliver() == ["dropped: cancelled"]
    harness.skip(timedelta(minutes=5))

    assert await harness.deliver() == []
    assert jobs.asked == [*asked, "cancel"]
    assert ran == []
    assert agent.name is not None


async def test_a_job_may_be_cancelled_twice(jobs: Provider) -> None:
    """Brokers deliver copies, and callers cancel again."""
    harness, agent = WorkflowHarness(), PaigeantAgent(BackgroundModel(jobs), name="waiting")
    handle = await asleep(harness, agent.activity("go"))

    assert handle.cancel_sync()
    assert await handle.cancel()

    assert await harness.deliver() == ["dropped: cancelled"] * 2
    assert jobs.asked.count("cancel") == 2
    assert handle.status_sync().state == "cancelled"


@pytest.mark.parametrize("stands", ["queued", "asked", "ended"])
async def test_a_workflow_that_does_not_sleep_is_cancelled_without_a_message(stands: str) -> None:
    """Nobody waits at a provider, or a message is there already."""
    harness = WorkflowHarness()

    @activity
    async def asking() -> str:
        return "no" if stands == "ended" else str(await workflow_context().wait_for("leave"))

    handle = harness.dispatch([asking.activity()])
    if stands != "queued":
        await harness.deliver()
    harness.pending.clear()

    assert handle.cancel_sync() is (stands != "ended")

    assert not harness.pending


async def test_a_hop_that_has_been_woken_cancels_its_job_with_the_message_that_woke_it(jobs: Provider) -> None:
    """Whether it slept or was about to poll when it was cancelled is chance."""
    harness, agent = WorkflowHarness(), PaigeantAgent(BackgroundModel(jobs), name="waiting")
    handle = await asleep(harness, agent.activity("go"), polls=0)
    harness.skip(timedelta(seconds=40))
    assert len(harness.pending) == 1

    assert handle.cancel_sync()

    assert set(await harness.deliver()) == {"dropped: cancelled"}
    assert jobs.asked[:2] == ["submit", "cancel"]
    assert "poll" not in jobs.asked


async def test_a_job_that_is_done_is_not_cancelled(jobs: Provider) -> None:
    """A later wait of its run has nothing to do with it."""
    harness, agent = WorkflowHarness(), PaigeantAgent(BackgroundModel(jobs), name="waiting")
    handle = await asleep(harness, agent.activity("go"), SleepSpec(seconds=600), polls=0)
    jobs.is_done = lambda: True
    harness.skip(timedelta(seconds=40))
    assert await harness.deliver() == ["completed", "suspended"]

    assert handle.cancel_sync()

    assert await harness.deliver() == ["dropped: cancelled"]
    assert jobs.asked == ["submit", "poll"]


async def test_an_agent_inside_a_function_is_not_reached(jobs: Provider) -> None:
    """Only the function's code knows it, and it does not run."""
    harness = WorkflowHarness()
    agent = PaigeantAgent(BackgroundModel(jobs), name="waiting", capabilities=[CeleryDurability()])

    @activity
    async def running() -> str:
        return str((await agent.run("go")).output)

    handle = await asleep(harness, running.activity())
    asked = [*jobs.asked]

    assert handle.cancel_sync()

    assert await harness.deliver() == ["dropped: cancelled"]
    assert jobs.asked == asked


def left(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if getattr(record, "action", None) == "job_left"]
    assert all(record.levelno == logging.WARNING for record in found)
    return [record.getMessage() for record in found]


class Deaf(BackgroundModel):
    """A model whose provider does not take a cancel."""

    error: Exception | None = None

    async def cancel_suspended_response(self, response: ModelResponse) -> None:
        await super().cancel_suspended_response(response)
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()


@pytest.mark.parametrize("how", ["refuses", "is silent", "is another one", "is damaged"])
async def test_what_cannot_be_cancelled_is_logged(
    how: str, jobs: Provider, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is dropped all the same, and holds its worker for a moment."""
    monkeypatch.setattr(left_jobs, "LONGEST", 0.05)
    harness, model = WorkflowHarness(), Deaf(jobs)
    agent = PaigeantAgent(model, name="waiting")
    handle = await asleep(harness, agent.activity("go"))
    if how == "refuses":
        model.error = RuntimeError("marzipan")
    if how == "is another one":
        agent.model = BackgroundModel(jobs, name="newer")
    if how == "is damaged":
        journal = harness.store.journal
        monkeypatch.setattr(harness.store, "journal", lambda hop: dict.fromkeys(journal(hop), "{"))

    assert handle.cancel_sync()

    assert await harness.deliver() == ["dropped: cancelled"]
    assert jobs.asked.count("cancel") == (1 if how in ("refuses", "is silent") else 0)
    assert len(left(caplog)) == 1
    assert "marzipan" not in caplog.text


async def test_a_broker_that_is_away_hinders_no_cancel(
    jobs: Provider, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job goes on, and the log says so."""
    harness, agent = WorkflowHarness(), PaigeantAgent(BackgroundModel(jobs), name="waiting")
    handle = await asleep(harness, agent.activity("go"))

    def be_away(*_: Any) -> None:
        raise Unreachable("broker", "memory", "away")

    monkeypatch.setattr(harness.transport.publisher, "begin", be_away)

    assert handle.cancel_sync()

    assert handle.status_sync().state == "cancelled"
    assert len(left(caplog)) == 1
