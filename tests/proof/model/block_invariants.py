"""What must hold in each state of the model with blocks, and for each move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from paigeant_celery.core.blocks import Block
from paigeant_celery.core.hops import Hop, HopState
from tests.proof.model.block_moves import HOLDING, BlockState
from tests.proof.model.block_records import ENDED, ENDS, BlockRules, BlockStore
from tests.proof.model.invariants import PLACES
from tests.proof.model.moves import Label
from tests.proof.model.records import OWNERS, WORKERS, owner_of

__all__ = ["MOVE_INVARIANTS", "STATE_INVARIANTS"]

UNDER_WAY = ("queued", "running", "waiting", "suspended")
GOES_ON = ("queued", "running", "waiting")
CLOSES = ("COMPLETE", "FAIL", "RETRY_AT", "PARK", "RELEASE,", "SUSPEND", "HOLD", "OPEN")


def _hops(store: BlockStore) -> Iterator[tuple[int, Hop]]:
    return ((hop, record) for hop, record in enumerate(store.base.hops) if record is not None)


def _blocks(store: BlockStore, rules: BlockRules) -> Iterator[tuple[Block, tuple[HopState | None, ...], int]]:
    """Yield each block that may still go on, with the states of its branches."""
    for hop, block in enumerate(store.blocks):
        if block is not None and not _is_below_an_end(store, rules, hop, itself=True):
            yield block, tuple(store.state(branch) for branch in rules.tree[hop].branches), hop


def _is_below_an_end(store: BlockStore, rules: BlockRules, hop: int, *, itself: bool = False) -> bool:
    """Say whether a hop is cut off, without asking the protocol."""
    records = store.base.hops
    for each in (hop, *rules.above[hop]) if itself else rules.above[hop]:
        if (record := records[each]) is not None and record.state in ENDED:
            return True
    return False


# Of a state.


def _one_place(state: BlockState, rules: BlockRules) -> bool:
    """Each open hop is in exactly one place, a closed or a held one in none; an owner without hops has no lease."""
    base = state.store.base
    for hop, record in _hops(state.store):
        places = ["due"] * (hop in base.due) + ["parked"] * (hop in base.parked) + ["asleep"] * (hop in base.asleep)
        owners = [owner for owner in OWNERS if hop in base.owned[owner]]
        if places + ["owned"] * len(owners) != PLACES.get(record.state, []) or owners not in ([], [owner_of(record)]):
            return False
    return all((base.leases[owner] != "none") == bool(base.owned[owner]) for owner in OWNERS)


def _attempts_capped(state: BlockState, rules: BlockRules) -> bool:
    """No hop is begun more often than is allowed."""
    return all(record.attempt <= rules.max_attempts for _, record in _hops(state.store))


def _written_once(state: BlockState, rules: BlockRules) -> bool:
    """Branches are recorded in their order, each once."""
    for block, states, _ in _blocks(state.store, rules):
        if block.written != sum(each is not None for each in states) or None in states[: block.written]:
            return False
    return True


def _opened_in_order(state: BlockState, rules: BlockRules) -> bool:
    """Exactly the branches behind the last opened one are held, and nobody has ever claimed them."""
    for block, states, hop in _blocks(state.store, rules):
        if any((each == "held") != (number >= block.opened) for number, each in enumerate(states[: block.written])):
            return False
        branches = rules.tree[hop].branches[block.opened : block.written]
        if any(state.store.record(branch).fence for branch in branches):
            return False
    return True


def _counted_once(state: BlockState, rules: BlockRules) -> bool:
    """Each branch that has ended is counted, once and as it ended."""
    store = state.store
    for block, states, hop in _blocks(store, rules):
        ends = [store.ends[branch] for branch in rules.tree[hop].branches]
        how = [end.how for end in ends if end is not None]
        if (block.succeeded, block.failed) != (how.count("succeeded"), how.count("failed")):
            return False
        expected = [{"done": "succeeded", "failed": "failed"}.get(each or "") for each in states]
        if [end.how if end is not None else None for end in ends] != expected:
            return False
        if sorted(end.order for end in ends if end is not None) != list(range(1, len(how) + 1)):
            return False
    return True


def _window(state: BlockState, rules: BlockRules) -> bool:
    """So many branches are under way as are counted, and not more than may be, except redriven ones.

    Until the join, no place in the window stays empty while a branch is held.
    """
    for block, states, hop in _blocks(state.store, rules):
        plan, branches = rules.tree[hop].plan, rules.tree[hop].branches
        assert plan is not None
        if block.plan is None:
            continue
        under_way = {branch for branch, each in zip(branches, states, strict=True) if each in UNDER_WAY}
        if block.under_way != len(under_way) or len(under_way - state.redriven) > plan.at_once:
            return False
        if block.joined is None and "held" in states and len(under_way) < plan.at_once:
            return False
    return True


def _joined_in_time(state: BlockState, rules: BlockRules) -> bool:
    """The join is met or missed as soon as it can be told, and not before."""
    for block, _, hop in _blocks(state.store, rules):
        if (plan := rules.tree[hop].plan) is None or block.plan is None:
            continue
        counted = [end for branch in rules.tree[hop].branches if (end := state.store.ends[branch]) is not None]
        counted = [end for end in counted if block.joined is None or end.order <= block.ended]
        succeeded = sum(end.how == "succeeded" for end in counted)
        failed = len(counted) - succeeded
        missed = plan.spare is not None and failed > plan.spare
        met = not missed and (len(counted) if plan.counted == "ended" else succeeded) >= plan.needed
        if block.joined != ("missed" if missed else "met" if met else None):
            return False
    return True


def _sleeps_for_a_reason(state: BlockState, rules: BlockRules) -> bool:
    """A block sleeps only until its join is met or missed: whoever marks that queues it."""
    return all(
        block.joined is None or state.store.state(hop) != "suspended" for block, _, hop in _blocks(state.store, rules)
    )


def _parked_for_a_reason(state: BlockState, rules: BlockRules) -> bool:
    """A workflow waits for people only if nothing of it goes on, and something is parked."""
    states = [record.state for _, record in _hops(state.store)]
    is_parked = "parked" in states and not any(each in GOES_ON for each in states)
    return state.store.workflow in ENDS or (state.store.workflow == "parked") == is_parked


# Of a move.


def _leases_respected(before: BlockState, label: Label, after: BlockState, rules: BlockRules) -> bool:
    """No claim is granted while the lease of another claim's owner holds."""
    if after.store is before.store:
        return True
    for hop, record in _hops(before.store):
        owner = owner_of(record)
        is_leased = record.state == "running" and owner is not None and before.store.base.leases[owner] == "holds"
        if is_leased and after.store.record(hop).fence > record.fence:
            return False
    return True


