"""Steps that fail if a file says so: in the folder `STUMBLES`, the file named after the hop says how."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["FOR_GOOD", "IN_PASSING", "InPassing", "stumble"]

IN_PASSING, FOR_GOOD = "in passing", "for good"


class InPassing(Exception):
    """An error after which another attempt succeeds."""


def stumble(hop_id: str) -> None:
    """Raise what the hop's file says; a run that fails only this time removes the file."""
    file = Path(os.environ["STUMBLES"], hop_id)
    try:
        how = file.read_text()
        if how == IN_PASSING:
            file.unlink()
    except FileNotFoundError:
        return
    if how == IN_PASSING:
        raise InPassing
    raise NotImplementedError("no attempt goes well")
