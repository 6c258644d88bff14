"""Records of executed steps that do not travel, read back from the store."""

from __future__ import annotations

from paigeant_celery.core.errors import StoreCorrupt, UsageError
from paigeant_celery.core.far import name_of_place, name_of_record, record_in, records_in
from paigeant_celery.core.slip import ExecutedStep, RoutingSlip
from paigeant_celery.store.port import HopStore

__all__ = ["executed_at", "executed_of", "executed_step"]


def executed_of(store: HopStore | None, correlation_id: str, slip: RoutingSlip) -> tuple[ExecutedStep, ...]:
    """Return the records of all steps that ran; raises `StoreCorrupt` if one is missing or not as it was recorded."""
    if slip.earlier is None:
        return slip.executed
    names = [name_of_record(place) for place in range(slip.earlier.count)]
    texts = store.blobs(correlation_id, names) if store is not None else {}
    try:
        return (*records_in(slip.earlier, texts), *slip.executed)
    except ValueError as error:
        raise StoreCorrupt(f"{correlation_id}: records of earlier steps", str(error)) from error


def executed_step(store: HopStore | None, correlation_id: str, slip: RoutingSlip, step_id: str) -> ExecutedStep:
    """Return the record of one step that ran.

    Raises `UsageError` if no such step ran, and `StoreCorrupt` if its record is missing or damaged.
    """
    for record in slip.executed:
        if record.step_id == step_id:
            return record
    place = store.blob(correlation_id, name_of_place(step_id)) if store and slip.earlier else None
    if place is not None:
        found = executed_at(store, correlation_id, slip, place)
        if found is not None and found.step_id == step_id:
            return found
    everything = executed_of(store, correlation_id, slip)  # the rare way, and the sure one
    for record in everything:
        if record.step_id == step_id:
            return record
    own = slip.next_step.step_id if slip.next_step is not None else None
    ran = [record.step_id for record in everything]
    raise UsageError(f"no step {step_id!r} ran before {own!r}; these did: {ran}")


def executed_at(store: HopStore | None, correlation_id: str, slip: RoutingSlip, place: str) -> ExecutedStep | None:
    """Return the record of the step that ran at a place, or None; raises `StoreCorrupt` if it is damaged."""
    for record in slip.executed:
        if record.place == place:
            return record
    if slip.earlier is None or not place.isdecimal() or int(place) >= slip.earlier.count:
        return None
    try:
        return record_in(store.blob(correlation_id, name_of_record(place)) if store is not None else None, place)
    except ValueError as error:
        raise StoreCorrupt(f"{correlation_id}: record of an earlier step", str(error)) from error
