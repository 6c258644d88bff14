"""Entries of a journal that are too long for one round trip: each is written in pieces and read as one again.

The entry that says how many pieces there are is written last. Without it there is no entry: its call is made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

__all__ = ["PIECE", "in_pieces", "name_of_entry", "whole"]

PIECE = 4 * 1024 * 1024  # characters
COUNT = ".pieces"  # ends the name of the entry that counts them; no other name ends so


def in_pieces(key: str, text: str) -> Iterator[Mapping[str, str]]:
    """Return what must be written for an entry, in order."""
    if len(text) <= PIECE:
        yield {key: text}
        return
    starts = range(0, len(text), PIECE)
    for number, start in enumerate(starts, 1):
        yield {f"{key}.{number}": text[start : start + PIECE]}
    yield {f"{key}{COUNT}": str(len(starts))}


def name_of_entry(written: str) -> str:
    """Return the name of the entry that is there once this one is written."""
    return written.removesuffix(COUNT)


def whole(records: Mapping[str, str]) -> dict[str, str]:
    """Return a journal's entries with those whole that were written in pieces."""
    found = dict(records)
    for counter, count in records.items():
        if counter.endswith(COUNT):
            key = counter.removesuffix(COUNT)
            del found[counter]
            found[key] = "".join(found.pop(f"{key}.{number}") for number in range(1, int(count) + 1))
    return found
