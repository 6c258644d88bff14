"""The branches of a workflow as they are read from outside: a tree, from what the store has of blocks and hops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from paigeant_celery.client.readings import BranchState, BranchStatus, CurrentState, WaitingFor
from paigeant_celery.client.stuck import runner_of
from paigeant_celery.client.waits import waits_of_hop
from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.flow import Failure, failure_at
from paigeant_celery.core.hops import ENDED
from paigeant_celery.core.manifests import BranchEnd, OpenedAs, name_of_opened, read_end, read_opened
from paigeant_celery.core.message import first_step_in
from paigeant_celery.core.names import hop_id, number_of, split_hop_id
from paigeant_celery.core.queries import current_state as state_of
from paigeant_celery.core.steps import Step
from paigeant_celery.store.branch_port import BranchReading, HopReading
from paigeant_celery.store.port import Store, WorkflowRecord
from paigeant_celery.store.tree import branches_in

__all__ = [
    "ReadBlock",
    "current_state",
    "is_left_to_newer",
    "parked_in",
    "read_blocks",
    "tree_of",
    "waits_for_worker",
    "waits_of_block",
    "waits_of_tree",
]

NAMES = 500  # blocks asked for at once; most places have none


Inner: TypeAlias = tuple["ReadBlock", tuple[BranchStatus, ...]]


@dataclass(kw_only=True)
class ReadBlock:
    """A block that has opened branches, with what was read of them; `ended` says that nothing below it goes on.

    `inner` has the blocks in each branch, by its number.
    """

    place: str
    opened: OpenedAs
    ended: bool
    branches: list[BranchReading] = field(default_factory=list)
    inner: dict[int, list[ReadBlock]] = field(default_factory=dict)

    def statuses(self) -> list[BranchStatus]:
        """Return where its branches stand."""
        return list(_statuses(self))


def tree_of(store: Store, correlation_id: str, places: Sequence[str], *, live: str | None) -> tuple[BranchStatus, ...]:
    """Return the branches of the blocks at these places of the workflow's own slip, with those below them."""
    blocks = read_blocks(store, correlation_id, places, live=live)
    return tuple(branch for block in blocks for branch in block.statuses())


def read_blocks(store: Store, correlation_id: str, places: Sequence[str], *, live: str | None) -> list[ReadBlock]:
    """Return the blocks at these places of the workflow's own slip that have opened branches, with those below them.

    `live` is the one of the places whose block goes on. It takes a round trip for each block and for each 100 of its
    branches, and one for each 500 places in branches of one depth that may have blocks; each is of one moment.
    """
    top = [
        ReadBlock(place=place, opened=opened, ended=place != live)
        for place, opened in _opened(store, correlation_id, places).items()
    ]
    level = top
    while level:
        for block in level:
            block.branches = list(branches_in(store, hop_id(correlation_id, block.place)))
        level = _inner(store, correlation_id, level)
    return top


def parked_in(branches: Sequence[BranchStatus]) -> BranchStatus | None:
    """Return the first parked branch of a tree."""
    return next((branch for branch in _all(branches) if branch.state == "parked"), None)


def waits_for_worker(branches: Sequence[BranchStatus]) -> str | None:
    """Return the activity of the first step in a tree that waits for a worker; None if there is none, or others run."""
    found: str | None = None
    for branch in _all(branches):
        if branch.needs_worker:
            found = found or branch.activity
        elif branch.state == "running":
            return None
    return found


def _all(branches: Sequence[BranchStatus]) -> Iterator[BranchStatus]:
    for branch in branches:
        yield branch
        yield from _all(branch.branches)


def waits_of_tree(branches: Sequence[BranchStatus]) -> Iterator[WaitingFor]:
    """Yield what the branches of a tree wait for beside branches of their own."""
    for branch in _all(branches):
        yield from (wait for wait in branch.waiting_for if wait.kind != "branches")


def waits_of_block(path: str, branches: Sequence[BranchStatus], hop: HopReading | None) -> WaitingFor:
    """Return what a block waits for: its branches."""
    states = Counter[BranchState](branch.state for branch in branches if branch.block == path)
    until = hop.block.until if hop is not None and hop.block is not None else None
    return WaitingFor(kind="branches", name=path, until=until, branches=dict(states))


def current_state(record: WorkflowRecord) -> CurrentState:
    """Say more than the store's `running`: whether a worker has the step, or what it waits for."""
    retrying = record.retry_at is not None and not is_left_to_newer(record.failure)
    return state_of(record.state, running=record.running, suspended=record.suspended, retrying=retrying)


