"""Outputs that do not travel: read back from the store and checked against what was recorded."""

from __future__ import annotations

from pydantic import JsonValue

from paigeant_celery.core.errors import StoreCorrupt
from paigeant_celery.core.jsonable import loads
from paigeant_celery.core.message import sha256
from paigeant_celery.core.slip import ExecutedStep
from paigeant_celery.store.port import HopStore

__all__ = ["read_blob"]


def read_blob(store: HopStore | None, correlation_id: str, record: ExecutedStep) -> JsonValue:
    """Read a large output from the store; raises `StoreCorrupt` if it is missing or not as it was recorded."""
    text = store.blob(correlation_id, record.step_id) if store is not None else None
    if text is None or record.output_ref is None or sha256(text) != record.output_ref.sha256:
        raise StoreCorrupt(f"{correlation_id}: output of {record.step_id}", "missing or not as recorded")
    return loads(text, invalid="store_corrupt")
