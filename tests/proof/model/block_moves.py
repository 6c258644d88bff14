"""What may happen to blocks in the model: as in `moves.py`, with the attempts of blocks and what their branches do.

The body of a hop changes nothing but by its end, so that it is begun and ended in one move. A block takes its attempt
in as many moves as it asks the store for something, and the adversary may come between any two. A closed hop stays in
the store, and a hop that is cut off is closed sooner or later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from paigeant_celery.core.hops import ClosedState, Hop, goes_first
from tests.proof.model import block_records as records
from tests.proof.model.block_records import ENDED, BlockRules, BlockStore, is_cut
from tests.proof.model.moves import FAULTS, NOBODYS, Budget, Label, left_after
from tests.proof.model.records import (
    GONE,
    OWNERS,
    WORKERS,
    Claimed,
    owner_of,
    put,
    with_owner,
    with_suspender,
    without_token,
)

__all__ = ["HOLDING", "BlockState", "BlockWorker", "canonical", "first", "has_ended", "moves", "workflow_of"]

# The phases of a delivery. A crash may come between any two.
IDLE = "idle"
TAKEN = "taken"  # from the queue; it asks for the claim, perhaps not for the first time
CLAIMED = "claimed"
PAGES = "pages"  # it records the branches of its block
OPENS = "opens"  # all are recorded
SENDS = "sends"  # it publishes the branches that it has opened
LEFT = "left"  # it waits for its branches, and for nothing else
JOINED = "joined"  # it has seen that the join is met or missed
FAILED, BROKE, ASIDE = "failed", "broke", "aside"  # an error worth another attempt, one that is not, one for a person
SPENT = "spent"  # claimed after the last attempt, which allows no run
RECORDED = "recorded"  # closed or suspended, but what goes on because of that is not published
CLOSED = "closed"  # only the message is still to be acknowledged

RUNNING = (CLAIMED, PAGES, OPENS, SENDS, LEFT, JOINED)
HOLDING = (*RUNNING, FAILED, BROKE, ASIDE, SPENT)


class BlockWorker(NamedTuple):
    """A process, the delivery in hand, how many branches it knows to be recorded, and the hops that it publishes."""

    phase: str = IDLE
    hop: int = -1
    fence: int = 0
    page: int = 0
    sends: tuple[int, ...] = ()


class BlockState(NamedTuple):
    """The store, the broker, the workers, and what is left of the budget."""

    store: BlockStore
    queues: tuple[int, ...]  # waiting messages of each hop
    workers: tuple[BlockWorker, ...]
    left: tuple[int, ...]  # of the budget: in total, then of each kind
    redriven: frozenset[int] = frozenset()  # hops that people had go on


Move = tuple[Label, bool, BlockState]


def first(rules: BlockRules, budget: Budget) -> BlockState:
    """Return the state in which a workflow was recorded and sent."""
    left = (budget.faults, *(getattr(budget, fault) for fault in FAULTS))
    queues = put((0,) * len(rules.tree), 0, 1)
    return BlockState(records.started(rules), queues, (BlockWorker(),) * len(WORKERS), left)


def moves(state: BlockState, rules: BlockRules) -> Iterator[Move]:
    """Return everything that may happen next."""
    for worker in WORKERS:
        yield from _works(state, rules, worker)
        yield from _renews(state, rules, worker)
    yield from _time(state, rules)
    if rules.sweeper:
        yield from _sweeps(state, rules)
    if rules.cleaner:
        yield from _cleans(state, rules)
    yield from _redrives(state, rules)
    if state.left[0]:
        for worker in WORKERS:
            yield from _crashes(state, worker)
            yield from _freezes(state, rules, worker)
            yield from _loses_replies(state, rules, worker)
            yield from _fails(state, rules, worker)
        yield from _disturbs(state, rules)


def workflow_of(state: BlockState) -> str:
    """Return the state of the workflow."""
    return state.store.workflow


def has_ended(state: BlockState) -> bool:
    """Say whether nothing needs to happen any more: the workflow has ended and nothing is listed, or waits for people.

    Whatever of it is cut off must be closed, even if the rest waits for people.
    """
    store = state.store
    if any(hop is not None and hop.state in ("queued", "running", "waiting") for hop in store.base.hops):
        return False
    if store.workflow in records.ENDS:
        return all(hop is None or hop.state in ENDED for hop in store.base.hops)
    return any(hop is not None and hop.state == "parked" for hop in store.base.hops)


def holds(state: BlockState, worker: int, hop: int) -> bool:
    """Say whether a worker runs or closes a hop, or is about to learn that its claim was granted."""
    phase, at, fence = state.workers[worker][:3]
    if at != hop:
        return False
    record = state.store.record(hop)
    if phase == TAKEN:
        return record.token is not None and owner_of(record) == worker
    return phase in HOLDING and fence == record.fence and owner_of(record) == worker


# Workers.


def _works(state: BlockState, rules: BlockRules, worker: int) -> Iterator[Move]:
    phase, hop, _, page, sends = state.workers[worker]
    is_block = hop >= 0 and rules.tree[hop].plan is not None
    if phase == IDLE:
        for waiting, count in enumerate(state.queues):
            if count:
                taken = _with(_sent(state, waiting, -1), worker, BlockWorker(TAKEN, waiting))
                yield Label("takes a message", waiting, worker), False, taken
    elif phase == TAKEN:
        yield Label("CLAIM", hop, worker), False, _claims(state, rules, worker)
    elif phase == CLAIMED and is_block:
        yield Label("reads its block", hop, worker), False, _reads(state, rules, worker)
    elif phase == PAGES:
        yield Label(f"HOLD, page {page}", hop, worker), False, _holds(state, rules, worker)
    elif phase == OPENS:
        yield Label("OPEN", hop, worker), False, _opens(state, rules, worker)
    elif phase in (SENDS, RECORDED):
        left = state.workers[worker]._replace(sends=sends[1:])
        if not left.sends:
            left = left._replace(phase=LEFT if phase == SENDS else CLOSED)
        yield Label("publishes", sends[0], worker), False, _with(_sent(state, sends[0]), worker, left)
    elif phase == LEFT:
        yield Label("SUSPEND", hop, worker), False, _suspends(state, rules, worker)
    elif phase in HOLDING:
        name, store, _, next_up = _closing(state, rules, worker)
        yield Label(name, hop, worker), False, _going_on(state._replace(store=store), worker, next_up)
    elif phase == CLOSED:
        yield Label("acknowledges", hop, worker), False, _ended(state, worker)


def _claims(state: BlockState, rules: BlockRules, worker: int) -> BlockState:
    hop = state.workers[worker].hop
    store, answer = records.claimed(state.store, rules, hop, worker)
    state = state._replace(store=store)
    if not isinstance(answer, Claimed):
        return _ended(state if rules.drop else _sent(state, hop), worker)
    return _with(state, worker, BlockWorker(SPENT if answer.exhausted else CLAIMED, hop, answer.fence))


def _reads(state: BlockState, rules: BlockRules, worker: int) -> BlockState:
    """Find out how far earlier attempts of the block have come."""
    at = state.workers[worker]
    block = state.store.blocks[at.hop]
    if block is None or block.plan is None:
        written = block.written if block is not None else 0
        all_written = written == len(rules.tree[at.hop].branches)
        return _with(state, worker, at._replace(phase=OPENS if all_written else PAGES, page=written))
    return _with(state, worker, at._replace(phase=JOINED if block.joined is not None else LEFT))


def _holds(state: BlockState, rules: BlockRules, worker: int) -> BlockState:
    at = state.workers[worker]
    store, written = records.held(state.store, rules, at.hop, worker, at.fence, at.page)
    state = state._replace(store=store)
    if written < 0:
        return _going_on(state, worker, ())
    all_written = written >= len(rules.tree[at.hop].branches)
    return _with(state, worker, at._replace(phase=OPENS if all_written else PAGES, page=0 if all_written else written))


def _opens(state: BlockState, rules: BlockRules, worker: int) -> BlockState:
    at = state.workers[worker]
    answer = records.opened(state.store, rules, at.hop, worker, at.fence)
    if answer is None:
        return _going_on(state, worker, ())
    store, sends = answer
    # It does not look at its block again: whatever has come meanwhile, SUSPEND finds.
    opened = at._replace(phase=SENDS if sends else LEFT, page=0, sends=sends)
    return _with(state._replace(store=store), worker, opened)


def _suspends(state: BlockState, rules: BlockRules, worker: int) -> BlockState:
    at = state.workers[worker]
    store, answer = records.suspended(state.store, rules, at.hop, worker, at.fence)
    return _going_on(state._replace(store=store), worker, (at.hop,) if answer == "sent" else ())


def _closing(state: BlockState, rules: BlockRules, worker: int) -> tuple[str, BlockStore, bool, tuple[int, ...]]:
    """Decide what is recorded of a delivery, and record it."""
    phase, hop, fence = state.workers[worker][:3]
    block = state.store.blocks[hop]
    name: str
    closed: ClosedState
    if phase == CLAIMED or (phase == JOINED and block is not None and block.joined == "met"):
        name, closed = "COMPLETE", "done"
    elif phase in (BROKE, JOINED):
        name, closed = "FAIL", "failed"
    elif phase == FAILED and state.store.record(hop).attempt < rules.max_attempts:
        name, closed = "RETRY_AT", "waiting"
    else:
        name, closed = "PARK", "parked"
    return name, *records.closed(state.store, rules, hop, worker, fence, closed)


def _renews(state: BlockState, rules: BlockRules, worker: int) -> Iterator[Move]:
    """The thread that renews an owner's lease, if a renewal changes something."""
    phase, hop, fence = state.workers[worker][:3]
    if phase in HOLDING and phase != SPENT:
        store = records.renewed(state.store, rules, hop, worker, fence)
        if store is None:
            if phase in RUNNING:  # a run that has ended is not cancelled
                yield Label("RENEW: lost, and the run is cancelled", hop, worker), False, _ended(state, worker)
        elif store is not state.store:
            yield Label("RENEW", hop, worker), False, state._replace(store=store)
    for stray in state.store.base.owned[worker]:
        if phase not in HOLDING or hop != stray:
            fence = state.store.record(stray).fence
            store = records.released(state.store, rules, stray, worker, fence)
            if store is not state.store:
                yield Label("RELEASE of a stray", stray, worker), False, state._replace(store=store)


