"""The records of the store in memory, where each hop is listed, and what applies a change to them."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal

from paigeant_celery.core import hops as protocol
from paigeant_celery.core.blocks import Block, BranchEnded
from paigeant_celery.core.conversations import ConversationKey
from paigeant_celery.core.flow import Failure, WorkflowState
from paigeant_celery.core.hops import Asleep, Change, Due, Held, Hop, Line, Owned, Pace, Parked
from paigeant_celery.core.names import block_of
from paigeant_celery.core.queries import bucket_of
from paigeant_celery.core.waits import Answer, Wait
from paigeant_celery.store.memory_conversations import Histories
from paigeant_celery.store.memory_events import Events
from paigeant_celery.store.port import (
    NOTHING_BEFORE,
    EarlierClaims,
    Heard,
    HopRecord,
    NewWorkflow,
    WorkflowOrigin,
    WorkflowRecord,
)
from paigeant_celery.store.totals import NOTHING, Sums

__all__ = ["Kept", "KeptBranch", "Records", "Workflow"]

ENDED = ("completed", "failed", "cancelled")


class Signals:
    """The signals of a workflow: those kept for waits to come, by name and in order, and the ids of the latest ones."""

    def __init__(self) -> None:
        self.count = 0
        self.calls: OrderedDict[str, None] = OrderedDict()
        self._kept: dict[str, deque[Answer]] = {}

    def keep(self, name: str, signal: Answer) -> None:
        """Keep a signal behind the others of its name."""
        self._kept.setdefault(name, deque()).append(signal)
        self.count += 1

    def put_back(self, name: str, signal: Answer) -> None:
        """Keep a signal that was taken before the others of its name."""
        self._kept.setdefault(name, deque()).appendleft(signal)
        self.count += 1

    def take(self, name: str) -> Answer | None:
        """Return the oldest signal of a name, and keep it no longer."""
        kept = self._kept.get(name)
        if not kept:
            return None
        self.count -= 1
        return kept.popleft()

    def remember(self, call: str, most: int) -> None:
        """Remember the id of a signal, and of at most so many."""
        self.calls[call] = None
        while len(self.calls) > most:
            self.calls.popitem(last=False)


@dataclass(kw_only=True)
class Workflow:
    """A workflow. Its envelope is that of its current hop until it ends."""

    correlation_id: str
    content: str
    hop_id: str
    created_at: datetime
    updated_at: datetime
    events: Events
    deadline: datetime | None = None
    state: WorkflowState = "running"
    envelope: str | None = None
    failure: Failure | None = None
    hop_ids: list[str] = field(default_factory=list)
    blobs: dict[str, str] = field(default_factory=dict)
    signals: Signals = field(default_factory=Signals)
    used: Sums | None = None  # None if it has no limits, or no hop of it was claimed yet
    origin: WorkflowOrigin | None = None
    live: int = 0  # hops that go on by themselves
    activity: str = ""  # that of the current step, or of the last one
    step_id: str = ""

    @property
    def goes_on(self) -> bool:
        """Whether it has not ended and does not wait for a person."""
        return self.state == "running"


@dataclass(kw_only=True)
class KeptBranch:
    """A branch of a block: the hop that it stands at, and how and as which one it ended."""

    hop_id: str
    how: BranchEnded | None = None
    order: int = 0
    end: str = ""


@dataclass(kw_only=True)
class Kept:
    """A hop with its envelope, until it is closed, and with everything else that belongs to it."""

    hop: Hop
    workflow: Workflow
    queue: str
    envelope: str | None
    letter: str | None = None
    heard: Heard | None = None
    heard_in: ConversationKey | None = None
    journal: dict[str, str] = field(default_factory=dict)
    last_claim: datetime | None = None
    before: EarlierClaims = NOTHING_BEFORE  # that
    traces: tuple[str, ...] = ()  # of its latest attempts
    counted: Sums = NOTHING  # what the recorded calls used, of a workflow with limits
    waits: dict[str, Wait] = field(default_factory=dict)
    block: Block | None = None  # what it has opened
    branches: dict[int, KeptBranch] = field(default_factory=dict)
    is_counted: bool = False  # among the live hops, if it is one
    queued_at: datetime | None = None  # since when it waits for a claim, or did
    activity: str = ""  # of its step, if that is known
    quiet: bool = False  # it was suspended for a moment, so that neither its waking nor its next claim is an event

    @property
    def settled_waits(self) -> int:
        """How many of its waits are settled."""
        return sum(wait.state == "settled" for wait in self.waits.values())


class Records:
    """Workflows and hops by their ids, and each open hop in one list. The store's lock protects them."""

    def __init__(self, *, ttl: timedelta, pace: Pace) -> None:
        self.workflows: dict[str, Workflow] = {}
        self.hops: dict[str, Kept] = {}
        self.histories = Histories(ttl=ttl)
        self.due: dict[str, datetime] = {}
        self.parked: dict[str, datetime] = {}
        self.asleep: dict[str, datetime] = {}
        self.deadlines: dict[str, datetime] = {}  # of workflows that go on: when they are looked at
        self.owned: dict[str, set[str]] = {}
        self.leases: dict[str, datetime] = {}
        self.touchable: dict[str, datetime] = {}  # until when TOUCH may extend the lease
        self.lines: dict[str, Line] = {}
        self.times: Counter[tuple[date, str, str, int]] = Counter()  # by day, activity, what, and bucket
        self.served: dict[str, datetime] = {}  # when a worker that serves a queue has swept last
        self.ended: deque[tuple[datetime, str]] = deque()  # when a workflow expires, and which
        self._changed: dict[str, Workflow] = {}  # those whose hops have changed in this transaction
        self._ttl, self._pace = ttl, pace

    def queue(self, workflow: Workflow, new: HopRecord, *, now: datetime, begun: int | None = None) -> None:
        """Record a workflow's next hop, whose message is sent now, or one that is known only from its message."""
        if block_of(new.hop_id) is None:
            workflow.activity, workflow.step_id = new.activity, new.step_id
        line = self.line_of(new.queue)
        if begun is None:
            change = protocol.queue(digest=new.digest, line=line, now=now, pace=self._pace)
        else:
            change = protocol.adopt(digest=new.digest, begun=begun, line=line, now=now, pace=self._pace)
        self.record(workflow, new, change, now=now)
        self.hops[new.hop_id].activity = new.activity

    def forget(self, *, times_before: date, served_before: datetime) -> None:
        """Forget times of earlier days, and queues that nobody has served for so long."""
        self.times = Counter({key: count for key, count in self.times.items() if key[0] >= times_before})
        self.served = {queue: at for queue, at in self.served.items() if at > served_before}

    def copied_size(self, new: NewWorkflow) -> int:
        """Return how many bytes a workflow would copy from the one that it is a fork of."""
        given = self.workflows[new.origin.workflow].blobs if new.origin is not None else {}
        return sum(len(given[name].encode()) for name in new.copied if name in given)

    def fork(self, workflow: Workflow, new: NewWorkflow, *, now: datetime) -> None:
        """Give a workflow what it has of the one that it is a fork of, if it is one."""
        if new.origin is None:
            return
        given = self.workflows[new.origin.workflow].blobs
        workflow.origin = new.origin
        workflow.blobs.update({name: given[name] for name in new.copied if name in given and name not in new.blobs})
        for said in new.said:
            self.histories.append(said, hop_id=new.hop.hop_id, now=now)
        about = {"step": new.origin.step, "from": new.origin.workflow}
        workflow.events.add_event("forked", new.hop.hop_id, now=now, **about)

    def record(self, workflow: Workflow, new: HopRecord, change: Change, *, now: datetime) -> None:
        """Record a new hop."""
        self.hops[new.hop_id] = Kept(hop=change.hop, workflow=workflow, queue=new.queue, envelope=new.envelope)
        workflow.hop_ids.append(new.hop_id)
        self.apply(new.hop_id, change, now=now)

    def apply(self, hop_id: str, change: Change, *, now: datetime) -> None:
        """Record what becomes of a hop, where it is listed, and what follows for its workflow and its queue."""
        kept = self.hops[hop_id]
        workflow = kept.workflow
        workflow.live += protocol.is_live(change.hop) - (protocol.is_live(kept.hop) and kept.is_counted)
        if change.hop.state == "queued" and (kept.hop.state != "queued" or not kept.is_counted):
            kept.queued_at = now
        kept.hop, kept.is_counted = change.hop, True
        if block_of(hop_id) is None and change.workflow in ENDED:
            workflow.state = change.workflow
        self._changed[workflow.correlation_id] = workflow
        self.lines[kept.queue] = protocol.move_on(self.line_of(kept.queue), change.hop)
        self.due.pop(hop_id, None)
        self.parked.pop(hop_id, None)
        self.asleep.pop(hop_id, None)
        if change.leaves is not None:
            self._take_from(change.leaves, hop_id)
        match change.listing:
            case Due(at=at):
                self.due[hop_id] = at
            case Owned(owner=owner, until=until):
                self.owned.setdefault(owner, set()).add(hop_id)
                self.leases[owner] = until
            case Parked(since=since):
                self.parked[hop_id] = since
            case Asleep(until=until):
                self.asleep[hop_id] = until
                if kept.heard_in is not None:  # it must not expire before the hop goes on
                    self.histories.keep(kept.heard_in, now=until)
            case Held():
                pass
            case None:
                self._end(kept, now, is_own=block_of(hop_id) is None)

    def note_time(self, activity: str, what: Literal["q", "r"], since: datetime | None, *, now: datetime) -> None:
        """Count how long a hop waited (`q`) or ran (`r`)."""
        if activity and since is not None:
            self.times[now.date(), activity, what, bucket_of((now - since).total_seconds())] += 1

    def settle(self) -> None:
        """Say at the end of a transaction where each workflow stands whose hops it has changed.

        One that has not ended goes on as long as any of its hops does.
        """
        for workflow in self._changed.values():
            if workflow.state not in ENDED:
                workflow.state = "running" if workflow.live else "parked"
            self._await_deadline(workflow)
        self._changed.clear()

    def to_send(self, hop_id: str) -> HopRecord:
        """Return a hop as it is sent."""
        kept = self.hops[hop_id]
        return HopRecord(hop_id=hop_id, queue=kept.queue, envelope=kept.envelope or "", digest=kept.hop.digest)

    def line_of(self, queue: str) -> Line:
        """Return what is known about the messages of a queue."""
        return self.lines.get(queue, Line())

    def read(self, correlation_id: str) -> WorkflowRecord | None:
        """Return what is known about a workflow, or None."""
        workflow = self.workflows.get(correlation_id)
        if workflow is None:
            return None
        kept = self.hops[workflow.hop_id]
        waits = kept.hop.state == "waiting"
        return WorkflowRecord(
            correlation_id=correlation_id,
            state=workflow.state,
            content=workflow.content,
            envelope=workflow.envelope if workflow.envelope is not None else kept.envelope or "",
            hop_id=workflow.hop_id,
            queue=kept.queue,
            running=kept.hop.state == "running",
            attempt=kept.hop.attempt,
            failure=_failure_of(kept),
            created_at=workflow.created_at,
            updated_at=workflow.updated_at,
            retry_at=self.due[workflow.hop_id] if waits else None,
            suspended=kept.hop.state == "suspended",
            wake_at=kept.hop.wake_at if kept.hop.state == "suspended" or protocol.was_asleep(kept.hop) else None,
            waits=tuple(sorted(kept.waits.values(), key=lambda wait: wait.since)),
            origin=workflow.origin,
        )

    def owners_on(self, host: str) -> tuple[str, ...]:
        """Return the owners on a host that run hops."""
        return tuple(sorted(owner for owner in self.owned if owner.partition(":")[0] == host))

    def let_touch(self, owner: str, *, until: datetime) -> None:
        """Let TOUCH extend the owner's lease until then, if not for longer already."""
        self.touchable[owner] = max(until, self.touchable.get(owner, until))

    def expire(self, *, now: datetime) -> None:
        """Delete the workflows that ended long enough ago, with their hops, and what else is kept for a time."""
        self.histories.expire(now=now)
        while self.ended and self.ended[0][0] <= now:
            workflow = self.workflows.pop(self.ended.popleft()[1])
            self.histories.forget(workflow.correlation_id)
            for hop_id in workflow.hop_ids:
                del self.hops[hop_id]

    def _await_deadline(self, workflow: Workflow) -> None:
        """Have the deadline of a workflow that goes on looked at when it passes, and of no other."""
        if not workflow.goes_on:
            self.deadlines.pop(workflow.correlation_id, None)
        elif workflow.deadline is not None:
            self.deadlines.setdefault(workflow.correlation_id, workflow.deadline)

    def _take_from(self, owner: str, hop_id: str) -> None:
        owned = self.owned.get(owner, set())
        owned.discard(hop_id)
        if not owned:
            self.owned.pop(owner, None)
            self.leases.pop(owner, None)
            self.touchable.pop(owner, None)

    def _end(self, kept: Kept, now: datetime, *, is_own: bool) -> None:
        """Drop the envelope of a closed hop. If the workflow ended with it, the workflow keeps it until it expires."""
        workflow = kept.workflow
        if is_own and workflow.state in ENDED:
            workflow.envelope = kept.envelope
            self.ended.append((now + self._ttl, workflow.correlation_id))
        kept.envelope = None


def _failure_of(kept: Kept) -> Failure | None:
    """Return why the workflow stands whose current hop this is.

    A branch that was set aside leaves its failure with the workflow. It says nothing once that goes on, or has
    completed; and if its block is set aside as well, the failure of that counts.
    """
    hop, workflow = kept.hop, kept.workflow
    if protocol.tells_failure(hop) or (hop.state == "parked" and kept.block is not None):
        return hop.failure
    return workflow.failure if workflow.state in ("parked", "failed") else None
