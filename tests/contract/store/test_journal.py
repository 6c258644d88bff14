"""The journal of a hop in every store: it holds only what its owner recorded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract.store.bench import Bench
from tests.contract.store.given import FAILURE, claim, closing, completion, ending, new


def test_a_journal_holds_what_its_owner_recorded(bench: Bench) -> None:
    """The next run of the hop does not have to ask a model again for what it has answered."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))

    assert bench.store.journal("w.0") == {}
    assert bench.store.record(first, {"call 1": '{"v":1}'})
    assert bench.store.record(first, {"call 2": "two \U0001f600", "call 3": "3"})
    assert bench.store.record(first, {"call 2": "two \U0001f600"})

    assert bench.store.journal("w.0") == {"call 1": '{"v":1}', "call 2": "two \U0001f600", "call 3": "3"}
    assert bench.store.journal("w.1") == {}


def test_a_completion_brings_the_last_records(bench: Bench) -> None:
    """They are written with it, once: neither its repetition nor an overtaken owner adds anything."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))
    bench.store.record(first, {"call 1": "1"})

    late = completion(replace(first, fence=first.fence + 1), records={"call 3": "3"})
    assert not bench.store.complete(late)
    for _ in range(2):
        assert bench.store.complete(completion(first, records={"call 2": "two \U0001f600"}, blobs={"s": '"b"'}))

    assert bench.store.journal("w.0") == {"call 1": "1", "call 2": "two \U0001f600"}
    assert bench.store.blob("w", "s") == '"b"'


@pytest.mark.parametrize("end", ["release", "retry_at", "park", "lapse"])
def test_a_journal_outlives_the_attempt(bench: Bench, end: str) -> None:
    """This is what it is for."""
    bench.store.start(new())
    first = closing(bench.brief.claim(claim()))
    bench.store.record(first, {"call": "1"})

    if end == "release":
        bench.store.release(first)
    elif end == "retry_at":
        bench.store.retry_at(first, FAILURE, delay=1)
    elif end == "park":
        bench.store.park(first, FAILURE)
        bench.store.redrive("w")
    else:
        bench.lapse_swept()
        bench.store.sweep(host="there")

    assert bench.store.journal("w.0") == {"call": "1"}


def test_who_was_overtaken_records_nothing(bench: Bench) -> None:
    """A worker that was cut off for a while must not mix its answers with those of the current run."""
    bench.store.start(new())
    first = closing(bench.brief.claim(claim()))
    bench.lapse_swept()
    bench.store.sweep(host="there")
    second = closing(bench.store.claim(claim(owner="bob", token="t2")), owner="bob")

    assert not bench.store.record(first, {"late": "1"})
    assert bench.store.record(second, {"call": "2"})

    assert bench.store.journal("w.0") == {"call": "2"}


def test_an_owner_whose_lease_lapsed_untaken_still_records(bench: Bench) -> None:
    """Nobody else runs the hop; what was paid for is kept."""
    bench.store.start(new())
    first = closing(bench.brief.claim(claim()))
    bench.lapse_swept()
    bench.store.sweep(host="there")

    assert bench.store.record(first, {"call": "1"})

    assert bench.store.journal("w.0") == {"call": "1"}


@pytest.mark.parametrize("end", ["complete", "fail", "retry_at", "park", "cancel", "release"])
def test_nothing_is_recorded_for_a_hop_that_is_closed(bench: Bench, end: str) -> None:
    """What a run does after it was given up is not part of the next attempt, unless its hop still waits untaken."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))
    ending(bench, close)[end]()

    assert not bench.store.record(close, {"late": "1"})

    assert bench.store.journal("w.0") == {}


def test_a_redriven_hop_begins_anew_where_its_journal_is_discarded(bench: Bench) -> None:
    """This is the way out if the code changed so much that it cannot go on."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))
    bench.store.record(first, {"call": "1"})
    bench.store.park(first, FAILURE)

    assert bench.store.redrive("w", discard_journal=True) == "redriven"

    assert bench.store.journal("w.0") == {}
    assert bench.store.events("w", after=None, limit=10)[-1].fields == {
        "type": "redriven", "hop": "w.0", "journal": "discarded",
    }  # fmt: skip


def test_a_journal_goes_with_its_workflow(bench: Bench) -> None:
    """Records of an ended workflow are useless."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))
    bench.store.record(first, {"call": "1"})
    bench.short_lived.complete(completion(first))

    bench.expire()

    assert bench.store.journal("w.0") == {}
