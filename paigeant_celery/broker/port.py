"""The seam to a broker: what is published for a hop, and what a transport gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from paigeant_celery.core.settings import Settings
from paigeant_celery.store.port import DeadLetter, Store

__all__ = ["Delivery", "Letters", "Publisher", "Transport"]


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One message to publish: the hop, its Celery task, and what Flower and logs may show of it."""

    activity: str
    hop_id: str
    root_id: str
    parent_id: str | None
    queue: str
    envelope: str
    summary: str
    timeout: float | None  # seconds of one attempt, where step or activity names them
    attempt: int = 1  # which one it asks for, where no store counts them


class Letters(Protocol):
    """The queue of dead letters: where they are kept without a store, with the envelope of what may go on later.

    To look at them takes them off the queue for a moment; two who look at once see each a part.
    """

    def bury(self, letter: DeadLetter, envelope: str | None) -> None:
        """Keep a dead letter; raises `TransientError` where the broker cannot be reached."""
        ...

    def look(self) -> Sequence[tuple[DeadLetter, str | None]]:
        """Return the letters and the envelopes that go with them, newest first."""
        ...

    def take(self, letter_id: str) -> bool:
        """Take a letter off the queue; False where there is none."""
        ...


class Publisher(Protocol):
    """Puts a hop's message on its queue."""

    def queue_for(self, activity: str, queue: str | None) -> str:
        """Return the queue of a step: its own, else the host's route, else the one of its name."""
        ...

    def publish(self, delivery: Delivery) -> None:
        """Send the message; raises `TransientError` where the broker cannot be reached."""
        ...

    def waiting(self, queue: str) -> int:
        """Return how many messages wait on a queue, none where there is no such queue; raises `TransientError`."""
        ...


@runtime_checkable
class Transport(Protocol):
    """A broker with its store and settings, as the services see it."""

    @property
    def store(self) -> Store | None: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def publisher(self) -> Publisher: ...

    @property
    def letters(self) -> Letters | None:
        """Where dead letters are kept without a store; None with one."""
        ...

    def check_dispatch(self) -> None:
        """Raise `ConfigurationError` where messages sent from here would not run as they must."""
        ...
