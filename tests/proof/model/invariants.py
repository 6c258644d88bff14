"""What must hold in each state of the model, and for each move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from paigeant_celery.core.hops import Hop, is_of
from tests.proof.model.moves import HOLDING, NOT_KNOWN, Label, State, holds
from tests.proof.model.records import OWNERS, WORKERS, Rules, owner_of, without_token

__all__ = ["MOVE_INVARIANTS", "STATE_INVARIANTS", "has_ended"]

PLACES = {"queued": ["due"], "waiting": ["due"], "running": ["owned"], "parked": ["parked"], "suspended": ["asleep"]}
FORGETS = "the store forgets everything"
WRITES = ("COMPLETE", "FAIL", "RETRY_AT", "PARK", "RELEASE,", "SUSPEND")
ENDS = ("completed", "failed", "cancelled")


def has_ended(state: State) -> bool:
    """Say whether nothing more will happen to the workflow unless people act, or its last message was lost as well."""
    return state.store.workflow not in ("running", "unknown")


def _hops(state: State) -> Iterator[tuple[int, Hop]]:
    return ((hop, record) for hop, record in enumerate(state.store.hops) if record is not None)


# Of a state.


def _one_place(state: State, rules: Rules) -> bool:
    """Each open hop is in exactly one place, each closed one in none; an owner without hops has no lease."""
    store = state.store
    for hop, record in _hops(state):
        places = ["due"] * (hop in store.due) + ["parked"] * (hop in store.parked) + ["asleep"] * (hop in store.asleep)
        owners = [owner for owner in OWNERS if hop in store.owned[owner]]
        if places + ["owned"] * len(owners) != PLACES.get(record.state, []) or owners not in ([], [owner_of(record)]):
            return False
    return all((store.leases[owner] != "none") == bool(store.owned[owner]) for owner in OWNERS)


def _completed_once(state: State, rules: Rules) -> bool:
    """No hop completes twice."""
    return len(set(state.store.completed)) == len(state.store.completed)


def _in_slip_order(state: State, rules: Rules) -> bool:
    """Hops complete and are recorded once each, in the order of the slip."""
    store = state.store
    first = store.recorded[0] if store.recorded else 0  # it is adopted at any hop
    places = tuple(range(first, first + len(store.recorded)))
    return store.recorded == places and store.completed == places[: len(store.completed)]


def _handed_on(state: State, rules: Rules) -> bool:
    """While the workflow runs, one hop is open; at its end, none."""
    store = state.store
    is_open = [hop for hop, record in _hops(state) if record.state in PLACES]
    if store.workflow == "completed":
        return not is_open and store.completed == store.recorded and store.current == rules.hops - 1
    expected = [] if store.workflow in (*ENDS, *NOT_KNOWN) else [store.current]
    return is_open == expected and store.completed == store.recorded[:-1]


def _attempts_capped(state: State, rules: Rules) -> bool:
    """No hop is begun more often than is allowed."""
    return all(record.attempt <= rules.max_attempts for _, record in _hops(state))


def _attempts_explained(state: State, rules: Rules) -> bool:
    """Each attempt after the first has a reason: none is spent if nothing went wrong."""
    return not state.store.recorded or state.store.record(state.store.current).attempt <= 1 + state.excuses


def _runs_explained(state: State, rules: Rules) -> bool:
    """A body runs once, and once more each time something went wrong."""
    return state.runs <= 1 + state.excuses


def _sleeps_for_a_reason(state: State, rules: Rules) -> bool:
    """A hop sleeps only as long as it waits: whoever ends the wait queues it."""
    asleep = any(record.state == "suspended" for _, record in _hops(state))
    return not asleep or (state.store.wait is not None and state.store.wait.state == "open")


def _answered_once(state: State, rules: Rules) -> bool:
    """Whoever is told that his answer counts is the only one, and all bodies run with it, or none can."""
    return len(state.taken) <= 1


def _asked_once(state: State, rules: Rules) -> bool:
    """Nobody is asked under two tokens."""
    return len(state.tokens) <= 1


# Of a move.


def _leases_respected(before: State, label: Label, after: State, rules: Rules) -> bool:
    """No claim is granted while the lease of another claim's owner holds."""
    for hop, record in _hops(before) if label.name != FORGETS else ():
        owner = owner_of(record)
        if record.state != "running" or owner is None or before.store.leases[owner] != "holds":
            continue
        if after.store.record(hop).fence > record.fence:
            return False
    return True


def _overtaken_write_nothing(before: State, label: Label, after: State, rules: Rules) -> bool:
    """Whoever does not hold the last claim closes nothing, and opens no next hop."""
    if label.worker not in WORKERS or not label.name.startswith(WRITES):
        return True
    phase, hop, fence = before.workers[label.worker]
    record = before.store.record(hop)
    assert phase in HOLDING
    return (owner_of(record), record.fence) == (label.worker, fence) or _records(after) == _records(before)


def _records(state: State) -> tuple[object, ...]:
    """Return the store without tokens, which say what a worker has in hand."""
    hops = tuple(without_token(record) if record is not None else None for record in state.store.hops)
    return state.store._replace(hops=hops)


def _left_alone(before: State, label: Label, after: State, rules: Rules) -> bool:
    """A hop that its owner has left to sleep is nobody's, and remains so when it is woken."""
    if label.name in ("RESOLVE", "SWEEP: the time is over", "RESOLVE, by another"):
        return before.store.record(label.hop).state != "suspended" or after.store.record(label.hop).owner is None
    if not label.name.startswith("SUSPEND"):
        return True
    fence = before.workers[label.worker].fence
    return not is_of(after.store.record(label.hop), owner=str(label.worker), fence=fence)


def _granted_again(before: State, label: Label, after: State, rules: Rules) -> bool:
    """A claim repeated while its first answer holds is granted, so that the hop runs."""
    if label.name != "CLAIM" or not holds(before, label.worker, label.hop):
        return True
    return before.store.record(label.hop).state != "running" or holds(after, label.worker, label.hop)


def _only_forward(before: State, label: Label, after: State, rules: Rules) -> bool:
    """What has ended stays ended, what is recorded is not forgotten by us, and fences only grow."""
    if label.name == FORGETS:
        return True
    if before.store.workflow in ENDS and after.store.workflow != before.store.workflow:
        return False
    if before.store.workflow == "parked" and after.store.workflow == "running" and label.name != "REDRIVE":
        return False
    forgotten = after.store.completed[: len(before.store.completed)] != before.store.completed
    return not forgotten and all(after.store.record(hop).fence >= record.fence for hop, record in _hops(before))


STATE_INVARIANTS: Mapping[str, Callable[[State, Rules], bool]] = MappingProxyType(
    {
        "one_place": _one_place,
        "completed_once": _completed_once,
        "in_slip_order": _in_slip_order,
        "handed_on": _handed_on,
        "attempts_capped": _attempts_capped,
        "attempts_explained": _attempts_explained,
        "runs_explained": _runs_explained,
        "sleeps_for_a_reason": _sleeps_for_a_reason,
        "answered_once": _answered_once,
        "asked_once": _asked_once,
    }
)
MOVE_INVARIANTS: Mapping[str, Callable[[State, Label, State, Rules], bool]] = MappingProxyType(
    {
        "leases_respected": _leases_respected,
        "overtaken_write_nothing": _overtaken_write_nothing,
        "left_alone": _left_alone,
        "granted_again": _granted_again,
        "only_forward": _only_forward,
    }
)
