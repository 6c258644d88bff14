"""How long to wait between attempts for a server that is unavailable."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["patience"]

FIRST_WAIT = 0.2  # seconds; a server that only restarts is back soon
LONGEST_WAIT = 5.0  # seconds; the longest delay before a server that was gone for long is noticed again


def patience(first: float = FIRST_WAIT, longest: float = LONGEST_WAIT) -> Iterator[float]:
    """Yield seconds forever, doubled each time up to `longest`; the caller limits the total wait."""
    wait = first
    while True:
        yield wait
        wait = min(longest, 2 * wait)
