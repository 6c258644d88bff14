"""Blocks: hops that wait for branches, and what the end of a branch makes of them.

A block opens its branches once, some of them at a time, and learns once that its join is met or missed. Every store
keeps these rules: the store in memory runs them, and the scripts on Redis are compared with it. What becomes of the
hops of branches stands in `core/hops.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeAlias

__all__ = [
    "Block",
    "BranchEnded",
    "Counted",
    "Ends",
    "Joined",
    "Plan",
    "come_back",
    "end_branch",
    "leave_window",
    "open_branches",
    "plan_of",
    "write_page",
]

Joined: TypeAlias = Literal["met", "missed"]
BranchEnded: TypeAlias = Literal["succeeded", "failed"]
Counted: TypeAlias = Literal["succeeded", "ended"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a block with so many branches is joined.

    It is met when `needed` branches have `counted`, and missed when more than `spare` have failed; None spares all.
    """

    count: int
    needed: int
    counted: Counted
    spare: int | None
    at_once: int
    timeout: float | None = None  # seconds from the opening


@dataclass(frozen=True, kw_only=True)
class Block:
    """The record of a block, beside that of its hop.

    `written` branches are recorded, of which the first `opened` were made live. So many of them are `under_way`: they
    have neither ended nor parked. `plan` is there once all are written and the first were opened. `ended` counts those
    that had ended when the join was met or missed; later ones are not in the output.
    """

    written: int = 0
    plan: Plan | None = None
    opened: int = 0
    under_way: int = 0
    succeeded: int = 0
    failed: int = 0
    joined: Joined | None = None
    ended: int = 0
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Ends:
    """What the end of a branch makes of its block.

    `opens` is the number of the branch that becomes live, if one does; `wakes` says that the block goes on.
    """

    block: Block
    opens: int | None = None
    wakes: bool = False


def plan_of(
    count: int, *, join: Literal["all"] | int, collects: bool, at_once: int, timeout: float | None = None
) -> Plan:
    """Return how so many branches are joined."""
    needed = count if join == "all" else join
    spare = None if join == "all" and collects else count - needed
    counted: Counted = "ended" if spare is None else "succeeded"
    return Plan(count=count, needed=needed, counted=counted, spare=spare, at_once=at_once, timeout=timeout)


def write_page(block: Block, *, first: int, count: int) -> Block:
    """Count a page of branches from `first` on as written, once; unchanged if it is, or if its turn has not come."""
    if first != block.written or block.plan is not None:
        return block
    return replace(block, written=block.written + count)


def open_branches(block: Block, plan: Plan, *, until: datetime | None) -> Block:
    """Make the first branches live, once: those up to `opened`. The plan of the first opening counts."""
    if block.plan is not None:
        return block
    opened = min(plan.at_once, plan.count)
    return replace(block, plan=plan, opened=opened, under_way=opened, until=until)


def end_branch(block: Block, how: BranchEnded) -> Ends:
    """Count a branch that has ended, and say what follows from it: the join, at most once, or the next branch."""
    counts = replace(
        block,
        succeeded=block.succeeded + (how == "succeeded"),
        failed=block.failed + (how == "failed"),
        under_way=block.under_way - 1,
    )
    if counts.joined is not None:
        return Ends(block=counts)
    if (joined := _joined(counts)) is not None:
        ended = counts.succeeded + counts.failed
        return Ends(block=replace(counts, joined=joined, ended=ended), wakes=True)
    return _open_next(counts)


def leave_window(block: Block) -> Ends:
    """Let another branch go on in the place of one that was parked; redriven, that goes on beside it."""
    left = replace(block, under_way=block.under_way - 1)
    return Ends(block=left) if left.joined is not None else _open_next(left)


def come_back(block: Block) -> Block:
    """Count a branch that was parked among those under way again, even if there are too many then."""
    return replace(block, under_way=block.under_way + 1)


def _joined(block: Block) -> Joined | None:
    plan = block.plan
    assert plan is not None  # no branch is live before the block is opened
    if plan.spare is not None and block.failed > plan.spare:
        return "missed"
    counted = block.succeeded + (block.failed if plan.counted == "ended" else 0)
    return "met" if counted >= plan.needed else None


def _open_next(block: Block) -> Ends:
    plan = block.plan
    assert plan is not None
    if block.opened >= plan.count or block.under_way >= plan.at_once:
        return Ends(block=block)
    opened = replace(block, opened=block.opened + 1, under_way=block.under_way + 1)
    return Ends(block=opened, opens=block.opened)
