"""The paths of the steps that events are about, of which most events know only the hop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from paigeant_celery.core.errors import MessageError, StoreCorrupt
from paigeant_celery.core.message import reread
from paigeant_celery.core.names import block_of, hop_id
from paigeant_celery.store.port import Store, WorkflowRecord

__all__ = ["EventPaths"]

TELLING = ("claimed", "completed")  # events that have the path of their own step


class EventPaths:
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
