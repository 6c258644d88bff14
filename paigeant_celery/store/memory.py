"""The store of one process: the same rules as on Redis, but nothing survives the process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Literal

from paigeant_celery.activities.real_threads import real
from paigeant_celery.core import hops as protocol
from paigeant_celery.core.blocks import Block, Plan
from paigeant_celery.core.budget import Usage
from paigeant_celery.core.conversations import ConversationKey
from paigeant_celery.core.errors import HopUnknown
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.hops import Change, ClosedState, Hop, Pace, Sweeping
from paigeant_celery.core.names import block_of
from paigeant_celery.core.names import hop_id as make_hop_id
from paigeant_celery.core.queries import CurrentState, WorkflowQuery
from paigeant_celery.core.waits import Wait
from paigeant_celery.store.branch_port import BranchPage, BranchReading, HopReading, OpenedBlock
from paigeant_celery.store.edit_port import Edit, EditAnswer
from paigeant_celery.store.limits import LIMITS, StoreLimits
from paigeant_celery.store.memory_branches import Branches
from paigeant_celery.store.memory_edits import edit_hop
from paigeant_celery.store.memory_events import Events
from paigeant_celery.store.memory_letters import LetterBox
from paigeant_celery.store.memory_queries import counted, listed, standing, times
from paigeant_celery.store.memory_records import Kept, Records, Workflow
from paigeant_celery.store.memory_sweep import Round
from paigeant_celery.store.memory_waits import Waits, by_since
from paigeant_celery.store.port import (
    AskedWait,
    BoundBroker,
    Claim,
    ClaimAnswer,
    Claimed,
    Closed,
    Closing,
    Completion,
    DeadLetter,
    Dropped,
    EarlierClaims,
    Heard,
    NewWait,
    NewWorkflow,
    OpenHops,
    RenewAnswer,
    Resolution,
    Standing,
    Started,
    StoredEvent,
    Suspended,
    Sweep,
    Totals,
    WorkflowRecord,
)
from paigeant_celery.store.query_port import HopTimes, ListedPage, ListedWorkflow, Serving
from paigeant_celery.store.timeline import place_of
from paigeant_celery.store.totals import NOTHING, summed, sums_of, usage_of

__all__ = ["MemoryStore"]


class MemoryStore:
    """A store for tests and for workers in threads. Every operation holds one lock."""

    def __init__(
        self,
        *,
        lease: float,
        ttl: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        limits: StoreLimits = LIMITS,
    ) -> None:
        self._limits, self._pace = limits, _pace(lease, limits)
        self._ttl, self._clock = timedelta(seconds=ttl), now
        self._lock = real().Lock()
        self._records = Records(ttl=self._ttl, pace=self._pace)
        self._waits = Waits(records=self._records, limits=limits, pace=self._pace)
        self._sweeping = Sweeping()
        self._numbers = count(1)  # of events and letters
        self._letters = LetterBox(ttl=self._ttl, most=limits.max_letters, numbers=self._numbers)
        self._branches = Branches(records=self._records, letters=self._letters, limits=limits, pace=self._pace)
        self._broker: BoundBroker | None = None

    def __repr__(self) -> str:
        return "MemoryStore()"

    @property
    def address(self) -> str:
        """The address of the records."""
        return "memory://"

    @property
    def shared(self) -> bool:
        """Whether other processes see the same records. They do not."""
        return False

    @property
    def endpoint(self) -> None:
        """Nothing: no other process reaches the records."""
        return None

    def start(self, new: NewWorkflow) -> Started:
        """Record a workflow and its first hop."""
        with self._transaction() as now:
            existing = self._records.workflows.get(new.correlation_id)
            if existing is not None:
                return "exists" if existing.content == new.content else "conflict"
            if new.origin is not None and new.origin.workflow not in self._records.workflows:
                return "gone"
            if self._records.copied_size(new) > self._limits.max_copied:
                return "too_large"
            self._begin(new, "started", now)
            return "started"

    def adopt(
        self, new: NewWorkflow, *, sent_at: datetime, max_age: timedelta, begun: int = 0
    ) -> Literal["adopted", "known", "expired"]:
        """Record a workflow that is known only from the message of its current hop."""
        with self._transaction() as now:
            if new.correlation_id in self._records.workflows:
                return "known"
            if now - sent_at > max_age:
                return "expired"
            self._begin(new, "adopted", now, begun=begun)
            return "adopted"

    def claim(self, claim: Claim) -> ClaimAnswer:
        """Give a queued hop, or one whose owner's lease has expired, to an owner."""
        with self._transaction() as now:
            kept = self._records.hops.get(claim.hop_id)
            if kept is None:
                return Dropped(reason="unknown")
            before, workflow = kept.hop, kept.workflow
            change = protocol.claim(
                before,
                owner=claim.owner,
                token=claim.token,
                max_attempts=claim.max_attempts,
                digest=claim.digest,
                lease=self._records.leases.get(before.owner or ""),
                held=protocol.is_held(self._sweeping, now=now, pace=self._pace),
                now=now,
                pace=self._pace,
            )
            if isinstance(change, str):
                return Dropped(reason=change)
            self._records.apply(claim.hop_id, change, now=now)
            hop = change.hop
            if hop.fence > before.fence:
                _note_claim(kept, before, claim.trace, now)
            if block_of(claim.hop_id) is None and claim.step:
                workflow.activity, workflow.step_id = claim.activity, claim.step
            if hop.fence > before.fence:
                kept.activity = claim.activity or kept.activity
                if before.state == "queued":
                    self._records.note_time(claim.activity, "q", kept.queued_at, now=now)
            self._records.let_touch(claim.owner, until=now + timedelta(seconds=claim.timeout))
            is_quiet, kept.quiet = kept.quiet, False
            if claim.used is not None and workflow.used is None:
                workflow.used = sums_of(claim.used)
            if hop.fence > before.fence and not is_quiet:
                workflow.updated_at = now
                about = {"attempt": str(hop.attempt), "fence": str(hop.fence), "exhausted": str(int(hop.exhausted))}
                workflow.events.add_event("claimed", claim.hop_id, now=now, **_step(claim.step), **about)
            return Claimed(
                fence=hop.fence,
                attempt=hop.attempt,
                now=hop.claimed_at or now,
                exhausted=hop.exhausted,
                created_at=workflow.created_at,
                heard=self._heard(kept, claim.conversation, now),
                brought=_named(workflow.blobs, claim.wanted),
                waits=by_since(kept.waits.values()),
                totals=_totals(kept) if claim.used is not None else None,
                before=kept.before,
            )

    def renew(self, owner: str, hops: Mapping[str, int], *, touchable: float | None = 0.0) -> RenewAnswer:
        """Extend the owner's lease. Hops that lapsed and were not taken are the owner's again."""
        with self._transaction() as now:
            known = {hop_id: found for hop_id in hops if (found := self._records.hops.get(hop_id)) is not None}
            lost = frozenset(hop_id for hop_id in known if not self._renew(hop_id, owner, hops[hop_id], now))
            # An owner that names no hops keeps no lease alive. If some are listed, nobody runs them.
            if hops and owner in self._records.owned:
                self._records.leases[owner] = now + self._pace.lease
                if touchable is not None:
                    self._records.touchable[owner] = now + timedelta(seconds=touchable)
            kept, owned = self._records.hops, self._records.owned.get(owner, set())
            stray = {hop_id: kept[hop_id].hop.fence for hop_id in owned - hops.keys()}
            cancelled = frozenset(hop_id for hop_id in lost if known[hop_id].hop.state == "cancelled")
            unknown = frozenset(hops.keys() - known)
            settled = {hop_id: count for hop_id in known.keys() - lost if (count := known[hop_id].settled_waits)}
            return RenewAnswer(lost=lost, stray=stray, cancelled=cancelled, unknown=unknown, settled=settled)

    def touch(self, *, host: str, owners: Collection[str]) -> Sequence[str]:
        """Extend the leases of living owners, and return all owners on a host."""
        with self._transaction() as now:
            for owner in owners:
                if now < min(self._records.leases.get(owner, now), self._records.touchable.get(owner, now)):
                    self._records.leases[owner] = now + self._pace.lease
            return self._records.owners_on(host)

    def release(self, closing: Closing) -> bool:
        """Requeue a hop that its owner does not run."""
        with self._transaction() as now:
            kept = self._kept(closing)
            change = protocol.release(kept.hop, owner=closing.owner, fence=closing.fence, now=now)
            if not change:
                return False
            self._records.apply(closing.hop_id, change, now=now)
            kept.workflow.events.add_event("released", closing.hop_id, now=now)
            return True

    def complete(self, completion: Completion) -> Closed | None:
        """Record a hop's completion and the next hop, or the end of the workflow or of its branch."""
        closing, next_hop = completion.closing, completion.next_hop
        with self._transaction() as now:
            kept = self._close(closing, "done", now, followed=next_hop is not None)
            if isinstance(kept, bool):
                return Closed() if kept else None
            workflow, hop_id, step = kept.workflow, closing.hop_id, _step(completion.step)
            self._branches.cut_off(hop_id, now=now)
            kept.journal.update(completion.records)
            if block_of(hop_id) is not None:
                kept.journal.clear()  # nobody reads it any more, and a fan-out has as many as branches
            if completion.used is not None and workflow.used is not None:
                workflow.used = summed(workflow.used, sums_of(completion.used), less=kept.counted)
            workflow.blobs.update(completion.blobs)
            if completion.said is not None:
                self._records.histories.append(completion.said, hop_id=hop_id, now=now)
            for note in completion.notes:
                workflow.events.note({"type": "note", "hop": hop_id, **note}, now=now)
            if next_hop is None:
                workflow.events.add_event("completed", hop_id, now=now, **step)
                if block_of(hop_id) is not None:
                    return Closed(hops=self._branches.arrive(hop_id, "succeeded", completion.end, now=now))
                workflow.envelope = completion.envelope
                workflow.events.add_event("workflow_completed", hop_id, now=now)
                return Closed()
            if block_of(hop_id) is None:
                workflow.hop_id = next_hop.hop_id
            self._records.queue(workflow, next_hop, now=now)
            self._branches.advance(hop_id, next_hop.hop_id)
            workflow.events.add_event("completed", hop_id, now=now, **step, next_hop=next_hop.hop_id)
            return Closed()

    def fail(self, closing: Closing, failure: Failure, *, end: str = "") -> Closed | None:
        """Record that the hop failed and, with it, the workflow, or its branch."""
        hop_id = closing.hop_id
        with self._transaction() as now:
            kept = self._close(closing, "failed", now)
            if isinstance(kept, bool):
                return Closed() if kept else None
            self._branches.cut_off(hop_id, now=now)
            kept.workflow.events.add_event("failed", hop_id, now=now, **_about(failure))
            if block_of(hop_id) is not None:
                return Closed(hops=self._branches.arrive(hop_id, "failed", end, now=now))
            kept.workflow.failure = failure
            kept.workflow.events.add_event("workflow_failed", hop_id, now=now, **_about(failure))
            return Closed()

    def retry_at(self, closing: Closing, failure: Failure, *, delay: float) -> bool:
        """Record that an attempt failed; the hop waits for `delay` seconds."""
        with self._transaction() as now:
            kept = self._close(closing, "waiting", now, failure=failure, delay=timedelta(seconds=delay))
            if isinstance(kept, bool):
                return kept
            about = {**_about(failure), "delay_ms": str(round(delay * 1000))}
            kept.workflow.events.add_event("retrying", closing.hop_id, now=now, **about)
            return True

    def give_back(self, closing: Closing, failure: Failure) -> bool:
        """Leave a hop that the owner cannot read to newer workers."""
        with self._transaction() as now:
            kept = self._kept(closing)
            change = protocol.give_back(
                kept.hop, owner=closing.owner, fence=closing.fence, failure=failure, now=now, pace=self._pace,
                deadline=kept.workflow.deadline,
            )  # fmt: skip
            if isinstance(change, bool):
                return change
            self._records.apply(closing.hop_id, change, now=now)
            kept.workflow.updated_at = now
            kept.workflow.events.add_event("given_back", closing.hop_id, now=now, **_about(failure))
            return True

    def park(self, closing: Closing, failure: Failure, letter: DeadLetter | None = None) -> Closed | None:
        """Set the hop aside, and keep its dead letter."""
        with self._transaction() as now:
            kept = self._close(closing, "parked", now, failure=failure)
            if isinstance(kept, bool):
                return Closed() if kept else None
            kept.workflow.failure = failure
            if letter is not None:
                kept.letter = letter.letter_id
                self._letters.keep(letter, now=now)
            kept.workflow.events.add_event("parked", closing.hop_id, now=now, **_about(failure))
            return Closed(hops=self._branches.set_aside(closing.hop_id, now=now))

    def cancel(self, correlation_id: str) -> Literal["cancelled", "ended", "unknown"]:
        """End a workflow wherever it stands."""
        with self._transaction() as now:
            workflow = self._records.workflows.get(correlation_id)
            if workflow is None:
                return "unknown"
            if workflow.state not in ("running", "parked"):
                return "cancelled" if workflow.state == "cancelled" else "ended"
            kept = self._records.hops[workflow.hop_id]
            self._drop_letter(kept)
            self._records.apply(workflow.hop_id, protocol.cancel(kept.hop), now=now)
            self._branches.cut_off(workflow.hop_id, now=now)
            workflow.failure, workflow.updated_at = None, now
            workflow.events.add_event("workflow_cancelled", workflow.hop_id, now=now)
            return "cancelled"

    def redrive(
        self, correlation_id: str, *, place: str | None = None, discard_journal: bool = False
    ) -> Literal["redriven", "not_parked", "unknown"]:
        """Queue a parked hop again, with all its attempts."""
        with self._transaction() as now:
            workflow = self._records.workflows.get(correlation_id)
            if workflow is None:
                return "unknown"
            hop_id = workflow.hop_id if place is None else make_hop_id(correlation_id, place)
            found = self._records.hops.get(hop_id)
            if found is None or found.hop.state != "parked":
                return "not_parked"
            kept = found
            self._drop_letter(kept)
            self._records.apply(hop_id, protocol.redrive(kept.hop, now=now), now=now)
            self._branches.come_back(hop_id)
            workflow.failure, workflow.updated_at = None, now
            about = {"journal": "discarded"} if discard_journal else {}
            if discard_journal:
                kept.journal.clear()
                kept.counted = NOTHING  # what was paid stays in the workflow's sums
                self._waits.forget(kept)
                kept.heard = None
            workflow.events.add_event("redriven", hop_id, now=now, **about)
            return "redriven"

    def edit(self, edit: Edit) -> EditAnswer:
        """Replace the envelope of a hop that nobody runs."""
        with self._transaction() as now:
            return edit_hop(self._records, self._waits, edit, now=now)

    def wait(self, closing: Closing, new: NewWait) -> Wait | None:
        """Record a wait of a hop that the owner runs, or return the recorded one."""
        with self._transaction() as now:
            kept = self._running(closing)
            return self._waits.wait(closing.hop_id, kept, new, now=now) if kept is not None else None

    def suspend(self, closing: Closing, standing: Standing) -> Suspended | None:
        """Let a hop wait for what it stands at, or queue it."""
        with self._transaction() as now:
            kept, hop_id = self._kept(closing), closing.hop_id
            return self._waits.suspend(hop_id, kept, standing, owner=closing.owner, fence=closing.fence, now=now)

    def resolve(self, token: str, answers: Mapping[str, str], *, by: str, call: str) -> Resolution:
        """Answer parts of a wait, and queue its hop if that settles it."""
        with self._transaction() as now:
            return self._waits.resolve(token, answers, by=by, call=call, now=now)

    def time_out(self, token: str) -> Wait | None:
        """Give a wait up if its time is over."""
        with self._transaction() as now:
            return self._waits.time_out(token, now=now)

    def signal(
        self, correlation_id: str, name: str, text: str, *, by: str, call: str, below: str | None = None
    ) -> Resolution:
        """Settle the oldest open wait for a signal of this name, or keep the signal."""
        with self._transaction() as now:
            workflow = self._records.workflows.get(correlation_id)
            if workflow is None:
                return Resolution(outcome="unknown")
            return self._waits.signal(workflow, name, text, by=by, call=call, below=below, now=now)

    def waits(self, hop_id: str) -> Sequence[Wait]:
        """Return the waits of a hop, by since."""
        with self._transaction():
            kept = self._records.hops.get(hop_id)
            return by_since(kept.waits.values()) if kept is not None else ()

    def asked(self, *, after: str | None, limit: int) -> Sequence[AskedWait]:
        """Return open waits of all workflows, oldest first."""
        with self._transaction():
            return self._waits.asked(after=after, limit=limit)

    def block(self, hop_id: str) -> Block | None:
        """Return what a hop has opened as a block."""
        with self._transaction():
            kept = self._records.hops.get(hop_id)
            return (kept.block or Block()) if kept is not None else None

    def hold(self, closing: Closing, page: BranchPage) -> int | None:
        """Record the first hops of branches, which nobody may claim yet."""
        with self._transaction() as now:
            kept = self._running(closing)
            return self._branches.hold(kept, page, now=now) if kept is not None else None

    def open_block(self, closing: Closing, plan: Plan) -> OpenedBlock | None:
        """Make the first branches of a block live, once."""
        with self._transaction() as now:
            kept = self._running(closing)
            return self._branches.open(closing.hop_id, kept, plan, now=now) if kept is not None else None

    def branches(self, hop_id: str, *, first: int, limit: int) -> Sequence[BranchReading]:
        """Return branches of a block in their order, from a number on."""
        with self._transaction() as now:
            return self._branches.read(hop_id, first=first, limit=limit, now=now)

    def hop(self, hop_id: str) -> HopReading | None:
        """Return where any hop stands, or None."""
        with self._transaction() as now:
            return self._branches.hop(hop_id, now=now)

    def record(
        self, closing: Closing, records: Mapping[str, str], *, spent: Mapping[str, Usage] | None = None
    ) -> Totals | bool:
        """Add records to the journal of a hop that the owner runs, and count their calls."""
        with self._transaction():
            kept = self._running(closing)
            if kept is None:
                return False
            for name, usage in (spent or {}).items():
                if name not in kept.journal and kept.workflow.used is not None:
                    kept.workflow.used = summed(kept.workflow.used, sums_of(usage))
                    kept.counted = summed(kept.counted, sums_of(usage))
            kept.journal.update(records)
            return (_totals(kept) if spent is not None else None) or True

    def publish(self, closing: Closing, events: Sequence[Mapping[str, str]]) -> bool:
        """Add what the agent in a hop does to the events of its workflow."""
        with self._transaction() as now:
            kept = self._running(closing)
            if kept is None:
                return False
            kept.workflow.events.stream(events, hop_id=closing.hop_id, now=now)
            return True

    def journal(self, hop_id: str) -> Mapping[str, str]:
        """Return the records of a hop's journal by their keys."""
        with self._transaction():
            kept = self._records.hops.get(hop_id)
            return dict(kept.journal) if kept is not None else {}

    def conversation(self, key: ConversationKey, heard: Heard | None = None) -> str | None:
        """Return the history of a conversation as a hop heard it, or all of it."""
        with self._transaction():
            return self._records.histories.read(key, heard)

    def sweep(
        self,
        *,
        host: str,
        dead: Collection[str] = (),
        queues: Mapping[str, bool] | None = None,
        served: Collection[str] = (),
    ) -> Sweep:
        """Return hops whose message must be sent again."""
        with self._transaction() as now:
            self._records.served |= dict.fromkeys(served, now)
            makes_pass = bool(queues) or protocol.may_pass(self._sweeping, now=now, pace=self._pace)
            found = Round(records=self._records, pace=self._pace, limits=self._limits, now=now)
            for owner in dead:
                found.lapse(owner, "owner_gone")
            if makes_pass:
                self._sweeping = protocol.open_pass(self._sweeping, now=now, pace=self._pace)
                if not protocol.is_held(self._sweeping, now=now, pace=self._pace):
                    found.lapse_all()
                found.wake(self._waits)
                found.look(queues or {})
                self._records.settle()  # a block that was woken has its workflow go on, and be late
                found.look_at_deadlines()
                self._sweeping = replace(self._sweeping, cut=found.is_full)
            return Sweep(
                overdue=tuple(found.again),
                late=tuple(found.late),
                owners=self._records.owners_on(host),
                queues=tuple(found.asked),
                full=found.is_full,
                woken=frozenset(found.woken),
                made_pass=makes_pass,
            )

    def look_over(self) -> None:
        """Forget times and served queues of long ago."""
        with self._transaction() as now:
            kept, served = (self._limits.day * days for days in (self._limits.days_kept, self._limits.days_served))
            self._records.forget(
                times_before=(now - timedelta(milliseconds=kept)).date(),
                served_before=now - timedelta(milliseconds=served),
            )

    def workflow(self, correlation_id: str) -> WorkflowRecord | None:
        """Return what is known about a workflow, or None."""
        with self._transaction():
            return self._records.read(correlation_id)

    def blob(self, correlation_id: str, name: str) -> str | None:
        """Return the JSON text of a large output, or a file of a prompt by its name; or None."""
        with self._transaction():
            workflow = self._records.workflows.get(correlation_id)
            return workflow.blobs.get(name) if workflow is not None else None

    def blobs(self, correlation_id: str, names: Sequence[str]) -> Mapping[str, str]:
        """Return those of the named blobs that are there."""
        with self._transaction():
            workflow = self._records.workflows.get(correlation_id)
            return _named(workflow.blobs, names) if workflow is not None else {}

    def events(self, correlation_id: str, *, after: str | None, limit: int) -> Sequence[StoredEvent]:
        """Return the events after the cursor `after`, oldest first."""
        place = place_of(after)
        with self._transaction():
            workflow = self._records.workflows.get(correlation_id)
            return workflow.events.read(place, limit=limit) if workflow is not None else []

    def bury(self, letter: DeadLetter) -> bool:
        """Keep a dead letter. If there are too many, the oldest is dropped."""
        with self._transaction() as now:
            return self._letters.bury(letter, now=now)

    def dead_letters(self, *, after: str | None, limit: int) -> Sequence[DeadLetter]:
        """Return dead letters, newest first."""
        with self._transaction():
            return self._letters.newest(after=after, limit=limit)

    def dead_letter(self, letter_id: str) -> DeadLetter | None:
        """Return a dead letter, or None."""
        with self._transaction():
            return self._letters.get(letter_id)

    def forget_letter(self, letter_id: str) -> bool:
        """Delete a dead letter; False if there is none."""
        with self._transaction():
            return self._letters.forget(letter_id)

    def letters_dropped(self) -> int:
        """Return how many dead letters were dropped in favour of newer ones."""
        with self._transaction():
            return self._letters.dropped

    def listed(self, query: WorkflowQuery) -> ListedPage:
        """Return workflows that fit a query."""
        with self._transaction() as now:
            return listed(self._records, query, now=now)

    def counted(self) -> Mapping[str, Mapping[CurrentState, int]]:
        """Return how many workflows stand at each activity, by state."""
        with self._transaction():
            return counted(self._records)

    def list_older(self) -> bool:
        """Say that no workflow of an older version is left to be listed: there is none."""
        return True

    def times(self) -> Mapping[str, HopTimes]:
        """Return how long hops waited and ran in the last days, by activity."""
        with self._transaction() as now:
            since = now - timedelta(milliseconds=self._limits.day * self._limits.days_kept)
            return times(self._records, since=since.date())

    def serving(self) -> Serving:
        """Return which queues are served by workers that sweep, and when they were."""
        with self._transaction() as now:
            return Serving(now=now, swept_at=self._sweeping.swept_at, queues=dict(self._records.served))

    def standing(self, correlation_id: str) -> ListedWorkflow | None:
        """Return a workflow as a list shows it, or None."""
        with self._transaction() as now:
            workflow = self._records.workflows.get(correlation_id)
            return standing(self._records, workflow, now=now) if workflow is not None else None

    def check(self, *, allow_eviction: bool) -> Sequence[str]:
        """Return no warnings: nothing can be wrong."""
        return []

    def bound_broker(self) -> BoundBroker | None:
        """Return the broker that this store belongs to, or None."""
        with self._lock:
            return self._broker

    def bind_broker(self, broker: BoundBroker, *, instead_of: BoundBroker | None) -> bool:
        """Remember a broker, unless the one that is remembered has changed."""
        with self._lock:
            if self._broker not in (instead_of, broker):
                return False
            self._broker = broker
            return True

    def send_all_again(self) -> None:
        """Have the next sweeps send all queued hops again."""
        with self._transaction() as now:
            for hop_id in list(self._records.due):
                hop = self._records.hops[hop_id].hop
                if not protocol.goes_first(hop):
                    self._records.apply(hop_id, protocol.send_again(hop, now=now), now=now)

    def open_hops(self) -> OpenHops:
        """Count the hops that are not closed."""
        with self._transaction():
            records = self._records
            running = sum(map(len, records.owned.values()))
            return OpenHops(
                due=len(records.due), running=running, parked=len(records.parked), asleep=len(records.asleep)
            )

    def raise_format(self) -> None:
        """Do nothing: all that use this store are of one version."""

    def unswept(self) -> float | None:
        """Return for how many seconds no worker has swept; None if none ever has."""
        with self._transaction() as now:
            swept_at = self._sweeping.swept_at
            return None if swept_at is None else (now - swept_at).total_seconds()

    def unfinished(self) -> Sequence[str]:
        """Return the workflows that go on."""
        with self._transaction():
            return [workflow.correlation_id for workflow in self._records.workflows.values() if workflow.goes_on]

    def close(self) -> None:
        """Do nothing: there are no connections."""

    @contextmanager
    def _transaction(self) -> Iterator[datetime]:
        with self._lock:
            now = self._clock()
            self._records.expire(now=now)
            self._letters.expire(now=now)
            try:
                yield now
            finally:
                self._records.settle()

    def _begin(self, new: NewWorkflow, event: str, now: datetime, *, begun: int | None = None) -> None:
        workflow = Workflow(
            correlation_id=new.correlation_id,
            content=new.content,
            hop_id=new.hop.hop_id,
            created_at=now,
            updated_at=now,
            deadline=new.deadline,
            events=Events(limits=self._limits, numbers=self._numbers),
            blobs=dict(new.blobs),
        )
        self._records.workflows[new.correlation_id] = workflow
        self._records.queue(workflow, new.hop, now=now, begun=begun)
        workflow.events.add_event(event, new.hop.hop_id, now=now, queue=new.hop.queue)
        self._records.fork(workflow, new, now=now)

    def _renew(self, hop_id: str, owner: str, fence: int, now: datetime) -> bool:
        change = protocol.renew(self._records.hops[hop_id].hop, owner=owner, fence=fence, now=now, pace=self._pace)
        if isinstance(change, Change):
            self._records.apply(hop_id, change, now=now)
        return change != "lost"

    def _heard(self, kept: Kept, conversation: ConversationKey | None, now: datetime) -> Heard | None:
        """Return how much of its conversation a hop sees: what there was at its first claim."""
        if conversation is None:
            return None
        if kept.heard is None:
            kept.heard = self._records.histories.hear(conversation, now=now)
        else:
            self._records.histories.keep(conversation, now=now)
        kept.heard_in = conversation
        return kept.heard

    def _kept(self, closing: Closing) -> Kept:
        """Return the record of a hop that somebody wants to write for."""
        kept = self._records.hops.get(closing.hop_id)
        if kept is None:
            raise HopUnknown(closing.hop_id)
        return kept

    def _running(self, closing: Closing) -> Kept | None:
        """Return the hop if this claim may still write for it, otherwise None."""
        kept = self._kept(closing)
        if not protocol.is_of(kept.hop, owner=closing.owner, fence=closing.fence):
            return None
        return kept if protocol.is_open(kept.hop) else None

    def _close(
        self,
        closing: Closing,
        state: ClosedState,
        now: datetime,
        *,
        followed: bool = False,
        failure: Failure | None = None,
        delay: timedelta = timedelta(0),
    ) -> Kept | bool:
        """Close a hop and return it. If nothing changes, return the answer to the call."""
        kept = self._kept(closing)
        change = protocol.close(
            kept.hop, state, owner=closing.owner, fence=closing.fence, now=now,
            followed=followed, failure=failure, delay=delay,
        )  # fmt: skip
        if isinstance(change, bool):
            return change
        began = kept.hop.claimed_at
        self._records.apply(closing.hop_id, change, now=now)
        if state in ("done", "failed"):
            self._records.note_time(kept.activity, "r", began, now=now)
        kept.workflow.updated_at = now
        return kept

    def _drop_letter(self, kept: Kept) -> None:
        """Delete the letter of a hop that no longer needs a person."""
        if kept.letter is not None:
            self._letters.forget(kept.letter)
            kept.letter = None


