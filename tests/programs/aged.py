"""A store of the format before this one, for test workers whose store opens after this module is loaded.

`tests.support.versions` makes a whole older version, whose processes must be started cold.
"""

from __future__ import annotations

from dataclasses import replace

from paigeant_celery.store import limits

__all__: list[str] = []

limits.LIMITS = replace(limits.LIMITS, format=limits.LIMITS.format - 1)
