"""The seam to a store: what it is told and what it answers. Times are those of the store, in UTC."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeAlias

from paigeant_celery.core.budget import Usage
from paigeant_celery.core.conversations import ConversationKey
from paigeant_celery.core.flow import Failure, WorkflowState
from paigeant_celery.core.waits import Wait
from paigeant_celery.store.branch_port import BranchStore
from paigeant_celery.store.edit_port import Edit, EditAnswer, EditStore
from paigeant_celery.store.endpoint import Endpoint
from paigeant_celery.store.query_port import QueryStore
from paigeant_celery.store.records import Closed, Closing, HopRecord, NewWorkflow, Said, Started, WorkflowOrigin
from paigeant_celery.store.wait_port import AskedWait, NewWait, Resolution, Standing, Suspended, WaitStore

__all__ = [
    "AskedWait",
    "NOTHING_BEFORE",
    "BoundBroker",
    "BranchStore",
    "Claim",
    "ClaimAnswer",
    "Claimed",
    "Closed",
    "Closing",
    "Completion",
    "ConversationKeeper",
    "DeadLetter",
    "Dropped",
    "EarlierClaims",
    "Edit",
    "EditAnswer",
    "EditStore",
    "EventStore",
    "Heard",
    "HopRecord",
    "HopStore",
    "JournalStore",
    "LetterStore",
    "NewWait",
    "NewWorkflow",
    "OpenHops",
    "QueryStore",
    "WorkflowOrigin",
    "RenewAnswer",
    "Resolution",
    "Said",
    "Standing",
    "Store",
    "StoreServer",
    "Started",
    "StoredEvent",
    "Suspended",
    "Sweep",
    "Totals",
    "WaitStore",
    "WorkflowRecord",
]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A request to run a hop. `token` names this delivery; the same token gets the same answer again.

    `digest` is that of the envelope as it arrived; None skips the comparison (for one that cannot be run). `step` is
    the id of the step, for the event; empty if it is not known. `timeout` is how long it may take, in seconds.
    `conversation` is the one that the step continues: the first claim notes how long its history is. `wanted` are names
    of blobs of the workflow that the answer shall bring, so that they need no round trip of their own. `used` is what
    the steps before this one used, if the workflow has limits: where nothing is counted yet, counting begins with it.
    `trace` names the span of this attempt, for the links of later ones: without spaces, and empty if there is none.
    `activity` is that of the step, for the list of workflows and the times of its hops.
    """

    hop_id: str
    owner: str
    token: str
    max_attempts: int
    digest: str | None
    step: str = ""
    timeout: float = 0.0
    conversation: ConversationKey | None = None
    wanted: Sequence[str] = ()
    used: Usage | None = None
    trace: str = ""
    activity: str = ""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a workflow with limits has used by now, with its calls that are recorded in hops that go on.

    `counted` is how much of it is that of the calls of the hop that asks, which a replay counts again.
    """

    used: Usage
    counted: Usage

    @property
    def elsewhere(self) -> Usage:
        """What was used outside the hop that asks, and by what it did before its journal was discarded."""
        return self.used.less(self.counted)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """How much of a conversation there was at the first claim of a hop: pieces of text, and bytes.

    `log` tells this history from one that began later under the same id; it is empty if there was none.
    """

    pieces: int = 0
    size: int = 0
    log: str = ""


@dataclass(frozen=True, kw_only=True)
class EarlierClaims:
    """What is known of the earlier claims of a hop; nothing at its first one.

    `claimed_at` is when the last of them was made, and `taken_over` says that its owner was lost: its lease ended, or
    its process is gone. `traces` name the spans of the latest earlier attempts, oldest first.
    """

    claimed_at: datetime | None = None
    taken_over: bool = False
    traces: tuple[str, ...] = ()


NOTHING_BEFORE = EarlierClaims()


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """The hop belongs to the owner until its lease expires.

    `exhausted`: it was begun `max_attempts` times before and may only be closed. `created_at` is when its workflow was
    recorded, or None if that says nothing about its sender's clock. `heard` is None if the step has no conversation.
    `brought` are the wanted blobs that are there, by their names. `waits` are those of the hop, with what was answered.
    `totals` are None if the workflow has no limits. `before` is about the claims before this one.
    """

    fence: int
    attempt: int
    now: datetime
    exhausted: bool = False
    created_at: datetime | None = None
    heard: Heard | None = None
    brought: Mapping[str, str] = field(default_factory=dict, repr=False)
    waits: tuple[Wait, ...] = ()
    totals: Totals | None = None
    before: EarlierClaims = NOTHING_BEFORE


DropReason: TypeAlias = Literal[
    "finished",
    "running",
    "held",
    "waiting",
    "suspended",
    "parked",
    "cancelled",
    "unknown",
    "altered",
    "superseded",
]


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """The hop must not run here.

    It has finished, another owner runs it, it waits for its retry or for a person, its workflow was cancelled, the
    store does not know it, or the envelope differs from the recorded one.
    """

    reason: DropReason


ClaimAnswer: TypeAlias = Claimed | Dropped


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What COMPLETE records: the state of the workflow, the next hop or the final envelope, and large outputs.

    `step` is the id of the step that ended, for the event. `blobs` maps names to text that does not travel: step
    ids to their outputs, `executed:` and `at:` to the records of earlier steps, `steps:` to pages of those to come.
    `notes` are events to record with it, and `said` is appended to a conversation. `records` are added to the journal,
    which is kept until the workflow expires, but in a branch only until now.
    `used` is what the step used, if the workflow has limits: it takes the place of what was counted for its calls.
    `end` is how a branch ended, if the hop was its last.
    """

    closing: Closing
    envelope: str = field(repr=False)
    next_hop: HopRecord | None
    step: str = ""
    blobs: Mapping[str, str] = field(default_factory=dict, repr=False)
    notes: Sequence[Mapping[str, str]] = ()
    said: Said | None = None
    records: Mapping[str, str] = field(default_factory=dict, repr=False)
    used: Usage | None = None
    end: str = ""


