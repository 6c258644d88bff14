"""What happened to a workflow and what its agents streamed, as one list that can be read on from any place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from typing import NamedTuple, TypeAlias

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.store.port import StoredEvent

__all__ = ["NOWHERE", "Entry", "Id", "Place", "before", "id_of", "place_of", "read_on"]

Id: TypeAlias = tuple[int, int]

NOWHERE: Id = (0, 0)

_ID = "[0-9]{1,20}-[0-9]{1,20}"
_CURSOR = re.compile(rf"({_ID})(?:\.({_ID}))?")
_END = 2**64  # the parts of an id on Redis are below it


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An event or, if it has `behind`, an entry of the stream; `behind` is the last event before the entry came.

    The second number of a stream entry's id counts all entries that ever came.
    """

    id: Id
    at: datetime
    fields: Mapping[str, str]
    behind: Id | None = None

    @property
    def order(self) -> tuple[Id, bool]:
        """The key that sorts events and stream entries as they were written, which clocks may not show."""
        return (self.id, False) if self.behind is None else (self.behind, True)


class Place(NamedTuple):
    """How far somebody has read: the last event, and the last entry of the stream. As text it is a cursor."""

    event: Id = NOWHERE
    streamed: Id = NOWHERE

    def __str__(self) -> str:
        ids = (self.event,) if self.streamed == NOWHERE else self
        return ".".join(f"{first}-{second}" for first, second in ids)


def id_of(text: str) -> Id:
    """Read an id as Redis writes it; raises `ValueError`."""
    first, _, second = text.partition("-")
    return int(first), int(second)


def place_of(cursor: str | None) -> Place:
    """Read a cursor; None is the beginning. Raises `InvalidInput`."""
    if cursor is None:
        return Place()
    found = _CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
    place = Place(*(id_of(text) for text in found.groups() if text is not None)) if found else None
    if place is None or max(*place.event, *place.streamed) >= _END:
        raise InvalidInput("bad_cursor", "after", "is not the cursor of an event of this store")
    return place


def before(place: Place) -> Place:
    """Return the place from which one reads the last event of `place` once more."""
    moment, number = place.event
    return place._replace(event=(moment, number - 1) if number else (moment - 1, _END - 1) if moment else NOWHERE)


def read_on(place: Place, events: Sequence[Entry], streamed: Sequence[Entry], *, limit: int) -> list[StoredEvent]:
    """Return what comes after a place, in the order in which it was written.

    Both lists begin there and are complete, or have `limit` entries. If entries of the stream were dropped before
    they were read, an event `events_dropped` says how many.
    """
    found = []
    for entry in merge(events, streamed, key=lambda entry: entry.order):
        if entry.behind is None:
            place = place._replace(event=entry.id)
        else:
            moment, number = entry.id
            missing = number - place.streamed[1] - 1
            if missing > 0:
                place = place._replace(streamed=(moment, number - 1))
                about = {"type": "events_dropped", "hop": entry.fields.get("hop", ""), "count": str(missing)}
                found.append(StoredEvent(cursor=str(place), at=entry.at, fields=about))
            place = place._replace(streamed=entry.id)
        found.append(StoredEvent(cursor=str(place), at=entry.at, fields=entry.fields))
    return found[:limit]
