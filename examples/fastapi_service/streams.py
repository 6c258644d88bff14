"""A workflow as server-sent events: what happens to it, and what its agents do as AG-UI. Both go on after a break.

A browser's `EventSource` sends the `id` of the last event that it got as `Last-Event-ID`. Here that is the cursor of a
workflow's event. One of them may become several events of AG-UI, so there a number follows the cursor.

`events` and `screen` read what there is before they return, so errors are raised before the answer begins.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ag_ui.core import BaseEvent, EventType, StepFinishedEvent, StepStartedEvent
from pydantic import TypeAdapter
from pydantic_ai.ui.ag_ui import AGUIEventStream

from paigeant_celery import WorkflowEvent, WorkflowHandle, agent_events

__all__ = ["events", "screen", "with_heartbeats"]

HEARTBEAT = 15.0  # seconds; proxies end connections on which nothing comes for a minute
EVENT = TypeAdapter(WorkflowEvent)
END = "event: end\ndata: {}\n\n"  # without it, a browser would come back for more
IDS = ("messageId", "parentMessageId", "entityId")  # made at random by AG-UI's stream


async def events(handle: WorkflowHandle, after: str | None) -> AsyncGenerator[str, None]:
    """Return what happens to a workflow, from its start or from behind a cursor."""
    past = await asyncio.to_thread(handle.events_so_far, after)

    async def lines() -> AsyncGenerator[str, None]:
        async for event in _all(handle, past, after):
            yield f"id: {event.cursor}\ndata: {EVENT.dump_json(event).decode()}\n\n"
        yield END

    return lines()


async def screen(handle: WorkflowHandle, after: str | None) -> AsyncGenerator[str, None]:
    """Return what the agents do, as events of AG-UI, from the start or from behind one of them.

    A text goes on where it was broken off, so all is read from the start again, and what was sent is left out.
    """
    past = await asyncio.to_thread(handle.events_so_far)

    async def lines() -> AsyncGenerator[str, None]:
        # Long workflows drop old events. If that one is gone, the screen begins anew.
        sent = after is not None and after.rpartition("/")[0] in {"", *(event.cursor for event in past)}
        async for id_, event in _Screen(handle.correlation_id, _all(handle, past, None)).events():
            if not sent:
                yield f"id: {id_}\ndata: {json.dumps(event)}\n\n"
            sent = sent and id_ != after
        yield END

    return lines()


async def with_heartbeats(lines: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    """Yield the lines, and a comment if none has come for a while, which also shows that a browser has gone."""
    coming = asyncio.ensure_future(anext(lines))
    try:
        while True:
            await asyncio.wait({coming}, timeout=HEARTBEAT)
            if not coming.done():
                yield ": still here\n\n"
                continue
            with suppress(StopAsyncIteration):
                yield coming.result()
                coming = asyncio.ensure_future(anext(lines))
                continue
            return
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            await coming
        await lines.aclose()


async def _all(
    handle: WorkflowHandle, past: Sequence[WorkflowEvent], after: str | None
) -> AsyncIterator[WorkflowEvent]:
    for event in past:
        yield event
    async for event in handle.events(after=past[-1].cursor if past else after):
        yield event


@dataclass
class _Screen:
    """Makes events of AG-UI from those of a workflow: the same ones for each reader, each with its id."""

    workflow: str
    happened: AsyncIterator[WorkflowEvent]
    cursor: str = ""
    parts: dict[str, int] = field(default_factory=dict)  # so many came of the event with this cursor
    attempts: dict[str, str] = field(default_factory=dict)  # of the steps that run
    steps: list[tuple[str, BaseEvent]] = field(default_factory=list)  # what began and ended, and is not told yet
    ids: dict[str, str] = field(default_factory=dict)

    async def events(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        stream = AGUIEventStream[Any, Any](thread_id=self.workflow, run_id=self.workflow)
        async for event in stream.transform_stream(agent_events(self._noted())):
            over = event.type in (EventType.RUN_FINISHED, EventType.RUN_ERROR)
            # What begins anew may first end a text that was broken off, so steps come behind what came of their event.
            while self.steps and (over or self.steps[0][0] != self.cursor):
                yield self._numbered(*self.steps.pop(0))
            yield self._numbered(self.cursor, event)

    async def _noted(self) -> AsyncIterator[WorkflowEvent]:
        async for event in self.happened:
            self.cursor = event.cursor
            match event.type:
                case "claimed" if event.path and self.attempts.get(event.path) != event.fields.get("attempt"):
                    self._end(event.path)
                    self.attempts[event.path] = event.fields.get("attempt", "")
                    self.steps.append((event.cursor, StepStartedEvent(step_name=event.path)))
                case "completed":
                    self._end(event.path)
                case "workflow_cancelled":
                    for path in list(self.attempts):
                        self._end(path)
            yield event

    def _end(self, path: str) -> None:
        if self.attempts.pop(path, None) is not None:
            self.steps.append((self.cursor, StepFinishedEvent(step_name=path)))

    def _numbered(self, cursor: str, event: BaseEvent) -> tuple[str, dict[str, Any]]:
        number = self.parts[cursor] = self.parts.get(cursor, 0) + 1
        told = event.model_dump(mode="json", by_alias=True, exclude_none=True)
        for name in IDS:
            if name in told:
                told[name] = self.ids.setdefault(told[name], f"message-{len(self.ids) + 1}")
        return f"{cursor}/{number}", told