@dataclass(frozen=True, kw_only=True)
class RenewAnswer:
    """How the store's list of the owner's hops differs from the owner's own list.

    `lost` are hops that it may no longer write for; their runs must be cancelled. `cancelled` are the lost hops whose
    workflow was cancelled, and that nobody took over. `unknown` are hops of which the store has no record, because it
    has lost its data. `stray` gives the fences of hops that the store lists but the owner did not name: the reply to
    their claim was lost or is on its way. `settled` says of each hop that is not lost, and has settled waits, how many.
    """

    lost: frozenset[str]
    unknown: frozenset[str] = frozenset()
    stray: Mapping[str, int] = field(default_factory=dict)
    cancelled: frozenset[str] = frozenset()
    settled: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What SWEEP found: hops whose message must be sent again, and what it must be told before it can go on.

    `owners` are the owners on the asking host that run hops; `queues` are those whose overdue hops are sent again only
    if they are empty. `late` are queued hops whose workflow has passed its deadline: whoever asked must claim and close
    them, or they are returned again. `corrupted` are keys that do not hold a record. `full` says that there is more
    than one pass takes, so that another one should follow. `woken` are the ids of those to send because a time is over.
    `made_pass` says that this call looked at all that is due, so that the asker calls `look_over` when all is sent.
    """

    overdue: tuple[HopRecord, ...] = ()
    late: tuple[HopRecord, ...] = ()
    owners: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    corrupted: tuple[str, ...] = ()
    full: bool = False
    woken: frozenset[str] = frozenset()
    made_pass: bool = field(default=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class WorkflowRecord:
    """What the store knows about a workflow. `envelope` is that of the current hop, or the last one at the end.

    `running` says whether the current hop is claimed; `queue` is where it was sent. `retry_at` is when it is sent
    again after a failed attempt; `failure` is then the error of that attempt. `suspended` says whether it waits for
    nothing but its `waits` (all that the hop has ever had), or for the time `wake_at`. A cancelled one that slept until
    then still has that time. `origin` is what it is a fork of, if it is one.
    """

    correlation_id: str
    state: WorkflowState
    content: str
    envelope: str = field(repr=False)
    hop_id: str
    queue: str
    running: bool
    attempt: int
    failure: Failure | None
    created_at: datetime
    updated_at: datetime
    retry_at: datetime | None = None
    suspended: bool = False
    wake_at: datetime | None = None
    waits: tuple[Wait, ...] = ()
    origin: WorkflowOrigin | None = None

    @property
    def awaits_message(self) -> bool:
        """Whether only the message of the current hop is missing for it to be claimed.

        It is not while a retry or an answer is ahead.
        """
        return self.state == "running" and not (self.running or self.suspended) and self.retry_at is None


@dataclass(frozen=True, kw_only=True)
class StoredEvent:
    """Something that happened to a workflow; `cursor` orders events and resumes reading."""

    cursor: str
    at: datetime
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A message that was refused, without its content.

    `text` names the field and the remedy, `sample` shows the beginning with all values replaced; `size` and
    `sha256` are those of the whole. The ids are None if they cannot be read. `trace` has the classes and frames of the
    error that parked a hop. The store sets `at` and `cursor`, which orders letters.
    """

    letter_id: str
    reason: str
    text: str
    hop_id: str | None
    correlation_id: str | None
    activity: str | None
    queue: str | None
    size: int
    sha256: str
    sample: str
    worker: str
    trace: str = ""
    at: datetime | None = None
    cursor: str = ""


