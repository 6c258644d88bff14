"""Runs that wait for a provider's job: each attempt goes on where the last one stopped, and leaves the job alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability, BatchModelRequests
from pydantic_ai.models import Model
from pydantic_ai.usage import RunUsage

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.errors import HopLost
from paigeant_celery.journal.hop_waits import HopWaits
from paigeant_celery.journal.record import parse_key
from tests.support.journalled_hop import JournalledHop, history, scripted
from tests.support.provider_jobs import BackgroundModel, BatchModel, Provider

pytestmark = pytest.mark.anyio

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that only waits move; a run that sleeps beyond `ends` is cut off then, as its step's timeout does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time, self.ends, self.slept = 0.0, float("inf"), list[float]()
        monkeypatch.setattr(HopWaits, "sleep_until", self._sleep_until)
        clock = SimpleNamespace(monotonic=lambda: self.time)  # with which batches share polls of one interval
        monkeypatch.setattr("pydantic_ai.models._batch_model.time", clock)

    def now(self) -> datetime:
        """Return the time that the store tells."""
        return START + timedelta(seconds=self.time)

    def hop(self) -> JournalledHop:
        """Return a hop that goes by this clock."""
        return JournalledHop(now=self.now)

    async def _sleep_until(self, until: datetime, **_: Any) -> None:
        seconds = max(0.0, round((until - self.now()).total_seconds(), 6))
        slept = min(seconds, self.ends - self.time)
        self.time += slept
        self.slept.append(slept)
        if slept < seconds:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def drain(ctx: Any, events: AsyncIterable[Any]) -> None:
    async for _ in events:
        pass


WAYS = ["background", "streamed", "batch"]


def made(way: str, clock: Clock, *, takes: float, interval: float) -> tuple[Provider, Agent[None, str]]:
    """Return a provider and an agent whose every answer is a job that takes so many seconds."""
    provider = Provider(lambda: clock.time >= takes, interval=interval)
    every = timedelta(seconds=interval)
    more: list[AbstractCapability[None]] = []
    model: Model = BackgroundModel(provider)
    if way == "batch":
        soon = timedelta(milliseconds=1)
        model = BatchModel(provider)
        more = [BatchModelRequests(max_wait=soon, poll_interval=every, max_poll_interval=every)]
    handler = drain if way == "streamed" else None
    durability = CeleryDurability[None](event_stream_handler=handler)
    agent: Agent[None, str] = Agent(model, name="worker", capabilities=[durability, *more])
    return provider, agent


@pytest.mark.parametrize("way", WAYS)
async def test_a_job_is_waited_for_once_wherever_a_worker_dies(way: str, clock: Clock) -> None:
    """Ten minutes that were waited are not waited again, and a job that was paid for is not submitted again."""
    cut, most = 0, 0
    while True:
        clock.time, clock.slept = 0.0, []
        provider, agent = made(way, clock, takes=90, interval=30)
        hop = clock.hop()
        with hop.attempt(cut_after=cut), suppress(HopLost):
            await agent.run("go")
            most = cut
        with hop.attempt():
            result = await agent.run("go")
        with hop.attempt() as again:
            replayed = await agent.run("go")

        assert (again.made, replayed.output, history(replayed)) == (0, "done", history(result))
        assert (replayed.usage.requests, result.usage.requests) == (1, 1)
        assert clock.time == 90
        # What was lost with the worker was asked once more: the submission, or one poll.
        assert sorted(provider.asked) in (
            ["poll"] * 3 + ["submit"], ["poll"] * 4 + ["submit"], ["poll"] * 3 + ["submit"] * 2,
        )  # fmt: skip
        if most:
            break
        cut += 1
    assert most > 6


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("takes", "interval", "limit"), [(12, 1, 5), (12, 7, 5), (60, 50, 7), (30, 3, 3.5)])
async def test_a_step_that_is_shorter_than_its_job_ends(
    way: str, takes: float, interval: float, limit: float, clock: Clock
) -> None:
    """Each attempt waits on from where the last was cut off; none of them cancels the job."""
    provider, agent = made(way, clock, takes=takes, interval=interval)
    hop, attempts, output = clock.hop(), 0, None
    while output is None and attempts < 20:
        attempts += 1
        clock.ends = clock.time + limit
        with hop.attempt(), suppress(asyncio.CancelledError):
            output = (await asyncio.create_task(agent.run("go"))).output

    polls = -(-takes // interval)
    assert output == "done"
    assert clock.time == polls * interval
    assert attempts == -(-clock.time // limit)
    assert provider.asked == ["submit", *["poll"] * int(polls)]
    assert len(hop.records) <= 4


@pytest.mark.parametrize("way", WAYS)
async def test_a_journal_keeps_one_record_of_a_job_however_often_it_is_polled(way: str, clock: Clock) -> None:
    """A batch may take a day."""
    provider, agent = made(way, clock, takes=1200, interval=30)
    hop = clock.hop()

    with hop.attempt():
        await agent.run("go")

    assert provider.asked.count("poll") == 40
    keys = [key for key in map(parse_key, hop.records) if key is not None and key.kind == "model"]
    assert sorted(key.occurrence for key in keys) == [0, 1]
    assert len(hop.records) == 3  # with the run's latest wait


async def test_a_wait_that_cannot_be_read_begins_anew(clock: Clock) -> None:
    """A newer version may write it otherwise; waiting too long is no harm."""
    _, agent = made("background", clock, takes=30, interval=30)
    hop = clock.hop()
    clock.ends = 20
    with hop.attempt(), suppress(asyncio.CancelledError):
        await asyncio.create_task(agent.run("go"))
    clock.ends = float("inf")
    with hop.attempt():
        hop.keep({'wait "worker:0"': '{"v":2}'})

    with hop.attempt():
        assert (await agent.run("go")).output == "done"

    assert clock.slept == [20, 30]


async def test_polls_that_earlier_versions_recorded_are_replayed_without_waits(clock: Clock) -> None:
    """They kept one record of each poll, and none of the waits."""
    _, agent = made("background", clock, takes=90, interval=30)
    hop = clock.hop()
    with hop.attempt():
        await agent.run("go")
    key, final = (f'["worker:0", 1, "model", "", "", {number}]' for number in (0, 1))
    kept = hop.records
    with hop.attempt():
        hop.keep({**{key.replace(", 0]", f", {number}]"): kept[key] for number in range(2)},
                  key.replace(", 0]", ", 2]"): kept[final]})  # fmt: skip
        hop.keep({'wait "worker:0"': "{}"})
    clock.slept.clear()

    with hop.attempt() as journal:
        assert (await agent.run("go")).output == "done"

    assert sum(clock.slept) == 0
    assert (journal.replayed, journal.made) == (3, 0)


async def test_usage_of_a_job_counts_once(clock: Clock) -> None:
    """The last state of a job has what it cost."""
    _, agent = made("background", clock, takes=240, interval=30)
    usages = list[RunUsage]()
    hop = clock.hop()
    for _ in range(2):
        with hop.attempt():
            usages.append((await agent.run("go")).usage)

    assert usages[0] == usages[1]


@pytest.mark.parametrize("way", WAYS)
async def test_a_job_that_the_code_gave_up_is_given_up_again_and_never_polled(clock: Clock, way: str) -> None:
    """It is cancelled by then: a poll would bring an error that the code does not expect, or an answer after all."""
    provider, agent = made(way, clock, takes=100, interval=10)
    other = Agent(scripted(Counter(), "without it"), name="other", capabilities=[CeleryDurability()])
    hop, turns = clock.hop(), 500  # of the event loop: a poll would come at once

    async def step() -> str:
        run = asyncio.create_task(agent.run("go"))
        if clock.ends < 100:
            await asyncio.wait({run})
        else:
            for _ in range(turns):
                await asyncio.sleep(0)
        run.cancel()
        await asyncio.wait({run})
        return "done" if not run.cancelled() else (await other.run("go")).output

    clock.ends = 25
    with hop.attempt():
        assert await step() == "without it"
    asked = [*provider.asked]
    assert asked.count("cancel") == 1

    clock.time, clock.ends = 200.0, float("inf")
    with hop.attempt() as journal:
        assert await step() == "without it"
        await journal.settle()

    assert (provider.asked, journal.made) == (asked, 0)
