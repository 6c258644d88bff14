"""The store of the model: what the scripts do to a workflow's records, without times, texts and queues' names.

Time is what it does to a lease: it holds, or it is over. A token is what it decides: whether the record was claimed
for the delivery that its owner has in hands. Processes that died are one owner, `GONE`: they never write again.
The hold after an outage is left out, as it only puts off a take-over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

__all__ = [
    "GONE",
    "OWNERS",
    "WORKERS",
    "Claimed",
    "Record",
    "Rules",
    "Store",
    "cancelled",
    "claimed",
    "closed",
    "completed",
    "is_lost",
    "lapsed",
    "put",
    "recorded",
    "redriven",
    "released",
    "renewed",
    "resent",
    "retried",
    "started",
]

T = TypeVar("T")

WORKERS = (0, 1)
GONE = 2
OWNERS = (*WORKERS, GONE)

Lease = Literal["none", "holds", "over"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The size of the model, and the rules of the protocol, each of which a mutant may lack."""

    hops: int = 3
    max_attempts: int = 2
    fence: bool = True  # closing operations compare owner and fence
    dedupe: bool = True  # a claim respects the lease of the hop's owner
    sweeper: bool = True  # somebody looks for what waits in vain
    atomic: bool = True  # a completion and the next hop are recorded in one script
    cap: bool = True  # a claim beyond `max_attempts` may only close
    idempotent: bool = True  # a claim that is repeated with its token gets the first one's answer
    once: bool = True  # a hop that is closed is not closed again
    drop: bool = True  # a copy is acknowledged, and not given back to its queue


class Record(NamedTuple):
    """The record of a hop."""

    state: str = "queued"
    owner: int | None = None
    token: bool = False  # that of the delivery which its owner has in hands
    fence: int = 0
    attempt: int = 0
    exhausted: bool = False
    unsent: bool = False  # nobody sent a message since it was queued; the next sweep does


class Store(NamedTuple):
    """All records of a workflow, the indexes, and what its events say."""

    workflow: str
    hops: tuple[Record | None, ...]
    due: frozenset[int]
    parked: frozenset[int]
    owned: tuple[frozenset[int], ...]
    leases: tuple[Lease, ...]
    recorded: tuple[int, ...]  # hops, in the order of their records
    completed: tuple[int, ...]

    @property
    def current(self) -> int:
        """The hop that the workflow stands at."""
        return self.recorded[-1]

    def record(self, hop: int) -> Record:
        """Return the record of a hop that is there."""
        found = self.hops[hop]
        assert found is not None
        return found


class Claimed(NamedTuple):
    """A claim was granted; every other answer is the reason why not."""

    fence: int
    attempt: int
    exhausted: bool


def started(rules: Rules) -> Store:
    """START"""
    nobody: frozenset[int] = frozenset()
    none: Lease = "none"
    empty = Store(
        "running", (None,) * rules.hops, nobody, nobody, (nobody,) * len(OWNERS), (none,) * len(OWNERS), (), ()
    )
    return recorded(empty, 0)


def recorded(store: Store, hop: int) -> Store:
    """START and COMPLETE: the record of a hop that was sent for the first time."""
    store = store._replace(recorded=(*store.recorded, hop), due=store.due | {hop})
    return _with(store, hop, Record())


def claimed(store: Store, rules: Rules, hop: int, owner: int) -> tuple[Store, Claimed | str]:
    """CLAIM, for the delivery that the owner has in hands."""
    record = store.record(hop)
    if record.state not in ("queued", "running"):
        return store, "finished" if record.state in ("done", "failed") else record.state
    if rules.idempotent and record.token and record.owner == owner:
        store = _given(_with(store, hop, record._replace(state="running")), hop, owner)
        return store, Claimed(record.fence, record.attempt, record.exhausted)
    if rules.dedupe and record.state == "running" and store.leases[_owner(record)] == "holds":
        return store, "running"
    exhausted = rules.cap and record.attempt >= rules.max_attempts
    attempt = record.attempt + (not exhausted)
    answer = Claimed(record.fence + 1, attempt, exhausted)
    if record.state == "running":
        store = _taken(store, hop, _owner(record))
    store = _with(store, hop, Record("running", owner, True, record.fence + 1, attempt, exhausted))
    return _given(store, hop, owner), answer


def renewed(store: Store, hop: int, owner: int, fence: int) -> Store:
    """RENEW, by an owner that runs this hop and was not told that it is lost."""
    if store.record(hop).state == "queued":
        return _given(_with(store, hop, store.record(hop)._replace(state="running")), hop, owner)
    return store._replace(leases=put(store.leases, owner, "holds")) if store.owned[owner] else store


def is_lost(store: Store, hop: int, owner: int, fence: int) -> bool:
    """RENEW: whether the owner may no longer write for the hop."""
    record = store.record(hop)
    return (record.owner, record.fence) != (owner, fence)


