"""The journal of the hop that runs here: what earlier attempts recorded, and where this one records its calls."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime

from paigeant_celery.activities.real_threads import real
from paigeant_celery.core.errors import HopLost, HopUnknown, NonDeterminismError, NotSerializable, TransientError
from paigeant_celery.core.patience import patience
from paigeant_celery.journal.event_feed import EventFeed
from paigeant_celery.journal.operations import Operations
from paigeant_celery.journal.pieces import in_pieces, whole
from paigeant_celery.journal.record import CallKey, CallKind, Record, change_in, differences, parse_key, parse_record
from paigeant_celery.journal.survival import AFTER_MODEL, Unwritten
from paigeant_celery.store.port import Closing, JournalStore

__all__ = [
    "MAX_RECORD",
    "OUTCOME",
    "HopJournal",
    "calling",
    "current_journal",
    "journalling",
    "surrounding_call",
    "surrounding_journal",
]

MAX_RECORD = 64 * 1024 * 1024  # characters; four times the default limit of outputs
OUTCOME = "outcome"  # the entry for what the step gave; the names of calls are JSON lists

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Scope:
    """What surrounds a step's code: the hop's journal, the call that it runs in, and whether that call is recorded."""

    journal: HopJournal
    path: str = ""
    recorded: bool = False


_scope: ContextVar[_Scope | None] = ContextVar("paigeant_journal", default=None)


class HopJournal:
    """What one attempt of a hop replays and records.

    `records` are those of earlier attempts. A call is either found by its key or made; a made call is recorded before
    its result is used. While the store is unavailable, the run waits, within the time limit of the step. May be used
    from any thread and event loop of the hop.
    """

    def __init__(
        self,
        *,
        store: JournalStore,
        closing: Closing,
        step_id: str,
        records: Mapping[str, str],
        stopping: Callable[[], bool] = lambda: False,
        feed: EventFeed | None = None,
    ) -> None:
        self._store, self._closing, self._step_id = store, closing, step_id
        self._records, self._stopping = whole(records), stopping
        self.feed = feed
        self._lock = real().Lock()
        self._runs, self._occurrences = Counter[str](), Counter[CallKey]()
        self._unwritten = Unwritten()
        self._making = self._resting = 0
        recorded = [key for key in map(parse_key, self._records) if key is not None]
        self._last = _last_places(recorded)
        self._ahead = _model_requests(recorded)
        self._operations = Operations(self._records)
        self._drifted: set[str] = set()
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

    def keep(self, outcome: str) -> None:
        """Keep what the step gave for whoever redrives the hop. Blocks; raises `TransientError`.

        Nothing is kept if this owner may no longer write, or has closed the hop.
        """
        for records in in_pieces(OUTCOME, outcome):
            if not self._store.record(self._closing, records):
                return

    def lose(self) -> None:
        """Let the run begin no more calls: the hop is not this owner's any more. May be called from any thread."""
        self.lost = True

    def check_held(self) -> None:
        """Raise `HopLost` if an answer of the store has told that this run may not go on."""
        if self.lost:
            raise HopLost(self.hop_id)

    @property
    def at_rest(self) -> bool:
        """Whether the run waits before its next call because the worker is ending, and no call is in progress."""
        return self._resting > 0 and self._making == 0

    def next_run_id(self, agent_name: str) -> str:
        """Return the id of the next run of an agent here; it is the same in every attempt."""
        scope = _scope.get()
        name = f"{scope.path}/{agent_name}" if scope is not None and scope.path else agent_name
        with self._lock:
            number = self._runs[name]
            self._runs[name] += 1
            self._unwritten.run_begins(f"{name}:{number}")
        return f"{self.hop_id}:{name}:{number}"

    def key(self, run_id: str, step: int, kind: CallKind, *, name: str = "", call_id: str = "") -> CallKey:
        """Return the key of the call that begins now."""
        run = run_id.removeprefix(f"{self.hop_id}:")
        first = CallKey(run=run, step=step, kind=kind, name=name, call_id=call_id)
        with self._lock:
            key = replace(first, occurrence=self._occurrences[first])
            self._occurrences[first] += 1
            self._unwritten.call_begins(key)
        return key

    def operation_key(self, run_id: str, step: int, *, name: str, call_id: str, digest: str) -> CallKey:
        """Return the key of the operation that begins now; `digest` stands for what it is called with."""
        run = run_id.removeprefix(f"{self.hop_id}:")
        first = CallKey(run=run, step=step, kind="operation", name=name, call_id=call_id)
        with self._lock:
            key = self._operations.key(first, digest, ahead=bool(self._ahead.get(run)))
            self._unwritten.call_begins(key)
        return key

    def holds(self, run_id: str, step: int, kind: CallKind, *, name: str, call_id: str) -> bool:
        """Say whether such a call was recorded by an earlier attempt."""
        run = run_id.removeprefix(f"{self.hop_id}:")
        return str(CallKey(run=run, step=step, kind=kind, name=name, call_id=call_id)) in self._records

    def is_ahead(self, run_id: str) -> bool:
        """Say whether an earlier attempt of a run got further: to a model request that is not replayed yet."""
        return bool(self._ahead.get(run_id.removeprefix(f"{self.hop_id}:")))

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
            self._ahead.get(key.run, set()).discard(key)
            record = parse_record(text, step_id=self._step_id, key=key)
            decisive, drifted = differences(record.fingerprint, fingerprint)
            if decisive:
                raise NonDeterminismError(self._step_id, key.label, change_in(decisive))
        except NonDeterminismError as error:
            self.fault = error
            raise
        if set(drifted) - self._drifted:  # one log line for each
            self._drifted.update(drifted)
            logger.warning(
                "%s is replayed although %s; the recorded answer belongs to the earlier version",
                key.label, change_in(drifted), extra={"action": "replay_drift", "hop": self.hop_id},
            )  # fmt: skip
        self.replayed += 1
        self._tell("call_replayed", key)
        return record

    def peek(self, key: CallKey) -> Record | None:
        """Return a record that a replay can do without, because the call is no part of what the run does."""
        text = self._records.get(str(key))
        return parse_record(text, step_id=self._step_id, key=key) if text is not None else None

    @asynccontextmanager
    async def making(self) -> AsyncIterator[None]:
        """Surround a call that is made; if the worker is ending, wait forever first, so that no call is cut short.

        Raises `HopLost` if the run may not go on.
        """
        if self._stopping():
            with self._lock:
                self._resting += 1
            await asyncio.Event().wait()  # the code that runs the hop sees `at_rest` and cancels the run
        self.check_held()
        with self._lock:
            self._making += 1
        try:
            yield
        finally:
            with self._lock:
                self._making -= 1

    async def add(self, key: CallKey, record: Record) -> None:
        """Record a call; raises `HopLost` if this owner may no longer write, `NotSerializable` if it is too large."""
        text = record.encode()
        if len(text) > MAX_RECORD:
            said = f"{key.label} gave {len(text)} characters, but at most {MAX_RECORD} are recorded; return a reference"
            raise NotSerializable("result_too_large", said)
        with self._lock:
            survived = self._unwritten.shown_by(key)
        *first, last = in_pieces(str(key), text)
        for piece in first:
            await self._write(piece)
        await self._write({**{str(earlier): text for earlier, text in survived.items()}, **last})
        with self._lock:  # not earlier, because the write may be cut off
            self._unwritten.forget(survived)
        self.made += 1
        self._tell("call_made", key)

    def add_later(self, key: CallKey, record: Record) -> None:
        """Record a call together with a later one of its run, because it matters only if the run goes on after it."""
        with self._lock:
            self._unwritten.add(key, record.encode(), is_failure=record.failure is not None)

    async def settle(self, run_id: str | None = None) -> None:
        """Record the failures that a run survived, or the step, because it has ended well; may raise as `add` does."""
        run = run_id.removeprefix(f"{self.hop_id}:") if run_id is not None else None
        with self._lock:
            survived = self._unwritten.failed_in(run)
        if survived:
            await self._write({str(key): text for key, text in survived.items()})
            with self._lock:
                self._unwritten.forget(survived)

    def note_start(self, run_id: str, now: datetime) -> None:
        """Record when a run began, if this is its first attempt."""
        key = self.key(run_id, 0, "start")
        if str(key) not in self._records:
            self.add_later(key, Record(result=now.isoformat()))

    def _tell(self, event: str, key: CallKey) -> None:
        if self.feed is not None:
            self.feed.tell(event, run=f"{self.hop_id}:{key.run}", step=str(key.step), call=key.kind, name=key.name)

    async def _write(self, records: Mapping[str, str]) -> None:
        waits = patience()
        while True:
            try:
                if await asyncio.to_thread(self._store.record, self._closing, records):
                    return
                self.lose()
            except HopUnknown:
                self.lose()
            except TransientError as error:  # the step's own timeout limits the wait
                logger.warning("waiting: %s", error, extra={"action": "waiting_for_server"})
            self.check_held()
            await asyncio.sleep(next(waits))

    def _check_new(self, key: CallKey) -> None:
        if key.kind == "operation":  # its place is not known, and it may run beside a call that is recorded
            self._tell_new_operation(key)
            return
        last = self._last.get(key.run)
        if (
            last is not None and (key.step, key.kind != "model") < last
        ):  # a call that may come before or after counts as after
            raise NonDeterminismError(
                self._step_id, key.label, "it was not made when an earlier attempt of the run went on from there"
            )

    def _tell_new_operation(self, key: CallKey) -> None:
        if self._ahead.get(key.run) and key.name not in self._drifted:
            self._drifted.add(key.name)
            logger.warning(
                "%s is made although no earlier attempt of the run that went on from there recorded it",
                key.label, extra={"action": "replay_drift", "hop": self.hop_id},
            )  # fmt: skip


