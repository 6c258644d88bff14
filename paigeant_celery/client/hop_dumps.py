"""Dumps of hops, made from what the store has of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from paigeant_celery.client.copied import StepsBefore, is_said_from
from paigeant_celery.client.paths import GOES_ON, at_path
from paigeant_celery.core.conversations import batches_in, conversation_of
from paigeant_celery.core.errors import InvalidInput, StoreCorrupt, UnknownWorkflow
from paigeant_celery.core.files import stored_files
from paigeant_celery.core.forks import name_of_ran, read_ran
from paigeant_celery.core.message import PaigeantMessage, reread
from paigeant_celery.core.names import blocks_above, is_correlation_id, number_of
from paigeant_celery.core.replays import DumpedWait, HopDump
from paigeant_celery.core.slip import ActivitySpec, ExecutedStep, RoutingSlip
from paigeant_celery.store.branch_port import HopReading
from paigeant_celery.store.earlier import executed_of
from paigeant_celery.store.outputs import outputs_of
from paigeant_celery.store.port import Store, WorkflowRecord

__all__ = ["dump_of"]

READ_AT_ONCE = 20  # texts, each perhaps of many megabytes


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A hop with its message, which has the records of all steps before it; `record` is there if it has ended."""

    message: PaigeantMessage
    reading: HopReading | None
    record: ExecutedStep | None = None


def dump_of(store: Store, correlation_id: str, path: str | None = None) -> HopDump:
    """Return the dump of a hop of an agent: by default of the current step, or of the last one that ended.

    `path` is the id of a step, or leads to one in a branch. Raises `UnknownWorkflow`, `InvalidInput` (`unknown_path`,
    `not_recorded`, `not_kept`), `MessageError` if this version cannot read the message, and `StoreCorrupt`.
    """
    workflow = store.workflow(correlation_id) if is_correlation_id(correlation_id) else None
    if workflow is None:
        raise UnknownWorkflow(correlation_id, store.address)
    found = _found(store, workflow, path)
    message, hop_id = found.message, found.message.message_id
    if not isinstance(message.step, ActivitySpec):
        text = f"{message.path!r} is no step of an agent; the code of any other would do for real what it does"
        raise InvalidInput("not_recorded", "path", text)
    records = dict(store.journal(hop_id))
    if not records:
        text = f"nothing is recorded of {message.path!r}: it has not begun, or its journal is gone"
        raise InvalidInput("not_recorded", "path", text)
    around = _around(store, hop_id)
    before = [StepsBefore(store, correlation_id, slip.executed) for slip in (message.slip, *around)]
    names = [name for each in before for name in each.names if not name.startswith(name_of_ran(""))]
    if (given := _given(message.slip)) is not None:
        names.append(given)
    output: JsonValue = None
    if found.record is not None:
        output = outputs_of(store, correlation_id, [found.record])[0]
    return HopDump(
        hop_id=hop_id,
        path=message.path,
        activity=message.step.activity,
        attempt=max(1, found.reading.attempt if found.reading is not None else 1),
        envelope=message.model_dump(mode="json"),
        around=tuple(slip.model_dump(mode="json") for slip in around),
        records=records,
        waits=tuple(map(DumpedWait.of, store.waits(hop_id))),
        history=_history(store, found),
        blobs=_blobs(store, correlation_id, [*names, *stored_files(message)]),
        ended=found.record is not None,
        output=output,
    )


def _found(store: Store, workflow: WorkflowRecord, path: str | None) -> _Found:
    message = reread(workflow.envelope)
    ran = executed_of(store, workflow.correlation_id, message.slip)
    if path is not None and "/" in path:
        return _in_branch(store, workflow, path)
    ids = [record.step_id for record in ran]
    if path in ids or (path is None and not message.slip.itinerary):
        number = ids.index(path) if path is not None else len(ids) - 1
        return _ended(store, message, ran, number)
    current = message.slip.next_step
    if current is None or (path is not None and current.step_id != path):
        known = [*ids, *([current.step_id] if current is not None else [])]
        text = f"no step {path!r} began; these did: {known[:20]}"
        raise InvalidInput("unknown_path", "path", text)
    return _Found(message=_alone(message, ran), reading=store.hop(workflow.hop_id))


def _in_branch(store: Store, workflow: WorkflowRecord, path: str) -> _Found:
    text = f"the journals of steps in branches are kept until the step ends, and nothing is left of {path!r}"
    if workflow.state not in GOES_ON:
        raise InvalidInput("not_recorded", "path", text)
    try:
        hop = at_path(store, workflow, path).hop
    except InvalidInput as error:
        raise InvalidInput(error.reason, "path", f"{error.text}; {text}") from error
    message = reread(hop.envelope)
    return _Found(message=_alone(message, executed_of(store, workflow.correlation_id, message.slip)), reading=hop)


def _ended(store: Store, message: PaigeantMessage, ran: Sequence[ExecutedStep], number: int) -> _Found:
    """Return a hop of the workflow's own slip that has ended: its message is gone, and made again."""
    record = ran[number]
    text = store.blob(message.correlation_id, name_of_ran(record.place))
    if text is None:
        said = f"an older version ran {record.step_id!r}, and kept only what it gave"
        raise InvalidInput("not_kept", "path", said)
    try:
        step = read_ran(text)
    except ValueError as error:
        raise StoreCorrupt(f"{message.correlation_id}: step {record.step_id}", str(error)) from error
    slip = RoutingSlip(itinerary=(step,), executed=tuple(ran[:number]))
    moved = message.moved(slip, now=record.started_at)
    return _Found(message=moved, reading=store.hop(moved.message_id), record=record)


def _alone(message: PaigeantMessage, ran: Sequence[ExecutedStep]) -> PaigeantMessage:
    """Return a message without the steps to come, and with all records of those before."""
    slip = message.slip.model_copy(
        update={"itinerary": message.slip.itinerary[:1], "later": None, "earlier": None, "executed": tuple(ran)}
    )
    return message.model_copy(update={"slip": slip})


def _around(store: Store, hop_id: str) -> list[RoutingSlip]:
    """Return the slips around a branch, with all their records."""
    found: list[RoutingSlip] = []
    for above in blocks_above(hop_id):
        reading = store.hop(above)
        if reading is not None and reading.envelope:
            message = reread(reading.envelope)
            ran = executed_of(store, message.correlation_id, message.slip)
            found.append(_alone(message, ran).slip)
    return found


def _given(slip: RoutingSlip) -> str | None:
    given = slip.branch.given if slip.branch is not None else None
    return given.output_name if given is not None and given.output_ref is not None else None


def _history(store: Store, found: _Found) -> tuple[str, ...]:
    """Return what was said in the conversation of a hop before it.

    Others may have said something in a conversation of several workflows since the hop began; that is in it, too.
    """
    message = found.message
    key = conversation_of(message)
    if key is None:
        return ()
    batches = batches_in(store.conversation(key) or "")
    if found.record is None:
        return batches
    number = number_of(found.record.place)
    own = message.correlation_id if key.workflow is None else None
    until = next((at for at, batch in enumerate(batches) if is_said_from(batch, number, workflow=own)), len(batches))
    return batches[:until]


def _blobs(store: Store, correlation_id: str, names: Sequence[str]) -> dict[str, str]:
    wanted = list(dict.fromkeys(names))
    found: dict[str, str] = {}
    for first in range(0, len(wanted), READ_AT_ONCE):
        found.update(store.blobs(correlation_id, wanted[first : first + READ_AT_ONCE]))
    return found