def _overtaken_write_nothing(before: BlockState, label: Label, after: BlockState, rules: BlockRules) -> bool:
    """Whoever does not hold the last claim changes nothing."""
    if label.worker not in WORKERS or not label.name.startswith(CLOSES):
        return True
    phase, hop, fence = before.workers[label.worker][:3]
    record = before.store.record(hop)
    assert phase in HOLDING
    return (owner_of(record), record.fence) == (label.worker, fence) or _content(after) == _content(before)


def _content(state: BlockState) -> tuple[object, ...]:
    """Return the store without owners and tokens, which say what a worker has in hand."""
    hops = [(hop.state, hop.fence, hop.attempt) if hop is not None else None for hop in state.store.base.hops]
    return hops, state.store.blocks, state.store.ends, state.store.workflow


def _cut_off_write_nothing(before: BlockState, label: Label, after: BlockState, rules: BlockRules) -> bool:
    """Nothing changes below a hop that has ended, except that what is there is closed."""
    if after.store is before.store:
        return True
    old, new = before.store, after.store
    for hop, now in _hops(new):
        if not _is_below_an_end(old, rules, hop):
            continue
        was = old.base.hops[hop]
        if was is None or (now.fence, now.attempt) != (was.fence, was.attempt):
            return False
        if now.state != was.state and (now.state != "cancelled" or was.state in ENDED):
            return False
        if (new.blocks[hop], new.ends[hop]) != (old.blocks[hop], old.ends[hop]):
            return False
    return all(
        block == old.blocks[hop]
        for hop, block in enumerate(new.blocks)
        if old.base.hops[hop] is not None and _is_below_an_end(old, rules, hop, itself=True)
    )


