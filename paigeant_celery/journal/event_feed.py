"""The stream events of an agent on their way to those who watch its workflow: in batches, alongside the run."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from paigeant_celery.activities.real_threads import real
from paigeant_celery.core.errors import HopUnknown, PaigeantError
from paigeant_celery.core.events import in_parts
from paigeant_celery.core.patience import patience
from paigeant_celery.journal.told import Told

__all__ = ["EventFeed"]

PAUSE = 0.05  # seconds between two batches; text that appears faster than that looks the same
LONGEST_PAUSE = 2.0  # seconds between two attempts to reach an unavailable store; starts at `PAUSE` and doubles
MOST_AT_ONCE = 200  # events per batch
MOST_BYTES_AT_ONCE = 1024 * 1024  # of their data, unless one event alone has more
MOST_WAITING = 2000  # events that wait while the store is unavailable
MOST_BYTES_WAITING = 16 * 1024 * 1024  # of their data
MOST_BYTES = 4 * 1024 * 1024  # of one event's data: what one round trip to the store may carry

logger = logging.getLogger(__name__)


class EventFeed:
    """Sends events during a run. The run never waits for it, and no step fails because an event cannot be sent.

    While the store is unavailable, events wait; if there are too many, the oldest are dropped. An event is a flat
    mapping: `event` (its kind), `attempt`, `run`, `step`, and `data`, its JSON. Long data is published in parts. Data
    that is too large is left out and `bytes` gives its size, beside `call_id` and `name` if it is about a tool call; if
    data cannot be written as JSON, `error` says why. `within` is the call that an agent runs in, if it is in one. An
    event of kind `dropped` counts dropped events.

    Besides the agent's own events there are `call_made` and `call_replayed`, with `call` (model, tool, …) and `name`,
    and `run_failed`, with the class of its `error`. A `part_end` with `cut` ends a part that the model did not end,
    because its attempt or its request was broken off. `told` is what earlier attempts told, of which what is open is
    closed first. `overtaken` is called if the store says that the run may not go on.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Mapping[str, str]]], bool],
        *,
        attempt: int,
        told: Told | None = None,
        overtaken: Callable[[], object] = lambda: None,
    ) -> None:
        self._send, self._attempt, self._overtaken = send, str(attempt), overtaken
        self._waiting: deque[Mapping[str, str]] = deque()
        self._bytes = 0  # of the data that waits
        self._dropped, self._away = 0, False
        self._lock = real().Lock()
        self._told, self._within = told or Told(), dict[str, str]()
        self.close()

    def begin(self, run_id: str, *, within: str) -> None:
        """Note in which call a run begins; empty if in none."""
        if within:
            self._within[run_id] = within

    def put(self, run_id: str, step: int, event: Any) -> None:
        """Queue an event of pydantic-ai for sending; may be called from any thread."""
        self._put(self._fields(run_id, step, event))

    def put_new(self, run_id: str, step: int, event: Any) -> None:
        """Do what `put` does, unless an earlier attempt told the same."""
        fields = self._fields(run_id, step, event)
        with self._lock:
            repeated = self._told.is_repeated(fields)
        if not repeated:
            self._put(fields)

    def put_part(self, run_id: str, step: int, start: Any, end: Any) -> None:
        """Queue the start and the end of a part of an answer that is replayed, unless it was told in full before."""
        fields = self._fields(run_id, step, end)
        with self._lock:
            known = self._told.has_part(fields)
        if not known:
            self.put(run_id, step, start)
            self._put(fields)

    def begin_answer(self, run_id: str, step: int) -> None:
        """Note that the events of a model's answer are put as they come."""
        self._told.begin_answer(run_id, str(step))

    def has_answer(self, run_id: str, step: int) -> bool:
        """Say whether the events of a model's answer were put as they came, now or in an earlier attempt."""
        return self._told.has_answer(run_id, str(step))

    def tell(self, event: str, **fields: str) -> None:
        """Queue an event of our own for sending; may be called from any thread."""
        self._put({"event": event, "attempt": self._attempt, **fields})

    def close(self, run_id: str | None = None) -> None:
        """End the parts that are open in a run, or in all runs."""
        with self._lock:
            ends = list(self._told.close(run_id))
        for event in ends:
            self._put({**event, "attempt": self._attempt})

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Send events as they come while the block runs, and the rest when it ends."""
        ended = asyncio.Event()
        flow = asyncio.create_task(self._flow(ended))
        try:
            yield
        finally:
            ended.set()
            await flow
            if self._waiting:
                logger.warning(
                    "%d events of an agent were not sent", len(self._waiting), extra={"action": "events_lost"}
                )

    def _fields(self, run_id: str, step: int, event: Any) -> dict[str, str]:
        fields = {"event": str(event.event_kind), "run": run_id, "step": str(step), "attempt": self._attempt}
        if (within := self._within.get(run_id)) is not None:
            fields["within"] = within
        kind: Any = type(event)
        try:
            data = _adapter(kind).dump_json(event, warnings=False)
        except Exception as error:  # noqa: BLE001 - classes and serializers of events may be the user's
            return {**fields, "error": type(error).__name__}
        if len(data) <= MOST_BYTES:
            return {**fields, "data": data.decode()}
        part = getattr(event, "part", None)
        about = {"call_id": getattr(part, "tool_call_id", None), "name": getattr(part, "tool_name", None)}
        known = {name: value for name, value in about.items() if isinstance(value, str)}
        return {**fields, **known, "bytes": str(len(data))}

    def _put(self, fields: Mapping[str, str]) -> None:
        with self._lock:
            self._told.add(fields)
            self._waiting.append(fields)
            self._bytes += _size(fields)
            while len(self._waiting) > MOST_WAITING or self._bytes > MOST_BYTES_WAITING:
                self._bytes -= _size(self._waiting.popleft())
                self._dropped += 1

    async def _flow(self, ended: asyncio.Event) -> None:
        pauses = patience(PAUSE, LONGEST_PAUSE)
        while not ended.is_set():
            await self._send_waiting()
            if not self._away:
                pauses = patience(PAUSE, LONGEST_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(next(pauses)):
                    await ended.wait()
        await self._send_waiting()

    async def _send_waiting(self) -> None:
        """Send everything that waits now; what cannot be sent keeps waiting."""
        while taken := self._taken():
            dropped, events = taken
            try:
                sent = await asyncio.to_thread(self._send_parts, [*self._notice(dropped), *events])
            except HopUnknown:  # the store lost its data; the next attempt sends its own events
                return
            except PaigeantError as error:
                self._give_back(dropped, events)
                if not self._away:  # logged once: otherwise each of a thousand runs would log it at every attempt
                    logger.warning("events of an agent are waiting: %s", error, extra={"action": "events_wait"})
                self._away = True
                return
            except Exception as error:  # noqa: BLE001 - an error that no store should raise must not fail the step
                self._give_back(dropped + len(events), ())
                if not events:  # the error is not caused by their content
                    self._away = True
                    return
                text = "dropped %d events of an agent: %s"
                logger.warning(text, len(events), type(error).__name__, extra={"action": "events_dropped"})
                continue
            self._away = False
            if not sent:  # another attempt sends its own events
                self._overtaken()
                return

    def _notice(self, dropped: int) -> Sequence[Mapping[str, str]]:
        return ({"event": "dropped", "attempt": self._attempt, "count": str(dropped)},) if dropped else ()

    def _send_parts(self, events: Sequence[Mapping[str, str]]) -> bool:
        return self._send([part for event in events for part in in_parts(event)])

    def _taken(self) -> tuple[int, list[Mapping[str, str]]] | None:
        """Take a batch and how many events before it were dropped; None if there is nothing to send."""
        batch: list[Mapping[str, str]] = []
        size = 0
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            while self._waiting and len(batch) < MOST_AT_ONCE:
                size += _size(self._waiting[0])
                if batch and size > MOST_BYTES_AT_ONCE:
                    break
                batch.append(self._waiting.popleft())
            self._bytes -= sum(map(_size, batch))
        return (dropped, batch) if dropped or batch else None

    def _give_back(self, dropped: int, events: Sequence[Mapping[str, str]]) -> None:
        """Let what was taken wait again, as far as there is room; the oldest are dropped."""
        left = list(events)
        with self._lock:
            while left and len(self._waiting) < MOST_WAITING:
                size = _size(left[-1])
                if self._bytes + size > MOST_BYTES_WAITING:
                    break
                self._waiting.appendleft(left.pop())
                self._bytes += size
            self._dropped += dropped + len(left)


@lru_cache(256)  # those of pydantic-ai take 75 ms, and are the same in each hop
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _size(event: Mapping[str, str]) -> int:
    return len(event.get("data", ""))
