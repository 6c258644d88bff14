"""The blocks of the store in memory, and what the ends of their branches make of other hops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from paigeant_celery.core import blocks as rules
from paigeant_celery.core import hops as protocol
from paigeant_celery.core.blocks import Block, BranchEnded, Plan
from paigeant_celery.core.hops import Pace
from paigeant_celery.core.names import block_of
from paigeant_celery.store.branch_port import BranchPage, BranchReading, HopReading, OpenedBlock
from paigeant_celery.store.branches import too_many_hops
from paigeant_celery.store.limits import StoreLimits
from paigeant_celery.store.memory_letters import LetterBox
from paigeant_celery.store.memory_records import Kept, KeptBranch, Records
from paigeant_celery.store.memory_waits import by_since
from paigeant_celery.store.records import HopRecord

__all__ = ["Branches"]


@dataclass(frozen=True)
class Branches:
    """What blocks have opened. The store's lock protects it, and the store says who may write for a hop."""

    records: Records
    letters: LetterBox
    limits: StoreLimits
    pace: Pace

    def hold(self, kept: Kept, page: BranchPage, *, now: datetime) -> int:
        """Record the first hops of branches, unless they are recorded."""
        block, workflow = kept.block or Block(), kept.workflow
        written = rules.write_page(block, first=page.first, count=len(page.hops))
        if written is block:
            return block.written
        if len(workflow.hop_ids) + len(page.hops) > self.limits.max_hops:
            raise too_many_hops(self.limits.max_hops)
        workflow.blobs.update(page.blobs)
        for number, hop in enumerate(page.hops, page.first):
            kept.branches[number] = KeptBranch(hop_id=hop.hop_id)
            self.records.record(workflow, hop, protocol.hold(digest=hop.digest), now=now)
        kept.block = written
        return written.written

    def open(self, hop_id: str, kept: Kept, plan: Plan, *, now: datetime) -> OpenedBlock:
        """Make the first branches live, once."""
        before = kept.block or Block()
        until = None if plan.timeout is None else now + timedelta(seconds=plan.timeout)
        kept.block = rules.open_branches(before, plan, until=until)
        if before.plan is not None:
            return OpenedBlock(block=before)
        kept.workflow.events.add_event("branches_opened", hop_id, now=now, branches=str(plan.count))
        hops = [self._opened(kept, number, now) for number in range(kept.block.opened)]
        return OpenedBlock(block=kept.block, hops=tuple(hop for hop in hops if hop is not None))

    def advance(self, hop_id: str, next_hop_id: str) -> None:
        """Note which hop a branch stands at now."""
        if (found := block_of(hop_id)) is not None:
            self.records.hops[found[0]].branches[found[1]].hop_id = next_hop_id

    def arrive(self, hop_id: str, how: BranchEnded, end: str, *, now: datetime) -> tuple[HopRecord, ...]:
        """Count a branch that has ended, and return the hops to send."""
        found = block_of(hop_id)
        assert found is not None
        above, number = found
        kept = self.records.hops[above]
        assert kept.block is not None
        ends = rules.end_branch(kept.block, how)
        kept.block, branch = ends.block, kept.branches[number]
        branch.how, branch.order, branch.end = how, kept.block.succeeded + kept.block.failed, end
        event = "branch_completed" if how == "succeeded" else "branch_failed"
        kept.workflow.events.add_event(event, hop_id, now=now)
        if ends.wakes:
            kept.workflow.events.add_event("joined", above, now=now, how=str(kept.block.joined))
            return self._woken(above, now)
        return self._next(kept, ends.opens, now)

    def set_aside(self, hop_id: str, *, now: datetime) -> tuple[HopRecord, ...]:
        """Let another branch go on in the place of one that was parked, and return the hops to send."""
        if (found := block_of(hop_id)) is None:
            return ()
        kept = self.records.hops[found[0]]
        assert kept.block is not None
        left = rules.leave_window(kept.block)
        kept.block = left.block
        return self._next(kept, left.opens, now)

    def come_back(self, hop_id: str) -> None:
        """Count a branch that was parked among those under way again."""
        if (found := block_of(hop_id)) is not None:
            kept = self.records.hops[found[0]]
            assert kept.block is not None
            kept.block = rules.come_back(kept.block)

    def cut_off(self, hop_id: str, *, now: datetime) -> None:
        """End all hops below one that has ended."""
        for branch in self.records.hops[hop_id].branches.values():
            below = self.records.hops[branch.hop_id]
            if below.hop.state in protocol.ENDED:
                continue
            if below.letter is not None:
                self.letters.forget(below.letter)
                below.letter = None
            self.records.apply(branch.hop_id, protocol.cancel(below.hop), now=now)
            self.cut_off(branch.hop_id, now=now)

    def read(self, hop_id: str, *, first: int, limit: int, now: datetime) -> Sequence[BranchReading]:
        """Return branches of a block, from a number on."""
        kept = self.records.hops.get(hop_id)
        if kept is None:
            return []
        numbers = [number for number in sorted(kept.branches) if number >= first][: max(limit, 0)]
        return [self._reading(number, kept.branches[number], now) for number in numbers]

    def hop(self, hop_id: str, *, now: datetime) -> HopReading | None:
        """Return where a hop stands."""
        kept = self.records.hops.get(hop_id)
        if kept is None:
            return None
        hop, is_running = kept.hop, kept.hop.state == "running"
        lease = self.records.leases.get(hop.owner or "") if is_running else None
        return HopReading(
            hop_id=hop_id,
            state=hop.state,
            queue=kept.queue,
            envelope=kept.envelope or "",
            attempt=hop.attempt,
            failure=hop.failure if hop.state == "parked" or protocol.tells_failure(hop) else None,
            retry_at=self.records.due[hop_id] if hop.state == "waiting" else None,
            wake_at=hop.wake_at if hop.state == "suspended" or protocol.was_asleep(hop) else None,
            on_branches=hop.state == "suspended" and hop.on_branches,
            waits=by_since(kept.waits.values()),
            block=kept.block,
            owner=hop.owner if is_running else None,
            running_since=hop.claimed_at if is_running else None,
            lapsed_at=lease if lease is not None and lease <= now else None,
        )

    def _reading(self, number: int, branch: KeptBranch, now: datetime) -> BranchReading:
        hop = self.hop(branch.hop_id, now=now)
        assert hop is not None
        return BranchReading(number=number, hop=hop, how=branch.how, order=branch.order, end=branch.end)

    def _next(self, kept: Kept, number: int | None, now: datetime) -> tuple[HopRecord, ...]:
        opened = self._opened(kept, number, now) if number is not None else None
        return (opened,) if opened is not None else ()

    def _opened(self, kept: Kept, number: int, now: datetime) -> HopRecord | None:
        hop_id = kept.branches[number].hop_id
        below = self.records.hops[hop_id]
        change = protocol.open_held(below.hop, line=self.records.line_of(below.queue), now=now, pace=self.pace)
        if change is None:
            return None
        self.records.apply(hop_id, change, now=now)
        return self.records.to_send(hop_id)

    def _woken(self, hop_id: str, now: datetime) -> tuple[HopRecord, ...]:
        """Queue a block that waits for its branches; one that runs learns of them by itself."""
        kept = self.records.hops[hop_id]
        change = protocol.wake(kept.hop, line=self.records.line_of(kept.queue), now=now, pace=self.pace)
        if change is None or not kept.hop.on_branches:
            return ()
        self.records.apply(hop_id, change, now=now)
        return (self.records.to_send(hop_id),)
