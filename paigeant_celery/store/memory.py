"""The store of one process: the same rules as on Redis, and nothing survives the process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from paigeant_celery.errors import InvalidInput
from paigeant_celery.flow import Failure, WorkflowState
from paigeant_celery.ports import (
    Claim,
    ClaimAnswer,
    Claimed,
    Closing,
    Completion,
    DeadLetter,
    Dropped,
    HopRecord,
    NewWorkflow,
    RenewAnswer,
    StoredEvent,
    Sweep,
    WorkflowRecord,
)
from paigeant_celery.store.reading import Entry, place_of, read_on

__all__ = ["MemoryStore"]

DUE_AFTER = timedelta(seconds=5)  # a queued hop's message is overdue then; each time again after twice as long
DUE_AFTER_MOST = timedelta(seconds=80)
LONG_UNSWEPT = timedelta(seconds=2.5)  # at least; a pass is made about every second
PASS_EVERY = timedelta(seconds=0.9)  # a second, less what clocks and timers differ
MOST_AT_ONCE = 100  # hops that one pass sends again
MAX_EVENTS = 1000  # of one workflow
MAX_STREAMED = 10_000  # of one workflow's agents
MAX_LETTERS = 10_000  # the oldest give way
FOR_EVER = datetime.max.replace(tzinfo=UTC)

ClosedState = Literal["done", "failed", "waiting", "parked"]


@dataclass(kw_only=True)
class _Hop:
    workflow: str
    queue: str
    digest: str
    envelope: str | None
    state: Literal["queued", "running", "waiting", "parked", "done", "failed", "cancelled"] = "queued"
    owner: str | None = None
    token: str | None = None
    fence: int = 0
    attempt: int = 0
    claim: Claimed | None = None
    sent: int = 0
    first: int = 0
    waits: int = 0
    failure: Failure | None = None
    letter: str | None = None
    journal: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Workflow:
    content: str
    hop_id: str
    created_at: datetime
    updated_at: datetime
    state: WorkflowState = "running"
    envelope: str | None = None
    failure: Failure | None = None
    hop_ids: list[str] = field(default_factory=list)
    blobs: dict[str, str] = field(default_factory=dict)
    events: deque[Entry] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    stream: deque[Entry] = field(default_factory=lambda: deque(maxlen=MAX_STREAMED))


class MemoryStore:
    """A store for tests and for workers in threads; every operation holds one lock."""

    def __init__(self, *, lease: float, ttl: float, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._lease, self._ttl, self._clock = timedelta(seconds=lease), timedelta(seconds=ttl), now
        self._lock = threading.Lock()
        self._workflows: dict[str, _Workflow] = {}
        self._hops: dict[str, _Hop] = {}
        self._due: dict[str, datetime] = {}
        self._parked: dict[str, datetime] = {}
        self._owned: dict[str, set[str]] = {}
        self._leases: dict[str, datetime] = {}
        self._ended: deque[tuple[datetime, str]] = deque()
        self._sent: dict[str, int] = {}
        self._reached: dict[str, int] = {}
        self._swept_at: datetime | None = None
        self._held_until: datetime | None = None
        self._letters: dict[str, tuple[datetime, DeadLetter]] = {}
        self._letters_dropped = 0
        self._cursor = 0
        self._broker: str | None = None

    def __repr__(self) -> str:
        return "MemoryStore()"

    @property
    def address(self) -> str:
        """Where the records are."""
        return "memory://"

    @property
    def shared(self) -> bool:
        """Whether other processes see the same records: they do not."""
        return False

    def start(self, new: NewWorkflow) -> Literal["started", "exists", "conflict"]:
        """Record a workflow and its first hop."""
        with self._transaction() as now:
            existing = self._workflows.get(new.correlation_id)
            if existing is not None:
                return "exists" if existing.content == new.content else "conflict"
            self._begin(new, "started", now)
            return "started"

    def adopt(
        self, new: NewWorkflow, *, sent_at: datetime, max_age: timedelta
    ) -> Literal["adopted", "known", "expired"]:
        """Record a workflow that only the message of its current hop knows."""
        with self._transaction() as now:
            if new.correlation_id in self._workflows:
                return "known"
            if now - sent_at > max_age:
                return "expired"
            self._begin(new, "adopted", now)
            return "adopted"

    def claim(self, claim: Claim) -> ClaimAnswer:
        """Give a queued hop, or one whose owner's lease has lapsed, to an owner."""
        with self._transaction() as now:
            hop = self._hops.get(claim.hop_id)
            if hop is None:
                return Dropped(reason="unknown")
            if claim.digest is not None and claim.digest != hop.digest:
                return Dropped(reason="altered")
            if hop.state in ("done", "failed"):
                return Dropped(reason="finished")
            if hop.state in ("waiting", "parked", "cancelled"):
                return Dropped(reason=hop.state)
            if hop.claim is not None and (hop.token, hop.owner) == (claim.token, claim.owner):
                self._revive(claim.hop_id, hop, now)
                return hop.claim
            if hop.state == "running" and (self._leases[str(hop.owner)] > now or self._held(now)):
                return Dropped(reason="running")
            return self._give(hop, claim, now)

    def renew(self, owner: str, hops: Mapping[str, int]) -> RenewAnswer:
        """Extend the owner's lease; hops that lapsed and were not taken are the owner's again."""
        with self._transaction() as now:
            lost = frozenset(hop_id for hop_id, fence in hops.items() if not self._is_of(hop_id, owner, fence))
            for hop_id in hops.keys() - lost:
                if self._hops[hop_id].state == "queued":
                    self._revive(hop_id, self._hops[hop_id], now)
            # An owner that names no hop keeps no lease alive, even where some are listed: nobody runs those.
            if hops and owner in self._owned:
                self._leases[owner] = now + self._lease
            stray = {hop_id: self._hops[hop_id].fence for hop_id in self._owned.get(owner, set()) - hops.keys()}
            cancelled = frozenset(hop_id for hop_id in lost if self._is_cancelled(hop_id))
            return RenewAnswer(lost=lost, stray=stray, cancelled=cancelled)

    def release(self, closing: Closing) -> bool:
        """Queue a hop again that its owner does not run."""
        with self._transaction() as now:
            hop = self._hops.get(closing.hop_id)
            if hop is None or not self._is_of(closing.hop_id, closing.owner, closing.fence):
                return False
            if hop.state not in ("queued", "running"):
                return False
            if hop.state == "running":
                self._take_from(closing.owner, closing.hop_id)
            if hop.claim is not None and not hop.claim.exhausted:
                hop.attempt -= 1
            hop.state, hop.owner, hop.token, hop.claim = "queued", None, None, None
            hop.sent, hop.waits = 0, 0
            self._due[closing.hop_id] = now
            _add_event(self._workflows[hop.workflow], self._next_cursor(), now, "released", closing.hop_id)
            return True

    def complete(self, completion: Completion) -> bool:
        """Record a hop's completion and the next hop, or the end of the workflow."""
        closing, next_hop = completion.closing, completion.next_hop
        with self._transaction() as now:
            hop = self._hops.get(closing.hop_id)
            if hop is None or not self._is_of(closing.hop_id, closing.owner, closing.fence):
                return False
            if hop.state not in ("queued", "running"):
                return hop.state == "done"
            workflow = self._close_hop(hop, closing, "done", now)
            workflow.blobs.update(completion.blobs)
            for note in completion.notes:
                _add_note(workflow, self._next_cursor(), now, closing.hop_id, note)
            if next_hop is not None:
                workflow.hop_id = next_hop.hop_id
                self._queue_hop(hop.workflow, next_hop, now)
                _add_event(workflow, self._next_cursor(), now, "completed", closing.hop_id, next_hop=next_hop.hop_id)
                return True
            _add_event(workflow, self._next_cursor(), now, "completed", closing.hop_id)
            _add_event(workflow, self._next_cursor(), now, "workflow_completed", closing.hop_id)
            workflow.envelope = completion.envelope
            self._end(hop.workflow, "completed", now)
            return True

    def fail(self, closing: Closing, failure: Failure) -> bool:
        """Record that the hop failed and with it the workflow."""
        with self._transaction() as now:
            hop = self._hops.get(closing.hop_id)
            if hop is None or not self._is_of(closing.hop_id, closing.owner, closing.fence):
                return False
            if hop.state not in ("queued", "running"):
                return hop.state == "failed"
            envelope = hop.envelope
            workflow = self._close_hop(hop, closing, "failed", now)
            workflow.envelope, workflow.failure = envelope, failure
            about = _about(failure)
            _add_event(workflow, self._next_cursor(), now, "failed", closing.hop_id, **about)
            _add_event(workflow, self._next_cursor(), now, "workflow_failed", closing.hop_id, **about)
            self._end(hop.workflow, "failed", now)
            return True

    def retry_at(self, closing: Closing, failure: Failure, *, delay: float) -> bool:
        """Record that an attempt failed; the hop waits for `delay` seconds."""
        with self._transaction() as now:
            hop = self._hops.get(closing.hop_id)
            if hop is None or not self._is_of(closing.hop_id, closing.owner, closing.fence):
                return False
            if hop.state not in ("queued", "running"):
                return hop.state == "waiting"
            workflow = self._close_hop(hop, closing, "waiting", now)
            hop.failure = failure
            self._due[closing.hop_id] = now + timedelta(seconds=delay)
            about = {**_about(failure), "delay_ms": str(round(delay * 1000))}
            _add_event(workflow, self._next_cursor(), now, "retrying", closing.hop_id, **about)
            return True

    def park(self, closing: Closing, failure: Failure, letter: DeadLetter | None = None) -> bool:
        """Set the hop and its workflow aside, and keep a dead letter of it."""
        with self._transaction() as now:
            hop = self._hops.get(closing.hop_id)
            if hop is None or not self._is_of(closing.hop_id, closing.owner, closing.fence):
                return False
            if hop.state not in ("queued", "running"):
                return hop.state == "parked"
            workflow = self._close_hop(hop, closing, "parked", now)
            workflow.state, workflow.failure = "parked", failure
            self._parked[closing.hop_id] = now
            if letter is not None:
                hop.letter = letter.letter_id
                _, known = self._letters.get(letter.letter_id, (now, None))
                kept = known or replace(letter, at=now, cursor=self._next_cursor())
                self._letters[letter.letter_id] = FOR_EVER, kept
            _add_event(workflow, self._next_cursor(), now, "parked", closing.hop_id, **_about(failure))
            return True

    def cancel(self, correlation_id: str) -> Literal["cancelled", "ended", "unknown"]:
        """End a workflow wherever it stands."""
        with self._transaction() as now:
            workflow = self._workflows.get(correlation_id)
            if workflow is None:
                return "unknown"
            if workflow.state not in ("running", "parked"):
                return "cancelled" if workflow.state == "cancelled" else "ended"
            hop = self._hops[workflow.hop_id]
            if hop.state == "running":
                self._take_from(str(hop.owner), workflow.hop_id)
            self._due.pop(workflow.hop_id, None)
            self._parked.pop(workflow.hop_id, None)
            self._drop_letter(hop)
            workflow.envelope, workflow.failure, workflow.updated_at = hop.envelope, None, now
            hop.state, hop.envelope, hop.owner, hop.token, hop.claim = "cancelled", None, None, None, None
            hop.failure = None
            _add_event(workflow, self._next_cursor(), now, "workflow_cancelled", workflow.hop_id)
            self._end(correlation_id, "cancelled", now)
            return "cancelled"

    def redrive(
        self, correlation_id: str, *, discard_journal: bool = False
    ) -> Literal["redriven", "not_parked", "unknown"]:
        """Queue a parked hop again, with all its attempts."""
        with self._transaction() as now:
            workflow = self._workflows.get(correlation_id)
            if workflow is None:
                return "unknown"
            if workflow.state != "parked":
                return "not_parked"
            hop = self._hops[workflow.hop_id]
            self._drop_letter(hop)
            hop.state, hop.owner, hop.failure = "queued", None, None
            hop.attempt, hop.sent, hop.waits = 0, 0, 0
            del self._parked[workflow.hop_id]
            self._due[workflow.hop_id] = now
            workflow.state, workflow.failure, workflow.updated_at = "running", None, now
            about = {"journal": "discarded"} if discard_journal else {}
            if discard_journal:
                hop.journal.clear()
            _add_event(workflow, self._next_cursor(), now, "redriven", workflow.hop_id, **about)
            return "redriven"

    def record(self, closing: Closing, records: Mapping[str, str]) -> bool:
        """Add records to the journal of a hop that the owner runs."""
        with self._transaction():
            hop = self._hops.get(closing.hop_id)
            if hop is None or not self._is_of(closing.hop_id, closing.owner, closing.fence):
                return False
            if hop.state not in ("queued", "running"):
                return False
            hop.journal.update(records)
            return True

    def publish(self, closing: Closing, events: Sequence[Mapping[str, str]]) -> bool:
        """Add events of the agent that runs in a hop to those of its workflow."""
        with self._transaction() as now:
            hop = self._hops.get(closing.hop_id)
            if hop is None or not self._is_of(closing.hop_id, closing.owner, closing.fence):
                return False
            if hop.state not in ("queued", "running"):
                return False
            workflow = self._workflows[hop.workflow]
            number = workflow.stream[-1].id[1] if workflow.stream else 0
            for event in events:
                number += 1
                fields = {**event, "type": "agent", "hop": closing.hop_id}
                entry = Entry(id=(0, number), at=now, fields=fields, behind=workflow.events[-1].id)
                workflow.stream.append(entry)
            return True

    def journal(self, hop_id: str) -> Mapping[str, str]:
        """Return the records of a hop's journal, by their keys."""
        with self._transaction():
            hop = self._hops.get(hop_id)
            return dict(hop.journal) if hop is not None else {}

    def sweep(self, *, host: str, dead: Collection[str] = (), queues: Mapping[str, bool] | None = None) -> Sweep:
        """Return hops whose message must be sent again."""
        with self._transaction() as now:
            again: list[HopRecord] = []
            asked: dict[str, None] = {}
            for owner in dead:
                self._lapse(owner, "owner_gone", again, now)
            if queues or self._swept_at is None or now - self._swept_at >= PASS_EVERY:
                self._pass(queues or {}, again, asked, now)
            owners = tuple(sorted(owner for owner in self._owned if owner.partition(":")[0] == host))
            return Sweep(overdue=tuple(again), owners=owners, queues=tuple(asked))

    def workflow(self, correlation_id: str) -> WorkflowRecord | None:
        """Return what is known of a workflow, or None."""
        with self._transaction():
            workflow = self._workflows.get(correlation_id)
            if workflow is None:
                return None
            hop = self._hops[workflow.hop_id]
            return WorkflowRecord(
                correlation_id=correlation_id,
                state=workflow.state,
                content=workflow.content,
                envelope=workflow.envelope if workflow.envelope is not None else hop.envelope or "",
                hop_id=workflow.hop_id,
                queue=hop.queue,
                running=hop.state == "running",
                attempt=hop.attempt,
                failure=hop.failure if hop.state == "waiting" else workflow.failure,
                created_at=workflow.created_at,
                updated_at=workflow.updated_at,
                retry_at=self._due[workflow.hop_id] if hop.state == "waiting" else None,
            )

    def blob(self, correlation_id: str, step_id: str) -> str | None:
        """Return the JSON text of a large output, or None."""
        with self._transaction():
            workflow = self._workflows.get(correlation_id)
            return workflow.blobs.get(step_id) if workflow is not None else None

    def events(self, correlation_id: str, *, after: str | None, limit: int) -> Sequence[StoredEvent]:
        """Return events behind the cursor `after`, oldest first."""
        place = place_of(after)
        with self._transaction():
            workflow = self._workflows.get(correlation_id)
            if workflow is None:
                return []
            happened = [event for event in workflow.events if event.id > place.event]
            streamed = [entry for entry in workflow.stream if entry.id > place.streamed]
            return read_on(place, happened, streamed, limit=max(limit, 0))

    def bury(self, letter: DeadLetter) -> bool:
        """Keep a dead letter; the oldest gives way where there are too many."""
        with self._transaction() as now:
            if letter.letter_id in self._letters:
                return False
            refused = [letter_id for letter_id, (until, _) in self._letters.items() if until != FOR_EVER]
            if len(refused) >= MAX_LETTERS:
                del self._letters[refused[0]]
                self._letters_dropped += 1
            kept = replace(letter, at=now, cursor=self._next_cursor())
            self._letters[letter.letter_id] = now + self._ttl, kept
            return True

    def dead_letters(self, *, after: str | None, limit: int) -> Sequence[DeadLetter]:
        """Return dead letters, newest first."""
        if after is not None and not (after.isascii() and after.isdigit()):
            raise InvalidInput("bad_cursor", "after", "is no cursor of a dead letter of this store")
        with self._transaction():
            newest = sorted((kept for _, kept in self._letters.values()), key=lambda kept: -int(kept.cursor))
            found = [letter for letter in newest if after is None or int(letter.cursor) < int(after)]
            return found[: max(limit, 0)]

    def dead_letter(self, letter_id: str) -> DeadLetter | None:
        """Return a dead letter, or None."""
        with self._transaction():
            kept = self._letters.get(letter_id)
            return kept[1] if kept is not None else None

    def forget_letter(self, letter_id: str) -> bool:
        """Delete a dead letter; False where there is none."""
        with self._transaction():
            return self._letters.pop(letter_id, None) is not None

    def letters_dropped(self) -> int:
        """Return how many dead letters gave way to newer ones."""
        with self._transaction():
            return self._letters_dropped

    def check(self, *, allow_eviction: bool) -> Sequence[str]:
        """Return warnings; there is nothing to warn of."""
        return []

    def bind_broker(self, broker: str) -> str:
        """Remember the broker; return the one that is remembered."""
        with self._lock:
            if self._broker is None:
                self._broker = broker
            return self._broker

    def close(self) -> None:
        """Do nothing: there are no connections."""

    @contextmanager
    def _transaction(self) -> Iterator[datetime]:
        with self._lock:
            now = self._clock()
            while self._ended and self._ended[0][0] <= now:
                self._forget(self._ended.popleft()[1])
            for letter_id in [key for key, (end, _) in self._letters.items() if end <= now]:
                del self._letters[letter_id]
            yield now

    def _drop_letter(self, hop: _Hop) -> None:
        """Take away the letter of a hop that needs no person any more."""
        if hop.letter is not None:
            self._letters.pop(hop.letter, None)
            hop.letter = None

    def _begin(self, new: NewWorkflow, event: str, now: datetime) -> None:
        workflow = _Workflow(content=new.content, hop_id=new.hop.hop_id, created_at=now, updated_at=now)
        self._workflows[new.correlation_id] = workflow
        self._queue_hop(new.correlation_id, new.hop, now)
        _add_event(workflow, self._next_cursor(), now, event, new.hop.hop_id, queue=new.hop.queue)

    def _give(self, hop: _Hop, claim: Claim, now: datetime) -> Claimed:
        exhausted = hop.attempt >= claim.max_attempts
        if hop.state == "running":
            self._take_from(str(hop.owner), claim.hop_id)
        else:
            del self._due[claim.hop_id]
        # Of its first message; which of them came is not known, as the store on Redis tells.
        self._reached[hop.queue] = max(self._reached.get(hop.queue, 0), hop.first)
        hop.state, hop.owner, hop.token = "running", claim.owner, claim.token
        hop.fence, hop.attempt = hop.fence + 1, hop.attempt + (not exhausted)
        workflow = self._workflows[hop.workflow]
        hop.claim = Claimed(
            fence=hop.fence, attempt=hop.attempt, now=now, exhausted=exhausted, created_at=workflow.created_at
        )
        self._owned.setdefault(claim.owner, set()).add(claim.hop_id)
        self._leases[claim.owner] = now + self._lease
        workflow.updated_at = now
        about = {"attempt": str(hop.attempt), "fence": str(hop.fence), "exhausted": str(int(exhausted))}
        _add_event(workflow, self._next_cursor(), now, "claimed", claim.hop_id, **about)
        return hop.claim

    def _is_of(self, hop_id: str, owner: str, fence: int) -> bool:
        hop = self._hops.get(hop_id)
        return hop is not None and (hop.owner, hop.fence) == (owner, fence)

    def _is_cancelled(self, hop_id: str) -> bool:
        hop = self._hops.get(hop_id)
        return hop is not None and hop.state == "cancelled"

    def _queue_hop(self, correlation_id: str, new: HopRecord, now: datetime) -> None:
        self._hops[new.hop_id] = _Hop(
            workflow=correlation_id, queue=new.queue, digest=new.digest, envelope=new.envelope
        )
        self._workflows[correlation_id].hop_ids.append(new.hop_id)
        self._expect(new.hop_id, 0, now)
        self._hops[new.hop_id].first = self._hops[new.hop_id].sent

    def _expect(self, hop_id: str, waits: int, now: datetime) -> None:
        """Note that a message of the hop is sent now, and when it will be overdue."""
        hop = self._hops[hop_id]
        hop.sent, hop.waits = self._sent.get(hop.queue, 0) + 1, waits
        self._sent[hop.queue] = hop.sent
        self._due[hop_id] = now + _patience(waits)

    def _revive(self, hop_id: str, hop: _Hop, now: datetime) -> None:
        """Leave the hop to the owner that it still names."""
        hop.state = "running"
        self._due.pop(hop_id, None)
        self._owned.setdefault(str(hop.owner), set()).add(hop_id)
        self._leases[str(hop.owner)] = now + self._lease

    def _held(self, now: datetime) -> bool:
        """Say whether leases that ended are let be for now; the store on Redis tells why."""
        return self._long_unswept(now) or (self._held_until is not None and now < self._held_until)

    def _long_unswept(self, now: datetime) -> bool:
        return self._swept_at is not None and now - self._swept_at > max(self._lease / 2, LONG_UNSWEPT)

    def _pass(self, queues: Mapping[str, bool], again: list[HopRecord], asked: dict[str, None], now: datetime) -> None:
        if self._long_unswept(now):
            self._held_until = now + self._lease
        self._swept_at = now
        if not self._held(now):
            for _, owner in sorted((end, owner) for owner, end in self._leases.items() if end <= now):
                self._lapse(owner, "lease_over", again, now)
        for hop_id in self._due_by(now):
            hop = self._hops[hop_id]
            overtaken = self._reached.get(hop.queue, 0) > hop.sent
            if len(again) >= MOST_AT_ONCE:
                return
            if hop.state == "waiting":
                hop.state, hop.owner = "queued", None
                self._send_again(hop_id, 0, "retry", again, now)
            elif overtaken or queues.get(hop.queue):
                self._send_again(hop_id, hop.waits + 1, "overtaken" if overtaken else "queue_empty", again, now)
            elif hop.queue in queues:
                hop.waits += 1
                self._due[hop_id] = now + _patience(hop.waits)
            else:
                asked[hop.queue] = None

    def _due_by(self, now: datetime) -> list[str]:
        """Return the hops that are due, and first those that are sent whatever waits on their queue."""

        def order(hop_id: str) -> tuple[bool, datetime, str]:
            hop = self._hops[hop_id]
            return hop.state == "queued" and hop.sent > 0, self._due[hop_id], hop_id

        return sorted((hop_id for hop_id, at in self._due.items() if at <= now), key=order)

    def _lapse(self, owner: str, why: str, again: list[HopRecord], now: datetime) -> None:
        for hop_id in sorted(self._owned.get(owner, ())):
            if len(again) >= MOST_AT_ONCE:
                return
            self._take_from(owner, hop_id)
            self._hops[hop_id].state = "queued"
            self._send_again(hop_id, 0, why, again, now)

    def _send_again(self, hop_id: str, waits: int, why: str, again: list[HopRecord], now: datetime) -> None:
        self._expect(hop_id, waits, now)
        hop = self._hops[hop_id]
        _add_event(self._workflows[hop.workflow], self._next_cursor(), now, "resent", hop_id, why=why)
        again.append(HopRecord(hop_id=hop_id, queue=hop.queue, envelope=hop.envelope or "", digest=hop.digest))

    def _close_hop(self, hop: _Hop, closing: Closing, state: ClosedState, now: datetime) -> _Workflow:
        if hop.state == "queued":
            del self._due[closing.hop_id]
        else:
            self._take_from(closing.owner, closing.hop_id)
        hop.state, hop.token, hop.claim = state, None, None
        if state in ("done", "failed"):
            hop.envelope = None
        workflow = self._workflows[hop.workflow]
        workflow.updated_at = now
        return workflow

    def _take_from(self, owner: str, hop_id: str) -> None:
        self._owned[owner].discard(hop_id)
        if not self._owned[owner]:
            del self._owned[owner], self._leases[owner]

    def _end(self, correlation_id: str, state: WorkflowState, now: datetime) -> None:
        self._workflows[correlation_id].state = state
        self._ended.append((now + self._ttl, correlation_id))

    def _forget(self, correlation_id: str) -> None:
        for hop_id in self._workflows.pop(correlation_id).hop_ids:
            del self._hops[hop_id]

    def _next_cursor(self) -> str:
        self._cursor += 1
        return str(self._cursor)


def _patience(waits: int) -> timedelta:
    return min(DUE_AFTER * float(2**waits), DUE_AFTER_MOST)


def _about(failure: Failure) -> dict[str, str]:
    return {"step": failure.step_id or "", "error": failure.error_class}


def _add_event(workflow: _Workflow, cursor: str, now: datetime, type_: str, hop_id: str, **about: str) -> None:
    workflow.events.append(Entry(id=(0, int(cursor)), at=now, fields={"type": type_, "hop": hop_id, **about}))


def _add_note(workflow: _Workflow, cursor: str, now: datetime, hop_id: str, note: Mapping[str, str]) -> None:
    fields = {"type": "note", "hop": hop_id, **note}
    workflow.events.append(Entry(id=(0, int(cursor)), at=now, fields=fields))
