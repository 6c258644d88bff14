"""The queue of dead letters, used without a store: letters as messages that no worker consumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast

from kombu.entity import Queue

from paigeant_celery.broker.threads import BrokerThreads
from paigeant_celery.store.port import DeadLetter

__all__ = ["LetterQueue"]

MOST_LOOKED_AT = 10_000  # letters read at once
READ_WITHIN = 60.0  # seconds; each letter is a round trip to some brokers

Found = tuple[DeadLetter, str | None]
T = TypeVar("T")


class LetterQueue:
    """Keeps each letter as a durable message of its own, with the envelope of the hop if that may go on later."""

    def __init__(self, threads: BrokerThreads, name: str) -> None:
        self._threads = threads
        self._queue = cast("Any", Queue)(name, routing_key=name, durable=True)  # Kombu ships no types

    def bury(self, letter: DeadLetter, envelope: str | None) -> None:
        """Keep a letter; burying it twice keeps it twice."""
        now = datetime.now(UTC)
        kept = replace(letter, at=now, cursor=f"{now.timestamp():017.6f}-{letter.letter_id}")
        body = {"letter": {**asdict(kept), "at": now.isoformat()}, "envelope": envelope}
        self._ask(partial(self._keep, body), within=None)

    def look(self) -> Sequence[Found]:
        """Return the letters, newest first, and put them back on the queue."""
        return self._ask(self._look)

    def take(self, letter_id: str) -> bool:
        """Take a letter and its copies off the queue; False if there is none."""
        return self._ask(partial(self._take, letter_id))

    def _ask(self, question: Callable[[Any], T], *, within: float | None = READ_WITHIN) -> T:
        asked = self._threads.begin(lambda link: question(link.connection), lane=self._queue.name, within=within)
        return asked.wait()

    def _keep(self, body: dict[str, Any], connection: Any) -> None:
        with connection.channel() as channel:
            self._queue(channel).declare()  # each time, because somebody may have deleted it
            connection.Producer(channel).publish(
                body, serializer="json", exchange="", routing_key=self._queue.name, delivery_mode=2
            )

    def _look(self, connection: Any) -> Sequence[Found]:
        with self._read(connection) as messages:
            found = [read for message in messages if (read := _found(message)) is not None]
        return sorted(found, key=lambda kept: kept[0].cursor, reverse=True)

    def _take(self, letter_id: str, connection: Any) -> bool:
        taken = False
        with self._read(connection) as messages:
            for message in messages:
                read = _found(message)
                if read is not None and read[0].letter_id == letter_id:
                    message.ack()
                    taken = True
        return taken

    @contextmanager
    def _read(self, connection: Any) -> Iterator[list[Any]]:
        """Yield all messages of the queue; those that are not acknowledged inside the block go back."""
        with connection.channel() as channel:
            bound = self._queue(channel)
            bound.declare()
            messages: list[Any] = []
            while len(messages) < MOST_LOOKED_AT and (message := bound.get(no_ack=False)) is not None:
                messages.append(message)
            try:
                yield messages
            finally:
                for message in messages:
                    if not message.acknowledged:
                        message.requeue()


def _found(message: Any) -> Found | None:
    """Return the letter in a message and its envelope; None if the message is not a letter of ours."""
    try:
        body = json.loads(message.body)
        known = {field.name for field in fields(DeadLetter)}  # a later version may keep more
        kept = {name: value for name, value in body["letter"].items() if name in known}
        letter = DeadLetter(**{**kept, "at": datetime.fromisoformat(kept["at"])})
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    envelope = body.get("envelope")
    return letter, envelope if isinstance(envelope, str) else None
