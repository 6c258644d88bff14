"""The failed attempts at the requests of a durable run's model: when they were made, and how long they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import FallbackExceptionGroup, ModelHTTPError
from pydantic_ai.messages import ModelRequestAttempt, ModelResponse
from pydantic_ai.run import AgentRunResult

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.errors import HopLost
from tests.support.journalled_hop import JournalledHop, calls, scripted

try:
    from pydantic_ai.capabilities import ModelFallback
except ImportError:  # in the oldest supported pydantic-ai
    ModelFallback = None  # type: ignore[assignment, misc]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(ModelFallback is None, reason="this pydantic-ai has no such capability"),
]

DOWN = ModelHTTPError(503, "first", {"error": "overloaded"})


def falling_back(asked: Counter[str], *answers: Any) -> Agent[None, str]:
    """Return an agent whose first model is down, with a tool."""
    second = scripted(asked, *answers, name="second")
    agent: Agent[None, str] = Agent(
        scripted(asked, DOWN, DOWN, name="first"),
        name="careful",
        capabilities=[CeleryDurability[None](models={"second": second}), ModelFallback[None](second)],
    )
    agent.tool_plain(lambda: "looked", name="look")
    return agent


def failed_in(result: AgentRunResult[Any]) -> list[ModelRequestAttempt]:
    """Return the failed attempts of all requests."""
    responses = [message for message in result.all_messages() if isinstance(message, ModelResponse)]
    return [attempt for response in responses for attempt in response.failed_attempts or ()]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_replay_says_when_attempts_failed_and_how_long_they_took(*, streamed: bool) -> None:
    """Whoever reads the history of a finished step learns how slow the provider was, not how fast the replay."""
    asked, hop = Counter[str](), JournalledHop()
    agent = falling_back(asked, calls("look"), "done")

    async def handler(_: Any, events: AsyncIterator[Any]) -> None:
        async for _event in events:
            pass

    async def run() -> AgentRunResult[str]:
        return await agent.run("go", event_stream_handler=handler if streamed else None)

    with hop.attempt():
        result = await run()
    with hop.attempt() as again:
        replayed = await run()

    assert len(failed_in(result)) == 2
    assert failed_in(replayed) == failed_in(result)
    assert (again.made, replayed.usage, asked) == (0, result.usage, {"first": 2, "second": 2})


async def test_a_replay_cut_off_at_any_record_says_the_same_of_failed_attempts() -> None:
    """A crash between two records changes nothing that was said before it."""
    for after in range(1, 5):
        asked, hop = Counter[str](), JournalledHop()
        agent = falling_back(asked, calls("look"), "done")

        with hop.attempt(cut_after=after), pytest.raises(HopLost):
            await agent.run("go")
        with hop.attempt():
            result = await agent.run("go")
        with hop.attempt():
            replayed = await agent.run("go")

        assert failed_in(replayed) == failed_in(result)


async def test_an_error_of_all_models_says_the_same_in_a_replay() -> None:
    """Code that goes on after it may report it."""
    asked, hop, told = Counter[str](), JournalledHop(), list[Any]()
    agent = falling_back(asked, DOWN)
    after = Agent(scripted(asked, "after", name="after"), name="after", capabilities=[CeleryDurability[None]()])

    for _ in range(2):
        with hop.attempt():
            with pytest.raises(FallbackExceptionGroup) as raised:
                await agent.run("go")
            told.append([(attempt.timestamp, attempt.duration) for attempt in raised.value.attempts])
            await after.run("go")

    assert len(told[0]) == 2
    assert told[0] == told[1]
    assert asked == {"first": 1, "second": 1, "after": 1}
