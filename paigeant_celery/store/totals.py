"""How stores count what a workflow with limits has used: five whole numbers, cost in units of 10^-10 US dollars.

What would be more than `MOST` counts as that: a provider may report anything.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, Context, Decimal
from typing import TypeAlias

from paigeant_celery.core.budget import Usage
from paigeant_celery.store.limits import LIMITS

__all__ = ["MOST", "NOTHING", "Sums", "sums_in", "sums_of", "sums_text", "summed", "usage_of"]

Sums: TypeAlias = tuple[int, ...]

COUNTERS = ("requests", "tool_calls", "input_tokens", "output_tokens")
UNITS = 10**10  # of cost in a US dollar
MOST = LIMITS.most_counted  # in cost, about 900 000 dollars
NOTHING: Sums = (0, 0, 0, 0, 0)

_FLOOR = Context(prec=60, rounding=ROUND_FLOOR)  # digits; more than any cost has before and after the point


def sums_of(usage: Usage) -> Sums:
    """Return usage as it is counted. Cost is rounded down, so that sums never exceed what was paid."""
    cost = _FLOOR.to_integral_value(_FLOOR.multiply(usage.cost or Decimal(0), Decimal(UNITS)))
    return tuple(_within(each) for each in (*(usage.counters.get(name, 0) for name in COUNTERS), int(cost)))


def usage_of(sums: Sums) -> Usage:
    """Return what was counted."""
    *counts, cost = sums
    return Usage(counters=dict(zip(COUNTERS, counts, strict=True)), cost=Decimal(cost) / UNITS)


def summed(sums: Sums, more: Sums, *, less: Sums = NOTHING) -> Sums:
    """Return sums with some more, and without others."""
    return tuple(_within(each + add - take) for each, add, take in zip(sums, more, less, strict=True))


def sums_text(sums: Sums) -> str:
    """Return sums as records keep them."""
    return " ".join(map(str, sums))


def sums_in(text: str) -> Sums:
    """Read sums of a record; raises `ValueError` if they are damaged."""
    sums = tuple(map(int, text.split()))
    if len(sums) != len(NOTHING):
        raise ValueError("the sums of usage are incomplete")
    return sums


def _within(count: int) -> int:
    return min(max(count, 0), MOST)
