"""Stream events on their way to those who watch."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic_ai.messages import FunctionToolResultEvent, PartDeltaEvent, TextPartDelta, ToolReturnPart

from paigeant_celery.core.errors import Unreachable
from paigeant_celery.core.events import Joining
from paigeant_celery.journal import event_feed as feeds
from paigeant_celery.journal.event_feed import EventFeed

pytestmark = pytest.mark.anyio

AWAY = Unreachable("store", "redis://127.0.0.1:1", "ConnectionError")


def delta(text: str) -> PartDeltaEvent:
    return PartDeltaEvent(index=0, delta=TextPartDelta(content_delta=text))


class Watcher:
    """What the store got, and whether it is available."""

    def __init__(self) -> None:
        self.batches: list[list[Mapping[str, str]]] = []
        self.seen = threading.Event()
        self.away = threading.Event()

    def send(self, events: Sequence[Mapping[str, str]]) -> bool:
        if self.away.is_set():
            self.away.clear()
            raise AWAY
        self.batches.append(list(events))
        self.seen.set()
        return True

    @property
    def texts(self) -> list[str]:
        return [json.loads(event["data"])["delta"]["content_delta"] for batch in self.batches for event in batch]


async def test_events_arrive_in_order_and_in_batches() -> None:
    """A model that writes fast costs a call to the store now and then, not one for each word."""
    watcher = Watcher()
    feed = EventFeed(watcher.send, attempt=2)

    async with feed.flowing():
        for number in range(500):
            feed.put("w.0:writer:0", 1, delta(str(number)))

    assert watcher.texts == [str(number) for number in range(500)]
    assert len(watcher.batches) < 10
    first = watcher.batches[0][0]
    assert {name: first[name] for name in ("event", "run", "step", "attempt")} == {
        "event": "part_delta", "run": "w.0:writer:0", "step": "1", "attempt": "2",
    }  # fmt: skip


async def test_events_are_seen_while_the_run_goes_on() -> None:
    """They are for somebody who looks at a screen."""
    watcher = Watcher()
    feed = EventFeed(watcher.send, attempt=1)

    async with feed.flowing():
        feed.put("r", 1, delta("now"))
        assert await asyncio.to_thread(watcher.seen.wait, 10)

        assert watcher.texts == ["now"]


async def test_events_wait_for_a_store_that_is_away() -> None:
    """The run goes on, and its events are sent when the store is back."""
    watcher = Watcher()
    watcher.away.set()
    feed = EventFeed(watcher.send, attempt=1)

    async with feed.flowing():
        for text in "abc":
            feed.put("r", 1, delta(text))
        assert await asyncio.to_thread(watcher.seen.wait, 10)

    assert watcher.texts == ["a", "b", "c"]


async def test_a_store_that_stays_away_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage must not fill the logs of a worker that runs a thousand agents."""
    monkeypatch.setattr(feeds, "PAUSE", 0.001)
    tried, again = [0], threading.Event()

    def send(events: Sequence[Mapping[str, str]]) -> bool:
        tried[0] += 1
        if tried[0] < 5:
            raise AWAY
        again.set()
        return True

    feed = EventFeed(send, attempt=1)
    async with feed.flowing():
        feed.put("r", 1, delta("a"))
        assert await asyncio.to_thread(again.wait, 10)

    assert [record.action for record in caplog.records if hasattr(record, "action")] == ["events_wait"]


async def test_events_that_the_store_cannot_take_are_counted_and_fail_no_run() -> None:
    """The answer of a run is paid for and must not be lost over what is shown of it."""
    watcher = Watcher()

    def send(events: Sequence[Mapping[str, str]]) -> bool:
        for event in events:
            event.get("name", "").encode()
        return watcher.send(events)

    feed = EventFeed(send, attempt=1)
    async with feed.flowing():
        feed.tell("call_made", call="tool", name="\ud800")

    assert watcher.batches == [[{"event": "dropped", "attempt": "1", "count": "1"}]]


async def test_what_is_left_at_the_end_waits_for_the_batch_that_is_on_its_way() -> None:
    """A slow store must not get the end of a run before its middle."""
    watcher, sending, go_on = Watcher(), threading.Event(), threading.Event()

    def send(events: Sequence[Mapping[str, str]]) -> bool:
        if not sending.is_set():
            sending.set()
            assert go_on.wait(10)
        return watcher.send(events)

    async def run() -> None:
        async with feed.flowing():
            feed.put("r", 1, delta("middle"))
            assert await asyncio.to_thread(sending.wait, 10)
            feed.put("r", 1, delta("end"))

    feed = EventFeed(send, attempt=1)
    ending = asyncio.create_task(run())
    assert await asyncio.to_thread(sending.wait, 10)
    assert not await asyncio.to_thread(watcher.seen.wait, 0.1)  # the middle is on its way
    go_on.set()
    await ending

    assert watcher.texts == ["middle", "end"]


async def test_too_many_events_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is dropped silently, and events do not fill a worker's memory."""
    monkeypatch.setattr(feeds, "MOST_WAITING", 3)
    watcher = Watcher()
    feed = EventFeed(watcher.send, attempt=1)

    async with feed.flowing():
        for text in "abcde":
            feed.put("r", 1, delta(text))

    (batch,) = watcher.batches
    assert batch[0] == {"event": "dropped", "attempt": "1", "count": "2"}
    assert [json.loads(event["data"])["delta"]["content_delta"] for event in batch[1:]] == ["c", "d", "e"]


