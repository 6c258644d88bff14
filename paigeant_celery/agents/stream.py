"""Which events of an agent are shown to those who watch its workflow."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, get_args

from pydantic_ai.agent import EventStreamHandler
from pydantic_ai.messages import AgentStreamEvent, ModelResponseStreamEvent
from pydantic_ai.tools import RunContext

from paigeant_celery.journal.event_feed import EventFeed
from paigeant_celery.journal.hop_journal import HopJournal, surrounding_journal

__all__ = ["feed_here", "is_told", "shown_to"]

MODEL_EVENTS = get_args(get_args(ModelResponseStreamEvent)[0])


def feed_here() -> EventFeed | None:
    """Return the feed that shows the events of this context, or None if nobody asked for them."""
    journal = surrounding_journal()
    return journal.feed if journal is not None else None


def is_told(journal: HopJournal, ctx: RunContext[Any], event: AgentStreamEvent) -> bool:
    """Say whether watchers have had an event: the model's own when they came, others in an earlier attempt."""
    if isinstance(event, MODEL_EVENTS):
        return True
    part = getattr(event, "part", None)
    name, call_id = getattr(part, "tool_name", None), getattr(part, "tool_call_id", None)
    if not isinstance(name, str) or not isinstance(call_id, str):
        return False
    return journal.holds(ctx.run_id or "", ctx.run_step, "tool", name=name, call_id=call_id)


def shown_to(feed: EventFeed, handler: EventStreamHandler[Any] | None) -> EventStreamHandler[Any]:
    """Return a handler that shows the model's events to watchers and passes them on."""

    async def show(ctx: RunContext[Any], stream: AsyncIterable[AgentStreamEvent]) -> None:
        async def passing() -> AsyncIterator[AgentStreamEvent]:
            async for event in stream:
                feed.put(ctx.run_id or "", ctx.run_step, event)
                yield event

        events = passing()
        if handler is not None:
            await handler(ctx, events)
        async for _ in events:  # what the handler left unread
            pass

    return show
