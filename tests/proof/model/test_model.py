"""The protocol of hops holds in every state that two workers, the sweepers and an adversary can bring about."""

from __future__ import annotations

import pytest

from tests.proof.model.moves import Budget
from tests.proof.model.mutants import OF_WAITS, RULES, without
from tests.proof.model.records import Rules
from tests.proof.model.search import INVARIANTS, search

# Hops, faults, and the least number of states: two faults in a workflow of three hops, three in one of a single hop.
SIZES = [(3, 2, 40_000), (1, 3, 40_000)]
# The same of hops that wait: each state of such a hop is many.
WAITING = [
    (Rules(hops=1, waits=True), 1, 5_000),
    pytest.param(Rules(hops=1, waits=True), 2, 100_000, marks=pytest.mark.proof),
    pytest.param(Rules(hops=2, waits=True), 1, 10_000, marks=pytest.mark.proof),
]

# Which invariants notice that a rule is missing. Each rule and each invariant is in at least one pair.
CAUGHT = [
    ("fence", "overtaken_write_nothing"),
    ("fence", "one_place"),
    ("fence", "runs_explained"),
    ("dedupe", "leases_respected"),
    ("dedupe", "runs_explained"),
    ("sweeper", "stranded"),
    ("atomic", "handed_on"),
    ("atomic", "only_forward"),
    ("atomic", "stranded"),
    ("cap", "attempts_capped"),
    ("idempotent", "granted_again"),
    ("idempotent", "attempts_explained"),
    ("once", "completed_once"),
    ("once", "in_slip_order"),
    ("drop", "endless"),
    ("tell", "stranded"),
    ("late", "stranded"),
    ("leaves", "left_alone"),
    ("alone", "left_alone"),
    ("looks", "sleeps_for_a_reason"),
    ("looks", "stranded"),
    ("wakes", "sleeps_for_a_reason"),
    ("wakes", "stranded"),
    ("first", "answered_once"),
    ("compares", "answered_once"),
    ("same", "answered_once"),
    ("same", "asked_once"),
]
# What it takes to notice, if not any two faults in a workflow of two hops.
NOTICED = {
    "tell": (Rules(hops=1), Budget(faults=1, forget=1)),
    "late": (Rules(hops=1, deadline=True, served=False), Budget(faults=1)),
    **dict.fromkeys((*OF_WAITS, "same"), (Rules(hops=1, waits=True), Budget(faults=1))),
}

MOVES = {
    "takes a message", "CLAIM", "runs the body", "COMPLETE", "RETRY_AT", "PARK", "FAIL", "acknowledges",
    "RENEW", "RENEW: lost, and the run is cancelled", "RELEASE of a stray", "the lease of nobody's run ends",
    "SWEEP: queues what an owner ran", "SWEEP: the wait is over", "SWEEP: overdue",
    "crashes, its message is lost", "crashes, its message comes back", "its lease ends", "CLAIM, its reply is lost",
    "COMPLETE, its reply is lost", "RETRY_AT, its reply is lost", "FAIL, its reply is lost",
    "gives up, and gives its message back", "the body fails", "the body fails permanently", "RELEASE, as it must end",
    "a message is doubled", "a message is lost", "CANCEL",
}  # fmt: skip
AFTER_A_LOSS = {
    "the store forgets everything", "regains the hop that it ran", "RENEW: unknown, and the run is cancelled",
    "must end, and gives its message back",
}  # fmt: skip
OF_WAITING_HOPS = {
    "WAIT", "leaves its run", "SUSPEND", "publishes the woken hop", "SUSPEND, its reply is lost", "TIME_OUT",
    "RENEW: settled, and the run goes on", "the time for an answer passes", "SWEEP: the time is over", "RESOLVE",
    "whoever answered publishes", "whoever answered dies", "RESOLVE, by another", "RESOLVE, its reply was lost",
}  # fmt: skip
BETWEEN_HOPS = {"publishes"}
AFTER_TWO_FAULTS = {"REDRIVE", "PARK, its reply is lost"}  # parking a hop of two attempts takes two


