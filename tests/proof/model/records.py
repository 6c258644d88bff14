"""The store of the model: the protocol's own records of hops, with indexes, but without texts and names of queues.

The protocol that the stores run says what becomes of a record; this module lists each hop. Time is reduced to its
effect on a lease: it holds, or it is over. A token is reduced to what it decides: whether the record was claimed for
the delivery that its owner has in hand. Processes that died are one owner, `GONE`; they never write again. The hold
after an outage is left out because it only delays a take-over, and so is how often a hop was overdue.

If the store has forgotten everything, the workflow is `unknown` while a message can bring it back, and else `gone`.

A hop waits once, for anybody's answer, and `passed` says whether the time for it is over. What the protocol of waits
makes of an answer is its own; what is left out is what an answer consists of.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar

from paigeant_celery.core import hops, waits
from paigeant_celery.core.hops import Asleep, Change, ClosedState, Due, Hop, Line, Owned, Pace, Parked, goes_first
from paigeant_celery.core.waits import WHOLE, Answer, Answered, Wait, WaitState

__all__ = [
    "GONE",
    "IN_HAND",
    "LINE",
    "NOW",
    "OWNERS",
    "PACE",
    "UNTIL",
    "WORKERS",
    "Claimed",
    "Rules",
    "Store",
    "UNKNOWN",
    "adopted",
    "applied",
    "asked",
    "cancelled",
    "claimed",
    "closed",
    "completed",
    "forgotten",
    "lapsed",
    "owner_of",
    "put",
    "recorded",
    "redriven",
    "released",
    "renewed",
    "resolved",
    "started",
    "suspended",
    "swept",
    "timed_out",
    "with_owner",
    "with_suspender",
    "without_token",
    "woken",
]

T = TypeVar("T")

WORKERS = (0, 1)
GONE = 2
OWNERS = (*WORKERS, GONE)
OWNER_NAMED: dict[str | None, int | None] = {None: None, **{str(owner): owner for owner in OWNERS}}

Lease = Literal["none", "holds", "over"]

# Time stands still: the protocol always gets this moment, and each message is the first of its queue.
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PACE = Pace(
    **dict.fromkeys(("lease", "due_after", "due_after_most", "long_unswept", "pass_every"), timedelta(seconds=1))
)
LINE = Line()
LEASES: dict[Lease, datetime | None] = {"none": None, "holds": NOW + PACE.lease, "over": NOW}
IN_HAND = "in hand"
UNKNOWN = "unknown"  # the store has no record of the hop
UNTIL = NOW + timedelta(seconds=1)  # of the wait
FENCES = 100  # claims of a hop are fewer; so much higher are the fences of hops adopted after a loss


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The size of the model, and the rules of those who use the protocol. A mutant may lack any of them."""

    hops: int = 3
    max_attempts: int = 2
    sweeper: bool = True  # somebody looks for hops whose message will not come
    atomic: bool = True  # a completion and the next hop are recorded in one script
    drop: bool = True  # a copy is acknowledged, not returned to its queue
    tell: bool = True  # whoever writes for a hop without a record is told so, and not that it was overtaken
    late: bool = True  # sweeps end a workflow that has passed its deadline
    same: bool = True  # a wait that is asked for again keeps its token
    waits: bool = field(default=False, metadata={"size": True})  # the body of each hop waits for an answer
    deadline: bool = field(default=False, metadata={"size": True})  # the workflow has one
    served: bool = field(default=True, metadata={"size": True})  # somebody takes messages


class Asked(NamedTuple):
    """What decides about a wait. States are compared, and a wait of the protocol cannot be."""

    token: str
    state: WaitState = "open"
    answer: str | None = None

    @classmethod
    def of(cls, wait: Wait) -> Asked:
        """Return what decides about a wait."""
        given = wait.answers.get(WHOLE)
        return cls(wait.token, wait.state, given.text if given is not None else None)

    @property
    def wait(self) -> Wait:
        """The wait, as the protocol takes it."""
        answers = {WHOLE: Answer(text=text, by="", at=NOW, call=text)} if (text := self.answer) is not None else {}
        return Wait(
            token=self.token, wait_id="", kind="token", name="", since=NOW, until=UNTIL, state=self.state,
            answers=answers,
        )  # fmt: skip


class Store(NamedTuple):
    """All records of a workflow, the indexes, and the contents of its events."""

    workflow: str
    hops: tuple[Hop | None, ...]
    due: frozenset[int]
    parked: frozenset[int]
    owned: tuple[frozenset[int], ...]
    leases: tuple[Lease, ...]
    recorded: tuple[int, ...]  # hops, in the order of their records
    completed: tuple[int, ...]
    losses: int = 0
    asleep: frozenset[int] = frozenset()
    wait: Asked | None = None  # of the current hop
    passed: bool = False  # the time for an answer is over

    @property
    def current(self) -> int:
        """The workflow's current hop, -1 if it is not known."""
        return self.recorded[-1] if self.recorded else -1

    @property
    def now(self) -> datetime:
        """The time, as far as it decides what becomes of the wait."""
        return UNTIL if self.passed else NOW

    def record(self, hop: int) -> Hop:
        """Return the record of a hop that has one."""
        found = self.hops[hop]
        assert found is not None
        return found


