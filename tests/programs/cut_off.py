"""A pool whose processes reach no store while a file is there, though the main process does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery.signals import worker_process_init

from paigeant_celery.core.errors import Unreachable
from paigeant_celery.hop.with_store import RecordedEffects


@worker_process_init.connect
def cut_off(**_: Any) -> None:
    """Let claims of this process fail while the file `CUT_OFF` is there."""
    claim = RecordedEffects.claim

    def tried(self: RecordedEffects, *arguments: Any, **more: Any) -> Any:
        if Path(os.environ["CUT_OFF"]).exists():
            raise Unreachable("store", "nowhere", "cut off")
        return claim(self, *arguments, **more)

    RecordedEffects.claim = tried  # type: ignore[method-assign]
