"""Replaying the step of an agent from a dump: on its recorded answers alone, without a server, a broker or a key.

`celery paigeant replay dump` writes a script that does this. The agent's own code runs (its hooks, validators, history
processors, `deps_factory`, and tools with `metadata={"paigeant": False}`); no model and no recorded tool is called.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from textwrap import indent
from typing import Any

from pydantic import JsonValue

from paigeant_celery.activities.port import StepLimits
from paigeant_celery.activities.registry import registry
from paigeant_celery.agents.activity import AgentActivity
from paigeant_celery.agents.keyless import without_keys
from paigeant_celery.core.budget import Usage, used_by
from paigeant_celery.core.causes import Cause
from paigeant_celery.core.errors import InvalidInput, MessageError, PaigeantError, UsageError
from paigeant_celery.core.flow import Completed, Diverged, Failed, Stands, TimedOut, Unsendable
from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.message import PaigeantMessage, reread
from paigeant_celery.core.replays import CallNotRecorded, HopDump, read_dump
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import ExecutedStep, RoutingSlip
from paigeant_celery.core.waits import mark_of
from paigeant_celery.hop.ended import read_kept
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.observed import Observed
from paigeant_celery.hop.run import Opened, Outcome, StepRunner, clock_of
from paigeant_celery.hop.service import step_policy
from paigeant_celery.hop.surroundings import Surroundings
from paigeant_celery.journal.event_feed import EventFeed
from paigeant_celery.journal.hop_journal import OUTCOME, HopJournal
from paigeant_celery.journal.hop_waits import HopWaits
from paigeant_celery.journal.pieces import whole
from paigeant_celery.journal.record import CallKey, Record
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.outputs import Outputs
from paigeant_celery.store.port import Claim, Claimed, Closing, HopRecord, NewWorkflow, Totals
from paigeant_celery.store.steps import step_at

__all__ = ["Replayed", "replay", "replay_sync", "run_script"]

OWNER = "replay"
AS_MADE: Any = object()  # in the place of deps: those that the step makes
NO_LIMIT = 1 << 40  # bytes and steps; what a worker accepted is not judged again
TIMEOUT = 60.0  # seconds; a replay that takes longer stands at something that was cut off


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a replay came to.

    `output` is what the step gave, if it `completed`. Otherwise `failure` says why not, and `cause` which errors that
    came from; or it `waits_for` something that nobody had answered. `differences` say what is not as it was recorded,
    in words. `calls` is how many recorded calls were answered.
    """

    hop_id: str
    path: str
    completed: bool
    output: JsonValue = field(default=None, repr=False)
    failure: str | None = field(default=None, repr=False)
    cause: Cause | None = field(default=None, repr=False)
    waits_for: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    calls: int = 0

    @property
    def same(self) -> bool:
        """Whether the step completed, and nothing differs from what was recorded."""
        return self.completed and not self.differences


async def replay(
    dump: str | Path | Mapping[str, object] | HopDump,
    *,
    deps: object = AS_MADE,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - of the step, as a policy has it
) -> Replayed:
    """Run the step of a dump on its recorded answers, in this process, with the agent that it has loaded.

    `dump` is the path of a file, its text, or what the JSON in it is. `deps` stand for those that the agent's
    `deps_factory` or `deps_type` would make. Nothing is sent anywhere: a call that is not on record ends the replay,
    and `Replayed.failure` says which. Raises `InvalidInput` if it is no dump, `UnknownActivity` if the agent is not
    loaded, and `UsageError` if it is no agent, or its model cannot be made without its provider's package.
    """
    read = _read(dump)
    message = reread(dumps(read.envelope))
    activity = registry.get(message.step.activity)
    if not isinstance(activity, AgentActivity):
        raise UsageError(f"{activity.name!r} is no agent here; only steps of agents can be replayed")
    if deps is not AS_MADE:
        activity = activity.giving(deps)
    with without_keys(activity.model):
        return await _replayed(read, message, activity, timeout)


def replay_sync(
    dump: str | Path | Mapping[str, object] | HopDump,
    *,
    deps: object = AS_MADE,
    timeout: float = TIMEOUT,
) -> Replayed:
    """Do what `replay` does, for code without an event loop."""
    return asyncio.run(replay(dump, deps=deps, timeout=timeout))


