"""What becomes of a hop's record, one operation at a time. The model searches all orders of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast, get_args

import pytest

from paigeant_celery.core.flow import Failure, WorkflowState
from paigeant_celery.core.hops import (
    ENDED,
    Asleep,
    Change,
    ClosedState,
    Due,
    Held,
    Hop,
    HopState,
    Line,
    NotGranted,
    Owned,
    Pace,
    Parked,
    Sweeping,
    cancel,
    claim,
    close,
    count_attempt,
    goes_first,
    hold,
    is_cut_off,
    is_held,
    is_live,
    lapse,
    may_pass,
    move_on,
    open_held,
    open_pass,
    queue,
    redrive,
    release,
    renew,
    suspend,
    sweep,
    wake,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PACE = Pace(
    lease=10 * SECOND, due_after=5 * SECOND, due_after_most=80 * SECOND, long_unswept=2.5 * SECOND, pass_every=SECOND
)
LINE = Line(sent=3, reached=1)
FAILURE = Failure(step_id="draft", error_class="ValueError", text="no such topic")

QUEUED = queue(digest="d", line=LINE, now=NOW, pace=PACE).hop


def claimed(hop: Hop, *, owner: str = "ann", token: str = "t1", lease: datetime | None = None) -> Change | NotGranted:
    return claim(hop, owner=owner, token=token, max_attempts=2, digest="d", lease=lease, held=False, now=NOW, pace=PACE)


RUNNING = cast("Change", claimed(QUEUED)).hop
LAPSED = lapse(RUNNING, "lease_over", line=LINE, now=NOW, pace=PACE).hop
WAITING = cast("Change", close(RUNNING, "waiting", owner="ann", fence=1, now=NOW, failure=FAILURE)).hop
PARKED = cast("Change", close(RUNNING, "parked", owner="ann", fence=1, now=NOW)).hop


def test_a_new_hop_is_due_when_its_first_message_is_overdue() -> None:
    """A message that is lost between dispatch and worker is sent again."""
    assert queue(digest="d", line=LINE, now=NOW, pace=PACE) == Change(
        hop=Hop(digest="d", sent=4, first=4), listing=Due(at=NOW + 5 * SECOND)
    )


def test_a_queued_hop_is_given_to_the_owner_that_claims_it() -> None:
    """It is listed as the owner's until the end of the lease that begins now."""
    assert claimed(QUEUED) == Change(
        hop=replace(QUEUED, state="running", owner="ann", token="t1", fence=1, attempt=1, claimed_at=NOW),
        listing=Owned(owner="ann", until=NOW + 10 * SECOND),
    )


@pytest.mark.parametrize(
    ("lease", "held", "runs"),
    [(NOW + SECOND, False, True), (NOW, False, False), (NOW, True, True), (None, True, False)],
)
def test_a_running_hop_is_taken_over_only_when_its_owners_lease_is_over(
    lease: datetime | None, held: bool, runs: bool
) -> None:
    """Two owners never run a hop at once while the first may come back. After an outage it has longer."""
    answer = claim(
        RUNNING, owner="bob", token="t2", max_attempts=2, digest="d", lease=lease, held=held, now=NOW, pace=PACE
    )

    taken = replace(RUNNING, owner="bob", token="t2", fence=2, attempt=2)
    listing = Owned(owner="bob", until=NOW + 10 * SECOND)
    assert answer == ("running" if runs else Change(hop=taken, listing=listing, leaves="ann"))


@pytest.mark.parametrize("hop", [RUNNING, LAPSED])
def test_a_claim_whose_reply_was_lost_gets_the_same_answer_again(hop: Hop) -> None:
    """The client repeats it. That spends no attempt, and if the hop lapsed meanwhile, it is the owner's again."""
    again = claimed(hop, lease=NOW + SECOND)

    assert isinstance(again, Change)
    assert (again.hop, again.listing) == (replace(hop, state="running"), Owned(owner="ann", until=NOW + 10 * SECOND))


def test_a_claim_beyond_the_last_attempt_may_only_close() -> None:
    """A hop that kills its worker does not do so forever."""
    spent = replace(QUEUED, attempt=2, fence=5)

    answer = claimed(spent)

    assert isinstance(answer, Change)
    assert (answer.hop.attempt, answer.hop.exhausted, answer.hop.fence) == (2, True, 6)


@pytest.mark.parametrize(("begun", "counted"), [(0, (1, False)), (1, (2, False)), (2, (2, True)), (3, (3, True))])
def test_an_attempt_is_counted_only_while_one_is_left(begun: int, counted: tuple[int, bool]) -> None:
    """The same rule holds whether a record or a message says how often the hop was begun."""
    hop = count_attempt(Hop(attempt=begun), max_attempts=2)

    assert (hop.attempt, hop.exhausted) == counted


