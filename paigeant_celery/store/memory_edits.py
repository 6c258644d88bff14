"""Edits of hops in the store in memory."""

from __future__ import annotations

from datetime import datetime

from paigeant_celery.core import hops as protocol
from paigeant_celery.core.names import block_of
from paigeant_celery.store.edit_port import Edit, EditAnswer
from paigeant_celery.store.memory_records import Records
from paigeant_celery.store.memory_waits import Waits
from paigeant_celery.store.totals import NOTHING

__all__ = ["edit_hop"]


def edit_hop(records: Records, waits: Waits, edit: Edit, *, now: datetime) -> EditAnswer:
    """Replace the envelope of a hop that nobody runs."""
    new = edit.hop
    kept = records.hops.get(new.hop_id)
    if kept is None:
        return "unknown"
    opened = kept.block is not None and kept.block.written > 0
    edited = protocol.edit(
        kept.hop, digest=new.digest, instead_of=edit.instead_of, restarts=edit.restarts, opened=opened
    )
    if isinstance(edited, str):
        return edited
    kept.hop, kept.envelope = edited, new.envelope
    workflow = kept.workflow
    if new.activity and block_of(new.hop_id) is None:
        workflow.activity, workflow.step_id = new.activity, new.step_id
    if edit.restarts:
        kept.queue = new.queue
        kept.journal.clear()
        kept.counted = NOTHING  # what was paid stays in the workflow's sums
        waits.forget(kept)
        kept.heard = None
    workflow.blobs.update(edit.blobs)
    workflow.updated_at = now
    by = {"by": edit.by} if edit.by else {}
    workflow.events.add_event("edited", new.hop_id, now=now, **by)
    return "edited"
