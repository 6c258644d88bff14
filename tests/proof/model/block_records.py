"""The store of the model with blocks: a tree of hops, the records of blocks, and how branches ended.

What is said of time, tokens and processes in `records.py` holds here. Each branch has one hop. The protocol of the
stores says what becomes of a hop and of a block; this module keeps their records, and writes nothing for a hop that
is cut off: its workflow, or a block that it is below, has ended. That is one mark; the hops below are closed later,
one by one, so that everything else may come in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

from paigeant_celery.core import blocks, hops
from paigeant_celery.core.blocks import Block, BranchEnded, Ends, Plan
from paigeant_celery.core.flow import WorkflowState
from paigeant_celery.core.hops import Change, ClosedState, Hop, HopState
from tests.proof.model import records
from tests.proof.model.records import LINE, NOW, PACE, UNTIL, Claimed, Rules, Store, put

__all__ = [
    "ASKS",
    "ENDED",
    "BlockRules",
    "BlockStore",
    "Node",
    "cancelled",
    "claimed",
    "cleaned",
    "closed",
    "held",
    "is_cut",
    "lapsed",
    "opened",
    "redriven",
    "released",
    "renewed",
    "started",
    "suspended",
    "swept",
]

Asking: TypeAlias = Literal["claim", "renew", "release", "hold", "open", "suspend", "close", "redrive", "sweep"]

# The operations that ask the hops above whether they have ended.
ASKS: frozenset[Asking] = frozenset(
    {"claim", "renew", "release", "hold", "open", "suspend", "close", "redrive", "sweep"}
)
ENDED = ("done", "failed", "cancelled")
ENDS = ("completed", "failed", "cancelled")
WHOLE = Rules()
NO_BLOCK = Block()


@dataclass(frozen=True, kw_only=True)
class Node:
    """A hop of the tree: the block that it is below, with its number there, and what it opens if it is a block."""

    above: int | None = None
    number: int = 0
    branches: tuple[int, ...] = ()
    plan: Plan | None = None


@dataclass(frozen=True, kw_only=True)
class BlockRules:
    """The tree, the size of the model, and the rules of those who use the protocol. A mutant may lack some."""

    tree: tuple[Node, ...]
    max_attempts: int = 2
    asks: frozenset[Asking] = ASKS
    sweeper: bool = True  # somebody looks for hops whose message will not come
    cleaner: bool = True  # somebody closes the hops that are cut off
    drop: bool = True  # a copy is acknowledged, not returned to its queue
    looks: bool = True  # SUSPEND looks at the mark of the join

    @cached_property
    def above(self) -> tuple[tuple[int, ...], ...]:
        """For each hop those of the blocks that it is below, the innermost first."""
        ways: list[tuple[int, ...]] = []
        for node in self.tree:
            ways.append((node.above, *ways[node.above]) if node.above is not None else ())
        return tuple(ways)


class BranchEnd(NamedTuple):
    """How a branch ended, and how many of its block had, with it."""

    how: BranchEnded
    order: int


class BlockStore(NamedTuple):
    """The records of all hops with their lists; by the hop, what a block has opened and how a branch ended."""

    base: Store
    blocks: tuple[Block | None, ...]
    ends: tuple[BranchEnd | None, ...]

    @property
    def workflow(self) -> str:
        """The state of the workflow."""
        return self.base.workflow

    def record(self, hop: int) -> Hop:
        """Return the record of a hop that has one."""
        return self.base.record(hop)

    def state(self, hop: int) -> HopState | None:
        """Return the state of a hop, None if it is not recorded."""
        found = self.base.hops[hop]
        return found.state if found is not None else None


def started(rules: BlockRules) -> BlockStore:
    """START: the workflow is its first hop, and that is a block."""
    nothing = (None,) * len(rules.tree)
    base = records.started(Rules(hops=len(rules.tree)))._replace(recorded=(), completed=())
    return BlockStore(base, nothing, nothing)


def is_cut(store: BlockStore, rules: BlockRules, hop: int) -> bool:
    """Say whether a hop is cut off, as the protocol says it."""
    if not hop:
        return False  # its own record has the mark
    workflow: WorkflowState = store.base.workflow  # type: ignore[assignment]  # it is one of those
    return hops.is_cut_off([store.record(each).state for each in rules.above[hop]], workflow)


def claimed(store: BlockStore, rules: BlockRules, hop: int, owner: int) -> tuple[BlockStore, Claimed | str]:
    """CLAIM, for the delivery that the owner has in hand."""
    base, answer = records.claimed(store.base, WHOLE, hop, owner, max_attempts=rules.max_attempts)
    if isinstance(answer, str):
        return store, answer
    if _is_refused(store, rules, hop, "claim"):
        return store, "cancelled"
    return _settled(store, base, rules), answer


def renewed(store: BlockStore, rules: BlockRules, hop: int, owner: int, fence: int) -> BlockStore | None:
    """RENEW; None if the owner may no longer write for the hop."""
    base = records.renewed(store.base, hop, owner, fence)
    if base is None or _is_refused(store, rules, hop, "renew"):
        return None
    assert base != "unknown"
    return store if base is store.base else _settled(store, base, rules)


def released(store: BlockStore, rules: BlockRules, hop: int, owner: int, fence: int) -> BlockStore:
    """RELEASE."""
    base = records.released(store.base, hop, owner, fence)
    if base is store.base or _is_refused(store, rules, hop, "release"):
        return store
    return _settled(store, base, rules)


def held(store: BlockStore, rules: BlockRules, hop: int, owner: int, fence: int, first: int) -> tuple[BlockStore, int]:
    """HOLD: record a page of one branch, and say how many are written; -1 if the owner may no longer write."""
    if not _may_write(store, hop, owner, fence) or _is_refused(store, rules, hop, "hold"):
        return store, -1
    block = store.blocks[hop] or NO_BLOCK
    written = blocks.write_page(block, first=first, count=1)
    if written is block:
        return store, block.written
    base = records.applied(store.base, rules.tree[hop].branches[first], hops.hold(digest=""))
    store = store._replace(blocks=put(store.blocks, hop, written))
    return _settled(store, base, rules), written.written


def opened(
    store: BlockStore, rules: BlockRules, hop: int, owner: int, fence: int
) -> tuple[BlockStore, tuple[int, ...]] | None:
    """OPEN: make the first branches live, and return the hops to send; None if the owner may no longer write."""
    if not _may_write(store, hop, owner, fence) or _is_refused(store, rules, hop, "open"):
        return None
    before, plan = store.blocks[hop] or NO_BLOCK, rules.tree[hop].plan
    assert plan is not None
    block = blocks.open_branches(before, plan, until=None)
    if block is before:
        return store, ()
    base, sends, after = store.base, list[int](), store._replace(blocks=put(store.blocks, hop, block))
    for number in range(block.opened):
        base, sent = _opened(base, rules, hop, number)
        sends += sent
    return _settled(after, base, rules), tuple(sends)


def suspended(
    store: BlockStore, rules: BlockRules, hop: int, owner: int, fence: int
) -> tuple[BlockStore, Literal["overtaken", "sleeps", "sent"]]:
    """SUSPEND, of a block that waits for its branches."""
    block = store.blocks[hop]
    over = rules.looks and block is not None and block.joined is not None
    change = hops.suspend(
        store.record(hop), owner=str(owner), fence=fence, over=over, until=UNTIL, wake_at=None, line=LINE, now=NOW,
        pace=PACE, on_branches=True,
    )  # fmt: skip
    if change is False:
        return store, "overtaken"
    if isinstance(change, Change):
        if _is_refused(store, rules, hop, "suspend"):
            return store, "overtaken"
        store = _settled(store, records.applied(store.base, hop, change), rules)
    record = store.record(hop)
    goes_on = record.state == "queued" and record.fence == fence and not record.slept
    return store, "sent" if goes_on else "sleeps"


def closed(
    store: BlockStore, rules: BlockRules, hop: int, owner: int, fence: int, state: ClosedState
) -> tuple[BlockStore, bool, tuple[int, ...]]:
    """COMPLETE (`done`), FAIL, RETRY_AT (`waiting`) and PARK: whether it is recorded, and the hops to send."""
    change = hops.close(store.record(hop), state, owner=str(owner), fence=fence, now=NOW)
    if isinstance(change, bool):
        return store, change, ()
    if _is_refused(store, rules, hop, "close"):
        return store, False, ()
    base, block_hop = records.applied(store.base, hop, change), rules.tree[hop].above
    sends: tuple[int, ...] = ()
    if block_hop is not None:
        if state == "done" or state == "failed":
            return _arrived(store, base, rules, hop, "succeeded" if state == "done" else "failed")
        if state == "parked":
            store, base, sends = _followed(store, base, rules, block_hop, blocks.leave_window(_block(store, block_hop)))
    return _settled(store, base, rules), True, sends


def cancelled(store: BlockStore, rules: BlockRules) -> BlockStore:
    """CANCEL, of a workflow that has not ended."""
    return _settled(store, records.applied(store.base, 0, hops.cancel(store.record(0))), rules)


def redriven(store: BlockStore, rules: BlockRules, hop: int) -> BlockStore:
    """REDRIVE, of a parked hop."""
    if store.state(hop) != "parked" or _is_refused(store, rules, hop, "redrive"):
        return store
    base, block_hop = records.applied(store.base, hop, hops.redrive(store.record(hop), now=NOW)), rules.tree[hop].above
    if block_hop is not None:
        back = blocks.come_back(_block(store, block_hop))
        store = store._replace(blocks=put(store.blocks, block_hop, back))
    return _settled(store, base, rules)


def cleaned(store: BlockStore, rules: BlockRules, hop: int) -> BlockStore:
    """Close a hop that is cut off."""
    return _settled(store, records.applied(store.base, hop, hops.cancel(store.record(hop))), rules)


def lapsed(store: BlockStore, rules: BlockRules, owner: int) -> tuple[BlockStore, tuple[int, ...]]:
    """SWEEP: queue the hops of an owner that is dead or whose lease is over; those that are cut off are closed."""
    base, sends = store.base, list[int]()
    for hop in sorted(store.base.owned[owner]):
        record = base.record(hop)
        if "sweep" in rules.asks and is_cut(store, rules, hop):
            base = records.applied(base, hop, hops.cancel(record))
        else:
            base = records.applied(base, hop, hops.lapse(record, "lease_over", line=LINE, now=NOW, pace=PACE))
            sends.append(hop)
    return _settled(store, base, rules), tuple(sends)


def swept(store: BlockStore, rules: BlockRules, hop: int) -> BlockStore:
    """SWEEP: queue a hop whose retry is due, or note that an overdue one is sent again."""
    return _settled(store, records.swept(store.base, hop), rules)


def _is_refused(store: BlockStore, rules: BlockRules, hop: int, operation: Asking) -> bool:
    return operation in rules.asks and is_cut(store, rules, hop)


def _may_write(store: BlockStore, hop: int, owner: int, fence: int) -> bool:
    record = store.record(hop)
    return hops.is_of(record, owner=str(owner), fence=fence) and hops.is_open(record)


def _block(store: BlockStore, hop: int) -> Block:
    found = store.blocks[hop]
    assert found is not None
    return found


def _arrived(
    store: BlockStore, base: Store, rules: BlockRules, hop: int, how: BranchEnded
) -> tuple[BlockStore, bool, tuple[int, ...]]:
    """Count a branch that has ended, and go on with what follows."""
    block_hop = rules.tree[hop].above
    assert block_hop is not None
    ends = blocks.end_branch(_block(store, block_hop), how)
    end = BranchEnd(how, ends.block.succeeded + ends.block.failed)
    store = store._replace(ends=put(store.ends, hop, end))
    store, base, sends = _followed(store, base, rules, block_hop, ends)
    return _settled(store, base, rules), True, sends


def _followed(
    store: BlockStore, base: Store, rules: BlockRules, block_hop: int, ends: Ends
) -> tuple[BlockStore, Store, tuple[int, ...]]:
    store = store._replace(blocks=put(store.blocks, block_hop, ends.block))
    if ends.wakes:
        before = base.record(block_hop)
        change = hops.wake(before, line=LINE, now=NOW, pace=PACE)
        if change is None or not before.on_branches:
            return store, base, ()
        return store, records.applied(base, block_hop, change), (block_hop,)
    if ends.opens is None:
        return store, base, ()
    base, sends = _opened(base, rules, block_hop, ends.opens)
    return store, base, sends


def _opened(base: Store, rules: BlockRules, block_hop: int, number: int) -> tuple[Store, tuple[int, ...]]:
    hop = rules.tree[block_hop].branches[number]
    change = hops.open_held(base.record(hop), line=LINE, now=NOW, pace=PACE)
    return (base, ()) if change is None else (records.applied(base, hop, change), (hop,))


def _settled(before: BlockStore, base: Store, rules: BlockRules) -> BlockStore:
    """Take over the records of hops, and say where the workflow stands: it goes on as long as any of its hops does."""
    own = base.record(0).state
    if before.workflow in ENDS:
        workflow = before.workflow
    elif own in ENDED:
        workflow = "completed" if own == "done" else own
    else:
        workflow = "running" if any(hop is not None and hops.is_live(hop) for hop in base.hops) else "parked"
    return before._replace(base=base if base.workflow == workflow else base._replace(workflow=workflow))
