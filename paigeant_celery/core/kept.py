"""What an exported document must leave as it was, because only the steps to come are taken from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from paigeant_celery.core.document_changes import step_ids
from paigeant_celery.core.document_errors import Finding, InvalidDocument
from paigeant_celery.core.document_steps import StepOfDocument
from paigeant_celery.core.slip_document import Exported, SlipDocument

__all__ = ["check_kept", "origin_of", "unkept_steps"]


def origin_of(document: SlipDocument, correlation_id: str) -> Exported:
    """Return what a document says of the workflow that it was exported from, which must be this one."""
    origin = document.workflow
    if origin is None:
        text, remedy = "is missing, so nobody knows which state was edited", "export the workflow and edit that"
        raise InvalidDocument("invalid_document", "workflow", text, remedy)
    if origin.correlation_id != correlation_id:
        text = f"the document was exported from workflow {origin.correlation_id!r}"
        raise InvalidDocument("invalid_document", "workflow.correlation_id", text, "name that, or export this one")
    return origin


def check_kept(now: SlipDocument, given: SlipDocument, steps: Iterator[Finding]) -> None:
    """Raise `InvalidDocument` if a document changes more than steps, or if `steps` says what is wrong with those."""
    if faults := [*_head(now, given), *steps]:
        raise InvalidDocument.of(faults)


def unkept_steps(ran: Sequence[StepOfDocument], given: Sequence[StepOfDocument]) -> Iterator[Finding]:
    """Yield each step that is not as it ran, of those that stand where these did."""
    for index, (step, instead) in enumerate(zip_longest(ran, given)):
        path = f"itinerary[{index}]"
        if step is None:
            text, remedy = "a step that did not run stands here", f"put it behind, or fork at {_called(given, index)}"
            yield Finding("invalid_document", path, text, remedy)
        elif instead is None:
            text, remedy = f"step {step.step_id!r} has run, and stood here", "put it back as it was exported"
            yield Finding("invalid_document", path, text, remedy)
        elif _without_course(step) != _without_course(instead):
            text = f"step {step.step_id!r} has run, and stands here"
            remedy = f"leave it as it was exported, or fork at {_called(given, index)}"
            yield Finding("invalid_document", path, text, remedy)


def _head(now: SlipDocument, given: SlipDocument) -> Iterator[Finding]:
    text, remedy = "only the steps to come can be edited", "leave it as it was exported, or run the document anew"
    for name in ("variables", "deadline", "stream", "usage_limits", "registered_activities"):
        if getattr(now, name) != getattr(given, name):
            yield Finding("invalid_document", name, text, remedy)
    for name in ("start_at", "correlation_id"):
        if getattr(given, name) is not None:
            yield Finding("invalid_document", name, "the workflow has been dispatched", "leave it out")


def _called(steps: Sequence[StepOfDocument], index: int) -> str:
    return repr(step_ids(steps)[index])


def _without_course(step: StepOfDocument) -> StepOfDocument:
    return step.model_copy(update={"ran": None})