# Time, the sweepers, and people.


def _time(state: BlockState, rules: BlockRules) -> Iterator[Move]:
    """Leases that nobody renews expire."""
    base = state.store.base
    for owner in OWNERS:
        is_renewed = _is_attended(state, rules, owner) or _renews_its_lease(state, rules, owner)
        if base.owned[owner] and base.leases[owner] == "holds" and not is_renewed:
            yield Label("the lease of nobody's run ends", min(base.owned[owner])), False, _expired(state, owner)


def _is_attended(state: BlockState, rules: BlockRules, owner: int) -> bool:
    return owner != GONE and any(
        holds(state, owner, hop) and not is_cut(state.store, rules, hop) for hop in state.store.base.owned[owner]
    )


def _renews_its_lease(state: BlockState, rules: BlockRules, owner: int) -> bool:
    """Say whether an owner keeps its lease although it runs none of its hops: it has not been told of a lost reply."""
    if owner == GONE or state.workers[owner].phase not in HOLDING or state.workers[owner].phase == SPENT:
        return False
    _, hop, fence = state.workers[owner][:3]
    return records.renewed(state.store, rules, hop, owner, fence) is not None


def _expired(state: BlockState, owner: int) -> BlockState:
    base = state.store.base
    return state._replace(store=state.store._replace(base=base._replace(leases=put(base.leases, owner, "over"))))


