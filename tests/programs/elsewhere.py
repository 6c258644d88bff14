"""A worker that loads this module seems to be on a different machine: it has a different boot id.

Workers on other machines cannot see whether its processes live, and it cannot see theirs.
"""

from __future__ import annotations

import uuid

import paigeant_celery.hop.liveness as process_module
import paigeant_celery.hop.sweeper as sweeper_module

# Made before the pool is forked, so that the processes of one worker share it, as those of one machine do.
HOST = f"{uuid.uuid4()}.4026531836"


def host_id() -> str:
    return HOST


process_module.host_id = sweeper_module.host_id = host_id  # type: ignore[assignment]
