"""Workflows as documents, from outside: checked, dispatched and exported."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from paigeant_celery.broker.port import Transport
from paigeant_celery.client.dispatch import WorkflowDispatcher, given_transport
from paigeant_celery.client.known import known_anywhere, known_here
from paigeant_celery.client.written import recorded, written
from paigeant_celery.core.document_changes import DocumentChange, diff
from paigeant_celery.core.document_errors import Finding, InvalidDocument
from paigeant_celery.core.documents import Given, SlipDocument, read_document
from paigeant_celery.core.errors import StoreRequired
from paigeant_celery.core.lint import lint, told_in_document
from paigeant_celery.core.message import reread
from paigeant_celery.store.earlier import executed_of
from paigeant_celery.store.pages import all_opened
from paigeant_celery.store.port import Store

__all__ = [
    "diff_documents",
    "dispatch_document",
    "dispatch_document_sync",
    "export_document",
    "export_document_sync",
    "lint_document",
    "store_of",
]


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
    with told_in_document(given.planned):
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
    return written(store, record, message, executed_of(store, correlation_id, message.slip), outputs=outputs)


def store_of(transport: Transport | None, operation: str) -> Store:
    """Return the store of a transport, or of the default one; raises `StoreRequired`."""
    store = given_transport(transport).store
    if store is None:
        raise StoreRequired(operation)
    return store
