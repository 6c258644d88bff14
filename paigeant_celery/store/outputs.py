"""Outputs: what of them travels, and what does not and is read back from the store."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from paigeant_celery.core.errors import NotSerializable, StoreCorrupt
from paigeant_celery.core.jsonable import dumps, loads
from paigeant_celery.core.message import sha256
from paigeant_celery.core.slip import ExecutedStep, OutputRef
from paigeant_celery.store.port import Store

__all__ = ["Kept", "kept", "read_blob"]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How an output is kept: `output` travels in the envelope, or `ref` does, and `blob` is its JSON in the store."""

    output: JsonValue
    ref: OutputRef | None = None
    blob: str | None = None


def kept(output: JsonValue, *, largest: int, largest_inline: int | None) -> Kept:
    """Say how an output is kept; all of it travels unless it has more than `largest_inline` bytes of JSON.

    Raises `NotSerializable` if it has no JSON form, or more than `largest` bytes of it (`output_too_large`).
    """
    text = dumps(output)
    size = len(text.encode())
    if size > largest:
        raise NotSerializable("output_too_large", f"{size} bytes exceed `paigeant_max_output_size` ({largest})")
    if largest_inline is None or size <= largest_inline:
        return Kept(output=output)
    return Kept(output=None, ref=OutputRef(size=size, sha256=sha256(text)), blob=text)


def read_blob(store: Store | None, correlation_id: str, record: ExecutedStep) -> JsonValue:
    """Read a large output from the store; raises `StoreCorrupt` where it is not there as it was recorded."""
    text = store.blob(correlation_id, record.step_id) if store is not None else None
    if text is None or record.output_ref is None or sha256(text) != record.output_ref.sha256:
        raise StoreCorrupt(f"{correlation_id}: output of {record.step_id}", "missing, or not as it was recorded")
    return loads(text, invalid="store_corrupt")
