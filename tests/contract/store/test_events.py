"""The events of a workflow in every store, including what its agents publish while they run."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.events import PART, Joining, in_parts
from paigeant_celery.journal.event_feed import MOST_BYTES
from paigeant_celery.store.port import StoredEvent
from tests.contract.store.bench import Bench
from tests.contract.store.given import claim, closing, completion, ending, hop, new, numbers, told, types


def test_events_are_read_on_from_a_cursor(bench: Bench) -> None:
    """A dashboard follows a workflow without reading it from the start each time."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())
    first = bench.store.events("w", after=None, limit=1)
    bench.store.complete(completion(closing(claimed)))

    rest = bench.store.events("w", after=first[-1].cursor, limit=100)

    assert [event.fields["type"] for event in [*first, *rest]] == [
        "started",
        "claimed",
        "completed",
        "workflow_completed",
    ]
    assert all(event.fields["hop"] == "w.0" for event in rest)
    assert list(bench.store.events("w", after=rest[-1].cursor, limit=100)) == []
    assert list(bench.store.events("w", after=None, limit=0)) == []
    moments = [event.at for event in [*first, *rest]]
    assert moments == sorted(moments)
    assert moments[0].tzinfo is not None


def test_claims_and_completions_name_their_step_if_it_is_known(bench: Bench) -> None:
    """A page that follows a workflow shows steps; the hop of a refused message has none that could be read."""
    bench.store.start(new())
    claimed = bench.store.claim(replace(claim(), step="draft"))
    bench.store.complete(completion(closing(claimed), next_hop=hop("w.1"), step="draft"))
    claimed = bench.store.claim(claim("w.1"))
    bench.store.complete(completion(closing(claimed, "w.1")))

    events = [
        (event.fields["type"], event.fields.get("step")) for event in bench.store.events("w", after=None, limit=9)
    ]

    assert events == [
        ("started", None), ("claimed", "draft"), ("completed", "draft"), ("claimed", None), ("completed", None),
        ("workflow_completed", None),
    ]  # fmt: skip


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1-x", "+"])
def test_a_cursor_that_is_none_is_refused(bench: Bench, cursor: str) -> None:
    """A wrong cursor from a web request is the caller's mistake, not a fault of the store."""
    bench.store.start(new())

    with pytest.raises(InvalidInput, match="bad_cursor"):
        bench.store.events("w", after=cursor, limit=1)


@pytest.mark.parametrize("cursor", ["18446744073709551616-0", "1-0.", "1-0.x", "1-0.1-0.1-0"])
def test_a_cursor_that_only_looks_like_one_is_refused(bench: Bench, cursor: str) -> None:
    """The store does not get a cursor that it would choke on."""
    with pytest.raises(InvalidInput, match="bad_cursor"):
        bench.store.events("w", after=cursor, limit=1)


# PUBLISH, and what an agent shows while it runs


def a_story(bench: Bench) -> list[str]:
    """Two hops publish at once, one of them twice; return what must be read, in this order."""
    bench.store.start(new())
    first = closing(bench.store.claim(claim()))
    bench.store.publish(first, [told(1), told(2)])
    bench.store.publish(first, [told(3)])
    bench.store.complete(completion(first, next_hop=hop("w.1")))
    second = closing(bench.store.claim(claim("w.1")), "w.1")
    bench.store.publish(second, [told(4)])
    bench.store.complete(completion(second))
    return ["started", "claimed", *["agent"] * 3, "completed", "claimed", "agent", "completed", "workflow_completed"]


def test_what_an_agent_publishes_is_read_among_the_events_of_its_workflow(bench: Bench) -> None:
    """A watcher sees the text grow between the step's beginning and end, however fast it all was."""
    story = a_story(bench)

    events = bench.store.events("w", after=None, limit=100)

    assert [event.fields["type"] for event in events] == story
    assert [dict(event.fields) for event in events if event.fields["type"] == "agent"] == [
        {"type": "agent", "hop": hop_id, **told(number)}
        for number, hop_id in ((1, "w.0"), (2, "w.0"), (3, "w.0"), (4, "w.1"))
    ]
    moments = [event.at for event in events]
    assert max(moments) - min(moments) < timedelta(minutes=1)
    assert len({event.cursor for event in events}) == len(events)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_reading_on_from_any_cursor_gives_exactly_what_follows(bench: Bench, limit: int) -> None:
    """A browser that reconnects misses nothing and shows nothing twice."""
    a_story(bench)
    everything = list(bench.store.events("w", after=None, limit=100))

    for read, event in enumerate(everything, start=1):
        found = list(bench.store.events("w", after=event.cursor, limit=limit))
        assert found == everything[read : read + limit]


