"""What every kind of step has, and how one is made."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic_core import PydanticCustomError

from paigeant_celery.core.crossing import NOTHING, Crossed
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.faults import fault_of
from paigeant_celery.core.names import (
    ACTIVITY_NAME_RULE,
    STEP_ID_RULE,
    conversation_fault,
    is_activity_name,
    is_step_id,
    name_fault,
    queue_fault,
)
from paigeant_celery.core.policy import StepPolicy

__all__ = ["ActivityName", "Conversation", "Queue", "StepFields", "StepId", "WireModel", "build"]


class WireModel(BaseModel):
    """A frozen part of the envelope.

    It keeps fields that it does not know, so that a message of a newer minor version can be forwarded whole. The
    parser of an envelope refuses them if the version does not allow them.
    """

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)


def _activity_name(name: str) -> str:
    if not is_activity_name(name):
        raise PydanticCustomError("bad_agent_name", "a name has {rule}", {"rule": ACTIVITY_NAME_RULE})
    return name


def _step_id(step_id: str) -> str:
    if not is_step_id(step_id):
        raise PydanticCustomError("bad_step_id", "a step id has {rule}", {"rule": STEP_ID_RULE})
    return step_id


def _queue(queue: str) -> str:
    if (fault := name_fault(queue)) is not None:
        raise PydanticCustomError("invalid_text", "the queue's name {fault}", {"fault": fault})
    if fault := queue_fault(queue):
        raise PydanticCustomError("invalid_queue", "{fault}", {"fault": fault})
    return queue


def _conversation(name: str) -> str:
    if fault := conversation_fault(name):
        raise PydanticCustomError("bad_conversation", "it {fault}", {"fault": fault})
    return name


ActivityName = Annotated[str, AfterValidator(_activity_name)]
StepId = Annotated[str, AfterValidator(_step_id)]
Queue = Annotated[str, AfterValidator(_queue)]
# Not written if there is none, so that what has no conversation is written as before.
Conversation = Annotated[
    Annotated[str, AfterValidator(_conversation)] | None, Field(exclude_if=lambda name: name is None)
]


class StepFields(WireModel):
    """What every kind of step has.

    `queue` overrides the queue that follows from the activity's name. `added_by` is the id of the step that
    inserted this one, or None if the dispatcher did.
    """

    step_id: StepId | None = None
    policy: StepPolicy | None = None
    queue: Queue | None = None
    added_by: StepId | None = None

    # What the step was given, if this process made it; it does not travel.
    _given: Crossed = PrivateAttr(default_factory=lambda: NOTHING)

    @property
    def given(self) -> Crossed:
        """What the step was given, as this process knows it; nothing if the step was read from a message."""
        return self._given

    @property
    def activity(self) -> str:
        """The name of the activity that runs this step."""
        raise TypeError(f"{type(self).__name__} names no activity")

    @property
    def stem(self) -> str:
        """What the id of the step begins with if it was given none."""
        return self.activity

    def identified(self, step_id: str) -> Self:
        """Return the step with its id."""
        return self.model_copy(update={"step_id": step_id})

    def inserted_by(self, step_id: str) -> Self:
        """Return the step marked with the id of the step that inserted it."""
        return self.model_copy(update={"added_by": step_id})


def build(model: BaseModel, **fields: Any) -> None:
    """Fill a new model with fields, or raise `InvalidInput`."""
    try:
        BaseModel.__init__(model, **fields)
    except ValidationError as error:
        reason, path, text = fault_of(error)
        raise InvalidInput("invalid_input" if reason == "invalid_envelope" else reason, path, text) from None
