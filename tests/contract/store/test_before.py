"""What a claim is told of those before it: their spans, when the last one was made, and whether its owner was lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from paigeant_celery.core.hops import EPOCH
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Claim, Claimed, Closing, EarlierClaims, Standing, Store
from tests.contract.store.bench import Bench
from tests.contract.store.given import FAILURE, claim, closing, new


def traced(number: int, *, trace: str | None = None) -> Claim:
    """The claim of an attempt that has a span."""
    return replace(claim(token=f"t{number}"), trace=f"span-{number}" if trace is None else trace)


def claimed(bench: Bench, wanted: Claim, *, brief: bool = False) -> Claimed:
    answer = (bench.brief if brief else bench.store).claim(wanted)
    assert isinstance(answer, Claimed)
    return answer


def test_a_first_claim_is_told_that_nothing_was_before(bench: Bench) -> None:
    """Its span is linked to none."""
    bench.store.start(new())

    assert claimed(bench, traced(1)).before == EarlierClaims()


def test_a_claim_is_told_the_spans_of_earlier_attempts_and_when_the_last_began(bench: Bench) -> None:
    """Whoever looks at a late attempt finds the early ones."""
    bench.store.start(new())
    first = claimed(bench, traced(1))
    bench.store.release(closing(first))
    second = claimed(bench, traced(2, trace=""))  # by a process that makes no spans
    bench.store.release(closing(second))

    third = claimed(bench, traced(3))

    assert second.before == EarlierClaims(claimed_at=first.now, traces=("span-1",))
    assert third.before == EarlierClaims(claimed_at=second.now, traces=("span-1",))


def test_a_repeated_claim_gets_the_same_answer(bench: Bench) -> None:
    """The client library repeats a call whose reply was lost."""
    bench.store.start(new())
    bench.store.release(closing(claimed(bench, traced(1))))

    assert claimed(bench, traced(2)) == claimed(bench, traced(2))


def test_only_the_latest_spans_are_kept(bench: Bench) -> None:
    """A hop that waits for a year goes on many times, and its record stays small."""
    bench.store.start(new())
    for number in range(LIMITS.most_traces + 3):
        bench.store.release(closing(claimed(bench, replace(traced(number), max_attempts=100))))

    assert claimed(bench, traced(99)).before.traces == tuple(f"span-{number}" for number in range(3, 11))


@pytest.mark.parametrize("how", ["claimed", "swept"])
def test_a_hop_whose_owner_was_lost_is_told_from_one_that_its_owner_closed(bench: Bench, how: str) -> None:
    """So many takeovers mean that workers die, and so many retries that steps fail."""
    bench.store.start(new())
    claimed(bench, traced(1), brief=how == "claimed")
    if how == "claimed":
        bench.lapse()
    else:
        bench.store.sweep(host="here", dead=["ann"])

    taken = claimed(bench, replace(traced(2), owner="bob"))
    bench.store.release(closing(taken, owner="bob"))

    assert taken.before.taken_over
    assert not claimed(bench, traced(3)).before.taken_over


def test_an_owner_that_comes_back_in_time_was_not_lost(bench: Bench) -> None:
    """It renews its lease before anybody else has the hop, and closes it as ever."""
    bench.store.start(new())
    first = claimed(bench, traced(1))
    bench.store.sweep(host="here", dead=["ann"])
    assert not bench.store.renew("ann", {"w.0": first.fence}).lost
    bench.store.retry_at(closing(first), FAILURE, delay=0)
    bench.next_second()
    bench.store.sweep(host="here")

    assert not claimed(bench, traced(2)).before.taken_over


LEAVES: Mapping[str, Callable[[Store, Closing], object]] = {
    "release": lambda store, close: store.release(close),
    "retry_at": lambda store, close: store.retry_at(close, FAILURE, delay=0),
    "give_back": lambda store, close: store.give_back(close, FAILURE),
    "suspend": lambda store, close: store.suspend(close, Standing(wake_at=EPOCH)),
    "park": lambda store, close: store.park(close, FAILURE),
}


@pytest.mark.parametrize("how", LEAVES)
def test_an_owner_that_lapsed_and_still_closed_its_hop_was_not_lost(bench: Bench, how: str) -> None:
    """Nobody had taken the hop, so its attempt counts, and the next claim takes nothing over."""
    bench.store.start(new())
    first = claimed(bench, traced(1))
    bench.store.sweep(host="here", dead=["ann"])

    assert LEAVES[how](bench.store, closing(first))

    bench.store.redrive("w")
    bench.overdue("w.0")
    bench.next_second()
    bench.store.sweep(host="here", queues={"q-w.0": False})
    again = claimed(bench, replace(traced(2), owner="bob")).before
    assert (again.claimed_at, again.taken_over) == (first.now, False)


def test_a_redriven_hop_is_told_of_the_attempts_before_it_was_parked(bench: Bench) -> None:
    """The one that failed is what one wants to see."""
    bench.store.start(new())
    bench.store.park(closing(claimed(bench, traced(1))), FAILURE)
    bench.store.redrive("w")
    bench.store.sweep(host="here")

    assert claimed(bench, traced(2)).before.traces == ("span-1",)
