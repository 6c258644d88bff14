"""A deadline is kept whether or not anybody serves the queue: sweeps return the hop that is late, to be closed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Claimed, NewWorkflow
from tests.contract.store.bench import Bench, MemoryBench
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, letter, new

FAR = datetime(2200, 1, 1, tzinfo=UTC)


def with_deadline(name: str = "w", deadline: datetime = FAR) -> NewWorkflow:
    return replace(new(name), deadline=deadline)


def late(bench: Bench) -> list[str]:
    """Sweep, and return what is late."""
    if bench.store.unswept() is not None:
        bench.next_second()
    return [found.hop_id for found in bench.store.sweep(host="here").late]


def end(bench: Bench, hop_id: str = "w.0") -> bool:
    """Do what a sweeper does with a hop that is late."""
    return bench.store.fail(closing(bench.store.claim(claim(hop_id, max_attempts=0)), hop_id), FAILURE)


def test_a_hop_is_late_when_the_deadline_of_its_workflow_has_passed(bench: Bench) -> None:
    """It is returned whole, so that whoever sweeps can read its message. One without a deadline never is."""
    bench.store.start(with_deadline())
    bench.store.start(new("free"))
    assert late(bench) == []

    bench.late("w")
    bench.next_second()
    found = bench.store.sweep(host="here")

    assert found.late == (hop("w.0"),)
    assert found.overdue == ()


def test_a_deadline_is_compared_with_the_clock_of_the_store(bench: Bench) -> None:
    """Not before, and not much later."""
    bench.store.start(new("clock"))
    now = cast("Claimed", bench.store.claim(claim("clock.0"))).now
    bench.store.start(with_deadline("w", now + timedelta(hours=1)))
    bench.store.start(with_deadline("v", now - timedelta(microseconds=1)))

    assert late(bench) == ["v.0"]


def test_the_claim_that_ends_a_late_hop_begins_no_attempt(bench: Bench) -> None:
    """Nothing ran, and nothing says that something did."""
    bench.store.start(with_deadline())
    bench.late("w")
    assert late(bench) == ["w.0"]

    claimed = bench.store.claim(claim(max_attempts=0))
    assert isinstance(claimed, Claimed)
    assert (claimed.attempt, claimed.exhausted) == (0, True)
    assert bench.store.fail(closing(claimed), FAILURE)

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.attempt) == ("failed", 0)


def test_a_late_hop_is_returned_again_if_whoever_got_it_has_died(bench: Bench) -> None:
    """But not to each sweeper in each second."""
    bench.store.start(with_deadline())
    bench.late("w")

    assert late(bench) == ["w.0"]
    assert late(bench) == []
    bench.late("w")
    assert late(bench) == ["w.0"]


def test_a_hop_that_runs_is_left_to_its_own_timeout(bench: Bench) -> None:
    """If its owner dies, the hop is queued and then ended."""
    bench.store.start(with_deadline())
    held = closing(bench.store.claim(claim()))
    bench.late("w")
    assert late(bench) == []

    bench.store.release(held)
    bench.late("w")
    assert late(bench) == ["w.0"]


def test_a_deadline_follows_the_workflow_from_hop_to_hop(bench: Bench) -> None:
    bench.store.start(with_deadline())
    bench.store.complete(completion(closing(bench.store.claim(claim())), next_hop=hop("w.1")))

    bench.late("w")

    assert late(bench) == ["w.1"]
    assert end(bench, "w.1")


def test_an_adopted_workflow_keeps_its_deadline(bench: Bench) -> None:
    adopted = NewWorkflow(correlation_id="w", content="same", hop=hop("w.3"), deadline=FAR)
    bench.store.adopt(adopted, sent_at=datetime.now(UTC), max_age=timedelta(days=100_000))

    bench.late("w")

    assert late(bench) == ["w.3"]


def deadlines(bench: Bench) -> set[str]:
    if isinstance(bench, MemoryBench):
        return set(bench.raw._records.deadlines)
    found = bench.client.zrange(bench.key("deadlines"), 0, -1)  # type: ignore[attr-defined]
    return set(cast("list[str]", found))


def test_no_end_leaves_a_deadline_behind(bench: Bench) -> None:
    """Otherwise each sweep would look through all that ever ended."""
    for name in ("completed", "failed", "cancelled"):
        bench.store.start(with_deadline(name))
    assert deadlines(bench) == {"completed", "failed", "cancelled"}

    bench.store.complete(completion(closing(bench.store.claim(claim("completed.0")), "completed.0")))
    bench.store.fail(closing(bench.store.claim(claim("failed.0")), "failed.0"), FAILURE)
    bench.store.cancel("cancelled")

    assert deadlines(bench) == set()


def test_a_parked_workflow_stays_parked_until_it_is_redriven(bench: Bench) -> None:
    """A person who looks at it finds it as it was. The deadline rules again when it goes on."""
    bench.store.start(with_deadline())
    bench.store.park(closing(bench.store.claim(claim())), FAILURE, letter())
    assert deadlines(bench) == set()

    bench.store.redrive("w")
    bench.late("w")

    assert late(bench) == ["w.0"]


def test_a_hop_that_waits_for_its_retry_is_queued_before_it_is_ended(bench: Bench) -> None:
    bench.store.start(with_deadline())
    bench.store.retry_at(closing(bench.store.claim(claim())), FAILURE, delay=60)
    bench.late("w")
    assert late(bench) == []

    bench.overdue("w.0")
    bench.late("w")

    assert late(bench) == ["w.0"]


def test_a_sweep_returns_only_so_many_late_hops(bench: Bench) -> None:
    """A thousand deadlines that pass at once are ended pass by pass."""
    bench.limit(replace(LIMITS, most_at_once=2))
    for name in ("a", "b", "c"):
        bench.store.start(with_deadline(name))
    for name in ("a", "b", "c"):
        bench.late(name)

    found = [*late(bench), *late(bench)]

    assert sorted(found) == ["a.0", "b.0", "c.0"]


@pytest.mark.parametrize(("left", "waits"), [(3, 3), (60, 5), (-1, 5)])
def test_a_hop_that_was_given_back_waits_no_longer_than_its_deadline(bench: Bench, left: int, waits: int) -> None:
    """Then a sweep queues and ends it. After the deadline it is not sent again in each second."""
    bench.store.start(new("clock"))
    now = cast("Claimed", bench.store.claim(claim("clock.0"))).now
    bench.store.start(with_deadline("w", now + timedelta(seconds=left)))

    bench.store.give_back(closing(bench.store.claim(claim())), FAILURE)

    record = bench.store.workflow("w")
    assert record is not None
    assert record.retry_at is not None
    assert round((record.retry_at - now).total_seconds()) == waits


def test_a_backlog_of_large_envelopes_holds_no_deadline_up(bench: Bench) -> None:
    """Each pass sends as much of it as one answer may carry, for minutes."""
    bench.limit(replace(LIMITS, most_bytes=1))
    for name in ("a", "b", "c"):
        bench.store.start(new(name))
        bench.store.release(closing(bench.store.claim(claim(f"{name}.0")), f"{name}.0"))
    bench.store.start(with_deadline())
    bench.late("w")

    assert late(bench) == ["w.0"]
