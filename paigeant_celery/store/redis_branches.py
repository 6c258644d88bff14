"""How blocks and their branches are written on Redis and read from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

from paigeant_celery.core.blocks import Block, BranchEnded, Counted, Joined, Plan
from paigeant_celery.core.hops import HopState
from paigeant_celery.store.branch_port import BranchPage, BranchReading, HopReading
from paigeant_celery.store.redis_records import failure_of, flat_of, hop_arguments, moment_of
from paigeant_celery.store.redis_waits import waits_in

__all__ = ["block_of_values", "branches_in", "page_arguments", "plan_arguments"]


def page_arguments(page: BranchPage) -> tuple[str | int, ...]:
    """Return a page of branches as scripts take it."""
    hops = (part for hop in page.hops for part in hop_arguments(hop))
    return page.first, len(page.hops), *hops, *flat_of(page.blobs)


def plan_arguments(plan: Plan) -> tuple[str | int, ...]:
    """Return how a block is joined as scripts take it."""
    spare = "" if plan.spare is None else plan.spare
    timeout, lasts = ("", 0) if plan.timeout is None else (repr(plan.timeout), round(plan.timeout * 1000))
    return plan.count, plan.needed, plan.counted, spare, plan.at_once, timeout, lasts


def block_of_values(values: Sequence[str | None]) -> Block:
    """Read what a hop has opened as a block."""
    (
        written, count, needed, counted, spare, at_once, timeout, opened, under_way, succeeded, failed, joined, ended,
        until,
    ) = values  # fmt: skip
    if count is None:
        return Block(written=int(written or 0))
    if counted not in get_args(Counted) or joined not in (None, *get_args(Joined)):
        raise ValueError("how it is joined is unknown to this version")
    plan = Plan(
        count=int(count),
        needed=int(needed or 0),
        counted=cast("Counted", counted),
        spare=int(spare) if spare else None,
        at_once=int(at_once or 0),
        timeout=float(timeout) if timeout else None,
    )
    return Block(
        written=int(written or 0),
        plan=plan,
        opened=int(opened or 0),
        under_way=int(under_way or 0),
        succeeded=int(succeeded or 0),
        failed=int(failed or 0),
        joined=cast("Joined | None", joined),
        ended=int(ended or 0),
        until=moment_of(until) if until else None,
    )


def branches_in(reply: Sequence[Any]) -> tuple[HopReading, tuple[BranchReading, ...]]:
    """Read where a hop stands, and some branches of it."""
    hop, branches = reply
    return _hop(hop), tuple(_branch(each) for each in branches)


def _branch(values: Sequence[Any]) -> BranchReading:
    number, how, order, end, hop = values
    if how not in (None, *get_args(BranchEnded)):
        raise ValueError("how a branch ended is unknown to this version")
    return BranchReading(number=int(number), hop=_hop(hop), how=how, order=int(order or 0), end=end or "")


def _hop(values: Sequence[Any]) -> HopReading:
    (
        hop_id, state, queue, envelope, attempt, failure, retry_at, wake_at, on_branches, waits, block,
        owner, since, lapsed_at,
    ) = values  # fmt: skip
    if state not in get_args(HopState) or queue is None:
        raise ValueError("it lacks fields, or its state is unknown to this version")
    return HopReading(
        hop_id=hop_id,
        state=cast("HopState", state),
        queue=queue,
        envelope=envelope or "",
        attempt=int(attempt),
        failure=failure_of(failure) if failure is not None else None,
        retry_at=moment_of(retry_at) if retry_at is not None else None,
        wake_at=moment_of(wake_at) if wake_at else None,
        on_branches=on_branches == "1",
        waits=waits_in(waits),
        block=block_of_values(block) if block is not None else None,
        owner=owner,
        running_since=moment_of(since) if since else None,
        lapsed_at=moment_of(lapsed_at) if lapsed_at else None,
    )
