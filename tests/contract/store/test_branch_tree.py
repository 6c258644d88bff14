"""Trees of branches: blocks within branches, the state of the whole, and what the end of a hop means below it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from paigeant_celery.core.flow import Failure
from paigeant_celery.core.waits import WHOLE, Answered
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import (
    Claimed,
    Closed,
    Closing,
    Dropped,
    OpenHops,
    RenewAnswer,
    Resolution,
    Standing,
    Suspended,
)
from tests.contract.store.bench import Bench, MemoryBench
from tests.contract.store.blocks import (
    asks,
    at,
    begun,
    clean,
    complete,
    counts,
    ends,
    fail,
    ids,
    nested_block,
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
    wait_in,
    waiting_block,
    workflow_state,
    write,
)
from tests.contract.store.given import FAILURE, claim, completion, hop, letter, types

INNER = at(0)  # a hop of a branch that is a block itself
DAY = 24 * 3600.0

# Blocks within branches.


def test_the_join_of_a_block_in_a_branch_wakes_that_block_alone(bench: Bench) -> None:
    """Which then ends its branch as any hop does, and with it the block above."""
    waiting_block(bench, 2)
    nested_block(bench.store, INNER, 2)
    assert bench.store.open_hops() == OpenHops(due=3, running=0, parked=0, asleep=2)

    assert succeed(bench.store, at(0, of=INNER)) == []
    assert succeed(bench.store, at(1, of=INNER)) == [INNER]

    assert (counts(bench.store)[-1], counts(bench.store, INNER)[-1]) == (None, "met")
    assert ends(bench.store) == {}
    assert [order for _, order, _ in ends(bench.store, INNER).values()] == [1, 2]
    assert succeed(bench.store, INNER) == []
    assert succeed(bench.store, at(1)) == ["w.0"]
    assert ends(bench.store) == {0: ("succeeded", 1, f"end of {INNER}"), 1: ("succeeded", 2, f"end of {at(1)}")}
    record = bench.store.workflow("w")
    assert record is not None
    assert (record.hop_id, record.suspended) == ("w.0", False)


def test_windows_and_counts_are_of_one_block(bench: Bench) -> None:
    """A branch that ends or parks within another one opens nothing outside of it."""
    waiting_block(bench, 3, window=1, collects=True)
    nested_block(bench.store, INNER, 3, window=1, collects=True)

    assert park(bench.store, at(0, of=INNER)) == [at(1, of=INNER)]
    assert fail(bench.store, at(1, of=INNER)) == [at(2, of=INNER)]

    assert states(bench.store) == ["suspended", "held", "held"]
    assert counts(bench.store) == (1, 1, 0, 0, None)
    assert counts(bench.store, INNER) == (3, 1, 0, 1, None)
    assert succeed(bench.store, at(2, of=INNER)) == []
    assert bench.store.redrive("w", place="0-0.0-0.0") == "redriven"
    assert succeed(bench.store, at(0, of=INNER)) == [INNER]
    assert fail(bench.store, INNER) == [at(1)]
    assert counts(bench.store) == (2, 1, 0, 1, None)


def test_a_block_may_be_any_step_of_a_branch(bench: Bench) -> None:
    """And a branch may have several of them, one after the other."""
    waiting_block(bench, 1)
    close = run(bench.store, at(0))
    assert bench.store.complete(completion(close, next_hop=hop(at(0, 1)))) == Closed()
    second = nested_block(bench.store, at(0, 1), 1)
    assert succeed(bench.store, at(0, of=at(0, 1))) == [at(0, 1)]
    again = run(bench.store, second.hop_id)

    assert bench.store.complete(completion(again, next_hop=hop(at(0, 2)))) == Closed()

    nested_block(bench.store, at(0, 2), 1)
    assert succeed(bench.store, at(0, of=at(0, 2))) == [at(0, 2)]
    assert succeed(bench.store, at(0, 2)) == ["w.0"]
    assert [each.hop.hop_id for each in read(bench.store)] == [at(0, 2)]


def test_blocks_stand_eight_deep(bench: Bench) -> None:
    """The end of the innermost branch goes up one block at a time."""
    waiting_block(bench, 1)
    hop_id = at(0)
    for _ in range(7):
        nested_block(bench.store, hop_id, 1)
        hop_id = at(0, of=hop_id)
    assert bench.store.open_hops() == OpenHops(due=1, running=0, parked=0, asleep=8)

    above = [hop_id[: -4 * depth] for depth in range(1, 9)]
    for block in above:
        assert succeed(bench.store, hop_id) == [block]
        hop_id = block

    assert hop_id == "w.0"
    assert complete(bench.store, run(bench.store, hop_id)) == Closed()
    assert workflow_state(bench.store) == "completed"


# The state of the whole.


@pytest.mark.parametrize("one", ["waits for its retry", "waits for an answer", "is queued", "runs"])
def test_a_workflow_is_parked_only_if_nothing_of_it_goes_on_by_itself(bench: Bench, one: str) -> None:
    """Otherwise a person would look at each branch that its siblings leave behind."""
    waiting_block(bench, 2)
    if one == "waits for its retry":
        bench.store.retry_at(run(bench.store, at(1)), FAILURE, delay=0)
    elif one == "waits for an answer":
        wait_in(bench.store, at(1), asks(at(1)))
    elif one == "runs":
        close = run(bench.store, at(1))
    assert workflow_state(bench.store) == "running"

    park(bench.store, at(0))
    assert workflow_state(bench.store) == "running"

    if one == "waits for its retry":
        assert ids(swept(bench).overdue) == [at(1)]
    elif one == "waits for an answer":
        assert bench.store.resolve(asks(at(1)).token, {WHOLE: "1"}, by="ann", call="c").hop == hop(at(1))
    if one == "runs":
        assert bench.store.park(close, FAILURE) == Closed()
    else:
        park(bench.store, at(1))
    assert workflow_state(bench.store) == "parked"
    record = bench.store.workflow("w")
    assert record is not None
    assert (record.suspended, record.failure) == (True, FAILURE)
    assert bench.store.open_hops() == OpenHops(due=0, running=0, parked=2, asleep=1)


def failure(bench: Bench) -> Failure | None:
    record = bench.store.workflow("w")
    assert record is not None
    return record.failure


def test_the_failure_of_a_parked_branch_is_not_that_of_a_workflow_that_completes_without_it(bench: Bench) -> None:
    """A quorum is met although a judge is parked: whoever asks for the result gets it, and no error."""
    waiting_block(bench, 2, join=1)
    park(bench.store, at(0))
    assert failure(bench) is None  # its sibling goes on
    succeed(bench.store, at(1))

    assert complete(bench.store, run(bench.store, "w.0")) == Closed()

    assert (workflow_state(bench.store), failure(bench)) == ("completed", None)


def test_a_block_that_is_parked_tells_its_own_failure(bench: Bench) -> None:
    """Whatever becomes of the branches that go on beside it."""
    block = begun(bench)
    open_all(bench.store, block, 2)
    own = Failure(step_id="readings", error_class="output_too_large", text="too much")
    assert bench.store.park(block, own) == Closed()

    park(bench.store, at(0), at(1))
    assert (workflow_state(bench.store), failure(bench)) == ("parked", own)
    assert bench.store.redrive("w", place="0-0.0") == "redriven"
    succeed(bench.store, at(0))

    assert (workflow_state(bench.store), failure(bench)) == ("parked", own)


def test_a_workflow_goes_on_with_the_first_of_its_branches_that_is_redriven(bench: Bench) -> None:
    """And ends as if nothing had been parked."""
    waiting_block(bench, 2)
    park(bench.store, at(0), at(1))
    assert workflow_state(bench.store) == "parked"

    assert bench.store.redrive("w", place="0-1.0") == "redriven"

    assert workflow_state(bench.store) == "running"
    assert succeed(bench.store, at(1)) == []
    assert workflow_state(bench.store) == "parked"
    assert bench.store.redrive("w", place="0-0.0") == "redriven"
    assert succeed(bench.store, at(0)) == ["w.0"]
    assert workflow_state(bench.store) == "running"
    assert complete(bench.store, run(bench.store, "w.0")) == Closed()
    assert workflow_state(bench.store) == "completed"


def test_the_end_of_the_last_live_branch_parks_a_workflow_whose_others_are_parked(bench: Bench) -> None:
    """The join can still be met, but only a person can bring it about."""
    waiting_block(bench, 3, join=2)
    park(bench.store, at(0), at(1))
    assert workflow_state(bench.store) == "running"

    assert succeed(bench.store, at(2)) == []

    assert workflow_state(bench.store) == "parked"


def test_a_tree_is_parked_when_all_that_is_left_of_it_is(bench: Bench) -> None:
    """However deep it stands; a block that waits for parked branches does not go on by itself."""
    waiting_block(bench, 3)
    nested_block(bench.store, INNER, 2)
    park(bench.store, at(1), at(0, of=INNER))
    succeed(bench.store, at(2))
    assert workflow_state(bench.store) == "running"

    park(bench.store, at(1, of=INNER))

    assert workflow_state(bench.store) == "parked"
    assert bench.store.redrive("w", place="0-0.0-1.0") == "redriven"
    assert workflow_state(bench.store) == "running"
    succeed(bench.store, at(1, of=INNER))
    assert workflow_state(bench.store) == "parked"
    assert bench.store.redrive("w", place="0-0.0-0.0") == "redriven"
    assert succeed(bench.store, at(0, of=INNER)) == [INNER]
    assert workflow_state(bench.store) == "running"
    assert park(bench.store, INNER) == []
    assert workflow_state(bench.store) == "parked"
    assert bench.store.redrive("w", place="0-0.0") == "redriven"
    succeed(bench.store, INNER)
    assert workflow_state(bench.store) == "parked"  # the other branch of the outer block


def test_a_block_that_waits_for_more_than_branches_goes_on_by_itself(bench: Bench) -> None:
    """Only one that waits for nothing but branches that are parked needs a person."""
    block = begun(bench)
    open_all(bench.store, block, 1)
    assert bench.store.suspend(block, Standing()) == Suspended()

    park(bench.store, at(0))

    assert workflow_state(bench.store) == "running"


def test_a_parked_block_in_a_branch_gives_its_place_to_the_next_branch(bench: Bench) -> None:
    """Its own branches go on, and the workflow with them."""
    waiting_block(bench, 2, window=1)
    inner = run(bench.store, INNER)
    open_all(bench.store, inner, 1)

    assert sent_by(bench.store.park(inner, FAILURE)) == [at(1)]

    assert park(bench.store, at(1)) == []
    assert workflow_state(bench.store) == "running"
    assert succeed(bench.store, at(0, of=INNER)) == []
    assert workflow_state(bench.store) == "parked"
    assert counts(bench.store, INNER)[-1] == "met"


# The end of a hop means the end of all below it.


@dataclass(frozen=True)
class Below:
    """A block with branches in each state, and what becomes of them: number 0 runs, 1 is parked, and so on."""

    bench: Bench
    of: str
    outer: Closing
    block: Closing
    running: Closing

    def at(self, number: int) -> str:
        return at(number, of=self.of)

    def place(self, number: int) -> str:
        return self.at(number).partition(".")[2]


def below(bench: Bench, of: str) -> Below:
    """Open a block whose branches are, in order: running, parked, asleep, queued, in retry, a block itself, held."""
    outer = begun(bench)
    if of == "w.0":
        block = outer
    else:
        open_all(bench.store, outer, 2)
        block = run(bench.store, of)
    opened = open_all(bench.store, block, 8, window=6)
    assert opened == [at(number, of=of) for number in range(6)]
    running = run(bench.store, at(0, of=of), owner="bob")
    parked = run(bench.store, at(1, of=of))
    bench.store.wait(parked, asks(parked.hop_id, "parked"))
    assert sent_by(bench.store.park(parked, FAILURE, letter())) == [at(6, of=of)]
    wait_in(bench.store, at(2, of=of), asks(at(2, of=of)), asks(at(2, of=of), "paid", kind="signal"))
    bench.store.retry_at(run(bench.store, at(4, of=of)), FAILURE, delay=1)
    nested_block(bench.store, at(5, of=of), 3, window=1)
    wait_in(bench.store, at(0, of=at(5, of=of)), asks(at(0, of=at(5, of=of))))
    return Below(bench, of, outer, block, running)


Above = tuple[str, str]

OF_THE_WORKFLOW: Mapping[str, Callable[[Below], object]] = {
    "cancel": lambda tree: tree.bench.store.cancel("w"),
    "complete": lambda tree: tree.bench.store.complete(completion(tree.outer)),
    "fail": lambda tree: tree.bench.store.fail(tree.outer, FAILURE),
}
OF_A_HOP: Mapping[str, Callable[[Below], object]] = {
    "go on": lambda tree: tree.bench.store.complete(completion(tree.outer, next_hop=hop("w.1")))
}
OF_A_BRANCH: Mapping[str, Callable[[Below], object]] = {
    "branch completes": lambda tree: tree.bench.store.complete(completion(tree.block, end="{}")),
    "branch fails": lambda tree: tree.bench.store.fail(tree.block, FAILURE, end="{}"),
    "branch goes on": lambda tree: tree.bench.store.complete(completion(tree.block, next_hop=hop(at(0, 1)), end="{}")),
}
ENDS = {**OF_THE_WORKFLOW, **OF_A_HOP, **OF_A_BRANCH}
CASES = [("w.0", how) for how in (*OF_THE_WORKFLOW, *OF_A_HOP)] + [(INNER, how) for how in ENDS]


AT_ONCE = pytest.mark.parametrize("at_once", [100, 1], ids=["cleaned at once", "cleaned by sweeps"])


@AT_ONCE
@pytest.mark.parametrize(("of", "how"), CASES)
def test_nothing_below_a_hop_that_has_ended_may_write(bench: Bench, of: str, how: str, at_once: int) -> None:
    """At once, whichever worker has it, and however far the cleaning has come: no loser writes into what won."""
    bench.limit(replace(LIMITS, most_at_once=at_once))
    check_what_is_cut_off(bench, of, how)


def check_what_is_cut_off(bench: Bench, of: str, how: str) -> None:
    tree = below(bench, of)
    store, close = bench.store, tree.running
    parked, asleep, queued, retried, block, held = (tree.at(number) for number in (1, 2, 3, 4, 5, 7))
    deepest = at(0, of=block)
    ENDS[how](tree)
    before = everything_read(tree)
    assert {each.hop.state for above in (of, block) for each in read(store, above)} == {"cancelled"}

    for hop_id in (parked, asleep, queued, retried, block, held, deepest, at(1, of=block)):
        assert store.claim(claim(hop_id, token="more", owner="cid")) == Dropped(reason="cancelled"), hop_id
    assert store.claim(claim(close.hop_id, owner="bob", token="other")) == Dropped(reason="cancelled")
    answer = store.renew("bob", {close.hop_id: close.fence})
    assert answer == RenewAnswer(lost=frozenset({close.hop_id}), cancelled=frozenset({close.hop_id}))
    assert not store.record(close, {"call": "late"})
    assert not store.publish(close, [{"event": "late"}])
    assert store.wait(close, asks(close.hop_id)) is None
    assert store.suspend(close, Standing()) is None
    assert store.hold(close, page(0, 1, of=close.hop_id, blobs={"item": "late"})) is None
    assert store.open_block(close, plan(0)) is None
    assert store.complete(completion(close, blobs={"out": "late"}, end="late")) is None
    assert store.complete(completion(close, next_hop=hop(f"{close.hop_id[:-1]}1"))) is None
    assert store.fail(close, FAILURE, end="late") is None
    assert store.park(close, FAILURE, replace(letter(), letter_id="late")) is None
    assert not store.retry_at(close, FAILURE, delay=1)
    assert not store.give_back(close, FAILURE)
    assert not store.release(close)
    for number in range(8):
        assert store.redrive("w", place=tree.place(number)) == "not_parked"
    for hop_id in (asleep, deepest):
        told = store.resolve(asks(hop_id).token, {WHOLE: "1"}, by="ann", call="c")
        assert (told.outcome, told.hop) == ("late", None)
        assert store.time_out(asks(hop_id).token) is not None
    ended: Answered | str = "ended" if how in OF_THE_WORKFLOW else "unknown"
    told = store.signal("w", "paid", "1", by="ann", call="c", below=tree.place(2).rpartition(".")[0])
    assert (told.outcome, told.hop) == (ended, None)

    assert everything_read(tree) == before


def everything_read(tree: Below) -> object:
    store = tree.bench.store
    return (
        store.workflow("w"), types(store), store.open_hops(), store.dead_letters(after=None, limit=9),
        [read(store, above) for above in ("w.0", tree.of, tree.at(5))], store.block(tree.of), store.block("w.0"),
        store.journal(tree.running.hop_id), store.blobs("w", ["item", "out"]), store.waits(tree.running.hop_id),
        store.asked(after=None, limit=99),
    )  # fmt: skip


@AT_ONCE
@pytest.mark.parametrize(("of", "how"), CASES)
def test_nothing_is_left_of_what_stood_below_a_hop_that_has_ended(
    bench: Bench, of: str, how: str, at_once: int
) -> None:
    """Nobody is asked, no person is called, and no sweep ever sends any of it."""
    bench.limit(replace(LIMITS, most_at_once=at_once))
    tree = below(bench, of)
    ENDS[how](tree)

    sent = clean(bench)
    bench.pass_time(1800)
    sent += clean(bench)

    assert [each for each in sent if each.startswith(f"{of}-")] == []
    assert bench.store.asked(after=None, limit=99) == []
    assert bench.store.dead_letters(after=None, limit=9) == []
    assert {each.hop.state for each in read(bench.store, of)} == {"cancelled"}
    assert {each.hop.state for each in read(bench.store, tree.at(5))} == {"cancelled"}
    assert [each.hop.envelope for each in read(bench.store, of)] == [""] * 8
    running = {"go on": 0, "branch completes": 1, "branch fails": 1, "branch goes on": 1}.get(how, 0)
    left = bench.store.open_hops()
    assert (left.running, left.parked, left.asleep) == (running, 0, 0)
    assert bench.store.renew("bob", {}) == RenewAnswer(lost=frozenset())


@pytest.mark.parametrize("how", OF_A_BRANCH)
def test_the_end_of_a_block_in_a_branch_leaves_the_rest_of_the_tree(bench: Bench, how: str) -> None:
    """Its siblings go on, and so does what follows it in its branch."""
    tree = below(bench, INNER)

    ENDS[how](tree)

    assert state(bench.store, at(1)) == "queued"
    assert workflow_state(bench.store) == "running"
    if how == "branch goes on":
        assert succeed(bench.store, at(0, 1)) == []
    if how != "branch fails":
        succeed(bench.store, at(1))
    assert counts(bench.store)[-1] == ("missed" if how == "branch fails" else "met")


def test_the_branches_that_lose_a_race_are_cut_off_when_the_block_closes(bench: Bench) -> None:
    """Not before: until then their ends are written down, and their runs go on."""
    waiting_block(bench, 2, join=1)
    loser = run(bench.store, at(1), owner="bob")
    assert succeed(bench.store, at(0)) == ["w.0"]
    assert bench.store.renew("bob", {at(1): loser.fence}) == RenewAnswer(lost=frozenset())
    assert bench.store.record(loser, {"call": "1"})
    block = run(bench.store, "w.0")

    assert bench.store.complete(completion(block, next_hop=hop("w.1"))) == Closed()

    assert bench.store.renew("bob", {at(1): loser.fence}).cancelled == {at(1)}
    assert not bench.store.record(loser, {"call": "2"})
    assert complete(bench.store, loser) is None
    assert bench.store.journal(at(1)) == {"call": "1"}
    assert ends(bench.store) == {0: ("succeeded", 1, f"end of {at(0)}")}
    assert state(bench.store, "w.1") == "queued"
    assert workflow_state(bench.store) == "running"


def test_a_letter_of_a_parked_branch_goes_when_it_is_redriven(bench: Bench) -> None:
    """As that of any hop, and no other one."""
    waiting_block(bench, 2)
    for number in (0, 1):
        bench.store.park(run(bench.store, at(number)), FAILURE, replace(letter(), letter_id=f"l{number}"))

    assert bench.store.redrive("w", place="0-0.0") == "redriven"

    assert [each.letter_id for each in bench.store.dead_letters(after=None, limit=9)] == ["l1"]


# Sweeps.


def test_an_open_branch_whose_message_was_lost_is_sent_again(bench: Bench) -> None:
    """Whoever opened it may have died before it could send it; held ones are left alone."""
    waiting_block(bench, 3, window=2)
    for number in (0, 1):
        bench.overdue(at(number))

    found = bench.store.sweep(host="there", queues={f"q-{at(number)}": True for number in range(3)})

    assert sorted(ids(found.overdue)) == [at(0), at(1)]
    assert states(bench.store) == ["queued", "queued", "held"]


def test_the_branches_of_an_owner_that_is_gone_are_sent_again(bench: Bench) -> None:
    """Each by itself; the window does not change, and the block sleeps on."""
    waiting_block(bench, 4, window=3)
    for number in range(2):
        run(bench.store, at(number), owner="bob")

    found = bench.store.sweep(host="there", dead=["bob"])

    assert sorted(ids(found.overdue)) == [at(0), at(1)]
    assert counts(bench.store) == (3, 3, 0, 0, None)
    assert (state(bench.store, "w.0"), states(bench.store)) == ("suspended", ["queued", "queued", "queued", "held"])


def test_a_reading_of_branches_says_who_runs_them_and_whose_lease_is_over(bench: Bench) -> None:
    """A dead worker does not look like one that runs a branch, also while nobody is there to take it over."""
    waiting_block(bench, 4, window=3)
    claimed = bench.store.claim(claim(at(0), owner="alive"))
    bench.brief.claim(claim(at(1), owner="dead"))
    assert isinstance(claimed, Claimed)
    before = [each.hop for each in read(bench.store)]

    bench.lapse()
    bench.store.renew("alive", {at(0): claimed.fence})

    hops = [each.hop for each in read(bench.store)]
    assert [hop.owner for hop in before] == [hop.owner for hop in hops] == ["alive", "dead", None, None]
    assert (hops[0].running_since, hops[0].lapsed_at) == (claimed.now, None)
    lapsed_at, since = hops[1].lapsed_at, hops[1].running_since
    assert lapsed_at is not None
    assert since is not None
    assert since < lapsed_at <= bench.store.serving().now
    assert before == [hops[0], replace(hops[1], lapsed_at=None), *hops[2:]]
    assert bench.store.hop(at(1)) == hops[1]
    bench.lapse_swept()
    bench.store.sweep(host="there")
    again = bench.store.hop(at(1))
    assert again is not None
    assert (again.state, again.owner, again.running_since, again.lapsed_at) == ("queued", None, None, None)


def test_a_branch_that_was_cut_off_is_run_by_nobody(bench: Bench) -> None:
    """Its worker may still be busy with it, and writes nothing any more."""
    waiting_block(bench, 2, window=2)
    run(bench.store, at(0), owner="ann")

    bench.store.cancel("w")

    assert [(each.hop.state, each.hop.owner, each.hop.running_since) for each in read(bench.store)] == [
        ("cancelled", None, None)
    ] * 2


def test_a_block_whose_time_is_over_is_woken(bench: Bench) -> None:
    """It fails itself then; until it has closed, its branches go on."""
    block = begun(bench)
    write(bench.store, block, 1)
    opened = bench.store.open_block(block, plan(1, timeout=3600))
    assert opened is not None
    assert opened.block.until is not None
    assert bench.store.suspend(block, Standing(branches=True, wake_at=opened.block.until)) == Suspended()
    found = bench.store.hop("w.0")
    assert found is not None
    assert (found.on_branches, found.wake_at) == (True, opened.block.until)
    bench.pass_time(3500)
    assert ids(swept(bench).overdue) == []
    bench.pass_time(101)

    woken = swept(bench)

    assert (ids(woken.overdue), woken.woken) == (["w.0"], frozenset({"w.0"}))
    assert counts(bench.store)[-1] is None
    assert state(bench.store, at(0)) == "queued"
    assert bench.store.fail(run(bench.store, "w.0"), FAILURE) == Closed()
    assert bench.store.claim(claim(at(0))) == Dropped(reason="cancelled")


def test_a_block_past_the_deadline_of_its_workflow_is_woken_to_be_ended(bench: Bench) -> None:
    """Whoever sweeps claims and closes it, and so ends all its branches."""
    waiting_block(bench, 2, more={"deadline": now(bench) + timedelta(seconds=0.2)})
    wait_in(bench.store, at(0), asks(at(0)))
    bench.spend(1.0)
    if isinstance(bench, MemoryBench):
        bench.pass_time(1)

    found = swept(bench)

    assert "w.0" in ids(found.overdue)
    assert ids(found.late) == ["w.0"]
    assert bench.store.fail(run(bench.store, "w.0"), FAILURE) == Closed()
    assert workflow_state(bench.store) == "failed"
    assert clean(bench) == []
    assert bench.store.open_hops() == OpenHops(due=0, running=0, parked=0)


def test_a_block_that_sleeps_for_long_is_looked_at_every_day(bench: Bench) -> None:
    """And sleeps on, whatever its branches do."""
    waiting_block(bench, 1)
    run(bench.store, at(0))
    for _ in range(2):
        bench.pass_time(DAY + 1)
        assert "w.0" not in ids(swept(bench).overdue)
        assert state(bench.store, "w.0") == "suspended"


def test_all_queued_branches_are_sent_again_to_a_new_broker(bench: Bench) -> None:
    """The old one has their messages; those that are held were never sent."""
    waiting_block(bench, 3, window=2)

    bench.store.send_all_again()

    assert sorted(clean(bench)) == [at(0), at(1)]


# Waits and signals in branches.


def sends(bench: Bench, *, call: str = "c1", below: str | None = None, text: str = "1") -> Resolution:
    return bench.store.signal("w", "paid", text, by="bob", call=call, below=below)


def test_a_signal_reaches_the_oldest_wait_of_any_branch(bench: Bench) -> None:
    """Whichever branch it stands in; one that comes early is kept for whoever asks first."""
    waiting_block(bench, 4)
    nested_block(bench.store, at(2), 2)
    assert sends(bench, call="early", text="0").outcome == "kept"
    taker = run(bench.store, at(3))
    early = bench.store.wait(taker, asks(at(3), "paid", kind="signal"))
    assert early is not None
    assert early.state == "settled"
    order = [at(1), at(1, of=at(2)), at(0)]
    for hop_id in order:
        wait_in(bench.store, hop_id, asks(hop_id, "paid", kind="signal"))
        bench.pass_time(1)  # no two at the same time

    found = [sends(bench, call=f"c{number}") for number in range(4)]

    assert [each.outcome for each in found] == ["settled"] * 3 + ["kept"]
    assert [each.hop for each in found] == [*map(hop, order), None]
    assert sends(bench, call="c0") == Resolution(outcome="repeated")


def test_a_signal_for_a_branch_looks_only_there(bench: Bench) -> None:
    """In it and in the blocks in it; none is kept for a branch."""
    waiting_block(bench, 12)
    nested_block(bench.store, at(1), 2)
    deep = at(0, of=at(1))
    for hop_id in (at(11), deep, at(0)):
        wait_in(bench.store, hop_id, asks(hop_id, "paid", kind="signal"))

    assert sends(bench, call="a", below="0-1") == Resolution(
        outcome="settled", wait=bench.store.waits(deep)[0], hop=hop(deep)
    )
    for place in ("0-1", "0-1.0-0", "0-2", "0-99", "1-0"):
        assert sends(bench, call=f"b{place}", below=place) == Resolution(outcome="unknown")
    assert sends(bench, call="c", below="0-11").hop == hop(at(11))
    assert sends(bench, call="d", below="0-0").hop == hop(at(0))
    assert "signalled" not in types(bench.store)


def test_a_signal_passes_by_the_waits_of_branches_that_are_cut_off(bench: Bench) -> None:
    """And is kept for one to come."""
    waiting_block(bench, 2, join=1)
    wait_in(bench.store, at(1), asks(at(1), "paid", kind="signal"))
    succeed(bench.store, at(0))
    assert bench.store.complete(completion(run(bench.store, "w.0"), next_hop=hop("w.1"))) == Closed()

    assert sends(bench) == Resolution(outcome="kept")

    wait = bench.store.wait(run(bench.store, "w.1"), asks("w.1", "paid", kind="signal"))
    assert wait is not None
    assert wait.state == "settled"


def test_open_waits_of_branches_are_asked_about_like_any_other(bench: Bench) -> None:
    """An answer wakes the branch and not its block."""
    waiting_block(bench, 2)
    for number in (0, 1):
        wait_in(bench.store, at(number), asks(at(number)))

    asked = bench.store.asked(after=None, limit=9)
    assert sorted((each.hop_id, each.wait.name) for each in asked) == [(at(0), "manager"), (at(1), "manager")]
    assert bench.store.resolve(asks(at(1)).token, {WHOLE: "1"}, by="ann", call="c").hop == hop(at(1))

    assert states(bench.store) == ["suspended", "queued"]
    assert state(bench.store, "w.0") == "suspended"
    again = bench.store.claim(claim(at(1), token="again"))
    assert isinstance(again, Claimed)
    assert [wait.state for wait in again.waits] == ["settled"]
    found = bench.store.hop(at(0))
    assert found is not None
    assert ([wait.name for wait in found.waits], found.on_branches) == (["manager"], False)


def test_a_branch_that_waits_keeps_its_place_in_the_window(bench: Bench) -> None:
    """Otherwise a thousand people would be asked at once."""
    waiting_block(bench, 3, window=1)

    wait_in(bench.store, at(0), asks(at(0)))

    assert states(bench.store) == ["suspended", "held", "held"]
    assert bench.store.open_hops() == OpenHops(due=0, running=0, parked=0, asleep=2)


# The end.


def test_the_records_of_branches_are_gone_with_their_workflow(bench: Bench) -> None:
    """Whether they ended by themselves or not."""
    block = begun(bench)
    bench.store.hold(block, page(0, 1, blobs={"item": "1"}))
    write(bench.store, block, 1)
    bench.store.hold(block, page(1, 2))
    bench.store.open_block(block, plan(3, window=2, join=1))
    bench.store.suspend(block, Standing(branches=True))
    wait_in(bench.store, at(1), asks(at(1)))
    succeed(bench.store, at(0))
    again = run(bench.store, "w.0")
    assert bench.short_lived.complete(completion(again)) == Closed()

    bench.expire()

    assert bench.store.workflow("w") is None
    assert [bench.store.hop(hop_id) for hop_id in ("w.0", at(0), at(1), at(2))] == [None] * 4
    assert bench.store.block("w.0") is None
    assert read(bench.store) == []
    assert bench.store.blob("w", "item") is None
    assert bench.store.claim(claim(at(2))) == Dropped(reason="unknown")


MANY = 250


def many(bench: Bench, *, queue: str = "shared") -> Closing:
    """Open a block of 250 branches in pages, with some in each state."""
    block, store = begun(bench), bench.raw  # which is not looked into after each call
    open_all(store, block, MANY, window=100, queue=queue)
    for number in range(100):
        hop_id = at(number)
        if number < 30:
            run(store, hop_id, owner=f"owner-{number % 3}")
        elif number < 50:
            store.park(run(store, hop_id), FAILURE, replace(letter(), letter_id=f"l{number}"))
        elif number < 70:
            wait_in(store, hop_id, asks(hop_id))
        elif number < 75:
            store.retry_at(run(store, hop_id), FAILURE, delay=0)
    return block


@pytest.mark.parametrize("how", ["cancel", "complete", "go on"])
def test_the_end_of_many_branches_is_one_mark_and_cleaned_page_by_page(bench: Bench, how: str) -> None:
    """From the mark on none may write. After some sweeps nothing is left of them in any index."""
    block = many(bench)
    loser = closing_of(bench, at(1))
    if how == "cancel":
        assert bench.store.cancel("w") == "cancelled"
    else:
        assert bench.store.complete(completion(block, next_hop=hop("w.1") if how == "go on" else None)) == Closed()

    assert not bench.store.record(loser, {"call": "1"})
    for number in (2, 49, 69, 74, 99, 119, 249):
        assert bench.store.claim(claim(at(number), owner="cid")) == Dropped(reason="cancelled")
    assert bench.store.resolve(asks(at(69)).token, {WHOLE: "1"}, by="ann", call="c").outcome == "late"
    assert bench.store.redrive("w", place="0-49.0") == "not_parked"
    assert clean(bench) == []

    assert bench.store.open_hops() == OpenHops(due=int(how == "go on"), running=0, parked=0)
    assert bench.store.dead_letters(after=None, limit=99) == []
    assert bench.store.asked(after=None, limit=99) == []
    assert {each.hop.state for each in read(bench.store)} == {"cancelled"}
    owners, left = bench.places()[2:]
    assert (owners, left) == (set(), set())


def closing_of(bench: Bench, hop_id: str) -> Closing:
    """Return the closing of the owner that runs a hop."""
    for owner in ("owner-0", "owner-1", "owner-2"):
        fences = bench.store.renew(owner, {}).stray
        if hop_id in fences:
            return Closing(hop_id=hop_id, owner=owner, fence=fences[hop_id])
    raise AssertionError(f"nobody runs {hop_id}")


def test_a_block_whose_branches_are_all_parked_is_ended_when_the_deadline_passes(bench: Bench) -> None:
    """It sleeps, and is woken as any hop that sleeps; the pass that wakes it has it ended at once."""
    waiting_block(bench, 1, more={"deadline": now(bench) + timedelta(seconds=0.2)})
    park(bench.store, at(0))
    assert workflow_state(bench.store) == "parked"
    bench.spend(1.0)
    if isinstance(bench, MemoryBench):
        bench.pass_time(1)

    found = swept(bench)

    assert (ids(found.overdue), ids(found.late)) == (["w.0"], ["w.0"])
    assert workflow_state(bench.store) == "running"