@pytest.mark.parametrize(("hops", "faults", "at_least"), SIZES)
def test_every_state_is_sound_and_ends_once_nobody_disturbs_it(hops: int, faults: int, at_least: int) -> None:
    """Whatever is killed, frozen, lost or doubled, and whenever: no work is lost, and none is done twice."""
    report = search(Rules(hops=hops), Budget(faults=faults))

    print(report)
    assert report.finding is None, str(report.finding)
    # A search that goes nowhere, or has no adversary, finds nothing either.
    assert report.states >= at_least
    assert set(report.moves) == MOVES | (BETWEEN_HOPS if hops > 1 else AFTER_TWO_FAULTS)
    assert set(report.workflows) == {"running", "completed", "failed", "parked", "cancelled"}


@pytest.mark.parametrize(
    ("hops", "faults", "losses"),
    [
        (1, 2, 1),
        pytest.param(3, 2, 2, marks=pytest.mark.proof),
        pytest.param(1, 3, 3, marks=pytest.mark.proof),
    ],
)
def test_a_store_that_forgets_everything_loses_no_workflow_that_has_a_message(
    hops: int, faults: int, losses: int
) -> None:
    """Whoever runs it, holds its message or gets it later brings it back, and no other rule is broken by that."""
    report = search(Rules(hops=hops), Budget(faults=faults, forget=losses))

    print(report)
    assert report.finding is None, str(report.finding)
    assert set(report.moves) >= AFTER_A_LOSS
    assert report.workflows["unknown"] > 0


@pytest.mark.parametrize(("rules", "faults", "at_least"), WAITING)
def test_a_hop_that_waits_is_answered_once_and_sleeps_no_longer(rules: Rules, faults: int, at_least: int) -> None:
    """Whenever the answer comes, whoever dies then, and if the time for it passes beside it."""
    report = search(rules, Budget(faults=faults))

    print(report)
    assert report.finding is None, str(report.finding)
    assert report.states >= at_least
    assert set(report.moves) >= OF_WAITING_HOPS
    assert {"running", "completed", "failed", "cancelled"} <= set(report.workflows)


def test_a_hop_that_waits_past_the_deadline_of_its_workflow_is_ended() -> None:
    """A sweep queues it, and closes it then."""
    report = search(Rules(hops=1, waits=True, deadline=True, served=False), Budget(faults=1))
    asleep = search(Rules(hops=1, waits=True, deadline=True), Budget(faults=0))

    assert (report.finding, asleep.finding) == (None, None)
    assert asleep.moves["SWEEP: the time is over"] > 0
    assert asleep.workflows["failed"] > 0


@pytest.mark.parametrize("served", [True, False])
def test_a_workflow_ends_at_its_deadline_whether_or_not_its_queue_is_served(served: bool) -> None:
    """A sweeper that dies between its claim and its record is replaced, and workers that are faster count."""
    report = search(Rules(hops=1, deadline=True, served=served), Budget(faults=1))

    print(report)
    assert report.finding is None, str(report.finding)
    assert "SWEEP: late, and it is claimed" in report.moves
    assert report.workflows["failed"] > 0
    assert report.workflows["completed"] == 0 or served


@pytest.mark.parametrize(("rule", "invariant"), CAUGHT)
def test_no_rule_of_the_protocol_can_be_left_out(rule: str, invariant: str) -> None:
    """Each rule has a reason, which the search finds and shows if somebody removes the rule."""
    whole, budget = NOTICED.get(rule, (Rules(hops=2), Budget(faults=2)))
    with without(rule, whole) as rules:
        report = search(rules, budget, watched=[invariant])

    assert report.finding is not None
    assert report.finding.invariant == invariant
    print(report)


def test_each_rule_and_each_invariant_has_its_mutant() -> None:
    """A rule that nothing tests, or an invariant that nothing can break, proves nothing."""
    assert {rule for rule, _ in CAUGHT} == set(RULES)
    assert {invariant for _, invariant in CAUGHT} == INVARIANTS
