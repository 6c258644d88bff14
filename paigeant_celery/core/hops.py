"""The protocol of hops: what becomes of a hop's record when it is claimed, closed, cancelled or swept.

Every store keeps these rules: the store in memory runs them, the scripts on Redis are compared with it, and an
exhaustive search looks for a way to lose a hop or to run it twice. Each function takes a record and returns what it
becomes. The store lists hops, counts messages and keeps leases; it applies the change in one transaction.

A hop without a record has no rule here. Whoever wants to write for one is told so (`HopUnknown`), and never that
somebody has overtaken it: the store has lost its data, and only the message can bring the hop back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias, assert_never

from paigeant_celery.core.flow import Failure, WorkflowState

__all__ = [
    "ENDED",
    "EPOCH",
    "Asleep",
    "Change",
    "ClosedState",
    "Due",
    "Held",
    "Hop",
    "HopState",
    "Line",
    "Owned",
    "Pace",
    "Parked",
    "Listing",
    "NotEdited",
    "NotGranted",
    "ResentReason",
    "Sweeping",
    "adopt",
    "cancel",
    "claim",
    "close",
    "count_attempt",
    "edit",
    "give_back",
    "goes_first",
    "hold",
    "is_cut_off",
    "is_held",
    "is_leased",
    "is_live",
    "is_of",
    "is_open",
    "is_overtaken",
    "is_repeated",
    "is_spent",
    "lapse",
    "may_be_ended",
    "may_pass",
    "move_on",
    "open_held",
    "open_pass",
    "queue",
    "redrive",
    "release",
    "renew",
    "send_again",
    "suspend",
    "sleep_on",
    "was_asleep",
    "sweep",
    "tells_failure",
    "wake",
]

HopState: TypeAlias = Literal[
    "held", "queued", "running", "waiting", "suspended", "parked", "done", "failed", "cancelled"
]
ClosedState: TypeAlias = Literal["done", "failed", "waiting", "parked"]
NotGranted: TypeAlias = Literal[
    "finished", "running", "held", "waiting", "suspended", "parked", "cancelled", "altered", "superseded"
]
NotEdited: TypeAlias = Literal["ended", "goes_on", "changed", "begun"]
ResentReason: TypeAlias = Literal["owner_gone", "lease_over", "retry", "overtaken", "queue_empty", "time_over"]

ENDED: tuple[HopState, ...] = ("done", "failed", "cancelled")
GOES_ON: tuple[WorkflowState, ...] = ("running", "parked")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOST_SUPERSEDED = 20  # digests of earlier envelopes that a hop keeps
MOST_DOUBLED = 30  # times; far beyond any longest wait, but no number overflows


# The records.


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long the protocol waits."""

    lease: timedelta  # of an owner, from each renewal
    due_after: timedelta  # from sending a hop's message until it is overdue; the wait doubles each time
    due_after_most: timedelta
    long_unswept: timedelta  # at least; after so long without a sweep no owner can have renewed its lease either
    pass_every: timedelta
    longest_sleep: timedelta = timedelta(days=1)  # until a suspended hop is looked at, whatever it waits for


@dataclass(frozen=True, kw_only=True)
class Hop:
    """The part of a hop's record that decides who may write for it.

    `token` names the delivery for which it was claimed, `fence` counts its claims, and `attempt` counts those that may
    run it. `sent` and `first` are the numbers of its latest and its first message among those of its queue, and `waits`
    says how often it was overdue. If `sent` is 0, the next sweep sends it. `given_back` counts the workers that could
    not read it, because a newer version wrote it. `suspended_by` is the owner and fence of the claim that suspended it
    last, and `slept` whether it had to wait then; `wake_at` is when it goes on without an answer. `on_branches` says
    whether it waited for nothing but its branches then. `superseded` are the digests that it had before it was edited.
    """

    digest: str = ""
    state: HopState = "queued"
    owner: str | None = None
    token: str | None = None
    fence: int = 0
    attempt: int = 0
    claimed_at: datetime | None = None
    exhausted: bool = False
    failure: Failure | None = None
    sent: int = 0
    first: int = 0
    waits: int = 0
    given_back: int = 0
    suspended_by: tuple[str, int] | None = None
    slept: bool = False
    wake_at: datetime | None = None
    on_branches: bool = False
    superseded: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Due:
    """Listed among the hops whose message should be claimed, or must be sent, by that time."""

    at: datetime


@dataclass(frozen=True, kw_only=True)
class Owned:
    """Listed among the hops of an owner whose lease ends at `until`."""

    owner: str
    until: datetime


