"""Following a workflow by calls that never wait, for whoever has an event loop or a pool of threads of his own."""

from __future__ import annotations

from paigeant_celery.broker.port import Transport
from paigeant_celery.client.event_reading import EventReading
from paigeant_celery.client.readings import CurrentState
from paigeant_celery.client.tree import current_state
from paigeant_celery.core.errors import StoreRequired, UnknownWorkflow
from paigeant_celery.core.events import WorkflowEvent
from paigeant_celery.core.names import is_correlation_id
from paigeant_celery.store.timeline import before, place_of

__all__ = ["Following"]

AT_ONCE = 200  # entries; the events of an agent that writes come some dozens a second


class Following:
    """How far somebody has read the events of a workflow; `after` is the cursor behind which to go on."""

    def __init__(self, transport: Transport, correlation_id: str, after: str | None = None) -> None:
        if transport.store is None:
            raise StoreRequired("events")
        self._store, self._correlation_id, self._reading = transport.store, correlation_id, EventReading(after)

    def look(self) -> tuple[list[WorkflowEvent], CurrentState]:
        """Return what has happened since the last look, at most some of it, and where the workflow stood before.

        So whoever got nothing, and a state of one that has ended, has read everything. Raises `UnknownWorkflow`.
        """
        record = self._store.workflow(self._correlation_id) if is_correlation_id(self._correlation_id) else None
        if record is None:
            raise UnknownWorkflow(self._correlation_id, self._store.address)
        stored = self._store.events(self._correlation_id, after=self._reading.after, limit=AT_ONCE)
        return self._reading.whole(stored, self._store, record), current_state(record)

    def knows(self, cursor: str) -> bool:
        """Say whether the event with this cursor is there: it is not if it is of another workflow, or was dropped."""
        place = place_of(cursor)
        stored = self._store.events(self._correlation_id, after=str(before(place)), limit=1)
        return bool(stored) and place_of(stored[0].cursor).event == place.event

    @property
    def found(self) -> int:
        """How many entries the last look found; those of long events are several."""
        return self._reading.found
