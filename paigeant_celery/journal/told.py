"""What those who watch a hop have been told of its runs: in earlier attempts, and so far in this one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from paigeant_celery.core.events import Joining
from paigeant_celery.core.names import split_hop_id
from paigeant_celery.store.port import EventStore

__all__ = ["Told", "told_before"]

TOOL_EVENTS = {"function_tool_call", "function_tool_result", "output_tool_call", "output_tool_result"}
PART_END = "part_end"
ONCE = {"agent_run_result"}  # of a run
MODEL_EVENTS = {"part_start", "part_delta", PART_END, "final_result"}
EVENTS_AT_ONCE = 500  # a page is at most 4 MiB


Place: TypeAlias = tuple[int, int]  # the step of a run, and the index of a part of the answer in it


@dataclass
class _Open:
    """A part of a model's answer that began and has not ended."""

    about: Mapping[str, str]
    place: Place
    part: dict[str, Any]
    deltas: list[Mapping[str, Any]] = field(default_factory=list)


class Told:
    """Knows which parts are open, and what need not be told again.

    Events are flat mappings, as they are published. Their `data` is JSON of pydantic-ai's events.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._ended: dict[str, dict[Place, int]] = {}  # run -> place of a part -> what it said
        self._answers = set[tuple[str, str]]()
        self._earlier = Counter[Hashable]()

    def remember(self, event: Mapping[str, str]) -> None:
        """Take an event of an earlier attempt."""
        kind = event.get("event", "")
        if kind == "call_made" and event.get("call") == "model" and not event.get("name"):
            self.begin_answer(event.get("run", ""), event.get("step", ""))
        elif kind == PART_END and (data := _read(event)) is not None:
            self._ended.setdefault(event["run"], {})[_place(event, data)] = _said(data["part"])
        elif kind not in MODEL_EVENTS and "data" in event:
            self._earlier[_identity(event)] += 1
        self.add(event)

    def forget(self) -> None:
        """Begin anew, because all calls are made again; what is open stays open."""
        self._ended.clear()
        self._answers.clear()
        self._earlier.clear()

    def add(self, event: Mapping[str, str]) -> None:
        """Take an event that is told now."""
        run = event.get("run", "")
        match event.get("event"):
            case "part_start":
                self._open.pop(run, None)
                if (data := _read(event)) is not None:
                    place = _place(event, data)
                    about = {name: event[name] for name in ("run", "step", "within") if name in event}
                    self._open[run] = _Open(about, place, data["part"])
                    # What was told of the answer from here on is given up by the new one.
                    self._ended[run] = {at: said for at, said in self._ended.get(run, {}).items() if at < place}
            case "part_delta" if run in self._open:
                opened, data = self._open[run], _read(event)
                if data is not None and data["index"] == opened.place[1]:
                    opened.deltas.append(data["delta"])
            case "part_end":
                self._open.pop(run, None)

    def begin_answer(self, run: str, step: str) -> None:
        """Note that all of a model's answer is told as it comes."""
        self._answers.add((run, step))

    def has_answer(self, run: str, step: str) -> bool:
        """Say whether all of a model's answer was told, in this attempt or an earlier one."""
        return (run, step) in self._answers

    def has_part(self, event: Mapping[str, str]) -> bool:
        """Say whether the part that this event ends was told with all that it says."""
        data = _read(event)
        return data is not None and self._ended.get(event["run"], {}).get(_place(event, data)) == _said(data["part"])

    def is_repeated(self, event: Mapping[str, str]) -> bool:
        """Say whether an earlier attempt told this, once for each time that it did."""
        if not self._earlier:
            return False
        identity = _identity(event)
        if not self._earlier[identity]:
            return False
        self._earlier[identity] -= 1
        return True

    def close(self, run: str | None) -> Iterator[Mapping[str, str]]:
        """Yield the events that end what is open in a run, or in all runs, as far as it was told."""
        for name in [name for name in self._open if run in (None, name)]:
            opened = self._open.pop(name)
            part = _as_told(opened)
            self._ended.setdefault(name, {})[opened.place] = _said(part)
            end = {"index": opened.place[1], "part": part, "event_kind": PART_END}
            yield {**opened.about, "event": PART_END, "cut": "1", "data": json.dumps(end)}


def told_before(store: EventStore, hop_id: str) -> Told:
    """Return what watchers were told by earlier attempts of a hop. Blocks; raises `TransientError`.

    An event of another form is left out, because no step may fail for what is shown of it.
    """
    told, joining, after = Told(), Joining(), None
    correlation_id, _ = split_hop_id(hop_id) or ("", "")
    while page := store.events(correlation_id, after=after, limit=EVENTS_AT_ONCE):
        after = page[-1].cursor
        for stored in page:
            event = joining.whole(stored.fields)
            if event is None or event.get("hop") != hop_id:
                continue
            if event["type"] == "agent":
                with suppress(ValueError, TypeError, LookupError, AttributeError):  # of another pydantic-ai
                    told.remember(event)
            elif event["type"] == "redriven" and "journal" in event:
                told.forget()
    return told


def _identity(event: Mapping[str, str]) -> Hashable:
    """Return what an event has in common with its repetition: results are made anew and have other times."""
    kind, about = event["event"], (event.get("run"), event.get("step"))
    if kind in ONCE:
        return kind, event.get("run")
    if kind in TOOL_EVENTS and (data := _read(event)) is not None:
        return kind, *about, data["part"].get("tool_call_id")
    return kind, *about, hash(event.get("data"))


def _place(event: Mapping[str, str], data: Mapping[str, Any]) -> Place:
    return int(event["step"]), data["index"]


def _said(part: Mapping[str, Any]) -> int:
    """Return what two parts have in common that say the same."""
    return hash(json.dumps([part.get(name) for name in ("part_kind", "tool_call_id", "tool_name", "content", "args")]))


def _read(event: Mapping[str, str]) -> dict[str, Any] | None:
    return json.loads(event["data"]) if "data" in event else None


def _as_told(opened: _Open) -> dict[str, Any]:
    """Return an open part with the deltas that were told of it."""
    part = dict(opened.part)
    for name in ("content", "signature", "tool_name", "args"):
        deltas = [delta[f"{name}_delta"] for delta in opened.deltas if delta.get(f"{name}_delta")]
        values = [value for value in (part.get(name), *deltas) if value]
        if deltas and all(isinstance(value, str) for value in values):
            part[name] = "".join(values)
        elif deltas and all(isinstance(value, dict) for value in values):
            part[name] = {key: value for each in values for key, value in each.items()}
    return part
