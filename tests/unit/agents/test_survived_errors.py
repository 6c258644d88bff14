"""What a step does after an error that it survived: the same in each attempt, wherever the one before ended."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import (
    ContentFilterError,
    FallbackExceptionGroup,
    ModelAPIError,
    ModelHTTPError,
    ModelRateLimitError,
    ModelRequestTimeout,
    UnexpectedModelBehavior,
)
from pydantic_ai.models.fallback import FallbackModel

from paigeant_celery.agents.durability import CeleryDurability
from tests.support.journalled_hop import JournalledHop, calls, scripted

try:  # since pydantic-ai 2.68
    from pydantic_ai.capabilities import ModelFallback
except ImportError:
    ModelFallback = None  # type: ignore[assignment, misc]

pytestmark = pytest.mark.anyio

Step = Callable[[Counter[str]], Awaitable[Any]]


class ShopError(ModelHTTPError):
    """An error of a user's code."""


def limited() -> Exception:
    """What the adapters of providers raise."""
    return ModelHTTPError.for_category(
        ModelRateLimitError, status_code=429, model_name="m", body={"a": 1}, headers={"retry-after": "7"}
    )


def lost() -> Exception:
    """A connection error as an adapter raises it."""
    error = ModelAPIError("m", "Connection error.")
    error.__cause__ = ConnectionResetError(errno.ECONNRESET, "reset")
    return error


def all_failed() -> Exception:
    """What a fallback model raises."""
    return FallbackExceptionGroup("all failed", [limited(), ModelRequestTimeout("m", 3.0), ContentFilterError("no")])


async def in_each_attempt(step: Step) -> Any:
    """Run a step without a failure, then with a worker that dies late: after all its records, or before the last.

    The attempt that follows must give the same, and make only the calls that are missing. Returns what it gives.
    """
    whole, made = JournalledHop(), Counter[str]()
    with whole.attempt():
        expected = await step(made)
    for records in (len(whole.records) - 1, len(whole.records)):
        hop, asked = JournalledHop(), Counter[str]()
        with hop.attempt(cut_after=records), suppress(Exception):  # whatever the step makes of a lost hop
            await step(asked)
        with hop.attempt() as journal:
            assert await step(asked) == expected
        assert journal.fault is None
        assert hop.records.keys() == whole.records.keys()
    assert asked == made  # all was recorded in the attempt before, and nothing asked again
    return expected


def judging(error: Callable[[], Exception], judge: Callable[[Exception], object]) -> Step:
    """A step that goes on according to what it finds in the error of an agent that it runs."""

    async def step(asked: Counter[str]) -> object:
        first = Agent(scripted(asked, calls("look"), error(), name="first"), name="first", capabilities=[durability()])
        second = Agent(scripted(asked, "from the second", name="second"), name="second", capabilities=[durability()])

        @first.tool_plain
        def look() -> str:
            return "seen"

        try:
            await first.run("go")
        except Exception as raised:
            found = judge(raised)
        return found, (await second.run("go")).output

    return step


def durability() -> CeleryDurability[None]:
    return CeleryDurability()


def of_limit(error: Exception) -> object:
    try:
        raise error
    except ModelRateLimitError as raised:
        http = raised if isinstance(raised, ModelHTTPError) else None
        return http and (http.status_code, http.retry_after, http.body, str(http))


def of_group(error: Exception) -> object:
    found: list[object] = []
    try:
        raise error
    except* ModelHTTPError as limits:
        found.append([of_limit(each) for each in limits.exceptions])
    except* ModelRequestTimeout as slow:
        found.append([(each.timeout, each.model_name) for each in slow.exceptions])
    except* UnexpectedModelBehavior as filtered:
        found.append(len(filtered.exceptions))
    return found


ERRORS: dict[str, Callable[[], Exception]] = {
    "category": limited,
    "cause": lost,
    "group": all_failed,
    "timeout": lambda: ModelRequestTimeout("m", 2.5),
    "body": lambda: UnexpectedModelBehavior("odd", "<b>"),
    "file": lambda: FileNotFoundError(errno.ENOENT, "gone", "f"),
    "one's own": lambda: ShopError(503, "m"),
}


@pytest.mark.parametrize(
    ("error", "judge", "found"),
    [
        ("category", of_limit, (429, 7.0, {"a": 1}, str(limited()))),
        ("timeout", lambda error: (error.timeout, error.model_name), (2.5, "m")),
        ("body", lambda error: error.body, "<b>"),
        ("cause", lambda error: error.__cause__.errno, errno.ECONNRESET),
        ("group", of_group, [[of_limit(limited())], [(3.0, "m")], 1]),
        ("file", lambda error: Path(error.filename).name, "f"),
        ("one's own", lambda error: isinstance(error, ModelHTTPError) and error.status_code, 503),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_code_around_an_agent_finds_the_same_error_in_each_attempt(
    error: str, judge: Callable[[Any], object], found: object
) -> None:
    """A plain try/except around a sub-agent is how most code survives."""
    assert await in_each_attempt(judging(ERRORS[error], judge)) == (found, "from the second")


@pytest.mark.skipif(ModelFallback is None, reason="this pydantic-ai has no capability for it")
@pytest.mark.parametrize(
    ("error", "fallback_on", "streamed"),
    [
        ("category", (ModelRateLimitError,), False),
        ("category", lambda error: getattr(error, "retry_after", None) == 7.0, True),
        ("timeout", (ModelRequestTimeout,), False),
        ("cause", lambda error: isinstance(error.__cause__, ConnectionError), False),
        ("one's own", (ModelAPIError,), False),
        ("group", (FallbackExceptionGroup,), False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_fallback_falls_back_on_the_same_error_in_each_attempt(
    error: str, fallback_on: Any, streamed: bool
) -> None:
    """The next attempt would otherwise end with the error, or ask the first model again."""

    async def step(asked: Counter[str]) -> object:
        agent: Agent[None, str] = Agent(
            scripted(asked, calls("look"), ERRORS[error](), name="first"),
            name="worker",
            capabilities=[
                ModelFallback(scripted(asked, calls("look"), "done", name="second"), fallback_on=fallback_on),
                durability(),
            ],
        )

        @agent.tool_plain
        def look() -> str:
            return "seen"

        if not streamed:
            result = await agent.run("go")
            return result.output, result.usage.requests, len(result.all_messages())
        async with agent.run_stream("go") as stream:
            return await stream.get_output(), stream.usage.requests, len(stream.all_messages())

    assert (await in_each_attempt(step))[0] == "done"


async def test_a_fallback_model_that_fails_as_a_whole_fails_so_in_each_attempt() -> None:
    """It is one call to the journal, whose error holds those of its models."""

    async def step(asked: Counter[str]) -> object:
        model = FallbackModel(scripted(asked, limited(), name="first"), scripted(asked, lost(), name="second"))
        agent = Agent(model, name="worker", capabilities=[durability()])
        other = Agent(scripted(asked, "done", name="other"), name="other", capabilities=[durability()])
        try:
            await agent.run("go")
        except FallbackExceptionGroup as group:
            found = [isinstance(error, ModelRateLimitError) for error in group.exceptions]
        return found, (await other.run("go")).output

    assert await in_each_attempt(step) == ([True, False], "done")