def _sweeps(state: BlockState, rules: BlockRules) -> Iterator[Move]:
    base = state.store.base
    for owner in OWNERS:
        # A process that died on the sweeper's machine is known to be gone before its lease ends.
        if base.owned[owner] and (owner == GONE or base.leases[owner] == "over"):
            store, sends = records.lapsed(state.store, rules, owner)
            again = state._replace(store=store)
            for hop in sends:
                again = _sent(again, hop)
            yield Label("SWEEP: queues what an owner ran", min(base.owned[owner])), False, again
    for hop in base.due:
        if "sweep" in rules.asks and is_cut(state.store, rules, hop):
            continue  # it is closed
        record = state.store.record(hop)
        if record.state == "waiting" or goes_first(record) or not _is_on_its_way(state, hop):
            name = "SWEEP: the wait is over" if record.state == "waiting" else "SWEEP: overdue"
            again = state._replace(store=records.swept(state.store, rules, hop))
            yield Label(name, hop), False, _sent(again, hop)


def _is_on_its_way(state: BlockState, hop: int) -> bool:
    """Say whether the hop's message will come. If that takes long it is sent again, like the adversary's copies."""
    return bool(state.queues[hop]) or any(
        (worker.phase == TAKEN and worker.hop == hop) or hop in worker.sends for worker in state.workers
    )


