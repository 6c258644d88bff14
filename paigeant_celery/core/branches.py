"""The first messages of branches: what a block makes of its steps and items."""

from __future__ import annotations

from datetime import datetime

from pydantic import JsonValue

from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.manifests import name_of_branch
from paigeant_celery.core.message import PaigeantMessage, sha256
from paigeant_celery.core.names import FLOW
from paigeant_celery.core.slip import BranchOf, ExecutedStep, OutputRef, RoutingSlip
from paigeant_celery.core.steps import BlockSpec

__all__ = ["first_message"]

ITEM = "item"  # the kind of a record that gives an item as the previous output; no step has it


def first_message(
    message: PaigeantMessage,
    block: BlockSpec,
    number: int,
    *,
    item: JsonValue = None,
    inline: int,
    now: datetime,
) -> tuple[PaigeantMessage, str | None]:
    """Return the first message of a branch, and the JSON of its item if that does not travel.

    `message` is that of the block. An item of more than `inline` bytes is left to the store, under the name that the
    message gives it.
    """
    steps = block.branches[number if block.form == "parallel" else 0].steps
    place, path = f"{message.place}-{number}", f"{message.path}/{name_of_branch(block, number)}"
    given, stored = message.slip.previous, None
    if block.form == "for_each":
        given, stored = _item(message, block, place, item, inline, now)
    slip = RoutingSlip(itinerary=steps, branch=BranchOf(place=place, path=path, given=given))
    return message.moved(slip, now=now), stored


def _item(
    message: PaigeantMessage, block: BlockSpec, place: str, item: JsonValue, inline: int, now: datetime
) -> tuple[ExecutedStep, str | None]:
    """Return the record that gives an item, as if the block itself had that output."""
    text = dumps(item)
    size = len(text.encode())
    record = ExecutedStep(
        step_id=block.step_id or "",
        place=message.place,
        kind=ITEM,
        activity=FLOW,
        attempt=1,
        started_at=now,
        finished_at=now,
        output=item,
    )
    if size <= inline:
        return record, None
    ref = OutputRef(size=size, sha256=sha256(text), name=f"{place}::item")
    return record.model_copy(update={"output": None, "output_ref": ref}), text
