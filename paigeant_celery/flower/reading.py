"""What the page of one workflow needs, read in one go: calls to the store that may block, for a thread."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import JsonValue

from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.client.handle import WorkflowHandle
from paigeant_celery.client.outline import Outline, outline_of
from paigeant_celery.client.outputs import outputs_by_path
from paigeant_celery.client.readings import PendingWait, WorkflowStatus
from paigeant_celery.core.errors import MessageError, StoreCorrupt, StoreRequired
from paigeant_celery.core.slip import ExecutedStep
from paigeant_celery.flower.timeline import Row, Span, rows_of, steps_in
from paigeant_celery.flower.words import text_of

__all__ = ["Reading", "name_of_wait", "output_at", "read_workflow"]

LARGEST = 4 * 1024  # bytes of an output that is read to show its beginning; a larger one has a page
MOST = 256 * 1024  # bytes of all of them
MOST_PENDING = 50  # waits that can be answered on the page


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A workflow as its page shows it.

    `pending` are the oldest waits that can be answered, by names without their tokens, and `more_pending` says how many
    more there are. `answerable` has the paths of the steps of all of them.
    """

    status: WorkflowStatus
    rows: list[Row]
    pending: Mapping[str, PendingWait] = field(default_factory=dict)
    more_pending: int = 0
    answerable: frozenset[str] = frozenset()
    unreadable: str = ""


def read_workflow(transport: CeleryTransport, correlation_id: str, *, now: datetime, content: bool) -> Reading:
    """Read a workflow; outputs, texts of errors and questions only if `content` may be seen."""
    handle, store = WorkflowHandle(correlation_id, transport), transport.store
    status = handle.status_sync()
    if store is None:
        raise StoreRequired("status")
    outline: Outline = ()
    outputs: Mapping[str, JsonValue] = {}
    unreadable = ""
    try:
        outline = outline_of(store, correlation_id)
        if content:
            outputs = outputs_by_path(store, correlation_id, _short(outline))
    except (StoreCorrupt, MessageError) as error:
        unreadable = str(error) if content else type(error).__name__
    pending = handle.pending_sync() if content else ()
    span = Span(begins=status.created_at, ends=now if status.in_progress else status.updated_at)
    return Reading(
        status=status,
        rows=rows_of(outline, span, outputs=outputs, content=content),
        pending={name_of_wait(wait): wait for wait in pending[:MOST_PENDING]},
        more_pending=max(0, len(pending) - MOST_PENDING),
        answerable=frozenset(wait.step_id for wait in pending),
        unreadable=unreadable,
    )


def output_at(transport: CeleryTransport, correlation_id: str, path: str) -> str | None:
    """Return the whole output of a step as text; None if there is none at this path."""
    store = transport.store
    if store is None:
        raise StoreRequired("result")
    for step in steps_in(outline_of(store, correlation_id)):
        if step.path == path and step.record is not None and step.record.gives_output:
            return text_of(outputs_by_path(store, correlation_id, {path: step.record})[path])
    return None


def name_of_wait(wait: PendingWait) -> str:
    """Return a name by which a form asks for a wait: whoever has a token may answer, so tokens stay on the server."""
    return hashlib.sha256(wait.token.encode()).hexdigest()[:32]


def _short(outline: Outline) -> dict[str, ExecutedStep]:
    found, left = dict[str, ExecutedStep](), MOST
    for step in steps_in(outline):
        record = step.record
        if record is None or not record.gives_output or record.is_block:
            continue
        size = record.output_ref.size if record.output_ref is not None else 0
        if size <= min(LARGEST, left):
            found[step.path] = record
            left -= size
    return found
