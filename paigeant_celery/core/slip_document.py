"""The document of a slip: its fields, and what it gives to a dispatch."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import AfterValidator, AwareDatetime, Field, JsonValue
from pydantic_core import PydanticCustomError

from paigeant_celery.core.budget import WorkflowLimits
from paigeant_celery.core.document_steps import (
    AgentStep,
    AnyJson,
    DocumentModel,
    DocumentStep,
    Placed,
    StepOfDocument,
    made,
)
from paigeant_celery.core.names import CORRELATION_ID_RULE, is_correlation_id
from paigeant_celery.core.steps import ActivitySpec, Step

__all__ = ["DOCUMENT_VERSION", "Exported", "Limits", "Registered", "SlipDocument"]

DOCUMENT_VERSION: Literal[1] = 1


def _correlation_id(text: str) -> str:
    if not is_correlation_id(text):
        raise PydanticCustomError("bad_correlation_id", "use {rule}", {"rule": CORRELATION_ID_RULE})
    return text


def _some_steps(steps: tuple[StepOfDocument, ...]) -> tuple[StepOfDocument, ...]:
    if not steps:
        raise PydanticCustomError("empty_itinerary", "there is no step to run")
    return steps


CorrelationId = Annotated[str, AfterValidator(_correlation_id)]


class Registered(AgentStep):
    """A step that agents with `can_edit_itinerary` may insert."""

    step_id: None = None
    added_by: None = None
    ran: None = None
    description: str = ""


class Limits(DocumentModel):
    """What all agent steps together may use: the limits of `WorkflowLimits`."""

    request_limit: int | None = None
    tool_calls_limit: int | None = None
    input_tokens_limit: int | None = None
    output_tokens_limit: int | None = None
    total_tokens_limit: int | None = None
    cost_limit: AnyJson = None


class Exported(DocumentModel):
    """The workflow that a document was exported from. `revision` changes with each step and each edit of it."""

    correlation_id: CorrelationId
    state: str
    revision: str
    created_at: AwareDatetime


class SlipDocument(DocumentModel):
    """A workflow as a document: what is dispatched, with all steps.

    `workflow` is there if it was exported, and then steps that have run say how (`ran`) and who inserted them
    (`added_by`). Whoever runs it again leaves out what agents inserted, because they will insert it again.
    """

    version: Literal[1]
    correlation_id: CorrelationId | None = None
    start_at: AwareDatetime | None = None
    deadline: AwareDatetime | None = None
    stream: bool = False
    variables: dict[str, AnyJson] = Field(default_factory=dict)
    usage_limits: Limits | None = None
    itinerary: Annotated[
        tuple[DocumentStep, ...], AfterValidator(_some_steps), Field(json_schema_extra={"minItems": 1})
    ]
    registered_activities: tuple[Registered, ...] = ()
    workflow: Exported | None = None

    @property
    def planned(self) -> list[Placed]:
        """The steps that whoever runs it gives, without those that agents inserted; each with its index."""
        return [(index, step) for index, step in enumerate(self.itinerary) if step.added_by is None]

    @property
    def remaining(self) -> list[Placed]:
        """The steps that have not run, each with its index."""
        return [(index, step) for index, step in enumerate(self.itinerary) if step.ran is None]

    def steps(self) -> list[Step]:
        """Return the steps to dispatch. Raises `InvalidInput`; `lint` tells all that is wrong with them."""
        return made(step for _, step in self.planned)

    def registered(self) -> list[tuple[ActivitySpec, str]]:
        """Return the steps that agents may insert, with their descriptions. Raises `InvalidInput`."""
        return [(entry.step(), entry.description) for entry in self.registered_activities]

    def limits(self) -> WorkflowLimits | None:
        """Return the limits to dispatch with. Raises `InvalidInput`."""
        return WorkflowLimits.given(self.usage_limits.model_dump()) if self.usage_limits is not None else None

    def tree(self) -> JsonValue:
        """Return the document as JSON, without what is left at its default."""
        tree = self.model_dump(mode="json", exclude_defaults=True)
        return cast("JsonValue", {"version": DOCUMENT_VERSION, **tree})
