"""A hop in memory that is watched, and whose attempts lose what a killed process would have lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from paigeant_celery.core.events import Joining, WorkflowEvent
from paigeant_celery.journal.event_feed import EventFeed
from paigeant_celery.journal.told import told_before
from paigeant_celery.store.port import Completion
from tests.support.journalled_hop import JournalledHop

__all__ = ["WatchedHop", "happened", "shown", "told"]


class WatchedHop(JournalledHop):
    """The hop `w.0`, whose runs somebody watches."""

    async def watched(
        self,
        run: Callable[[], Awaitable[Any]],
        *,
        cut_after: int | None = None,
        keep: Callable[[int], int] = lambda sent: sent,
    ) -> Any:
        """Run one attempt; of the batches that it sends, only so many first ones reach the store as `keep` says."""
        batches: list[Sequence[Mapping[str, str]]] = []
        with self.attempt(cut_after=cut_after) as journal:
            assert self.closing is not None
            feed = EventFeed(
                lambda events: batches.append(events) or True,
                attempt=self.attempts,
                told=told_before(self.store, "w.0"),
            )
            journal.feed = feed
            try:
                async with feed.flowing():
                    return await run()
            finally:
                for batch in batches[: keep(len(batches))]:
                    assert self.store.publish(self.closing, batch)

    def complete(self) -> None:
        """End the hop and its workflow."""
        assert self.closing is not None
        assert self.store.complete(Completion(closing=self.closing, envelope="end", next_hop=None))

    def told(self) -> list[WorkflowEvent]:
        """Return what a handle would yield."""
        joining = Joining()
        found = []
        for stored in self.store.events("w", after=None, limit=100_000):
            if (whole := joining.whole(stored.fields)) is not None:
                about = {name: value for name, value in whole.items() if name not in ("type", "hop")}
                found.append(
                    WorkflowEvent(
                        cursor=stored.cursor,
                        at=stored.at,
                        type=whole["type"],
                        hop_id=whole.get("hop", ""),
                        fields=about,
                    )
                )
        return found


async def told(events: Sequence[WorkflowEvent]) -> AsyncIterator[WorkflowEvent]:
    """Yield the events, as a handle does."""
    for event in events:
        yield event


def shown(event: Any, *, run: str = "r", step: int = 1, hop: str = "w.0", **fields: str) -> WorkflowEvent:
    """Return the event of type `agent` that shows an event of pydantic-ai."""
    data = TypeAdapter(type(event)).dump_json(event).decode()
    about = {"event": event.event_kind, "run": run, "step": str(step), "attempt": "1", "data": data, **fields}
    return happened("agent", hop=hop, **about)


def happened(type_: str, *, hop: str = "w.0", **fields: str) -> WorkflowEvent:
    """Return an event of a workflow."""
    return WorkflowEvent(cursor="", at=datetime.now(UTC), type=type_, hop_id=hop, fields=fields)