@dataclass(frozen=True, kw_only=True)
class BoundBroker:
    """The broker that a prefix of the store belongs to: where it was last reached, and what it is known by.

    `id` is None if the broker can keep none, or was remembered by a version that knew addresses alone.
    """

    address: str
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class OpenHops:
    """How many hops wait for a worker, run, need a person, and are suspended. A workflow that goes on has one."""

    due: int
    running: int
    parked: int
    asleep: int = 0


class HopStore(Protocol):
    """The durable record of workflows and hops: who may run which, and what came of it.

    Each non-terminal hop is in exactly one place: due (queued, waiting), an owner's (running), parked, or asleep
    (suspended); one that is held is listed by its block. Closing operations return False or None, and change nothing,
    if another owner has overtaken this one. They raise `HopUnknown` if the store has no record of the hop: it has lost
    its data, and the hop's message must bring the hop back.
    """

    def start(self, new: NewWorkflow) -> Started:
        """Record a workflow and its first hop; `conflict` if the id has other content.

        `gone` if it is a fork, and there is no such workflow any more.
        """
        ...

    def adopt(
        self, new: NewWorkflow, *, sent_at: datetime, max_age: timedelta, begun: int = 0
    ) -> Literal["adopted", "known", "expired"]:
        """Record an unknown workflow from the message of its current hop, of which `begun` attempts were begun.

        `expired` if that message was sent longer ago than `max_age`.
        """
        ...

    def claim(self, claim: Claim) -> ClaimAnswer:
        """Give a queued hop, or one whose owner's lease has expired, to an owner."""
        ...

    def renew(self, owner: str, hops: Mapping[str, int], *, touchable: float | None = 0.0) -> RenewAnswer:
        """Extend the owner's lease; `hops` maps the hop ids that it runs to their fences.

        For `touchable` seconds from now, `touch` may extend it further; None leaves that as it is.
        """
        ...

    def touch(self, *, host: str, owners: Collection[str]) -> Sequence[str]:
        """Extend the leases of owners that live but may not be able to renew, and return all owners on a host.

        Nothing changes for an owner whose lease is over, or whose steps have taken as long as they may: since `claim`,
        the timeout of the step, and since `renew`, what that said.
        """
        ...

    def release(self, closing: Closing) -> bool:
        """Requeue a hop that its owner does not run; the attempt does not count, and the next sweep sends it."""
        ...

    def complete(self, completion: Completion) -> Closed | None:
        """Record a hop's completion and the next hop, or the end of the workflow or of its branch."""
        ...

    def fail(self, closing: Closing, failure: Failure, *, end: str = "") -> Closed | None:
        """Record that the hop failed and, with it, the workflow, or its branch: `end` is how that ended."""
        ...

    def retry_at(self, closing: Closing, failure: Failure, *, delay: float) -> bool:
        """Record that an attempt failed; the hop waits for `delay` seconds and is then sent again by a sweep."""
        ...

    def give_back(self, closing: Closing, failure: Failure) -> bool:
        """Leave a hop that the owner cannot read to newer workers; the attempt does not count.

        A sweep sends it after 5 s, and each time that this happens after twice as long, up to 80 s. `failure` says what
        the owner cannot read.
        """
        ...

    def park(self, closing: Closing, failure: Failure, letter: DeadLetter | None = None) -> Closed | None:
        """Set the hop aside until a person redrives it or cancels its workflow; keep its dead letter too.

        The workflow is parked with it, unless other branches go on.
        """
        ...

    def cancel(self, correlation_id: str) -> Literal["cancelled", "ended", "unknown"]:
        """End a workflow wherever it stands; its run can write nothing more, and `renew` reports it."""
        ...

    def redrive(
        self, correlation_id: str, *, place: str | None = None, discard_journal: bool = False
    ) -> Literal["redriven", "not_parked", "unknown"]:
        """Queue a parked hop again, with all its attempts; the next sweep sends it.

        It is the current one of the workflow's own slip, or the one at a `place`. Its journal stays unless
        `discard_journal` is true; the branches of a block stay in any case.
        """
        ...

    def sweep(
        self,
        *,
        host: str,
        dead: Collection[str] = (),
        queues: Mapping[str, bool] | None = None,
        served: Collection[str] = (),
    ) -> Sweep:
        """Return hops whose message must be sent again: their owner is dead or its lease expired, or they are overdue.

        Also return queued hops whose workflow has passed its deadline, for the caller to close.

        They are then queued, and become overdue again later. `dead` are owners whose processes are gone; `queues` says
        whether each queue is empty. Without either there is one pass per second, whoever asks, unless the last one was
        full. `served` are queues that the caller serves, which is noted with the time.
        """
        ...

    def look_over(self) -> None:
        """Put some of the list of workflows right, and forget what is old. No hop waits for it.

        Whoever made a pass calls it when all that the pass returned is sent.
        """
        ...

    def workflow(self, correlation_id: str) -> WorkflowRecord | None:
        """Return what is known about a workflow, or None."""
        ...

    def blob(self, correlation_id: str, name: str) -> str | None:
        """Return the JSON text of a large output, or a file of a prompt by its name; or None."""
        ...

    def blobs(self, correlation_id: str, names: Sequence[str]) -> Mapping[str, str]:
        """Return those of the named blobs that are there, as `blob` does for each."""
        ...


