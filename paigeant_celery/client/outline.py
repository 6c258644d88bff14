"""What a workflow consists of: the steps that ran, those that run and those to come, with the branches of its blocks.

There are no prompts, arguments and outputs in it, so that it can be shown to anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from paigeant_celery.client.readings import BranchState, BranchStatus
from paigeant_celery.client.tree import ReadBlock, current_state, read_blocks
from paigeant_celery.core.errors import MessageError, UnknownWorkflow
from paigeant_celery.core.message import reread
from paigeant_celery.core.names import is_correlation_id, split_hop_id
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
    """A step; `block` has the branches of one that is a block. The id is empty if it is not known any more."""

    step_id: str
    activity: str
    state: State
    block: OutlinedBlock | None = None


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
    return _Outliner(store, correlation_id).steps(ran, slip, state, blocks)


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
        self, ran: Iterable[ExecutedStep], slip: RoutingSlip, state: State, blocks: Mapping[str, ReadBlock]
    ) -> tuple[OutlinedStep, ...]:
        """Return the steps of a slip whose current one is in this state; `blocks` are those in it, by their places."""
        found = [
            OutlinedStep(
                step_id=record.step_id,
                activity=record.activity,
                state="completed",
                block=self._block(blocks.get(record.place)) if record.is_block else None,
            )
            for record in ran
        ]
        for number, step in enumerate(slip.itinerary):
            opened = blocks.get(slip.place) if number == 0 else None
            block = self._block(opened) if opened is not None else _planned_block(step)
            found.append(_outlined(step, state if number == 0 else "planned", block))
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
            return self.steps(ran, slip, status.state, inner)
        # Of a branch that was cut off, or failed, only its blocks and the step that failed are known.
        last = inner.pop(_place(branch), None)
        known = [_of_block(below, "completed", self._block(below)) for below in inner.values()]
        if last is not None:
            known.append(_of_block(last, status.state, self._block(last)))
        elif status.step_id is not None:
            known.append(OutlinedStep(step_id=status.step_id, activity="", state=status.state))
        return tuple(known)


def _slip_of(branch: BranchReading) -> RoutingSlip | None:
    try:
        return reread(branch.hop.envelope).slip if branch.hop.envelope else None
    except MessageError:
        return None


def _of_block(block: ReadBlock, state: State, outlined: OutlinedBlock | None) -> OutlinedStep:
    return OutlinedStep(step_id=block.opened.path.rpartition("/")[2], activity="", state=state, block=outlined)


def _outlined(step: Step, state: State, block: OutlinedBlock | None) -> OutlinedStep:
    return OutlinedStep(step_id=step.step_id or "", activity=step.activity, state=state, block=block)


def _planned_block(step: Step) -> OutlinedBlock | None:
    if not isinstance(step, BlockSpec):
        return None
    branches = [
        OutlinedBranch(
            name=branch.name if step.form != "sub_workflow" else "0",
            state="planned",
            steps=tuple(_planned(branch.steps)),
        )
        for branch in step.branches[:MOST_SHOWN]
    ]
    return OutlinedBlock(form=step.form, branches=tuple(branches))


def _planned(steps: Iterable[Step]) -> Iterator[OutlinedStep]:
    for step in steps:
        yield _outlined(step, "planned", _planned_block(step))


def _place(branch: BranchReading) -> str:
    ids = split_hop_id(branch.hop.hop_id)
    return ids[1] if ids is not None else ""


def _branch_place(branch: BranchReading) -> str:
    return _place(branch).rpartition(".")[0]
