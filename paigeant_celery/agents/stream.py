"""What of an agent's run is shown to those who watch its workflow: what happens, once, in whatever attempt it does."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from pydantic_ai.agent import EventStreamHandler
from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelResponse,
    ModelResponseStreamEvent,
    PartEndEvent,
    PartStartEvent,
)
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import RunUsage

from paigeant_celery.core.causes import name_of
from paigeant_celery.journal.event_feed import EventFeed
from paigeant_celery.journal.scope import surrounding_call, surrounding_journal

__all__ = ["cannot_stream", "feed_here", "show_rest", "shown_run", "shown_to"]

ResultT = TypeVar("ResultT", bound=AgentRunResult[Any])

MODEL_EVENTS = get_args(get_args(ModelResponseStreamEvent)[0])
# How models say, before they ask anybody, that they cannot stream. Others raise the same classes in mid-stream.
NO_STREAM = ("Streamed requests not supported by this", "FunctionModel must receive a `stream_function`")


@dataclass(kw_only=True)
class _Ended:
    """What watchers get of a run's result: its output and the last answer, but not the prompts before that."""

    output: Any
    messages: list[ModelResponse]
    usage: RunUsage
    run_id: str
    conversation_id: str


@dataclass(kw_only=True)
class _RunResult:
    """What is read as an `AgentRunResultEvent`."""

    result: _Ended
    event_kind: Literal["agent_run_result"] = "agent_run_result"


def feed_here() -> EventFeed | None:
    """Return the feed that shows the events of this context, or None if nobody asked for them."""
    journal = surrounding_journal()
    return journal.feed if journal is not None else None


def cannot_stream(error: Exception) -> bool:
    """Say whether a model that was asked for a stream has none; it has sent nothing then."""
    return str(error).startswith(NO_STREAM)


async def shown_run(feed: EventFeed, run_id: str, run: Awaitable[ResultT]) -> ResultT:
    """Wait for a run and show how it ends: its result, or the class of its error."""
    feed.begin(run_id, within=surrounding_call())
    try:
        result = await run
    except Exception as error:
        feed.tell("run_failed", run=run_id, error=name_of(error))
        raise
    feed.put_new(run_id, 0, _RunResult(result=_ended(result)))
    return result


def show_rest(feed: EventFeed, ctx: RunContext[Any], event: AgentStreamEvent) -> None:
    """Show an event that a run has yielded, unless watchers have had it.

    They had those of a model when they came. If its answer is replayed, some may have been lost with a process that
    ended before they were sent; then its parts are shown as wholes.
    """
    run_id, step = ctx.run_id or "", ctx.run_step
    if not isinstance(event, MODEL_EVENTS):
        feed.put_new(run_id, step, event)
    elif isinstance(event, PartEndEvent) and not feed.has_answer(run_id, step):
        feed.put_part(run_id, step, PartStartEvent(index=event.index, part=event.part), event)


def shown_to(feed: EventFeed, handler: EventStreamHandler[Any] | None) -> EventStreamHandler[Any]:
    """Return a handler that shows the model's events to watchers and passes them on."""

    async def show(ctx: RunContext[Any], stream: AsyncIterable[AgentStreamEvent]) -> None:
        run_id = ctx.run_id or ""

        async def passing() -> AsyncIterator[AgentStreamEvent]:
            async for event in stream:
                feed.put(run_id, ctx.run_step, event)
                yield event

        feed.begin_answer(run_id, ctx.run_step)
        events = passing()
        try:
            if handler is not None:
                await handler(ctx, events)
            async for _ in events:  # what the handler left unread
                pass
        finally:
            feed.close(run_id)  # nothing is open, unless the answer was broken off

    return show


def _ended(result: AgentRunResult[Any]) -> _Ended:
    return _Ended(
        output=result.output,
        messages=[result.response],
        usage=result.usage,
        run_id=result.run_id,
        conversation_id=result.conversation_id,
    )
