"""When the jobs of runs are cancelled at their provider: with the workflow, and never by what only ends an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic_ai.capabilities import AbstractCapability, BatchModelRequests
from pydantic_ai.exceptions import ModelHTTPError, UserError
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.tools import RunContext

from paigeant_celery import CeleryDurability, PaigeantAgent, StepPolicy, WorkflowFailed, WorkflowParked, activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.core.errors import Unreachable
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop import jobs as jobs_module
from paigeant_celery.testing import WorkflowHarness
from tests.support.provider_jobs import BackgroundModel, BatchModel, Provider

pytestmark = pytest.mark.anyio

INTERVAL = 0.02


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    with registry.isolated():
        yield


def provider(*, polls: int | None = 3, failing: tuple[Exception, ...] = (), interval: float = INTERVAL) -> Provider:
    """Return a provider whose jobs are done at so many polls, or never."""
    made = Provider(lambda: polls is not None and made.asked.count("poll") >= polls, interval=interval)
    made.failing = list(failing)
    return made


def waiting(jobs: Provider, **options: Any) -> PaigeantAgent[Any, str]:
    return PaigeantAgent(BackgroundModel(jobs), name="waiting", **options)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - a condition of several objects
            await asyncio.sleep(INTERVAL / 10)


async def cut_off(harness: WorkflowHarness, jobs: Provider, *, polls: int = 2) -> None:
    """Let a hop run until its job has been polled, and cut its run off, as a worker does that lost it or ends."""
    running = asyncio.create_task(harness.deliver(1))
    await until(lambda: jobs.asked.count("poll") >= polls)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await asyncio.sleep(INTERVAL)
    await until(lambda: not harness._service._jobs._asking)


async def test_an_attempt_that_is_retried_leaves_the_job_alone() -> None:
    """The next attempt polls it on, and its answer is not paid for twice."""
    jobs = provider(polls=4, failing=(ConnectionError(), ModelHTTPError(503, "background")))
    agent, harness = waiting(jobs), WorkflowHarness()

    result = await harness.run([agent.activity("go", policy=StepPolicy(backoff=0))])

    assert result.output == "done"
    assert jobs.asked == ["submit", "poll", "poll", "poll", "poll"]
    assert len(harness.delivered) == 3


class Silent(BackgroundModel):
    """A provider that does not answer some of its polls, by their numbers."""

    def __init__(self, jobs: Provider, silent: Container[int]) -> None:
        super().__init__(jobs)
        self.silent = silent

    async def request(self, messages: list[ModelMessage], *more: Any) -> ModelResponse:
        response = await super().request(messages, *more)
        if self.jobs.asked[-1] == "poll" and self.jobs.asked.count("poll") in self.silent:
            await asyncio.Event().wait()
        return response


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "parks"])
async def test_a_step_that_runs_out_of_time_leaves_the_job_alone(ends: bool) -> None:
    """Its attempts poll the job one after the other; a parked workflow may be redriven and go on with it."""
    jobs = provider(polls=5)
    model = Silent(jobs, (2, 4) if ends else range(1, 99))
    agent, harness = PaigeantAgent(model, name="waiting"), WorkflowHarness()
    policy = StepPolicy(timeout=10 * INTERVAL, backoff=0, max_attempts=20 if ends else 2)

    handle = harness.dispatch([agent.activity("go", policy=policy)])
    outcomes = await harness.deliver()

    assert outcomes == ["retrying", "retrying", "workflow_completed"] if ends else ["retrying", "parked"]
    assert "cancel" not in jobs.asked
    assert jobs.asked.count("submit") == 1
    if ends:
        assert (handle.result_sync(0).output, jobs.asked.count("poll")) == ("done", 5)
    else:
        with pytest.raises(WorkflowParked):
            handle.result_sync(0)
        model.silent = ()
        assert handle.redrive_sync()
        harness.sweep()
        await harness.deliver()
        assert handle.result_sync(0).output == "done"
        assert "cancel" not in jobs.asked


async def test_a_run_that_sleeps_when_its_time_is_over_is_left(workflow_harness: WorkflowHarness) -> None:
    """Polls that come faster than a worker changes are made in the slot, but a job may be longer than its step."""
    jobs, harness = provider(polls=8, interval=0.3), workflow_harness
    policy = StepPolicy(timeout=1.0, max_attempts=1)  # a busy machine needs a part of that to begin a run

    handle = harness.dispatch([waiting(jobs).activity("go", policy=policy)])
    outcomes: list[str] = []
    while handle.status_sync().in_progress:
        outcomes += await harness.deliver()
        harness.sweep()

    assert set(outcomes[:-1]) == {"suspended"}
    assert outcomes[-1] == "workflow_completed"
    assert jobs.asked == ["submit", *["poll"] * 8]


async def test_a_step_that_fails_for_good_cancels_the_job() -> None:
    """Nobody would ask for it again."""
    jobs = provider(failing=(UserError("wrong"),))
    agent, harness = waiting(jobs), WorkflowHarness()

    with pytest.raises(WorkflowFailed):
        await harness.run([agent.activity("go")])

    assert jobs.asked == ["submit", "poll", "cancel"]


async def test_a_deadline_that_passes_in_a_step_cancels_the_job() -> None:
    """It ends the workflow."""
    jobs = provider(polls=None)
    agent, harness = waiting(jobs), WorkflowHarness()

    with pytest.raises(WorkflowFailed):
        await harness.run([agent.activity("go")], deadline=datetime.now(UTC) + timedelta(seconds=0.5))

    assert jobs.asked.count("cancel") == 1


async def test_a_cancelled_workflow_cancels_the_job() -> None:
    """What nobody wants must not be paid for."""
    jobs = provider(polls=None)
    agent, harness = waiting(jobs), WorkflowHarness()
    handle = harness.dispatch([agent.activity("go")])
    told = list[bool]()

    def is_done() -> bool:
        if jobs.asked.count("poll") == 2:
            told.append(handle.cancel_sync())
        return False

    jobs.is_done = is_done
    await cut_off(harness, jobs)

    assert told == [True]
    assert jobs.asked.count("cancel") == 1


@pytest.mark.parametrize("why", ["the worker ends", "another owner has the hop", "the store is away"])
async def test_a_hop_that_goes_on_elsewhere_leaves_the_job_alone(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has it next polls the job on."""
    jobs = provider(polls=None)
    agent, harness = waiting(jobs), WorkflowHarness()
    harness.dispatch([agent.activity("go")])
    record = harness.store.record

    def refuse(*arguments: Any) -> bool:
        return jobs.asked.count("poll") < 2 and record(*arguments)

    def be_away(*_: Any) -> None:
        raise Unreachable("store", "memory", "away")

    if why == "another owner has the hop":
        monkeypatch.setattr(harness.store, "record", refuse)
    if why == "the store is away":
        monkeypatch.setattr(jobs_module, "PATIENCE", 0.1)
        monkeypatch.setattr(harness.store, "workflow", be_away)

    await cut_off(harness, jobs)

    assert "cancel" not in jobs.asked


