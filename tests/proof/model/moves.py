"""What may happen in the model: workers and sweepers take their steps, and an adversary with a budget disturbs them.

A worker has one delivery in hand at a time. Nothing is left to chance: if something may go one way or another, both
ways are moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from paigeant_celery.core.hops import Hop, HopState, goes_first, may_be_ended
from tests.proof.model import records
from tests.proof.model.records import (
    GONE,
    OWNERS,
    WORKERS,
    Claimed,
    Rules,
    Store,
    owner_of,
    put,
    with_owner,
    with_suspender,
    without_token,
)

__all__ = [
    "FAULTS",
    "HOLDING",
    "NOBODYS",
    "Budget",
    "Label",
    "Move",
    "State",
    "Worker",
    "canonical",
    "first",
    "holds",
    "left_after",
    "moves",
]

# The phases of a delivery. A crash may come between any two.
IDLE = "idle"
TAKEN = "taken"  # from the queue; it asks for the claim, perhaps not for the first time
CLAIMED = "claimed"
ASKED = "asked"  # its run waits for an answer, and for nothing else
TOO_LONG = "too long"  # its run has seen that the time for an answer is over, and gives it up
TOLD = "told"  # its run has what it waited for
LEFT = "left"  # its run has ended without an output, so that the hop can be suspended
WOKEN = "woken"  # it queued the hop again instead of suspending it, but has not published it
RAN, FAILED, BROKE = "ran", "failed", "broke"  # an output; an error worth another attempt; any other error
SPENT = "spent"  # claimed after the last attempt, which allows no run
HALF = "half"  # completed, but the next hop is not recorded; only reached by a mutant that does this in two scripts
LATE = "late"  # claimed by a sweeper, to end the workflow at its deadline
RECORDED = "recorded"  # completed, but the next hop's message is not published
CLOSED = "closed"  # only the message is still to be acknowledged

TO_CLOSE = (RAN, FAILED, BROKE, SPENT, LATE)
RUNNING = (CLAIMED, ASKED, TOO_LONG, TOLD)
HOLDING = (*RUNNING, LEFT, *TO_CLOSE)

NOT_KNOWN = ("unknown", "gone")  # workflows that the store has forgotten

OVER: tuple[HopState, ...] = ("done", "failed", "cancelled")
NOBODYS = {state: Hop(state=state) for state in OVER}  # closed hops, if nobody can ask any more who closed them

FAULTS = ("crash", "expiry", "copy", "loss", "reply", "error", "stop", "cancel", "redrive", "forget", "answer")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How often the adversary may cause each fault, and how many faults in total."""

    faults: int = 2
    crash: int = 2  # of a worker; its message goes to another one or is lost
    expiry: int = 2  # of the lease of a worker that is alive and goes on later
    copy: int = 1  # of a message
    loss: int = 1  # of a message
    reply: int = 2  # lost replies of a script; a client repeats the call or gives up
    error: int = 2  # a run that fails
    stop: int = 1  # a worker is told to end while it runs the hop
    cancel: int = 1
    redrive: int = 1
    forget: int = 0  # of everything that the store had
    answer: int = 2  # by somebody else, or once more; or of one who dies before he has published the hop


class Worker(NamedTuple):
    """A process and the delivery that it has in hand."""

    phase: str = IDLE
    hop: int = -1
    fence: int = 0


class State(NamedTuple):
    """The store, the broker, the workers, and what the invariants must remember about the current hop's past."""

    store: Store
    queues: tuple[int, ...]  # waiting messages of each hop
    workers: tuple[Worker, ...]
    runs: int  # of the current hop's body, since it was recorded or redriven
    excuses: int  # reasons for another run or attempt of it
    left: tuple[int, ...]  # of the budget: in total, then of each kind
    late: bool = False  # the deadline has passed
    # Of the wait of the current hop:
    tokens: frozenset[str] = frozenset()  # under which somebody was asked
    answered: bool = False  # somebody has answered
    resolving: bool = False  # whoever answered has queued the hop, but not published it
    taken: frozenset[str] = frozenset()  # answers that were said to settle the wait, and what bodies ran with


class Label(NamedTuple):
    """The description of a move in a trace."""

    name: str
    hop: int = -1
    worker: int = -1

    def __str__(self) -> str:
        """Return it as one line."""
        actor = f"worker {self.worker}: " if self.worker >= 0 else ""
        return f"{actor}{self.name}" + (f" (hop {self.hop})" if self.hop >= 0 else "")