class Claimed(NamedTuple):
    """A claim was granted. Any other answer is the reason for refusing it."""

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
    store = store._replace(recorded=(*store.recorded, hop), wait=None, passed=False)
    return applied(store, hop, hops.queue(digest="", line=LINE, now=NOW, pace=PACE))


def forgotten(store: Store, rules: Rules, *, owed: bool) -> Store:
    """Return the store without records. `owed` says whether a message can bring the workflow back."""
    empty = started(rules)._replace(hops=(None,) * rules.hops, due=frozenset(), recorded=())
    return empty._replace(workflow="unknown" if owed else "gone", losses=store.losses + 1)


def adopted(store: Store, hop: int, *, begun: int = 0) -> Store:
    """ADOPT: the record of a workflow that is known only from the message of this hop."""
    store = store._replace(recorded=(hop,))
    after_loss = hops.EPOCH + store.losses * FENCES * timedelta(milliseconds=1)
    return applied(store, hop, hops.adopt(digest="", begun=begun, line=LINE, now=after_loss, pace=PACE))


def claimed(
    store: Store, rules: Rules, hop: int, owner: int, *, max_attempts: int | None = None
) -> tuple[Store, Claimed | str]:
    """CLAIM, for the delivery that the owner has in hand."""
    if store.hops[hop] is None:
        return store, UNKNOWN
    record = store.record(hop)
    holder = owner_of(record)
    lease = LEASES[store.leases[holder]] if holder is not None else None
    change = hops.claim(
        record, owner=str(owner), token=IN_HAND, digest=None,
        max_attempts=rules.max_attempts if max_attempts is None else max_attempts,
        lease=lease, held=False, now=NOW, pace=PACE,
    )  # fmt: skip
    if isinstance(change, str):
        return store, change
    return applied(store, hop, change), Claimed(change.hop.fence, change.hop.attempt, change.hop.exhausted)


def renewed(store: Store, hop: int, owner: int, fence: int) -> Store | Literal["unknown"] | None:
    """RENEW, by an owner that runs this hop; None if it may no longer write for it."""
    if store.hops[hop] is None:
        return "unknown"
    change = hops.renew(store.record(hop), owner=str(owner), fence=fence, now=NOW, pace=PACE)
    if change == "lost":
        return None
    if change != "kept":
        return applied(store, hop, change)
    if not store.owned[owner] or store.leases[owner] == "holds":
        return store
    return store._replace(leases=put(store.leases, owner, "holds"))


def released(store: Store, hop: int, owner: int, fence: int) -> Store:
    """RELEASE, of a hop that the store knows."""
    change = hops.release(store.record(hop), owner=str(owner), fence=fence, now=NOW)
    return applied(store, hop, change) if change else store


def completed(store: Store, rules: Rules, hop: int, owner: int, fence: int) -> tuple[Store, bool]:
    """COMPLETE, of a hop that the store knows, and whether it is recorded, now or before."""
    followed = hop < rules.hops - 1
    change = hops.close(store.record(hop), "done", owner=str(owner), fence=fence, now=NOW, followed=followed)
    if isinstance(change, bool):
        return store, change
    store = applied(store, hop, change)._replace(completed=(*store.completed, hop))
    return recorded(store, hop + 1) if followed and rules.atomic else store, True


def closed(store: Store, hop: int, owner: int, fence: int, state: ClosedState) -> tuple[Store, bool]:
    """RETRY_AT (`waiting`), PARK (`parked`) and FAIL (`failed`) in the same way."""
    change = hops.close(store.record(hop), state, owner=str(owner), fence=fence, now=NOW)
    return (store, change) if isinstance(change, bool) else (applied(store, hop, change), True)


def cancelled(store: Store) -> Store:
    """CANCEL, of a workflow that has not ended."""
    return applied(store, store.current, hops.cancel(store.record(store.current)))


def redriven(store: Store) -> Store:
    """REDRIVE, of a parked workflow."""
    return applied(store, store.current, hops.redrive(store.record(store.current), now=NOW))


def lapsed(store: Store, owner: int) -> tuple[Store, tuple[int, ...]]:
    """SWEEP: queue the hops of an owner that is dead or whose lease is over, and return those that are sent again."""
    running = tuple(hop for hop in store.owned[owner] if store.record(hop).state == "running")
    for hop in store.owned[owner]:
        store = _taken(store, hop, owner)  # a record that is not running is reported as corrupt
    for hop in running:
        store = applied(store, hop, hops.lapse(store.record(hop), "lease_over", line=LINE, now=NOW, pace=PACE))
    return store, running


def swept(store: Store, hop: int) -> Store:
    """SWEEP: queue a hop whose wait is over, or note that an overdue one is sent again."""
    change = hops.sweep(store.record(hop), empty=True, line=LINE, now=NOW, pace=PACE)
    assert change is not None
    assert change.resent
    return applied(store, hop, change)


