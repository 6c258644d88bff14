"""Waits: what a hop waits for from outside, who is asked, and what an answer, a signal or the time makes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from paigeant_celery.core.errors import HopUnknown, InvalidInput
from paigeant_celery.core.waits import WHOLE, Wait, make_token
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import (
    Claimed,
    Closing,
    Dropped,
    NewWait,
    OpenHops,
    RenewAnswer,
    Resolution,
    Standing,
    Store,
    Suspended,
    Sweep,
)
from tests.contract.store.bench import Bench, MemoryBench
from tests.contract.store.given import FAILURE, claim, closing, completion, ending, hop, letter, new, types

DAY = 24 * 3600.0


def asks(name: str = "manager", *, hop_id: str = "w.0", secret: str = "", **more: Any) -> NewWait:
    token = make_token(hop_id, secret or f"s-{name}")
    return NewWait(**{"wait_id": f"id-{name}", "token": token, "kind": "token", "name": name, **more})


def begun(bench: Bench, correlation_id: str = "w", **more: Any) -> Closing:
    """Start a workflow and claim its hop."""
    bench.store.start(new(correlation_id, **more))
    return closing(bench.store.claim(claim(f"{correlation_id}.0")), f"{correlation_id}.0")


def waiting(bench: Bench, *waits: NewWait, correlation_id: str = "w", **more: Any) -> Closing:
    """Suspend the hop of a workflow at its waits."""
    close = begun(bench, correlation_id, **more)
    for wait in waits:
        assert bench.store.wait(close, wait) is not None
    assert bench.store.suspend(close, Standing(tokens=[wait.token for wait in waits])) == Suspended()
    return close


def answers(bench: Bench, wait: NewWait, *, call: str = "c1", text: str = "true") -> Resolution:
    return bench.store.resolve(wait.token, {WHOLE: text}, by="ann", call=call)


def recorded(store: Store, hop_id: str = "w.0") -> dict[str, Wait]:
    return {wait.name: wait for wait in store.waits(hop_id)}


def swept(bench: Bench) -> Sweep:
    """Return what the next pass finds."""
    found = bench.store.sweep(host="there")
    if found != Sweep():
        return found
    bench.next_second()  # that may have been no pass
    return bench.store.sweep(host="there")


# WAIT.


def test_a_wait_is_recorded_before_anybody_is_asked(bench: Bench) -> None:
    """Whoever reads it knows what is asked, since when, and until when it is of use."""
    close = begun(bench)

    wait = bench.store.wait(close, asks(about='{"n": 1e400, "list": []}', timeout=60, parts=("a", "b")))

    assert wait is not None
    assert (wait.token, wait.wait_id, wait.kind, wait.name) == ("w.0~s-manager", "id-manager", "token", "manager")
    assert (wait.state, wait.parts, wait.answers, wait.about) == ("open", ("a", "b"), {}, '{"n": 1e400, "list": []}')
    assert wait.until == wait.since + timedelta(seconds=60)
    assert bench.store.waits("w.0") == (wait,)
    assert [(each.hop_id, each.wait) for each in bench.store.asked(after=None, limit=10)] == [("w.0", wait)]
    assert types(bench.store)[-1] == "asked"


def test_a_wait_that_is_asked_for_again_keeps_its_token(bench: Bench) -> None:
    """The one who was asked before a crash answers the wait of the attempt after it."""
    close = begun(bench)
    first = bench.store.wait(close, asks(about="1"))

    again = bench.store.wait(close, asks(secret="another", about="2", timeout=1))

    assert again == first
    assert types(bench.store).count("asked") == 1


def test_a_wait_takes_the_place_of_one_whose_answer_was_of_no_use(bench: Bench) -> None:
    """The old token is unknown from then on, and a repetition of the call gets the new one."""
    close, old, better = begun(bench), asks(), asks(secret="new", instead_of="w.0~s-manager")
    bench.store.wait(close, old)
    bench.store.wait(close, asks("other"))
    assert answers(bench, old).outcome == "settled"

    wait = bench.store.wait(close, better)

    assert wait is not None
    assert (wait.token, wait.state) == (better.token, "open")
    assert bench.store.wait(close, better) == wait
    assert answers(bench, old).outcome == "unknown"
    assert [each.name for each in bench.store.waits("w.0")] == ["other", "manager"]
    assert {each.wait.token for each in bench.store.asked(after=None, limit=9)} == {"w.0~new", "w.0~s-other"}
    assert bench.store.renew("ann", {"w.0": close.fence}) == RenewAnswer(lost=frozenset())


@pytest.mark.parametrize("how", ["complete", "fail", "retry_at", "park", "cancel", "release"])
def test_a_hop_that_its_owner_has_ended_waits_for_nothing_more(bench: Bench, how: str) -> None:
    """What a run does after its end has no effect."""
    close = begun(bench)
    ending(bench, close)[how]()

    assert bench.store.wait(close, asks()) is None
    assert bench.store.suspend(close, Standing()) is None
    assert bench.store.waits("w.0") == ()


def test_a_hop_without_a_record_cannot_wait(bench: Bench) -> None:
    """The store has lost its data; its message must bring it back."""
    nowhere = Closing(hop_id="x.0", owner="ann", fence=1)

    for ask in (lambda: bench.store.wait(nowhere, asks()), lambda: bench.store.suspend(nowhere, Standing())):
        with pytest.raises(HopUnknown):
            ask()
    assert bench.store.waits("x.0") == ()
    assert bench.store.resolve("x.0~s", {WHOLE: "1"}, by="ann", call="c") == Resolution(outcome="unknown")
    assert bench.store.time_out("x.0~s") is None
    assert bench.store.signal("x", "paid", "1", by="ann", call="c") == Resolution(outcome="unknown")


def test_a_hop_has_only_so_many_open_waits(bench: Bench) -> None:
    """One that is over makes room for another one, and one that is recorded is answered."""
    bench.limit(replace(LIMITS, max_waits=2))
    close = begun(bench)
    first = bench.store.wait(close, asks("1"))
    bench.store.wait(close, asks("2"))

    with pytest.raises(InvalidInput, match="2 open waits"):
        bench.store.wait(close, asks("3"))

    assert bench.store.wait(close, asks("1")) == first
    answers(bench, asks("2"))
    assert bench.store.wait(close, asks("3")) is not None


# SUSPEND.


def test_a_hop_that_waits_has_no_owner_and_its_attempt_does_not_count(bench: Bench) -> None:
    """It holds no worker, however long it waits, and however often."""
    close = waiting(bench, asks())

    assert bench.store.open_hops() == OpenHops(due=0, running=0, parked=0, asleep=1)
    assert bench.store.claim(claim(token="t2")) == Dropped(reason="suspended")
    assert bench.store.renew("ann", {}) == RenewAnswer(lost=frozenset())
    assert bench.store.renew("ann", {"w.0": close.fence}).lost == {"w.0"}
    assert swept(bench) == Sweep()
    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.suspended, record.running, record.attempt) == ("running", True, False, 0)
    assert [wait.name for wait in record.waits] == ["manager"]
    assert types(bench.store)[-1] == "suspended"


def test_suspending_again_gets_the_same_answer(bench: Bench) -> None:
    """The reply was lost, and the client repeats the call."""
    close = waiting(bench, asks())
    standing = Standing(tokens=["w.0~s-manager"])
    events = types(bench.store)

    assert bench.store.suspend(close, standing) == Suspended()
    assert types(bench.store) == events

    answers(bench, asks())
    assert bench.store.suspend(close, standing) == Suspended()  # whoever answered sends it


@pytest.mark.parametrize("what", ["answered", "passed", "due", "unknown"])
def test_a_hop_is_queued_at_once_if_something_that_it_waits_for_has_come(bench: Bench, what: str) -> None:
    """The answer between the last look of the run and its end is not lost."""
    close, wait = begun(bench), asks(timeout=60)
    bench.store.wait(close, wait)
    bench.store.wait(close, asks("other"))
    standing = Standing(tokens=[wait.token, "w.0~s-other"])
    if what == "answered":
        assert answers(bench, wait).hop is None
    elif what == "passed":
        bench.pass_time(61)
    elif what == "due":
        standing = replace(standing, wake_at=datetime(2020, 1, 1, tzinfo=UTC))
    else:
        standing = replace(standing, tokens=["w.0~gone"])

    sent = bench.store.suspend(close, standing)

    assert sent == Suspended(hop=hop())
    assert bench.store.suspend(close, standing) == sent
    assert bench.store.open_hops() == OpenHops(due=1, running=0, parked=0)
    again = bench.store.claim(claim(token="t2"))
    assert isinstance(again, Claimed)
    assert (again.attempt, again.fence) == (1, 2)
    assert {each.name for each in again.waits} == {"manager", "other"}
    assert bench.store.suspend(close, standing) == Suspended()  # it runs by now


def test_a_hop_that_lapsed_and_that_nobody_took_may_be_suspended(bench: Bench) -> None:
    """As it may be closed."""
    bench.store.start(new())
    close = closing(bench.brief.claim(claim()))
    bench.lapse()
    assert [each.hop_id for each in bench.store.sweep(host="there", dead=["ann"]).overdue] == ["w.0"]

    assert bench.store.suspend(close, Standing()) == Suspended()
    assert bench.store.open_hops() == OpenHops(due=0, running=0, parked=0, asleep=1)


def test_a_hop_that_another_has_taken_cannot_be_suspended(bench: Bench) -> None:
    """Nor can its former owner record waits."""
    bench.store.start(new())
    close = closing(bench.brief.claim(claim()))
    bench.store.sweep(host="there", dead=["ann"])
    assert isinstance(bench.store.claim(claim(owner="bob", token="t2")), Claimed)

    assert bench.store.suspend(close, Standing()) is None
    assert bench.store.wait(close, asks()) is None
    assert bench.store.open_hops().running == 1


def test_a_hop_that_is_suspended_for_a_moment_leaves_no_trace_among_the_events(bench: Bench) -> None:
    """A job that is asked about every few seconds would push all else out."""
    close = begun(bench)
    before = types(bench.store)
    bench.store.suspend(close, Standing(quiet=True, wake_at=_now(bench) + timedelta(seconds=30)))
    bench.pass_time(31)

    assert swept(bench).overdue == (hop(),)
    assert isinstance(bench.store.claim(claim(token="t2")), Claimed)

    assert types(bench.store) == before
    bench.store.suspend(Closing(hop_id="w.0", owner="ann", fence=2), Standing())
    assert types(bench.store)[len(before) :] == ["suspended"]


# RESOLVE.


def test_an_answer_queues_the_hop_and_comes_with_its_next_claim(bench: Bench) -> None:
    """Who answered and when is an event."""
    waiting(bench, asks())

    found = answers(bench, asks(), text='{"n": 1e400, "list": []}')

    assert (found.outcome, found.hop) == ("settled", hop())
    assert found.wait is not None
    assert found.wait.state == "settled"
    assert bench.store.open_hops() == OpenHops(due=1, running=0, parked=0)
    assert bench.store.asked(after=None, limit=10) == []
    again = bench.store.claim(claim(token="t2"))
    assert isinstance(again, Claimed)
    assert again.waits == (found.wait,)
    given = again.waits[0].answers[WHOLE]
    assert (given.text, given.by, given.call) == ('{"n": 1e400, "list": []}', "ann", "c1")
    last = bench.store.events("w", after=None, limit=99)[-2]
    assert dict(last.fields) == {"type": "answered", "hop": "w.0", "wait": "manager", "by": "ann"}


def test_the_first_answer_counts_and_its_repetition_is_told_that_it_did(bench: Bench) -> None:
    """A call whose reply was lost is repeated; a second person is told what the first one said."""
    waiting(bench, asks())
    first = answers(bench, asks())

    assert answers(bench, asks()) == replace(first, hop=None)
    assert answers(bench, asks(), call="c2", text="false") == Resolution(outcome="answered", wait=first.wait)
    assert types(bench.store).count("answered") == 1


def test_a_wait_of_several_parts_is_settled_when_each_has_an_answer(bench: Bench) -> None:
    """All that one call brings is taken, or nothing."""
    wait = asks(parts=("a", "b", "c"))
    waiting(bench, wait)

    def give(call: str, **parts: str) -> Resolution:
        return bench.store.resolve(wait.token, parts, by="ann", call=call)

    assert give("c1", a="1").outcome == "recorded"
    assert give("c1", a="1").outcome == "recorded"
    assert give("c2", b="2", x="9").outcome == "unknown"
    assert give("c3", a="3", b="3").outcome == "answered"
    assert recorded(bench.store)["manager"].unanswered == ("b", "c")
    last = give("c4", b="2", c="3")
    assert (last.outcome, last.hop) == ("settled", hop())
    assert give("c4", b="2", c="3").outcome == "settled"
    assert {part: each.text for part, each in recorded(bench.store)["manager"].answers.items()} == {
        "a": "1",
        "b": "2",
        "c": "3",
    }
    told = [event.fields.get("calls") for event in bench.store.events("w", after=None, limit=99)]
    assert [each for each in told if each] == ["a", "b, c"]


def test_the_answer_of_the_whole_beside_a_hop_that_runs_changes_only_the_wait(bench: Bench) -> None:
    """Its run learns of it at its next renewal, and its next attempt in any case."""
    close = begun(bench)
    bench.store.wait(close, asks())
    assert bench.store.renew("ann", {"w.0": 1}).settled == {}

    assert answers(bench, asks()).hop is None

    assert bench.store.renew("ann", {"w.0": 1}) == RenewAnswer(lost=frozenset(), settled={"w.0": 1})
    assert bench.store.renew("bob", {"w.0": 1}).settled == {}
    assert bench.store.open_hops().running == 1


def test_a_token_that_is_of_another_hop_or_of_none_is_unknown(bench: Bench) -> None:
    """Whoever has it learns nothing else."""
    waiting(bench, asks())

    for token in ("w.0~other", "w.1~s-manager", "w.0", "", "~", "w.0~s-manager~", "\u00e4~\0"):
        assert bench.store.resolve(token, {WHOLE: "1"}, by="ann", call="c") == Resolution(outcome="unknown")
        assert bench.store.time_out(token) is None
    assert bench.store.open_hops().asleep == 1


# The time.


def test_a_wait_whose_time_is_over_takes_no_answer(bench: Bench) -> None:
    """Whoever notes this first queues the hop, so that it never sleeps on."""
    waiting(bench, asks(timeout=60))
    bench.pass_time(61)

    found = answers(bench, asks())

    assert (found.outcome, found.hop) == ("late", hop())
    assert found.wait is not None
    assert (found.wait.state, found.wait.answers) == ("timed_out", {})
    assert answers(bench, asks()) == replace(found, hop=None)
    assert bench.store.asked(after=None, limit=9) == []
    assert types(bench.store).count("wait_timed_out") == 1


def test_a_sweep_gives_waits_up_and_queues_their_hop(bench: Bench) -> None:
    """In one step: an answer beside it either comes before, or is told that it is late."""
    waiting(bench, asks(timeout=60), asks("other", timeout=90), asks("third"))
    assert swept(bench) == Sweep()
    bench.pass_time(61)

    assert swept(bench).overdue == (hop(),)

    states = {name: wait.state for name, wait in recorded(bench.store).items()}
    assert states == {"manager": "timed_out", "other": "open", "third": "open"}
    events = [event.fields for event in bench.store.events("w", after=None, limit=99)][-2:]
    assert [dict(event) for event in events] == [
        {"type": "wait_timed_out", "hop": "w.0", "wait": "manager"},
        {"type": "resent", "hop": "w.0", "why": "time_over"},
    ]
    assert swept(bench) == Sweep()
    assert answers(bench, asks("other")).outcome == "settled"
    assert isinstance(bench.store.claim(claim(token="t2")), Claimed)


def test_a_hop_goes_on_at_its_time_without_an_answer(bench: Bench) -> None:
    """Not before it, and whatever it waits for besides."""
    close = begun(bench)
    bench.store.wait(close, asks())
    wake_at = _now(bench) + timedelta(seconds=3600)
    assert bench.store.suspend(close, Standing(tokens=["w.0~s-manager"], wake_at=wake_at)) == Suspended()
    record = bench.store.workflow("w")
    assert record is not None
    assert record.wake_at is not None
    assert abs(record.wake_at - wake_at) < timedelta(milliseconds=2)
    bench.pass_time(3500)
    assert swept(bench) == Sweep()
    bench.pass_time(101)

    assert swept(bench).overdue == (hop(),)
    assert recorded(bench.store)["manager"].state == "open"


def test_a_run_gives_its_own_wait_up_only_when_the_time_is_over(bench: Bench) -> None:
    """By the same comparison as all others: an answer that came first stays."""
    close = begun(bench)
    for wait in (asks("late", timeout=60), asks("answered", timeout=60), asks("ever")):
        bench.store.wait(close, wait)
    answers(bench, asks("answered"))
    bench.pass_time(61)

    found = {name: bench.store.time_out(f"w.0~s-{name}") for name in ("late", "answered", "ever")}

    assert {name: wait.state for name, wait in found.items() if wait} == {
        "late": "timed_out",
        "answered": "settled",
        "ever": "open",
    }
    assert types(bench.store).count("wait_timed_out") == 1
    assert bench.store.suspend(close, Standing(tokens=["w.0~s-late"])) == Suspended(hop=hop())


def test_a_suspended_hop_whose_wait_is_given_up_is_queued(bench: Bench) -> None:
    """By a run that was overtaken and does not know it. Otherwise no sweep would find a reason to wake the hop."""
    waiting(bench, asks(timeout=60))
    bench.pass_time(61)

    bench.store.time_out("w.0~s-manager")

    assert bench.store.open_hops() == OpenHops(due=1, running=0, parked=0)


def test_a_hop_that_sleeps_for_long_is_looked_at_every_day(bench: Bench) -> None:
    """And sleeps on. Whatever went wrong is then found."""
    waiting(bench, asks(timeout=3 * DAY))
    for _ in range(2):
        bench.pass_time(DAY + 1)
        assert swept(bench) == Sweep()
        assert bench.store.open_hops().asleep == 1
    bench.pass_time(DAY)

    assert swept(bench).overdue == (hop(),)


def test_a_workflow_past_its_deadline_goes_on_to_be_ended(bench: Bench) -> None:
    """Whoever sweeps claims and closes it, as it does a hop that waits for its retry."""
    waiting(bench, asks(), deadline=_now(bench) + timedelta(seconds=0.2))
    bench.spend(1.0)
    if isinstance(bench, MemoryBench):
        bench.pass_time(1)

    assert answers(bench, asks()).outcome == "late"
    found = swept(bench)

    assert (found.overdue, found.late) == ((hop(),), (hop(),))
    assert bench.store.signal("w", "paid", "1", by="ann", call="c").outcome == "ended"


def test_a_pass_takes_so_many_hops_and_says_that_there_are_more(bench: Bench) -> None:
    """The next one follows at once; between full ones no second goes by."""
    bench.limit(replace(LIMITS, woken_at_once=2))
    waiting(bench)
    for number in range(4):
        close = begun(bench, f"v{number}")
        bench.store.suspend(close, Standing(wake_at=_now(bench) + timedelta(seconds=number + 5)))
    bench.pass_time(60)

    first = bench.store.sweep(host="there")
    second = bench.store.sweep(host="there")
    third = bench.store.sweep(host="there")

    assert [each.hop_id for each in first.overdue] == ["v0.0", "v1.0"]
    assert [each.hop_id for each in second.overdue] == ["v2.0", "v3.0"]
    assert (first.full, second.full, third) == (True, False, Sweep())


# Signals.


def signals(bench: Bench, name: str = "paid", *, call: str = "c1", text: str = "1", to: str = "w") -> Resolution:
    return bench.store.signal(to, name, text, by="bob", call=call)


def test_a_signal_settles_the_oldest_open_wait_of_its_name(bench: Bench) -> None:
    """Waits for answers with a token are none of its business."""
    waits = [
        asks("paid", kind="token"),
        *(asks("paid", kind="signal", wait_id=f"id-{n}", secret=f"{n}") for n in (1, 2)),
    ]
    waits.append(asks("other", kind="signal"))
    waiting(bench, *waits)

    found = signals(bench)

    assert (found.outcome, found.hop) == ("settled", hop())
    assert found.wait is not None
    assert (found.wait.wait_id, found.wait.answers[WHOLE].text) == ("id-1", "1")
    assert signals(bench) == Resolution(outcome="repeated")
    assert signals(bench, call="c2").wait == next(each for each in bench.store.waits("w.0") if each.wait_id == "id-2")
    assert signals(bench, call="c3").outcome == "kept"
    assert [each.name for each in bench.store.waits("w.0") if each.state == "open"] == ["paid", "other"]


def test_signals_that_come_early_are_kept_in_their_order(bench: Bench) -> None:
    """By name, whatever hop waits for them then, and none is given twice."""
    close = begun(bench)
    for number in (1, 2, 3):
        assert signals(bench, call=f"c{number}", text=f"{number}") == Resolution(outcome="kept")
    assert signals(bench, call="c2", text="2") == Resolution(outcome="repeated")
    signals(bench, "other", call="c4", text="4")
    assert bench.store.complete(completion(close, next_hop=hop("w.1")))
    close = closing(bench.store.claim(claim("w.1")), "w.1")

    def take(name: str, number: int) -> Wait | None:
        more = {"wait_id": f"{number}", "secret": f"s-{number}", "timeout": 0}
        wait = asks(name, kind="signal", hop_id="w.1", **more)
        assert bench.store.wait(close, wait) == bench.store.wait(close, wait)
        return next(each for each in bench.store.waits("w.1") if each.token == wait.token)

    taken = [take("paid", 1), take("other", 2), take("paid", 3), take("paid", 4), take("paid", 5)]

    assert [(each.state, [given.text for given in each.answers.values()]) for each in taken if each] == [
        ("settled", ["1"]),
        ("settled", ["4"]),
        ("settled", ["2"]),
        ("settled", ["3"]),
        ("open", []),
    ]
    assert bench.store.suspend(close, Standing(tokens=["w.1~s-1"])) == Suspended(hop=hop("w.1"))
    assert types(bench.store).count("signalled") == 4
    assert types(bench.store).count("answered") == 4


def test_a_workflow_keeps_only_so_many_signals(bench: Bench) -> None:
    """The one too many is refused, and taken when there is room again, or somebody waits for it."""
    bench.limit(replace(LIMITS, max_signals=3))
    close = begun(bench)
    for number in range(3):
        assert signals(bench, f"n{number}", call=f"c{number}").outcome == "kept"

    assert signals(bench, "n0", call="c9") == Resolution(outcome="too_many")
    bench.store.wait(close, asks("more", kind="signal"))
    assert signals(bench, "more", call="c8").outcome == "settled"
    bench.store.wait(close, asks("n1", kind="signal"))
    assert signals(bench, "n0", call="c9").outcome == "kept"


def test_the_ids_of_the_latest_signals_are_remembered(bench: Bench) -> None:
    """A webhook that comes twice counts once; one that comes again after thousands of others does not matter."""
    bench.limit(replace(LIMITS, max_calls=2))
    begun(bench)
    for number in range(3):
        signals(bench, call=f"c{number}")

    assert [signals(bench, call=f"c{number}").outcome for number in (2, 1, 0)] == ["repeated", "repeated", "kept"]


def test_a_signal_passes_by_a_wait_whose_time_is_over_and_wakes_its_hop(bench: Bench) -> None:
    """Nobody has noted it before; the hop would sleep on if this only noted it."""
    waiting(bench, asks("paid", kind="signal", timeout=60))
    bench.pass_time(61)

    assert signals(bench) == Resolution(outcome="kept", hop=hop())

    assert recorded(bench.store)["paid"].state == "timed_out"
    assert bench.store.open_hops() == OpenHops(due=1, running=0, parked=0)


@pytest.mark.parametrize("how", ["complete", "fail", "cancel"])
def test_a_workflow_that_has_ended_takes_no_signal_and_no_answer(bench: Bench, how: str) -> None:
    """Its answers are told as they were."""
    close = begun(bench)
    bench.store.wait(close, asks("early"))
    bench.store.wait(close, asks("open"))
    answers(bench, asks("early"))
    end = {
        "complete": lambda: bench.store.complete(completion(close)),
        "fail": lambda: bench.store.fail(close, FAILURE),
        "cancel": lambda: bench.store.cancel("w"),
    }
    assert end[how]()

    assert bench.store.asked(after=None, limit=9) == []
    assert signals(bench) == Resolution(outcome="ended")
    assert answers(bench, asks("early")).outcome == "settled"
    assert answers(bench, asks("early"), call="c2").outcome == "answered"
    assert answers(bench, asks("open")).outcome == "late"


# What people do with a hop that waits.


def test_a_suspended_workflow_is_cancelled_like_any_other(bench: Bench) -> None:
    """It is nowhere from then on, and nobody is asked."""
    waiting(bench, asks())

    assert bench.store.cancel("w") == "cancelled"

    assert bench.store.open_hops() == OpenHops(due=0, running=0, parked=0)
    assert bench.store.asked(after=None, limit=9) == []
    assert answers(bench, asks()) == Resolution(outcome="late", wait=recorded(bench.store)["manager"])
    assert bench.store.claim(claim(token="t2")) == Dropped(reason="cancelled")
    bench.pass_time(2 * DAY)
    assert swept(bench) == Sweep()


def parked(bench: Bench) -> None:
    close = begun(bench)
    for name in ("answered", "open"):
        bench.store.wait(close, asks(name))
    answers(bench, asks("answered"))
    assert bench.store.park(close, FAILURE, letter())


def test_a_parked_hop_goes_on_being_asked_about(bench: Bench) -> None:
    """An answer meanwhile wakes nothing, and is there when the hop is redriven: its tokens stay good."""
    parked(bench)
    assert [each.wait.name for each in bench.store.asked(after=None, limit=9)] == ["open"]

    found = answers(bench, asks("open"), text="7")

    assert (found.outcome, found.hop) == ("settled", None)
    assert bench.store.open_hops() == OpenHops(due=0, running=0, parked=1)
    assert bench.store.redrive("w") == "redriven"
    again = bench.store.claim(claim(token="t2"))
    assert isinstance(again, Claimed)
    assert [(each.name, each.state) for each in again.waits] == [("answered", "settled"), ("open", "settled")]


def test_a_discarded_journal_takes_the_waits_with_it(bench: Bench) -> None:
    """The step begins anew, and asks anew under other tokens."""
    parked(bench)

    assert bench.store.redrive("w", discard_journal=True) == "redriven"

    assert bench.store.asked(after=None, limit=9) == []
    assert bench.store.waits("w.0") == ()
    assert answers(bench, asks("open")) == Resolution(outcome="unknown")
    again = closing(bench.store.claim(claim(token="t2")))
    assert bench.store.renew("ann", {"w.0": again.fence}).settled == {}
    assert bench.store.wait(again, asks("open", secret="new")) is not None


def test_a_discarded_journal_gives_its_signals_back(bench: Bench) -> None:
    """Nobody sends a payment twice: the step that begins anew gets the same signals in the same order."""
    close = begun(bench)
    taken = [asks("paid", kind="signal", wait_id=f"id-{each}", secret=each) for each in ("a", "b")]
    for wait in taken:
        assert bench.store.wait(close, wait) is not None
    bench.store.wait(close, asks("by token"))
    for text in ("1", "2", "3"):
        signals(bench, "paid", text=text, call=text)
    answers(bench, asks("by token"))
    assert bench.store.park(close, FAILURE)

    assert bench.store.redrive("w", discard_journal=True) == "redriven"

    again = closing(bench.store.claim(claim(token="t2")))
    for text in ("1", "2", "3"):
        found = bench.store.wait(again, asks("paid", kind="signal", wait_id=f"new-{text}", secret=f"n{text}"))
        assert found is not None
        assert (found.answers[WHOLE].text, found.answers[WHOLE].call) == (text, text)
    last = bench.store.wait(again, asks("paid", kind="signal", wait_id="new", secret="n"))
    assert last is not None
    assert last.state == "open"
    assert signals(bench, "paid", call="1").outcome == "repeated"


def test_waits_are_gone_with_their_workflow(bench: Bench) -> None:
    """No key stays behind."""
    close = begun(bench)
    bench.store.wait(close, asks())
    signals(bench, "other")
    assert bench.short_lived.complete(completion(close))

    bench.expire()

    assert bench.store.waits("w.0") == ()
    assert answers(bench, asks()) == Resolution(outcome="unknown")
    assert signals(bench) == Resolution(outcome="unknown")
    assert bench.store.asked(after=None, limit=9) == []


# The open waits of all workflows.


def test_open_waits_are_read_page_by_page_oldest_first(bench: Bench) -> None:
    """However many of one moment there are, each comes once."""
    bench.limit(replace(LIMITS, asked_at_once=3))
    for number in range(4):
        close = begun(bench, f"w{number}")
        for name in ("a", "b"):
            bench.store.wait(close, asks(name, hop_id=f"w{number}.0"))
        bench.pass_time(1) if number == 2 else None
    bench.store.cancel("w1")
    everything = bench.store.asked(after=None, limit=99)

    found, after = [], None
    while page := bench.store.asked(after=after, limit=2):
        found += page
        after = page[-1].cursor

    assert found == list(everything)
    assert sorted((each.hop_id, each.wait.name) for each in found) == [
        (f"w{number}.0", name) for number in (0, 2, 3) for name in ("a", "b")
    ]
    assert [each.wait.since for each in found] == sorted(each.wait.since for each in found)
    assert bench.store.asked(after=None, limit=0) == []


@pytest.mark.parametrize("cursor", ["", "x", "1", " a", "-1 a", "1e3 a", "9999999999999999 a"])
def test_a_cursor_that_is_none_is_refused(bench: Bench, cursor: str) -> None:
    """Rather than read from anywhere."""
    with pytest.raises(InvalidInput, match="bad_cursor"):
        bench.store.asked(after=cursor, limit=1)


def _now(bench: Bench) -> datetime:
    """Return the time of the store."""
    if isinstance(bench, MemoryBench):
        return bench.now
    return datetime.fromtimestamp(cast("Any", bench).now() / 1000, UTC)