class Move(NamedTuple):
    """A step to another state. If it does not need the adversary, it happens sooner or later."""

    label: Label
    adverse: bool
    to: State


def first(rules: Rules, budget: Budget) -> State:
    """Return the state in which a workflow was recorded and sent."""
    left = (budget.faults, *(getattr(budget, fault) for fault in FAULTS))
    queues = put((0,) * rules.hops, 0, 1)
    return State(records.started(rules), queues, (Worker(),) * len(WORKERS), 0, 0, left)


def moves(state: State, rules: Rules) -> Iterator[Move]:
    """Return everything that may happen next."""
    for worker in WORKERS:
        yield from _works(state, rules, worker)
        yield from _renews(state, rules, worker)
    yield from _time(state, rules)
    if state.store.wait is not None:
        yield from _answers(state)
    if rules.sweeper:
        yield from _sweeps(state)
        yield from _ends_late(state, rules)
    if state.left[0]:
        yield from _adversary(state, rules)


def holds(state: State, worker: int, hop: int) -> bool:
    """Say whether a worker runs or closes a hop, or is about to learn that its claim was granted."""
    phase, at, fence = state.workers[worker]
    if at != hop or state.store.hops[hop] is None:
        return False
    record = state.store.record(hop)
    if phase == TAKEN:
        return record.token is not None and owner_of(record) == worker
    return phase in HOLDING and fence == record.fence and owner_of(record) == worker


# Workers: what a task does with a delivery.


def _works(state: State, rules: Rules, worker: int) -> Iterator[Move]:
    phase, hop, _ = state.workers[worker]
    if phase == IDLE and rules.served:
        for waiting, count in enumerate(state.queues):
            if count:
                taken = _sent(state, waiting, -1)._replace(workers=put(state.workers, worker, Worker(TAKEN, waiting)))
                yield Move(Label("takes a message", waiting, worker), False, taken)
    elif phase == TAKEN:
        yield Move(Label("CLAIM", hop, worker), False, _claims(state, rules, worker))
    elif phase == CLAIMED:
        if state.late:  # if it has not passed only now
            yield Move(Label("is too late to begin", hop, worker), False, _at(state, worker, LATE))
        if rules.waits and not state.late:
            yield Move(Label("WAIT", hop, worker), False, _asks(state, rules, worker))
        if not rules.waits:
            yield Move(Label("runs the body", hop, worker), False, _ran(state, worker, RAN))
    elif phase in (ASKED, TOO_LONG):
        yield from _waits(state, worker)
    elif phase == TOLD:
        yield Move(Label("runs the body", hop, worker), False, _ran(state, worker, RAN))
    elif phase == LEFT:
        yield Move(Label("SUSPEND", hop, worker), False, _suspends(state, worker))
    elif phase == WOKEN:
        yield Move(Label("publishes the woken hop", hop, worker), False, _at(_sent(state, hop), worker, CLOSED))
    elif phase in TO_CLOSE and state.store.hops[hop] is None:
        yield Move(*_without_a_record(state, rules, worker))
    elif phase in TO_CLOSE:
        name, store, answer = _closing(state, rules, worker)
        closed = _after_closing(state, store)
        yield Move(Label(name, hop, worker), False, _answered(closed, rules, worker, answer))
    elif phase == HALF:
        done = _after_closing(state, records.recorded(state.store, hop + 1))
        yield Move(Label("records the next hop", hop, worker), False, _at(done, worker, RECORDED))
    elif phase == RECORDED:
        yield Move(Label("publishes", hop + 1, worker), False, _at(_sent(state, hop + 1), worker, CLOSED))
    elif phase == CLOSED:
        yield Move(Label("acknowledges", hop, worker), False, _ended(state, worker))


def _asks(state: State, rules: Rules, worker: int) -> State:
    """Record the wait of the body, or find out what has become of it, before anybody is asked."""
    _, hop, fence = state.workers[worker]
    store = records.asked(state.store, rules, hop, worker, fence)
    if store is None:
        return _at(state, worker, CLOSED)
    assert store.wait is not None
    state = state._replace(store=store, tokens=state.tokens | {store.wait.token})
    if store.wait.state != "open":
        return _learns(state, worker)
    return _at(state, worker, TOO_LONG if store.passed else ASKED)