def asked(store: Store, rules: Rules, hop: int, owner: int, fence: int) -> Store | None:
    """WAIT; None if the owner may no longer write for the hop."""
    record = store.record(hop)
    if not hops.is_of(record, owner=str(owner), fence=fence) or not hops.is_open(record):
        return None
    if store.wait is not None and rules.same:
        return store
    token = f"{store.wait.token}+" if store.wait is not None else "t"
    return store._replace(wait=Asked(token))


def suspended(store: Store, hop: int, owner: int, fence: int) -> tuple[Store, Literal["overtaken", "sleeps", "sent"]]:
    """SUSPEND, at the wait of the hop."""
    wait = store.wait
    over = wait is None or waits.is_over(wait.wait, now=store.now)
    change = hops.suspend(
        store.record(hop), owner=str(owner), fence=fence, over=over, until=UNTIL, wake_at=None, line=LINE, now=NOW,
        pace=PACE,
    )  # fmt: skip
    if change is False:
        return store, "overtaken"
    if isinstance(change, Change):
        store = applied(store, hop, change)
    record = store.record(hop)
    goes_on = record.state == "queued" and record.fence == fence and not record.slept
    return store, "sent" if goes_on else "sleeps"


def resolved(store: Store, hop: int, call: str, *, late: bool) -> tuple[Store, Answered, bool]:
    """RESOLVE, and whether its caller must send the hop. `late` says whether the deadline has passed."""
    assert store.wait is not None
    ended = late or store.record(hop).state in ("done", "failed", "cancelled")
    wait, outcome = waits.answer(store.wait.wait, {WHOLE: call}, by="", call=call, now=store.now, ended=ended)
    was_open, store = store.wait.state == "open", store._replace(wait=Asked.of(wait))
    if not was_open or wait.state == "open":
        return store, outcome, False
    store, is_sent = woken(store, hop)
    return store, outcome, is_sent


def timed_out(store: Store, hop: int) -> tuple[Store, bool]:
    """TIME_OUT, by a run or by a sweep, and whether the hop was queued by it."""
    assert store.wait is not None
    before = store.wait.wait
    wait = waits.time_out(before, now=store.now)
    return (store, False) if wait is before else woken(store._replace(wait=Asked.of(wait)), hop)


def woken(store: Store, hop: int) -> tuple[Store, bool]:
    """Queue a suspended hop, and say whether it was one."""
    change = hops.wake(store.record(hop), line=LINE, now=NOW, pace=PACE)
    return (store, False) if change is None else (applied(store, hop, change), True)


def put(values: tuple[T, ...], place: int, value: Any) -> tuple[T, ...]:
    """Return the tuple with another value at one place."""
    return (*values[:place], value, *values[place + 1 :])


def owner_of(record: Hop) -> int | None:
    """Return the owner that a record names."""
    return OWNER_NAMED[record.owner]


@cache
def with_owner(record: Hop, owner: int | None) -> Hop:
    """Return the record with another owner."""
    return replace(record, owner=str(owner) if owner is not None else None)


@cache
def with_suspender(record: Hop, owner: int | None) -> Hop:
    """Return the record as if another owner had suspended it, or none that may ask again."""
    if record.suspended_by is None:
        return record
    if owner is None:
        return replace(record, suspended_by=None, slept=False)
    return replace(record, suspended_by=(str(owner), record.suspended_by[1]))


@cache
def without_token(record: Hop) -> Hop:
    """Return the record as if its owner had another delivery in hand, or none."""
    return replace(record, token=None)


def applied(store: Store, hop: int, change: Change) -> Store:
    """Record what becomes of a hop, and list it where it is now."""
    if change.leaves is not None:
        store = _taken(store, hop, int(change.leaves))
    due, parked, owned, leases = store.due - {hop}, store.parked - {hop}, store.owned, store.leases
    asleep = store.asleep - {hop}
    match change.listing:
        case Due():
            due |= {hop}
        case Parked():
            parked |= {hop}
        case Asleep():
            asleep |= {hop}
        case Owned(owner=name):
            owner = int(name)
            owned, leases = put(owned, owner, owned[owner] | {hop}), put(leases, owner, "holds")
    hops_ = put(store.hops, hop, _without_counts(change.hop))
    return store._replace(
        workflow=change.workflow, hops=hops_, due=due, parked=parked, asleep=asleep, owned=owned, leases=leases
    )


@cache
def _without_counts(record: Hop) -> Hop:
    """Return the record without what decides nothing here: the numbers of its messages, except for a hop that waits
    for the next sweep."""
    return replace(record, waits=0, sent=0 if record.state == "queued" and goes_first(record) else 1)


def _taken(store: Store, hop: int, owner: int) -> Store:
    left = store.owned[owner] - {hop}
    leases = store.leases if left else put(store.leases, owner, "none")
    return store._replace(owned=put(store.owned, owner, left), leases=leases)
