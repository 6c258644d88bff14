"""How long a command waits, as it is typed."""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["SECONDS", "SECONDS_OR_INF"]

MOST = 1_000_000.0  # seconds, more than eleven days; sockets cannot be told to wait for many years


class _Seconds(click.FloatRange):
    """A number of seconds that something can wait for."""

    name = "seconds"

    def __init__(self, *, endless: bool = False) -> None:
        super().__init__(min=0.0, max=MOST)
        self._endless = endless

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; what is none, is negative or has no end is refused."""
        seconds = click.FLOAT.convert(value, param, ctx)
        if self._endless and seconds == math.inf:
            return math.inf
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return float(super().convert(seconds, param, ctx))


SECONDS = _Seconds()
SECONDS_OR_INF = _Seconds(endless=True)
