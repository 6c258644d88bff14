"""Blocks that cannot work: over a step that is not before them, inside too many others, or with too many branches."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from paigeant_celery.core.steps import BlockSpec, Step

__all__ = ["BlockFault", "block_faults"]


class BlockFault(NamedTuple):
    """What is wrong with a block: the reason code, the path on the slip, and the text."""

    reason: str
    path: str
    text: str


def block_faults(steps: Iterable[Step], path: str, *, most: int, earlier: Sequence[str] = ()) -> Iterator[BlockFault]:
    """Yield what is wrong with the blocks among steps, which have ids, and with those in them.

    `earlier` are the ids of the steps that have run by then, of the slips around as well; `most` is how many branches a
    block may have.
    """
    before = list(earlier)
    for index, step in enumerate(steps):
        here = f"{path}[{index}]"
        if isinstance(step, BlockSpec):
            yield from _faults(step, here, before, most)
            for number, branch in enumerate(step.branches):
                yield from block_faults(branch.steps, f"{here}.branches[{number}].steps", most=most, earlier=before)
        before.append(step.step_id or "")


def _faults(block: BlockSpec, path: str, before: Sequence[str], most: int) -> Iterator[BlockFault]:
    if block.over_step is not None and block.over_step[0] not in before:
        name = block.over_step[0]
        close = difflib.get_close_matches(name, before, n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        yield BlockFault("invalid_over", f"{path}.over", f"no step {name!r} is before the block{hint}")
    count = len(block.over) if isinstance(block.over, tuple) else len(block.branches)
    if count > most:
        text = f"{count} branches, and a block may have {most} (`paigeant_max_branches`)"
        yield BlockFault("too_many_branches", path, text)
