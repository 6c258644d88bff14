"""Requests that took too long: a replay does not wait for them again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequestAttempt, ModelResponse
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.run import AgentRunResult
from pydantic_ai.settings import ModelSettings

from paigeant_celery.agents.cut_offs import when_explained
from paigeant_celery.agents.durability import CeleryDurability
from tests.support.journalled_hop import JournalledHop, calls, scripted

try:
    from pydantic_ai.capabilities import ModelFallback
    from pydantic_ai.exceptions import ModelRequestTimeout
except ImportError:  # in the oldest supported pydantic-ai
    ModelFallback = None  # type: ignore[assignment, misc]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(ModelFallback is None, reason="this pydantic-ai has no such capability"),
]


async def read(_: Any, events: AsyncIterator[Any]) -> None:
    """Read the events of a run."""
    async for _event in events:
        pass


def failed_attempts(result: AgentRunResult[Any]) -> list[ModelRequestAttempt]:
    """Return the failed attempts of all requests."""
    responses = [message for message in result.all_messages() if isinstance(message, ModelResponse)]
    return [attempt for response in responses for attempt in response.failed_attempts or ()]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_that_took_too_long_is_replayed_at_once(*, streamed: bool) -> None:
    """A step that was held up for ten minutes once is not held up again by each of its attempts."""
    asked, hop = Counter[str](), JournalledHop()

    async def hang(_: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked["slow"] += 1
        await asyncio.Event().wait()
        raise AssertionError

    async def hang_in_stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        await hang(messages, info)
        yield ""

    async def handler(_: Any, events: AsyncIterator[Any]) -> None:
        async for _event in events:
            pass

    slow: Agent[None, str] = Agent(
        FunctionModel(hang, stream_function=hang_in_stream, model_name="slow"),
        name="slow",
        capabilities=[CeleryDurability[None]()],
    )
    quick: Agent[None, str] = Agent(
        scripted(asked, "done", name="quick"), name="quick", capabilities=[CeleryDurability[None]()]
    )

    async def run(seconds: float) -> str:
        with pytest.raises(ModelRequestTimeout):
            await slow.run(
                "go",
                model_settings=ModelSettings(request_timeout=seconds),
                event_stream_handler=handler if streamed else None,
            )
        return (await quick.run("go")).output

    with hop.attempt():
        await run(0.3)
    with hop.attempt() as again:
        async with asyncio.timeout(5):  # it would wait for an hour
            assert await run(3600) == "done"

    assert (asked, again.replayed, again.made) == ({"slow": 1, "quick": 1}, 2, 0)


async def test_a_fallback_after_a_timeout_is_replayed_at_once() -> None:
    """The usual way to survive a slow provider costs its time once."""
    asked, hop = Counter[str](), JournalledHop()

    async def hang(_: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked["first"] += 1
        await asyncio.Event().wait()
        raise AssertionError

    second = scripted(asked, calls("look"), "done", name="second")
    agent: Agent[None, str] = Agent(
        FunctionModel(hang, model_name="first"),
        name="careful",
        capabilities=[CeleryDurability[None](models={"second": second}), ModelFallback[None](second)],
    )
    agent.tool_plain(lambda: "looked", name="look")

    with hop.attempt():
        result = await agent.run("go", model_settings=ModelSettings(request_timeout=0.5))
    with hop.attempt() as again:
        async with asyncio.timeout(5):
            replayed = await agent.run("go", model_settings=ModelSettings(request_timeout=3600))

    assert (replayed.output, again.made, asked) == ("done", 0, {"first": 2, "second": 2})
    assert len(failed_attempts(result)) == 2
    assert failed_attempts(replayed) == failed_attempts(result)


def test_a_cut_off_that_nobody_explains_is_told_to_nobody() -> None:
    """Its replay waits as before."""
    when_explained(lambda error: pytest.fail(str(error)))
