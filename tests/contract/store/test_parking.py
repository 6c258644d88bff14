"""Hops that wait for another attempt or are parked, redriven or cancelled, in every store."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial

import pytest

from paigeant_celery.core.flow import Failure
from paigeant_celery.store.port import Claimed, Closed, Closing, Dropped, RenewAnswer, Sweep
from tests.contract.store.bench import Bench, RedisBench
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, letter, new, types


def failed_once(bench: Bench, *, delay: float) -> Closing:
    """A workflow whose first attempt failed and that waits for the next."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))
    assert bench.store.retry_at(first, FAILURE, delay=delay)
    return first


def parked(bench: Bench) -> Closing:
    """A workflow whose hop needs a person."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))
    assert bench.store.park(first, FAILURE)
    return first


def test_the_failure_of_an_earlier_version_is_read(on_redis: RedisBench) -> None:
    """It kept neither frames nor where, and a later one may keep more."""
    store = on_redis.store
    store.start(new())
    store.park(closing(store.claim(claim())), FAILURE, letter())
    old = {"step_id": "draft", "error_class": "ValueError", "text": "no"}
    (kept,) = store.dead_letters(after=None, limit=1)

    for recorded in (old, {**old, "later": 1}):
        on_redis.client.hset(on_redis.key("wf:w"), "failure", json.dumps(recorded))
        record = store.workflow("w")
        assert record is not None
        assert record.failure == Failure(step_id="draft", error_class="ValueError", text="no")
    on_redis.client.hdel(on_redis.key(f"letter:{kept.letter_id}"), "trace")
    on_redis.client.hset(on_redis.key(f"letter:{kept.letter_id}"), "later", "1")
    assert store.dead_letters(after=None, limit=1) == [kept]


def test_a_failed_attempt_waits_for_its_time(bench: Bench) -> None:
    """A provider's outage costs no worker slot; the handle says what happened and when it goes on."""
    failed_once(bench, delay=60)

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.running, record.attempt, record.failure) == ("running", False, 1, FAILURE)
    assert record.retry_at is not None
    assert record.retry_at - record.updated_at == timedelta(seconds=60)
    assert bench.store.claim(claim(token="t2")) == Dropped(reason="waiting")
    assert bench.store.claim(claim()) == Dropped(reason="waiting")
    assert bench.store.sweep(host="there") == Sweep()
    assert types(bench.store) == ["started", "claimed", "retrying"]


def test_a_retry_is_sent_when_its_time_has_come(bench: Bench) -> None:
    """This holds however many messages wait before it, because a message of this attempt was never sent."""
    failed_once(bench, delay=60)
    bench.overdue("w.0")

    assert bench.store.sweep(host="there") == Sweep(overdue=(hop(),))

    again = bench.store.claim(claim(owner="ben", token="t2"))
    assert isinstance(again, Claimed)
    assert (again.fence, again.attempt) == (2, 2)
    record = bench.store.workflow("w")
    assert record is not None
    assert (record.running, record.retry_at, record.failure) == (True, None, None)
    assert types(bench.store) == ["started", "claimed", "retrying", "resent", "claimed"]


def test_a_retry_without_delay_is_sent_by_the_next_sweep(bench: Bench) -> None:
    """A delay may be zero."""
    failed_once(bench, delay=0)

    assert bench.store.sweep(host="there") == Sweep(overdue=(hop(),))


def test_the_owner_of_a_failed_attempt_holds_nothing(bench: Bench) -> None:
    """A renewal that was on its way when the attempt ended does not bring it back."""
    first = failed_once(bench, delay=60)

    assert bench.store.renew("ann", {"w.0": first.fence}) == RenewAnswer(lost=frozenset())
    assert not bench.store.release(first)
    assert not bench.store.complete(completion(first))
    assert not bench.store.park(first, FAILURE)
    bench.overdue("w.0")
    bench.store.sweep(host="there")
    assert bench.store.renew("ann", {"w.0": first.fence}) == RenewAnswer(lost=frozenset({"w.0"}))
    assert not bench.store.retry_at(first, FAILURE, delay=1)


def test_an_attempt_that_lapsed_and_nobody_took_may_still_wait_or_park(bench: Bench) -> None:
    """Its worker was frozen, but is the one that knows what went wrong."""
    for name, close in (("v", bench.store.park), ("w", partial(bench.store.retry_at, delay=60.0))):
        bench.store.start(new(name))
        held = closing(bench.brief.claim(claim(f"{name}.0")), f"{name}.0")
        bench.store.sweep(host="there", dead=["ann"])

        assert close(held, FAILURE)


def test_closing_calls_that_are_repeated_change_nothing(bench: Bench) -> None:
    """The client repeats a call whose reply was lost."""
    for name, close in (("v", bench.store.park), ("w", partial(bench.store.retry_at, delay=60.0))):
        bench.store.start(new(name))
        held = closing(bench.store.claim(claim(f"{name}.0")), f"{name}.0")

        first = close(held, FAILURE)

        assert first
        assert close(held, FAILURE) == first

        assert len(types(bench.store, name)) == 3


def test_an_overtaken_owner_neither_retries_nor_parks(bench: Bench) -> None:
    """Another worker has the step; what this one knows about it is outdated."""
    bench.store.start(new())
    old = closing(bench.brief.claim(claim()))
    bench.store.sweep(host="there", dead=["ann"])
    bench.store.claim(claim(owner="ben", token="t2"))

    assert not bench.store.retry_at(old, FAILURE, delay=1)
    assert not bench.store.park(old, FAILURE)

    assert types(bench.store) == ["started", "claimed", "resent", "claimed"]


