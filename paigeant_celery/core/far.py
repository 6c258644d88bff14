"""Records of executed steps that do not travel: how they leave the slip for the store, and how they are read back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal

from pydantic import ValidationError

from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.jsonable import dumps, loads
from paigeant_celery.core.message import sha256
from paigeant_celery.core.names import inserting_place
from paigeant_celery.core.slip import Earlier, ExecutedStep, RoutingSlip

__all__ = ["folded", "name_of_note", "name_of_record", "note_of", "record_in", "records_in", "spoken_key"]

FOLDED_AT_ONCE = 100  # records; two writes each, so that a script that records them stays short


def name_of_record(place: str) -> str:
    """Return the name under which the store has the record of the step at a place; no step id has a colon."""
    return f"executed:{place}"


def name_of_note(step_id: str) -> str:
    """Return the name under which the store has the note that says where the record of a step is."""
    return f"at:{step_id}"


def note_of(place: str, text: str) -> str:
    """Return the note about the record at a place: the place, and the digest of the record."""
    return f"{place} {sha256(text)}"


def folded(slip: RoutingSlip, *, most: int) -> tuple[RoutingSlip, Mapping[str, str]]:
    """Return the slip that travels, and what the store must hold of it.

    If its steps and records have more than `most` bytes of JSON, only the record of the last step travels on, or those
    from the last one that gave an output, if sleeps came after it. Once that was so, no more than these ever do.
    """
    leaving = slip.executed[: _staying_from(slip)][:FOLDED_AT_ONCE]
    if not leaving or (slip.earlier is None and (_size(slip) <= most or _may_clash(slip))):
        return slip, {}
    earlier, stored = slip.earlier, {}
    for record in leaving:
        text = dumps(record.model_dump(mode="json"))
        earlier = _with(earlier, record, text)
        stored[name_of_record(record.place)] = text
        stored[slip.name_in_store(name_of_note(record.step_id))] = note_of(record.place, text)
    return slip.model_copy(update={"earlier": earlier, "executed": slip.executed[len(leaving) :]}), stored


def spoken_key(part: ExecutedStep) -> str | None:
    """Return how `Earlier` calls the conversation of a step, or None if it has none."""
    if part.conversation_id is not None:
        return f"id:{part.conversation_id}"
    return f"name:{part.conversation}" if part.conversation is not None else None


def record_in(text: str | None, place: str) -> ExecutedStep:
    """Read the record of the step at a place; raises `ValueError` if it is missing or damaged."""
    try:
        record = ExecutedStep.model_validate(loads(text, invalid="store_corrupt")) if text is not None else None
    except (ValidationError, MessageError) as error:
        raise ValueError(f"{name_of_record(place)} is damaged") from error
    if record is None or record.place != place:
        raise ValueError(f"{name_of_record(place)} is missing, or that of another step")
    return record


def records_in(slip: RoutingSlip, earlier: Earlier, texts: Mapping[str, str]) -> tuple[ExecutedStep, ...]:
    """Read the records of all earlier steps; raises `ValueError` if they are not those that left the slip."""
    digest, records = "", []
    for number in range(earlier.count):
        place = slip.place_of(number)
        text = texts.get(name_of_record(place))
        records.append(record_in(text, place))
        digest = _digest(digest, text or "")
    if digest != earlier.digest:
        raise ValueError("the records of the first steps are not as they were recorded")
    return tuple(records)


def _staying_from(slip: RoutingSlip) -> int:
    """Return the index of the first record that travels on in any case."""
    last = len(slip.executed) - 1
    return next((index for index in range(last, -1, -1) if slip.executed[index].gives_output), last)


def _may_clash(slip: RoutingSlip) -> bool:
    """Say whether a step that is inserted later may get an id that is in use, as that of an agent `gpt-4.1` may be."""
    places = map(inserting_place, slip.step_ids())
    return any(place is not None and place >= slip.ran for place in places)


def _size(slip: RoutingSlip) -> int:
    return len(dumps(slip.model_dump(mode="json", include={"itinerary", "executed"})).encode())


def _with(earlier: Earlier | None, record: ExecutedStep, text: str) -> Earlier:
    before = earlier or Earlier(count=1, digest="")
    costs = [cost for cost in (before.cost, record.cost) if cost is not None]
    spoken = spoken_key(record)
    return before.model_copy(
        update={
            "count": before.count + 1 if earlier is not None else 1,
            "digest": _digest(before.digest, text),
            "usage": _sum(before.usage, record.usage),
            "cost": sum(costs, Decimal(0)) if costs else None,
            "visits": _sum(before.visits, {record.activity: 1}),
            "spoken": _sum(before.spoken, {spoken: 1}) if spoken is not None else before.spoken,
        }
    )


def _sum(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return {**counts, **{name: counts.get(name, 0) + count for name, count in more.items()}}


def _digest(before: str, text: str) -> str:
    return hashlib.sha256(f"{before}\n{text}".encode(errors="surrogatepass")).hexdigest()