@dataclass(frozen=True, kw_only=True)
class Parked:
    """Listed among the hops that need a person, since that time."""

    since: datetime


@dataclass(frozen=True, kw_only=True)
class Asleep:
    """Listed among the hops that wait for nothing but their waits, and are looked at by that time."""

    until: datetime


@dataclass(frozen=True, kw_only=True)
class Held:
    """Listed nowhere but by its block: the first hop of a branch that is not live yet."""


Listing: TypeAlias = Due | Owned | Parked | Asleep | Held


@dataclass(frozen=True, kw_only=True)
class Change:
    """What becomes of a hop: its record, and the one place where it is listed from now on, if any.

    The hop is removed from the lists of due, parked and sleeping hops, and from that of the owner in `leaves`. An owner
    that runs no other hop then has no lease. `workflow` is the state of its workflow, and `resent` says why its message
    must be sent again.
    """

    hop: Hop
    listing: Listing | None = None
    leaves: str | None = None
    workflow: WorkflowState = "running"
    resent: ResentReason | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """The messages of a queue: how many were sent to it, and the highest number known to be reached."""

    sent: int = 0
    reached: int = 0


@dataclass(frozen=True, kw_only=True)
class Sweeping:
    """When the last pass was made, and until when expired leases are left alone."""

    swept_at: datetime | None = None
    held_until: datetime | None = None
    cut: bool = False  # the last pass left something, and the next one may be made at once


# The rules that all operations share.


def is_of(hop: Hop, *, owner: str, fence: int) -> bool:
    """Say whether the owner may write for the hop: nobody has claimed it since."""
    return (hop.owner, hop.fence) == (owner, fence)


def is_open(hop: Hop) -> bool:
    """Say whether the hop can be closed. If it is queued and still its owner's, it lapsed and nobody has taken it."""
    return hop.state in ("queued", "running")


def is_live(hop: Hop) -> bool:
    """Say whether the hop goes on by itself. One that waits for its branches goes on only if one of those does."""
    return hop.state in ("queued", "running", "waiting") or (hop.state == "suspended" and not hop.on_branches)


def is_cut_off(above: Iterable[HopState], workflow: WorkflowState) -> bool:
    """Say whether a hop may write nothing any more, whatever its own record says.

    `above` are the states of the hops of all blocks that it is below, up to that of the workflow's own slip. Once one
    of them, or the workflow, has ended, whatever would change the hop's record is answered as if it were cancelled;
    only its cancelling is still recorded. So the end is one mark, and the hops below can be closed later.
    """
    return workflow not in GOES_ON or any(state in ENDED for state in above)


def is_repeated(hop: Hop, *, owner: str, token: str) -> bool:
    """Say whether the hop was claimed for this very delivery: the reply was lost, and the client asks again."""
    return (hop.owner, hop.token) == (owner, token)


def is_leased(hop: Hop, *, lease: datetime | None, held: bool, now: datetime) -> bool:
    """Say whether the hop's owner runs it or may come back. `lease` is when the owner's lease ends."""
    return hop.state == "running" and lease is not None and (lease > now or held)


def is_spent(hop: Hop, *, max_attempts: int) -> bool:
    """Say whether the hop was begun as often as is allowed."""
    return hop.attempt >= max_attempts


def count_attempt(hop: Hop, *, max_attempts: int) -> Hop:
    """Count the attempt that a claim begins; if the hop is spent, none begins, and the claim may only close it."""
    exhausted = is_spent(hop, max_attempts=max_attempts)
    return replace(hop, attempt=hop.attempt + (not exhausted), exhausted=exhausted)


def is_overtaken(hop: Hop, line: Line) -> bool:
    """Say whether the hop's message is lost because a later one of its queue was claimed, or was never sent."""
    return hop.sent == 0 or line.reached > hop.sent


def goes_first(hop: Hop) -> bool:
    """Say whether the hop is sent whatever waits on its queue, and therefore before all others that are due."""
    return hop.state == "waiting" or hop.sent == 0


def is_held(sweeping: Sweeping, *, now: datetime, pace: Pace) -> bool:
    """Say whether expired leases are left alone for now.

    If nobody swept for long, the store was away for everybody, or nobody was there to renew. The owners then get the
    time of one lease to come back; otherwise every run in progress would begin a second time.
    """
    return _is_long_unswept(sweeping, now, pace) or (sweeping.held_until is not None and now < sweeping.held_until)


# What a worker does with a hop.


