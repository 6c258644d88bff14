"""Waits that are ten times as short: a program of the tests that loads this module before its store opens has them.

A lost message is overdue after 0.5 s, and who sweeps does so ten times a second. All processes of a deployment load it;
leases are a setting, and stay as they are.
"""

from __future__ import annotations

from paigeant_celery.hop import sweeper
from paigeant_celery.store import limits

__all__ = ["TIMES"]

TIMES = 10

limits.LIMITS = limits.LIMITS.hurried(TIMES)
sweeper.EVERY = (sweeper.EVERY[0] / TIMES, sweeper.EVERY[1] / TIMES)
