"""How long to wait for a server that is away, from one attempt to the next."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["patience"]

FIRST_WAIT = 0.2  # seconds; a server that only restarts is back soon
LONGEST_WAIT = 5.0  # seconds; so soon is noticed that it is back after a long time


def patience(first: float = FIRST_WAIT, longest: float = LONGEST_WAIT) -> Iterator[float]:
    """Yield seconds for ever, twice as many each time up to `longest`; whoever waits bounds the waiting."""
    wait = first
    while True:
        yield wait
        wait = min(longest, 2 * wait)
