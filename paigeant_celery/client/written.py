"""Workflows of the store, written as documents."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from paigeant_celery.client.tree import current_state
from paigeant_celery.core.content import blob_of
from paigeant_celery.core.documents import SlipDocument, exported, revision_of
from paigeant_celery.core.errors import StoreCorrupt, UnknownWorkflow
from paigeant_celery.core.files import files_of, with_files_back
from paigeant_celery.core.forks import name_of_ran, read_ran
from paigeant_celery.core.message import PaigeantMessage, sha256
from paigeant_celery.core.names import is_correlation_id
from paigeant_celery.core.slip import ExecutedStep, Step
from paigeant_celery.store.outputs import outputs_of
from paigeant_celery.store.port import Store, WorkflowRecord

__all__ = ["recorded", "written"]

READ_AT_ONCE = 100  # steps


def recorded(store: Store, correlation_id: str) -> WorkflowRecord:
    """Return the record of a workflow; raises `UnknownWorkflow`."""
    known = isinstance(correlation_id, str) and is_correlation_id(correlation_id)
    record = store.workflow(correlation_id) if known else None
    if record is None:
        raise UnknownWorkflow(str(correlation_id), store.address)
    return record


def written(
    store: Store, record: WorkflowRecord, message: PaigeantMessage, ran: Sequence[ExecutedStep], *, outputs: bool
) -> SlipDocument:
    """Return the document of a workflow, whose message has all steps to come; `ran` are the records of the others."""
    steps = _steps_that_ran(store, record.correlation_id, ran)
    values: list[JsonValue] = outputs_of(store, record.correlation_id, ran) if outputs else [None] * len(ran)
    message, steps = _with_files(store, message, steps)
    return exported(
        message,
        state=current_state(record),
        revision=revision_of(sha256(record.envelope)),
        ran=zip(ran, steps, values, strict=True),
    )


def _steps_that_ran(store: Store, correlation_id: str, ran: Sequence[ExecutedStep]) -> list[Step | None]:
    """Return what steps that ended were asked for, None for those that an older version ran."""
    found: list[Step | None] = []
    for first in range(0, len(ran), READ_AT_ONCE):
        names = [name_of_ran(record.place) for record in ran[first : first + READ_AT_ONCE]]
        texts = store.blobs(correlation_id, names)
        found += [_read(texts.get(name)) for name in names]
    return found


def _read(text: str | None) -> Step | None:
    try:
        return read_ran(text) if text is not None else None
    except ValueError:  # damaged, or of a newer version: its record still says that it ran
        return None


def _with_files(
    store: Store, message: PaigeantMessage, steps: Sequence[Step | None]
) -> tuple[PaigeantMessage, list[Step | None]]:
    """Return a message, and steps that ran, with the files of their prompts."""
    offered = [entry.step for entry in message.registered_activities]
    wanted = files_of([*message.slip.itinerary, *offered, *(step for step in steps if step is not None)])
    if not wanted:
        return message, list(steps)
    data = {digest: _file(store, message.correlation_id, digest) for digest in sorted(wanted)}
    slip = message.slip.model_copy(update={"itinerary": with_files_back(message.slip.itinerary, data)})
    registered = tuple(
        entry.model_copy(update={"step": step})
        for entry, step in zip(message.registered_activities, with_files_back(offered, data), strict=True)
    )
    filled = [step if step is None else with_files_back([step], data)[0] for step in steps]
    return message.model_copy(update={"slip": slip, "registered_activities": registered}), filled


def _file(store: Store, correlation_id: str, digest: str) -> str:
    text = store.blob(correlation_id, blob_of(digest))
    if text is None or sha256(text) != digest:
        raise StoreCorrupt(f"{correlation_id}: file of a prompt", "missing or not as recorded")
    return text