def _held_is_never_claimed(before: BlockState, label: Label, after: BlockState, rules: BlockRules) -> bool:
    """A held hop is opened by its block, or closed."""
    if after.store is before.store:
        return True
    for hop, record in _hops(before.store):
        if record.state == "held" and after.store.state(hop) not in ("held", "queued", "cancelled"):
            return False
    return True


def _joined_once(before: BlockState, label: Label, after: BlockState, rules: BlockRules) -> bool:
    """A block is joined once: what its output has is known then, and later ends are not in it."""
    if after.store is before.store:
        return True
    for block, later in zip(before.store.blocks, after.store.blocks, strict=True):
        mark = (block.joined, block.ended) if block is not None else (None, 0)
        if mark[0] is not None and (later is None or (later.joined, later.ended) != mark):
            return False
    return True


def _output_has_all(before: BlockState, label: Label, after: BlockState, rules: BlockRules) -> bool:
    """Each branch that ended before the mark, or with it, is in the output of its block, and no later one."""
    if after.store is before.store:
        return True
    for hop, node in enumerate(rules.tree):
        was, now = before.store.blocks[hop], after.store.blocks[hop]
        if now is None or now.joined is None:
            continue
        for branch in node.branches:
            if before.store.ends[branch] is None and (end := after.store.ends[branch]) is not None:
                in_time = was is not None and was.joined is None
                if (end.order <= now.ended) != in_time:
                    return False
    return True


def _only_forward(before: BlockState, label: Label, after: BlockState, rules: BlockRules) -> bool:
    """What has ended stays ended, what is recorded stays so, fences and blocks only grow."""
    if after.store is before.store:
        return True
    old, new = before.store, after.store
    if old.workflow in ENDS and new.workflow != old.workflow:
        return False
    if old.workflow == "parked" and new.workflow == "running" and label.name != "REDRIVE":
        return False
    for hop, record in _hops(old):
        now = new.record(hop)
        if now.fence < record.fence or (record.state in ENDED and now.state != record.state):
            return False
        if old.ends[hop] is not None and new.ends[hop] != old.ends[hop]:
            return False
    grown = zip(old.blocks, new.blocks, strict=True)
    return all(
        was is None or (now is not None and was.written <= now.written and was.opened <= now.opened)
        for was, now in grown
    )


STATE_INVARIANTS: Mapping[str, Callable[[BlockState, BlockRules], bool]] = MappingProxyType(
    {
        "one_place": _one_place,
        "attempts_capped": _attempts_capped,
        "written_once": _written_once,
        "opened_in_order": _opened_in_order,
        "counted_once": _counted_once,
        "window": _window,
        "joined_in_time": _joined_in_time,
        "sleeps_for_a_reason": _sleeps_for_a_reason,
        "parked_for_a_reason": _parked_for_a_reason,
    }
)
MOVE_INVARIANTS: Mapping[str, Callable[[BlockState, Label, BlockState, BlockRules], bool]] = MappingProxyType(
    {
        "leases_respected": _leases_respected,
        "overtaken_write_nothing": _overtaken_write_nothing,
        "cut_off_write_nothing": _cut_off_write_nothing,
        "held_is_never_claimed": _held_is_never_claimed,
        "joined_once": _joined_once,
        "output_has_all": _output_has_all,
        "only_forward": _only_forward,
    }
)