def _cleans(state: BlockState, rules: BlockRules) -> Iterator[Move]:
    for hop, record in enumerate(state.store.base.hops):
        if record is not None and record.state not in ENDED and is_cut(state.store, rules, hop):
            yield (
                Label("closes what is cut off", hop),
                False,
                state._replace(store=records.cleaned(state.store, rules, hop)),
            )


def _redrives(state: BlockState, rules: BlockRules) -> Iterator[Move]:
    """Somebody redrives what is parked, each hop once, or does not."""
    for hop in state.store.base.parked - state.redriven:
        store = records.redriven(state.store, rules, hop)
        if store is not state.store:
            yield Label("REDRIVE", hop), True, state._replace(store=store, redriven=state.redriven | {hop})


# The adversary.


def _crashes(state: BlockState, worker: int) -> Iterator[Move]:
    """A process dies anywhere and a new one replaces it. Its message comes back, or was in the pop window."""
    phase, hop = state.workers[worker][:2]
    if (paid := _paid(state, "crash")) is None or (phase == IDLE and not state.store.base.owned[worker]):
        return
    gone = _gone(paid, worker)
    yield Label("crashes, its message is lost", hop, worker), True, gone
    if phase != IDLE:
        yield Label("crashes, its message comes back", hop, worker), True, _sent(gone, hop)


def _gone(state: BlockState, worker: int) -> BlockState:
    base = state.store.base
    records_ = tuple(
        without_token(with_owner(record, GONE)) if record is not None and owner_of(record) == worker else record
        for record in (_never_asked_again(each, worker) for each in base.hops)
    )
    base = base._replace(hops=records_)
    if base.owned[worker]:
        owned = put(put(base.owned, GONE, base.owned[GONE] | base.owned[worker]), worker, frozenset[int]())
        leases = put(put(base.leases, GONE, base.leases[worker]), worker, "none")
        base = base._replace(owned=owned, leases=leases)
    return _with(state._replace(store=state.store._replace(base=base)), worker, BlockWorker())


def _freezes(state: BlockState, rules: BlockRules, worker: int) -> Iterator[Move]:
    """A process freezes until its lease has expired, and goes on later as if nothing had happened."""
    paid = _paid(state, "expiry")
    if paid is not None and state.store.base.leases[worker] == "holds" and _is_attended(state, rules, worker):
        yield Label("its lease ends", state.workers[worker].hop, worker), True, _expired(paid, worker)


