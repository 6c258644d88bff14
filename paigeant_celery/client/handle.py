"""Looking at a workflow from outside: its status, events and result."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from pydantic import JsonValue

from paigeant_celery.activities.context import running_step
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.called_off import asleep_in, begin_calling_off
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.port import Transport, checked_transport
from paigeant_celery.client.answering import AnswersWaits, check_size, send_on
from paigeant_celery.client.event_reading import EventReading
from paigeant_celery.client.forks import Forkable
from paigeant_celery.client.outputs import outputs_in
from paigeant_celery.client.paths import GOES_ON, At, at_path, is_at_block, parked_at
from paigeant_celery.client.readings import (
    Answered,
    BranchStatus,
    PendingWait,
    WaitingFor,
    WorkflowResult,
    WorkflowStatus,
)
from paigeant_celery.client.standing import failure_of, standing, waits_for_branches
from paigeant_celery.client.stuck import Outlook, outlook_of
from paigeant_celery.client.tree import (
    current_state,
    tree_of,
    waits_for_worker,
    waits_of_block,
    waits_of_tree,
)
from paigeant_celery.client.waits import answered, open_in, open_waits, pending_wait, waiting_for
from paigeant_celery.core.about import About
from paigeant_celery.core.answers import answers_of
from paigeant_celery.core.budget import used_by
from paigeant_celery.core.conversations import ConversationKey, batches_in, messages_in
from paigeant_celery.core.errors import (
    InvalidInput,
    NewerMessage,
    RemoteTraceback,
    StoreCorrupt,
    UnknownWorkflow,
    WaitInsideStep,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowParked,
)
from paigeant_celery.core.events import WorkflowEvent
from paigeant_celery.core.message import PaigeantMessage, reread, step_ids_in
from paigeant_celery.core.names import FLOW, conversation_fault, is_correlation_id
from paigeant_celery.core.slip import ExecutedStep, RoutingSlip
from paigeant_celery.core.steps import BlockSpec
from paigeant_celery.core.wait_errors import SignalRefused
from paigeant_celery.core.wait_inputs import checked_by, checked_signal_id, checked_wait_name
from paigeant_celery.core.waits import WHOLE
from paigeant_celery.store.earlier import executed_of
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.pages import all_opened
from paigeant_celery.store.port import Store, WorkflowRecord
from paigeant_celery.store.tree import hops_below

__all__ = ["WorkflowHandle"]

T = TypeVar("T")

FIRST_WAIT = 0.01  # seconds between two looks at the store; grows up to the longest
LONGEST_WAIT = 0.5
EVENTS_AT_ONCE = 100
REMIND_AFTER = 5.0  # seconds of waiting for a result until a log line says that nobody serves the step
SEND_FOR = 5.0  # seconds for the broker to take the message that tells a worker of a cancelled sleeper
UNSWEPT = 10.0  # seconds; every worker that serves steps sweeps about once a second

logger = logging.getLogger(__name__)


class WorkflowHandle(AnswersWaits, Forkable):
    """A workflow by its correlation id. Every call reads the store again; without a store it raises `StoreRequired`.

    Each call raises `UnknownWorkflow` if the store holds no workflow of this id, whatever the id looks like, and
    `Unreachable` if the store is away.
    """

    def __init__(self, correlation_id: str, transport: Transport) -> None:
        if not isinstance(correlation_id, str):
            given = type(correlation_id).__name__
            text = f"must be a string, not a {given}; pass what `await dispatch_workflow(…)` returns"
            raise InvalidInput("invalid_input", "correlation_id", text)
        self.correlation_id = self._workflow = correlation_id
        self._transport = checked_transport(transport)

    def __repr__(self) -> str:
        return f"WorkflowHandle({self.correlation_id!r})"

    async def status(self) -> WorkflowStatus:
        """Return where the workflow stands.

        Of a long workflow it makes a round trip for each 100 steps that ran and for each page of those to come, and of
        one with branches those that `client/tree.py` tells: one for each block and each 100 of its branches. Raises
        `UnknownWorkflow`, and `StoreCorrupt` if a record of a workflow that goes on is damaged.
        """
        return await asyncio.to_thread(self.status_sync)

    def status_sync(self) -> WorkflowStatus:
        """Do what `status` does, for code without an event loop."""
        record = self._record("status")
        try:
            with self._kept("status"):
                slip = all_opened(self._store("status"), self._message(record)).slip
                ran = executed_of(self._store("status"), self.correlation_id, slip)
        except NewerMessage:
            return self._status_by_envelope(record)
        except StoreCorrupt:
            if record.failure is None:
                raise
            return self._status_by_envelope(record)  # whoever looks after a parked workflow needs to see why
        step, used = slip.next_step, used_by(slip.executed, earlier=slip.earlier)
        branches, waits = self._branches(record, slip, ran)
        outlook = Outlook()
        if record.state in GOES_ON:
            activity = step.activity if step else None
            outlook = outlook_of(self._store("status"), self.correlation_id, activity=activity, branches=branches)
        return WorkflowStatus(
            correlation_id=self.correlation_id,
            state=current_state(record),
            step_id=step.step_id if step else None,
            activity=step.activity if step else None,
            queue=record.queue,
            attempt=record.attempt,
            executed=tuple(executed.step_id for executed in ran),
            remaining=tuple(remaining.step_id or "" for remaining in slip.itinerary),
            failure=failure_of(record, branches),
            created_at=record.created_at,
            updated_at=record.updated_at,
            retry_at=record.retry_at,
            usage=used.counters,
            cost=used.cost,
            waiting_for=waits,
            branches=branches,
            origin=record.origin,
            stuck=outlook.stuck,
            runner=outlook.runner,
            ahead=outlook.ahead,
            last_failure=outlook.last_failure,
        )

    def _branches(
        self, record: WorkflowRecord, slip: RoutingSlip, ran: Sequence[ExecutedStep]
    ) -> tuple[tuple[BranchStatus, ...], tuple[WaitingFor, ...]]:
        """Return the branches of the workflow's blocks, and what it waits for there and elsewhere."""
        is_block = isinstance(slip.next_step, BlockSpec)
        places = [step.place for step in ran if step.is_block] + ([slip.place] if is_block else [])
        if not places:
            return (), waiting_for(record)
        store, live = self._store("status"), slip.place if is_block and record.state in GOES_ON else None
        branches = tree_of(store, self.correlation_id, places, live=live)
        path = slip.next_step.step_id if is_block and slip.next_step is not None else None
        if live is None or path is None or not record.suspended:
            return branches, waiting_for(record)
        hop = store.hop(record.hop_id)
        return branches, (waits_of_block(path, branches, hop), *waits_of_tree(branches))

    def _status_by_envelope(self, record: WorkflowRecord) -> WorkflowStatus:
        """Return what the envelope alone tells: only a newer version can read it, or what left it is damaged."""
        executed, remaining = step_ids_in(record.envelope)
        return WorkflowStatus(
            correlation_id=self.correlation_id,
            state=current_state(record),
            step_id=remaining[0] if remaining else None,
            activity=None,
            queue=record.queue,
            attempt=record.attempt,
            executed=executed,
            remaining=remaining,
            failure=record.failure,
            created_at=record.created_at,
            updated_at=record.updated_at,
            retry_at=record.retry_at,
            waiting_for=waiting_for(record),
            origin=record.origin,
        )

    async def result(self, timeout: float | None = None) -> WorkflowResult:  # noqa: ASYNC109 - as `AsyncResult.get`
        """Wait until the workflow ends and return its outputs.

        `timeout` is in seconds; None waits forever. Raises a `WorkflowError` if the workflow did not complete:
        `WorkflowFailed` with step, error class and text, its subclass `WorkflowParked` if the workflow waits for a
        person, or `WorkflowCancelled`. The `__cause__` of the first two shows what the step raised, with its frames.
        Raises `TimeoutError` (the workflow goes on), `UnknownWorkflow`, and `Unreachable` if the store is unavailable
        (call again). A step may not wait: unless the workflow has ended, it gets `WaitInsideStep`, or
        `TimeoutError` for `timeout=0`.
        """
        reminder = _Reminder(self)
        for wait in _waits(timeout):
            result = await asyncio.to_thread(reminder.look, self._ended)
            if result is not None:
                return result
            self._check_wait(wait)
            await asyncio.sleep(wait)
        raise await asyncio.to_thread(self._too_slow, timeout)

    def result_sync(self, timeout: float | None = None) -> WorkflowResult:
        """Do what `result` does, for code without an event loop."""
        reminder = _Reminder(self)
        for wait in _waits(timeout):
            result = reminder.look(self._ended)
            if result is not None:
                return result
            self._check_wait(wait)
            time.sleep(wait)
        raise self._too_slow(timeout)

    async def pending(self) -> Sequence[PendingWait]:
        """Return what somebody, or a signal, could answer now, oldest first, also in branches.

        The `step_id` of a wait in a branch is the path of its step. Whoever reads it gets the tokens: show them to
        nobody who may not answer. Raises `UnknownWorkflow`.
        """
        return await asyncio.to_thread(self.pending_sync)

    def pending_sync(self) -> Sequence[PendingWait]:
        """Do what `pending` does, for code without an event loop."""
        record = self._record("pending")
        found = [pending_wait(wait, record.hop_id) for wait in open_waits(record)]
        if is_at_block(record):
            for hop in hops_below(self._store("pending"), record.hop_id):
                found += [pending_wait(wait, hop.hop_id) for wait in open_in(hop.waits)]
            found.sort(key=lambda wait: wait.since)
        return found

    async def signal(
        self, name: str, payload: object = None, *, path: str | None = None, signal_id: str | None = None, by: str = ""
    ) -> Answered:
        """Send a signal with JSON: it settles the oldest open wait of this name, or is kept for one to come.

        With the `path` of a branch, or of the step at which it stands, the oldest one in that branch is settled, and
        nothing is kept. A second signal with the same `signal_id` changes nothing (`repeated`): pass one if the call
        may be made twice. `by` says who sent it. Raises `SignalRefused` if the workflow has ended or keeps 1000, or if
        nothing in the branch waits for it, `InvalidAnswer` if the payload is no JSON or has more than 32 KiB,
        `InvalidInput` (`unknown_path`, …), and `UnknownWorkflow`.
        """
        return await asyncio.to_thread(self.signal_sync, name, payload, path=path, signal_id=signal_id, by=by)

    def signal_sync(
        self, name: str, payload: object = None, *, path: str | None = None, signal_id: str | None = None, by: str = ""
    ) -> Answered:
        """Do what `signal` does, for code without an event loop."""
        name, by = checked_wait_name(name), checked_by(by)
        call = uuid.uuid4().hex if signal_id is None else checked_signal_id(signal_id)
        (text,) = answers_of(payload, parts=(WHOLE,), about=About()).values()
        check_size([text], LIMITS.max_signal)
        store = self._asked("signal")
        self._transport.check_broker()
        below = self._at("signal", path).branch if path is not None else None
        resolution = store.signal(self.correlation_id, name, text, by=by, call=call, below=below)
        if below is not None and resolution.outcome == "unknown":
            self._record("signal")
            text = f"nothing in {path!r} waits for {name!r}"
            raise SignalRefused("not_awaited", self.correlation_id, text)
        self._known("signal", resolution.outcome)
        if resolution.outcome == "ended":
            raise SignalRefused("workflow_ended", self.correlation_id, "the workflow has ended")
        if resolution.outcome == "too_many":
            kept = f"the workflow keeps {LIMITS.max_signals} that no wait has taken; wait until it goes on"
            raise SignalRefused("too_many_signals", self.correlation_id, kept)
        if resolution.hop is not None:
            send_on(self._transport, resolution.hop)
        return answered(resolution, parts=(WHOLE,))

    async def cancel(self) -> bool:
        """Cancel the workflow; True if it is cancelled, now or earlier, False if it ended in another way.

        No further step begins, and nothing that a running step does is recorded. The run is cancelled when its
        worker renews its lease, within a quarter of `paigeant_lease`. If it sleeps, a worker cancels the provider's job
        that it sleeps for, also in branches (of the first 1000 that sleep). Raises `UnknownWorkflow`.
        """
        return await asyncio.to_thread(self.cancel_sync)

    def cancel_sync(self) -> bool:
        """Do what `cancel` does, for code without an event loop."""
        store, record = self._asked("cancel"), self._record("cancel")
        asleep = asleep_in(store, record) if is_at_block(record) else []
        if self._known("cancel", store.cancel(self.correlation_id)) != "cancelled":
            return False
        outbox = Outbox(self._transport.publisher, registry)
        end = time.monotonic() + SEND_FOR
        for sending in begin_calling_off(store, outbox, self.correlation_id, asleep):
            sending.ends_within(max(0.0, end - time.monotonic()))
        return True

    async def redrive(self, path: str | None = None, *, discard_journal: bool = False) -> bool:
        """Let a parked workflow go on, with all attempts of its step available again; False if nothing is parked.

        If it is not its own step that is parked, all its parked branches go on. With the `path` of a step or a branch
        (`readings/3/reader`), only what is parked there does, while others may go on. Calls in the step's journal are
        not made again. With `discard_journal` they are, and are paid for once more: use it if the code has changed too
        much. Raises `InvalidInput` (`unknown_path`) and `UnknownWorkflow`.
        """
        return await asyncio.to_thread(self.redrive_sync, path, discard_journal=discard_journal)

    def redrive_sync(self, path: str | None = None, *, discard_journal: bool = False) -> bool:
        """Do what `redrive` does, for code without an event loop."""
        store = self._asked("redrive")
        if path is None:
            answer = store.redrive(self.correlation_id, discard_journal=discard_journal)
            if self._known("redrive", answer) == "redriven":
                return True
            record = self._record("redrive")
            hop = store.hop(record.hop_id) if is_at_block(record) else None
        else:
            hop = self._at("redrive", path).hop
        again = False
        for place in parked_at(store, hop) if hop is not None else ():
            answer = store.redrive(self.correlation_id, place=place, discard_journal=discard_journal)
            again = answer == "redriven" or again
        return again

    def _at(self, operation: str, path: str) -> At:
        record = self._record(operation)
        with self._kept(operation):
            return at_path(self._store(operation), record, path)

    async def events(self, after: str | None = None) -> AsyncIterator[WorkflowEvent]:
        """Yield what happens to the workflow, from its start or from the cursor `after`, until it ends.

        If the workflow streams, events of type `agent` show what its agents do while they run, and an event of type
        `events_dropped` says how many a late reader has missed. Each tells the path of its step. A reader who goes on
        from the cursor of the last event seen misses none of the other events and sees none twice. A step may not wait
        for more: it gets `WaitInsideStep` once it has all there is, unless the workflow has ended.
        """
        reminder, reading = _Reminder(self), EventReading(after)
        for wait in _waits(None):
            batch, ended = await asyncio.to_thread(reminder.look, partial(self._read_on, reading))
            for event in batch:
                yield event
            if ended and not reading.found:
                return
            if not reading.found:
                self._check_wait(wait)
                await asyncio.sleep(wait)

    def events_sync(self, after: str | None = None) -> Iterator[WorkflowEvent]:
        """Do what `events` does, for code without an event loop."""
        reminder, reading = _Reminder(self), EventReading(after)
        for wait in _waits(None):
            batch, ended = reminder.look(partial(self._read_on, reading))
            yield from batch
            if ended and not reading.found:
                return
            if not reading.found:
                self._check_wait(wait)
                time.sleep(wait)

    def events_so_far(self, after: str | None = None) -> list[WorkflowEvent]:
        """Return what has happened so far, without waiting for more."""
        reading = EventReading(after)
        found, _ = self._read_on(reading)
        while reading.found == EVENTS_AT_ONCE:
            found += self._read_on(reading)[0]
        return found

    def _check_wait(self, wait: float) -> None:
        """Raise `WaitInsideStep` if a step would wait."""
        step_id = running_step()
        if wait > 0 and step_id is not None:
            raise WaitInsideStep(step_id, self.correlation_id)

    def _remind(self) -> None:
        """Log that nobody serves the current step, if that is so."""
        if nobody := self._nobody(self.status_sync()):
            text, fields = (
                "waiting for workflow %s: %s",
                {"action": "nobody_serves", "correlation_id": self.correlation_id},
            )
            logger.warning(text, self.correlation_id, nobody, extra=fields)

    def _too_slow(self, timeout: float | None) -> TimeoutError:
        status = self.status_sync()
        ended = f"did not end within {timeout:g} s" if timeout else "has not ended"
        begin = f"workflow {status.correlation_id} {ended}"
        if not status.in_progress:  # it ended after the last look
            return TimeoutError(f"{begin}, but is {status.state} now; call `result` again")
        known = "; ".join(filter(None, (standing(status), self._nobody(status))))
        return TimeoutError(f"{begin} and goes on: {known}")

    def _nobody(self, status: WorkflowStatus) -> str | None:
        """Say that nobody runs the current step, as far as this process can know; None if somebody may.

        Of a block it is about the first branch that waits for a worker, if none has one.
        """
        is_lost = status.runner is not None and status.runner.lapsed_at is not None
        waits = is_lost or status.state in ("queued", "retrying")
        name = status.activity if waits else waits_for_worker(status.branches)
        if name is None:
            return None
        store = self._store("result")
        if not store.shared:
            if self._transport.serves(name):
                return None
            missing = "`ActivityExecutor`" if name == FLOW else f"`ActivityExecutor` for {name!r}"
            return (
                f"in memory, no executor: no other process can reach it, and this one has no {missing}; start one, or "
                "set `PAIGEANT_REDIS_URL` (or `PAIGEANT_TRANSPORT`) and start a worker"
            )
        unswept = store.unswept()
        if unswept is not None and unswept < UNSWEPT:
            return None
        since = f"for {unswept:.0f} s" if unswept is not None else "so far"
        return (
            f"no worker has used the store {store.address} {since} (prefix {self._transport.settings.prefix!r}); start "
            "one, or compare with the store that it prints when it starts"
        )

    def _ended(self) -> WorkflowResult | None:
        record = self._record("result")
        if record.state == "running":
            return None
        if record.state == "cancelled":
            raise WorkflowCancelled(self.correlation_id)
        failure = record.failure
        if waits_for_branches(record):
            status = self.status_sync()
            if status.state != "parked":  # somebody has just redriven it
                return None
            failure = status.failure or record.failure
        if failure is not None:
            error = WorkflowParked if record.state == "parked" else WorkflowFailed
            # The frames here are ours alone. What was raised on the worker is the cause, as text.
            cause = RemoteTraceback(str(failure.cause)) if failure.cause is not None else None
            raise error(self.correlation_id, failure.step_id, failure.error_class, failure.text) from cause
        store = self._store("result")
        slip = self._message(record).slip
        with self._kept("result"):
            executed = executed_of(store, self.correlation_id, slip)
            outputs = outputs_in(store, self.correlation_id, executed)
        used = used_by(slip.executed, earlier=slip.earlier)
        return WorkflowResult(
            output=outputs[-1].output if outputs else None,
            outputs={output.step_id: output.output for output in outputs},
            status=record.state,
            usage=used.counters,
            cost=used.cost,
            steps=tuple(outputs),
        )

    async def conversation(self, name: str | None = None, *, conversation_id: str | None = None) -> list[JsonValue]:
        """Return the messages of a conversation as JSON: that of a name in this workflow, or that of an id.

        `ModelMessagesTypeAdapter.validate_python` of pydantic-ai reads them. The list is empty if nothing was said yet,
        or longer ago than `paigeant_result_ttl`.
        """
        return await asyncio.to_thread(self.conversation_sync, name, conversation_id=conversation_id)

    def conversation_sync(self, name: str | None = None, *, conversation_id: str | None = None) -> list[JsonValue]:
        """Do what `conversation` does, for code without an event loop."""
        given = conversation_id if conversation_id is not None else name
        if not isinstance(given, str) or (fault := conversation_fault(given)):
            text = fault if isinstance(given, str) else "pass the name of one, or its `conversation_id`"
            raise InvalidInput("bad_conversation", "conversation", text)
        key = ConversationKey(given, None if conversation_id is not None else self.correlation_id)
        self._record("conversation")
        return messages_in(batches_in(self._store("conversation").conversation(key) or ""))

    def _read_on(self, reading: EventReading) -> tuple[list[WorkflowEvent], bool]:
        # The state is read first, so that the event that ended the workflow is in this batch or an earlier one.
        record, store = self._record("events"), self._store("events")
        stored = store.events(self.correlation_id, after=reading.after, limit=EVENTS_AT_ONCE)
        return reading.whole(stored, store, record), record.state != "running"

    def _asked(self, operation: str) -> Store:
        """Return the store, but ask it for no id that no workflow can have."""
        store = self._store(operation)
        if not is_correlation_id(self.correlation_id):
            raise UnknownWorkflow(self.correlation_id, store.address)
        return store

    def _known(self, operation: str, answer: str) -> str:
        if answer == "unknown":
            raise UnknownWorkflow(self.correlation_id, self._store(operation).address)
        return answer

    def _record(self, operation: str) -> WorkflowRecord:
        store = self._asked(operation)
        record = store.workflow(self.correlation_id)
        if record is None:
            raise UnknownWorkflow(self.correlation_id, store.address)
        return record

    @contextmanager
    def _kept(self, operation: str) -> Iterator[None]:
        """Raise `UnknownWorkflow` if something is missing because the workflow has just expired."""
        try:
            yield
        except StoreCorrupt:
            self._record(operation)
            raise

    def _message(self, record: WorkflowRecord) -> PaigeantMessage:
        # The store keeps what a worker has accepted; the limits of this process may be lower than that worker's.
        return reread(record.envelope)


class _Reminder:
    """Lets a wait that takes long log, once, that nobody serves the step that it waits for."""

    def __init__(self, handle: WorkflowHandle) -> None:
        self._handle, self._at = handle, time.monotonic() + REMIND_AFTER

    def look(self, ask: Callable[[], T]) -> T:
        """Return what a round of the wait finds."""
        found = ask()
        if time.monotonic() > self._at:
            self._at = math.inf
            self._handle._remind()
        return found


def _waits(timeout: float | None) -> Iterator[float]:
    """Yield growing pauses until `timeout` has passed, then one last time without a pause."""
    if timeout is not None and not (isinstance(timeout, (int, float)) and timeout == timeout):  # no NaN
        raise InvalidInput("invalid_input", "timeout", "must be a number of seconds, or None to wait forever")
    end = None if timeout is None else time.monotonic() + timeout
    wait = FIRST_WAIT
    while end is None or time.monotonic() < end:
        yield wait if end is None else max(0.0, min(wait, end - time.monotonic()))
        wait = min(LONGEST_WAIT, wait * 1.5)
    yield 0.0
