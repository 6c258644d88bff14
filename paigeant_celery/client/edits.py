"""Edits: the steps to come of a workflow that stands still are replaced by those of a document."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.port import Transport
from paigeant_celery.client.checks import check_blocks, check_queues, checked_envelope, files_apart
from paigeant_celery.client.dispatch import given_transport
from paigeant_celery.client.known import known_anywhere
from paigeant_celery.client.steps_to_come import steps_to_come
from paigeant_celery.client.written import recorded, written
from paigeant_celery.core.document_changes import DocumentChange, diff
from paigeant_celery.core.document_errors import EditRefused, Finding, InvalidDocument
from paigeant_celery.core.documents import Given, SlipDocument, read_document, revision_of
from paigeant_celery.core.errors import StoreRequired, UnknownWorkflow
from paigeant_celery.core.hops import NotEdited
from paigeant_celery.core.kept import check_kept, origin_of, unkept_steps
from paigeant_celery.core.lint import lint, told_in_document
from paigeant_celery.core.message import PaigeantMessage, reread, sha256
from paigeant_celery.core.pages import paged
from paigeant_celery.core.wait_inputs import checked_by
from paigeant_celery.store.earlier import executed_of
from paigeant_celery.store.pages import all_opened
from paigeant_celery.store.port import Edit, Store, WorkflowRecord

__all__ = ["EditedWorkflow", "edit_workflow", "edit_workflow_sync"]


@dataclass(frozen=True, kw_only=True)
class EditedWorkflow:
    """What an edit did: the `changes` of the steps to come, and the `revision` from now on.

    `restarts` says that the current step is another one, so that what its attempts had recorded is discarded.
    """

    correlation_id: str
    revision: str
    changes: tuple[DocumentChange, ...]
    restarts: bool


async def edit_workflow(
    correlation_id: str, document: Given, transport: Transport | None = None, *, by: str = ""
) -> EditedWorkflow:
    """Replace the steps to come of a workflow by those of a document that was exported from it and changed.

    The workflow is parked or suspended, and stays so: redrive or answer it to let it go on. The `workflow.revision` of
    the document must be its own; what ran, variables, deadline and limits cannot be changed. A current step that is
    changed begins anew, and its calls are paid for again; one that is suspended, or has opened branches, cannot be
    changed. `by` says who edits, for the event `edited`.

    Raises `EditRefused` (`stale_revision`, `workflow_goes_on`, `workflow_ended`, `step_begun`), `InvalidDocument`,
    `UnknownWorkflow` and `StoreRequired`.
    """
    return await asyncio.to_thread(edit_workflow_sync, correlation_id, document, transport, by=by)


def edit_workflow_sync(
    correlation_id: str, document: Given, transport: Transport | None = None, *, by: str = ""
) -> EditedWorkflow:
    """Do what `edit_workflow` does, for code without an event loop."""
    given, by = read_document(document), checked_by(by)
    transport = given_transport(transport)
    if (store := transport.store) is None:
        raise StoreRequired("edit_workflow")
    if findings := lint(given, known_anywhere(transport, deadlines=False)):
        raise InvalidDocument.of(findings)
    record = recorded(store, correlation_id)
    return _Editing(store, transport, record, given).edit(by)


class _Editing:
    """One edit of one workflow, as it was when it was read."""

    def __init__(self, store: Store, transport: Transport, record: WorkflowRecord, given: SlipDocument) -> None:
        self._store, self._transport, self._record, self._given = store, transport, record, given
        self._digest = sha256(record.envelope)

    def edit(self, by: str) -> EditedWorkflow:
        self._check_state()
        whole = all_opened(self._store, reread(self._record.envelope))
        ran = executed_of(self._store, whole.correlation_id, whole.slip)
        now = written(self._store, self._record, whole, ran, outputs=False)
        check_kept(now, self._given, _not_editable(now, self._given))
        message, blobs = self._edited(whole, [record.step_id for record in ran])
        before = whole.slip.itinerary
        if message.slip.itinerary == before:
            return self._told(now, self._digest, restarts=False)
        restarts = message.slip.itinerary[0] != before[0]
        if message.slip.earlier is not None:
            slip, pages = paged(message.slip, most=self._transport.settings.inline_log_size)
            message, blobs = message.model_copy(update={"slip": slip}), {**blobs, **pages}
        envelope = checked_envelope(message, self._transport)
        hop = Outbox(self._transport.publisher, registry).record_of(message, envelope)
        answer = self._store.edit(Edit(hop=hop, instead_of=self._digest, restarts=restarts, by=by, blobs=blobs))
        if answer == "unknown":
            raise UnknownWorkflow(self._record.correlation_id, self._store.address)
        if answer != "edited":
            raise _refused(answer, self._record.correlation_id)
        return self._told(now, hop.digest, restarts=restarts)

    def _told(self, before: SlipDocument, digest: str, *, restarts: bool) -> EditedWorkflow:
        changes = tuple(diff(before, self._given))
        return EditedWorkflow(
            correlation_id=self._record.correlation_id,
            revision=revision_of(digest),
            changes=changes,
            restarts=restarts,
        )

    def _check_state(self) -> None:
        """Refuse what the store would refuse, with what a person can do about it."""
        record, revision = self._record, revision_of(self._digest)
        origin = origin_of(self._given, record.correlation_id)
        if record.state not in ("running", "parked"):
            raise _refused("ended", record.correlation_id)
        if origin.revision != revision:
            text = (
                f"its revision is {revision}, and the document has {origin.revision[:64]}: it has moved on, or somebody"
            )
            raise EditRefused(
                "stale_revision", record.correlation_id, f"{text} edited it; export it again, and edit that"
            )
        if record.state != "parked" and not record.suspended:
            raise _refused("goes_on", record.correlation_id)

    def _edited(self, whole: PaigeantMessage, ran: Sequence[str]) -> tuple[PaigeantMessage, Mapping[str, str]]:
        """Return the message with the steps of the document, checked, and the files that the store must hold."""
        remaining = self._given.remaining
        added_by = {step.step_id or "": step.added_by for step in whole.slip.itinerary}
        with told_in_document(remaining):
            steps = steps_to_come(remaining, ran=ran, added_by=added_by)
            check_blocks(steps, "itinerary", ran, self._transport.settings.max_branches)
            slip = whole.slip.model_copy(update={"itinerary": tuple(steps), "later": None})
            message = whole.moved(slip, now=whole.sent_at)
            check_queues(message, self._transport)
            return files_apart(message, self._transport)


def _refused(why: NotEdited, correlation_id: str) -> EditRefused:
    match why:
        case "ended":
            return EditRefused(
                "workflow_ended", correlation_id, "it has ended; fork it with the document, or run that anew"
            )
        case "goes_on":
            text = "it goes on, and a worker may have its message; wait until it is parked or suspended, or fork it"
            return EditRefused("workflow_goes_on", correlation_id, text)
        case "changed":
            text = "somebody else has just edited it; export it again, and edit that"
            return EditRefused("stale_revision", correlation_id, text)
        case "begun":
            text = "its current step has opened branches or is suspended, and stays as it is; edit those after it"
            return EditRefused("step_begun", correlation_id, text)
    assert_never(why)


def _not_editable(now: SlipDocument, given: SlipDocument) -> Iterator[Finding]:
    """Yield what is wrong with the steps of a document, before it is looked at what those to come ask for."""
    ran = [step for step in now.itinerary if step.ran is not None]
    yield from unkept_steps(ran, given.itinerary[: len(ran)])
    for index, step in enumerate(given.itinerary):
        if index < len(ran) and step.ran is None and step.step_id == ran[index].step_id:
            yield Finding("invalid_document", f"itinerary[{index}].ran", "the step has run", "put `ran` back")
        if index >= len(ran) and step.ran is not None:
            yield Finding("invalid_document", f"itinerary[{index}].ran", "the step has not run", "leave `ran` out")
    if len(given.itinerary) <= len(ran):
        yield Finding("empty_itinerary", "itinerary", "there is no step to come", "keep one, or cancel the workflow")
