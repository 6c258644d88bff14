"""The journal of the hop that runs here: what earlier attempts recorded, and where this one records its calls."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from paigeant_celery.activities.real_threads import real
from paigeant_celery.core.budget import Usage
from paigeant_celery.core.errors import (
    HopLost,
    HopUnknown,
    NonDeterminismError,
    NotSerializable,
    StoreCorrupt,
    TransientError,
)
from paigeant_celery.core.patience import patience
from paigeant_celery.journal.abandoned import Abandoned
from paigeant_celery.journal.course import Course
from paigeant_celery.journal.event_feed import EventFeed
from paigeant_celery.journal.hop_waits import Flight, HopWaits
from paigeant_celery.journal.operations import Operations
from paigeant_celery.journal.pieces import PIECE, in_pieces, name_of_entry, whole
from paigeant_celery.journal.record import (
    PLACELESS,
    CallKey,
    CallKind,
    Record,
    change_in,
    differences,
    number_of,
    parse_record,
)
from paigeant_celery.journal.survival import Unwritten
from paigeant_celery.journal.turns import Turns
from paigeant_celery.journal.waits import Wait, name_of_wait, read_wait
from paigeant_celery.store.port import Closing, JournalStore, Totals

__all__ = ["HELD_FOR", "MAX_RECORD", "OUTCOME", "HopJournal"]

MAX_RECORD = 64 * 1024 * 1024  # characters; four times the default limit of outputs
HELD_FOR = 0.02  # seconds; a step that ends with its model's last answer ends much sooner than that
MOST_HELD = 64 * 1024  # characters of a record; what is larger is not worth the memory
NONE = frozenset[str]()  # for what hardly any hop has: a set takes 0.2 KB, and each hop in flight has a journal
OUTCOME = "outcome"  # the entry for what the step gave; the names of calls are JSON lists

T = TypeVar("T")

logger = logging.getLogger(__name__)


class HopJournal:
    """What one attempt of a hop replays and records.

    `records` are those of earlier attempts. A call is either found by its key or made; a made call is recorded before
    its result is used, but for a last answer, which is held for `HELD_FOR`. While the store is unavailable, the run
    waits, within the time limit of the step. May be used from any thread and event loop of the hop. `totals` are what
    a workflow with limits has used, as the store has answered last.
    """

    def __init__(
        self,
        *,
        store: JournalStore,
        closing: Closing,
        step_id: str,
        records: Mapping[str, str],
        waits: HopWaits,
        stopping: Callable[[], bool] = lambda: False,
        feed: EventFeed | None = None,
        totals: Totals | None = None,
    ) -> None:
        self._store, self._closing, self._step_id, self.waits = store, closing, step_id, waits
        waits.busy_if(self._is_busy)
        self._records, self._stopping = whole(records), stopping
        self.feed = feed
        self.totals = totals
        self._lock = real().Lock()
        self._runs: Counter[str] = Counter()
        self._occurrences: Counter[CallKey] = Counter()
        self._unwritten = Unwritten()
        self._open: set[CallKey] = set()  # calls that are being made
        self._may_wait: dict[CallKey, Flight] = {}  # those of them that may wait
        self._resting = self._asleep = 0
        self._cut_off_asleep: frozenset[str] = NONE
        self._answers: dict[str, int | None] = {}  # run -> number of the latest answer of its model
        self._course = Course(self._records, step_id=step_id)
        self._operations = Operations(self._records)
        self._turns = Turns(filter(None, map(number_of, self._records.values())), given_up=self._lose_order)
        self._drifted: frozenset[str] = NONE
        self._held: dict[str, str] = {}  # written with what comes next, after `HELD_FOR`, or when the hop is completed
        self._kept: dict[str, str] = {}  # known to the store in another form; written with what comes next
        self._spent: dict[str, Usage] = {}  # what calls used whose records are not written yet, by their names
        self._holding: asyncio.AbstractEventLoop | None = None
        self._writing: asyncio.Task[None] | None = None
        self.abandoned = Abandoned()
        self.standing: dict[str, Any] = {}  # run -> its model's latest answer, as the agents' code keeps it
        self.replayed = self.made = 0
        self.fault: NonDeterminismError | None = None
        self.lost = False

    @property
    def hop_id(self) -> str:
        """The hop whose calls are recorded."""
        return self._closing.hop_id

    @property
    def outcome(self) -> str | None:
        """What an earlier attempt's step gave, if its hop could not be closed with it."""
        return self._records.get(OUTCOME)

    @property
    def resumes(self) -> bool:
        """Whether an earlier attempt has recorded anything."""
        return bool(self._records)

    def keep(self, outcome: str) -> None:
        """Keep what the step gave for whoever redrives the hop. Blocks; raises `TransientError`.

        Nothing is kept if this owner may no longer write, or has closed the hop.
        """
        for records in in_pieces(OUTCOME, outcome):
            if not self._store.record(self._closing, records):
                return

    def holding(self) -> AbstractContextManager[None]:
        """Surround the one run of an agent that is its step: the record of its last answer may wait for the end."""
        return _Holding(self)

    def hold_for(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Let the record of a last answer wait if its run is on this loop."""
        self._holding = loop

    @property
    def held(self) -> Mapping[str, str]:
        """The records that are not written yet; COMPLETE takes them along."""
        with self._lock:
            return {**self._kept, **self._held}

    async def write_held(self) -> None:
        """Write the records that are held: something begins, and must not begin before what led to it is recorded."""
        if self._held:
            await self._write({})

    async def write_before(self, key: CallKey) -> None:
        """Write what led to a wait before it is recorded: what is held, and the failures that the step survived."""
        with self._lock:
            survived = self._unwritten.shown_by(key)
        if not survived:
            await self.write_held()
            return
        await self._write({str(earlier): text for earlier, text in survived.items()})
        with self._lock:
            self._unwritten.forget(survived)
        await self.abandoned.cancel(survived)

    def write_held_now(self) -> None:
        """Write them, because the hop is not completed now. Blocks; raises `TransientError` and `HopUnknown`.

        Nothing is written if this owner may no longer write, or has closed the hop.
        """
        if held := self.held:
            self._record(held)
            self.let_go(held)

    def let_go(self, written: Mapping[str, str]) -> None:
        """Hold records no longer, because they are written."""
        with self._lock:
            for name in written:
                self._held.pop(name, None)
                self._kept.pop(name, None)
        self.waits.moved()

    def lose(self) -> None:
        """Let the run begin no more calls: the hop is not this owner's any more. May be called from any thread."""
        self.lost = True

    def check_not_lost(self) -> None:
        """Raise `HopLost` if an answer of the store has told that this run may not go on, or the attempt was left."""
        if self.lost or self.waits.standing is not None:
            raise HopLost(self.hop_id)

    def _is_busy(self) -> bool:
        """Say whether an attempt that stands at a wait must not be left: a call that rests is to be made soon."""
        return self._is_making() or self._resting > 0

    def _is_making(self) -> bool:
        with self._lock:
            flights = [self._may_wait.get(key) for key in self._open]
            return bool(self._held) or any(flight is None or not flight.stands for flight in flights)

    @property
    def at_rest(self) -> bool:
        """Whether the worker is ending, and the run waits before its next call or sleeps with no call in progress."""
        return not self._is_making() and (self._resting > 0 or (self._asleep > 0 and self._stopping()))

    def next_run_id(self, agent_name: str, *, within: str = "") -> str:
        """Return the id of the next run of an agent inside a call; it is the same in every attempt."""
        name = f"{within}/{agent_name}" if within else agent_name
        with self._lock:
            number = self._runs[name]
            self._runs[name] += 1
            self._unwritten.run_begins(f"{name}:{number}")
        return f"{self.hop_id}:{name}:{number}"

    def note_surrounding(self, run_id: str, outer_id: str) -> None:
        """Note that a run begins in the code of another, in a hook or in a tool that is not recorded."""
        with self._lock:
            self._unwritten.run_is_in(run_id.removeprefix(f"{self.hop_id}:"), outer_id.removeprefix(f"{self.hop_id}:"))

    def is_to_begin(self, run_id: str) -> bool:
        """Say whether a run is one that an earlier attempt has begun, and this one has yet to begin."""
        run = run_id.removeprefix(f"{self.hop_id}:")
        with self._lock:
            if run == run_id:  # the code gave the run this id
                return self._course.knows(run) and all(key.run != run for key in self._occurrences)
            name, _, number = run.rpartition(":")
            return not number.isdecimal() or int(number) >= self._runs[name]

    def key(self, run_id: str, step: int, kind: CallKind, *, name: str = "", call_id: str = "") -> CallKey:
        """Return the key of the call that begins now."""
        run = run_id.removeprefix(f"{self.hop_id}:")
        first = CallKey(run=run, step=step, kind=kind, name=name, call_id=call_id)
        with self._lock:
            key = replace(first, occurrence=self._occurrences[first])
            self._occurrences[first] += 1
            self._course.go_on(key)
            self._unwritten.call_begins(key)
        return key

    def operation_key(self, run_id: str, step: int, *, name: str, call_id: str, digests: Mapping[str, str]) -> CallKey:
        """Return the key of the operation that begins now; `digests` stand for what it is called with."""
        run = run_id.removeprefix(f"{self.hop_id}:")
        first = CallKey(run=run, step=step, kind="operation", name=name, call_id=call_id)
        with self._lock:
            key = self._operations.key(first, digests, ahead=self._course.is_behind(run))
            self._unwritten.call_begins(key)
        return key

    def holds(self, run_id: str, step: int, kind: CallKind, *, name: str, call_id: str) -> bool:
        """Say whether such a call was recorded by an earlier attempt."""
        run = run_id.removeprefix(f"{self.hop_id}:")
        return str(CallKey(run=run, step=step, kind=kind, name=name, call_id=call_id)) in self._records

    def is_ahead(self, run_id: str) -> bool:
        """Say whether an earlier attempt of a run got further: to a model request that is not replayed yet."""
        return self._course.is_behind(run_id.removeprefix(f"{self.hop_id}:"))

    def find(self, key: CallKey, fingerprint: Mapping[str, str]) -> Record | None:
        """Return the record of a call, or None if it must be made.

        Raises `NonDeterminismError` if the code asks for something different than before, or for a call that it did
        not make when it continued from here before. A changed text is only logged.
        """
        if self.fault is not None:  # code that swallowed it gets no further: no more calls are made or paid for
            raise self.fault
        text = self._records.get(str(key))
        try:
            if text is None:
                self._check_new(key)
                return None
            self._course.meet(key)
            record = parse_record(text, step_id=self._step_id, key=key)
            decisive, drifted = differences(record.fingerprint, fingerprint)
            if decisive:
                raise NonDeterminismError(self._step_id, key.label, change_in(decisive))
        except NonDeterminismError as error:
            self._stray(error)
            raise
        if set(drifted) - self._drifted:  # one log line for each
            self._drifted |= set(drifted)
            text = f"{key.label} is replayed although {change_in(drifted)}"
            self.tell_drift(f"{text}; the recorded answer belongs to the earlier version")
        self._answered(key, record.number)
        self.replayed += 1
        self.waits.moved()
        self._tell("call_replayed", key)
        return record

    def peek(self, key: CallKey) -> Record | None:
        """Return a record that a replay can do without, because the call is no part of what the run does."""
        text = self._records.get(str(key))
        return parse_record(text, step_id=self._step_id, key=key) if text is not None else None

    async def turn(self, number: int | None) -> None:
        """Wait until the code may have the answer of the call with this number: after all that ended before it.

        Without this, parallel calls would steer a replay otherwise than they steered the attempts before.
        """
        await self._turns.take(number)

    def check_end(self, run_id: str) -> None:
        """Raise `NonDeterminismError` if a run gives its result although it went on from here in an earlier attempt."""
        try:
            self._course.check_end(run_id.removeprefix(f"{self.hop_id}:"))
        except NonDeterminismError as error:
            self._stray(error)
            raise

    def step_of(self, run_id: str) -> int:
        """Return the step that a run has come to; 0 if it has asked its model nothing yet."""
        with self._lock:
            return self._course.step_of(run_id.removeprefix(f"{self.hop_id}:"))

    def making(self, key: CallKey, *, may_wait: bool = False) -> AbstractAsyncContextManager[None]:
        """Surround a call that is made; if the worker is ending, wait forever first, so that no call is cut short.

        One that `may_wait` keeps nobody from leaving the attempt while it stands at a wait. Raises `HopLost` if the
        run may not go on.
        """
        return _MakingWithWaits(self, key) if may_wait else _Making(self, key)

    async def begin(self, key: CallKey) -> None:
        """Begin what `making` surrounds."""
        await self.write_held()
        if self._stopping():
            with self._lock:
                self._resting += 1
            await asyncio.Event().wait()  # the code that runs the hop sees `at_rest` and cancels the run
        self.check_not_lost()
        with self._lock:
            self._open.add(key)
        self._turns.begin_work()
        self.waits.moved()

    def let_wait(self, key: CallKey, flight: Flight) -> None:
        """Note in which flight a call is made that may wait."""
        with self._lock:
            self._may_wait[key] = flight

    def end(self, key: CallKey) -> None:
        """End it."""
        self._turns.end_work()
        with self._lock:
            self._open.discard(key)
            self._may_wait.pop(key, None)
        self.waits.moved()

    async def add(
        self,
        key: CallKey,
        record: Record,
        *,
        instead_of: CallKey | None = None,
        may_be_last: bool = False,
        is_inside: bool = False,
        is_kept: bool = False,
        spent: Usage | None = None,
    ) -> int | None:
        """Record a call that has ended, and return its number, whose turn must be awaited; None for an operation.

        With `instead_of`, the record replaces that of an earlier call, and the next call has the key of this one: it
        only brought the earlier answer up to date. One that `may_be_last` of an agent's step is held for `HELD_FOR`, so
        that COMPLETE can take it along. One that `is_inside` another has no number: a replay of that one does not come
        to it. One that `is_kept` says what the store would tell another attempt as well, so that it is written with
        what comes next. `spent` is what the call used. Raises `HopLost` if this owner may no longer write,
        `NotSerializable` if the record is too large.
        """
        number = self._number(key) if not is_inside else None
        try:
            text = replace(record, number=number, open=self._open_before(key)).encode()
            if len(text) > PIECE:  # pieces of two records must not be taken for one
                instead_of = None
            self._note_spent(instead_of or key, spent)
            is_held = may_be_last and instead_of is None and self._hold(key, text)
            if not is_held and not (is_kept and self._set_aside(self._kept, key, text)):
                await self._add(key, text, place=instead_of or key)
        except BaseException:
            if number is not None:
                self._turns.leave(number)
            raise
        self._answered(key, number)
        self.made += 1
        if instead_of is not None:
            self._take_back(key)
        else:
            self._tell("call_made", key)
        return number

    def add_later(
        self,
        key: CallKey,
        record: Record,
        *,
        answered: bool = False,
        cancel: Callable[[], Coroutine[Any, Any, object]] | None = None,
        spent: Usage | None = None,
    ) -> int | None:
        """Record a call together with a later one of its run, because it matters only if the run goes on after it.

        Return its number, whose turn must be awaited, if it is `answered`: the code gets its error. `cancel` ends a job
        that the run gave up, when it is certain that it is not asked for again.
        """
        if cancel is not None:
            self.abandoned.add(key, cancel)
        number = self._number(key) if answered else None
        self._note_spent(key, spent)
        with self._lock:
            text, failed = replace(record, number=number).encode(), record.failure is not None or cancel is not None
            self._unwritten.add(key, text, is_failure=failed)
        return number

    async def settle(self, run_id: str | None = None) -> None:
        """Record the failures that a run survived, or the step, because it has ended well; may raise as `add` does."""
        run = run_id.removeprefix(f"{self.hop_id}:") if run_id is not None else None
        with self._lock:
            survived = self._unwritten.failed_in(run)
        if survived:
            await self._write({str(key): text for key, text in survived.items()})
            with self._lock:
                self._unwritten.forget(survived)
            await self.abandoned.cancel(survived)  # not earlier: another owner, or the next attempt, may want the job

    def note_start(self, run_id: str, now: datetime) -> None:
        """Record when a run began, if this is its first attempt."""
        key = self.key(run_id, 0, "start")
        if str(key) not in self._records:
            self.add_later(key, Record(result=now.isoformat()))

    async def _add(self, key: CallKey, text: str, *, place: CallKey) -> None:
        if len(text) > MAX_RECORD:
            said = f"{key.label} gave {len(text)} characters, but at most {MAX_RECORD} are recorded; return a reference"
            raise NotSerializable("result_too_large", said)
        with self._lock:
            survived = self._unwritten.shown_by(key)
        *first, last = in_pieces(str(place), text)
        for piece in first:
            await self._write(piece)
        await self._write({**{str(earlier): text for earlier, text in survived.items()}, **last})
        with self._lock:  # not earlier, because the write may be cut off
            self._unwritten.forget(survived)
        await self.abandoned.cancel(survived)  # not earlier: another owner, or the next attempt, may want the job

    def _hold(self, key: CallKey, text: str) -> bool:
        """Keep a record back if the loop of this run writes it in time; False if it must be written now.

        Watchers are told of an answer at once, and a job is ended at once that the answer shows to be given up.
        """
        loop = asyncio.get_running_loop()
        if self.feed is not None or loop is not self._holding or self._stopping():
            return False
        if not self._set_aside(self._held, key, text):
            return False
        loop.call_later(HELD_FOR, self._begin_writing)
        return True

    def _set_aside(self, aside: dict[str, str], key: CallKey, text: str) -> bool:
        if len(text) > MOST_HELD:
            return False
        with self._lock:
            survived = self._unwritten.shown_by(key)
            if self._unwritten.is_inside(key.run) or any(earlier.kind != "start" for earlier in survived):
                return False
            aside.update({**{str(earlier): text for earlier, text in survived.items()}, str(key): text})
            self._unwritten.forget(survived)
        return True

    def _begin_writing(self) -> None:
        if self._held:
            self._writing = asyncio.get_running_loop().create_task(self._write_in_time())

    async def _write_in_time(self) -> None:
        with suppress(HopLost, StoreCorrupt):  # the next call of the run raises it, or the completion
            await self.write_held()

    def _number(self, key: CallKey) -> int | None:
        """Return the place of a call that ends now.

        Operations have none, because hooks call them in any order, and asking has none, because only its wait ends.
        """
        return self._turns.next() if key.kind not in ("operation", "ask") else None

    def _open_before(self, key: CallKey) -> tuple[str, ...]:
        """Return the calls of earlier steps whose end the run did not know when it went on to a call."""
        with self._lock:
            unknown = self._open | self._unwritten.not_shown_by(key)
            of_run = [other for other in unknown if other.run == key.run and other.step < key.step]
            return tuple(str(other) for other in of_run if other.kind not in PLACELESS)

    def _stray(self, fault: NonDeterminismError) -> None:
        self.fault = fault
        self._turns.give_up()  # what waits for a call that is not made any more must not wait

    def _lose_order(self) -> None:
        text = "a recorded call is not made again, and so the others are answered in the order in which they are made"
        self.tell_drift(text)

    def tell_drift(self, text: str) -> None:
        """Say that the code does something otherwise than before that does not forbid the replay."""
        logger.warning("%s", text, extra={"action": "replay_drift", "hop": self.hop_id})

    async def noted_until(self, key: CallKey, until: datetime) -> datetime:
        """Return when a sleep is over, as it was when an attempt first came to it."""
        found = self.find(key, {})
        if found is not None:
            return datetime.fromisoformat(found.result)
        await self._add(key, Record(result=until.isoformat()).encode(), place=key)
        return until

    async def wake_at(self, run_id: str, delay: float, now: datetime) -> datetime:
        """Return when a wait of a run is over that takes `delay` seconds, counted from when it first began.

        What the run waits for may be recorded; then the wait is over now.
        """
        run = run_id.removeprefix(f"{self.hop_id}:")
        with self._lock:
            if self._course.is_next_recorded(run):
                return now
            after = self._answers.get(run)
            begun = read_wait(self._records.pop(name_of_wait(run), None))  # once, so that nothing is skipped twice
        until = now + timedelta(seconds=max(0.0, delay))
        if begun is not None and begun.after == after:
            return min(begun.until, until)
        await self._write({name_of_wait(run): Wait(after=after, until=until).encode()})
        return until

    def cut_off_asleep(self, run_id: str) -> None:
        """Note that a run is cut off while it sleeps."""
        with self._lock:
            self._cut_off_asleep |= {run_id.removeprefix(f"{self.hop_id}:")}

    def was_cut_off_asleep(self, run: str) -> bool:
        """Say whether a run was cut off while it slept."""
        with self._lock:
            return run in self._cut_off_asleep

    def is_given_up(self, run_id: str) -> bool:
        """Say whether a run was cut off in the sleep that begins now, and an earlier attempt went on without it."""
        with self._lock:
            return self._course.is_given_up(run_id.removeprefix(f"{self.hop_id}:"))

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Surround a wait that a later attempt goes on with, so that a worker that ends need not wait for it."""
        with self._lock:
            self._asleep += 1
        try:
            yield
        finally:
            with self._lock:
                self._asleep -= 1

    def _answered(self, key: CallKey, number: int | None) -> None:
        if key.kind == "model" and not key.name:
            self._answers[key.run] = number

    def _check_new(self, key: CallKey) -> None:
        if key.kind in PLACELESS:  # its place is not known, and it may run beside a call that is recorded
            self._tell_new_operation(key)
        else:
            self._course.check_new(key)

    def _take_back(self, key: CallKey) -> None:
        with self._lock:
            self._occurrences[replace(key, occurrence=0)] -= 1

    def _tell(self, event: str, key: CallKey) -> None:
        if self.feed is not None:
            self.feed.tell(event, run=f"{self.hop_id}:{key.run}", step=str(key.step), call=key.kind, name=key.name)

    async def _write(self, records: Mapping[str, str]) -> None:
        """Write records, and before them what is held; nothing of an attempt that was left."""
        self.check_not_lost()
        held = self.held
        await self.patiently(partial(self._record, {**held, **records}))
        self.let_go(held)

    def _note_spent(self, key: CallKey, spent: Usage | None) -> None:
        if spent is not None and self.totals is not None:
            with self._lock:
                self._spent[str(key)] = spent

    def _record(self, records: Mapping[str, str]) -> bool:
        """Write records and, if the workflow has limits, count what their calls used. Blocks."""
        if self.totals is None:
            return bool(self._store.record(self._closing, records))
        with self._lock:
            spent = {name: self._spent[call] for name in records if (call := name_of_entry(name)) in self._spent}
        answer = self._store.record(self._closing, records, spent=spent)
        if isinstance(answer, Totals):
            self.totals = answer
        with self._lock:
            for name in spent:
                self._spent.pop(name_of_entry(name), None)
        return bool(answer)

    async def patiently(self, ask: Callable[[], T | None]) -> T:
        """Ask the store beside the event loop, again and again while it is away; no attempt is left meanwhile.

        Raises `HopLost` if its answer is none, because this owner may no longer write, or if it does not know the hop.
        """
        waits = patience()
        with self.waits.flying():
            while True:
                try:
                    if answer := await asyncio.to_thread(ask):
                        return answer
                    self.lose()
                except HopUnknown:
                    self.lose()
                except TransientError as error:  # the step's own timeout limits the wait
                    logger.warning("waiting: %s", error, extra={"action": "waiting_for_server"})
                self.check_not_lost()
                await asyncio.sleep(next(waits))

    def _tell_new_operation(self, key: CallKey) -> None:
        if self._course.is_behind(key.run) and key.name not in self._drifted:
            self._drifted |= {key.name}
            self.tell_drift(
                f"{key.label} is made although no earlier attempt of the run that went on from there recorded it"
            )


class _Holding:
    """The block in which the record of the last answer may wait."""

    __slots__ = ("_journal",)

    def __init__(self, journal: HopJournal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        self._journal.hold_for(asyncio.get_running_loop())

    def __exit__(self, *error: object) -> None:
        self._journal.hold_for(None)


class _Making:
    """The block in which a call is made; a generator would take several times its memory while a model is asked."""

    __slots__ = ("_journal", "_key")

    def __init__(self, journal: HopJournal, key: CallKey) -> None:
        self._journal, self._key = journal, key

    async def __aenter__(self) -> None:
        await self._journal.begin(self._key)

    async def __aexit__(self, *error: object) -> None:
        self._journal.end(self._key)


class _MakingWithWaits(_Making):
    """The block in which a call is made that may wait."""

    __slots__ = ("_flying",)

    async def __aenter__(self) -> None:
        await super().__aenter__()
        self._flying = self._journal.waits.flying()
        self._journal.let_wait(self._key, self._flying.__enter__())

    async def __aexit__(self, *error: object) -> None:
        self._flying.__exit__(None, None, None)
        await super().__aexit__(*error)