def _learns(state: State, worker: int) -> State:
    """Give a run what it waited for."""
    wait = state.store.wait
    assert wait is not None
    answer = wait.answer if wait.state == "settled" else None
    return _at(state._replace(taken=state.taken | {answer or "the time"}), worker, TOLD)


def _waits(state: State, worker: int) -> Iterator[Move]:
    """A run that waits for an answer: it learns of it, gives it up in time, or leaves its worker."""
    phase, hop, _ = state.workers[worker]
    wait = state.store.wait
    if wait is None or hop != state.store.current:  # somebody has completed its hop
        yield Move(Label("leaves its run", hop, worker), False, _at(state, worker, LEFT))
        return
    if holds(state, worker, hop) and wait.state == "settled":
        yield Move(Label("RENEW: settled, and the run goes on", hop, worker), False, _learns(state, worker))
    if phase == TOO_LONG or state.store.passed:
        store, _ = records.timed_out(state.store, hop)
        yield Move(Label("TIME_OUT", hop, worker), False, _learns(state._replace(store=store), worker))
    if phase == ASKED:
        yield Move(Label("leaves its run", hop, worker), False, _at(state, worker, LEFT))


def _suspends(state: State, worker: int) -> State:
    _, hop, fence = state.workers[worker]
    store, answer = records.suspended(state.store, hop, worker, fence)
    return _at(state._replace(store=store), worker, WOKEN if answer == "sent" else CLOSED)


def _without_a_record(state: State, rules: Rules, worker: int) -> tuple[Label, bool, State]:
    """Close a hop of which the store has no record: it is adopted and claimed first, if nobody has adopted it."""
    phase, hop, _ = state.workers[worker]
    if not rules.tell:
        return Label("is told of another owner", hop, worker), False, _at(state, worker, CLOSED)
    if phase in (SPENT, LATE):  # nothing was run, so the delivery is opened again, or the sweep forgets it
        again = Worker(TAKEN, hop) if phase == SPENT else Worker()
        return Label("finds nothing to close", hop, worker), False, _with(state, worker, again)
    if state.store.workflow not in NOT_KNOWN:
        return Label("finds its workflow elsewhere", hop, worker), False, _at(state, worker, CLOSED)
    adopted = _adopted(state, hop)
    store, answer = records.claimed(adopted.store, rules, hop, worker)
    assert isinstance(answer, Claimed)
    closing = Worker(phase, hop, answer.fence)
    regained = _with(adopted._replace(store=store), worker, closing)
    return Label("regains the hop that it ran", hop, worker), False, regained


def _adopted(state: State, hop: int) -> State:
    """Record a workflow from the message of its hop."""
    return _counted_anew(state._replace(store=records.adopted(state.store, hop)))


def _claims(state: State, rules: Rules, worker: int) -> State:
    hop = state.workers[worker].hop
    store, answer = records.claimed(state.store, rules, hop, worker)
    if answer == records.UNKNOWN and state.store.workflow in NOT_KNOWN:
        return _adopted(state, hop)  # it asks for the claim once more
    state = state._replace(store=store)
    if isinstance(answer, Claimed):
        phase = SPENT if answer.exhausted else CLAIMED
        return state._replace(workers=put(state.workers, worker, Worker(phase, hop, answer.fence)))
    if not rules.drop:
        return _ended(_sent(state, hop), worker)
    # A copy of a hop that was handed on is a sign that the next hop's message may never have been sent.
    follows = answer == "finished" and store.workflow == "running" and store.current == hop + 1
    if follows and store.record(store.current).state != "running":
        state = _sent(state, store.current)
    return _ended(state, worker)


def _answers(state: State) -> Iterator[Move]:
    """Somebody answers, sooner or later, whatever has become of the hop; and publishes what that has queued."""
    hop = state.store.current
    if not state.store.passed:
        passed = state._replace(store=state.store._replace(passed=True))
        yield Move(Label("the time for an answer passes", hop), False, passed)
    if not state.answered:
        yield Move(Label("RESOLVE", hop), False, _resolved(state, "first")._replace(answered=True))
    if state.resolving:
        published = _sent(state, hop)._replace(resolving=False)
        yield Move(Label("whoever answered publishes", hop), False, published)


def _resolved(state: State, call: str) -> State:
    hop = state.store.current
    store, outcome, is_sent = records.resolved(state.store, hop, call, late=state.late)
    taken = state.taken | ({call} if outcome == "settled" else set())
    if is_sent and state.resolving:
        state = _sent(state, hop)
    return state._replace(store=store, taken=taken, resolving=state.resolving or is_sent)