def test_who_follows_while_agents_publish_misses_and_repeats_nothing(bench: Bench) -> None:
    """Both are written many times per millisecond and read in between."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))

    def write() -> None:
        for number in range(100):
            bench.raw.publish(close, [told(2 * number), told(2 * number + 1)])
        bench.raw.complete(completion(close, notes=[{"n": str(number)} for number in range(100)]))

    with ThreadPoolExecutor(1) as writer:
        written, found, after = writer.submit(write), list[StoredEvent](), None
        while not found or found[-1].fields["type"] != "workflow_completed":
            batch = bench.raw.events("w", after=after, limit=7)
            found.extend(batch)
            after = batch[-1].cursor if batch else after
        written.result()

    assert numbers(found) == list(range(200))
    assert [event.fields["n"] for event in found if event.fields["type"] == "note"] == [str(n) for n in range(100)]
    assert found == list(bench.store.events("w", after=None, limit=1000))


def test_a_cursor_of_a_version_without_streams_is_read_on_from(bench: Bench) -> None:
    """Updating a deployment does not disturb those who follow a workflow."""
    a_story(bench)
    started, claimed, *rest = bench.store.events("w", after=None, limit=100)

    assert re.fullmatch("[0-9]+-[0-9]+", started.cursor)
    assert re.fullmatch("[0-9]+-[0-9]+", claimed.cursor)
    assert list(bench.store.events("w", after=claimed.cursor, limit=100)) == rest


def test_the_oldest_of_too_much_that_is_published_gives_way_and_is_counted(bench: Bench) -> None:
    """An agent that talks for hours does not fill the server, and nobody mistakes the rest for the whole."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))
    bench.store.publish(close, [told(number) for number in range(10)])
    early = bench.store.events("w", after=None, limit=7)[-1].cursor
    assert numbers(bench.store.events("w", after=early, limit=1)) == [5]
    for begin in range(10, 12_010, 500):
        bench.store.publish(close, [told(number) for number in range(begin, begin + 500)])

    (dropped, *kept), read = everything_after(bench, early), 5

    first = numbers(kept)[0]
    assert dropped.fields == {"type": "events_dropped", "hop": "w.0", "count": str(first - read)}
    assert numbers(kept) == list(range(first, 12_010))
    assert 10_000 <= len(kept) < 10_200
    assert everything_after(bench, dropped.cursor) == kept
    assert everything_after(bench, kept[0].cursor) == kept[1:]
    assert [event.fields["type"] for event in everything_after(bench, None)[:3]] == [
        "started", "claimed", "events_dropped",
    ]  # fmt: skip


def everything_after(bench: Bench, after: str | None) -> list[StoredEvent]:
    return list(bench.store.events("w", after=after, limit=20_000))


def test_the_largest_event_is_published_at_once_and_read_whole_page_by_page(bench: Bench) -> None:
    """A tool may return megabytes, and whoever reads on from the event before gets all of it again."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))
    large = {"event": "function_tool_result", "data": "é" * (MOST_BYTES // 2)}
    begun = time.monotonic()
    assert bench.store.publish(close, [told(1), *in_parts(large), told(2)])
    assert time.monotonic() - begun < 0.9  # a client waits for one second
    before = bench.store.events("w", after=None, limit=3)[-1]
    assert numbers([before]) == [1]

    for _ in range(2):
        joining, after, found = Joining(), before.cursor, []
        while page := bench.store.events("w", after=after, limit=100):
            after = page[-1].cursor
            found += [(entry.cursor, joining.whole(entry.fields)) for entry in page]
        whole = [event for _, event in found if event is not None]
        assert [event.get("data") for event in whole] == [large["data"], "part 2"]
        assert len(found) == MOST_BYTES // PART + 1
    [(cursor, _), _] = [(cursor, event) for cursor, event in found if event is not None]
    assert numbers(everything_after(bench, cursor)) == [2]


def test_who_was_overtaken_publishes_nothing(bench: Bench) -> None:
    """Two attempts do not publish at once."""
    bench.store.start(new())
    first = closing(bench.brief.claim(claim()))
    bench.lapse_swept()
    bench.store.sweep(host="there")
    assert bench.store.publish(first, [told(1)])  # nobody has taken it over yet
    second = closing(bench.store.claim(claim(owner="bob", token="t2")), owner="bob")

    assert not bench.store.publish(first, [told(2)])
    assert bench.store.publish(second, [told(3)])

    assert numbers(bench.store.events("w", after=None, limit=100)) == [1, 3]


@pytest.mark.parametrize("end", ["complete", "fail", "retry_at", "park", "cancel", "release"])
def test_nothing_is_published_for_a_hop_that_is_closed(bench: Bench, end: str) -> None:
    """A run that was given up shows nothing further."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))
    ending(bench, close)[end]()
    before = types(bench.store)

    assert not bench.store.publish(close, [told(1)])

    assert types(bench.store) == before


def test_what_was_published_goes_with_its_workflow(bench: Bench) -> None:
    """It is there for as long as the result."""
    bench.store.start(new())
    close = closing(bench.store.claim(claim()))
    bench.store.publish(close, [told(1)])
    bench.short_lived.complete(completion(close))

    bench.expire()

    assert list(bench.store.events("w", after=None, limit=100)) == []