@pytest.mark.parametrize("state", get_args(HopState))
def test_an_altered_message_is_refused_in_each_state(state: HopState) -> None:
    """Whoever altered it learns nothing about the hop."""
    hop = replace(RUNNING, state=state)

    assert claim(
        hop, owner="bob", token="t2", max_attempts=2, digest="other", lease=None, held=False, now=NOW, pace=PACE
    ) == "altered"  # fmt: skip


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("done", "finished"),
        ("failed", "finished"),
        ("waiting", "waiting"),
        ("parked", "parked"),
        ("cancelled", "cancelled"),
    ],
)
def test_a_closed_hop_is_not_claimed_even_by_its_last_owner(state: HopState, reason: str) -> None:
    """A late copy of its message runs nothing."""
    assert claimed(replace(RUNNING, state=state)) == reason


def test_a_renewal_leaves_a_lapsed_hop_to_its_owner_and_changes_no_other() -> None:
    """A worker that was away for a moment goes on. One that was overtaken learns of it."""
    back = Change(hop=replace(LAPSED, state="running"), listing=Owned(owner="ann", until=NOW + 10 * SECOND))

    assert renew(LAPSED, owner="ann", fence=1, now=NOW, pace=PACE) == back
    assert renew(RUNNING, owner="ann", fence=1, now=NOW, pace=PACE) == "kept"
    assert renew(RUNNING, owner="ann", fence=2, now=NOW, pace=PACE) == "lost"
    assert renew(cancel(RUNNING).hop, owner="ann", fence=1, now=NOW, pace=PACE) == "lost"


@pytest.mark.parametrize(
    ("state", "listing", "workflow"),
    [
        ("done", None, "completed"),
        ("failed", None, "failed"),
        ("waiting", Due(at=NOW + 60 * SECOND), "running"),
        ("parked", Parked(since=NOW), "parked"),
    ],
)
@pytest.mark.parametrize("hop", [RUNNING, LAPSED])
def test_its_owner_closes_a_hop_that_nobody_else_took(
    hop: Hop, state: ClosedState, listing: object, workflow: WorkflowState
) -> None:
    """An output that was paid for is kept, even if the lease has expired meanwhile."""
    change = close(hop, state, owner="ann", fence=1, now=NOW, failure=FAILURE, delay=60 * SECOND)

    failure = FAILURE if state in ("waiting", "parked") else None
    closed = replace(hop, state=state, token=None, claimed_at=None, failure=failure)
    assert change == Change(hop=closed, listing=listing, leaves="ann", workflow=workflow)  # type: ignore[arg-type]


def test_a_completion_that_records_the_next_hop_does_not_end_the_workflow() -> None:
    """One transaction does both."""
    change = close(RUNNING, "done", owner="ann", fence=1, now=NOW, followed=True)

    assert isinstance(change, Change)
    assert change.workflow == "running"


@pytest.mark.parametrize("state", get_args(ClosedState))
def test_an_owner_that_was_overtaken_closes_nothing(state: ClosedState) -> None:
    """If a hop runs twice, only the later run counts."""
    assert close(RUNNING, state, owner="bob", fence=1, now=NOW) is False
    assert close(RUNNING, state, owner="ann", fence=0, now=NOW) is False
    assert release(RUNNING, owner="ann", fence=0, now=NOW) is False


@pytest.mark.parametrize("state", get_args(ClosedState))
def test_a_repeated_closing_is_told_whether_it_closed_the_hop_in_that_way(state: ClosedState) -> None:
    """The reply may have been lost. Any other end than the recorded one is refused."""
    closed = cast("Change", close(RUNNING, state, owner="ann", fence=1, now=NOW)).hop

    answers = {other: close(closed, other, owner="ann", fence=1, now=NOW) for other in get_args(ClosedState)}

    assert answers == {other: other == state for other in get_args(ClosedState)}
    assert release(closed, owner="ann", fence=1, now=NOW) is False


@pytest.mark.parametrize(("exhausted", "attempt"), [(False, 0), (True, 1)])
def test_a_released_hop_gets_its_attempt_back_and_is_sent_at_once(exhausted: bool, attempt: int) -> None:
    """A worker that stops costs its steps nothing. A claim that spent no attempt gives none back."""
    change = release(replace(RUNNING, exhausted=exhausted), owner="ann", fence=1, now=NOW)

    released = Hop(digest="d", fence=1, attempt=attempt, first=4)
    assert change == Change(hop=released, listing=Due(at=NOW), leaves="ann")
    assert goes_first(released)


