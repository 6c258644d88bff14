"""The backend. Connections are files in the folder `open`; those from before the last restart are dead."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from django.db.backends.sqlite3 import base
from django.db.utils import OperationalError

FOLDER = Path(os.environ["LIBRARY"])


def epoch() -> str:
    """Return which start of the server this is."""
    file = FOLDER / "epoch"
    return file.read_text() if file.exists() else "first"


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection that fails for ever once the server was restarted, as those to real servers do."""

    def get_new_connection(self, parameters: dict[str, Any]) -> Any:
        made = super().get_new_connection(parameters)
        self._born, self._file = epoch(), FOLDER / "open" / uuid.uuid4().hex
        self._file.parent.mkdir(exist_ok=True)
        self._file.touch()
        return made

    def create_cursor(self, name: str | None = None) -> Any:
        if self._born != epoch():
            raise OperationalError("the server closed the connection")
        return super().create_cursor(name)

    def _close(self) -> None:
        if self.connection is not None:
            self._file.unlink()
        super()._close()