def _pace(lease: float, limits: StoreLimits) -> Pace:
    return Pace(
        lease=timedelta(seconds=lease),
        due_after=timedelta(milliseconds=limits.due_after),
        due_after_most=timedelta(milliseconds=limits.due_after_most),
        long_unswept=timedelta(milliseconds=limits.long_unswept),
        pass_every=timedelta(milliseconds=limits.pass_every),
        longest_sleep=timedelta(milliseconds=limits.longest_sleep),
    )


def _note_claim(kept: Kept, before: Hop, trace: str, now: datetime) -> None:
    """Note what a claim is told of those before it, and what later ones are told of it."""
    taken_over = before.owner is not None  # also if it lapsed and is queued
    kept.before = EarlierClaims(claimed_at=kept.last_claim, taken_over=taken_over, traces=kept.traces)
    kept.last_claim = now
    if trace:
        kept.traces = (*kept.traces, trace)[-LIMITS.most_traces :]


def _totals(kept: Kept) -> Totals | None:
    used = kept.workflow.used
    return Totals(used=usage_of(used), counted=usage_of(kept.counted)) if used is not None else None


def _named(blobs: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: blobs[name] for name in names if name in blobs}


def _step(step_id: str) -> dict[str, str]:
    return {"step": step_id} if step_id else {}


def _about(failure: Failure) -> dict[str, str]:
    where = {"where": failure.where} if failure.where else {}
    return {"step": failure.step_id or "", "error": failure.error_class, **where}
