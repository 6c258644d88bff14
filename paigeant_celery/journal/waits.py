"""How long a run waits, as its hop's journal keeps it: an attempt sleeps only what earlier ones have not slept.

One entry for each run, the latest wait. Its name is no JSON list, so versions that do not know it leave it alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Wait", "has_waits", "name_of_wait", "read_wait"]

NAME = "wait "  # begins the name of an entry


@dataclass(frozen=True)
class Wait:
    """A wait that a run began when it had the answer with the number `after`, and that is over at `until`."""

    after: int | None
    until: datetime

    def encode(self) -> str:
        """Return the text that the journal keeps."""
        return json.dumps({"v": 1, "after": self.after, "until": self.until.isoformat()})


def name_of_wait(run: str) -> str:
    """Return the name of the entry with a run's latest wait."""
    return f"{NAME}{json.dumps(run)}"


def has_waits(records: Mapping[str, str]) -> bool:
    """Say whether any run of a journal's hop has waited, as runs do for a provider's job."""
    return any(name.startswith(NAME) for name in records)


def read_wait(text: str | None) -> Wait | None:
    """Read an entry; None if there is none that this version can read, and the wait begins anew."""
    try:
        tree = json.loads(text or "")
        return Wait(after=tree["after"], until=datetime.fromisoformat(tree["until"])) if tree["v"] == 1 else None
    except (ValueError, TypeError, KeyError):
        return None
