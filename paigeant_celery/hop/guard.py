"""The guard: what a message must be before anything is claimed for it."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field

from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.message import PaigeantMessage, parse
from paigeant_celery.core.settings import Settings

__all__ = [
    "MOST_PUT_BACK",
    "Arrival",
    "check_address",
    "content_of",
    "given_back_of",
    "is_misaddressed",
    "read",
    "refusal_of",
]

MOST_PUT_BACK = 20  # times, with a pause each; a message that no worker reads then becomes a dead letter

# Counted, because the store compares tokens of one owner alone, and an owner is new in each process. Random bytes of
# the system would cost a turn of the interpreter's lock for each delivery.
_deliveries = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A message as it arrived: the id and activity from its headers, and the envelope or the whole content, unread.

    `fault` is what the receiver already found wrong with the message around the envelope. `token` names this delivery
    among those of its owner: claiming again with it gets the answer of the first claim, whose reply may have been lost.
    `attempt` counts only if no store does, and so does `given_back`: how often workers that could not read it put it
    back. `trace` names the span of this delivery, if it has one.
    """

    hop_id: str
    activity: str
    envelope: object
    fault: MessageError | None = None
    queue: str | None = None
    attempt: int = 1
    given_back: int = 0
    trace: str = ""
    token: str = field(default_factory=lambda: str(next(_deliveries)))


def given_back_of(header: object) -> int:
    """Read how often a message was put back; what is no such number counts as often enough."""
    if header is None:
        return 0
    return header if type(header) is int and 0 <= header <= MOST_PUT_BACK else MOST_PUT_BACK


def read(arrival: Arrival, settings: Settings) -> PaigeantMessage:
    """Return the message of a delivery, or raise `MessageError` with the reason why it is not one."""
    if arrival.fault is not None:
        raise arrival.fault
    return parse(arrival.envelope, max_size=settings.max_message_size, max_steps=settings.max_steps)


def check_address(arrival: Arrival, message: PaigeantMessage) -> None:
    """Raise `MessageError` if a message was not sent as the hop that it asks for."""
    step = message.step
    if message.message_id != arrival.hop_id:
        raise MessageError("inconsistent_slip", "message_id", f"sent as task {arrival.hop_id[:160]!r}")
    if step.activity != arrival.activity:
        raise MessageError("inconsistent_slip", "slip.itinerary[0]", f"sent to the activity {arrival.activity!r}")


def is_misaddressed(arrival: Arrival, message: PaigeantMessage | None) -> bool:
    """Say whether the fault is around the envelope, so that the same envelope may be sound in another message."""
    step = message.slip.next_step if message is not None else None
    return arrival.fault is not None or (step is not None and step.activity != arrival.activity)


def refusal_of(arrival: Arrival, fault: MessageError) -> dict[str, object]:
    """Return what a log may say about a refused message: reason, ids, size and digest, never its content."""
    content = content_of(arrival)
    return {
        "reason": fault.reason,
        "hop": arrival.hop_id[:300],
        "activity": arrival.activity[:200],
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def content_of(arrival: Arrival) -> bytes:
    """Return what arrived, as the bytes to measure and digest."""
    content = arrival.envelope
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else repr(content)).encode(errors="surrogatepass")