class Otherwise(AbstractCapability[Any]):
    """Lets a run go on with a tool call when a request fails."""

    async def on_model_request_error(self, ctx: RunContext[Any], *, request_context: Any, error: Exception) -> Any:
        return ModelResponse(parts=[ToolCallPart("look", {}, "look-1")])


async def test_a_run_that_goes_on_without_its_job_cancels_it_once() -> None:
    """Neither this attempt nor a later one wants its answer any more."""
    jobs, fails = provider(polls=3, failing=(ModelHTTPError(503, "background"),)), [ConnectionError("late")]
    agent = waiting(jobs, capabilities=[Otherwise()])
    agent.tool_plain(lambda: "seen", name="look")

    @agent.output_validator
    def check(output: str) -> str:
        if fails:
            raise fails.pop()
        return output

    harness = WorkflowHarness()
    result = await harness.run([agent.activity("go", policy=StepPolicy(backoff=0))])

    assert result.output == "done"
    assert len(harness.delivered) == 2
    assert jobs.asked == ["submit", "poll", "cancel", "submit", "poll", "poll"]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_step_that_stops_waiting_of_its_own_accord_cancels_the_job(fails: bool) -> None:
    """Its own time limit says that the answer is not wanted any more; if the step is tried again, it may be."""
    jobs = provider(polls=None)
    agent = waiting(jobs, capabilities=[CeleryDurability()])

    @activity(policy=StepPolicy(max_attempts=1))
    async def hurry() -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(5 * INTERVAL):
                await agent.run("go")
        if fails:
            raise ConnectionError
        return "without it"

    harness = WorkflowHarness(Settings(max_attempts=1))
    harness.dispatch([hurry.activity()])
    outcomes = await harness.deliver()

    assert outcomes == (["parked"] if fails else ["workflow_completed"])
    assert jobs.asked.count("cancel") == (0 if fails else 1)