def run_script(
    dump: str | Path | Mapping[str, object] | HopDump, *, modules: Sequence[str] = (), deps: object = AS_MADE
) -> int:
    """Do what a script of `celery paigeant replay dump` does: replay, print what came of it, and return an exit code.

    `modules` are imported first: those that define the agent. The code is 0 if the step completed and nothing differs
    from the record, 1 if not, and 2 if it could not be replayed.
    """
    sys.path.insert(0, "")  # as `celery` finds modules
    try:
        for module in modules:
            importlib.import_module(module)
        found = replay_sync(dump, deps=deps)
    except (PaigeantError, ImportError) as error:
        print(f"cannot be replayed: {error}", file=sys.stderr)
        return 2
    for line in _lines(found):
        print(line)
    return 0 if found.same else 1


class _Journal(HopJournal):
    """A journal that answers from what is on record, and lets nothing else be called."""

    def __init__(self, step_id: str, **more: Any) -> None:
        super().__init__(step_id=step_id, **more)
        self._of_step, self.differences = step_id, list[str]()

    async def begin(self, key: CallKey) -> None:
        """Begin no call; a wait that was answered is no call."""
        if key.kind == "wait":
            await super().begin(key)
            return
        raise self._missing(key)

    async def write_before(self, key: CallKey) -> None:
        """Let no wait begin that was not there: somebody would be asked."""
        if self.waits.known(str(key)) is None:
            raise self._missing(key)

    def add_later(self, key: CallKey, record: Record, **more: Any) -> int | None:
        """Record it, and cancel no job: nobody is asked for anything."""
        return super().add_later(key, record, **{**more, "cancel": None})

    def tell_drift(self, text: str) -> None:
        """Keep what differs."""
        self.differences.append(text)

    def _missing(self, key: CallKey) -> CallNotRecorded:
        text = "it was in flight or had failed when the attempt ended, or the code has only now come to it"
        missing = CallNotRecorded(self._of_step, key.label, text)
        self._stray(missing)  # code that swallows it gets no further
        return missing


async def _replayed(dump: HopDump, message: PaigeantMessage, activity: AgentActivity, timeout: float) -> Replayed:  # noqa: ASYNC109
    store, settings = MemoryStore(lease=3600.0, ttl=3600.0), _settings()
    records = whole(dump.records)
    kept = records.pop(OUTCOME, None)
    step_id = message.step.step_id or ""
    claimed, closing = _claimed(store, dump)
    waits = [wait.as_wait(dump.hop_id, number) for number, wait in enumerate(dump.waits)]
    for recorded_wait, wait in zip(dump.waits, waits, strict=True):  # asking is known by the token
        marks = f"/{recorded_wait.mark}", f"/{mark_of(wait.token)}"
        records = {name.replace(*marks): text for name, text in records.items()}
    journal = _Journal(
        step_id,
        store=store,
        closing=closing,
        records=records,
        waits=HopWaits(store=store, closing=closing, known=waits, now=clock_of(claimed)),
        totals=_totals(message),
    )
    if message.stream:  # agents then ask their models for streams, which counts
        journal.feed = EventFeed(lambda events: True, attempt=dump.attempt)
    try:
        given = activity.check(message.step)
    except (MessageError, InvalidInput) as error:
        return Replayed(hop_id=dump.hop_id, path=dump.path, completed=False, failure=str(error))
    hop = Opened(
        message=message.model_copy(update={"trace_context": {}}),
        activity=activity,
        given=given,
        claimed=claimed,
        closing=closing,
        timeout=timeout,
        policy=step_policy(message.step, activity, settings),
        journal=journal,
        history=dump.history,
        seen=Observed(Arrival(hop_id=dump.hop_id, activity=activity.name, envelope="")),
    )
    steps = StepRunner(
        Outputs(settings, store),
        StepLimits(max_visits=NO_LIMIT, max_output_size=NO_LIMIT, max_conversation_size=NO_LIMIT),
        Surroundings(),
        step_at=_Around(store, dump).step_at,
    )
    found = _of_outcome(dump, await steps.run(hop), journal)
    recorded = dump.output if dump.ended else read_kept(kept, step_id=step_id).result.output if kept else None
    if (dump.ended or kept) and found.completed and dumps(found.output) != dumps(recorded):
        journal.differences.append("the output is not the recorded one")
    return Replayed(**{**vars(found), "differences": tuple(journal.differences)})


