"""The tree of a workflow is read, and acted upon, in the same way on both stores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

import paigeant_celery.testing
from paigeant_celery import for_each, parallel
from paigeant_celery.activities.registry import registry
from paigeant_celery.client.outline import Outline, outline_of
from paigeant_celery.client.readings import BranchStatus
from paigeant_celery.client.tree import waits_for_worker
from paigeant_celery.store.port import Claim, Claimed
from paigeant_celery.store.redis import RedisStore
from paigeant_celery.testing import WorkflowHarness
from tests.support.branched_steps import dispatched, gather, load, read, repair
from tests.support.servers import RedisDatabase


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Let each test find the steps, and no others."""
    with registry.isolated():
        load()
        yield


@pytest.fixture
def harnesses(redis_db: RedisDatabase, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WorkflowHarness]]:
    """A harness on the store in memory, and one on Redis."""
    in_memory = WorkflowHarness()
    store = RedisStore(redis_db.url, prefix=redis_db.prefix, lease=10, ttl=60)
    monkeypatch.setattr(paigeant_celery.testing, "MemoryStore", lambda **_: store)
    yield [in_memory, WorkflowHarness()]
    store.close()


def block() -> Any:
    inner = for_each([gather.activity(), read.activity()], over=["a", "park", "signal"], step_id="inner")
    race = for_each(read.activity(), over=["wait", "b"], join="any", step_id="race")
    failing = for_each(read.activity(), over=["c", "fail"], on_failure="collect", step_id="failing")
    return parallel({"x": inner, "y": [race, failing], "z": read.activity()}, step_id="all", on_failure="collect")


def drawn(outline: Outline) -> list[Any]:
    """An outline without times."""
    return [
        (
            (step.path, step.activity, step.state, step.hop_id, step.attempt, step.queue, step.added_by),
            step.record.output if step.record is not None else None,
            (step.failure and step.failure.error_class, step.retry_at is None),
            [(wait.kind, wait.name, wait.path) for wait in step.waiting_for],
            step.block and [(branch.name, branch.state, drawn(branch.steps)) for branch in step.block.branches],
            step.block and (step.block.form, step.block.more),
        )
        for step in outline
    ]


def seen(branches: tuple[BranchStatus, ...]) -> list[Any]:
    """What both stores must tell alike; times and attempts that no one made are left out."""
    return [
        (
            branch.path,
            branch.state,
            branch.step,
            branch.queue,
            branch.failure,
            [(wait.kind, wait.name, wait.path, dict(wait.branches)) for wait in branch.waiting_for],
            seen(branch.branches),
        )
        for branch in branches
    ]


def test_both_stores_tell_the_same_tree(harnesses: list[WorkflowHarness]) -> None:
    """What is tested of readings with one store is true of the other."""
    told = []
    for harness in harnesses:
        load()
        handle = dispatched(harness, block(), gather.activity())
        steps: list[Any] = [seen(handle.status_sync().branches), drawn(outline_of(harness.store, "w"))]
        steps.append([(wait.step_id, wait.name) for wait in handle.pending_sync()])
        steps.append([(event.type, event.path) for event in handle.events_so_far()])
        handle.signal_sync("paid", 1, path="all/x/inner/2")
        repair()
        assert handle.redrive_sync("all/x/inner/1/read")
        while handle.status_sync().state != "completed":
            harness.sweep()
            asyncio.run(harness.deliver())
        result = handle.result_sync(timeout=0)
        steps += [seen(handle.status_sync().branches), dict(result.outputs), drawn(outline_of(harness.store, "w"))]
        told.append(steps)

    in_memory, on_redis = told
    for ours, theirs in zip(in_memory, on_redis, strict=True):
        assert ours == theirs


def test_both_stores_tell_what_was_cut_off(harnesses: list[WorkflowHarness]) -> None:
    """A cancel is one mark; the tree shows at once that nothing below goes on."""
    told = []
    for harness in harnesses:
        load()
        handle = dispatched(harness, for_each(read.activity(), over=["a", "sleep", "park", "wait"], step_id="all"))
        assert handle.cancel_sync()
        copies = [delivery.hop_id for delivery in harness.pending]
        outcomes = asyncio.run(harness.deliver())
        told.append((seen(handle.status_sync().branches), handle.pending_sync(), copies, outcomes))

    in_memory, on_redis = told
    assert in_memory == on_redis
    assert in_memory[2:] == (["w.0-1.0"], ["dropped: cancelled"])


