"""The events of one workflow in the store in memory, and what its agents stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from paigeant_celery.store.limits import StoreLimits
from paigeant_celery.store.port import StoredEvent
from paigeant_celery.store.timeline import Entry, Place, read_on

__all__ = ["Events"]


class Events:
    """What happened to a workflow, and separately what its agents streamed. The oldest entries of each are dropped."""

    def __init__(self, *, limits: StoreLimits, numbers: Iterator[int]) -> None:
        self.happened: deque[Entry] = deque(maxlen=limits.max_events)
        self.streamed: deque[Entry] = deque(maxlen=limits.max_streamed)
        self._numbers = numbers

    def add_event(self, type_: str, hop_id: str, *, now: datetime, **about: str) -> None:
        """Add an event of a hop."""
        self.note({"type": type_, "hop": hop_id, **about}, now=now)

    def note(self, fields: Mapping[str, str], *, now: datetime) -> None:
        """Add an event."""
        self.happened.append(Entry(id=(0, next(self._numbers)), at=now, fields=fields))

    def stream(self, events: Sequence[Mapping[str, str]], *, hop_id: str, now: datetime) -> None:
        """Add what the agent in a hop does."""
        last = self.happened[-1].id
        first = self.streamed[-1].id[1] + 1 if self.streamed else 1
        for number, event in enumerate(events, first):
            fields = {**event, "type": "agent", "hop": hop_id}
            self.streamed.append(Entry(id=(0, number), at=now, fields=fields, behind=last))

    def read(self, place: Place, *, limit: int) -> Sequence[StoredEvent]:
        """Return what follows a place, oldest first."""
        happened = [event for event in self.happened if event.id > place.event]
        streamed = [entry for entry in self.streamed if entry.id > place.streamed]
        return read_on(place, happened, streamed, limit=max(limit, 0))
