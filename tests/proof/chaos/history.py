"""What is known about a trial afterwards: only values, read from files and from the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "ORDERLY_END",
    "Event",
    "History",
    "Hit",
    "Run",
    "Workflow",
    "hits_in",
    "latest_runs_in",
    "lines_of",
    "runs_in",
]

LATEST = 4096  # bytes
ORDERLY_END = "told to end"  # a kind of hit that hurts nothing: the steps that run may be given back


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of a step's body, in a named worker and one of its processes.

    `ended` is when it ended, `raised` when it failed; both are None if it died or was cancelled.
    """

    hop_id: str
    process: str
    pid: int
    begun: float
    ended: float | None = None
    raised: float | None = None


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A fault: on one process of a worker, on all of it (no `pid`), or (no `process`) on something all share.

    `since` is the moment before the first signal, `until` the one after which the hit processes are dead or, if they
    were frozen, have learnt what they lost.
    """

    kind: str
    since: float
    until: float
    process: str | None = None
    pid: int | None = None

    @property
    def kills(self) -> bool:
        """Whether it ended a process that runs steps."""
        return self.kind.startswith(("kill ", "at ")) and self.kind not in {"kill rest", "at started"}


@dataclass(frozen=True, kw_only=True)
class Event:
    """What the store recorded of a hop."""

    type: str
    hop_id: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """What was dispatched, and what its handle says in the end.

    `hops` may be called and `steps` must be executed, both in the slip's order; `end` is the intended state.
    """

    correlation_id: str
    hops: tuple[str, ...]
    steps: tuple[str, ...]
    end: str = "completed"
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
    left_parked: tuple[str, ...] = ()
    ended_workers: tuple[str, ...] = ()


def lines_of(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a file with one per line."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def runs_in(path: Path) -> tuple[Run, ...]:
    """Return the runs that a file records, in the order in which they began."""
    return _runs(list(lines_of(path)))


def latest_runs_in(path: Path) -> tuple[Run, ...]:
    """Return only the latest of them, for callers that ask often."""
    if not path.exists():
        return ()
    start = max(0, path.stat().st_size - LATEST)
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read().splitlines()
    return _runs([json.loads(line) for line in (lines[1:] if start else lines)])


def _runs(lines: Sequence[Mapping[str, Any]]) -> tuple[Run, ...]:
    ended = {line["run"]: line["at"] for line in lines if line["what"] == "end"}
    raised = {line["run"]: line["at"] for line in lines if line["what"] == "raised"}
    runs = (
        Run(
            hop_id=line["hop"], process=line["process"], pid=line["pid"], begun=line["at"],
            ended=ended.get(line["run"]), raised=raised.get(line["run"]),
        )
        for line in lines if line["what"] == "begin"
    )  # fmt: skip
    return tuple(sorted(runs, key=lambda run: run.begun))


def hits_in(path: Path) -> tuple[Hit, ...]:
    """Return the faults that a file records."""
    return tuple(
        Hit(
            kind=line["kind"], process=line.get("process"), pid=line.get("pid"), since=line.get("since", line["at"]),
            until=line.get("until", line["at"]),
        )
        for line in lines_of(path)
    )  # fmt: skip
