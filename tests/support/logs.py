"""What a worker's log may hold."""

from __future__ import annotations

import re

__all__ = ["uncaught"]

# Python prints the line of source below each frame. What a worker logs about a failed step has frames alone.
_WITH_SOURCE = re.compile(r'^Traceback \(most recent call last\):\n(?:  File ".*\n    \S.*\n)', re.MULTILINE)


def uncaught(log: str) -> list[str]:
    """Return the beginnings of tracebacks of errors that the worker did not expect."""
    return _WITH_SOURCE.findall(log)
