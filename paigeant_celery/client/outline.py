"""What a workflow consists of: the steps that ran, those that run and those to come, with the branches of its blocks.

There are no prompts and arguments in it. What is confidential is in `record` and `failure` alone, so that the rest can
be shown to anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeAlias

from paigeant_celery.client.readings import BranchState, BranchStatus, Runner, WaitingFor
from paigeant_celery.client.tree import ReadBlock, current_state, read_blocks
from paigeant_celery.client.waits import waiting_for
from paigeant_celery.core.errors import MessageError, UnknownWorkflow
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.message import reread
from paigeant_celery.core.names import hop_id, is_correlation_id, split_hop_id
from paigeant_celery.core.slip import ExecutedStep, RoutingSlip
from paigeant_celery.core.steps import BlockSpec, Form, Step
from paigeant_celery.store.branch_port import BranchReading
from paigeant_celery.store.earlier import executed_of
from paigeant_celery.store.pages import all_opened
from paigeant_celery.store.port import Store
from paigeant_celery.store.steps import slips_of_branches

__all__ = ["MOST_SHOWN", "Outline", "OutlinedBlock", "OutlinedBranch", "OutlinedStep", "outline_of", "shown_of"]

MOST_SHOWN = 20  # branches of one state in a block

State: TypeAlias = Literal["planned", BranchState]


@dataclass(frozen=True, kw_only=True)
class OutlinedStep:
    """A step; `block` has the branches of one that is a block. The id is empty if it is not known any more.

    `path` is that of the step, and `hop_id` that of its hop, if it began in this workflow and not in one that this is a
    fork of. One that ran has its `record`, with its
    output. Of one at which its slip stands, `attempt` counts those begun, and the others say what it waits for, and
    why it stands. `runner` is the process that runs one in a branch; that of the workflow's own is in its status.
    """

    step_id: str
    activity: str
    state: State
    block: OutlinedBlock | None = None
    path: str = ""
    hop_id: str = ""
    attempt: int = 0
    queue: str = ""
    retry_at: datetime | None = None
    added_by: str | None = None
    record: ExecutedStep | None = field(default=None, repr=False)
    failure: Failure | None = field(default=None, repr=False)
    waiting_for: tuple[WaitingFor, ...] = ()
    runner: Runner | None = None


@dataclass(frozen=True, kw_only=True)
class OutlinedBranch:
    """A branch with those of its steps that are known."""

    name: str
    state: State
    steps: tuple[OutlinedStep, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OutlinedBlock:
    """The branches of a block: at most 20 in each state, and how many `more` there are.

    Those of a `for_each` that has not begun are one, as nobody knows how many there will be.
    """

    form: Form
    branches: tuple[OutlinedBranch, ...]
    more: Mapping[BranchState, int] = field(default_factory=dict)


Outline: TypeAlias = tuple[OutlinedStep, ...]


def outline_of(store: Store, correlation_id: str) -> Outline:
    """Return what a workflow consists of.

    Beside what the status of the workflow takes, there is a round trip for each block and 50 completed branches of it
    that are shown. Raises `UnknownWorkflow`, and `StoreCorrupt` or `MessageError` if its records cannot be read.
    """
    record = store.workflow(correlation_id) if is_correlation_id(correlation_id) else None
    if record is None:
        raise UnknownWorkflow(correlation_id, store.address)
    slip = all_opened(store, reread(record.envelope)).slip
    ran = executed_of(store, correlation_id, slip)
    state = current_state(record)
    live = slip.place if state not in ("completed", "failed", "cancelled") else None
    places = [step.place for step in ran if step.is_block]
    if isinstance(slip.next_step, BlockSpec):
        places.append(slip.place)
    blocks = {block.place: block for block in read_blocks(store, correlation_id, places, live=live)}
    current = OutlinedStep(
        step_id="",
        activity="",
        state=state,
        hop_id=record.hop_id,
        attempt=record.attempt,
        queue=record.queue,
        retry_at=record.retry_at,
        failure=record.failure if not (record.suspended and blocks) else None,  # those of branches stand there
        waiting_for=waiting_for(record),
    )
    steps = _Outliner(store, correlation_id).steps(ran, slip, current, blocks)
    copied = int(record.origin.place) if record.origin is not None else 0
    return (*(replace(step, hop_id="") for step in steps[:copied]), *steps[copied:])  # those ran in another workflow


def shown_of(branches: Sequence[BranchStatus]) -> tuple[list[BranchStatus], dict[BranchState, int]]:
    """Return the branches of a block that are shown, and how many more there are in each state."""
    counts, shown = Counter[BranchState](), []
    for branch in branches:
        counts[branch.state] += 1
        if counts[branch.state] <= MOST_SHOWN:
            shown.append(branch)
    return shown, {state: count - MOST_SHOWN for state, count in counts.items() if count > MOST_SHOWN}


class _Outliner:
    def __init__(self, store: Store, correlation_id: str) -> None:
        self._store, self._correlation_id = store, correlation_id

    def steps(
        self, ran: Iterable[ExecutedStep], slip: RoutingSlip, current: OutlinedStep, blocks: Mapping[str, ReadBlock]
    ) -> tuple[OutlinedStep, ...]:
        """Return the steps of a slip that stands as `current` does; `blocks` are those in it, by their places."""
        found = [
            OutlinedStep(
                step_id=record.step_id,
                activity=record.activity,
                state="completed",
                block=self._block(blocks.get(record.place)) if record.is_block else None,
                path=slip.path_of(record.step_id),
                hop_id=hop_id(self._correlation_id, record.place),
                attempt=record.attempt,
                added_by=record.added_by,
                record=record,
            )
            for record in ran
        ]
        for number, step in enumerate(slip.itinerary):
            opened = blocks.get(slip.place) if number == 0 else None
            block = (
                self._block(opened) if opened is not None else _planned_block(step, slip.path_of(step.step_id or ""))
            )
            planned = _outlined(step, block, slip.path_of(step.step_id or ""))
            found.append(planned if number > 0 else _standing(planned, current))
        return tuple(found)

    def _block(self, block: ReadBlock | None) -> OutlinedBlock | None:
        if block is None:
            return None
        statuses = block.statuses()
        shown, more = shown_of(statuses)
        readings = {status.path: branch for status, branch in zip(statuses, block.branches, strict=True)}
        places = {status.path: _branch_place(readings[status.path]) for status in shown}
        completed = [places[status.path] for status in shown if status.state == "completed"]
        slips = slips_of_branches(self._store, self._correlation_id, completed)
        branches = [
            OutlinedBranch(
                name=status.name,
                state=status.state,
                steps=self._steps_of(block, readings[status.path], status, slips.get(places[status.path])),
            )
            for status in shown
        ]
        return OutlinedBlock(form=block.opened.form, branches=tuple(branches), more=more)

    def _steps_of(
        self, block: ReadBlock, branch: BranchReading, status: BranchStatus, slip: RoutingSlip | None
    ) -> tuple[OutlinedStep, ...]:
        inner = {below.place: below for below in block.inner.get(branch.number, ())}
        slip = slip if slip is not None else _slip_of(branch)
        if slip is not None:
            ran = executed_of(self._store, self._correlation_id, slip)
            return self.steps(ran, slip, _current(branch, status), inner)
        # Of a branch that was cut off, or failed, only its blocks and the step that failed are known.
        last = inner.pop(_place(branch), None)
        known = [_of_block(below, "completed", self._block(below)) for below in inner.values()]
        if last is not None:
            known.append(_standing(_of_block(last, status.state, self._block(last)), _current(branch, status)))
        elif status.step_id is not None:
            planned = OutlinedStep(step_id=status.step_id, activity="", state="planned", path=status.step or "")
            known.append(_standing(planned, _current(branch, status)))
        return tuple(known)


def _slip_of(branch: BranchReading) -> RoutingSlip | None:
    try:
        return reread(branch.hop.envelope).slip if branch.hop.envelope else None
    except MessageError:
        return None


def _of_block(block: ReadBlock, state: State, outlined: OutlinedBlock | None) -> OutlinedStep:
    path = block.opened.path
    return OutlinedStep(step_id=path.rpartition("/")[2], activity="", state=state, block=outlined, path=path)


def _current(branch: BranchReading, status: BranchStatus) -> OutlinedStep:
    return OutlinedStep(
        step_id="",
        activity="",
        state=status.state,
        hop_id=branch.hop.hop_id if status.state != "held" else "",
        attempt=status.attempt,
        queue=status.queue,
        retry_at=status.retry_at,
        failure=status.failure,
        waiting_for=tuple(wait for wait in status.waiting_for if wait.kind != "branches"),
        runner=status.runner,
    )


def _standing(step: OutlinedStep, current: OutlinedStep) -> OutlinedStep:
    """Return the step at which a slip stands, with what is known of that."""
    names = ("state", "hop_id", "attempt", "queue", "retry_at", "failure", "waiting_for", "runner")
    return replace(step, **{name: getattr(current, name) for name in names})


def _outlined(step: Step, block: OutlinedBlock | None, path: str) -> OutlinedStep:
    return OutlinedStep(
        step_id=step.step_id or "",
        activity=step.activity,
        state="planned",
        block=block,
        path=path,
        added_by=step.added_by,
    )


def _planned_block(step: Step, path: str) -> OutlinedBlock | None:
    if not isinstance(step, BlockSpec):
        return None
    names = [branch.name if step.form != "sub_workflow" else "0" for branch in step.branches[:MOST_SHOWN]]
    branches = [
        OutlinedBranch(name=name, state="planned", steps=tuple(_planned(branch.steps, f"{path}/{name}")))
        for name, branch in zip(names, step.branches, strict=False)
    ]
    return OutlinedBlock(form=step.form, branches=tuple(branches))


def _planned(steps: Iterable[Step], above: str) -> Iterator[OutlinedStep]:
    for step in steps:
        path = f"{above}/{step.step_id or ''}"
        yield _outlined(step, _planned_block(step, path), path)


def _place(branch: BranchReading) -> str:
    ids = split_hop_id(branch.hop.hop_id)
    return ids[1] if ids is not None else ""


def _branch_place(branch: BranchReading) -> str:
    return _place(branch).rpartition(".")[0]
