"""What is known of a run after it: values only, read from files and from the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Event", "History", "Hit", "Run", "Workflow", "hits_in", "lines_of", "runs_in"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of a step's body; `ended` is None where it never came to its end."""

    hop_id: str
    pid: int
    group: int
    begun: float
    ended: float | None = None


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A fault: a process, a whole group of them, or (with neither) something all share.

    `since` is the moment before the first signal, `until` the one after which the hit processes are dead or, where
    they were frozen, have learnt what they lost.
    """

    kind: str
    since: float
    until: float
    pid: int | None = None
    group: int | None = None

    @property
    def kills(self) -> bool:
        """Whether it ended a worker's process."""
        return self.kind.startswith(("kill ", "at "))


@dataclass(frozen=True, kw_only=True)
class Event:
    """What the store recorded of a hop."""

    type: str
    hop_id: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """What was dispatched and what its handle says in the end; `hops` and `steps` are those of the slip, in order."""

    correlation_id: str
    hops: tuple[str, ...]
    steps: tuple[str, ...]
    state: str
    executed: tuple[str, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything that the checker judges."""

    workflows: tuple[Workflow, ...]
    runs: tuple[Run, ...]
    hits: tuple[Hit, ...] = ()
    left_due: tuple[str, ...] = ()
    left_owned: tuple[str, ...] = ()
    ended_workers: tuple[str, ...] = ()


def lines_of(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a file with one in each line."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def runs_in(path: Path) -> tuple[Run, ...]:
    """Return the runs that a file notes, in the order in which they began."""
    lines = list(lines_of(path))
    ends = {line["run"]: line["at"] for line in lines if line["what"] == "end"}
    begun = (line for line in lines if line["what"] == "begin")
    runs = (
        Run(hop_id=line["hop"], pid=line["pid"], group=line["group"], begun=line["at"], ended=ends.get(line["run"]))
        for line in begun
    )
    return tuple(sorted(runs, key=lambda run: run.begun))


def hits_in(path: Path) -> tuple[Hit, ...]:
    """Return the faults that a file notes."""
    return tuple(
        Hit(
            kind=line["kind"], pid=line["pid"], group=line["group"], since=line.get("since", line["at"]),
            until=line.get("until", line["at"]),
        )
        for line in lines_of(path)
    )  # fmt: skip
