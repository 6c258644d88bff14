"""The dead letters of the store in memory: those of refused messages expire, those of parked hops do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.store.port import DeadLetter

__all__ = ["FOR_EVER", "LetterBox"]

FOR_EVER = datetime.max.replace(tzinfo=UTC)


class LetterBox:
    """Letters by their ids, each with the time at which it expires. The store's lock protects it."""

    def __init__(self, *, ttl: timedelta, most: int, numbers: Iterator[int]) -> None:
        self.letters: dict[str, tuple[datetime, DeadLetter]] = {}
        self.dropped = 0
        self._ttl, self._most, self._numbers = ttl, most, numbers

    def bury(self, letter: DeadLetter, *, now: datetime) -> bool:
        """Keep the letter of a refused message for a while. If there are too many, the oldest is dropped."""
        if letter.letter_id in self.letters:
            return False
        refused = [letter_id for letter_id, (until, _) in self.letters.items() if until != FOR_EVER]
        if len(refused) >= self._most:
            del self.letters[refused[0]]
            self.dropped += 1
        self.letters[letter.letter_id] = now + self._ttl, self._dated(letter, now)
        return True

    def keep(self, letter: DeadLetter, *, now: datetime) -> None:
        """Keep the letter of a parked hop until it is deleted. If it was kept before, its text stays the same."""
        _, known = self.letters.get(letter.letter_id, (now, None))
        self.letters[letter.letter_id] = FOR_EVER, known or self._dated(letter, now)

    def forget(self, letter_id: str) -> bool:
        """Delete a letter; False if there is none."""
        return self.letters.pop(letter_id, None) is not None

    def expire(self, *, now: datetime) -> None:
        """Delete the letters that have expired."""
        for letter_id in [key for key, (end, _) in self.letters.items() if end <= now]:
            del self.letters[letter_id]

    def get(self, letter_id: str) -> DeadLetter | None:
        """Return a letter, or None."""
        kept = self.letters.get(letter_id)
        return kept[1] if kept is not None else None

    def newest(self, *, after: str | None, limit: int) -> Sequence[DeadLetter]:
        """Return letters after the cursor `after`, newest first; raises `InvalidInput` if it is not a cursor."""
        if after is not None and not (after.isascii() and after.isdigit()):
            raise InvalidInput("bad_cursor", "after", "is not the cursor of a dead letter of this store")
        newest = sorted((kept for _, kept in self.letters.values()), key=lambda kept: -int(kept.cursor))
        found = [letter for letter in newest if after is None or int(letter.cursor) < int(after)]
        return found[: max(limit, 0)]

    def _dated(self, letter: DeadLetter, now: datetime) -> DeadLetter:
        return replace(letter, at=now, cursor=str(next(self._numbers)))
