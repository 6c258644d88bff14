"""What all workflows wait for, and answering it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from paigeant_celery.broker.port import Transport, checked_transport
from paigeant_celery.client.answering import AnswersWaits
from paigeant_celery.client.readings import PendingWait
from paigeant_celery.client.waits import pending_wait
from paigeant_celery.core.errors import InvalidInput

__all__ = ["Inbox"]


class Inbox(AnswersWaits):
    """The open waits of all workflows of a store. Its calls raise `StoreRequired` without one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = checked_transport(transport)

    async def pending(self, *, limit: int = 100, after: str | None = None) -> Sequence[PendingWait]:
        """Return what somebody, or a signal, could answer now, oldest first; `after` is a `cursor` that was read.

        Whoever reads it gets the tokens: show them to nobody who may not answer.
        """
        return await asyncio.to_thread(self.pending_sync, limit=limit, after=after)

    def pending_sync(self, *, limit: int = 100, after: str | None = None) -> Sequence[PendingWait]:
        """Do what `pending` does, for code without an event loop."""
        if after is not None and not isinstance(after, str):
            raise InvalidInput("bad_cursor", "after", "is not the `cursor` of a wait that was read before")
        asked = self._store("pending").asked(after=after, limit=limit)
        return [pending_wait(each.wait, each.hop_id, cursor=each.cursor) for each in asked]