async def test_events_are_counted_whose_store_is_away_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent and counted events add up, however often they had to wait."""
    monkeypatch.setattr(feeds, "PAUSE", 0.001)
    monkeypatch.setattr(feeds, "LONGEST_PAUSE", 0.001)
    monkeypatch.setattr(feeds, "MOST_WAITING", 10)
    monkeypatch.setattr(feeds, "MOST_AT_ONCE", 4)
    arrived: list[Mapping[str, str]] = []
    back, failed = threading.Event(), threading.Semaphore(0)

    def send(events: Sequence[Mapping[str, str]]) -> bool:
        if not back.is_set():
            failed.release()
            raise AWAY
        arrived.extend(events)
        return True

    feed = EventFeed(send, attempt=1)
    async with feed.flowing():
        for number in range(50):
            feed.put("r", 1, delta(str(number)))
            if number % 3 == 0:
                assert await asyncio.to_thread(failed.acquire, timeout=10)
        back.set()

    counted = sum(int(event["count"]) for event in arrived if event["event"] == "dropped")
    told = [json.loads(event["data"])["delta"]["content_delta"] for event in arrived if "data" in event]
    assert told == [str(number) for number in range(counted, 50)]
    assert len(told) <= 10 + 4  # and a batch on its way


@dataclass
class Odd:
    content: Any
    event_kind: str = "odd"


class Engine:
    """Something that pydantic does not know."""


@dataclass
class Progress:
    engine: Engine
    event_kind: str = "custom"


async def test_data_that_is_long_is_sent_in_parts_and_data_that_is_no_json_not_at_all() -> None:
    """A watcher sees what a tool returned, and data that cannot be written fails no step."""
    watcher = Watcher()
    feed = EventFeed(watcher.send, attempt=1)

    async with feed.flowing():
        feed.put("r", 1, delta("é" * 10_000))
        feed.put("r", 1, Odd(object()))
        feed.put("r", 1, Progress(Engine()))
        feed.tell("call_made", call="tool", name="search")

    *parts, odd, unknown, own = watcher.batches[0]
    assert [part["part"] for part in parts] == ["1/3", "2/3", "3/3"]
    assert max(len(part["text"].encode()) for part in parts) <= 8192
    joining = Joining()
    *incomplete, whole = [joining.whole(part) for part in parts]
    assert incomplete == [None, None]
    assert whole is not None
    assert json.loads(whole["data"])["delta"]["content_delta"] == "é" * 10_000
    assert odd["error"] == "PydanticSerializationError"
    assert unknown["error"] == "PydanticSchemaGenerationError"
    assert own == {"event": "call_made", "attempt": "1", "call": "tool", "name": "search"}


async def test_data_that_is_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a tool read does not go to every watcher, but they see which call returned it."""
    monkeypatch.setattr(feeds, "MOST_BYTES", 20_000)
    watcher = Watcher()
    feed = EventFeed(watcher.send, attempt=1)

    async with feed.flowing():
        feed.put("r", 1, FunctionToolResultEvent(ToolReturnPart("read", "x" * 30_000, tool_call_id="call-1")))

    ((large,),) = watcher.batches
    assert int(large["bytes"]) > 30_000
    assert (large["call_id"], large["name"]) == ("call-1", "read")
    assert "data" not in large


@pytest.mark.parametrize("away", [False, True])
async def test_what_waits_is_bounded_by_its_bytes(monkeypatch: pytest.MonkeyPatch, away: bool) -> None:
    """A thousand runs whose tools return megabytes must not fill a worker while the store is away."""
    monkeypatch.setattr(feeds, "PAUSE", 0.001)
    monkeypatch.setattr(feeds, "LONGEST_PAUSE", 0.001)
    monkeypatch.setattr(feeds, "MOST_BYTES_WAITING", 100_000)
    monkeypatch.setattr(feeds, "MOST_BYTES_AT_ONCE", 30_000)
    watcher, tried = Watcher(), threading.Event()
    sizes: list[int] = []

    def send(events: Sequence[Mapping[str, str]]) -> bool:
        sizes.append(sum(len(event.get("text", "")) for event in events))
        if away and not tried.is_set():
            tried.set()
            raise AWAY
        return watcher.send(events)

    feed = EventFeed(send, attempt=1)
    async with feed.flowing():
        for _ in range(20):
            feed.put("r", 1, delta("x" * 10_000))
        if away:
            assert await asyncio.to_thread(tried.wait, 10)

    sent = [event for batch in watcher.batches for event in batch]
    dropped = sum(int(event["count"]) for event in sent if event["event"] == "dropped")
    whole = sum(event.get("part", "").startswith("1/") for event in sent)
    assert dropped + whole == 20
    assert whole == 9
    assert max(sizes) <= 30_000


async def test_nothing_more_is_sent_for_a_hop_that_was_taken_over() -> None:
    """The next attempt sends its own events."""
    sent: list[Sequence[Mapping[str, str]]] = []

    def send(events: Sequence[Mapping[str, str]]) -> bool:
        sent.append(events)
        return False

    feed = EventFeed(send, attempt=1)
    async with feed.flowing():
        for number in range(450):
            feed.put("r", 1, delta(str(number)))

    assert len(sent) < 3