def released(store: Store, rules: Rules, hop: int, owner: int, fence: int) -> Store:
    """RELEASE"""
    if _may_close(store, rules, hop, owner, fence) != "yes":
        return store
    record = store.record(hop)
    attempt = record.attempt - (not record.exhausted)
    store = _taken(store, hop, owner)
    store = _with(store, hop, record._replace(
        state="queued", owner=None, token=False, attempt=attempt, exhausted=False, unsent=True
    ))  # fmt: skip
    return store._replace(due=store.due | {hop})


def completed(store: Store, rules: Rules, hop: int, owner: int, fence: int) -> tuple[Store, bool]:
    """COMPLETE, and whether it is recorded, now or before."""
    answer = _may_close(store, rules, hop, owner, fence)
    if answer != "yes":
        return store, answer == store.record(hop).state == "done"
    store = _put_away(store, hop, owner, "done")
    store = store._replace(completed=(*store.completed, hop))
    if hop == rules.hops - 1:
        return store._replace(workflow="completed"), True
    return recorded(store, hop + 1) if rules.atomic else store, True


def closed(store: Store, rules: Rules, hop: int, owner: int, fence: int, state: str) -> tuple[Store, bool]:
    """RETRY_AT (`waiting`), PARK (`parked`) and FAIL (`failed`), and whether it is recorded, now or before."""
    answer = _may_close(store, rules, hop, owner, fence)
    if answer != "yes":
        return store, answer == store.record(hop).state == state
    store = _put_away(store, hop, owner, state)
    if state == "waiting":
        return store._replace(due=store.due | {hop}), True
    if state == "parked":
        store = store._replace(parked=store.parked | {hop})
    return store._replace(workflow=state), True


def cancelled(store: Store) -> Store:
    """CANCEL, of a workflow that did not end."""
    hop = store.current
    record = store.record(hop)
    if record.owner is not None:
        store = _taken(store, hop, record.owner)
    store = store._replace(workflow="cancelled", due=store.due - {hop}, parked=store.parked - {hop})
    return _with(store, hop, record._replace(state="cancelled", owner=None, token=False))


def redriven(store: Store) -> Store:
    """REDRIVE, of a workflow that is parked."""
    hop = store.current
    store = store._replace(workflow="running", due=store.due | {hop}, parked=store.parked - {hop})
    return _with(store, hop, store.record(hop)._replace(state="queued", owner=None, attempt=0, unsent=True))


def lapsed(store: Store, owner: int) -> tuple[Store, tuple[int, ...]]:
    """SWEEP: queue what an owner ran that is dead or whose lease is over, and say what is sent again."""
    running = tuple(hop for hop in store.owned[owner] if store.record(hop).state == "running")
    for hop in store.owned[owner]:
        store = _taken(store, hop, owner)  # a record that does not run is noted as corrupt
    for hop in running:
        store = _with(store, hop, store.record(hop)._replace(state="queued"))._replace(due=store.due | {hop})
    return store, running


def retried(store: Store, hop: int) -> Store:
    """SWEEP: queue a hop whose wait is over, and send it again."""
    return _with(store, hop, store.record(hop)._replace(state="queued", owner=None))


def resent(store: Store, hop: int) -> Store:
    """SWEEP: note that an overdue hop is sent again."""
    return _with(store, hop, store.record(hop)._replace(unsent=False))


def put(values: tuple[T, ...], place: int, value: Any) -> tuple[T, ...]:
    """Return the tuple with another value at one place."""
    return (*values[:place], value, *values[place + 1 :])


def _may_close(store: Store, rules: Rules, hop: int, owner: int, fence: int) -> str:
    """The condition that all closing operations share: `yes`, the state that its own claim closed it in, or `no`."""
    record = store.record(hop)
    if rules.fence and (record.owner, record.fence) != (owner, fence):
        return "no"
    return "yes" if record.state in ("queued", "running") or not rules.once else record.state


def _put_away(store: Store, hop: int, owner: int, state: str) -> Store:
    store = _taken(store, hop, owner)
    store = store._replace(due=store.due - {hop})
    return _with(store, hop, store.record(hop)._replace(state=state, token=False, exhausted=False, unsent=False))


def _given(store: Store, hop: int, owner: int) -> Store:
    return store._replace(
        due=store.due - {hop},
        owned=put(store.owned, owner, store.owned[owner] | {hop}),
        leases=put(store.leases, owner, "holds"),
    )


def _taken(store: Store, hop: int, owner: int) -> Store:
    left = store.owned[owner] - {hop}
    leases = store.leases if left else put(store.leases, owner, "none")
    return store._replace(owned=put(store.owned, owner, left), leases=leases)


def _with(store: Store, hop: int, record: Record) -> Store:
    return store._replace(hops=put(store.hops, hop, record))


def _owner(record: Record) -> int:
    assert record.owner is not None
    return record.owner
