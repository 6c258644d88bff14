"""Blocks and their branches for the store tests: as the step of a block writes them, and as branches end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import count
from typing import Any, cast

from paigeant_celery.core.blocks import Block, Plan, plan_of
from paigeant_celery.core.waits import make_token
from paigeant_celery.store.branch_port import BranchPage, BranchReading
from paigeant_celery.store.port import Closed, Closing, HopRecord, NewWait, Standing, Store, Suspended, Sweep
from tests.contract.store.bench import Bench, MemoryBench
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, new

TOKENS = count(1)
PAGE = 100  # branches


def at(number: int, place: int = 0, *, of: str = "w.0") -> str:
    """Return the id of a hop of a branch."""
    return f"{of}-{number}.{place}"


def page(first: int, size: int, *, of: str = "w.0", queue: str | None = None, **more: Any) -> BranchPage:
    hops = [hop(at(number, of=of), queue=queue) for number in range(first, first + size)]
    return BranchPage(first=first, hops=hops, **more)


def plan(size: int, *, join: Any = "all", collects: bool = False, window: int = 20, **more: Any) -> Plan:
    return plan_of(size, join=join, collects=collects, at_once=window, **more)


def run(store: Store, hop_id: str, *, owner: str = "ann") -> Closing:
    """Claim a hop."""
    return closing(store.claim(claim(hop_id, owner=owner, token=f"t-{next(TOKENS)}")), hop_id, owner=owner)


def begun(bench: Bench, correlation_id: str = "w", *, owner: str = "ann", **more: Any) -> Closing:
    """Start a workflow and claim its hop, which is a block."""
    bench.store.start(new(correlation_id, **more))
    return run(bench.store, f"{correlation_id}.0", owner=owner)


def write(store: Store, block: Closing, size: int, *, queue: str | None = None) -> None:
    """Record all branches of a block."""
    for first in range(0, size, PAGE):
        last = min(first + PAGE, size)
        assert store.hold(block, page(first, last - first, of=block.hop_id, queue=queue)) == last


def open_all(store: Store, block: Closing, size: int, *, queue: str | None = None, **planned: Any) -> list[str]:
    """Record the branches of a block and open it; return the ids of those to send."""
    write(store, block, size, queue=queue)
    opened = store.open_block(block, plan(size, **planned))
    assert opened is not None
    return ids(opened.hops)


def waiting_block(
    bench: Bench, size: int, *, correlation_id: str = "w", owner: str = "ann", more: Any = (), **planned: Any
) -> Closing:
    """Start a workflow whose first hop is a block that waits for its branches."""
    block = begun(bench, correlation_id, owner=owner, **dict(more))
    open_all(bench.store, block, size, **planned)
    assert bench.store.suspend(block, Standing(branches=True)) == Suspended()
    return block


def nested_block(store: Store, hop_id: str, size: int, *, owner: str = "ann", **planned: Any) -> Closing:
    """Run a hop as a block, until it waits for its branches."""
    block = run(store, hop_id, owner=owner)
    open_all(store, block, size, **planned)
    assert store.suspend(block, Standing(branches=True)) == Suspended()
    return block


def end(number: int = 0) -> str:
    return f'{{"end": {number}}}'


def succeed(store: Store, *hop_ids: str, owner: str = "ann") -> list[str]:
    """Run hops, each the last one of its branch; return the ids of those to send."""
    return [sent for each in hop_ids for sent in sent_by(complete(store, run(store, each, owner=owner)))]


def complete(store: Store, close: Closing) -> Closed | None:
    return store.complete(completion(close, end=f"end of {close.hop_id}"))


def fail(store: Store, *hop_ids: str) -> list[str]:
    """Let hops fail, and with them their branches; return the ids of those to send."""
    return [sent for each in hop_ids for sent in sent_by(store.fail(run(store, each), FAILURE, end=f"end of {each}"))]


def park(store: Store, *hop_ids: str) -> list[str]:
    """Park hops; return the ids of those to send."""
    return [sent for each in hop_ids for sent in sent_by(store.park(run(store, each), FAILURE))]


def sent_by(closed: Closed | None) -> list[str]:
    assert closed is not None
    return ids(closed.hops)


def ids(hops: Iterable[HopRecord]) -> list[str]:
    return [each.hop_id for each in hops]


def counts(store: Store, hop_id: str = "w.0") -> tuple[int, int, int, int, str | None]:
    """Return how many branches were opened, are under way, have succeeded and failed, and the join."""
    block = store.block(hop_id)
    assert isinstance(block, Block)
    return block.opened, block.under_way, block.succeeded, block.failed, block.joined


def state(store: Store, hop_id: str) -> str | None:
    found = store.hop(hop_id)
    return found.state if found is not None else None


def states(store: Store, of: str = "w.0", *, size: int = 99) -> list[str]:
    """Return the states of the hops at which the branches of a block stand."""
    return [each.hop.state for each in store.branches(of, first=0, limit=size)]


def ends(store: Store, of: str = "w.0") -> dict[int, tuple[str | None, int, str]]:
    return {each.number: (each.how, each.order, each.end) for each in read(store, of) if each.how is not None}


def read(store: Store, of: str = "w.0") -> list[BranchReading]:
    return list(store.branches(of, first=0, limit=10_000))


def workflow_state(store: Store, correlation_id: str = "w") -> str:
    record = store.workflow(correlation_id)
    assert record is not None
    return record.state


def swept(bench: Bench) -> Sweep:
    """Return what the next pass finds."""
    found = bench.store.sweep(host="there")
    if found != Sweep():
        return found
    bench.next_second()  # that may have been no pass
    return bench.store.sweep(host="there")


def clean(bench: Bench) -> list[str]:
    """Sweep until nothing is found any more; return the ids of hops to send."""
    sent: list[str] = []
    for _ in range(200):
        found = swept(bench)
        sent += ids((*found.overdue, *found.late))
        if found == Sweep(owners=found.owners, queues=found.queues):
            return sent
        bench.next_second()
    raise AssertionError(f"each sweep finds something: {found}")


def now(bench: Bench) -> datetime:
    """Return the time of the store, in whole milliseconds."""
    if isinstance(bench, MemoryBench):
        return bench.now
    return datetime.fromtimestamp(int(cast("Any", bench).now()) / 1000, UTC)


def asks(hop_id: str, name: str = "manager", **more: Any) -> NewWait:
    return NewWait(
        **{"wait_id": f"id-{name}", "token": make_token(hop_id, f"s-{name}"), "kind": "token", "name": name, **more}
    )


def wait_in(store: Store, hop_id: str, *waits: NewWait) -> Closing:
    """Run a hop, until it waits for nothing but these waits."""
    close = run(store, hop_id)
    for wait in waits:
        assert store.wait(close, wait) is not None
    assert store.suspend(close, Standing(tokens=[wait.token for wait in waits])) == Suspended()
    return close