def _ran(state: State, worker: int, phase: str) -> State:
    current = state.store.current == state.workers[worker].hop
    return _at(state._replace(runs=state.runs + current), worker, phase)


def _closing(state: State, rules: Rules, worker: int) -> tuple[str, Store, bool]:
    """Decide what is recorded of a delivery, and record it."""
    phase, hop, fence = state.workers[worker]
    if phase == RAN:
        return "COMPLETE", *records.completed(state.store, rules, hop, worker, fence)
    if phase in (BROKE, LATE):
        return "FAIL", *records.closed(state.store, hop, worker, fence, "failed")
    # The attempt is known from the claim. If the record has another one by now, nothing is recorded.
    if phase == FAILED and state.store.record(hop).attempt < rules.max_attempts:
        return "RETRY_AT", *records.closed(state.store, hop, worker, fence, "waiting")
    return "PARK", *records.closed(state.store, hop, worker, fence, "parked")


def _answered(state: State, rules: Rules, worker: int, recorded: bool) -> State:
    """Go on after the answer of a closing operation. If the worker was overtaken, only acknowledge."""
    phase, hop, _ = state.workers[worker]
    if not recorded or phase != RAN or hop == rules.hops - 1:
        return _at(state, worker, CLOSED)
    if not rules.atomic and state.store.hops[hop + 1] is None:
        return _at(state, worker, HALF)
    return _at(state, worker, RECORDED)


def _renews(state: State, rules: Rules, worker: int) -> Iterator[Move]:
    """The thread that renews an owner's lease, if a renewal changes something."""
    phase, hop, fence = state.workers[worker]
    if phase in (*RUNNING, LEFT, RAN, FAILED, BROKE):
        store = records.renewed(state.store, hop, worker, fence)
        if store == "unknown":
            if phase in RUNNING:
                label = Label("RENEW: unknown, and the run is cancelled", hop, worker)
                yield Move(label, False, _cut(state, rules, worker))
        elif store is None:
            if phase in RUNNING:  # a run that has ended is not cancelled
                yield Move(Label("RENEW: lost, and the run is cancelled", hop, worker), False, _ended(state, worker))
        elif store is not state.store:
            yield Move(Label("RENEW", hop, worker), False, state._replace(store=store))
    for stray in state.store.owned[worker]:
        if phase not in HOLDING or hop != stray:
            fence = state.store.record(stray).fence
            store = records.released(state.store, stray, worker, fence)
            yield Move(Label("RELEASE of a stray", stray, worker), False, state._replace(store=store))


def _cut(state: State, rules: Rules, worker: int) -> State:
    """Cancel a run of which the store has no record, and send its message again, unless somebody has adopted it."""
    hop = state.workers[worker].hop
    if rules.tell and state.store.workflow in NOT_KNOWN:
        state = _sent(_adopted(state, hop), hop)
    return _ended(state, worker)


# Time and the sweepers.


def _time(state: State, rules: Rules) -> Iterator[Move]:
    """The deadline passes, and leases that nobody renews expire."""
    if rules.deadline and not state.late:
        yield Move(Label("the deadline passes"), False, state._replace(late=True))
    for owner in OWNERS:
        if state.store.owned[owner] and state.store.leases[owner] == "holds" and not _is_attended(state, owner):
            hop = min(state.store.owned[owner])
            yield Move(Label("the lease of nobody's run ends", hop), False, _expired(state, owner))


def _is_attended(state: State, owner: int) -> bool:
    return owner != GONE and any(holds(state, owner, hop) for hop in state.store.owned[owner])


def _expired(state: State, owner: int) -> State:
    return state._replace(store=state.store._replace(leases=put(state.store.leases, owner, "over")))


def _sweeps(state: State) -> Iterator[Move]:
    store = state.store
    for owner in OWNERS:
        # A process that died on the sweeper's machine is known to be gone before its lease ends.
        if store.owned[owner] and (owner == GONE or store.leases[owner] == "over"):
            queued, hops = records.lapsed(store, owner)
            again = state._replace(store=queued)
            for hop in hops:
                again = _sent(again, hop)
            yield Move(Label("SWEEP: queues what an owner ran", min(store.owned[owner])), False, again)
    for hop in store.due:
        record = store.record(hop)
        if record.state == "waiting":
            again = state._replace(store=records.swept(store, hop))
            yield Move(Label("SWEEP: the wait is over", hop), False, _sent(again, hop))
        elif goes_first(record) or not _is_on_its_way(state, hop):
            again = state._replace(store=records.swept(store, hop))
            yield Move(Label("SWEEP: overdue", hop), False, _sent(again, hop))
    for hop in store.asleep:
        queued, is_sent = records.timed_out(store, hop)
        if not is_sent and state.late:
            queued, is_sent = records.woken(store, hop)
        if is_sent:
            again = state._replace(store=queued)
            yield Move(Label("SWEEP: the time is over", hop), False, _sent(again, hop))


