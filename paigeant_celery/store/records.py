"""What every part of the seam to a store is about: a hop, and who writes for it."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Closed", "Closing", "HopRecord"]


@dataclass(frozen=True, kw_only=True)
class HopRecord:
    """A hop that waits to be run: everything that is needed to publish its message again.

    `activity` and `step_id` are for the list of workflows, and recorded with it; one that is read has none.
    """

    hop_id: str
    queue: str
    envelope: str
    digest: str
    activity: str = field(default="", compare=False)
    step_id: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True)
class Closing:
    """Who closes a hop; the store accepts it only while owner and fence are unchanged."""

    hop_id: str
    owner: str
    fence: int


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A hop was closed, now or by an earlier call of its claim. `hops` must be sent now.

    They are what the end of a branch lets go on. A repetition of the call may bring none: a sweep sends them then.
    """

    hops: tuple[HopRecord, ...] = ()
