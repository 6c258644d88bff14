"""Outputs and files of prompts: what of them travels, and what does not and is read back from the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from paigeant_celery.core.content import blob_of
from paigeant_celery.core.errors import NotSerializable, StoreCorrupt
from paigeant_celery.core.jsonable import dumps, loads
from paigeant_celery.core.manifests import assembled, manifest_in
from paigeant_celery.core.message import PaigeantMessage, sha256
from paigeant_celery.core.pages import name_of_page, next_page
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import ExecutedStep, OutputRef
from paigeant_celery.store.conversations import trips
from paigeant_celery.store.port import HopStore

__all__ = ["Kept", "Outputs", "brought_with_claim", "checked", "outputs_of", "recorded_values"]

MOST_BROUGHT = 32 * 1024  # bytes of an output that a claim brings; the event loop reads so much in about 1 ms


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How an output is kept: `output` travels in the envelope, or `ref` does, and `blob` is its JSON in the store."""

    output: JsonValue
    ref: OutputRef | None = None
    blob: str | None = None


class Outputs:
    """The outputs of steps: all of one travels, unless it is large and there is a store that keeps it."""

    def __init__(self, settings: Settings, store: HopStore | None = None) -> None:
        self._store, self._largest = store, settings.max_output_size
        self._largest_inline = settings.inline_output_size if store is not None else settings.max_output_size

    def kept(self, output: JsonValue, *, name: str | None = None) -> Kept:
        """Say how an output is kept; `name` is that in the store, if it is not the id of the step.

        Raises `NotSerializable` if it has no JSON form, or if that is too large (`output_too_large`).
        """
        text = dumps(output)
        size = len(text.encode())
        if size > self._largest:
            limit = f"`paigeant_max_output_size` ({self._largest})"
            raise NotSerializable("output_too_large", f"{size} bytes exceed {limit}; raise it, or return less")
        if size <= self._largest_inline:
            return Kept(output=output)
        return Kept(output=None, ref=OutputRef(size=size, sha256=sha256(text), name=name), blob=text)

    def read(self, correlation_id: str, record: ExecutedStep) -> JsonValue:
        """Read an output that does not travel; raises `StoreCorrupt` if it is not there as it was recorded."""
        return outputs_of(self._store, correlation_id, [record])[0]

    def data(self, correlation_id: str, digest: str) -> str:
        """Read the data of a file in a prompt, as base64; raises `StoreCorrupt` if it is not there as it was given."""
        text = self._store.blob(correlation_id, blob_of(digest)) if self._store is not None else None
        if text is None or sha256(text) != digest:
            raise StoreCorrupt(f"{correlation_id}: file of a prompt", "missing or not as recorded")
        return text


def outputs_of(store: HopStore | None, correlation_id: str, records: Sequence[ExecutedStep]) -> list[JsonValue]:
    """Return the outputs of steps, with few round trips for those that do not travel; raises like `Outputs.read`.

    Those of blocks are put together from what their branches gave.
    """
    values = recorded_values(store, correlation_id, records)
    return [
        _assembled(store, correlation_id, value) if record.is_block else value
        for record, value in zip(records, values, strict=True)
    ]


def recorded_values(store: HopStore | None, correlation_id: str, records: Sequence[ExecutedStep]) -> list[JsonValue]:
    """Return what steps have recorded as their outputs, with few round trips."""
    found = _read_far(store, correlation_id, [(record.output_name, record.output_ref) for record in records])
    return [record.output if record.output_ref is None else value for record, value in zip(records, found, strict=True)]


def _assembled(store: HopStore | None, correlation_id: str, tree: JsonValue) -> JsonValue:
    """Return the output of a block, whose manifest is recorded."""
    try:
        manifest = manifest_in(tree)
    except ValueError as error:
        raise StoreCorrupt(f"{correlation_id}: output of a block", str(error)) from error
    gave = [(entry, entry.output) for entry in manifest.branches if entry.output is not None]
    values = _read_far(store, correlation_id, [(ref.name or "", ref) for _, ref in gave])
    outputs = {
        entry.place: _assembled(store, correlation_id, value) if entry.block else value
        for (entry, _), value in zip(gave, values, strict=True)
    }
    return assembled(manifest, outputs)


def _read_far(
    store: HopStore | None, correlation_id: str, wanted: Sequence[tuple[str, OutputRef | None]]
) -> list[JsonValue]:
    """Return the values that the store has under these names; null if nothing is wanted."""
    far = [(name, ref.size) for name, ref in wanted if ref is not None]
    texts: dict[str, str] = {}
    for trip in trips([size for _, size in far]) if store is not None else ():
        assert store is not None
        texts.update(store.blobs(correlation_id, [far[number - 1][0] for number in trip]))
    return [_checked(correlation_id, name, ref, texts.get(name)) if ref is not None else None for name, ref in wanted]


def brought_with_claim(message: PaigeantMessage) -> tuple[str, ...]:
    """Return the blobs that a claim brings because the hop needs them: the previous output and the next page.

    Large ones are read apart.
    """
    wanted: list[tuple[str, int]] = []
    previous = message.slip.wanted
    if previous is not None and previous.output_ref is not None and not previous.is_block:
        wanted.append((previous.output_name, previous.output_ref.size))
    if (later := next_page(message.slip)) is not None:
        wanted.append((name_of_page(later.page), later.size))
    return tuple(name for name, size in wanted if size <= MOST_BROUGHT)


def checked(correlation_id: str, record: ExecutedStep, text: str | None) -> JsonValue:
    """Return the output that a text is; raises `StoreCorrupt` if it is missing or not as it was recorded."""
    return _checked(correlation_id, record.output_name, record.output_ref, text)


def _checked(correlation_id: str, name: str, ref: OutputRef | None, text: str | None) -> JsonValue:
    if text is None or ref is None or sha256(text) != ref.sha256:
        raise StoreCorrupt(f"{correlation_id}: output of {name}", "missing or not as recorded")
    return loads(text, invalid="store_corrupt")