def _of_outcome(dump: HopDump, outcome: Outcome, journal: HopJournal) -> Replayed:
    failure, waits, output = None, tuple[str, ...](), None
    match outcome.event:
        case Completed():
            output = outcome.ended.result.output if outcome.ended is not None else None
        case Diverged(text=text):
            failure = text
        case Failed(error_class=error_class, text=text):
            failure = f"{error_class}: {text}"
        case Unsendable(reason=reason, text=text):
            failure = f"{reason}: {text}"
        case TimedOut(timeout=timeout):
            failure = f"it did not end within {timeout:g} s: what it stands at was cut off, or takes long"
        case Stands(names=names):
            waits = names or ("a time",)
        case other:
            raise AssertionError(other)
    return Replayed(
        hop_id=dump.hop_id,
        path=dump.path,
        completed=isinstance(outcome.event, Completed),
        output=output,
        failure=failure,
        cause=outcome.cause,
        waits_for=waits,
        calls=journal.replayed,
    )


class _Around:
    """Steps that ran: in the slip of the hop, and in those around its branch."""

    def __init__(self, store: MemoryStore, dump: HopDump) -> None:
        self._store, self._around = store, [RoutingSlip.model_validate(slip) for slip in dump.around]

    def step_at(self, slip: RoutingSlip, correlation_id: str, path: str) -> ExecutedStep:
        """Return the record of one; raises `UsageError` if none has this path."""
        first: UsageError | None = None
        for each in (slip, *self._around):
            try:
                return step_at(self._store, correlation_id, each, path)
            except UsageError as error:
                first = first or error
        assert first is not None
        raise first


def _claimed(store: MemoryStore, dump: HopDump) -> tuple[Claimed, Closing]:
    """Return the claim of the hop in a store that has its texts and nothing else."""
    workflow = dump.hop_id.partition(".")[0]
    hop = HopRecord(hop_id=dump.hop_id, queue=OWNER, envelope="", digest="")
    store.start(NewWorkflow(correlation_id=workflow, content="", hop=hop, blobs=dump.blobs))
    answer = store.claim(Claim(hop_id=dump.hop_id, owner=OWNER, token=OWNER, max_attempts=1, digest=None))
    assert isinstance(answer, Claimed)
    closing = Closing(hop_id=dump.hop_id, owner=OWNER, fence=answer.fence)
    return Claimed(fence=answer.fence, attempt=dump.attempt, now=datetime.now(UTC)), closing


def _totals(message: PaigeantMessage) -> Totals | None:
    """Return what the workflow had used before the step, if it has limits."""
    if message.usage_limits is None or not message.usage_limits.set_limits():
        return None
    return Totals(used=used_by(message.slip.executed, earlier=message.slip.earlier), counted=Usage())


def _settings() -> Settings:
    return Settings(
        max_output_size=NO_LIMIT, max_message_size=NO_LIMIT, max_conversation_size=NO_LIMIT, max_visits=NO_LIMIT
    )


def _read(dump: str | Path | Mapping[str, object] | HopDump) -> HopDump:
    if isinstance(dump, HopDump):
        return dump
    if isinstance(dump, Path) or (isinstance(dump, str) and not dump.lstrip().startswith("{")):
        try:
            dump = Path(dump).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput("invalid_input", "dump", f"cannot be read: {error}") from error
    return read_dump(dump)


def _lines(found: Replayed) -> Iterator[str]:
    yield f"step {found.path} of hop {found.hop_id}: {found.calls} recorded calls answered, none made"
    for difference in found.differences:
        yield f"  differs: {difference}"
    if found.completed:
        yield f"  output: {dumps(found.output)}"
    elif found.waits_for:
        yield f"  waits for {', '.join(found.waits_for)}, which nobody had answered"
    else:
        yield f"  failed: {found.failure}"
        if found.cause is not None:
            yield indent(str(found.cause), "    ")
