"""The stream events of an agent on their way to those who watch its workflow: in batches, alongside the run."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from pydantic import TypeAdapter

from paigeant_celery.activities.real_threads import real
from paigeant_celery.core.errors import HopUnknown, PaigeantError
from paigeant_celery.core.patience import patience

__all__ = ["EventFeed"]

PAUSE = 0.05  # seconds between two batches; text that appears faster than that looks the same
LONGEST_PAUSE = 2.0  # seconds between two attempts to reach an unavailable store; starts at `PAUSE` and doubles
MOST_AT_ONCE = 200  # events per batch
MOST_WAITING = 2000  # events that wait while the store is unavailable
MOST_BYTES = 8 * 1024  # of one event's data

logger = logging.getLogger(__name__)


class EventFeed:
    """Sends events during a run. The run never waits for it, and no step fails because an event cannot be sent.

    While the store is unavailable, events wait; if there are too many, the oldest are dropped. An event is a flat
    mapping: `event` (its kind), `attempt`, `run`, `step`, and `data`, its JSON. Data that is too large is left out and
    `bytes` gives its size; if data cannot be written as JSON, `error` says why. An event of kind `dropped` counts
    dropped events. Besides the agent's own events there are `call_made` and `call_replayed`, with `call` (model, tool,
    …) and `name`. `overtaken` is called if the store says that the run may not go on.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Mapping[str, str]]], bool],
        *,
        attempt: int,
        overtaken: Callable[[], object] = lambda: None,
    ) -> None:
        self._send, self._attempt, self._overtaken = send, str(attempt), overtaken
        self._waiting: deque[Mapping[str, str]] = deque()
        self._dropped, self._away = 0, False
        self._lock = real().Lock()
        self._adapters: dict[type[Any], TypeAdapter[Any]] = {}

    def put(self, run_id: str, step: int, event: Any) -> None:
        """Queue an event of pydantic-ai for sending; may be called from any thread."""
        fields = {"event": str(event.event_kind), "run": run_id, "step": str(step), "attempt": self._attempt}
        try:
            data = self._adapter(type(event)).dump_json(event, warnings=False)
        except Exception as error:  # noqa: BLE001 - classes and serializers of events may be the user's
            self._put({**fields, "error": type(error).__name__})
            return
        self._put({**fields, "data": data.decode()} if len(data) <= MOST_BYTES else {**fields, "bytes": str(len(data))})

    def tell(self, event: str, **fields: str) -> None:
        """Queue an event of our own for sending; may be called from any thread."""
        self._put({"event": event, "attempt": self._attempt, **fields})

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

    def _put(self, fields: Mapping[str, str]) -> None:
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(fields)

    def _adapter(self, kind: type[Any]) -> TypeAdapter[Any]:
        if kind not in self._adapters:
            self._adapters[kind] = TypeAdapter(kind)
        return self._adapters[kind]

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
                sent = await asyncio.to_thread(self._send, [*self._notice(dropped), *events])
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

    def _taken(self) -> tuple[int, list[Mapping[str, str]]] | None:
        """Take a batch and how many events before it were dropped; None if there is nothing to send."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            batch = [self._waiting.popleft() for _ in range(min(MOST_AT_ONCE, len(self._waiting)))]
        return (dropped, batch) if dropped or batch else None

    def _give_back(self, dropped: int, events: Sequence[Mapping[str, str]]) -> None:
        with self._lock:
            room = max(0, MOST_WAITING - len(self._waiting))
            kept = events[max(0, len(events) - room) :]
            self._waiting.extendleft(reversed(kept))
            self._dropped += dropped + len(events) - len(kept)
