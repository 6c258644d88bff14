"""Events of a workflow, as whoever watches it gets them, and how those with long data are kept in parts.

Each entry of a stream holds one part, and readers get the event whole. All parts of an event are published at once, so
that a stream has all of them or, once its oldest entries are dropped, the last ones, which are then no event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

__all__ = ["PART", "Joining", "WorkflowEvent", "in_parts"]

PART = 8 * 1024  # bytes of data in one entry, so that the number of entries bounds a stream

_PLACE = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})")


@dataclass(frozen=True, kw_only=True)
class WorkflowEvent:
    """Something that happened: its `type`, the hop, and further fields. Reading resumes after its `cursor`.

    `path` is that of the hop's step, as in `readings/3/reader`. It is empty if nothing is known of the step any
    more: of one in a branch that ended before the cursor from which events are read.
    """

    cursor: str
    at: datetime
    type: str
    hop_id: str
    fields: Mapping[str, str]
    path: str = ""


def in_parts(event: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Yield the entries for an event: itself, or its parts if its `data` is long.

    A part has the event's fields but `data`. `bytes` is the size of that, `part` says which part `text` is of how many.
    """
    data = event.get("data", "").encode()
    if len(data) <= PART:
        yield event
        return
    rest = {**{name: value for name, value in event.items() if name != "data"}, "bytes": str(len(data))}
    texts = list(_cut(data))
    for number, text in enumerate(texts, 1):
        yield {**rest, "part": f"{number}/{len(texts)}", "text": text}


class Joining:
    """Makes the entries of a stream, in order, the events that they were."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def whole(self, entry: Mapping[str, str]) -> Mapping[str, str] | None:
        """Return the event that an entry is or completes, or None if it is a part of one that is not complete."""
        place = _PLACE.fullmatch(entry.get("part", ""))
        if place is None:
            self._texts.clear()
            return entry
        number, count = int(place[1]), int(place[2])
        if number == 1:
            self._texts.clear()
        if number != len(self._texts) + 1:  # the beginning is gone
            self._texts.clear()
            return None
        self._texts.append(entry.get("text", ""))
        if number < count:
            return None
        data = "".join(self._texts)
        self._texts.clear()
        about = {name: value for name, value in entry.items() if name not in ("part", "text", "bytes")}
        return {**about, "data": data}


def _cut(data: bytes) -> Iterator[str]:
    start = 0
    while start < len(data):
        end = start + PART
        while end < len(data) and data[end] & 0xC0 == 0x80:  # in the middle of a character
            end -= 1
        yield data[start:end].decode()
        start = end