def lapse(store: Any, owner: str, at: datetime, database: RedisDatabase) -> None:
    """Make a store believe that the lease of an owner was over then."""
    if isinstance(store, RedisStore):
        with redis.Redis.from_url(database.url) as client:
            client.zadd(f"{database.prefix}:owners", {owner: at.timestamp() * 1000}, xx=True)
    else:
        store._records.leases[owner] = at


def test_both_stores_tell_a_branch_whose_process_is_lost_from_one_that_runs(
    harnesses: list[WorkflowHarness], redis_db: RedisDatabase
) -> None:
    """Nobody waits for a branch that nobody runs: who ran it, and that nobody else takes it over, is said in words."""
    for harness in harnesses:
        load()
        inner = for_each(read.activity(), over=["a", "b"], step_id="inner")
        handle = dispatched(harness, parallel({"x": inner, "y": read.activity()}, step_id="all"), hops=2)
        before = datetime.now(UTC) - timedelta(seconds=1)
        for hop_id, owner in (("w.0-0.0-0.0", "there:7:1:nonce:box"), ("w.0-1.0", "here:8:1:nonce:")):
            claimed = harness.store.claim(Claim(hop_id=hop_id, digest=None, owner=owner, token="t", max_attempts=5))
            assert isinstance(claimed, Claimed)
        x, y = handle.status_sync().branches
        assert [(each.state, each.needs_worker) for each in (*x.branches, y)] == [
            ("running", False), ("queued", True), ("running", False),
        ]  # fmt: skip
        assert x.runner is None
        assert waits_for_worker((x, y)) is None
        long_ago = (datetime.now(UTC) - timedelta(minutes=1)).replace(microsecond=0)

        for owner in ("there:7:1:nonce:box", "here:8:1:nonce:"):
            lapse(harness.store, owner, long_ago, redis_db)

        x, y = handle.status_sync().branches
        lost = x.branches[0].runner
        assert lost is not None
        assert (lost.host, lost.pid, lost.lapsed_at) == ("box", 7, long_ago)
        assert lost.since is not None
        assert lost.since > before
        assert y.runner is not None
        assert (y.runner.host, y.runner.pid, y.needs_worker) == ("", 8, True)
        assert waits_for_worker((x, y)) == "read"
        (whole,) = outline_of(harness.store, "w")
        assert whole.block is not None
        assert whole.block.branches[1].steps[0].runner == y.runner
        assert (whole.runner, whole.block.branches[0].steps[0].runner) == (None, None)


def test_an_outline_says_of_each_step_where_it_stands(harnesses: list[WorkflowHarness]) -> None:
    """Whoever draws a workflow links each step to its task, and says what it waits for."""
    load()
    dispatched(harnesses[0], block(), gather.activity())

    whole, last = outline_of(harnesses[0].store, "w")
    x, y, _ = whole.block.branches if whole.block is not None else ()
    inner = x.steps[0].block
    assert inner is not None
    ended, parked, signalled = inner.branches
    race = y.steps[0].block

    assert (whole.path, whole.hop_id, last.path, last.hop_id) == ("all", "w.0", "gather", "")
    assert [(step.path, step.hop_id) for step in ended.steps] == [
        ("all/x/inner/0/gather", "w.0-0.0-0.0"), ("all/x/inner/0/read", "w.0-0.0-0.1"),
    ]  # fmt: skip
    assert all(step.record is not None and step.record.step_id == step.step_id for step in ended.steps)
    assert parked.steps[-1].failure is not None
    assert [(wait.kind, wait.name) for wait in signalled.steps[-1].waiting_for] == [("signal", "paid")]
    assert race is not None
    cut_off, first = race.branches
    assert (cut_off.state, cut_off.steps) == ("cancelled", ())
    assert [step.path for step in first.steps] == ["all/y/race/1/read"]
