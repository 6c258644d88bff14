"""What becomes of a block's record, one branch at a time. The model searches all orders of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paigeant_celery.core.blocks import (
    Block,
    BranchEnded,
    Plan,
    come_back,
    end_branch,
    leave_window,
    open_branches,
    plan_of,
    write_page,
)

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
THREE = plan_of(3, join="all", collects=False, at_once=2)
OPENED = open_branches(write_page(Block(), first=0, count=3), THREE, until=NOON)


def test_a_page_is_counted_once_and_in_its_turn() -> None:
    """A repeated page writes no branch anew, and a later one leaves no gap."""
    first = write_page(Block(), first=0, count=100)

    assert first == Block(written=100)
    assert write_page(first, first=0, count=100) is first
    assert write_page(first, first=200, count=100) is first
    assert write_page(first, first=100, count=1) == Block(written=101)
    assert write_page(OPENED, first=3, count=1) is OPENED


def test_a_block_opens_as_many_branches_as_may_go_on_at_once_and_only_once() -> None:
    """An attempt after a crash opens nothing twice, and its own plan does not count."""
    assert Block(written=3, plan=THREE, opened=2, under_way=2, until=NOON) == OPENED
    assert open_branches(OPENED, replace(THREE, at_once=3), until=None) is OPENED
    assert open_branches(Block(written=3), replace(THREE, at_once=20), until=None).opened == 3


def test_the_end_of_a_branch_opens_the_next_one_until_there_is_none() -> None:
    """The window stays full."""
    one, two = end_branch(OPENED, "succeeded"), end_branch(end_branch(OPENED, "succeeded").block, "succeeded")

    assert (one.opens, one.wakes) == (2, False)
    assert (one.block.opened, one.block.under_way, one.block.succeeded) == (3, 2, 1)
    assert (two.opens, two.wakes, two.block.under_way) == (None, False, 1)


@pytest.mark.parametrize(
    ("count", "join", "collects", "ends", "joined"),
    [
        (2, "all", False, "s", None),
        (2, "all", False, "ss", "met"),
        (2, "all", False, "f", "missed"),
        (2, "all", True, "f", None),
        (2, "all", True, "ff", "met"),
        (3, 1, True, "s", "met"),
        (3, 1, True, "ff", None),
        (3, 1, True, "fff", "missed"),
        (3, 2, True, "fs", None),
        (3, 2, True, "fss", "met"),
        (3, 2, True, "ff", "missed"),
        (1, "all", False, "s", "met"),
    ],
)
def test_a_join_is_met_or_missed_as_soon_as_that_can_be_told(
    count: int, join: int, collects: bool, ends: str, joined: str | None
) -> None:
    """Nothing is waited for that changes nothing any more."""
    plan = plan_of(count, join=join, collects=collects, at_once=3)
    block = open_branches(Block(written=count), plan, until=None)
    woken = 0
    for each in ends:
        found = end_branch(block, "succeeded" if each == "s" else "failed")
        block, woken = found.block, woken + found.wakes

    assert block.joined == joined
    assert woken == (joined is not None)
    assert block.ended == (len(ends) if joined else 0)


def test_what_ends_after_the_mark_is_counted_but_opens_and_wakes_nothing() -> None:
    """The output of the block is settled then."""
    plan = plan_of(4, join=1, collects=True, at_once=2)
    met = end_branch(open_branches(Block(written=4), plan, until=None), "succeeded").block

    late = end_branch(met, "succeeded")
    failed = end_branch(late.block, "failed")

    assert (met.joined, met.ended, met.opened) == ("met", 1, 2)
    assert (late.opens, late.wakes, failed.opens, failed.wakes) == (None, False, None, False)
    assert (failed.block.joined, failed.block.ended, failed.block.succeeded, failed.block.failed) == ("met", 1, 2, 1)


def test_a_parked_branch_gives_its_place_to_the_next_and_goes_on_beside_it_later() -> None:
    """One branch that waits for a person does not hold up the others."""
    left = leave_window(OPENED)
    back = come_back(left.block)
    ended = end_branch(back, "succeeded")

    assert (left.opens, left.wakes, left.block.under_way) == (2, False, 2)
    assert back.under_way == 3  # more than may be, as one of them was redriven
    assert (ended.opens, ended.block.under_way) == (None, 2)


def test_a_redriven_branch_keeps_the_others_from_being_opened_beyond_the_window() -> None:
    """The one that ends next leaves no place if the window was too full."""
    four = open_branches(Block(written=4), replace(THREE, count=4, needed=4), until=None)
    full = come_back(leave_window(four).block)

    assert end_branch(full, "succeeded").opens is None
    assert end_branch(end_branch(full, "succeeded").block, "succeeded").opens == 3


def test_a_branch_that_parks_after_the_mark_opens_nothing() -> None:
    """There is no use for the next one any more."""
    plan = plan_of(3, join=1, collects=True, at_once=2)
    met = end_branch(open_branches(Block(written=3), plan, until=None), "succeeded").block

    assert leave_window(met).opens is None


@given(
    count=st.integers(1, 8),
    at_once=st.integers(1, 4),
    join=st.one_of(st.just("all"), st.integers(1, 8)),
    collects=st.booleans(),
    ends=st.lists(st.sampled_from(["succeeded", "failed", "parks", "returns"]), max_size=30),
)
def test_whatever_branches_do_each_is_opened_once_and_the_block_is_woken_once(
    count: int, at_once: int, join: int, collects: bool, ends: list[str]
) -> None:
    """The counts of a block are those of its branches."""
    plan = plan_of(count, join=join if join == "all" else min(join, count), collects=collects, at_once=at_once)
    block = open_branches(Block(written=count), plan, until=None)
    opened, parked, wakes, going = list(range(block.opened)), 0, 0, block.opened
    for each in ends:
        if each == "returns":
            if parked:
                block, parked, going = come_back(block), parked - 1, going + 1
            continue
        if not going:
            continue
        found = leave_window(block) if each == "parks" else end_branch(block, _how(each))
        block, parked, wakes = found.block, parked + (each == "parks"), wakes + found.wakes
        opened += [found.opens] if found.opens is not None else []
        going += (found.opens is not None) - 1

        assert (block.under_way, opened) == (going, list(range(block.opened)))
        assert wakes == (block.joined is not None)
    assert block.opened <= count
    assert block.succeeded + block.failed + parked + going == block.opened


def _how(each: str) -> BranchEnded:
    return "succeeded" if each == "succeeded" else "failed"


@pytest.mark.parametrize(
    ("join", "collects", "plan"),
    [
        ("all", False, Plan(count=5, needed=5, counted="succeeded", spare=0, at_once=2, timeout=3.0)),
        ("all", True, Plan(count=5, needed=5, counted="ended", spare=None, at_once=2, timeout=3.0)),
        (2, True, Plan(count=5, needed=2, counted="succeeded", spare=3, at_once=2, timeout=3.0)),
    ],
)
def test_a_plan_says_how_many_must_succeed_and_how_many_may_fail(join: int, collects: bool, plan: Plan) -> None:
    """The store needs nothing else of a block."""
    assert plan_of(5, join=join, collects=collects, at_once=2, timeout=3.0) == plan
