"""Records of executed steps that do not travel, read back from the store."""

from __future__ import annotations

from contextlib import suppress

from paigeant_celery.core.errors import StoreCorrupt, StoreRequired, UsageError
from paigeant_celery.core.far import name_of_note, name_of_record, note_of, record_in, records_in
from paigeant_celery.core.names import number_of
from paigeant_celery.core.slip import ExecutedStep, RoutingSlip
from paigeant_celery.store.port import HopStore

__all__ = ["executed_at", "executed_of", "executed_step"]

READ_AT_ONCE = 100  # records; with outputs of the default size they are about as many kilobytes


def executed_of(store: HopStore | None, correlation_id: str, slip: RoutingSlip) -> tuple[ExecutedStep, ...]:
    """Return the records of all steps that ran.

    Raises `StoreCorrupt` if one is missing or not as it was recorded, and `StoreRequired` if there is no store to ask.
    """
    if slip.earlier is None:
        return slip.executed
    if store is None:
        raise StoreRequired("output")
    texts = _texts(store, correlation_id, slip, slip.earlier.count)
    try:
        return (*records_in(slip, slip.earlier, texts), *slip.executed)
    except ValueError as error:
        raise StoreCorrupt(f"{correlation_id}: records of earlier steps", str(error)) from error


def executed_step(store: HopStore | None, correlation_id: str, slip: RoutingSlip, step_id: str) -> ExecutedStep:
    """Return the record of one step that ran.

    Raises `UsageError` if no such step ran, and what `executed_of` raises.
    """
    for record in slip.executed:
        if record.step_id == step_id:
            return record
    if store is not None and slip.earlier is not None:
        found = _noted(store, correlation_id, slip, step_id)
        if found is not None and number_of(found.place) < slip.earlier.count:
            return found
    everything = executed_of(store, correlation_id, slip)  # the rare way, and the sure one
    for record in everything:
        if record.step_id == step_id:
            return record
    own = slip.next_step.step_id if slip.next_step is not None else None
    ran = [record.step_id for record in everything]
    raise UsageError(f"no step {step_id!r} ran before {own!r}; these did: {ran}")


def executed_at(store: HopStore, correlation_id: str, slip: RoutingSlip, place: str) -> ExecutedStep | None:
    """Return the record of the step that ran at a place, or None.

    Raises `StoreCorrupt` if it is not there as a record of that place. Whether somebody has changed it only
    `executed_of` tells, and `executed_step` if its note is as it was.
    """
    for record in slip.executed:
        if record.place == place:
            return record
    if slip.earlier is None or place != slip.place_of(number_of(place)) or number_of(place) >= slip.earlier.count:
        return None
    try:
        return record_in(store.blob(correlation_id, name_of_record(place)), place)
    except ValueError as error:
        raise StoreCorrupt(f"{correlation_id}: record of an earlier step", str(error)) from error


def _texts(store: HopStore, correlation_id: str, slip: RoutingSlip, count: int) -> dict[str, str]:
    """Return the texts of the first records by their names, as far as none is missing."""
    texts: dict[str, str] = {}
    for first in range(0, count, READ_AT_ONCE):
        numbers = range(first, min(first + READ_AT_ONCE, count))
        names = [name_of_record(slip.place_of(number)) for number in numbers]
        texts.update(store.blobs(correlation_id, names))
        if names[-1] not in texts:
            break
    return texts


def _noted(store: HopStore, correlation_id: str, slip: RoutingSlip, step_id: str) -> ExecutedStep | None:
    """Return the record of a step if the store has a note of where it is, and the record is the one that was noted."""
    note = store.blob(correlation_id, slip.name_in_store(name_of_note(step_id))) or ""
    place = note.partition(" ")[0]
    text = store.blob(correlation_id, name_of_record(place)) if place else None
    if text is None or note_of(place, text) != note:
        return None
    with suppress(ValueError):
        record = record_in(text, place)
        return record if record.step_id == step_id else None
    return None
