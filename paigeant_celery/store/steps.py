"""The record of a step by its id or its path: in a slip, in those around it, or in the branches of its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from paigeant_celery.core.errors import MessageError, StoreCorrupt, UsageError
from paigeant_celery.core.jsonable import loads
from paigeant_celery.core.manifests import Manifest, manifest_in, name_of_slip
from paigeant_celery.core.message import reread
from paigeant_celery.core.names import block_of, hop_id
from paigeant_celery.core.slip import BranchOf, ExecutedStep, RoutingSlip
from paigeant_celery.store.earlier import executed_step
from paigeant_celery.store.outputs import recorded_values
from paigeant_celery.store.port import Store

__all__ = ["manifest_of_record", "manifests_of", "slip_of_branch", "slips_of_branches", "step_at"]

READ_AT_ONCE = 50  # slips of branches


def step_at(store: Store | None, correlation_id: str, slip: RoutingSlip, path: str) -> ExecutedStep:
    """Return the record of a step that ran, by its id or by a path such as `readings/3/reader`.

    It is looked for in the slip first, then in those around it. Raises `UsageError` if no such step ran, and what
    `executed_step` raises.
    """
    step_id, *rest = path.split("/", 2)
    around: RoutingSlip | None = slip
    record: ExecutedStep | None = None
    first: UsageError | None = None
    while around is not None and record is None:
        try:
            record = executed_step(store, correlation_id, around, step_id)
        except UsageError as error:
            first = first or error
            around = _around(store, correlation_id, around)
    if record is None:
        assert first is not None
        raise first
    if not rest:
        return record
    return _in_branch(store, correlation_id, record, rest, path)


def slip_of_branch(store: Store, correlation_id: str, place: str) -> RoutingSlip | None:
    """Return the slip of a branch that succeeded, by its place; None if there is none.

    Raises `StoreCorrupt` if it is damaged.
    """
    text = store.blob(correlation_id, _name_of_slip(place))
    return _read_slip(correlation_id, place, text) if text is not None else None


def slips_of_branches(store: Store, correlation_id: str, places: Sequence[str]) -> Mapping[str, RoutingSlip]:
    """Return the slips of branches that succeeded, by their places; raises `StoreCorrupt` if one is missing."""
    found: dict[str, RoutingSlip] = {}
    for first in range(0, len(places), READ_AT_ONCE):
        some = places[first : first + READ_AT_ONCE]
        texts = store.blobs(correlation_id, [_name_of_slip(place) for place in some])
        for place in some:
            if (text := texts.get(_name_of_slip(place))) is None:
                raise StoreCorrupt(f"{correlation_id}: slip of a branch", f"{place} is missing")
            found[place] = _read_slip(correlation_id, place, text)
    return found


def manifest_of_record(store: Store | None, correlation_id: str, record: ExecutedStep) -> Manifest:
    """Return the manifest of a block that has run; raises `StoreCorrupt` if it is damaged."""
    return manifests_of(store, correlation_id, [record])[0]


def manifests_of(store: Store | None, correlation_id: str, records: Sequence[ExecutedStep]) -> list[Manifest]:
    """Return those of several blocks, with few round trips."""
    try:
        return [manifest_in(value) for value in recorded_values(store, correlation_id, records)]
    except ValueError as error:
        raise StoreCorrupt(f"{correlation_id}: output of a block", str(error)) from error


def _name_of_slip(place: str) -> str:
    return name_of_slip(RoutingSlip(branch=BranchOf(place=place, path=place)))


def _read_slip(correlation_id: str, place: str, text: str) -> RoutingSlip:
    try:
        return RoutingSlip.model_validate(loads(text, invalid="store_corrupt"))
    except (ValidationError, MessageError) as error:
        raise StoreCorrupt(f"{correlation_id}: slip of a branch", f"{place} is damaged") from error


def _in_branch(
    store: Store | None, correlation_id: str, record: ExecutedStep, rest: list[str], path: str
) -> ExecutedStep:
    if not record.is_block or store is None or len(rest) < 2:
        raise UsageError(f"{path!r} names no step: behind the id of a block come the name of a branch and a step")
    manifest = manifest_of_record(store, correlation_id, record)
    entry = next((entry for entry in manifest.branches if entry.name == rest[0]), None)
    if entry is None:
        names = [entry.name for entry in manifest.branches[:20]]
        raise UsageError(f"{path!r} names no step: no branch {rest[0]!r} of the block had ended; these had: {names}")
    slip = slip_of_branch(store, correlation_id, entry.place)
    if slip is None:
        raise UsageError(f"{path!r} names no step: its branch failed, and {entry.step or 'no step'} was the last")
    step_id, *further = rest[1].split("/", 2)
    found = executed_step(store, correlation_id, slip, step_id)
    return _in_branch(store, correlation_id, found, further, path) if further else found


def _around(store: Store | None, correlation_id: str, slip: RoutingSlip) -> RoutingSlip | None:
    """Return the slip that has the block of a branch; None if it is not known, or the slip is no branch."""
    if slip.branch is None or store is None:
        return None
    above = block_of(hop_id(correlation_id, f"{slip.branch.place}.0"))
    reading = store.hop(above[0]) if above is not None else None
    return reread(reading.envelope).slip if reading is not None and reading.envelope else None
