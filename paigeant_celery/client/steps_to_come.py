"""The steps that a document gives to a workflow that is edited, or to a fork, behind those that ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from paigeant_celery.client.checks import checked_steps
from paigeant_celery.core.document_steps import Placed, made
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.names import inserting_place
from paigeant_celery.core.slip import Step, name_steps

__all__ = ["steps_to_come"]


def steps_to_come(given: Iterable[Placed], *, ran: Sequence[str], added_by: Mapping[str, str | None]) -> list[Step]:
    """Return the steps of a document that come after those of the ids `ran`, checked. Raises `InvalidInput`.

    `added_by` has the ids of those that the workflow knows, and who inserted them: that is no matter of the document.
    """
    named = name_steps(made(step for _, step in given), taken=ran)
    for index, step in enumerate(named):
        path, step_id = f"itinerary[{index}].step_id", step.step_id or ""
        if step_id in ran:
            raise InvalidInput("duplicate_step_id", path, f"{step_id!r} is that of a step that has run; give another")
        place = inserting_place(step_id)
        if step_id not in added_by and place is not None and place >= len(ran):
            text = f"{step_id!r} is as steps are called that agents insert; give another"
            raise InvalidInput("duplicate_step_id", path, text)
    return [_added(step, added_by.get(step.step_id or "")) for step in checked_steps("itinerary", named)]


def _added(step: Step, by: str | None) -> Step:
    return step if step.added_by == by else step.model_copy(update={"added_by": by})
