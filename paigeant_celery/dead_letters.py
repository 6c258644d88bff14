"""Dead letters: what is kept of messages that were refused and hops that were parked, and looking at them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import JsonValue

from paigeant_celery.errors import MessageError
from paigeant_celery.message import PaigeantMessage, sha256
from paigeant_celery.names import split_hop_id
from paigeant_celery.ports import DeadLetter, Store
from paigeant_celery.slip import RoutingSlip

__all__ = ["DeadLetters", "letter_of", "redacted"]

SAMPLE_SIZE = 2048  # characters of a sample, which are ASCII
MOST_READ = 2**20  # characters that are parsed for a sample; of more only the shape of the beginning is shown
MOST_TEXT = 1000  # characters of the text that says what was wrong

# The words of our own format; any other key may hold what is confidential.
KNOWN_KEYS = {*PaigeantMessage.model_fields, *RoutingSlip.model_fields, "agent_name", "prompt", "deps", "arguments"}


class DeadLetters:
    """What a store keeps of refused messages and parked hops."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Return letters, newest first; `after` is the `cursor` of the last one seen."""
        return self._store.dead_letters(after=after, limit=limit)

    def show(self, letter_id: str) -> DeadLetter | None:
        """Return a letter, or None."""
        return self._store.dead_letter(letter_id)

    def redrive(self, letter_id: str) -> bool:
        """Let the parked workflow of a letter go on, and delete the letter; False where it is not parked."""
        letter = self._store.dead_letter(letter_id)
        if letter is None or letter.correlation_id is None:
            return False
        return self._store.redrive(letter.correlation_id) == "redriven" and self.drop(letter_id)

    def drop(self, letter_id: str) -> bool:
        """Delete a letter; False where there is none."""
        return self._store.forget_letter(letter_id)


def letter_of(
    content: str, fault: MessageError, *, hop_id: str, activity: str | None, queue: str | None, worker: str
) -> DeadLetter:
    """Return the letter of a refused message; one that is delivered and refused again gets the same id."""
    ids = split_hop_id(hop_id)
    digest = sha256(content)
    return DeadLetter(
        letter_id=sha256("\n".join((fault.reason, digest, hop_id)))[:32],
        reason=fault.reason,
        text=str(fault)[:MOST_TEXT],
        hop_id=hop_id if ids is not None else None,
        correlation_id=ids[0] if ids is not None else None,
        activity=activity[:200] if activity is not None else None,
        queue=queue,
        size=len(content.encode(errors="surrogatepass")),
        sha256=digest,
        sample=redacted(content),
        worker=worker,
    )


def redacted(content: str) -> str:
    """Return the beginning of a message in which every value is replaced: JSON keeps its structure, else the shape."""
    if len(content) <= MOST_READ:
        try:
            return json.dumps(_masked(json.loads(content)), separators=(",", ":"))[:SAMPLE_SIZE]
        except (ValueError, RecursionError):
            pass
    return _shape(content[:SAMPLE_SIZE])


def _masked(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {
            key if key in KNOWN_KEYS else f"{_shape(key)}#{n}": _masked(v) for n, (key, v) in enumerate(value.items())
        }
    if isinstance(value, list):
        return [_masked(item) for item in value]
    if isinstance(value, str):
        return f"<{len(value)} characters>"
    return value if value is None or isinstance(value, bool) else 0


def _shape(text: str) -> str:
    return "".join(_mask(character) for character in text)


def _mask(character: str) -> str:
    if not character.isascii():
        return "?"
    if character.isalpha():
        return "x"
    if character.isdigit():
        return "0"
    return character if character.isprintable() else " "