def _ends_late(state: State, rules: Rules) -> Iterator[Move]:
    """A sweeper is told of a hop that is late. It claims it in the process of a worker, and closes it then."""
    hop, store = state.store.current, state.store
    if not (rules.late and state.late and store.workflow == "running") or not may_be_ended(store.record(hop)):
        return
    for worker in WORKERS:
        if state.workers[worker].phase == IDLE:
            claimed, answer = records.claimed(store, rules, hop, worker, max_attempts=0)
            assert isinstance(answer, Claimed)
            ending = _with(state._replace(store=claimed), worker, Worker(LATE, hop, answer.fence))
            yield Move(Label("SWEEP: late, and it is claimed", hop, worker), False, ending)


def _is_on_its_way(state: State, hop: int) -> bool:
    """Say whether the hop's message will come. If that takes long it is sent again, like the adversary's copies."""
    late = (worker for worker in state.workers if worker.phase in (TAKEN, RECORDED, WOKEN))
    if state.queues[hop] or (state.resolving and hop == state.store.current):
        return True
    return any(hop == worker.hop + (worker.phase == RECORDED) for worker in late)


# The adversary, and people.


def _adversary(state: State, rules: Rules) -> Iterator[Move]:
    for worker in WORKERS:
        yield from _crashes(state, worker)
        yield from _freezes(state, worker)
        yield from _loses_replies(state, rules, worker)
        yield from _fails(state, rules, worker)
    yield from _disturbs_messages(state)
    yield from _people(state)
    yield from _disturbs_answers(state)
    if (paid := _paid(state, "forget")) is not None and state.store.workflow not in NOT_KNOWN:
        yield Move(Label("the store forgets everything"), True, _forgotten(paid, rules))


def _forgotten(state: State, rules: Rules) -> State:
    store = records.forgotten(state.store, rules, owed=_has_message(state))
    return state._replace(store=store, runs=0, excuses=0)


def _has_message(state: State) -> bool:
    """Say whether a message can bring the workflow back: it waits, or is in hand, or is about to be sent."""
    in_hand = (TAKEN, *RUNNING, LEFT, WOKEN, RAN, FAILED, BROKE, SPENT, RECORDED)
    return any(state.queues) or any(worker.phase in in_hand for worker in state.workers)


def _without_message(state: State) -> State:
    """Note that an unknown workflow is gone, if the adversary has taken its last message."""
    if state.store.workflow != "unknown" or _has_message(state):
        return state
    return state._replace(store=state.store._replace(workflow="gone"))


def _crashes(state: State, worker: int) -> Iterator[Move]:
    """A process dies anywhere and a new one replaces it. Its message comes back, or was in the pop window."""
    phase, hop, _ = state.workers[worker]
    if (paid := _paid(state, "crash")) is None or (phase == IDLE and not state.store.owned[worker]):
        return
    gone = _excused(_gone(paid, worker), state.store.owned[worker])
    yield Move(Label("crashes, its message is lost", hop, worker), True, _without_message(gone))
    if phase != IDLE:
        yield Move(Label("crashes, its message comes back", hop, worker), True, _sent(gone, hop))


def _gone(state: State, worker: int) -> State:
    store = state.store
    hops = tuple(
        without_token(with_owner(record, GONE)) if record is not None and owner_of(record) == worker else record
        for record in (_never_asked_again(each, worker) for each in store.hops)
    )
    if store.owned[worker]:
        owned = put(put(store.owned, GONE, store.owned[GONE] | store.owned[worker]), worker, frozenset[int]())
        leases = put(put(store.leases, GONE, store.leases[worker]), worker, "none")
        store = store._replace(owned=owned, leases=leases)
    return state._replace(store=store._replace(hops=hops), workers=put(state.workers, worker, Worker()))


