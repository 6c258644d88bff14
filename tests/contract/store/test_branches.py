"""Blocks: branches that are written in pages, opened once and some at a time, counted once, and joined once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from paigeant_celery.core.blocks import Block
from paigeant_celery.core.errors import HopUnknown, InvalidInput
from paigeant_celery.store.branch_port import HopReading, OpenedBlock
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Claimed, Closed, Closing, Dropped, OpenHops, Standing, Suspended
from tests.contract.store.bench import Bench
from tests.contract.store.blocks import (
    at,
    begun,
    complete,
    counts,
    ends,
    fail,
    ids,
    now,
    open_all,
    page,
    park,
    plan,
    read,
    run,
    sent_by,
    state,
    states,
    succeed,
    swept,
    waiting_block,
    workflow_state,
    write,
)
from tests.contract.store.given import FAILURE, claim, closing, completion, ending, hop, new, types

# HOLD.


def test_branches_are_written_page_by_page_and_nobody_may_run_them(bench: Bench) -> None:
    """Until all of them are there; a crash between pages loses none and runs none."""
    block = begun(bench)
    assert bench.store.block("w.0") == Block()

    assert bench.store.hold(block, page(0, 2, blobs={"item:0-0": "1"})) == 2
    assert bench.store.hold(block, page(2, 1, blobs={"item:0-2": "3"})) == 3

    assert bench.store.block("w.0") == Block(written=3)
    assert [(each.number, each.hop.hop_id, each.hop.state) for each in read(bench.store)] == [
        (number, at(number), "held") for number in range(3)
    ]
    assert bench.store.hop(at(1)) == HopReading(
        hop_id=at(1), state="held", queue=f"q-{at(1)}", envelope=f"envelope {at(1)}", attempt=0
    )
    assert bench.store.claim(claim(at(1))) == Dropped(reason="held")
    assert bench.store.claim(replace(claim(at(1)), digest="other")) == Dropped(reason="altered")
    assert dict(bench.store.blobs("w", ["item:0-0", "item:0-1", "item:0-2"])) == {"item:0-0": "1", "item:0-2": "3"}
    assert bench.store.open_hops() == OpenHops(due=0, running=1, parked=0)
    assert ids(swept(bench).overdue) == []
    assert types(bench.store) == ["started", "claimed"]


def test_a_page_that_comes_again_is_not_written_again(bench: Bench) -> None:
    """Its reply was lost, or the block begins anew after a crash; an item may look different then."""
    block = begun(bench)
    bench.store.hold(block, page(0, 2, blobs={"item": "1"}))
    bench.store.hold(block, page(2, 2))

    for repeated in (page(0, 2, queue="other", blobs={"item": "2"}), page(2, 2, queue="other"), page(0, 4), page(3, 2)):
        assert bench.store.hold(block, repeated) == 4

    assert bench.store.block("w.0") == Block(written=4)
    assert [each.hop.queue for each in read(bench.store)] == [f"q-{at(number)}" for number in range(4)]
    assert bench.store.blob("w", "item") == "1"


def test_a_page_beyond_those_that_are_written_is_not_taken(bench: Bench) -> None:
    """There are no gaps; whoever writes learns from the answer where to go on."""
    block = begun(bench)

    assert bench.store.hold(block, page(1, 1, blobs={"item": "1"})) == 0
    assert bench.store.hold(block, page(0, 1)) == 1
    assert bench.store.hold(block, page(2, 1)) == 1

    assert [each.hop.hop_id for each in read(bench.store)] == [at(0)]
    assert bench.store.blob("w", "item") is None


def test_a_block_that_is_open_gets_no_more_branches(bench: Bench) -> None:
    """Its plan says how many there are."""
    block = begun(bench)
    open_all(bench.store, block, 2)

    assert bench.store.hold(block, page(2, 1)) == 2

    assert [each.number for each in read(bench.store)] == [0, 1]
    assert state(bench.store, at(2)) is None


def test_an_owner_that_was_overtaken_writes_no_branches_and_opens_none(bench: Bench) -> None:
    """The other one goes on from what is there."""
    bench.store.start(new())
    late = closing(bench.brief.claim(claim()))
    assert bench.store.hold(late, page(0, 1)) == 1
    bench.store.sweep(host="there", dead=["ann"])
    block = run(bench.store, "w.0", owner="bob")

    assert bench.store.hold(late, page(1, 1)) is None
    assert bench.store.open_block(late, plan(1)) is None

    assert bench.store.block("w.0") == Block(written=1)
    assert bench.store.hold(block, page(1, 1)) == 2


@pytest.mark.parametrize("how", ["complete", "fail", "retry_at", "park", "cancel", "release"])
def test_a_hop_that_its_owner_has_ended_opens_no_branches(bench: Bench, how: str) -> None:
    """What a run does after its end has no effect."""
    block = begun(bench)
    bench.store.hold(block, page(0, 1))
    ending(bench, block)[how]()

    assert bench.store.hold(block, page(1, 1)) is None
    assert bench.store.open_block(block, plan(1)) is None

    assert len(read(bench.store)) == 1
    assert bench.store.open_hops().due == {"complete": 1, "retry_at": 1, "release": 1}.get(how, 0)


def test_a_hop_without_a_record_has_no_branches(bench: Bench) -> None:
    """The store has lost its data; its message must bring it back."""
    nowhere = Closing(hop_id="x.0", owner="ann", fence=1)

    for write_some in (
        lambda: bench.store.hold(nowhere, page(0, 1, of="x.0")),
        lambda: bench.store.open_block(nowhere, plan(1)),
    ):
        with pytest.raises(HopUnknown):
            write_some()
    assert (bench.store.block("x.0"), bench.store.hop("x.0")) == (None, None)
    assert list(bench.store.branches("x.0", first=0, limit=9)) == []
    assert bench.store.redrive("x", place="0-0.0") == "unknown"


def test_a_workflow_has_only_so_many_hops(bench: Bench) -> None:
    """A tree of blocks cannot fill the store: the page that is too much is refused whole."""
    bench.limit(replace(LIMITS, max_hops=4))
    block = begun(bench)
    assert bench.store.hold(block, page(0, 2)) == 2

    with pytest.raises(InvalidInput, match="more than 4 hops") as refused:
        bench.store.hold(block, page(2, 2, blobs={"item": "1"}))

    assert refused.value.reason == "too_many_hops"
    assert bench.store.block("w.0") == Block(written=2)
    assert bench.store.blob("w", "item") is None
    assert bench.store.hold(block, page(0, 2)) == 2  # what is written is no new hop
    assert bench.store.hold(block, page(2, 1)) == 3
    open_block = bench.store.open_block(block, plan(3))
    assert open_block is not None
    inner = run(bench.store, at(0))
    with pytest.raises(InvalidInput, match="more than 4 hops"):
        bench.store.hold(inner, page(0, 1, of=at(0)))
    assert bench.store.park(inner, FAILURE) == Closed()


def test_branches_are_read_from_a_number_on(bench: Bench) -> None:
    """However many there are, one answer has so many."""
    write(bench.store, begun(bench), 12)

    def numbers(first: int, limit: int) -> list[int]:
        return [each.number for each in bench.store.branches("w.0", first=first, limit=limit)]

    assert numbers(0, 5) == [0, 1, 2, 3, 4]
    assert numbers(9, 5) == [9, 10, 11]
    assert (numbers(12, 5), numbers(3, 0), numbers(99, 1)) == ([], [], [])


# OPEN_BLOCK.


def test_the_first_branches_are_opened_once_and_sent_once(bench: Bench) -> None:
    """So many at a time; the repetition of a call whose reply was lost opens none."""
    block = begun(bench)
    write(bench.store, block, 5)

    opened = bench.store.open_block(block, plan(5, window=2))

    assert opened is not None
    assert opened.hops == (hop(at(0)), hop(at(1)))
    assert opened.block == Block(written=5, plan=plan(5, window=2), opened=2, under_way=2)
    assert bench.store.open_block(block, plan(5, window=2)) == OpenedBlock(block=opened.block)
    assert bench.store.block("w.0") == opened.block
    assert states(bench.store) == ["queued", "queued", "held", "held", "held"]
    assert bench.store.open_hops() == OpenHops(due=2, running=1, parked=0)
    assert [event.fields for event in bench.store.events("w", after=None, limit=99)][-1] == {
        "type": "branches_opened",
        "hop": "w.0",
        "branches": "5",
    }


def test_the_plan_of_the_first_opening_counts(bench: Bench) -> None:
    """A later attempt may run with other settings, but the branches that ended were counted by the first plan."""
    block = begun(bench)
    open_all(bench.store, block, 3, window=1)

    again = bench.store.open_block(block, plan(3, window=3, join=1))

    assert again is not None
    assert (again.hops, again.block.plan) == ((), plan(3, window=1))
    assert states(bench.store) == ["queued", "held", "held"]


def test_a_block_with_a_timeout_knows_when_it_is_over(bench: Bench) -> None:
    """Its time begins when its branches do, whatever becomes of its attempts."""
    block = begun(bench)
    write(bench.store, block, 1)
    before = now(bench)

    opened = bench.store.open_block(block, plan(1, timeout=60))

    assert opened is not None
    assert opened.block.until is not None
    assert timedelta(0) <= opened.block.until - before - timedelta(seconds=60) < timedelta(seconds=30)
    again = bench.store.open_block(block, plan(1, timeout=90))
    assert again is not None
    assert again.block.until == opened.block.until


def test_a_branch_is_claimed_like_any_hop_once_it_is_open(bench: Bench) -> None:
    """With a lease, a journal and attempts of its own."""
    waiting_block(bench, 2)

    close = run(bench.store, at(1), owner="bob")

    assert bench.store.claim(claim(at(1), token="other")) == Dropped(reason="running")
    assert bench.store.record(close, {"call": "1"})
    assert bench.store.journal(at(1)) == {"call": "1"}
    assert bench.store.journal(at(0)) == {}
    assert bench.store.renew("bob", {at(1): close.fence}).lost == frozenset()
    assert bench.store.open_hops() == OpenHops(due=1, running=1, parked=0, asleep=1)
    assert bench.store.retry_at(close, FAILURE, delay=0)
    assert ids(swept(bench).overdue) == [at(1)]
    again = bench.store.claim(claim(at(1), token="more"))
    assert isinstance(again, Claimed)
    assert again.attempt == 2


def test_a_block_that_runs_again_goes_on_from_what_is_there(bench: Bench) -> None:
    """After a crash between any two calls: nothing is written or opened anew."""
    bench.store.start(new())
    first = closing(bench.brief.claim(claim()))
    assert bench.store.hold(first, page(0, 2)) == 2
    bench.store.sweep(host="there", dead=["ann"])
    second = run(bench.store, "w.0", owner="bob")
    assert bench.store.block("w.0") == Block(written=2)
    bench.store.hold(second, page(2, 1))
    bench.store.open_block(second, plan(3, window=2))
    bench.store.sweep(host="there", dead=["bob"])

    third = run(bench.store, "w.0", owner="cid")
    opened = bench.store.open_block(third, plan(3, window=2))

    assert opened is not None
    assert opened.hops == ()
    assert states(bench.store) == ["queued", "queued", "held"]


# How branches end.


def test_a_branch_that_ends_is_counted_and_opens_the_next_one(bench: Bench) -> None:
    """In the same call, so that no crash leaves the next one behind."""
    waiting_block(bench, 4, window=2)

    assert sent_by(complete(bench.store, run(bench.store, at(1)))) == [at(2)]

    assert counts(bench.store) == (3, 2, 1, 0, None)
    assert states(bench.store) == ["queued", "done", "queued", "held"]
    assert ends(bench.store) == {1: ("succeeded", 1, f"end of {at(1)}")}
    assert succeed(bench.store, at(0), at(2)) == [at(3)]
    assert counts(bench.store) == (4, 1, 3, 0, None)
    assert succeed(bench.store, at(3)) == ["w.0"]
    assert counts(bench.store) == (4, 0, 4, 0, "met")
    assert [order for _, order, _ in ends(bench.store).values()] == [2, 1, 3, 4]
    assert state(bench.store, "w.0") == "queued"


def test_with_a_window_of_one_branches_run_one_after_another(bench: Bench) -> None:
    """Also if some of them fail and failures are collected."""
    waiting_block(bench, 3, window=1, collects=True)

    assert bench.store.claim(claim(at(1))) == Dropped(reason="held")
    assert fail(bench.store, at(0)) == [at(1)]
    assert succeed(bench.store, at(1)) == [at(2)]
    assert fail(bench.store, at(2)) == ["w.0"]

    assert counts(bench.store) == (3, 0, 1, 2, "met")
    assert {number: how for number, (how, _, _) in ends(bench.store).items()} == {
        0: "failed",
        1: "succeeded",
        2: "failed",
    }


@pytest.mark.parametrize("how", ["complete", "fail", "park"])
def test_a_closing_that_comes_again_counts_once(bench: Bench, how: str) -> None:
    """Its reply was lost; a branch that counted twice would join the block too early."""
    waiting_block(bench, 4, window=1, collects=True)
    close = run(bench.store, at(0))
    call: Callable[[], Closed | None] = {
        "complete": lambda: complete(bench.store, close),
        "fail": lambda: bench.store.fail(close, FAILURE, end="end"),
        "park": lambda: bench.store.park(close, FAILURE),
    }[how]
    assert sent_by(call()) == [at(1)]
    before = (counts(bench.store), ends(bench.store), types(bench.store))

    repeated = call()

    assert repeated is not None
    assert set(ids(repeated.hops)) <= {at(1)}
    assert (counts(bench.store), ends(bench.store), types(bench.store)) == before
    assert states(bench.store)[1:] == ["queued", "held", "held"]


def test_the_closing_of_an_owner_that_was_overtaken_counts_nothing(bench: Bench) -> None:
    """Somebody else runs the branch by now, and ends it."""
    waiting_block(bench, 2)
    late = run(bench.store, at(0))
    bench.store.sweep(host="there", dead=["ann"])
    close = run(bench.store, at(0), owner="bob")

    assert complete(bench.store, late) is None
    assert bench.store.fail(late, FAILURE, end="late") is None
    assert bench.store.park(late, FAILURE) is None

    assert counts(bench.store) == (2, 2, 0, 0, None)
    assert sent_by(complete(bench.store, close)) == []
    assert counts(bench.store) == (2, 1, 1, 0, None)


def test_a_branch_of_two_hops_stands_at_its_current_one_and_ends_with_its_last(bench: Bench) -> None:
    """Only the end of the branch is counted."""
    waiting_block(bench, 3, window=1)
    close = run(bench.store, at(0))

    step = completion(close, next_hop=hop(at(0, 1)), step="draft", blobs={"draft": "1"})
    assert bench.store.complete(step) == Closed()

    assert counts(bench.store) == (1, 1, 0, 0, None)
    assert [each.hop.hop_id for each in read(bench.store)] == [at(0, 1), at(1), at(2)]
    assert states(bench.store) == ["queued", "held", "held"]
    assert state(bench.store, at(0)) == "done"
    assert bench.store.claim(claim(at(0))) == Dropped(reason="finished")
    record = bench.store.workflow("w")
    assert record is not None
    assert record.hop_id == "w.0"
    assert succeed(bench.store, at(0, 1)) == [at(1)]
    assert ends(bench.store) == {0: ("succeeded", 1, f"end of {at(0, 1)}")}
    assert bench.store.blob("w", "draft") == "1"


def test_a_branch_leaves_its_outputs_and_drops_its_journal(bench: Bench) -> None:
    """Its outputs are read by whoever follows, and its end is told; a fan-out keeps no thousand journals."""
    waiting_block(bench, 2)
    close = run(bench.store, at(1))
    assert bench.store.record(close, {"call": "0"})

    assert bench.store.complete(
        completion(close, step="read", blobs={"out:0-1": "7"}, records={"call": "1"}, end="{}", notes=[{"note": "n"}])
    )

    assert bench.store.blob("w", "out:0-1") == "7"
    assert bench.store.journal(at(1)) == {}
    assert types(bench.store)[-3:] == ["note", "completed", "branch_completed"]
    last = bench.store.events("w", after=None, limit=99)[-2:]
    assert [event.fields for event in last] == [
        {"type": "completed", "hop": at(1), "step": "read"},
        {"type": "branch_completed", "hop": at(1)},
    ]
    assert "workflow_completed" not in types(bench.store)
    found = bench.store.hop(at(1))
    assert found is not None
    assert (found.state, found.envelope) == ("done", "")
    fail(bench.store, at(0))
    assert types(bench.store)[-3:] == ["failed", "branch_failed", "joined"]
    assert "workflow_failed" not in types(bench.store)
    assert workflow_state(bench.store) == "running"


# The join.

JOINS: Mapping[str, tuple[dict[str, Any], list[str], str]] = {
    "all: the first failure misses it": (
        {"size": 3},
        ["ok", "no"],
        "missed",
    ),
    "all: all succeed": ({"size": 3}, ["ok", "ok", "ok"], "met"),
    "all, collected: every branch has ended": ({"size": 3, "collects": True}, ["no", "ok", "no"], "met"),
    "all, collected: even if all fail": ({"size": 2, "collects": True}, ["no", "no"], "met"),
    "any: the first success": ({"size": 3, "join": 1}, ["no", "ok"], "met"),
    "any: none is left": ({"size": 3, "join": 1}, ["no", "no", "no"], "missed"),
    "two: two of three": ({"size": 3, "join": 2, "collects": True}, ["ok", "no", "ok"], "met"),
    "two: too many have failed": ({"size": 3, "join": 2}, ["no", "no"], "missed"),
    "two: missed while one is still to run": ({"size": 3, "join": 2}, ["ok", "no", "no"], "missed"),
    "one branch": ({"size": 1}, ["ok"], "met"),
}


@pytest.mark.parametrize("window", [1, 2, 20])
@pytest.mark.parametrize("case", JOINS)
def test_the_end_that_meets_or_misses_the_join_wakes_the_block(bench: Bench, case: str, window: int) -> None:
    """Once, in the same call, and not before."""
    planned, happens, joined = JOINS[case]
    size = planned["size"]
    waiting_block(bench, window=window, **planned)

    for number, what in enumerate(happens):
        assert (counts(bench.store)[-1], state(bench.store, "w.0")) == (None, "suspended")
        sent = (succeed if what == "ok" else fail)(bench.store, at(number))
        if number < len(happens) - 1:
            assert sent == ([at(number + window)] if number + window < size else [])

    assert sent == ["w.0"]
    block = bench.store.block("w.0")
    assert block is not None
    assert (block.joined, block.ended) == (joined, len(happens))
    assert (block.succeeded, block.failed) == (happens.count("ok"), happens.count("no"))
    assert types(bench.store).count("joined") == 1
    last = bench.store.events("w", after=None, limit=99)[-1]
    assert dict(last.fields) == {"type": "joined", "hop": "w.0", "how": joined}
    assert states(bench.store)[len(happens) :] == [
        "queued" if number < len(happens) - 1 + window else "held" for number in range(len(happens), size)
    ]
    again = bench.store.claim(claim("w.0", token="again"))
    assert isinstance(again, Claimed)
    assert again.attempt == 1


def test_a_branch_that_arrives_after_the_join_is_written_down_and_changes_nothing_else(bench: Bench) -> None:
    """It opens none and wakes nobody, and the block can tell that it came later."""
    waiting_block(bench, 4, join=1, window=2)
    early, late = run(bench.store, at(0)), run(bench.store, at(1))
    assert sent_by(complete(bench.store, early)) == ["w.0"]

    assert sent_by(bench.store.fail(late, FAILURE, end="late")) == []

    block = bench.store.block("w.0")
    assert block is not None
    assert (block.joined, block.ended, block.succeeded, block.failed) == ("met", 1, 1, 1)
    assert ends(bench.store) == {0: ("succeeded", 1, f"end of {at(0)}"), 1: ("failed", 2, "late")}
    assert states(bench.store) == ["done", "failed", "held", "held"]
    assert types(bench.store).count("joined") == 1
    assert types(bench.store)[-1] == "branch_failed"
    assert bench.store.open_hops() == OpenHops(due=1, running=0, parked=0)


def test_the_join_is_not_lost_on_a_block_that_has_not_suspended_yet(bench: Bench) -> None:
    """Its branches may end before it does; SUSPEND then queues it at once."""
    block = begun(bench)
    open_all(bench.store, block, 2)
    assert succeed(bench.store, at(0), at(1), owner="bob") == []
    assert counts(bench.store)[-1] == "met"

    sent = bench.store.suspend(block, Standing(branches=True))

    assert sent == Suspended(hop=hop())
    assert bench.store.suspend(block, Standing(branches=True)) == sent
    assert state(bench.store, "w.0") == "queued"
    assert bench.store.open_hops() == OpenHops(due=1, running=0, parked=0)


def test_a_block_that_runs_when_the_join_is_met_may_close_at_once(bench: Bench) -> None:
    """It need not suspend to learn of it."""
    block = begun(bench)
    open_all(bench.store, block, 1)
    assert succeed(bench.store, at(0), owner="bob") == []

    assert bench.store.complete(completion(block, next_hop=hop("w.1"))) == Closed()

    assert state(bench.store, "w.1") == "queued"
    assert types(bench.store).count("joined") == 1


@pytest.mark.parametrize("waits_for", ["its retry", "a person", "a worker"])
def test_the_join_wakes_no_block_that_does_not_wait_for_it(bench: Bench, waits_for: str) -> None:
    """It learns of it in its next attempt."""
    block = begun(bench)
    open_all(bench.store, block, 1)
    if waits_for == "its retry":
        bench.store.retry_at(block, FAILURE, delay=60)
    elif waits_for == "a person":
        bench.store.park(block, FAILURE)
    else:
        bench.store.release(block)
    before = state(bench.store, "w.0")

    assert succeed(bench.store, at(0), owner="bob") == []

    assert state(bench.store, "w.0") == before
    assert counts(bench.store)[-1] == "met"


def test_a_block_suspends_only_for_a_moment_that_is_still_to_come(bench: Bench) -> None:
    """A block that is joined and suspends again goes on at once, in every attempt."""
    waiting_block(bench, 1)
    assert succeed(bench.store, at(0)) == ["w.0"]
    again = run(bench.store, "w.0")

    assert bench.store.suspend(again, Standing(branches=True)) == Suspended(hop=hop())
    other = run(bench.store, "w.0")
    assert bench.store.suspend(other, Standing()) == Suspended()  # this one waits for something else


def test_a_parked_branch_gives_its_place_to_the_next_one(bench: Bench) -> None:
    """It lets its siblings go on, and may still succeed."""
    waiting_block(bench, 3, window=1)

    assert park(bench.store, at(0)) == [at(1)]

    assert counts(bench.store) == (2, 1, 0, 0, None)
    assert states(bench.store) == ["parked", "queued", "held"]
    assert ends(bench.store) == {}
    assert park(bench.store, at(1)) == [at(2)]
    assert park(bench.store, at(2)) == []
    assert counts(bench.store) == (3, 0, 0, 0, None)
    assert bench.store.open_hops() == OpenHops(due=0, running=0, parked=3, asleep=1)


def test_a_branch_that_parks_after_the_join_opens_none(bench: Bench) -> None:
    """The block has what it needs."""
    waiting_block(bench, 4, join=1, window=2)
    late = run(bench.store, at(1))
    succeed(bench.store, at(0))

    assert sent_by(bench.store.park(late, FAILURE)) == []

    assert states(bench.store) == ["done", "parked", "held", "held"]


def test_a_redriven_branch_goes_on_beside_those_that_took_its_place(bench: Bench) -> None:
    """A redrive is never refused, so the window is exceeded; the end of one opens no other until there is room."""
    waiting_block(bench, 4, window=1)
    assert park(bench.store, at(0)) == [at(1)]

    assert bench.store.redrive("w", place="0-0.0") == "redriven"

    assert counts(bench.store) == (2, 2, 0, 0, None)
    assert ids(swept(bench).overdue) == [at(0)]
    assert succeed(bench.store, at(0)) == []
    assert succeed(bench.store, at(1)) == [at(2)]
    assert counts(bench.store) == (3, 1, 2, 0, None)
    assert bench.store.redrive("w", place="0-0.0") == "not_parked"


@pytest.mark.parametrize("place", ["0-1.0", "0-9.0", "0-0.1", "0", "1", "0-0.0-0.0", None])
def test_only_a_parked_hop_is_redriven(bench: Bench, place: str | None) -> None:
    """Also of a place that does not exist."""
    waiting_block(bench, 2)
    park(bench.store, at(0))
    before = (states(bench.store), counts(bench.store), types(bench.store))

    assert bench.store.redrive("w", place=place) == "not_parked"

    assert (states(bench.store), counts(bench.store), types(bench.store)) == before


def test_a_discarded_journal_of_a_branch_is_its_own(bench: Bench) -> None:
    """The step of the branch begins anew; no other one does."""
    waiting_block(bench, 2)
    for number in (0, 1):
        close = run(bench.store, at(number))
        bench.store.record(close, {"call": str(number)})
        bench.store.park(close, FAILURE)

    assert bench.store.redrive("w", place="0-1.0", discard_journal=True) == "redriven"

    assert (bench.store.journal(at(0)), bench.store.journal(at(1))) == ({"call": "0"}, {})
    assert states(bench.store) == ["parked", "queued"]


# The block's own attempts.


def test_a_block_is_retried_parked_and_redriven_with_its_branches(bench: Bench) -> None:
    """A discarded journal leaves them, too: what ran is not run again."""
    waiting_block(bench, 2)
    succeed(bench.store, at(0), at(1))
    block = run(bench.store, "w.0")
    before = (counts(bench.store), ends(bench.store), states(bench.store))
    assert bench.store.retry_at(block, FAILURE, delay=0)
    assert ids(swept(bench).overdue) == ["w.0"]
    second = run(bench.store, "w.0")
    assert sent_by(bench.store.park(second, FAILURE)) == []
    assert workflow_state(bench.store) == "parked"

    assert bench.store.redrive("w", discard_journal=True) == "redriven"

    assert (counts(bench.store), ends(bench.store), states(bench.store)) == before
    third = run(bench.store, "w.0")
    again = bench.store.open_block(third, plan(9))
    assert again is not None
    assert (again.hops, again.block.joined) == ((), "met")
    assert bench.store.complete(completion(third)) == Closed()
    assert workflow_state(bench.store) == "completed"


def test_branches_go_on_beside_a_parked_block(bench: Bench) -> None:
    """And the block goes on from them once it is redriven."""
    block = begun(bench)
    open_all(bench.store, block, 2, window=1)
    assert bench.store.park(block, FAILURE) == Closed()
    assert workflow_state(bench.store) == "running"

    assert succeed(bench.store, at(0)) == [at(1)]
    assert succeed(bench.store, at(1)) == []
    assert (workflow_state(bench.store), counts(bench.store)[-1]) == ("parked", "met")
    assert bench.store.redrive("w") == "redriven"

    assert workflow_state(bench.store) == "running"
    assert bench.store.suspend(run(bench.store, "w.0"), Standing(branches=True)) == Suspended(hop=hop())
