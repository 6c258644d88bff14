"""A world in files, which outlives processes: the worker that tries a row writes it, and the test reads it."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.contract.capabilities.trials import Death
from tests.contract.capabilities.world import Effect, Unit, World, current_unit

__all__ = ["LastingWorld"]


class LastingWorld(World):
    """The world of one workflow, as one attempt finds it, in a folder of its own."""

    def __init__(self, place: Path, *, attempt: int) -> None:
        self.attempt = attempt
        self._place = place
        place.mkdir(exist_ok=True)

    @cached_property
    def folder(self) -> Path:
        """A folder that rows may use."""
        folder = self._place / "folder"
        folder.mkdir(exist_ok=True)
        return folder

    @cached_property
    def state(self) -> dict[str, Any]:  # type: ignore[override]
        """What services know, as it stood when the last process was killed."""
        kept = self._place / "state"
        found: dict[str, Any] = pickle.loads(kept.read_bytes()) if kept.exists() else {}
        return found

    @property
    def effects(self) -> list[Effect]:  # type: ignore[override]
        """Everything that was done, whoever did it."""
        lines = [*self._lines()]
        recorded = {line["recorded"] for line in lines if "recorded" in line}
        units = {line["unit"]: Unit(line["unit"] in recorded, line["unit"]) for line in lines if line.get("unit")}
        return [Effect(line["what"], line["attempt"], units.get(line["unit"])) for line in lines if "what" in line]

    def did(self, what: str) -> int:
        """Count an effect."""
        unit = current_unit()
        self._note({"what": what, "attempt": self.attempt, "unit": unit.name if unit is not None else None})
        return self.count(what)

    def is_recorded(self, unit: Unit) -> None:
        """Note that what was done in a unit must not be done again."""
        self._note({"recorded": unit.name})

    def condemn(self, death: Death) -> None:
        """Let the first process that gets there die."""
        (self._place / "death").write_text(json.dumps(death))

    @property
    def death(self) -> Death | None:
        """Where a process is still to die."""
        file = self._place / "death"
        if not file.exists():
            return None
        when, number = json.loads(file.read_text())
        return when, number

    def bury(self) -> None:
        """Keep what services know, and let nobody else die: the process that calls this is killed."""
        (self._place / "state").write_bytes(pickle.dumps(self.state))
        (self._place / "death").unlink()

    def _note(self, fields: dict[str, Any]) -> None:
        file = os.open(self._place / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, f"{json.dumps(fields)}\n".encode())  # at once, so that no line is torn
        finally:
            os.close(file)

    def _lines(self) -> Iterator[dict[str, Any]]:
        file = self._place / "effects"
        if file.exists():
            yield from map(json.loads, file.read_text().splitlines())
