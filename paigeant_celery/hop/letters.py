"""The dead letter of a message or hop: what may be told about it, but never its content."""

from __future__ import annotations

import hashlib
import json

from pydantic import JsonValue

from paigeant_celery.core.causes import Cause
from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.message import PaigeantMessage, encode, sha256
from paigeant_celery.core.names import split_hop_id
from paigeant_celery.core.slip import (
    ActivitySpec,
    BlockSpec,
    Branch,
    BranchOf,
    ExecutedStep,
    FunctionSpec,
    RoutingSlip,
    SleepSpec,
    TaskSpec,
    WaitSpec,
)
from paigeant_celery.hop.guard import Arrival, content_of
from paigeant_celery.hop.liveness import in_words
from paigeant_celery.hop.run import Opened
from paigeant_celery.store.port import DeadLetter

__all__ = ["letter_of", "parked_fault", "redacted"]

SAMPLE_SIZE = 2048  # characters of a sample, all ASCII
MOST_READ = 2**20  # characters that are parsed for a sample; if there are more, only the shape of the start is shown
MOST_TEXT = 1000  # characters of the text that says what was wrong


# The field names of our own format; any other key may be confidential.
KNOWN_KEYS = {
    name
    for model in (
        PaigeantMessage,
        RoutingSlip,
        BranchOf,
        ActivitySpec,
        FunctionSpec,
        TaskSpec,
        WaitSpec,
        SleepSpec,
        BlockSpec,
        Branch,
        ExecutedStep,
    )
    for name in model.model_fields
}


def letter_of(arrival: Arrival, fault: MessageError, *, worker: str, cause: Cause | None = None) -> DeadLetter:
    """Return the dead letter of a message; a message that is delivered and refused again gets the same id.

    `worker` is the owner that writes it.
    """
    ids = split_hop_id(arrival.hop_id)
    content = content_of(arrival)
    digest = hashlib.sha256(content).hexdigest()
    return DeadLetter(
        letter_id=sha256("\n".join((fault.reason, digest, arrival.hop_id)))[:32],
        reason=fault.reason,
        text=str(fault)[:MOST_TEXT],
        hop_id=arrival.hop_id if ids is not None else None,
        correlation_id=ids[0] if ids is not None else None,
        activity=_printable(arrival.activity) or None,
        queue=_printable(arrival.queue) if arrival.queue is not None else None,
        size=len(content),
        sha256=digest,
        sample=redacted(content.decode(errors="backslashreplace")),
        worker=in_words(worker),
        trace=cause.without_texts if cause is not None else "",
    )


def _printable(name: str) -> str:
    """Return a name that a stranger chose, in a form that every store can keep."""
    return name[:200].encode("ascii", errors="replace").decode()


def redacted(content: str) -> str:
    """Return the start of a message with all values replaced. JSON keeps its structure; other text keeps its shape."""
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


def parked_fault(hop: Opened, failure: Failure) -> tuple[Arrival, MessageError]:
    """Return what the dead letter of a parked hop is made from."""
    # The text of the failure may quote prompts and answers. The handle shows it to those who may read it.
    fault = MessageError(failure.error_class, "", f"in attempt {hop.claimed.attempt}; it is parked")
    activity, envelope = hop.message.step.activity, encode(hop.message)
    return Arrival(hop_id=hop.closing.hop_id, activity=activity, envelope=envelope, fault=fault), fault
