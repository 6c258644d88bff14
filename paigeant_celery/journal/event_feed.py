"""The stream events of an agent on their way to those who watch its workflow: in batches, beside the run."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from pydantic import TypeAdapter

from paigeant_celery.core.errors import PaigeantError
from paigeant_celery.core.patience import patience

__all__ = ["EventFeed"]

PAUSE = 0.05  # seconds between two batches; text that is typed faster than that looks the same
LONGEST_PAUSE = 2.0  # seconds between two attempts to reach a store that is away; begins with `PAUSE`, and doubles
MOST_AT_ONCE = 200  # events of a batch
MOST_WAITING = 2000  # events that wait while the store is away
MOST_BYTES = 8 * 1024  # of one event's data

logger = logging.getLogger(__name__)


class EventFeed:
    """Sends events while a run goes on. The run never waits for it, and an event that cannot be sent fails no step.

    While the store is away they wait, and the oldest of too many give way. An event is a flat mapping: `event` (its
    kind), `attempt`, `run`, `step`, and `data`, its JSON. Too large data are left out, and `bytes` says how many; of
    data that are no JSON, `error` says why. Dropped events are counted in one of kind `dropped`. Beside the agent's own
    there are `call_made` and `call_replayed`, with `call` (model, tool, …) and `name`.
    """

    def __init__(self, send: Callable[[Sequence[Mapping[str, str]]], bool], *, attempt: int) -> None:
        self._send, self._attempt = send, str(attempt)
        self._waiting: deque[Mapping[str, str]] = deque()
        self._dropped, self._away = 0, False
        self._lock = threading.Lock()
        self._adapters: dict[type[Any], TypeAdapter[Any]] = {}

    def put(self, run_id: str, step: int, event: Any) -> None:
        """Let an event of pydantic-ai be sent; from any thread."""
        fields = {"event": str(event.event_kind), "run": run_id, "step": str(step), "attempt": self._attempt}
        try:
            data = self._adapter(type(event)).dump_json(event)
        except Exception as error:  # noqa: BLE001 - classes and serializers of events may be the user's
            self._put({**fields, "error": type(error).__name__})
            return
        self._put({**fields, "data": data.decode()} if len(data) <= MOST_BYTES else {**fields, "bytes": str(len(data))})

    def tell(self, event: str, **fields: str) -> None:
        """Let an event of our own be sent; from any thread."""
        self._put({"event": event, "attempt": self._attempt, **fields})

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Send inside the block what comes, and at its end what is left."""
        ended = asyncio.Event()
        flow = asyncio.create_task(self._flow(ended))
        try:
            yield
        finally:
            ended.set()
            await flow
            if self._waiting:
                logger.warning(
                    "%d events of an agent are not told", len(self._waiting), extra={"action": "events_lost"}
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
        """Send all that waits now; what cannot be sent goes on waiting."""
        while taken := self._taken():
            dropped, events = taken
            try:
                sent = await asyncio.to_thread(self._send, [*self._notice(dropped), *events])
            except PaigeantError as error:
                self._give_back(dropped, events)
                if not self._away:  # told once: each of a thousand runs would tell it at every attempt
                    logger.warning("events of an agent wait: %s", error, extra={"action": "events_wait"})
                self._away = True
                return
            except Exception as error:  # noqa: BLE001 - one that no store should raise must not cost the step
                self._give_back(dropped + len(events), ())
                if not events:  # it is not due to what they hold
                    self._away = True
                    return
                text = "%d events of an agent are dropped: %s"
                logger.warning(text, len(events), type(error).__name__, extra={"action": "events_dropped"})
                continue
            self._away = False
            if not sent:  # overtaken: another attempt tells it anew
                return

    def _notice(self, dropped: int) -> Sequence[Mapping[str, str]]:
        return ({"event": "dropped", "attempt": self._attempt, "count": str(dropped)},) if dropped else ()

    def _taken(self) -> tuple[int, list[Mapping[str, str]]] | None:
        """Take a batch, with how many came before it and were dropped; None where there is nothing to tell."""
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
