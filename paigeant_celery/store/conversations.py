"""Histories of conversations in pieces, each small enough for one round trip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from paigeant_celery.core.conversations import ConversationKey
from paigeant_celery.store.port import Heard, Said

__all__ = ["PIECE", "heard_of", "history_fields", "in_pieces", "said_arguments", "trips", "where_of"]

PIECE = 1024 * 1024  # characters of what a step says; at most four times as many bytes
AT_ONCE = 4 * 1024 * 1024  # bytes that are read in one round trip


def where_of(key: ConversationKey | None) -> tuple[Literal["", "workflow", "anywhere"], str]:
    """Return where scripts find a conversation, and by what name."""
    if key is None:
        return "", ""
    return ("anywhere" if key.workflow is None else "workflow"), key.name


def in_pieces(text: str) -> list[str]:
    """Return a text in pieces."""
    return [text[start : start + PIECE] for start in range(0, len(text), PIECE)]


def said_arguments(said: Said | None) -> list[str | int]:
    """Return what a step said as scripts take it."""
    if said is None:
        return ["", "", 0, 0]
    pieces = in_pieces(said.text)
    return [*where_of(said.conversation), len(said.text.encode()), len(pieces), *pieces]


def history_fields(said: Said, *, log: str) -> Mapping[str, str]:
    """Return the fields that hold a whole history of a workflow's own, among its blobs."""
    pieces = in_pieces(said.text)
    fields = {"log": log, "pieces": str(len(pieces)), "size": str(len(said.text.encode()))}
    fields.update({str(number): piece for number, piece in enumerate(pieces, 1)})
    return {f":{said.conversation.name}:{field}": text for field, text in fields.items()}


def heard_of(text: str) -> Heard | None:
    """Read what scripts answer about the history at the first claim of a hop."""
    if not text:
        return None
    pieces, size, log = text.split(" ", 2)
    return Heard(pieces=int(pieces), size=int(size), log=log)


def trips(sizes: Sequence[int]) -> Iterator[range]:
    """Yield the numbers of what is read in one round trip, from 1 on; `sizes` are in bytes."""
    first, sum_ = 1, 0
    for number, size in enumerate(sizes, 1):
        if sum_ + size > AT_ONCE and number > first:
            yield range(first, number)
            first, sum_ = number, 0
        sum_ += size
    if sizes:
        yield range(first, len(sizes) + 1)