@pytest.mark.parametrize("hop", [QUEUED, RUNNING, LAPSED, WAITING, PARKED])
def test_a_cancelled_hop_has_no_owner_and_is_listed_nowhere(hop: Hop) -> None:
    """The workflow ends wherever it stands."""
    change = cancel(hop)

    assert (change.hop.state, change.hop.owner, change.hop.token, change.hop.failure) == ("cancelled", None, None, None)
    assert (change.listing, change.leaves, change.workflow) == (None, hop.owner, "cancelled")


def test_a_redriven_hop_has_all_its_attempts_and_is_sent_at_once() -> None:
    """Its fence stays, so that no earlier owner can close it."""
    assert redrive(PARKED, now=NOW) == Change(hop=Hop(digest="d", fence=1, first=4), listing=Due(at=NOW))


def test_a_lapsed_hop_is_sent_again_and_stays_its_owners_until_it_is_claimed() -> None:
    """An owner that comes back in time goes on with its run."""
    change = lapse(RUNNING, "owner_gone", line=LINE, now=NOW, pace=PACE)

    assert change == Change(
        hop=replace(RUNNING, state="queued", sent=4),
        listing=Due(at=NOW + 5 * SECOND),
        leaves="ann",
        resent="owner_gone",
    )


def test_a_hop_that_waited_is_sent_whatever_waits_on_its_queue() -> None:
    """It has no message there, and no longer an owner."""
    change = sweep(WAITING, empty=False, line=LINE, now=NOW, pace=PACE)

    assert goes_first(WAITING)
    assert change == Change(
        hop=replace(WAITING, state="queued", owner=None, sent=4), listing=Due(at=NOW + 5 * SECOND), resent="retry"
    )


@pytest.mark.parametrize(
    ("sent", "empty", "resent"),
    [
        (4, None, None),
        (4, False, None),
        (4, True, "queue_empty"),
        (1, False, None),
        (0, False, "overtaken"),
        (0, None, "overtaken"),
    ],
)
def test_an_overdue_hop_is_sent_again_only_if_its_message_must_be_lost(
    sent: int, empty: bool | None, resent: str | None
) -> None:
    """A backlog is not multiplied: a message that waits behind others will come."""
    change = sweep(replace(QUEUED, sent=sent, waits=1), empty=empty, line=LINE, now=NOW, pace=PACE)

    assert (change is None) == (resent is None and empty is None)
    if change is not None:
        after = replace(QUEUED, sent=4 if resent else sent, waits=2)
        assert change == Change(hop=after, listing=Due(at=NOW + 20 * SECOND), resent=resent)  # type: ignore[arg-type]


def test_a_message_is_overtaken_when_a_later_one_was_surely_reached() -> None:
    """It is lost then, because a queue delivers the oldest message first."""
    reached = Line(sent=6, reached=5)

    found = [sweep(replace(QUEUED, sent=sent), empty=None, line=reached, now=NOW, pace=PACE) for sent in (4, 5)]

    assert [change and change.resent for change in found] == ["overtaken", None]


@pytest.mark.parametrize(("waits", "seconds"), [(0, 10), (1, 20), (3, 80), (10, 80), (10_000, 80)])
def test_each_wait_for_a_message_is_twice_as_long_up_to_the_longest(waits: int, seconds: int) -> None:
    """This holds however long a backlog lasts."""
    change = sweep(replace(QUEUED, waits=waits), empty=False, line=LINE, now=NOW, pace=PACE)

    assert change is not None
    assert change.listing == Due(at=NOW + seconds * SECOND)


def test_a_queue_counts_what_is_sent_and_what_a_claim_has_certainly_reached() -> None:
    """It is not known which message of a hop was claimed, so the first one counts."""
    assert move_on(Line(), QUEUED) == Line(sent=4)
    assert move_on(Line(sent=9, reached=2), replace(RUNNING, sent=7)) == Line(sent=9, reached=4)
    assert move_on(Line(sent=9, reached=6), RUNNING) == Line(sent=9, reached=6)


def test_there_is_one_pass_per_interval_whoever_asks() -> None:
    """Hundreds of workers cost the store no more than one."""
    swept = open_pass(Sweeping(), now=NOW, pace=PACE)

    assert may_pass(Sweeping(), now=NOW, pace=PACE)
    assert not may_pass(swept, now=NOW + 0.9 * SECOND, pace=PACE)
    assert may_pass(swept, now=NOW + SECOND, pace=PACE)


