"""What is known about a trial afterwards: only values, read from files and from the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import JsonValue

__all__ = [
    "ORDERLY_END",
    "TIMED_OUT",
    "Asked",
    "Awaited",
    "Block",
    "Branch",
    "Ending",
    "Event",
    "Heard",
    "History",
    "Hit",
    "Run",
    "Told",
    "Violation",
    "Workflow",
    "asked_in",
    "heard_in",
    "hits_in",
    "latest_runs_in",
    "lines_of",
    "runs_in",
]

LATEST = 4096  # bytes
ORDERLY_END = "told to end"  # a kind of hit that hurts nothing: the steps that run may be given back
TIMED_OUT = "timed out"  # what a step hears that nobody answers

ELSEWHERE = {"at started", "at resolved", "at signalled"}  # hits on processes that run no steps

Ending: TypeAlias = Literal["answered", "timed out", "either"]


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
        return self.kind.startswith(("kill ", "at ")) and self.kind not in {"kill rest", *ELSEWHERE}


@dataclass(frozen=True, kw_only=True)
class Event:
    """What the store recorded of a hop, or of its wait with this name; `how` is that of a join."""

    type: str
    hop_id: str
    at: float
    wait: str = ""
    how: str = ""


@dataclass(frozen=True, kw_only=True)
class Awaited:
    """A wait that a hop must have had, and how it must have ended; nobody may be asked if it is one for a signal."""

    hop_id: str
    name: str
    ending: Ending
    asks: bool = True


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Somebody was asked under a token."""

    hop_id: str
    name: str
    token: str


@dataclass(frozen=True, kw_only=True)
class Told:
    """Somebody answered, and what they were told about it; `outcome` is empty if they never heard of it."""

    hop_id: str
    name: str
    payload: str
    outcome: str


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a step went on with after a wait."""

    hop_id: str
    name: str
    heard: str


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A branch of a block: its hops in their order, and what it must give.

    It fails if it is `doomed`; else it gives its `output` or, if that is None, anything. If it is one `block`, that is
    its only hop.
    """

    name: str
    hops: tuple[str, ...]
    output: str | None = None
    doomed: bool = False
    block: Block | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block that a slip had, and how it must have been joined.

    It goes on when `needed` branches have succeeded or, if it `collects`, when all have ended; and fails if it `misses`
    its join.
    """

    hop_id: str
    step: str
    branches: tuple[Branch, ...]
    needed: int
    collects: bool = False
    misses: bool = False

    @property
    def all(self) -> Iterator[Block]:
        """It, and the blocks in its branches."""
        yield self
        for branch in self.branches:
            if branch.block is not None:
                yield from branch.block.all

    @property
    def hops(self) -> tuple[str, ...]:
        """The hops that have bodies, of all its branches and those in them."""
        of_branches = [branch.block.hops if branch.block is not None else branch.hops for branch in self.branches]
        return tuple(hop for hops in of_branches for hop in hops)


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """What was dispatched, and what its handle says in the end.

    `hops` may be called and `steps` must be executed, both in the slip's order; `end` is the intended state. `blocks`
    are among the hops, and `outputs` has theirs by their steps.
    """

    correlation_id: str
    hops: tuple[str, ...]
    steps: tuple[str, ...]
    end: str = "completed"
    state: str
    executed: tuple[str, ...]
    events: tuple[Event, ...]
    waits: tuple[Awaited, ...] = ()
    blocks: tuple[Block, ...] = ()
    outputs: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def bodies(self) -> tuple[str, ...]:
        """The hops that have bodies, also those in branches."""
        blocks = {block.hop_id for block in self.blocks}
        own = tuple(hop for hop in self.hops if hop not in blocks)
        return own + tuple(hop for block in self.blocks for hop in block.hops)

    @property
    def all_blocks(self) -> tuple[Block, ...]:
        """Its blocks, also those in branches."""
        return tuple(each for block in self.blocks for each in block.all)


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything that the checker judges.

    Of workflows that have ended, `left_open` are hops that have not, and `left_lasting` are keys that never expire.
    """

    workflows: tuple[Workflow, ...]
    runs: tuple[Run, ...]
    hits: tuple[Hit, ...] = ()
    left_due: tuple[str, ...] = ()
    left_owned: tuple[str, ...] = ()
    left_parked: tuple[str, ...] = ()
    left_asleep: tuple[str, ...] = ()
    left_asked: tuple[str, ...] = ()
    left_ending: tuple[str, ...] = ()
    left_letters: tuple[str, ...] = ()
    left_open: tuple[str, ...] = ()
    left_lasting: tuple[str, ...] = ()
    asked: tuple[Asked, ...] = ()
    told: tuple[Told, ...] = ()
    heard: tuple[Heard, ...] = ()
    ended_workers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Violation:
    """Which rule does not hold, for what, and what was seen."""

    kind: str
    about: str
    seen: str


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


def asked_in(path: Path) -> tuple[Asked, ...]:
    """Return who was asked, as a file records it."""
    return tuple(Asked(hop_id=line["hop"], name=line["name"], token=line["token"]) for line in lines_of(path))


def heard_in(path: Path) -> tuple[Heard, ...]:
    """Return what steps went on with, as a file records it."""
    return tuple(Heard(hop_id=line["hop"], name=line["name"], heard=line["heard"]) for line in lines_of(path))
