"""How records are written on Redis and read from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from paigeant_celery.store.port import DeadLetter, HopRecord
from paigeant_celery.store.timeline import Entry, Id, id_of

__all__ = ["EPOCH", "entry_of", "flat_of", "hop_arguments", "letter_fields", "letter_of", "moment_of"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def hop_arguments(hop: HopRecord) -> tuple[str, str, str, str]:
    """Return a hop as scripts take it."""
    return hop.hop_id, hop.queue, hop.envelope, hop.digest


def flat_of(pairs: Mapping[str, str]) -> list[str]:
    """Return keys and values in turn, as commands take them."""
    return [part for pair in pairs.items() for part in pair]


def letter_fields(letter: DeadLetter) -> list[str]:
    """Return the fields of a letter and their values in turn."""
    return flat_of({name: str(value) for name, value in vars(letter).items() if value is not None})


def letter_of(flat: Sequence[str]) -> DeadLetter:
    """Read a letter."""
    fields: dict[str, Any] = dict(zip(flat[::2], flat[1::2], strict=True))
    optional = dict.fromkeys(("hop_id", "correlation_id", "activity", "queue"))
    return DeadLetter(**{**optional, **fields, "size": int(fields["size"]), "at": moment_of(fields["at"])})


def entry_of(id_: str, flat: Sequence[str], *, behind: Id | None = None) -> Entry:
    """Read an entry of a stream."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Entry(id=id_of(id_), at=moment_of(id_.partition("-")[0]), fields=fields, behind=behind)


def moment_of(milliseconds: str) -> datetime:
    """Read a time as the scripts write it."""
    return EPOCH + timedelta(milliseconds=int(milliseconds))