@pytest.mark.parametrize(("lease", "longest"), [(10, 5.0), (2, 2.5)])
def test_after_an_outage_owners_have_the_time_of_a_lease_to_come_back(lease: int, longest: float) -> None:
    """The store was away for all of them, so their hops are not taken over all at once."""
    pace = replace(PACE, lease=lease * SECOND)
    swept = open_pass(Sweeping(), now=NOW, pace=pace)
    in_time, too_late = NOW + longest * SECOND, NOW + (longest + 0.001) * SECOND

    assert not is_held(Sweeping(), now=NOW, pace=pace)
    assert not is_held(swept, now=in_time, pace=pace)
    assert is_held(swept, now=too_late, pace=pace)
    late = open_pass(swept, now=too_late, pace=pace)
    assert late == Sweeping(swept_at=too_late, held_until=too_late + lease * SECOND)
    assert is_held(late, now=too_late + 0.5 * SECOND, pace=pace)
    assert open_pass(late, now=too_late + SECOND, pace=pace).held_until == late.held_until
    assert not is_held(replace(late, swept_at=late.held_until), now=cast("datetime", late.held_until), pace=pace)


# Blocks and branches.

HELD = hold(digest="d").hop


def left_to_branches(*, over: bool = False) -> Change:
    change = suspend(
        RUNNING, owner="ann", fence=1, over=over, until=NOW + 60 * SECOND, wake_at=None, line=LINE, now=NOW, pace=PACE,
        on_branches=True,
    )  # fmt: skip
    return cast("Change", change)


def test_the_first_hop_of_a_branch_is_held_and_listed_nowhere() -> None:
    """No sweep sends it, and its message counts for no queue."""
    assert hold(digest="d") == Change(hop=Hop(digest="d", state="held"), listing=Held())
    assert move_on(LINE, HELD) == LINE
    assert not is_live(HELD)


def test_a_held_hop_cannot_be_claimed_renewed_or_closed() -> None:
    """Only its block makes it live; a message that somebody forged changes nothing."""
    assert claimed(HELD) == "held"
    assert renew(HELD, owner="ann", fence=0, now=NOW, pace=PACE) == "lost"
    assert [close(HELD, state, owner="ann", fence=0, now=NOW) for state in get_args(ClosedState)] == [False] * 4
    assert release(HELD, owner="ann", fence=0, now=NOW) is False
    assert wake(HELD, line=LINE, now=NOW, pace=PACE) is None
    assert cancel(HELD).hop.state == "cancelled"


def test_a_held_hop_is_made_live_once_and_then_is_as_any_new_hop() -> None:
    """Its message is sent now, and a repetition sends none."""
    change = open_held(HELD, line=LINE, now=NOW, pace=PACE)

    assert change == queue(digest="d", line=LINE, now=NOW, pace=PACE)
    for hop in (QUEUED, RUNNING, WAITING, PARKED, cancel(HELD).hop, replace(RUNNING, state="done")):
        assert open_held(hop, line=LINE, now=NOW, pace=PACE) is None


def test_a_block_that_waits_for_its_branches_goes_on_only_if_they_do() -> None:
    """A workflow is parked when nothing of it goes on by itself, and a wait for somebody's answer goes on."""
    asleep = left_to_branches()
    waits = replace(asleep.hop, on_branches=False)

    assert (asleep.hop.state, asleep.hop.owner, asleep.hop.attempt) == ("suspended", None, 0)
    assert asleep.listing == Asleep(until=NOW + 60 * SECOND)
    assert [is_live(hop) for hop in (asleep.hop, waits)] == [False, True]
    assert [is_live(hop) for hop in (QUEUED, RUNNING, WAITING, PARKED)] == [True, True, True, False]


def test_a_block_whose_join_was_faster_is_queued_instead_of_suspended() -> None:
    """The mark is set once, and nobody would wake it later."""
    change = left_to_branches(over=True)
    woken = wake(left_to_branches().hop, line=LINE, now=NOW, pace=PACE)

    assert (change.hop.state, change.hop.sent, change.listing) == ("queued", 4, Due(at=NOW + 5 * SECOND))
    assert is_live(change.hop)
    assert woken is not None
    assert (woken.hop.state, woken.hop.owner, is_live(woken.hop)) == ("queued", None, True)


def test_a_hop_is_cut_off_by_whatever_has_ended_above_it() -> None:
    """The end of a block, or of the workflow, takes the right to write from all hops below it at once."""
    open_: list[HopState] = [state for state in get_args(HopState) if state not in ENDED]

    assert not is_cut_off(open_, "running")
    assert not is_cut_off(open_, "parked")
    assert not is_cut_off([], "running")
    for state in ENDED:
        for place in (0, 1, len(open_)):
            assert is_cut_off([*open_[:place], state, *open_[place:]], "running")
    workflow: WorkflowState
    for workflow in ("completed", "failed", "cancelled"):
        assert is_cut_off(open_, workflow)
        assert is_cut_off([], workflow)