def test_a_parked_workflow_waits_for_a_person(bench: Bench) -> None:
    """Nothing of it is sent or forgotten, and copies of its message are dropped."""
    parked(bench)

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.failure, record.running, record.envelope) == (
        "parked", FAILURE, False, "envelope w.0",
    )  # fmt: skip
    assert bench.store.claim(claim(token="t2")) == Dropped(reason="parked")
    assert bench.store.sweep(host="there") == Sweep()
    assert types(bench.store) == ["started", "claimed", "parked"]


def test_the_records_of_a_parked_workflow_do_not_expire(bench: Bench) -> None:
    """The person may be on holiday; the letter stays, even if the message was refused before."""
    bench.store.start(new())
    bench.short_lived.bury(letter())
    bench.short_lived.bury(letter("b"))
    bench.short_lived.park(closing(bench.store.claim(claim())), FAILURE, letter())

    bench.expire()

    assert bench.store.workflow("w") is not None
    assert bench.store.dead_letter("a") is not None
    assert [found.letter_id for found in bench.store.dead_letters(after=None, limit=10)] == ["a"]


@pytest.mark.parametrize("end", ["redrive", "cancel"])
def test_the_letter_of_a_parked_hop_goes_when_it_needs_no_person_any_more(bench: Bench, end: str) -> None:
    """The list of dead letters is a to-do list."""
    bench.store.start(new())
    bench.store.bury(letter("another"))
    bench.store.park(closing(bench.store.claim(claim())), FAILURE, letter())

    getattr(bench.store, end)("w")

    assert [found.letter_id for found in bench.store.dead_letters(after=None, limit=10)] == ["another"]


def test_a_hop_is_parked_with_its_letter_or_not_at_all(bench: Bench) -> None:
    """No crash can come between the two, and an overtaken owner leaves no letter."""
    bench.store.start(new())
    old = closing(bench.brief.claim(claim()))
    bench.store.sweep(host="there", dead=["ann"])
    held = closing(bench.store.claim(claim(owner="ben", token="t2")), owner="ben")

    assert not bench.store.park(old, FAILURE, letter("late"))
    assert [bench.store.park(held, FAILURE, letter()) for _ in range(2)] == [Closed(), Closed()]

    assert [found.letter_id for found in bench.store.dead_letters(after=None, limit=10)] == ["a"]


def test_a_redriven_workflow_has_all_its_attempts(bench: Bench) -> None:
    """The cause is fixed, and the step begins as if for the first time."""
    parked(bench)

    assert bench.store.redrive("w") == "redriven"

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.failure, record.attempt) == ("running", None, 0)
    assert bench.store.sweep(host="there") == Sweep(overdue=(hop(),))
    again = bench.store.claim(claim(owner="ben", token="t2"))
    assert isinstance(again, Claimed)
    assert (again.fence, again.attempt) == (2, 1)
    assert types(bench.store) == ["started", "claimed", "parked", "redriven", "resent", "claimed"]


def test_only_a_parked_workflow_is_redriven(bench: Bench) -> None:
    """Asking twice, or for a running workflow, changes nothing."""
    parked(bench)
    bench.store.redrive("w")

    assert bench.store.redrive("w") == "not_parked"
    assert bench.store.redrive("v") == "unknown"

    assert types(bench.store)[-1] == "redriven"


@pytest.mark.parametrize("where", ["queued", "running", "waiting", "parked"])
def test_a_workflow_is_cancelled_wherever_it_stands(bench: Bench, where: str) -> None:
    """It ends at once, and no later step begins."""
    if where in ("queued", "running"):
        bench.store.start(new())
    held = bench.store.claim(claim()) if where == "running" else None
    if where == "waiting":
        failed_once(bench, delay=60)
    if where == "parked":
        parked(bench)

    assert bench.store.cancel("w") == "cancelled"

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.failure, record.running, record.envelope) == (
        "cancelled", None, False, "envelope w.0",
    )  # fmt: skip
    assert bench.store.claim(claim(token="t2")) == Dropped(reason="cancelled")
    assert bench.store.sweep(host="there") == Sweep()
    assert types(bench.store)[-1] == "workflow_cancelled"
    if held is not None:
        assert not bench.store.complete(completion(closing(held)))
        assert not bench.store.fail(closing(held), FAILURE)
        assert bench.store.claim(claim()) == Dropped(reason="cancelled")


def test_the_owner_of_a_cancelled_hop_learns_of_it_when_it_renews(bench: Bench) -> None:
    """A run that nobody wants stops within one renewal and is told why."""
    for name in ("v", "w"):
        bench.store.start(new(name))
        bench.store.claim(claim(f"{name}.0"))
    bench.store.cancel("w")

    answer = bench.store.renew("ann", {"v.0": 1, "w.0": 1})

    assert answer == RenewAnswer(lost=frozenset({"w.0"}), cancelled=frozenset({"w.0"}))
    assert bench.store.renew("ann", {"v.0": 1, "w.0": 1}) == answer


def test_cancelling_again_or_too_late_changes_nothing(bench: Bench) -> None:
    """A call whose reply was lost is repeated; a recorded output stays."""
    bench.store.start(new("v"))
    bench.store.complete(completion(closing(bench.store.claim(claim("v.0")), "v.0")))
    bench.store.start(new())
    bench.store.cancel("w")

    assert [bench.store.cancel(name) for name in ("u", "v", "w")] == ["unknown", "ended", "cancelled"]

    assert types(bench.store) == ["started", "workflow_cancelled"]


def test_a_cancelled_workflow_expires_as_an_ended_one(bench: Bench) -> None:
    """Its record is kept as long as that of a completed workflow."""
    bench.store.start(new())
    bench.short_lived.cancel("w")

    bench.expire()

    assert bench.store.workflow("w") is None
