"""Reading the events of a workflow, each with the path of its step, of which most know only the hop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from paigeant_celery.core.errors import MessageError, StoreCorrupt
from paigeant_celery.core.events import Joining, WorkflowEvent
from paigeant_celery.core.message import reread
from paigeant_celery.core.names import block_of, hop_id
from paigeant_celery.store.port import Store, StoredEvent, WorkflowRecord

__all__ = ["EventReading"]

TELLING = ("claimed", "completed")  # events that have the path of their own step


class _Paths:
    """Learns from the events that it sees; it asks the store, once for each hop, about those that it did not see."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def learn(self, events: Iterable[Mapping[str, str]]) -> None:
        """Note what events tell of their hops."""
        for fields in events:
            if fields.get("type") in TELLING and "step" in fields:
                self._known[fields.get("hop", "")] = fields["step"]

    def of(self, hop: str, store: Store, record: WorkflowRecord) -> str:
        """Return the path of the step of a hop; "" if nothing is known of it any more."""
        if hop and hop not in self._known:
            with suppress(MessageError, StoreCorrupt):
                self._ask(hop, store, record)
            self._known.setdefault(hop, "")
        return self._known.get(hop, "")

    def _ask(self, hop: str, store: Store, record: WorkflowRecord) -> None:
        if block_of(hop) is not None:
            reading = store.hop(hop)
            self._read(reading.envelope if reading is not None else "")
        else:
            self._read(record.envelope)

    def _read(self, envelope: str) -> None:
        """Learn what an envelope tells of its own hop and of those before it in its slip."""
        if not envelope:
            return
        message = reread(envelope)
        slip = message.slip
        for ran in slip.executed:
            self._known.setdefault(hop_id(message.correlation_id, ran.place), slip.path_of(ran.step_id))
        if slip.next_step is not None:
            self._known.setdefault(message.message_id, message.path)


class EventReading:
    """How far events were read: those of long data are several entries, and `found` is how many the last look found."""

    def __init__(self, after: str | None) -> None:
        self.after, self.found, self._joining, self._paths = after, 0, Joining(), _Paths()

    def whole(self, stored: Sequence[StoredEvent], store: Store, record: WorkflowRecord) -> list[WorkflowEvent]:
        """Return the events that entries are; a cursor of theirs is behind all entries of its event."""
        self.found = len(stored)
        self.after = stored[-1].cursor if stored else self.after
        self._paths.learn(entry.fields for entry in stored)
        events = ((entry, self._joining.whole(entry.fields)) for entry in stored)
        return [
            _event(entry, fields, self._paths.of(fields.get("hop", ""), store, record))
            for entry, fields in events
            if fields is not None
        ]


def _event(stored: StoredEvent, whole: Mapping[str, str], path: str) -> WorkflowEvent:
    fields = dict(whole)
    type_, hop_id = fields.pop("type", ""), fields.pop("hop", "")
    return WorkflowEvent(cursor=stored.cursor, at=stored.at, type=type_, hop_id=hop_id, fields=fields, path=path)
