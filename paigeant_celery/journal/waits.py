"""How long a run waits, as its hop's journal keeps it: an attempt sleeps only what earlier ones have not slept.

One entry for each run, the latest wait. Its name is no JSON list, so versions that do not know it leave it alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Wait", "name_of_wait", "read_wait"]


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
    return f"wait {json.dumps(run)}"


def read_wait(text: str | None) -> Wait | None:
    """Read an entry; None if there is none that this version can read, and the wait begins anew."""
    try:
        tree = json.loads(text or "")
        return Wait(after=tree["after"], until=datetime.fromisoformat(tree["until"])) if tree["v"] == 1 else None
    except (ValueError, TypeError, KeyError):
        return None
