"""Workflows as documents, from outside: checked, dispatched and exported."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import JsonValue

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.port import Transport
from paigeant_celery.client.dispatch import WorkflowDispatcher, given_transport
from paigeant_celery.client.tree import current_state
from paigeant_celery.core.content import blob_of
from paigeant_celery.core.document_changes import DocumentChange, diff
from paigeant_celery.core.document_errors import Finding, InvalidDocument
from paigeant_celery.core.documents import Given, SlipDocument, exported, read_document, revision_of
from paigeant_celery.core.errors import InvalidInput, StoreCorrupt, StoreRequired, UnknownWorkflow
from paigeant_celery.core.files import files_of, with_files_back
from paigeant_celery.core.forks import name_of_ran, read_ran
from paigeant_celery.core.lint import Known, in_document, lint
from paigeant_celery.core.message import PaigeantMessage, reread, sha256
from paigeant_celery.core.names import is_correlation_id
from paigeant_celery.core.slip import ExecutedStep, Step
from paigeant_celery.store.earlier import executed_of
from paigeant_celery.store.outputs import outputs_of
from paigeant_celery.store.pages import all_opened
from paigeant_celery.store.port import Store, WorkflowRecord

__all__ = [
    "diff_documents",
    "dispatch_document",
    "dispatch_document_sync",
    "export_document",
    "export_document_sync",
    "known_anywhere",
    "known_here",
    "lint_document",
    "recorded",
    "store_of",
    "written",
]

READ_AT_ONCE = 100  # steps


def lint_document(document: Given, transport: Transport | None = None) -> Sequence[Finding]:
    """Return all that is wrong with a document (its text, its JSON, or one that was read); nothing if it is sound.

    If this process has loaded activities, those that are not among them are unknown. The limits are those of the
    transport's settings, or the defaults. Raises `UsageError` for YAML without PyYAML.
    """
    return lint(document, known_here(transport, deadlines=True))


def diff_documents(before: Given, after: Given) -> Sequence[DocumentChange]:
    """Return what differs between two documents: in fields, and in steps, which are compared by their ids.

    How steps ran is not compared. Raises `InvalidDocument`.
    """
    return diff(read_document(before), read_document(after))


async def dispatch_document(
    document: Given,
    transport: Transport | None = None,
    *,
    correlation_id: str | None = None,
    start_at: datetime | None = None,
    deadline: datetime | None = None,
) -> str:
    """Dispatch the workflow of a document, as `dispatch_workflow` does, and return its correlation id.

    The arguments take the place of what the document says. An exported document is run from its beginning; steps that
    agents had inserted are left out. Raises `InvalidDocument` with all that is wrong, and what `dispatch_workflow`
    raises.
    """
    return await asyncio.to_thread(
        dispatch_document_sync, document, transport, correlation_id=correlation_id, start_at=start_at, deadline=deadline
    )


def dispatch_document_sync(
    document: Given,
    transport: Transport | None = None,
    *,
    correlation_id: str | None = None,
    start_at: datetime | None = None,
    deadline: datetime | None = None,
) -> str:
    """Do what `dispatch_document` does, for code without an event loop."""
    given = read_document(document)
    if findings := lint(given, known_anywhere(transport, deadlines=deadline is None)):
        raise InvalidDocument.of(findings)
    dispatcher = WorkflowDispatcher()
    for step, description in given.registered():
        dispatcher.register(step, description=description)
    try:
        return dispatcher.dispatch_workflow_sync(
            transport,
            itinerary=given.steps(),
            variables=given.variables,
            correlation_id=correlation_id if correlation_id is not None else given.correlation_id,
            start_at=start_at if start_at is not None else given.start_at,
            deadline=deadline if deadline is not None else given.deadline,
            stream=given.stream,
            usage_limits=given.limits(),
        )
    except InvalidInput as error:
        path = in_document(given.planned, error.path)
        raise InvalidDocument.of([Finding(error.reason, path, error.text)]) from error


async def export_document(
    correlation_id: str, transport: Transport | None = None, *, outputs: bool = True
) -> SlipDocument:
    """Return a workflow as a document: all its steps, and of those that ran how, what they gave and who inserted them.

    It has prompts with their files, deps, variables and, unless `outputs` is false, outputs. `write_document` makes a
    text of it. Raises `UnknownWorkflow`, `StoreRequired`, `StoreCorrupt`, and `MessageError` if only a newer version
    can read the workflow.
    """
    return await asyncio.to_thread(export_document_sync, correlation_id, transport, outputs=outputs)


def export_document_sync(
    correlation_id: str, transport: Transport | None = None, *, outputs: bool = True
) -> SlipDocument:
    """Do what `export_document` does, for code without an event loop."""
    store = store_of(transport, "export_document")
    record = recorded(store, correlation_id)
    message = all_opened(store, reread(record.envelope))
    return written(store, record, message, outputs=outputs)


def known_here(transport: Transport | None, *, deadlines: bool) -> Known:
    """Return what this process knows about documents."""
    activities = {name: str(activity.kind) for name, activity in registry.activities().items()}
    now = datetime.now(UTC) if deadlines else None
    limits = {}
    if transport is not None:
        settings = transport.settings
        limits = {"max_steps": settings.max_steps, "max_branches": settings.max_branches}
    return Known(activities=activities or None, check=_check, now=now, **limits)


def known_anywhere(transport: Transport | None, *, deadlines: bool) -> Known:
    """Return what holds for documents whichever activities this process has loaded: workers may have others.

    Steps of those that it has loaded are checked when messages are made of them.
    """
    known = known_here(transport, deadlines=deadlines)
    return Known(now=known.now, max_steps=known.max_steps, max_branches=known.max_branches)


def store_of(transport: Transport | None, operation: str) -> Store:
    """Return the store of a transport, or of the default one; raises `StoreRequired`."""
    store = given_transport(transport).store
    if store is None:
        raise StoreRequired(operation)
    return store


def recorded(store: Store, correlation_id: str) -> WorkflowRecord:
    """Return the record of a workflow; raises `UnknownWorkflow`."""
    known = isinstance(correlation_id, str) and is_correlation_id(correlation_id)
    record = store.workflow(correlation_id) if known else None
    if record is None:
        raise UnknownWorkflow(str(correlation_id), store.address)
    return record


def written(store: Store, record: WorkflowRecord, message: PaigeantMessage, *, outputs: bool) -> SlipDocument:
    """Return the document of a workflow, whose message has all steps to come."""
    ran = executed_of(store, record.correlation_id, message.slip)
    steps = _steps_that_ran(store, record.correlation_id, ran)
    values: list[JsonValue] = outputs_of(store, record.correlation_id, ran) if outputs else [None] * len(ran)
    message, steps = _with_files(store, message, steps)
    return exported(
        message,
        state=current_state(record),
        revision=revision_of(sha256(record.envelope)),
        ran=zip(ran, steps, values, strict=True),
    )


def _check(step: Step) -> None:
    activity = registry.find(step.activity)
    if activity is not None:
        activity.check(step)


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
