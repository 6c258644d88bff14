"""Blocks hold in every state that two workers, the sweepers, people and an adversary can bring about."""

from __future__ import annotations

import pytest

from tests.proof.model.block_mutants import RULES, without
from tests.proof.model.block_records import BlockRules
from tests.proof.model.block_search import INVARIANTS, TREES, search_blocks
from tests.proof.model.moves import Budget

# Trees, faults, and the least number of states.
SIZES = [
    ("all", 2, 40_000),
    ("collects", 1, 2_000),
    ("any", 1, 8_000),
    ("nested", 1, 10_000),
    pytest.param("three", 1, 4_000, marks=pytest.mark.proof),
    pytest.param("inner any", 1, 40_000, marks=pytest.mark.proof),
    pytest.param("outer any", 1, 40_000, marks=pytest.mark.proof),
    pytest.param("collects", 2, 40_000, marks=pytest.mark.proof),
    pytest.param("any", 2, 100_000, marks=pytest.mark.proof),
    pytest.param("nested", 2, 300_000, marks=pytest.mark.proof),
]

# Which invariants notice that a rule is missing. Each rule and each invariant is in at least one pair.
CAUGHT = [
    ("counts once", "counted_once"),
    ("joined once", "joined_once"),
    ("marks the join", "joined_in_time"),
    ("marks the join", "parked_for_a_reason"),
    ("marks the join", "stranded"),
    ("counts the last", "output_has_all"),
    ("opens the next", "window"),
    ("opens the next", "stranded"),
    ("makes it live", "opened_in_order"),
    ("makes it live", "stranded"),
    ("opens once", "only_forward"),
    ("opens once", "window"),
    ("keeps the window", "window"),
    ("leaves the window", "window"),
    ("comes back", "window"),
    ("writes once", "written_once"),
    ("held", "held_is_never_claimed"),
    ("wakes", "sleeps_for_a_reason"),
    ("wakes", "stranded"),
    ("live", "parked_for_a_reason"),
    ("fence", "overtaken_write_nothing"),
    ("fence", "one_place"),
    ("once", "counted_once"),
    ("dedupe", "leases_respected"),
    ("cap", "attempts_capped"),
    ("cuts off", "cut_off_write_nothing"),
    ("sweeper", "stranded"),
    ("cleaner", "stranded"),
    ("drop", "endless"),
    ("looks", "sleeps_for_a_reason"),
    ("looks", "stranded"),
    ("claim asks", "cut_off_write_nothing"),
    ("close asks", "cut_off_write_nothing"),
    ("hold asks", "cut_off_write_nothing"),
    ("open asks", "cut_off_write_nothing"),
    ("redrive asks", "cut_off_write_nothing"),
    ("release asks", "cut_off_write_nothing"),
    ("renew asks", "cut_off_write_nothing"),
    ("suspend asks", "cut_off_write_nothing"),
    ("sweep asks", "cut_off_write_nothing"),
]
# The tree that it takes to notice, if not two branches one after the other.
NOTICED_IN = {
    "joined once": "any",
    "keeps the window": "three",
    "redrive asks": "any",
    "renew asks": "any",
    "hold asks": "outer any",
    "open asks": "outer any",
    "suspend asks": "outer any",
}
ATTEMPTS = {"cap": 1}

MOVES = {
    "takes a message", "CLAIM", "reads its block", "HOLD, page 0", "HOLD, page 1", "OPEN", "publishes", "SUSPEND",
    "COMPLETE", "RETRY_AT", "PARK", "FAIL", "acknowledges", "RENEW", "RENEW: lost, and the run is cancelled",
    "RELEASE of a stray", "the lease of nobody's run ends", "SWEEP: queues what an owner ran", "SWEEP: overdue",
    "SWEEP: the wait is over", "closes what is cut off", "REDRIVE", "CANCEL", "crashes, its message is lost",
    "crashes, its message comes back", "its lease ends", "CLAIM, its reply is lost", "HOLD, page 0, its reply is lost",
    "HOLD, page 1, its reply is lost", "OPEN, its reply is lost", "SUSPEND, its reply is lost",
    "COMPLETE, its reply is lost", "gives up, and gives its message back", "the body fails",
    "the body fails permanently", "the body needs a person", "RELEASE, as it must end",
    "a message is doubled, or forged", "a message is lost",
}  # fmt: skip
AFTER_TWO_FAULTS = {"FAIL, its reply is lost", "RETRY_AT, its reply is lost", "PARK, its reply is lost"}


@pytest.mark.parametrize(("tree", "faults", "at_least"), SIZES)
def test_every_block_is_joined_once_and_loses_no_branch(tree: str, faults: int, at_least: int) -> None:
    """Whatever is killed, frozen, lost, doubled, cancelled or redriven, and whenever."""
    report = search_blocks(BlockRules(tree=TREES[tree]), Budget(faults=faults))

    print(report)
    assert report.finding is None, str(report.finding)
    # A search that goes nowhere, or has no adversary, finds nothing either.
    assert report.states >= at_least
    assert set(report.moves) >= MOVES
    assert set(report.moves) >= AFTER_TWO_FAULTS or faults < 2
    assert set(report.workflows) == {"running", "completed", "failed", "parked", "cancelled"}


@pytest.mark.parametrize(("rule", "invariant"), CAUGHT)
def test_no_rule_of_blocks_can_be_left_out(rule: str, invariant: str) -> None:
    """Each rule has a reason, which the search finds and shows if somebody removes the rule."""
    whole = BlockRules(tree=TREES[NOTICED_IN.get(rule, "all")], max_attempts=ATTEMPTS.get(rule, 2))
    with without(rule, whole) as rules:
        report = search_blocks(rules, Budget(faults=1), watched=[invariant])

    assert report.finding is not None
    assert report.finding.invariant == invariant
    print(report)


def test_each_rule_and_each_invariant_has_its_mutant() -> None:
    """A rule that nothing tests, or an invariant that nothing can break, proves nothing."""
    assert {rule for rule, _ in CAUGHT} == set(RULES)
    assert {invariant for _, invariant in CAUGHT} == INVARIANTS