def _freezes(state: State, worker: int) -> Iterator[Move]:
    """A process freezes until its lease has expired, and goes on later as if nothing had happened."""
    paid = _paid(state, "expiry")
    if paid is not None and state.store.leases[worker] == "holds" and _is_attended(state, worker):
        late = _excused(_expired(paid, worker), state.store.owned[worker])
        yield Move(Label("its lease ends", state.workers[worker].hop, worker), True, late)


def _loses_replies(state: State, rules: Rules, worker: int) -> Iterator[Move]:
    """A script ran but its reply was lost: the client repeats the call with the same token, or gives up."""
    if (paid := _paid(state, "reply")) is None:
        return
    phase, hop, _ = state.workers[worker]
    if phase == TAKEN:
        store, answer = records.claimed(state.store, rules, hop, worker)
        if isinstance(answer, Claimed) and store != state.store:
            yield Move(Label("CLAIM, its reply is lost", hop, worker), True, paid._replace(store=store))
    elif phase == LEFT:
        store, _ = records.suspended(state.store, hop, worker, state.workers[worker].fence)
        if store != state.store:
            yield Move(Label("SUSPEND, its reply is lost", hop, worker), True, paid._replace(store=store))
    elif phase in TO_CLOSE and state.store.hops[hop] is not None:
        name, store, _ = _closing(state, rules, worker)
        if store != state.store:
            yield Move(Label(f"{name}, its reply is lost", hop, worker), True, _after_closing(paid, store))
    if phase in (TAKEN, LEFT, *TO_CLOSE) and phase != LATE:
        given_up = _excused(paid, state.store.owned[worker])
        back = _ended(_sent(given_up, hop), worker)
        yield Move(Label("gives up, and gives its message back", hop, worker), True, back)


def _after_closing(state: State, store: Store) -> State:
    """Take over the store. If it has a next hop, start counting again."""
    moved = store.recorded != state.store.recorded
    if not moved:
        return state._replace(store=store)
    nobody = state._replace(store=store, tokens=frozenset(), answered=False, resolving=False, taken=frozenset())
    return _counted_anew(nobody)


def _counted_anew(state: State) -> State:
    """Start counting for a hop. After a loss, workers may run it who claimed an earlier record of it."""
    still = sum(worker.hop == state.store.current and worker.phase in HOLDING for worker in state.workers)
    return state._replace(runs=0, excuses=still)


def _fails(state: State, rules: Rules, worker: int) -> Iterator[Move]:
    phase, hop, fence = state.workers[worker]
    if phase not in (CLAIMED, TOLD):
        return
    if (paid := _paid(state, "error")) is not None:
        owned = state.store.owned[worker]
        yield Move(Label("the body fails", hop, worker), True, _excused(_ran(paid, worker, FAILED), owned))
        yield Move(Label("the body fails permanently", hop, worker), True, _ran(paid, worker, BROKE))
    if phase == CLAIMED and (paid := _paid(state, "stop")) is not None:
        begun = _excused(_ran(paid, worker, CLAIMED), state.store.owned[worker])
        if state.store.hops[hop] is None:
            back = _ended(_sent(begun, hop), worker)
            yield Move(Label("must end, and gives its message back", hop, worker), True, back)
            return
        store = records.released(state.store, hop, worker, fence)
        yield Move(Label("RELEASE, as it must end", hop, worker), True, _ended(begun._replace(store=store), worker))


def _disturbs_answers(state: State) -> Iterator[Move]:
    if state.store.wait is None or (paid := _paid(state, "answer")) is None:
        return
    hop = state.store.current
    yield Move(Label("RESOLVE, by another", hop), True, _resolved(paid, "second"))
    if state.answered:
        yield Move(Label("RESOLVE, its reply was lost", hop), True, _resolved(paid, "first"))
    if state.resolving:
        yield Move(Label("whoever answered dies", hop), True, paid._replace(resolving=False))


def _disturbs_messages(state: State) -> Iterator[Move]:
    copied, lost = _paid(state, "copy"), _paid(state, "loss")
    in_hands = {worker.hop for worker in state.workers if worker.phase != IDLE}
    for hop, count in enumerate(state.queues):
        if copied is not None and (count or hop in in_hands or _is_on_its_way(state, hop)):
            yield Move(Label("a message is doubled", hop), True, _sent(copied, hop))
        if lost is not None and count:
            yield Move(Label("a message is lost", hop), True, _without_message(_sent(lost, hop, -1)))


