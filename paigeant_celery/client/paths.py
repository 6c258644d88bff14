"""Where the path of a step or of a branch leads in a workflow that goes on."""

from __future__ import annotations

from dataclasses import dataclass

from paigeant_celery.core.errors import InvalidInput, MessageError
from paigeant_celery.core.hops import ENDED
from paigeant_celery.core.manifests import name_of_opened, read_opened
from paigeant_celery.core.message import first_step_in
from paigeant_celery.core.names import split_hop_id
from paigeant_celery.core.steps import BlockSpec, Step
from paigeant_celery.store.branch_port import BranchReading, HopReading
from paigeant_celery.store.port import Store, WorkflowRecord
from paigeant_celery.store.tree import hops_below

__all__ = ["GOES_ON", "At", "at_path", "is_at_block", "parked_at"]

GOES_ON = ("running", "parked")


@dataclass(frozen=True, kw_only=True)
class At:
    """Where a path leads: the hop that stands there, and the place of its branch; None in the workflow's own slip."""

    hop: HopReading
    branch: str | None = None


def at_path(store: Store, record: WorkflowRecord, path: str) -> At:
    """Return where a path leads, such as `readings/3/reader` or `readings/3`.

    Raises `InvalidInput` (`unknown_path`) unless it names the current step, a branch that goes on, or the step at which
    that stands. It takes up to two round trips for each block on the way.
    """
    if not isinstance(path, str) or not path:
        raise InvalidInput("unknown_path", "path", "must be a text such as 'readings/3/reader'")
    if record.state not in GOES_ON:
        raise InvalidInput("unknown_path", "path", f"no step goes on: the workflow is {record.state}")
    hop, branch, walked = store.hop(record.hop_id), None, ""
    parts = path.split("/")
    while hop is not None and parts:
        step_id = parts.pop(0)
        current = _step_id(hop)
        walked = f"{walked}{step_id}"
        if step_id != current or hop.state in ENDED:
            text = f"{walked!r} is not a step that goes on; the current one is {current!r}"
            raise InvalidInput("unknown_path", "path", text)
        if not parts:
            break
        found = _branch(store, hop, walked, name := parts.pop(0))
        walked = f"{walked}/{name}"
        if found.how is not None or found.hop.state in ENDED:
            raise InvalidInput("unknown_path", "path", f"the branch {walked!r} has ended")
        hop, branch = found.hop, _place(found.hop).rpartition(".")[0]
        walked += "/"
    if hop is None:
        raise InvalidInput("unknown_path", "path", "the workflow has just ended")
    return At(hop=hop, branch=branch)


def parked_at(store: Store, hop: HopReading) -> list[str]:
    """Return the places of what is parked at a hop: of itself or, if it is not, of all hops below it."""
    if hop.state == "parked":
        return [_place(hop)]
    return [_place(below) for below in hops_below(store, hop.hop_id) if below.state == "parked"]


def is_at_block(record: WorkflowRecord) -> bool:
    """Say whether the current step of a workflow that goes on may have branches."""
    if record.state not in GOES_ON:
        return False
    try:
        step = first_step_in(record.envelope)
    except MessageError:
        return True  # nobody knows
    return step is None or isinstance(step, BlockSpec)


def _branch(store: Store, hop: HopReading, block: str, name: str) -> BranchReading:
    """Return a branch of the block that a hop is, by its name."""
    ids = split_hop_id(hop.hop_id)
    text = store.blob(ids[0], name_of_opened(ids[1])) if ids is not None else None
    opened = read_opened(text)
    number = opened.number_of(name) if opened is not None else None
    found = store.branches(hop.hop_id, first=number, limit=1) if number is not None else ()
    if not found or found[0].number != number:
        known = f"; they are called {', '.join(map(repr, opened.names[:20]))}" if opened and opened.names else ""
        raise InvalidInput("unknown_path", "path", f"{block!r} has no branch {name[:64]!r}{known}")
    return found[0]


def _step_id(hop: HopReading) -> str | None:
    step: Step | None = None
    try:
        step = first_step_in(hop.envelope) if hop.envelope else None
    except MessageError:
        return None
    return step.step_id if step is not None else None


def _place(hop: HopReading) -> str:
    ids = split_hop_id(hop.hop_id)
    return ids[1] if ids is not None else ""
