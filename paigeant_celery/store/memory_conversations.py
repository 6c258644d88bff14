"""The histories of the store in memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from paigeant_celery.core.conversations import ConversationKey
from paigeant_celery.core.hops import EPOCH
from paigeant_celery.store.conversations import in_pieces
from paigeant_celery.store.port import Heard, Said

__all__ = ["Histories"]

MILLISECOND = timedelta(milliseconds=1)


@dataclass(kw_only=True)
class History:
    """One history. `log` tells it from a later one of the same id; without `until` it ends with its workflow."""

    log: str
    text: str = ""
    pieces: int = 0
    until: datetime | None = None

    @property
    def heard(self) -> Heard:
        """How much of it there is now."""
        return Heard(pieces=self.pieces, size=len(self.text.encode()), log=self.log)


class Histories:
    """Histories by their conversations. The store's lock protects them."""

    def __init__(self, *, ttl: timedelta) -> None:
        self._ttl = ttl
        self._histories: dict[ConversationKey, History] = {}

    def hear(self, key: ConversationKey, *, now: datetime) -> Heard:
        """Return how much of a conversation there is, and keep it for longer."""
        history = self._histories.get(key)
        if history is None:
            return Heard()
        self._keep(key, history, now)
        return history.heard

    def keep(self, key: ConversationKey, *, now: datetime) -> None:
        """Keep a conversation for longer, if it is there."""
        if (history := self._histories.get(key)) is not None:
            self._keep(key, history, now)

    def append(self, said: Said, *, hop_id: str, now: datetime) -> None:
        """Add what a step said."""
        key = said.conversation
        history = self._histories.setdefault(key, History(log=f"{hop_id}@{(now - EPOCH) // MILLISECOND}"))
        history.text += said.text
        history.pieces += len(in_pieces(said.text))
        self._keep(key, history, now)

    def read(self, key: ConversationKey, heard: Heard | None) -> str | None:
        """Return a history as a hop heard it, or all of it."""
        history = self._histories.get(key)
        if history is None:
            return None
        wanted = heard or history.heard
        if wanted.log != history.log:
            return None
        return history.text.encode()[: wanted.size].decode()

    def expire(self, *, now: datetime) -> None:
        """Delete those that nobody has continued for long enough."""
        for key in [
            key for key, history in self._histories.items() if history.until is not None and history.until <= now
        ]:
            del self._histories[key]

    def forget(self, workflow: str) -> None:
        """Delete those of a workflow."""
        for key in [key for key in self._histories if key.workflow == workflow]:
            del self._histories[key]

    def _keep(self, key: ConversationKey, history: History, now: datetime) -> None:
        if key.workflow is None:
            history.until = now + self._ttl
