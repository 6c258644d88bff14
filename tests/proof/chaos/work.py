"""What is sent, and what must become of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.programs.fanning import BODIES, BRANCHES, FANS, Fan
from tests.proof.chaos.history import Block, Branch, Workflow
from tests.proof.chaos.people import waits_of

__all__ = ["Work", "meant_of"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """A workflow: how long its steps take, and which of them always fails, or fails with only one attempt.

    One of them may wait instead, in some way, and one may be a block, a fan of a kind.
    """

    correlation_id: str
    seconds: float
    steps: int
    doomed_at: int | None = None
    parks_at: int | None = None
    waits_at: int | None = None
    way: str = ""
    fans_at: int | None = None
    fan: str = ""

    @property
    def called(self) -> int:
        """How many steps of its own slip are called if nothing else fails."""
        return self.steps if self.doomed_at is None else self.doomed_at + 1

    @property
    def may_park(self) -> bool:
        """Whether a step of it is meant to park."""
        return self.parks_at is not None or (self.fans_at is not None and FANS[self.fan].with_parks)

    @property
    def fans(self) -> Sequence[tuple[str, Fan]]:
        """Its block and those in it, with their hops."""
        return () if self.fans_at is None else [*FANS[self.fan].fans(f"{self.correlation_id}.{self.fans_at}")]

    @property
    def in_branches(self) -> Iterator[tuple[str, Fan, int]]:
        """The hops of the bodies in its branches, with the block and the number of the branch."""
        for above, fan in self.fans:
            for hop, _, number in fan.bodies(above):
                yield hop, fan, number

    @property
    def bodies(self) -> int:
        """About how many bodies of a full length it has."""
        return self.steps + sum(len(fan.slow) + 2 for _, fan in self.fans)


def meant_of(work: Work) -> Workflow:
    """Return what must become of a workflow."""
    known, fan = work.correlation_id, FANS.get(work.fan)
    own = [f"{known}.{place}" for place in range(work.called)]
    executed, fails = work.called - (work.doomed_at is not None), work.doomed_at is not None
    blocks: tuple[Block, ...] = ()
    if fan is not None and work.fans_at is not None:
        if fan.misses:
            own, executed, fails = own[: work.fans_at + 1], work.fans_at, True
        blocks = (block_meant(fan, own[work.fans_at], f"step-{work.fans_at}"),)
    waits = [*waits_of(work.way, f"{known}.{work.waits_at}")] if work.way else []
    for hop, each in work.fans:
        waits += [wait for number, way in each.waits.items() for wait in waits_of(way, f"{hop}-{number}.0")]
    reached = {*own, *(hop for block in blocks for hop in block.hops)}
    return Workflow(
        correlation_id=known, hops=tuple(own), steps=tuple(f"step-{index}" for index in range(executed)),
        end="failed with NotImplementedError" if fails else "completed",
        state="unknown", executed=(), events=(), waits=tuple(wait for wait in waits if wait.hop_id in reached),
        blocks=blocks,
    )  # fmt: skip


def block_meant(fan: Fan, hop: str, step: str) -> Block:
    """Return what must become of a block."""
    branches = []
    for number in range(BRANCHES):
        bodies = [(below, name) for below, name, other in fan.bodies(hop) if other == number]
        first = f"{hop}-{number}.0"
        inner = block_meant(fan.nested[number], first, "inner") if number in fan.nested else None
        branches.append(
            Branch(
                name=str(number), hops=tuple(below for below, _ in bodies) or (first,), block=inner,
                doomed=number in fan.doomed, output=BODIES[bodies[-1][1]] if bodies else None,
            )
        )  # fmt: skip
    return Block(
        hop_id=hop, step=step, branches=tuple(branches), needed=fan.needed or BRANCHES,
        collects=fan.collects, misses=fan.misses,
    )  # fmt: skip
