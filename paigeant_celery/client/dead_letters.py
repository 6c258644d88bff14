"""Dead letters of refused messages and parked hops: listing, reading, redriving and deleting them."""

from __future__ import annotations

from collections.abc import Sequence

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.port import Letters, Transport, checked_transport
from paigeant_celery.core.errors import InvalidInput, StoreRequired
from paigeant_celery.core.message import reread
from paigeant_celery.core.names import split_hop_id, text_fault
from paigeant_celery.store.port import DeadLetter

__all__ = ["DeadLetters"]


class DeadLetters:
    """Dead letters of refused messages and parked hops, kept in the store or, without one, on a queue of the broker."""

    def __init__(self, transport: Transport) -> None:
        self._transport = checked_transport(transport)

    def list(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Return letters, newest first; `after` is the `cursor` of the last one seen."""
        if after is not None and not isinstance(after, str):
            raise InvalidInput("bad_cursor", "after", "is not the cursor of a dead letter")
        if (store := self._transport.store) is not None:
            return store.dead_letters(after=after, limit=limit)
        found = [letter for letter, _ in self._queue.look() if after is None or letter.cursor < after]
        return found[: max(limit, 0)]

    def show(self, letter_id: str) -> DeadLetter | None:
        """Return a letter, or None if there is none of this id."""
        if not _may_be_kept(letter_id):
            return None
        if (store := self._transport.store) is not None:
            return store.dead_letter(letter_id)
        return next((letter for letter, _ in self._queue.look() if letter.letter_id == letter_id), None)

    def redrive(self, letter_id: str, *, discard_journal: bool = False) -> bool:
        """Let the hop of a letter go on with all its attempts, and delete the letter.

        With `discard_journal` the hop makes and pays for all its calls again; without a store there is no journal.
        Returns False if there is no such letter, if its workflow is not parked, or if it has no envelope that could be
        sent. Without a store, a crash between sending and deleting leaves a letter that can be redriven once more.
        """
        if (store := self._transport.store) is None:
            return self._send_again(letter_id)
        letter = self.show(letter_id)
        if letter is None or letter.correlation_id is None:
            return False
        ids = split_hop_id(letter.hop_id) if letter.hop_id is not None else None
        if ids is None or store.redrive(ids[0], place=ids[1], discard_journal=discard_journal) != "redriven":
            return False
        # The redrive deleted the parked hop's letter. If the hop parked again, there is a new one with the same id.
        again = store.dead_letter(letter_id)
        if again is not None and again.cursor == letter.cursor:
            self.drop(letter_id)
        return True

    def drop(self, letter_id: str) -> bool:
        """Delete a letter; False if there is none."""
        if not _may_be_kept(letter_id):
            return False
        if (store := self._transport.store) is not None:
            return store.forget_letter(letter_id)
        return self._queue.take(letter_id)

    def _send_again(self, letter_id: str) -> bool:
        envelopes = {letter.letter_id: envelope for letter, envelope in self._queue.look()}
        if (envelope := envelopes.get(letter_id)) is None:
            return False
        outbox, message = Outbox(self._transport.publisher, registry), reread(envelope)
        outbox.send(outbox.record_of(message, envelope), message=message)
        return self.drop(letter_id)

    @property
    def _queue(self) -> Letters:
        if self._transport.letters is None:
            raise StoreRequired("dead_letters")
        return self._transport.letters


def _may_be_kept(letter_id: str) -> bool:
    """Say whether a store can be asked for a letter of this id."""
    return isinstance(letter_id, str) and text_fault(letter_id) is None
