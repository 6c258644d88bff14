"""Forks by documents: a new workflow that runs the steps of a document from one of them on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from paigeant_celery.broker.port import Transport
from paigeant_celery.broker.spans import dispatching
from paigeant_celery.client.beginning import Beginning
from paigeant_celery.client.checks import check_deadline, checked_correlation_id
from paigeant_celery.client.dispatch import given_transport
from paigeant_celery.client.forking import NewFork, Original
from paigeant_celery.client.known import known_anywhere
from paigeant_celery.client.steps_to_come import steps_to_come
from paigeant_celery.client.written import recorded, written
from paigeant_celery.core.document_changes import DocumentChange, diff, step_ids
from paigeant_celery.core.document_errors import Finding, InvalidDocument
from paigeant_celery.core.document_steps import Placed, RecordedStep, StepOfDocument
from paigeant_celery.core.documents import Given, SlipDocument, read_document
from paigeant_celery.core.errors import StoreCorrupt, StoreRequired
from paigeant_celery.core.kept import check_kept, origin_of, unkept_steps
from paigeant_celery.core.lint import lint, told_in_document
from paigeant_celery.store.port import Store, WorkflowRecord

__all__ = ["ForkedWorkflow", "fork_workflow", "fork_workflow_sync"]


@dataclass(frozen=True, kw_only=True)
class ForkedWorkflow:
    """A fork that has begun: its id, and the `changes` of the document to the workflow that it was made of."""

    correlation_id: str
    changes: tuple[DocumentChange, ...]


async def fork_workflow(
    correlation_id: str,
    document: Given,
    transport: Transport | None = None,
    *,
    from_step: str,
    fork_id: str | None = None,
    deadline: datetime | None = None,
) -> ForkedWorkflow:
    """Begin a new workflow that runs a document which was exported from another one and changed, from a step on.

    The other one has ended, is parked, or goes on, and stays as it is. `from_step` is the id of a step of the document,
    and those before it are as they ran: the fork has copies of what they gave, as that of `WorkflowHandle.fork`.
    Variables and limits cannot be changed, and a deadline is not taken over: pass a new one. Steps that the repeated
    ones had inserted are left out. `fork_id`, the id of the fork, makes the call idempotent.

    Raises `InvalidDocument`, `StoreRequired`, and what `WorkflowHandle.fork` raises.
    """
    forking = _Forking(correlation_id, read_document(document), given_transport(transport), from_step)
    with dispatching() as span:
        new = await asyncio.to_thread(forking.beginning, fork_id, deadline)
        new.named_in(span)
        return forking.told(await new.sent())


def fork_workflow_sync(
    correlation_id: str,
    document: Given,
    transport: Transport | None = None,
    *,
    from_step: str,
    fork_id: str | None = None,
    deadline: datetime | None = None,
) -> ForkedWorkflow:
    """Do what `fork_workflow` does, for code without an event loop."""
    forking = _Forking(correlation_id, read_document(document), given_transport(transport), from_step)
    with dispatching() as span:
        new = forking.beginning(fork_id, deadline)
        new.named_in(span)
        return forking.told(new.send())


class _Forking:
    """One fork of one workflow by a document."""

    def __init__(self, correlation_id: str, given: SlipDocument, transport: Transport, from_step: str) -> None:
        self._correlation_id, self._given, self._transport = correlation_id, given, transport
        self._from_step = from_step
        self._changes: tuple[DocumentChange, ...] = ()

    def beginning(self, fork_id: str | None, deadline: datetime | None) -> Beginning:
        """Return its beginning, checked."""
        if (store := self._transport.store) is None:
            raise StoreRequired("fork_workflow")
        if findings := lint(self._given, known_anywhere(self._transport, deadlines=False)):
            raise InvalidDocument.of(findings)
        fork_id = checked_correlation_id(fork_id)
        check_deadline(deadline, datetime.now(UTC))
        record = recorded(store, self._correlation_id)
        origin_of(self._given, self._correlation_id)
        self._transport.check_dispatch()
        try:
            return self._of(store, record, fork_id, deadline)
        except StoreCorrupt:
            recorded(store, self._correlation_id)  # or it has just expired
            raise

    def told(self, fork_id: str) -> ForkedWorkflow:
        return ForkedWorkflow(correlation_id=fork_id, changes=self._changes)

    def _of(self, store: Store, record: WorkflowRecord, fork_id: str, deadline: datetime | None) -> Beginning:
        original = Original.read(store, self._transport, record)
        now = written(store, record, original.message, original.ran, outputs=False)
        number = self._number(original)
        check_kept(now, self._given, self._faults(now, number))
        self._changes = tuple(diff(now, self._given))
        again = now.itinerary[number:]
        left_out = _inserted_by(again)
        placed = self._placed(number, left_out)
        added_by = {step.step_id or "": step.added_by for step in again if step.step_id not in left_out}
        with told_in_document(placed):
            ran = [each.step_id for each in original.ran[:number]]
            steps = tuple(steps_to_come(placed, ran=ran, added_by=added_by))
            new = NewFork(
                from_step=self._from_step, number=number, steps=steps, correlation_id=fork_id, deadline=deadline
            )
            return new.of(original)

    def _number(self, original: Original) -> int:
        """Return how many steps are kept: those before the step, in the document if the workflow does not have it."""
        ids = step_ids(self._given.itinerary)
        if self._from_step not in ids or self._from_step in original.step_ids:
            return original.number_before(self._from_step)
        return min(ids.index(self._from_step), len(original.ran))

    def _faults(self, now: SlipDocument, number: int) -> Iterator[Finding]:
        """Yield what is wrong with the steps of the document, before it is looked at what they ask for."""
        ids = step_ids(self._given.itinerary)
        if self._from_step not in ids:
            text = f"there is no step {self._from_step!r}, at which the fork begins"
            yield Finding("unknown_path", "itinerary", text, "put it back under this id, or fork at another step")
            return
        place = ids.index(self._from_step)
        yield from unkept_steps(now.itinerary[:number], self._given.itinerary[:place])
        for index, step in list(enumerate(self._given.itinerary))[place:]:
            if isinstance(step, RecordedStep):
                text = "an older version ran the step, and kept only what it gave"
                remedy = "write it down, as an `agent` with a `prompt`, or fork behind it"
                yield Finding("not_kept", f"itinerary[{index}]", text, remedy)

    def _placed(self, number: int, left_out: set[str]) -> list[Placed]:
        """Return the steps of the document that the fork runs, each with its index."""
        steps = list(enumerate(self._given.itinerary))
        first, *rest = steps[number:]
        return [
            first,
            *((index, step) for index, step in rest if step.added_by is None or step.step_id not in left_out),
        ]


def _inserted_by(steps: Sequence[StepOfDocument]) -> set[str]:
    """Return the ids of the steps that others of them inserted, which these will insert again, or not."""
    ids = {step.step_id for step in steps}
    return {step.step_id or "" for step in steps if step.added_by is not None and step.added_by in ids}