def _loses_replies(state: BlockState, rules: BlockRules, worker: int) -> Iterator[Move]:
    """A script ran but its reply was lost: the client repeats the call with the same token, or gives up."""
    if (paid := _paid(state, "reply")) is None:
        return
    phase, hop, fence, page, _ = state.workers[worker]
    name, store = "", state.store
    if phase == TAKEN:
        name, (store, _answer) = "CLAIM", records.claimed(store, rules, hop, worker)
    elif phase == PAGES:
        name, (store, _written) = f"HOLD, page {page}", records.held(store, rules, hop, worker, fence, page)
    elif phase == OPENS:
        name, store = "OPEN", (records.opened(store, rules, hop, worker, fence) or (store,))[0]
    elif phase == LEFT:
        name, (store, _outcome) = "SUSPEND", records.suspended(store, rules, hop, worker, fence)
    elif phase in HOLDING and phase != SENDS and not (phase == CLAIMED and rules.tree[hop].plan is not None):
        name, store = _closing(state, rules, worker)[:2]
    if not name:
        return
    if store != state.store:
        yield Label(f"{name}, its reply is lost", hop, worker), True, paid._replace(store=store)
    yield Label("gives up, and gives its message back", hop, worker), True, _ended(_sent(paid, hop), worker)


def _fails(state: BlockState, rules: BlockRules, worker: int) -> Iterator[Move]:
    phase, hop, fence = state.workers[worker][:3]
    is_block = hop >= 0 and rules.tree[hop].plan is not None
    if phase not in (CLAIMED, JOINED) or (phase == CLAIMED and is_block and state.store.blocks[hop] is not None):
        return
    if (paid := _paid(state, "error")) is not None:
        for name, after in (("fails", FAILED), ("fails permanently", BROKE), ("needs a person", ASIDE)):
            yield Label(f"the body {name}", hop, worker), True, _at(paid, worker, after)
    if phase == CLAIMED and (paid := _paid(state, "stop")) is not None:
        store = records.released(state.store, rules, hop, worker, fence)
        yield Label("RELEASE, as it must end", hop, worker), True, _ended(paid._replace(store=store), worker)


def _disturbs(state: BlockState, rules: BlockRules) -> Iterator[Move]:
    copied, lost = _paid(state, "copy"), _paid(state, "loss")
    in_hands = {worker.hop for worker in state.workers if worker.phase != IDLE}
    for hop, count in enumerate(state.queues):
        if copied is not None and (count or hop in in_hands or state.store.state(hop) == "held"):
            yield Label("a message is doubled, or forged", hop), True, _sent(copied, hop)
        if lost is not None and count:
            yield Label("a message is lost", hop), True, _sent(lost, hop, -1)
    if state.store.workflow in ("running", "parked") and (paid := _paid(state, "cancel")) is not None:
        yield Label("CANCEL"), True, paid._replace(store=records.cancelled(state.store, rules))


def _paid(state: BlockState, fault: str) -> BlockState | None:
    left = left_after(state.left, fault)
    return state._replace(left=left) if left is not None else None


# States that are alike.


def canonical(state: BlockState) -> BlockState:
    """Return one state for all that go on in the same way."""
    base = state.store.base
    asked = {worker.hop for worker in state.workers if worker.phase in HOLDING}
    records_ = tuple(
        record and _known(record, hop, state, is_asked=hop in asked) for hop, record in enumerate(base.hops)
    )
    workers = state.workers
    for hop, record in enumerate(records_):
        if record is not None and record.fence > 1:
            records_, workers = _with_low_fences(records_, workers, hop, record)
    if records_ != base.hops or workers != state.workers:
        store = state.store._replace(base=base._replace(hops=records_))
        state = state._replace(store=store, workers=workers)
    if not state.left[0] and any(state.left):
        state = state._replace(left=(0,) * len(state.left))
    one, two = state.workers
    if one == two:
        return _swapped(state) if _rank(state, WORKERS[0]) > _rank(state, WORKERS[1]) else state
    return _swapped(state) if one > two else state