def queue(*, digest: str, line: Line, now: datetime, pace: Pace) -> Change:
    """Record a hop whose first message is sent now."""
    sent = _sent(Hop(digest=digest), 0, line, now, pace)
    return replace(sent, hop=replace(sent.hop, first=sent.hop.sent))


def hold(*, digest: str) -> Change:
    """Record the first hop of a branch, which nobody may claim before its block makes it live."""
    return Change(hop=Hop(digest=digest, state="held"), listing=Held())


def open_held(hop: Hop, *, line: Line, now: datetime, pace: Pace) -> Change | None:
    """Make a held hop live; its first message is sent now. None if it is live, or was."""
    if hop.state != "held":
        return None
    sent = _sent(replace(hop, state="queued"), 0, line, now, pace)
    return replace(sent, hop=replace(sent.hop, first=sent.hop.sent))


def adopt(*, digest: str, begun: int, line: Line, now: datetime, pace: Pace) -> Change:
    """Record a hop that is known only from its message, which says how many attempts were begun.

    Its fence is above that of any record that was lost, so that nobody who claimed that one can write for this one.
    """
    change = queue(digest=digest, line=line, now=now, pace=pace)
    return replace(change, hop=replace(change.hop, attempt=begun, fence=(now - EPOCH) // timedelta(milliseconds=1)))


def claim(
    hop: Hop,
    *,
    owner: str,
    token: str,
    max_attempts: int,
    digest: str | None,
    lease: datetime | None,
    held: bool,
    now: datetime,
    pace: Pace,
) -> Change | NotGranted:
    """Give the hop to an owner, or say why not. Its fence grows unless this repeats an earlier claim.

    `lease` is when the lease of the hop's owner ends, and `held` says whether it is left alone for longer. If `digest`
    is None, nothing is compared.
    """
    # An altered message is recognised in every state of the hop.
    if digest is not None and digest != hop.digest:
        return "superseded" if digest in hop.superseded else "altered"
    if hop.state in ("done", "failed"):
        return "finished"
    if hop.state in ("held", "waiting", "suspended", "parked", "cancelled"):
        return hop.state
    if is_repeated(hop, owner=owner, token=token):
        return _revived(hop, owner, now, pace)
    if is_leased(hop, lease=lease, held=held, now=now):
        return "running"
    given = replace(
        count_attempt(hop, max_attempts=max_attempts),
        state="running",
        owner=owner,
        token=token,
        fence=hop.fence + 1,
        claimed_at=now,
    )
    leaves = hop.owner if hop.state == "running" else None
    return Change(hop=given, listing=Owned(owner=owner, until=now + pace.lease), leaves=leaves)


def renew(hop: Hop, *, owner: str, fence: int, now: datetime, pace: Pace) -> Change | Literal["kept", "lost"]:
    """Leave the hop to its owner, even if it lapsed; `lost` if the owner may no longer write for it.

    A hop that this very claim closed is not lost: its run is about to end.
    """
    if not is_of(hop, owner=owner, fence=fence):
        return "lost"
    return _revived(hop, owner, now, pace) if hop.state == "queued" else "kept"


def close(
    hop: Hop,
    state: ClosedState,
    *,
    owner: str,
    fence: int,
    now: datetime,
    followed: bool = False,
    failure: Failure | None = None,
    delay: timedelta = timedelta(0),
) -> Change | bool:
    """Close the hop, permanently or until a retry or a person has it sent again.

    A hop that is done ends its workflow unless another hop, recorded with this change, has `followed` it. A waiting hop
    waits for `delay` after `failure`, and a parked one keeps it. If nothing changes, the answer says whether this claim
    has already closed it in the same way.
    """
    if not is_of(hop, owner=owner, fence=fence):
        return False
    if not is_open(hop):
        return hop.state == state
    closed = _without_claim(replace(hop, state=state))
    match state:
        case "done":
            return Change(hop=closed, leaves=owner, workflow="running" if followed else "completed")
        case "failed":
            return Change(hop=closed, leaves=owner, workflow="failed")
        case "waiting":
            return Change(hop=replace(closed, failure=failure, given_back=0), listing=Due(at=now + delay), leaves=owner)
        case "parked":
            parked = replace(closed, failure=failure)
            return Change(hop=parked, listing=Parked(since=now), leaves=owner, workflow="parked")
    assert_never(state)


def release(hop: Hop, *, owner: str, fence: int, now: datetime) -> Change | Literal[False]:
    """Requeue a hop that its owner does not run, and give the attempt back. The next sweep sends it."""
    if not is_of(hop, owner=owner, fence=fence) or not is_open(hop):
        return False
    queued = replace(
        hop, state="queued", owner=None, attempt=hop.attempt - (not hop.exhausted), sent=0, waits=0, given_back=0
    )
    return Change(hop=_without_claim(queued), listing=Due(at=now), leaves=owner)


def suspend(
    hop: Hop,
    *,
    owner: str,
    fence: int,
    over: bool,
    until: datetime,
    wake_at: datetime | None,
    line: Line,
    now: datetime,
    pace: Pace,
    on_branches: bool = False,
) -> Change | bool:
    """Leave a hop that waits for nothing but its waits to nobody, and give the attempt back.

    If one of the waits is `over`, the hop is queued, and its message is sent now. Otherwise it is looked at `until`
    then. It has no owner from now on, so that whoever is late can write nothing. If nothing changes, the answer says
    whether this claim has suspended it before.
    """
    if hop.suspended_by == (owner, fence):
        return True
    if not is_of(hop, owner=owner, fence=fence) or not is_open(hop):
        return False
    left = replace(
        _without_claim(hop),
        owner=None,
        attempt=hop.attempt - (not hop.exhausted),
        given_back=0,
        suspended_by=(owner, fence),
        slept=not over,
        wake_at=wake_at,
        on_branches=on_branches,
    )
    if not over:
        return Change(hop=replace(left, state="suspended"), listing=Asleep(until=until), leaves=owner)
    return replace(_sent(replace(left, state="queued"), 0, line, now, pace), leaves=owner)


def give_back(
    hop: Hop, *, owner: str, fence: int, failure: Failure, now: datetime, pace: Pace, deadline: datetime | None = None
) -> Change | bool:
    """Leave a hop that its owner cannot read to others, and give the attempt back. A sweep sends it after a while.

    The wait doubles each time, and ends with the deadline of the workflow if that comes first. `failure` says what the
    owner cannot read. If nothing changes, the answer says whether this claim has already done so.
    """
    if not is_of(hop, owner=owner, fence=fence):
        return False
    if not is_open(hop):
        return hop.state == "waiting"
    left = replace(
        _without_claim(hop),
        state="waiting",
        failure=failure,
        attempt=hop.attempt - (not hop.exhausted),
        given_back=hop.given_back + 1,
    )
    due = now + _patience(hop.given_back, pace)
    if deadline is not None and now < deadline < due:
        due = deadline
    return Change(hop=left, listing=Due(at=due), leaves=owner)


# What people and the time do with it.


def wake(hop: Hop, *, line: Line, now: datetime, pace: Pace, resent: ResentReason | None = None) -> Change | None:
    """Queue a suspended hop, because one of its waits is over, and send its message now. None if it is not suspended.

    One that runs, or is queued or parked, learns of the answer by itself.
    """
    if hop.state != "suspended":
        return None
    return replace(_sent(replace(hop, state="queued", owner=None), 0, line, now, pace), resent=resent)


def sleep_on(hop: Hop, *, until: datetime) -> Change:
    """Look at a suspended hop again later: nothing of what it waits for has come."""
    return Change(hop=hop, listing=Asleep(until=until))


def cancel(hop: Hop) -> Change:
    """End the hop wherever it is. Its owner can write nothing more."""
    cancelled = _without_claim(replace(hop, state="cancelled", owner=None, failure=None))
    return Change(hop=cancelled, leaves=hop.owner, workflow="cancelled")


def was_asleep(hop: Hop) -> bool:
    """Say whether no run had the hop since it was suspended, and it was cancelled then."""
    return hop.state == "cancelled" and hop.suspended_by is not None and hop.suspended_by[1] == hop.fence


def redrive(hop: Hop, *, now: datetime) -> Change:
    """Queue a parked hop again, with all its attempts. The next sweep sends it."""
    queued = replace(hop, state="queued", owner=None, failure=None, attempt=0, sent=0, waits=0, given_back=0)
    return Change(hop=queued, listing=Due(at=now))


def edit(hop: Hop, *, digest: str, instead_of: str, restarts: bool, opened: bool) -> Hop | NotEdited:
    """Give the hop another envelope, known by its `digest`, while nobody runs it; or say why not.

    It stays where it is listed. Its digest must be `instead_of`: otherwise somebody else has edited it. If its step is
    another one, it `restarts`, which it cannot once it has `opened` branches or is suspended.
    """
    if hop.state in ENDED:
        return "ended"
    if hop.state not in ("parked", "suspended"):
        return "goes_on"
    if hop.digest != instead_of:
        return "changed"
    if restarts and (hop.state == "suspended" or opened):
        return "begun"
    earlier = (hop.digest, *(each for each in hop.superseded if each != digest))[:MOST_SUPERSEDED]
    edited = replace(hop, digest=digest, superseded=earlier)
    return replace(edited, sent=0, first=0) if restarts else edited


def send_again(hop: Hop, *, now: datetime) -> Change:
    """Have the next sweep send a queued hop, because the broker that has its message is given up."""
    return Change(hop=replace(hop, sent=0, waits=0), listing=Due(at=now))


def tells_failure(hop: Hop) -> bool:
    """Say whether the failure of the last attempt says what the hop waits for."""
    return hop.state == "waiting" or (hop.state == "queued" and hop.given_back > 0)


# What a sweep does with it.


def may_pass(sweeping: Sweeping, *, now: datetime, pace: Pace) -> bool:
    """Say whether it is time for a pass. There is one per second, whoever asks, unless the last one left something."""
    return sweeping.swept_at is None or sweeping.cut or now - sweeping.swept_at >= pace.pass_every


def open_pass(sweeping: Sweeping, *, now: datetime, pace: Pace) -> Sweeping:
    """Note that a pass is made. If it is the first one for a long time, hold leases."""
    held_until = now + pace.lease if _is_long_unswept(sweeping, now, pace) else sweeping.held_until
    return Sweeping(swept_at=now, held_until=held_until)


def lapse(hop: Hop, why: Literal["owner_gone", "lease_over"], *, line: Line, now: datetime, pace: Pace) -> Change:
    """Queue a hop whose owner is gone or has not renewed. It stays the owner's until somebody else claims it."""
    return replace(_sent(replace(hop, state="queued"), 0, line, now, pace), leaves=hop.owner, resent=why)


def sweep(hop: Hop, *, empty: bool | None, line: Line, now: datetime, pace: Pace) -> Change | None:
    """Look at a hop that is due. `empty` says whether its queue is empty; if it is None, somebody must look first.

    The answer is then None, unless the hop is sent whatever waits on its queue.
    """
    if hop.state == "waiting":
        queued = replace(hop, state="queued", owner=None)
        return replace(_sent(queued, 0, line, now, pace), resent="retry")
    waits = hop.waits + 1
    if is_overtaken(hop, line):
        return replace(_sent(hop, waits, line, now, pace), resent="overtaken")
    if empty:
        return replace(_sent(hop, waits, line, now, pace), resent="queue_empty")
    if empty is None:
        return None
    # Its message waits behind others: there is no reason to send it again.
    return Change(hop=replace(hop, waits=waits), listing=Due(at=now + _patience(waits, pace)))


def may_be_ended(hop: Hop) -> bool:
    """Say whether whoever sweeps may end a hop whose deadline has passed.

    One that runs is ended by its own timeout, and one that waits is queued by a sweep when the deadline passes, or
    before.
    """
    return hop.state == "queued"


# What follows for the messages of its queue.


def move_on(line: Line, hop: Hop) -> Line:
    """Count what was sent and what was reached, from a hop's new record.

    Nobody knows which of its messages arrived. If it was sent again, the broker may redeliver the first message while
    the last still waits in a long queue. If the last counted as reached, all messages ahead of it would seem lost. So a
    claim reaches only the first.
    """
    reached = hop.first if hop.state == "running" else 0
    return Line(sent=max(line.sent, hop.sent), reached=max(line.reached, reached))


def _sent(hop: Hop, waits: int, line: Line, now: datetime, pace: Pace) -> Change:
    """Note that a message of the hop is sent now, and when it will be overdue."""
    return Change(hop=replace(hop, sent=line.sent + 1, waits=waits), listing=Due(at=now + _patience(waits, pace)))


def _patience(waits: int, pace: Pace) -> timedelta:
    return min(pace.due_after * (1 << min(waits, MOST_DOUBLED)), pace.due_after_most)


def _revived(hop: Hop, owner: str, now: datetime, pace: Pace) -> Change:
    """Leave the hop to its owner, even if it lapsed."""
    return Change(hop=replace(hop, state="running"), listing=Owned(owner=owner, until=now + pace.lease))


def _without_claim(hop: Hop) -> Hop:
    return replace(hop, token=None, claimed_at=None, exhausted=False)


def _is_long_unswept(sweeping: Sweeping, now: datetime, pace: Pace) -> bool:
    longest = max(pace.lease / 2, pace.long_unswept)
    return sweeping.swept_at is not None and now - sweeping.swept_at > longest
