"""A run whose hop is lost begins no more calls, whatever its code makes of the error."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.errors import HopLost
from paigeant_celery.journal.event_feed import EventFeed
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.scope import surrounding_journal
from tests.support.journalled_hop import JournalledHop, calls, scripted

Asked = Counter[str]

pytestmark = pytest.mark.anyio


def durable(model: FunctionModel) -> Agent[None, str]:
    return Agent(model, capabilities=[CeleryDurability(name="agent")])


def lose() -> None:
    """What the answer of a renewal does, at this very moment of the run."""
    journal = surrounding_journal()
    assert journal is not None
    journal.lose()


async def again_and_again(asked: Asked) -> None:
    """Code that takes each error for one of the model's and tries again."""
    agent = durable(scripted(asked, "done"))
    for _ in range(3):
        with suppress(Exception):
            await agent.run("go")
            lose()


async def parallel_tools(asked: Asked) -> None:
    """The first of two tools learns of it; the second one was to begin after it."""
    agent = durable(scripted(asked, calls("first", "second"), "done"))

    @agent.tool_plain(sequential=True)
    def first() -> str:
        lose()
        return "ok"

    @agent.tool_plain(sequential=True)
    def second() -> str:
        asked["after"] += 1
        return "ok"

    await agent.run("go")


async def inside_a_tool(asked: Asked) -> None:
    """An agent in a recorded tool call; its own calls are not recorded."""
    agent, inner = durable(scripted(asked, calls("delegate"), "done")), durable(scripted(asked, "yes", name="after"))

    @agent.tool_plain
    async def delegate() -> str:
        lose()
        return (await inner.run("go")).output

    await agent.run("go")


async def an_unrecorded_tool(asked: Asked) -> None:
    agent = durable(scripted(asked, calls("first", "second"), "done"))

    @agent.tool_plain(sequential=True)
    def first() -> str:
        lose()
        return "ok"

    @agent.tool_plain(sequential=True, metadata={"paigeant": False})
    def second() -> str:
        asked["after"] += 1
        return "ok"

    await agent.run("go")


async def streaming(asked: Asked) -> None:
    agent = durable(scripted(asked, "one", name="local"))
    async with agent.run_stream("go") as first:
        await first.get_output()
    lose()
    async with agent.run_stream("go", model=scripted(asked, "two", name="after")) as second:
        await second.get_output()


async def at_once(asked: Asked) -> None:
    """Several runs beside each other: one learns of it while the others wait to begin."""
    agent, told = durable(scripted(asked, "done", name="after")), asyncio.Event()

    async def late() -> None:
        await told.wait()
        await agent.run("go")

    async def first() -> None:
        lose()
        told.set()

    await asyncio.gather(first(), *(late() for _ in range(5)))


async def a_fallback(asked: Asked) -> None:
    """The first model fails, and nothing is recorded before the second one is asked."""
    first = durable(FunctionModel(_failing(asked)))
    with suppress(ValueError):
        await first.run("go")
    await durable(scripted(asked, "done", name="after")).run("go")


def _failing(asked: Asked) -> Callable[[list[ModelMessage], AgentInfo], ModelResponse]:
    def fail(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked["local"] += 1
        lose()
        raise ValueError("no")

    return fail


@pytest.mark.parametrize(
    ("code", "before"),
    [
        (again_and_again, 1), (parallel_tools, 1), (inside_a_tool, 1), (an_unrecorded_tool, 1), (streaming, 1),
        (at_once, 0), (a_fallback, 1),
    ],
)  # fmt: skip
async def test_no_call_is_begun_after_the_run_was_told(code: Callable[[Asked], Awaitable[None]], before: int) -> None:
    """A person who cancelled a workflow pays for the call in progress, and for no other."""
    hop, asked = JournalledHop(), Asked()

    with hop.attempt(), suppress(HopLost):
        await code(asked)

    assert asked == Counter(local=before) if before else asked == Counter()


async def test_an_answer_to_a_record_tells_all_that_runs_beside_it() -> None:
    """The first call to end learns that the workflow was cancelled; whatever has not begun by then never does."""
    hop, asked = JournalledHop(), Asked()
    agent = durable(scripted(asked, "done"))

    with hop.attempt(cut_after=0) as journal:
        for _ in range(3):
            with pytest.raises(HopLost):
                await agent.run("go")

    assert (asked, journal.lost) == (Counter(local=1), True)


async def test_an_answer_to_what_is_shown_live_tells_the_run() -> None:
    """The events of a stream are sent anyway, and the store says what became of the hop."""
    hop, asked, told = JournalledHop(), Asked(), asyncio.Event()
    agent = durable(scripted(asked, calls("wait"), "done"))

    @agent.tool_plain
    async def wait() -> str:
        await told.wait()
        return "ok"

    async def run(journal: HopJournal) -> None:
        loop = asyncio.get_running_loop()

        def overtaken() -> None:
            journal.lose()
            loop.call_soon_threadsafe(told.set)

        journal.feed = EventFeed(lambda events: False, attempt=1, overtaken=overtaken)
        async with journal.feed.flowing():
            await agent.run("go")

    with hop.attempt() as journal, pytest.raises(HopLost):
        await run(journal)

    assert asked == Counter(local=1)