async def test_a_step_that_stops_waiting_when_another_owner_has_its_hop_leaves_the_job_alone() -> None:
    """What it survived is not recorded, so the other owner goes on with the job."""
    jobs, harness, lost = provider(polls=None), WorkflowHarness(), list[bool]()
    agent, record = waiting(jobs, capabilities=[CeleryDurability()]), harness.store.record

    @activity(policy=StepPolicy(max_attempts=1))
    async def hurry() -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(5 * INTERVAL):
                await agent.run("go")
        lost.append(True)
        return "without it"

    harness.store.record = lambda *arguments: not lost and record(*arguments)  # type: ignore[method-assign]
    harness.dispatch([hurry.activity()])
    with suppress(asyncio.CancelledError):
        await harness.deliver(1)

    assert lost
    assert "poll" in jobs.asked
    assert "cancel" not in jobs.asked


WAYS = ["background", "batch", "streamed", "in a function"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_job_is_asked_on_schedule_and_holds_no_worker_between(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of a night needs no step of a night, and no slot."""
    harness, ends = WorkflowHarness(Settings(step_timeout=5.0)), list[datetime]()
    jobs = Provider(lambda: harness._now() >= ends[0], interval=2.0)
    asked_at: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: harness._now().timestamp())  # with which batches share polls
    monkeypatch.setattr("pydantic_ai.models._batch_model.time", clock)
    every, soon = timedelta(seconds=2), timedelta(milliseconds=1)
    batches = BatchModelRequests(max_wait=soon, poll_interval=every, max_poll_interval=every)
    agent: Any = PaigeantAgent(
        BatchModel(jobs) if way == "batch" else BackgroundModel(jobs),
        name="waiting",
        capabilities=[CeleryDurability(), *([batches] if way == "batch" else [])],
    )

    @activity
    async def running() -> str:
        return str((await agent.run("go")).output)

    step = running.activity() if way == "in a function" else agent.activity("go")
    handle, begun = harness.dispatch([step], stream=way == "streamed", correlation_id="w"), harness._now()
    ends.append(begun + timedelta(seconds=12))
    outcomes: list[str] = []
    while handle.status_sync().state != "completed":
        polls = jobs.asked.count("poll")
        outcomes += await harness.deliver()
        if jobs.asked.count("poll") > polls:
            asked_at.append((harness._now() - begun).total_seconds())
        for _ in range(3):
            if not harness.pending:
                harness.sweep()

    assert handle.result_sync(0).output == "done"
    assert outcomes == ["suspended"] * 6 + ["workflow_completed"]
    assert jobs.asked == ["submit", *["poll"] * 6]
    assert all(2 * number <= at < 2 * number + 2 for number, at in enumerate(asked_at, 1))
    seen = [event for event in handle.events_sync() if event.type != "agent"]
    assert [event.type for event in seen] == ["started", "claimed", "resumed", "completed", "workflow_completed"]
    assert seen[1].fields["attempt"] == "1"