def _known(record: Hop, hop: int, state: BlockState, *, is_asked: bool) -> Hop:
    """Forget who closed or suspended a hop if nobody will ask for that once more."""
    if record.state in ENDED and not is_asked:
        return NOBODYS[record.state]
    if record.suspended_by is None:
        return record
    name, fence = record.suspended_by
    return record if state.workers[int(name)][:3] == (LEFT, hop, fence) else with_suspender(record, None)


def _with_low_fences(
    records_: tuple[Hop | None, ...], workers: tuple[BlockWorker, ...], hop: int, record: Hop
) -> tuple[tuple[Hop | None, ...], tuple[BlockWorker, ...]]:
    """Number the fences of a hop anew: nothing matters but who has the same, and which is the last."""
    fences = {worker.fence for worker in workers if worker.hop == hop and worker.phase in HOLDING}
    ranks = {fence: rank for rank, fence in enumerate(sorted({*fences, record.fence}), 1)}
    if all(rank == fence for fence, rank in ranks.items()):
        return records_, workers
    lower = tuple(
        worker._replace(fence=ranks[worker.fence]) if worker.hop == hop and worker.phase in HOLDING else worker
        for worker in workers
    )
    suspender = record.suspended_by  # if it is still known, its worker asks, or it is the last
    return put(records_, hop, with_fence(record, ranks[record.fence], suspender and ranks[suspender[1]])), lower


@cache
def with_fence(record: Hop, fence: int, suspended: int | None) -> Hop:
    """Return the record as if it had been claimed less often."""
    by = record.suspended_by
    left = (by[0], suspended) if by is not None and suspended is not None else None
    return replace(record, fence=fence, suspended_by=left)


def _never_asked_again(record: Hop | None, worker: int) -> Hop | None:
    is_its = record is not None and record.suspended_by is not None and record.suspended_by[0] == str(worker)
    return with_suspender(record, None) if record is not None and is_its else record


def _rank(state: BlockState, worker: int) -> tuple[object, ...]:
    base = state.store.base
    named = [hop for hop, record in enumerate(base.hops) if record is not None and owner_of(record) == worker]
    return sorted(base.owned[worker]), named, base.leases[worker]


def _swapped(state: BlockState) -> BlockState:
    one, two, gone = OWNERS
    base, other = state.store.base, {one: two, two: one, gone: gone, None: None}
    records_ = tuple(
        record and with_owner(with_suspender(record, other[_suspender_of(record)]), other[owner_of(record)])
        for record in base.hops
    )
    owned, leases = base.owned, base.leases
    base = base._replace(
        hops=records_, owned=(owned[two], owned[one], owned[gone]), leases=(leases[two], leases[one], leases[gone])
    )
    return state._replace(store=state.store._replace(base=base), workers=state.workers[::-1])


def _suspender_of(record: Hop) -> int | None:
    return int(record.suspended_by[0]) if record.suspended_by is not None else None


# Parts of moves.


def _sent(state: BlockState, hop: int, count: int = 1) -> BlockState:
    return state._replace(queues=put(state.queues, hop, state.queues[hop] + count))


def _with(state: BlockState, worker: int, delivery: BlockWorker) -> BlockState:
    return state._replace(workers=put(state.workers, worker, delivery))


def _at(state: BlockState, worker: int, phase: str) -> BlockState:
    return _with(state, worker, state.workers[worker]._replace(phase=phase, page=0, sends=()))


def _going_on(state: BlockState, worker: int, sends: tuple[int, ...]) -> BlockState:
    """Publish what goes on because of a call, if anything does, and acknowledge then."""
    at = state.workers[worker]
    return _with(state, worker, BlockWorker(RECORDED if sends else CLOSED, at.hop, 0, 0, sends))


def _ended(state: BlockState, worker: int) -> BlockState:
    """End a delivery: its token is never used again."""
    base = state.store.base
    ended = tuple(
        without_token(record) if record is not None and record.token and owner_of(record) == worker else record
        for record in base.hops
    )
    if ended != base.hops:
        state = state._replace(store=state.store._replace(base=base._replace(hops=ended)))
    return _with(state, worker, BlockWorker())
