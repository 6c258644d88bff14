"""What a workflow with limits has used, in every store: a call counts once, and a step exactly when it is done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import cast

import pytest

from paigeant_celery.core.budget import Usage
from paigeant_celery.core.errors import StoreCorrupt
from paigeant_celery.store.port import Claimed, Closing, Totals
from paigeant_celery.store.totals import MOST
from tests.contract.store.bench import Bench, MemoryBench, RedisBench, everything
from tests.contract.store.given import FAILURE, claim, closing, completion, ending, hop, new

NOTHING = Usage(counters={"requests": 0, "tool_calls": 0, "input_tokens": 0, "output_tokens": 0}, cost=Decimal(0))


def used(requests: int = 0, *, tool_calls: int = 0, tokens: int = 0, cost: str = "0") -> Usage:
    counters = {"requests": requests, "tool_calls": tool_calls, "input_tokens": tokens, "output_tokens": 2 * tokens}
    return Usage(counters=counters, cost=Decimal(cost))


CALL = used(1, tokens=10, cost="0.0000000003")


def begun(bench: Bench, before: Usage = NOTHING) -> Closing:
    """Begin the first hop of a workflow with limits."""
    bench.store.start(new())
    return closing(bench.store.claim(claim(used=before)))


def totals_of(bench: Bench, hop_id: str = "w.0", *, token: str = "t1") -> Totals:
    """Read the totals by repeating a claim."""
    answer = bench.store.claim(claim(hop_id, token=token, used=NOTHING))
    assert isinstance(answer, Claimed)
    assert answer.totals is not None
    return answer.totals


def test_a_call_counts_once_when_its_record_is_new(bench: Bench) -> None:
    """The client repeats a call whose reply was lost, and a journal is written in pieces and again."""
    first = begun(bench)

    answers = [bench.store.record(first, {"call 1": "1"}, spent={"call 1": CALL}) for _ in range(2)]
    later = bench.store.record(
        first, {"call 1": "2", "call 2": "2", "call 3": "3"}, spent={"call 1": CALL, "call 2": CALL}
    )

    assert answers == [Totals(used=CALL, counted=CALL)] * 2
    assert later == Totals(
        used=used(2, tokens=20, cost="0.0000000006"), counted=used(2, tokens=20, cost="0.0000000006")
    )
    assert bench.store.record(first, {"call 3": "3"}, spent={}) == later
    assert bench.store.record(first, {"call 4": "4"}) is True


def test_a_completion_makes_the_totals_exact_once(bench: Bench) -> None:
    """What a step used beside its recorded calls counts when it is done, and what was taken back does not."""
    first = begun(bench)
    bench.store.record(first, {"call 1": "1"}, spent={"call 1": CALL})
    exact = used(1, tool_calls=4, tokens=8, cost="0.5")

    for _ in range(2):
        assert bench.store.complete(completion(first, next_hop=hop("w.1"), records={"call 2": "2"}, used=exact))
    assert not bench.store.complete(completion(replace(first, fence=2), next_hop=hop("w.1"), used=exact))

    second = bench.store.claim(claim("w.1", used=CALL))
    assert isinstance(second, Claimed)
    assert second.totals == Totals(used=exact, counted=NOTHING)
    assert second.totals.elsewhere == exact


def test_counting_begins_with_what_older_versions_used(bench: Bench) -> None:
    """They recorded it only in the message. Where something is counted, the message says nothing more."""
    first = begun(bench, used(3, tokens=5, cost="0.25"))

    answer = bench.store.record(first, {"call 1": "1"}, spent={"call 1": CALL})

    assert answer == Totals(used=used(4, tokens=15, cost="0.2500000003"), counted=CALL)
    assert cast("Totals", answer).elsewhere == used(3, tokens=5, cost="0.25")
    assert totals_of(bench) == answer


@pytest.mark.parametrize("end", ["release", "retry_at", "park", "lapse"])
def test_what_an_attempt_used_stays_counted(bench: Bench, end: str) -> None:
    """The money was spent; the next attempt replays the calls, and counts none of them again."""
    bench.store.start(new())
    first = closing(bench.brief.claim(claim(used=NOTHING)))
    bench.store.record(first, {"call": "1"}, spent={"call": CALL})

    if end == "lapse":
        bench.lapse_swept()
        bench.store.sweep(host="there")
    elif end == "retry_at":
        bench.store.retry_at(first, FAILURE, delay=0)
        bench.overdue("w.0")
        bench.store.sweep(host="there", queues={"q-w.0": True})
    else:
        ending(bench, first)[end]()
        bench.store.redrive("w")

    second = bench.store.claim(claim(owner="bob", token="t2", used=NOTHING))
    assert isinstance(second, Claimed)
    assert second.totals == Totals(used=CALL, counted=CALL)
    assert second.totals.elsewhere == NOTHING
    again = bench.store.record(closing(second, owner="bob"), {"call": "1"}, spent={"call": CALL})
    assert again == Totals(used=CALL, counted=CALL)


def test_calls_that_are_paid_again_count_again(bench: Bench) -> None:
    """Whoever discards a journal pays for its calls twice, and a budget must know that."""
    first = begun(bench)
    bench.store.record(first, {"call": "1"}, spent={"call": CALL})
    bench.store.park(first, FAILURE)

    bench.store.redrive("w", discard_journal=True)

    second = closing(bench.store.claim(claim(token="t2", used=NOTHING)))
    assert totals_of(bench, token="t2") == Totals(used=CALL, counted=NOTHING)
    twice = used(2, tokens=20, cost="0.0000000006")
    assert bench.store.record(second, {"call": "1"}, spent={"call": CALL}) == Totals(used=twice, counted=CALL)
    bench.store.complete(completion(second, next_hop=hop("w.1"), used=CALL))
    assert totals_of(bench, "w.1") == Totals(used=twice, counted=NOTHING)


def test_who_was_overtaken_counts_nothing(bench: Bench) -> None:
    """What it used is not recorded, so the run that counts makes its own calls."""
    bench.store.start(new())
    first = closing(bench.brief.claim(claim(used=NOTHING)))
    bench.lapse_swept()
    bench.store.sweep(host="there")
    second = closing(bench.store.claim(claim(owner="bob", token="t2", used=NOTHING)), owner="bob")

    assert bench.store.record(first, {"late": "1"}, spent={"late": CALL}) is False

    assert bench.store.record(second, {}, spent={}) == Totals(used=NOTHING, counted=NOTHING)


def test_calls_recorded_at_the_same_time_all_count(bench: Bench) -> None:
    """Parallel tools of a run, and steps side by side, use up one budget."""
    first = begun(bench)
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(
                lambda number: bench.raw.record(first, {f"call {number}": "1"}, spent={f"call {number}": CALL}),
                range(40),
            )
        )

    seen = sorted(cast("Totals", answer).used.counters["requests"] for answer in answers)
    assert seen == list(range(1, 41))
    assert totals_of(bench).used == used(40, tokens=400, cost="0.000000012")


def test_hops_of_a_workflow_count_together_and_know_what_is_their_own(bench: Bench) -> None:
    """A step beside others is refused for what they used, and not twice for its own calls."""
    bench.store.start(new())
    queue_beside(bench, "w.9")
    first = closing(bench.store.claim(claim(used=NOTHING)))
    beside = bench.store.claim(claim("w.9", owner="bob", used=NOTHING))

    bench.store.record(first, {"call": "1"}, spent={"call": CALL})
    answer = bench.store.record(closing(beside, "w.9", owner="bob"), {"call": "1"}, spent={"call": used(4, tokens=1)})
    bench.store.complete(completion(first, next_hop=hop("w.1"), used=used(2, tokens=30)))

    assert isinstance(answer, Totals)
    assert answer == Totals(used=used(5, tokens=11, cost="0.0000000003"), counted=used(4, tokens=1))
    assert answer.elsewhere == CALL
    after = bench.store.record(closing(beside, "w.9", owner="bob"), {}, spent={})
    assert after == Totals(used=used(6, tokens=31), counted=used(4, tokens=1))


def queue_beside(bench: Bench, hop_id: str) -> None:
    """Queue a second hop of the workflow, as blocks do, whatever they do beside that."""
    record = replace(hop("w.0"), hop_id=hop_id, digest=f"d-{hop_id}")
    if isinstance(bench, MemoryBench):
        records = bench.raw._records
        records.queue(records.workflows["w"], record, now=bench.now)
    elif isinstance(bench, RedisBench):
        bench.client.copy(bench.key("hop", "w.0"), bench.key("hop", hop_id))
        bench.client.hset(bench.key("hop", hop_id), "digest", record.digest)
        bench.client.sadd(bench.key("hops", "w"), hop_id)
        bench.client.zadd(bench.key("due"), {hop_id: bench.now()})


def test_a_workflow_without_limits_counts_nothing(bench: Bench) -> None:
    """It pays nothing for what it does not use."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())
    assert isinstance(claimed, Claimed)
    assert claimed.totals is None

    assert bench.store.record(closing(claimed), {"call": "1"}) is True
    assert bench.store.record(closing(claimed), {"call 2": "1"}, spent={"call 2": CALL}) is True

    if isinstance(bench, RedisBench):
        assert not bench.client.hexists(bench.key("wf", "w"), "used")
        assert not bench.client.hexists(bench.key("hop", "w.0"), "counted")