def current_journal() -> HopJournal | None:
    """Return the journal that records the calls of this context; None outside a hop and inside a recorded call."""
    scope = _scope.get()
    return None if scope is None or scope.recorded else scope.journal


def surrounding_journal() -> HopJournal | None:
    """Return the journal of the hop that this context belongs to, even inside a recorded call."""
    scope = _scope.get()
    return scope.journal if scope is not None else None


def surrounding_call() -> str:
    """Return the call that this context is the inside of; empty if it is none."""
    scope = _scope.get()
    return scope.path if scope is not None else ""


@contextmanager
def journalling(journal: HopJournal | None) -> Iterator[None]:
    """Record the calls of the block in `journal`."""
    token = _scope.set(_Scope(journal) if journal is not None else None)
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def calling(path: str, *, recorded: bool) -> Iterator[None]:
    """Mark the block as the inside of a call: if `recorded`, nothing in it is recorded; otherwise `path` names runs."""
    scope = _scope.get()
    token = _scope.set(replace(scope, path=path, recorded=recorded) if scope is not None else None)
    try:
        yield
    finally:
        _scope.reset(token)


def _last_places(recorded: Iterable[CallKey]) -> dict[str, tuple[int, bool]]:
    """Return how far each run went: its last step, and whether calls after that step's model answer are recorded.

    Operations say nothing of it, because their step need not be the run's.
    """
    last: dict[str, tuple[int, bool]] = {}
    for key in recorded:
        if key.kind not in ("start", "operation"):
            place = (key.step, key.kind in AFTER_MODEL)
            last[key.run] = max(place, last.get(key.run, place))
    return last


def _model_requests(recorded: Iterable[CallKey]) -> dict[str, set[CallKey]]:
    """Return the recorded model requests of each run."""
    requests: dict[str, set[CallKey]] = {}
    for key in recorded:
        if key.kind == "model" and not key.name:
            requests.setdefault(key.run, set()).add(key)
    return requests
