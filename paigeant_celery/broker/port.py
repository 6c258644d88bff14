"""The seam to a broker: what is published for a hop, and what a transport provides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.settings import Settings
from paigeant_celery.store.port import DeadLetter, Store

__all__ = ["Delivery", "Letters", "Publisher", "Transport", "checked_transport"]


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One message to publish: the hop, its Celery task, and what Flower and logs may show about it."""

    activity: str
    hop_id: str
    root_id: str
    parent_id: str | None
    queue: str
    envelope: str
    summary: str
    timeout: float | None  # seconds per attempt, if step or activity sets them
    attempt: int = 1  # the attempt that it asks for, if no store counts attempts
    given_back: int = 0  # how often it was put back on its queue because a worker could not read it
    trace_context: Mapping[str, str] = field(default_factory=dict)  # the trace of its workflow


class Letters(Protocol):
    """The queue that keeps dead letters without a store, with the envelopes of hops that may go on later.

    Looking takes the letters off the queue for a moment; if two look at once, each sees only a part.
    """

    def bury(self, letter: DeadLetter, envelope: str | None) -> None:
        """Keep a dead letter; raises `TransientError` if the broker cannot be reached."""
        ...

    def look(self) -> Sequence[tuple[DeadLetter, str | None]]:
        """Return the letters with their envelopes, newest first."""
        ...

    def take(self, letter_id: str) -> bool:
        """Take a letter off the queue; False if there is none."""
        ...


class Publisher(Protocol):
    """Puts a hop's message on its queue."""

    def queue_for(self, activity: str, queue: str | None) -> str:
        """Return the queue of a step: its own, otherwise the host's route, otherwise the one of its name."""
        ...

    def begin(self, delivery: Delivery) -> Sending[None]:
        """Have the message sent; waits for nothing. What is returned ends within `paigeant_publish_timeout`."""
        ...

    def waiting(self, queue: str) -> int:
        """Return how many messages wait on a queue, 0 if there is no such queue; raises `TransientError`."""
        ...


@runtime_checkable
class Transport(Protocol):
    """A broker with its store and settings, as services see it."""

    @property
    def store(self) -> Store | None: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def publisher(self) -> Publisher: ...

    @property
    def letters(self) -> Letters | None:
        """Where dead letters are kept without a store; None if there is a store."""
        ...

    def check_dispatch(self) -> None:
        """Raise `ConfigurationError` if messages sent from here would not run as they must."""
        ...

    def check_broker(self) -> None:
        """Raise `ConfigurationError` if the broker is not the one that the store belongs to.

        It may ask both; raises `TransientError` if the store is away.
        """
        ...

    def serves(self, activity: str) -> bool:
        """Say whether this process itself runs the steps of an activity."""
        ...


def checked_transport(transport: object) -> Transport:
    """Return what a caller passed as transport; raises `InvalidInput` if it is none."""
    if not isinstance(transport, Transport):
        text = f"must be what `get_transport(…)` returns, not a {type(transport).__name__}"
        raise InvalidInput("invalid_input", "transport", text)
    return transport
