"""Waits of a tenth of their length, for test programs that load this module before their store opens.

A lost message is overdue after 0.5 s, and sweepers sweep ten times a second. All processes of a deployment must load
this module. Leases are a setting and stay as they are.
"""

from __future__ import annotations

from paigeant_celery.hop import sweeper
from paigeant_celery.store import limits

__all__ = ["TIMES"]

TIMES = 10

limits.LIMITS = limits.LIMITS.hurried(TIMES)
sweeper.EVERY = (sweeper.EVERY[0] / TIMES, sweeper.EVERY[1] / TIMES)