def is_left_to_newer(failure: Failure | None) -> bool:
    """Say whether no attempt failed, but a worker could not read what a newer version wrote."""
    return failure is not None and failure.error_class == "newer_version"


def _opened(store: Store, correlation_id: str, places: Sequence[str]) -> dict[str, OpenedAs]:
    """Return what is kept of the blocks at those of the places that have one."""
    found: dict[str, OpenedAs] = {}
    for first in range(0, len(places), NAMES):
        some = places[first : first + NAMES]
        texts = store.blobs(correlation_id, [name_of_opened(place) for place in some])
        for place in some:
            if (opened := read_opened(texts.get(name_of_opened(place)))) is not None:
                found[place] = opened
    return found


def _inner(store: Store, correlation_id: str, blocks: Sequence[ReadBlock]) -> list[ReadBlock]:
    """Put the blocks that branches have opened below them, and return those."""
    owners = {
        place: (block, branch)
        for block in blocks
        if block.opened.deep
        for branch in block.branches
        for place in _places(branch)
    }
    found: list[ReadBlock] = []
    for place, opened in _opened(store, correlation_id, list(owners)).items():
        block, branch = owners[place]
        current = _place(branch.hop) == place
        ended = not current or block.ended or branch.how is not None or branch.hop.state in ENDED
        inner = ReadBlock(place=place, opened=opened, ended=ended)
        block.inner.setdefault(branch.number, []).append(inner)
        found.append(inner)
    return found


def _place(hop: HopReading) -> str:
    ids = split_hop_id(hop.hop_id)
    return ids[1] if ids is not None else ""


def _places(branch: BranchReading) -> list[str]:
    """Return the places of the steps of a branch that began."""
    place = _place(branch.hop)
    if not place or branch.hop.state == "held":
        return []
    begins = place.rpartition(".")[0]
    return [f"{begins}.{number}" for number in range(number_of(place) + 1)]


def _statuses(block: ReadBlock) -> Iterator[BranchStatus]:
    for branch in block.branches:
        name = block.opened.name_of(branch.number)
        path = f"{block.opened.path}/{name}"
        inner = [(below, tuple(_statuses(below))) for below in block.inner.get(branch.number, ())]
        yield _status(block, branch, name, path, inner)


def _status(
    block: ReadBlock,
    branch: BranchReading,
    name: str,
    path: str,
    inner: list[tuple[ReadBlock, tuple[BranchStatus, ...]]],
) -> BranchStatus:
    hop, state = branch.hop, _state(branch, ended=block.ended)
    ends = _end(branch) if state == "failed" else None
    goes_on = state not in ("completed", "failed", "cancelled")
    step = _step(hop) if goes_on else None
    step_id = step.step_id if step is not None else _failed_in(ends, path)
    waits = waits_of_hop(hop, f"{path}/{step_id or ''}") if goes_on else ()
    if goes_on and hop.on_branches and inner:
        below, branches = inner[-1]
        waits = (waits_of_block(below.opened.path, branches, hop), *waits)
    return BranchStatus(
        path=path,
        name=name,
        state=state,
        step_id=step_id,
        activity=step.activity if step is not None else None,
        queue=hop.queue if goes_on else "",
        attempt=hop.attempt,
        failure=failure_at(ends) if ends is not None else hop.failure if goes_on else None,
        retry_at=hop.retry_at if goes_on else None,
        waiting_for=waits,
        branches=tuple(status for _, statuses in inner for status in statuses),
        runner=runner_of(hop) if state == "running" else None,
    )


def _state(branch: BranchReading, *, ended: bool) -> BranchState:
    hop = branch.hop
    if branch.how is not None:
        return "completed" if branch.how == "succeeded" else "failed"
    match hop.state:
        case "done":
            return "completed"
        case "failed":
            return "failed"
        case _ if ended:  # a store may end what is below an ended hop later, page by page
            return "cancelled"
        case "waiting":
            return "queued" if is_left_to_newer(hop.failure) else "retrying"
        case state:
            return state


def _end(branch: BranchReading) -> BranchEnd:
    try:
        return read_end(branch.end)
    except ValueError:
        return BranchEnd(state="failed", error_class="store_corrupt", text="the record of how it ended is damaged")


def _failed_in(end: BranchEnd | None, path: str) -> str | None:
    """Return the id of the step of a branch that failed, from the path of the one in which that began."""
    if end is None or end.step is None or not end.step.startswith(f"{path}/"):
        return None
    return end.step.removeprefix(f"{path}/").partition("/")[0]


def _step(hop: HopReading) -> Step | None:
    try:
        return first_step_in(hop.envelope) if hop.envelope else None
    except MessageError:
        return None
