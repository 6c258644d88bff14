"""A step that tries a row of the table of capabilities, in a process that may be killed at one of its records."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))  # the rows are tests; behind the package that is installed

import paigeant_celery.hop.with_store
from paigeant_celery import WorkflowContext, activity
from paigeant_celery.journal.scope import current_journal
from tests.contract.capabilities.lasting import LastingWorld
from tests.contract.capabilities.rows import SECTIONS
from tests.contract.capabilities.trials import Death, MortalJournal, seen_in
from tests.contract.capabilities.world import Unit


class DeadlyJournal(MortalJournal):
    """A journal whose process is killed at one of its records."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.world: LastingWorld | None = None

    @property
    def death(self) -> Death | None:  # type: ignore[override]
        return self.world.death if self.world is not None else None

    def is_recorded(self, unit: Unit) -> None:
        if self.world is not None:
            self.world.is_recorded(unit)

    async def _write(self, records: Any) -> None:
        await super()._write(records)
        for key, unit in [*self.units.items()]:
            if str(key) in records:
                self.is_recorded(unit)

    async def die(self) -> None:
        assert self.world is not None
        self.world.bury()
        os.kill(os.getpid(), signal.SIGKILL)


paigeant_celery.hop.with_store.HopJournal = DeadlyJournal  # type: ignore[misc]


@activity
async def try_row(context: WorkflowContext, name: str) -> dict[str, Any]:
    """Run a row, and return what can be seen of it."""
    [row] = [row for rows in SECTIONS.values() for row in rows if row.name == name]
    journal = current_journal()
    assert isinstance(journal, DeadlyJournal)
    journal.world = LastingWorld(Path(os.environ["WORLDS"], context.correlation_id), attempt=context.attempt)
    seen = await seen_in(row, journal.world, context)
    return {"seen": asdict(seen), "made": journal.made, "attempt": context.attempt}
