"""Walking through the branches of a workflow, with few round trips."""

from __future__ import annotations

from collections.abc import Iterator

from paigeant_celery.core.hops import ENDED
from paigeant_celery.store.branch_port import BranchReading, BranchStore, HopReading

__all__ = ["branches_in", "hops_below"]

PAGE = 100  # branches read at once


def branches_in(store: BranchStore, block: str) -> Iterator[BranchReading]:
    """Yield the branches of a block, by the id of its hop, in their order; a round trip for each 100."""
    first = 0
    while page := store.branches(block, first=first, limit=PAGE):
        yield from page
        if len(page) < PAGE:
            return
        first = page[-1].number + 1


def hops_below(store: BranchStore, block: str) -> Iterator[HopReading]:
    """Yield the hops at which the branches of a block stand that have not ended, in their order, with those below."""
    for branch in branches_in(store, block):
        if branch.how is None and branch.hop.state not in ENDED:
            yield branch.hop
            if branch.hop.block is not None:
                yield from hops_below(store, branch.hop.hop_id)