class JournalStore(Protocol):
    """What was answered inside a hop, for its next attempt."""

    def record(
        self, closing: Closing, records: Mapping[str, str], *, spent: Mapping[str, Usage] | None = None
    ) -> Totals | bool:
        """Add records to the journal of a hop that the owner runs.

        False if another owner has overtaken it, or the hop is closed. Raises `HopUnknown`. With `spent`, which says
        what the calls of some of the records used, the answer has the totals of a workflow with limits. A call counts
        once, when its record is new.
        """
        ...

    def journal(self, hop_id: str) -> Mapping[str, str]:
        """Return the records of a hop's journal by their keys; empty if there is none."""
        ...


class ConversationKeeper(Protocol):
    """The histories of conversations: text to which only COMPLETE appends.

    One of a workflow is kept as long as that workflow. Any other is kept as long as an ended workflow after the last
    claim or completion of a step in it.
    """

    def conversation(self, key: ConversationKey, heard: Heard | None = None) -> str | None:
        """Return the history of a conversation as it was when a hop `heard` it, by default all of it.

        None if there is none, or no more, or another one that began later.
        """
        ...


class EventStore(Protocol):
    """What happened to a workflow, for those who watch it."""

    def publish(self, closing: Closing, events: Sequence[Mapping[str, str]]) -> bool:
        """Let those who read the workflow's events see what an agent does.

        False if another owner has overtaken this one, or the hop is closed. Raises `HopUnknown`. The store adds `type`,
        which is `agent`, and `hop`. A workflow keeps about the last 10 000. After `Unreachable`, some may have been
        kept; publishing them again would keep them twice.
        """
        ...

    def events(self, correlation_id: str, *, after: str | None, limit: int) -> Sequence[StoredEvent]:
        """Return the events after the cursor `after`, oldest first; raises `InvalidInput` if it is not a cursor.

        Events that agents published stand among the workflow's own in the order in which they came. If some were
        dropped before they were read, one of type `events_dropped` says how many. Reading on from any cursor gives
        exactly what follows it.
        """
        ...