def test_absurd_numbers_are_counted_as_the_most(bench: Bench) -> None:
    """A wrong report of a provider must not lose a step, and uses up any limit that can be told from it."""
    absurd = Usage(counters={"requests": 1, "input_tokens": 2**63 - 1}, cost=Decimal(10) ** 12)
    first = begun(bench)

    for number in range(2):
        answer = bench.store.record(first, {f"call {number}": "1"}, spent={f"call {number}": absurd})

    assert cast("Totals", answer).used == Usage(
        counters={"requests": 2, "tool_calls": 0, "input_tokens": MOST, "output_tokens": 0},
        cost=Decimal(MOST) / 10**10,
    )
    assert bench.store.complete(completion(first, used=absurd))


def test_cost_is_counted_to_the_tenth_decimal(bench: Bench) -> None:
    """It is rounded down, so that no workflow is refused what it has not spent."""
    first = begun(bench)

    answer = bench.store.record(first, {"call": "1"}, spent={"call": used(cost="0.00000000019")})

    assert cast("Totals", answer).used.cost == Decimal("0.0000000001")


@pytest.mark.parametrize(("key", "field"), [("wf:w", "used"), ("hop:w.0", "counted")])
def test_damaged_sums_are_reported_and_nothing_is_half_done(on_redis: RedisBench, key: str, field: str) -> None:
    """Whatever another program wrote there, no call is recorded without being counted."""
    store = on_redis.raw
    store.start(new())
    first = closing(store.claim(claim(used=NOTHING)))
    on_redis.client.hset(on_redis.key(key), field, "1 2 many")
    before = everything(on_redis)

    for call in (
        lambda: store.record(first, {"call": "1"}, spent={"call": CALL}),
        lambda: store.complete(completion(first, used=CALL)),
        lambda: store.claim(claim(used=NOTHING)),
    ):
        with pytest.raises(StoreCorrupt, match=key):
            call()

    assert everything(on_redis) == before


def test_a_workflow_of_another_type_is_reported_before_anything_is_recorded(on_redis: RedisBench) -> None:
    """A record that is not counted would let a workflow spend more than it may."""
    on_redis.raw.start(new())
    first = closing(on_redis.raw.claim(claim(used=NOTHING)))
    on_redis.client.delete(on_redis.key("wf", "w"))
    on_redis.client.set(on_redis.key("wf", "w"), "text")

    with pytest.raises(StoreCorrupt, match="wf:w"):
        on_redis.raw.record(first, {"call": "1"}, spent={"call": CALL})

    assert on_redis.raw.journal("w.0") == {}
