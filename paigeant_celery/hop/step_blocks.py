"""What the step of a block does: it opens its branches, waits for their join, and gives what they gave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

from pydantic import JsonValue

from paigeant_celery.activities.port import ActivityResult
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.tracing import current_trace
from paigeant_celery.core.block_errors import BlockFailed, JoinMissed
from paigeant_celery.core.blocks import Block, Plan, plan_of
from paigeant_celery.core.branches import first_message
from paigeant_celery.core.budget import Usage, added_up
from paigeant_celery.core.causes import cause_from
from paigeant_celery.core.errors import InvalidInput, NotSerializable, Paused, StoreCorrupt, UsageError
from paigeant_celery.core.manifests import (
    BranchEnd,
    content_in,
    manifest_of,
    name_of_branch,
    name_of_opened,
    opened_as,
    read_end,
)
from paigeant_celery.core.message import PaigeantMessage, encode, within_trace
from paigeant_celery.core.pointers import pointed_at
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.steps import BlockSpec
from paigeant_celery.hop.sending import send_on
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.store.branch_port import BranchPage, BranchReading
from paigeant_celery.store.port import BranchStore, Closing, HopRecord

__all__ = ["StepBlocks"]

PAGE = 100  # branches recorded or read at once
MOST_BYTES = 1024 * 1024  # of envelopes and items in one page, unless it has only one branch

ReadOutput = Callable[[str], Awaitable[JsonValue]]  # of an earlier step, by its id


class StepBlocks:
    """Runs the block that the step of a hop is. Each attempt goes on from what the store has of it."""

    def __init__(
        self,
        *,
        store: BranchStore,
        outbox: Outbox,
        settings: Settings,
        message: PaigeantMessage,
        closing: Closing,
        journal: HopJournal,
    ) -> None:
        self._store, self._outbox, self._settings = store, outbox, settings
        self._message, self._closing, self._journal = message, closing, journal

    async def joined(self, step: BlockSpec, *, read_output: ReadOutput) -> ActivityResult:
        """Return the output of a block whose join is met; until then, leave the worker.

        Raises `BlockFailed`, `Paused` if the block can be made of what is there only after a change, and
        `NotSerializable` if its branches gave too much.
        """
        block = await self._journal.patiently(partial(self._store.block, self._closing.hop_id))
        if block.plan is None:
            items = await self._items(step, read_output)
            count = len(items) if items is not None else len(step.branches)
            plan = plan_of(
                count,
                join=step.join,
                collects=step.on_failure == "collect",
                at_once=step.max_at_once,
                timeout=step.timeout,
            )
            if plan.needed > count:
                raise JoinMissed(f"too few branches for the join: {count}, of which {plan.needed} must succeed")
            if not count:
                return _result(step, self._message.place, {})
            block = await self._open(step, plan, items, written=block.written)
        while block.joined is None:
            if block.until is not None and block.until <= self._journal.waits.now():
                text = f"{block.succeeded + block.failed} of {_count(block)} branches had ended"
                raise BlockFailed("TimeoutError", f"the block took longer than {step.timeout:g} s; {text}")
            await self._journal.waits.leave_to_branches(block.until)
            block = await self._journal.patiently(partial(self._store.block, self._closing.hop_id))
        ends = await self._ends(block)
        if block.joined == "missed":
            raise _missed(step, self._message, block, ends)
        result = await asyncio.to_thread(_result, step, self._message.place, ends)  # of 1000 branches, it takes a while
        if (size := result.whole_size or 0) > (most := self._settings.max_output_size):
            text = f"the outputs of its branches have {size} bytes; raise `paigeant_max_output_size` ({most})"
            raise NotSerializable("output_too_large", text)
        return result

    async def _items(self, step: BlockSpec, read_output: ReadOutput) -> Sequence[JsonValue] | None:
        """Return the items of a `for_each`; None if the block is none."""
        if step.over is None:
            return None
        if not isinstance(step.over, str):
            items: JsonValue = list(step.over)
        else:
            assert step.over_step is not None
            name, pointer = step.over_step
            try:
                items = pointed_at(await read_output(name), pointer)
            except UsageError as error:
                raise Paused("invalid_over", f"`over` is {step.over!r}: {error}") from None
            except LookupError as error:
                text = f"`over` is {step.over!r}, but the output of {name!r} has nothing at {error.args[0][:64]!r}"
                raise Paused("invalid_over", text) from None
        if not isinstance(items, list):
            text = f"`over` is {step.over!r}, where the output has no list but a JSON {type(items).__name__}"
            raise Paused("invalid_over", text)
        if len(items) > (most := self._settings.max_branches):
            text = f"`over` has {len(items)} items, and a block may have {most} branches (`paigeant_max_branches`)"
            raise Paused("too_many_branches", text)
        return items

    async def _open(self, step: BlockSpec, plan: Plan, items: Sequence[JsonValue] | None, *, written: int) -> Block:
        """Record all branches that are not recorded yet, and make the first ones live."""
        message = within_trace(self._message, current_trace())  # their hops belong below the span of this one
        while written < plan.count:
            try:
                page = await asyncio.to_thread(self._page, message, step, items, written, plan.count)
                written = await self._journal.patiently(partial(self._store.hold, self._closing, page))
            except InvalidInput as error:
                raise Paused(error.reason, error.text) from None
        opened = await self._journal.patiently(partial(self._store.open_block, self._closing, plan))
        # A crash before they are sent leaves them live, and a sweep sends them.
        await asyncio.to_thread(send_on, self._outbox, opened.hops)
        return opened.block

    def _page(
        self, message: PaigeantMessage, step: BlockSpec, items: Sequence[JsonValue] | None, first: int, count: int
    ) -> BranchPage:
        hops: list[HopRecord] = []
        kept = {name_of_opened(self._message.place): opened_as(step, self._message.path).encode()}
        blobs = kept if first == 0 else {}
        size = 0
        for hop, item in self._first_hops(message, step, items, range(first, min(first + PAGE, count))):
            size += len(hop.envelope) + sum(map(len, item.values()))
            if hops and size > MOST_BYTES:
                break
            hops.append(hop)
            blobs.update(item)
        return BranchPage(first=first, hops=hops, blobs=blobs)

    def _first_hops(
        self, block: PaigeantMessage, step: BlockSpec, items: Sequence[JsonValue] | None, numbers: range
    ) -> Iterator[tuple[HopRecord, dict[str, str]]]:
        now, inline = self._journal.waits.now(), self._settings.inline_output_size
        for number in numbers:
            item = items[number] if items is not None else None
            message, text = first_message(block, step, number, item=item, inline=inline, now=now)
            given = message.slip.branch.given if message.slip.branch is not None else None
            blobs = {given.output_name: text} if given is not None and text is not None else {}
            envelope = encode(message)
            if (size := len(envelope.encode())) > (most := self._settings.max_message_size):
                text = f"the envelope of branch {number} has {size} bytes; raise `paigeant_max_message_size` ({most})"
                raise Paused("too_large", text)
            yield self._outbox.record_of(message, envelope), blobs

    async def _ends(self, block: Block) -> dict[int, BranchEnd]:
        """Return how the branches ended that had when the join was met or missed, by their numbers."""
        ends: dict[int, BranchEnd] = {}
        hop_id = self._closing.hop_id
        for first in range(0, _count(block), PAGE):
            read = partial(self._store.branches, hop_id, first=first, limit=PAGE)
            page: Sequence[BranchReading] = await self._journal.patiently(read)
            for branch in page:
                if branch.how is not None and branch.order <= block.ended:
                    try:
                        ends[branch.number] = read_end(branch.end)
                    except ValueError as error:
                        raise StoreCorrupt(f"{hop_id}: branch {branch.number}", str(error)) from error
        return ends


def _count(block: Block) -> int:
    return block.plan.count if block.plan is not None else 0


def _result(step: BlockSpec, place: str, ends: dict[int, BranchEnd]) -> ActivityResult:
    manifest = manifest_of(step, place, ends)
    used = added_up([Usage(counters=end.usage, cost=end.cost) for end in ends.values()])
    return ActivityResult(
        output=manifest.as_json(),
        content=content_in(manifest),
        whole_size=manifest.size,
        usage=used.counters,
        cost=used.cost,
    )


def _missed(step: BlockSpec, message: PaigeantMessage, block: Block, ends: dict[int, BranchEnd]) -> BlockFailed:
    """Return the error of a block whose join cannot be met any more."""
    number, first = next((number, end) for number, end in sorted(ends.items()) if end.state == "failed")
    name = f"{message.path}/{name_of_branch(step, number)}"
    cause = cause_from(first.cause) if first.cause is not None else None
    if step.on_failure == "fail":
        return BlockFailed(first.error_class, first.text, first.step or name, cause=cause)
    ended = f"{block.succeeded} of {_count(block)} branches succeeded, and {block.failed} failed"
    return JoinMissed(
        f"{ended}; {step.join} had to succeed. {first.step or name} failed with {first.error_class}: {first.text}",
        cause=cause,
    )