class LetterStore(Protocol):
    """What is kept about refused messages and parked hops."""

    def bury(self, letter: DeadLetter) -> bool:
        """Keep a dead letter for as long as an ended workflow; False if one with its id is already kept."""
        ...

    def dead_letters(self, *, after: str | None, limit: int) -> Sequence[DeadLetter]:
        """Return dead letters, newest first, after the cursor `after`; raises `InvalidInput` if it is not a cursor."""
        ...

    def dead_letter(self, letter_id: str) -> DeadLetter | None:
        """Return a dead letter, or None."""
        ...

    def forget_letter(self, letter_id: str) -> bool:
        """Delete a dead letter; False if there is none."""
        ...

    def letters_dropped(self) -> int:
        """Return how many dead letters were dropped in favour of newer ones because there were too many."""
        ...


class StoreServer(Protocol):
    """The server that holds the records."""

    @property
    def address(self) -> str:
        """The address of the records, without the password."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes see the same records."""
        ...

    @property
    def endpoint(self) -> Endpoint | None:
        """How another process reaches the same records; None if none can."""
        ...

    def check(self, *, allow_eviction: bool) -> Sequence[str]:
        """Return warnings about the server; raise `Unreachable` or `ConfigurationError`."""
        ...

    def bound_broker(self) -> BoundBroker | None:
        """Return the broker that this prefix belongs to, or None."""
        ...

    def bind_broker(self, broker: BoundBroker, *, instead_of: BoundBroker | None) -> bool:
        """Remember a broker; False, and nothing changes, if `instead_of` is not the one that is remembered."""
        ...

    def send_all_again(self) -> None:
        """Have the next sweeps send all queued hops again, because the broker that has their messages is given up."""
        ...

    def open_hops(self) -> OpenHops:
        """Count the hops that are not closed."""
        ...

    def raise_format(self) -> None:
        """Note that a worker of this version begins; raises `OutdatedVersion` if a newer one has begun.

        Older workers then begin nothing more: their claims and sweeps, and the redrives of their programs, raise that.
        What they claimed before, they may close.
        """
        ...

    def unswept(self) -> float | None:
        """Return for how many seconds no worker has swept, which each that serves steps does; None if none ever has."""
        ...

    def unfinished(self) -> Sequence[str]:
        """Return the workflows that go on but end with this process; none if other processes see the records."""
        ...

    def close(self) -> None:
        """Release the connections."""
        ...


class Store(
    HopStore,
    EditStore,
    WaitStore,
    BranchStore,
    JournalStore,
    ConversationKeeper,
    EventStore,
    LetterStore,
    QueryStore,
    StoreServer,
    Protocol,
):
    """A whole store. Every operation is atomic, idempotent and synchronous; callers ask for the parts they need."""
