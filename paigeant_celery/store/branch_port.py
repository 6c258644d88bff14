"""The part of the seam to a store that is about blocks: what is recorded of branches, and what is read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from paigeant_celery.core.blocks import Block, BranchEnded, Plan
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.hops import HopState
from paigeant_celery.core.message import sha256
from paigeant_celery.core.waits import Wait
from paigeant_celery.store.records import Closing, HopRecord

__all__ = ["BranchPage", "BranchReading", "BranchStore", "HopReading", "OpenedBlock"]


@dataclass(frozen=True, kw_only=True)
class BranchPage:
    """The first hops of some branches of a block, in their order from the branch `first` on.

    They are recorded only if the branches before them are, and once. `blobs` are items that do not travel.
    """

    first: int
    hops: Sequence[HopRecord]
    blobs: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class OpenedBlock:
    """A block whose first branches are live. `hops` must be sent now; a repetition of the call brings none."""

    block: Block
    hops: tuple[HopRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HopReading:
    """Where a hop stands; its `envelope` is empty once it is closed.

    `retry_at` is when it is sent again after `failure`. A parked hop has its failure, too. `wake_at` is when a
    suspended one goes on in any case, and `on_branches` says that it waits for its branches. `block` is what it has
    opened. `owner` runs it since `running_since`; `lapsed_at` is since when its lease is over, None if it is not.
    """

    hop_id: str
    state: HopState
    queue: str
    envelope: str = field(repr=False)
    attempt: int
    failure: Failure | None = None
    retry_at: datetime | None = None
    wake_at: datetime | None = None
    on_branches: bool = False
    waits: tuple[Wait, ...] = ()
    block: Block | None = None
    owner: str | None = None
    running_since: datetime | None = None
    lapsed_at: datetime | None = None

    def to_send(self) -> HopRecord:
        """Return the hop as it is sent; only one that is not closed has what that needs."""
        digest = sha256(self.envelope)
        return HopRecord(hop_id=self.hop_id, queue=self.queue, envelope=self.envelope, digest=digest)


@dataclass(frozen=True, kw_only=True)
class BranchReading:
    """Where a branch of a block stands: at its current `hop` or, at its end, the last one.

    `order` counts the branches of the block that have ended up to this one, and `end` is what was recorded then.
    """

    number: int
    hop: HopReading
    how: BranchEnded | None = None
    order: int = 0
    end: str = ""


class BranchStore(Protocol):
    """What blocks open. `core/blocks.py` says what the end of a branch makes of its block, and `core/hops.py` the rest.

    A branch that ends or parks may open another one, or let its block go on: the answers of COMPLETE, FAIL and PARK
    have the hops to send. The end of a block, or of its workflow, takes the right to write from all hops below it at
    once.
    """

    def block(self, hop_id: str) -> Block | None:
        """Return what a hop has opened as a block, nothing at first; None if there is no such hop."""
        ...

    def hold(self, closing: Closing, page: BranchPage) -> int | None:
        """Record the first hops of branches, which nobody may claim yet; return how many branches are written now.

        Nothing changes if these are written before. None if another owner has overtaken this one. Raises `HopUnknown`,
        and `InvalidInput` (`too_many_hops`) if the workflow would have more hops than it may.
        """
        ...

    def open_block(self, closing: Closing, plan: Plan) -> OpenedBlock | None:
        """Make the first branches of a block live, once; all must be written.

        None if another owner has overtaken this one. Raises `HopUnknown`.
        """
        ...

    def branches(self, hop_id: str, *, first: int, limit: int) -> Sequence[BranchReading]:
        """Return branches of a block in their order, from a number on, as of one moment."""
        ...

    def hop(self, hop_id: str) -> HopReading | None:
        """Return where any hop stands, or None."""
        ...
