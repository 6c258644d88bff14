"""The sweep of every store: which hops are resent, when, and how many at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast
from unittest.mock import ANY

from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Claimed, Dropped, RenewAnswer, Sweep
from tests.contract.store.bench import Bench, RedisBench
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, new, types

BACKLOG = 1100  # hops; more than one pass looks at


def resent(found: Sweep) -> list[str]:
    return [again.hop_id for again in found.overdue]


def test_the_hop_of_a_lapsed_owner_is_sent_again_and_runs_elsewhere(bench: Bench) -> None:
    """A machine is lost in the middle of a step; its lease ends, and another one runs the step."""
    bench.store.start(new())
    bench.brief.claim(claim())
    before = bench.store.sweep(host="there")
    bench.lapse_swept()

    found = bench.store.sweep(host="there")

    assert (before, found) == (Sweep(), Sweep(overdue=(hop(),)))
    record = bench.store.workflow("w")
    assert record is not None
    assert not record.running
    again = bench.store.claim(claim(owner="ben", token="t2"))
    assert isinstance(again, Claimed)
    assert (again.fence, again.attempt) == (2, 2)
    assert types(bench.store) == ["started", "claimed", "resent", "claimed"]


def lapsed(bench: Bench) -> Claimed:
    """The claim of a hop whose owner is gone, after it was sent again."""
    bench.store.start(new())
    claimed = bench.store.claim(claim(owner="here:7"))
    assert isinstance(claimed, Claimed)
    assert bench.store.sweep(host="here", dead=["here:7"]) == Sweep(overdue=(hop(),))
    return claimed


def test_the_hop_of_a_dead_process_does_not_wait_for_its_lease(bench: Bench) -> None:
    """A killed worker is noticed at once by another one on the same machine."""
    for name, owner in (("w", "here:7"), ("v", "there:7")):
        bench.store.start(new(name))
        bench.store.claim(claim(f"{name}.0", owner=owner))

    seen = bench.store.sweep(host="here")
    found = bench.store.sweep(host="here", dead=["here:7"])

    assert (seen, found) == (Sweep(owners=("here:7",)), Sweep(overdue=(hop(),)))
    assert bench.store.sweep(host="here", dead=["here:7"]) == Sweep()


def test_an_owner_that_comes_back_before_anyone_took_its_hop_has_it_again(bench: Bench) -> None:
    """A worker that was frozen for a minute goes on, and no model call is made twice."""
    claimed = lapsed(bench)

    assert bench.store.renew("here:7", {"w.0": claimed.fence}) == RenewAnswer(lost=frozenset())

    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")
    assert bench.store.complete(completion(closing(claimed, owner="here:7")))


def test_a_completion_after_the_hop_was_sent_again_is_accepted_while_nobody_took_it(bench: Bench) -> None:
    """What a model was paid for is kept, even if the lease ended meanwhile."""
    claimed = lapsed(bench)

    assert bench.store.complete(completion(closing(claimed, owner="here:7"), next_hop=hop("w.1")))

    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="finished")
    record = bench.store.workflow("w")
    assert record is not None
    assert record.hop_id == "w.1"


def test_an_owner_whose_lapsed_hop_was_taken_can_write_nothing(bench: Bench) -> None:
    """Two workers ran the step, and one output counts."""
    claimed = lapsed(bench)
    bench.store.claim(claim(owner="ben", token="t2"))

    assert bench.store.renew("here:7", {"w.0": claimed.fence}) == RenewAnswer(lost=frozenset({"w.0"}))
    assert not bench.store.complete(completion(closing(claimed, owner="here:7")))
    assert not bench.store.fail(closing(claimed, owner="here:7"), FAILURE)


def test_a_claim_whose_reply_was_lost_gets_its_answer_after_the_lease_too(bench: Bench) -> None:
    """The client repeats the call late, and nobody else was given the hop."""
    claimed = lapsed(bench)

    assert bench.store.claim(claim(owner="here:7")) == claimed

    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")


def test_an_overdue_hop_is_sent_again_when_its_queue_is_empty(bench: Bench) -> None:
    """Its message was lost between broker and worker, where no missing acknowledgement shows it."""
    bench.store.start(new())
    early = bench.store.sweep(host="there")
    bench.overdue("w.0")
    bench.next_second()

    asked = bench.store.sweep(host="there")
    found = bench.store.sweep(host="there", queues={"q-w.0": True})

    assert (early, asked) == (Sweep(), Sweep(queues=("q-w.0",)))
    assert found == Sweep(overdue=(hop(),))
    assert bench.store.sweep(host="there", queues={"q-w.0": True}) == Sweep()


def test_an_overdue_hop_behind_others_is_not_sent_again(bench: Bench) -> None:
    """Copies do not make a slow queue longer."""
    bench.store.start(new())
    bench.overdue("w.0")

    assert bench.store.sweep(host="there", queues={"q-w.0": False}) == Sweep()

    bench.next_second()
    assert bench.store.sweep(host="there") == Sweep()


def test_a_hop_that_later_ones_have_overtaken_is_sent_again(bench: Bench) -> None:
    """Its message was lost while the queue is full of others."""
    for name in ("first", "second", "third"):
        bench.store.start(new(name, queue="shared"))
    assert isinstance(bench.store.claim(claim("second.0")), Claimed)
    for name in ("first", "third"):
        bench.overdue(f"{name}.0")

    found = bench.store.sweep(host="there")

    assert (resent(found), found.queues) == (["first.0"], ("shared",))


def test_a_message_that_comes_after_its_hop_was_sent_again_overtakes_nobody(bench: Bench) -> None:
    """A worker is killed before a long queue, and the broker puts its message back at the head of it.

    If the copy at the end were taken for the one that came, all others would count as lost and be resent.
    """
    for name in ("first", "second", "third"):
        bench.store.start(new(name, queue="shared"))
    bench.store.claim(claim("first.0", owner="here:7"))
    copied = bench.store.sweep(host="here", dead=["here:7"])

    assert isinstance(bench.store.claim(claim("first.0", owner="ben", token="t2")), Claimed)

    for name in ("second", "third"):
        bench.overdue(f"{name}.0")
    bench.next_second()
    assert resent(copied) == ["first.0"]
    assert bench.store.sweep(host="there") == Sweep(queues=("shared",))
    assert bench.store.sweep(host="there", queues={"shared": False}) == Sweep()


def test_no_backlog_stands_before_a_retry_or_a_hop_that_was_given_back(bench: Bench) -> None:
    """Thousands of hops that wait for few workers do not delay those that wait for something else."""
    store = cast("Any", bench).raw  # the other one looks up where each hop is after each call
    for name in ("retried", "released", "redriven"):
        store.start(new(name))
    for number in range(BACKLOG):
        store.start(new(f"w{number}", queue="shared"))
        bench.overdue(f"w{number}.0")
    claims = {
        hop_id: closing(store.claim(claim(hop_id)), hop_id) for hop_id in ("retried.0", "released.0", "redriven.0")
    }
    store.retry_at(claims["retried.0"], FAILURE, delay=0)
    store.release(claims["released.0"])
    store.park(claims["redriven.0"], FAILURE)
    store.redrive("redriven")

    found = store.sweep(host="there")

    assert sorted(resent(found)) == ["redriven.0", "released.0", "retried.0"]
    assert found.queues == ("shared",)


def test_one_pass_is_made_in_a_second_whoever_asks(bench: Bench) -> None:
    """A hundred workers do not sweep more often than one."""
    bench.store.start(new())
    bench.store.sweep(host="there")
    bench.overdue("w.0")

    same_second = [bench.store.sweep(host=host).queues for host in ("here", "there")]
    bench.next_second()
    next_second = [bench.store.sweep(host=host).queues for host in ("here", "there")]

    assert (same_second, next_second) == ([(), ()], [("q-w.0",), ()])


def test_a_pass_sends_a_hundred_hops_at_most(bench: Bench) -> None:
    """After a long outage the broker is not flooded."""
    for number in range(130):
        bench.store.start(new(f"w{number}", queue="shared"))
        bench.overdue(f"w{number}.0")

    passes = [resent(bench.store.sweep(host="there", queues={"shared": True})) for _ in range(3)]

    assert [len(each) for each in passes] == [100, 30, 0]
    assert len({hop_id for each in passes for hop_id in each}) == 130


def test_after_an_outage_nobody_takes_over_what_runs(bench: Bench) -> None:
    """The store was unavailable to all; otherwise every run in flight would begin a second time."""
    bench.brief.start(new())
    claimed = bench.brief.claim(claim())
    bench.brief.sweep(host="there")
    bench.lapse()
    for _ in range(3):
        bench.next_second()

    assert bench.brief.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")
    assert bench.brief.sweep(host="there") == Sweep()
    assert bench.brief.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")

    assert bench.brief.renew("ann", {"w.0": closing(claimed).fence}) == RenewAnswer(lost=frozenset())
    assert bench.brief.complete(completion(closing(claimed)))


def test_an_owner_that_does_not_come_back_after_an_outage_is_replaced(bench: Bench) -> None:
    """The hold ends after one lease."""
    bench.brief.start(new())
    bench.brief.claim(claim())
    bench.brief.sweep(host="there")
    bench.lapse()
    for _ in range(3):
        bench.next_second()
    held = bench.brief.sweep(host="there")
    bench.spend(1.0)
    bench.lapse_swept()

    assert held == Sweep()
    assert isinstance(bench.store.claim(claim(owner="ben", token="t2")), Claimed)


def test_a_store_tells_since_when_no_worker_has_swept(bench: Bench) -> None:
    """A caller that waits learns whether there are workers at all, without asking the broker."""
    never = bench.store.unswept()
    bench.store.sweep(host="here")
    just_now = bench.store.unswept()
    bench.next_second()
    a_second_ago = bench.store.unswept()

    assert never is None
    assert just_now is not None
    assert a_second_ago is not None
    assert 0 <= just_now <= a_second_ago - 0.9


def test_a_store_of_one_process_lists_what_ends_with_it(bench: Bench) -> None:
    """What ended, failed or waits for a person is known to whoever asked; other records outlive their process."""
    for name in ("queued", "running", "waiting", "parked", "failed", "cancelled", "done"):
        bench.store.start(new(name))
    held = {
        name: closing(bench.store.claim(claim(f"{name}.0", token=name)), f"{name}.0")
        for name in ("running", "waiting", "parked", "failed", "done")
    }
    bench.store.retry_at(held["waiting"], FAILURE, delay=60)
    bench.store.park(held["parked"], FAILURE)
    bench.store.fail(held["failed"], FAILURE)
    bench.store.cancel("cancelled")
    bench.store.complete(completion(held["done"]))

    listed = () if bench.store.shared else ("queued", "running", "waiting")
    assert tuple(bench.store.unfinished()) == listed


def test_all_queued_hops_are_sent_again_if_their_broker_is_given_up(bench: Bench) -> None:
    """Their messages stay there. Whatever waits on the new broker's queues is no sign that they will come."""
    bench.limit(replace(LIMITS, most_at_once=10, most_looked_at=20))
    queued = [f"w{number}" for number in range(50)]
    for name in (*queued, "running", "waiting"):
        bench.raw.start(new(name, queue="q"))
    bench.store.claim(claim("running.0"))
    bench.store.retry_at(closing(bench.store.claim(claim("waiting.0")), "waiting.0"), FAILURE, delay=3600)
    before = bench.store.sweep(host="here")

    bench.store.send_all_again()

    found = list[str]()
    for _ in range(5):
        bench.next_second()
        found += resent(bench.raw.sweep(host="here", queues={"q": False}))
    bench.next_second()
    assert (before, bench.store.sweep(host="here", queues={"q": False})) == (Sweep(), Sweep())
    assert sorted(found) == sorted(f"{name}.0" for name in queued)
    assert bench.store.claim(claim("w7.0", token="t2")) == Claimed(fence=1, attempt=1, now=ANY, created_at=ANY)


def test_what_is_sent_again_keeps_its_order(on_redis: RedisBench) -> None:
    """The first that was dispatched is the first that runs, on the new broker as well."""
    for number in range(30):
        on_redis.raw.start(new(f"w{number}", queue="q"))
        on_redis.client.zadd(on_redis.key("due"), {f"w{number}.0": on_redis.now() + 5000 + number})

    on_redis.store.send_all_again()

    on_redis.store.send_all_again()
    assert resent(on_redis.store.sweep(host="here")) == [f"w{number}.0" for number in range(30)]