def _people(state: State) -> Iterator[Move]:
    store = state.store
    if store.workflow in ("running", "parked") and (paid := _paid(state, "cancel")) is not None:
        yield Move(Label("CANCEL"), True, paid._replace(store=records.cancelled(store)))
    if store.workflow == "parked" and (paid := _paid(state, "redrive")) is not None:
        again = paid._replace(store=records.redriven(store), excuses=state.excuses + 1)
        yield Move(Label("REDRIVE"), True, again)


def _paid(state: State, fault: str) -> State | None:
    """Return the state with the fault paid for, or None if the budget does not allow it."""
    left = left_after(state.left, fault)
    return state._replace(left=left) if left is not None else None


@cache
def left_after(left: tuple[int, ...], fault: str) -> tuple[int, ...] | None:
    """Return what is left of a budget after a fault, or None if it does not allow it."""
    place = 1 + FAULTS.index(fault)
    if not left[0] or not left[place]:
        return None
    return put(put(left, 0, left[0] - 1), place, left[place] - 1)


def _excused(state: State, owned: frozenset[int]) -> State:
    """If the current hop is one of these, note that its attempt was disturbed."""
    return state._replace(excuses=state.excuses + (state.store.current in owned))


# States that are alike.


def canonical(state: State) -> State:
    """Return one state for all that go on in the same way.

    Who closed a hop matters only to workers that may ask to close it again, and it does not matter which worker is
    which.
    """
    asked = {worker.hop for worker in state.workers if worker.phase in HOLDING}
    hops = tuple(
        NOBODYS[record.state] if record is not None and record.state in OVER and hop not in asked else record
        for hop, record in enumerate(state.store.hops)
    )
    hops = tuple(record and _still_asked(record, hop, state) for hop, record in enumerate(hops))
    if hops != state.store.hops:
        state = state._replace(store=state.store._replace(hops=hops))
    one, two = state.workers
    if one == two:  # they have the same in hand, which does not tell them apart
        return _swapped(state) if _rank(state, WORKERS[0]) > _rank(state, WORKERS[1]) else state
    return _swapped(state) if one > two else state


def _still_asked(record: Hop, hop: int, state: State) -> Hop:
    """Forget who suspended a hop if nobody will ask for that once more."""
    if record.suspended_by is None:
        return record
    name, fence = record.suspended_by
    return record if state.workers[int(name)] == (LEFT, hop, fence) else with_suspender(record, None)


def _never_asked_again(record: Hop | None, worker: int) -> Hop | None:
    is_its = record is not None and record.suspended_by is not None and record.suspended_by[0] == str(worker)
    return with_suspender(record, None) if record is not None and is_its else record


def _rank(state: State, worker: int) -> tuple[object, ...]:
    named = [hop for hop, record in enumerate(state.store.hops) if record is not None and owner_of(record) == worker]
    return sorted(state.store.owned[worker]), named, state.store.leases[worker]


def _swapped(state: State) -> State:
    one, two, gone = OWNERS
    store, other = state.store, {one: two, two: one, gone: gone, None: None}
    hops = tuple(
        record and with_owner(with_suspender(record, other[_suspender_of(record)]), other[owner_of(record)])
        for record in store.hops
    )
    owned, leases = store.owned, store.leases
    store = store._replace(
        hops=hops, owned=(owned[two], owned[one], owned[gone]), leases=(leases[two], leases[one], leases[gone])
    )
    return state._replace(store=store, workers=state.workers[::-1])


def _suspender_of(record: Hop) -> int | None:
    return int(record.suspended_by[0]) if record.suspended_by is not None else None


# Parts of moves.


def _sent(state: State, hop: int, count: int = 1) -> State:
    return state._replace(queues=put(state.queues, hop, state.queues[hop] + count))


def _with(state: State, worker: int, delivery: Worker) -> State:
    return state._replace(workers=put(state.workers, worker, delivery))


def _at(state: State, worker: int, phase: str) -> State:
    return state._replace(workers=put(state.workers, worker, state.workers[worker]._replace(phase=phase)))


def _ended(state: State, worker: int) -> State:
    """End a delivery: its token is never used again."""
    store, hops = state.store, state.store.hops
    ended = tuple(
        without_token(record) if record is not None and record.token and owner_of(record) == worker else record
        for record in hops
    )
    store = store._replace(hops=ended) if ended != hops else store
    return state._replace(store=store, workers=put(state.workers, worker, Worker()))
