"""Forks: a new workflow that begins at a step of another one, with the records of the steps before it.

Of a step that has ended only its record travels on. The store keeps what it was asked for as well, so that a fork can
ask for it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import TypeAdapter, ValidationError

from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.far import folded
from paigeant_celery.core.jsonable import dumps, loads
from paigeant_celery.core.pages import paged
from paigeant_celery.core.slip import ExecutedStep, RoutingSlip, Step

__all__ = ["as_asked", "folded_whole", "name_of_ran", "read_ran", "unspent", "without_inserted"]

_STEP: TypeAdapter[Step] = TypeAdapter(Step)


def name_of_ran(place: str) -> str:
    """Return the name under which the store has the step that ended at a place, as it was asked for."""
    return f"ran:{place}"


def as_asked(slip: RoutingSlip) -> Mapping[str, str]:
    """Return what the store must hold of a step that ends; nothing of one in a branch, where no fork begins."""
    if slip.branch is not None or slip.next_step is None:
        return {}
    return {name_of_ran(slip.place): dumps(slip.next_step.model_dump(mode="json"))}


def read_ran(text: str) -> Step:
    """Read a step that has ended; raises `ValueError` if this version cannot."""
    try:
        return _STEP.validate_python(loads(text, invalid="store_corrupt"))
    except (ValidationError, MessageError) as error:
        raise ValueError("it is damaged, or a newer version wrote it") from error


def without_inserted(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Return the steps but for those that one of them inserted: it will do so again, or not."""
    wanted = list(steps)
    ids = {step.step_id for step in wanted}
    return tuple(step for step in wanted if step.added_by is None or step.added_by not in ids)


def unspent(records: Iterable[ExecutedStep]) -> tuple[ExecutedStep, ...]:
    """Return the records of steps as those of a workflow for which nothing was used yet."""
    return tuple(record.model_copy(update={"usage": {}, "cost": None}) for record in records)


def folded_whole(slip: RoutingSlip, *, most: int) -> tuple[RoutingSlip, Mapping[str, str]]:
    """Return the slip that travels, and what the store must hold of it, whatever its length."""
    stored: dict[str, str] = {}
    while True:
        slip, more = folded(slip, most=most)
        if not more:
            break
        stored.update(more)
    slip, pages = paged(slip, most=most)
    return slip, {**stored, **pages}
