"""Steps as they stand in a document: the first field of each says what it is, such as `agent` or `wait_for`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    Tag,
    TypeAdapter,
    WithJsonSchema,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from paigeant_celery.core.block_steps import for_each, parallel, sub_workflow
from paigeant_celery.core.content import Prompt
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.flow_steps import SleepSpec, WaitSpec, sleep_for, sleep_until, wait_for
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.step_fields import ActivityName, Conversation, Queue, StepId
from paigeant_celery.core.steps import ActivitySpec, BlockSpec, FunctionSpec, OnFailure, Step, TaskSpec

__all__ = [
    "KINDS",
    "STEPS",
    "AgentStep",
    "DocumentModel",
    "DocumentStep",
    "Inner",
    "Placed",
    "Policy",
    "Ran",
    "RecordedStep",
    "StepOfDocument",
    "inner_of",
    "made",
    "places_of",
]


class DocumentModel(BaseModel):
    """A part of a document. It takes no field that this version does not know: a wrong name would change nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


# What a schema says of values that other code checks.
_PROMPT = TypeAdapter(str | list[str | dict[str, Any]]).json_schema()
_OVER = TypeAdapter(str | list[Any]).json_schema()
_COST = TypeAdapter(float | str | None).json_schema()  # that of a decimal differs between versions of pydantic
DocumentPrompt = Annotated[Prompt, WithJsonSchema(_PROMPT)]
AnyJson = Annotated[JsonValue, WithJsonSchema({})]
Names = tuple[str, ...]


class Policy(DocumentModel):
    """The limits of a step: those of `StepPolicy`."""

    timeout: float | None = None
    max_attempts: int | None = None
    backoff: float | None = None
    retry_on: Names | None = None
    final_on: Names | None = None

    def as_given(self) -> StepPolicy:
        """Return the policy that is sent; raises `InvalidInput`."""
        try:
            return StepPolicy(**self.model_dump(exclude_none=True))
        except InvalidInput as error:
            raise InvalidInput(error.reason, f"policy.{error.path}", error.text) from None


class Ran(DocumentModel):
    """How a step ran, in a document that was exported. Whoever reads the document ignores it, but for `import`."""

    place: str
    attempt: int
    started_at: AwareDatetime
    finished_at: AwareDatetime
    output: AnyJson = None
    usage: dict[str, int] = Field(default_factory=dict)
    cost: Annotated[Decimal | None, WithJsonSchema(_COST)] = None


class StepOfDocument(DocumentModel):
    """What each step of a document may have. `added_by` and `ran` are in exported ones: who inserted it, how it ran."""

    kind: ClassVar[str]
    step_id: StepId | None = None
    added_by: StepId | None = None
    ran: Ran | None = None

    def step(self) -> Step:
        """Return the step that is sent; raises `InvalidInput`."""
        raise NotImplementedError

    @property
    def inner(self) -> Mapping[str, Inner]:
        """The steps of each branch, if it is a block, by where they stand in it."""
        return {}

    @property
    def stem(self) -> str:
        """What the id of the step begins with if it was given none."""
        return self.step().stem

    @model_serializer(mode="wrap")
    def _in_order(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write what the step is first, and how it ran last: people read it."""
        tree: dict[str, Any] = write(self)
        first = {name: tree.pop(name) for name in (self.kind,) if name in tree}
        after = ("step_id", "policy", "queue", "added_by", "ran")
        last = {name: tree.pop(name) for name in after if name in tree}
        return first | tree | last


class _Runs(StepOfDocument):
    policy: Policy | None = None
    queue: Queue | None = None

    @property
    def _common(self) -> dict[str, Any]:
        policy = self.policy.as_given() if self.policy is not None else None
        return {"step_id": self.step_id, "policy": policy, "queue": self.queue}


class AgentStep(_Runs):
    """A step of an agent."""

    kind: ClassVar[str] = "agent"
    agent: ActivityName
    prompt: DocumentPrompt
    deps: AnyJson = None
    previous_output: bool = True
    conversation: Conversation = None
    conversation_id: Conversation = None

    def step(self) -> ActivitySpec:
        return ActivitySpec(
            self.agent,
            self.prompt,
            self.deps,
            **self._common,
            previous_output=self.previous_output,
            conversation=self.conversation,
            conversation_id=self.conversation_id,
        )


class FunctionStep(_Runs):
    """A step of a function."""

    kind: ClassVar[str] = "function"
    function: ActivityName
    arguments: dict[str, AnyJson] = Field(default_factory=dict)

    def step(self) -> FunctionSpec:
        return FunctionSpec(self.function, self.arguments, **self._common)


class TaskStep(_Runs):
    """A step of a Celery task."""

    kind: ClassVar[str] = "task"
    task: ActivityName
    args: tuple[AnyJson, ...] = ()
    kwargs: dict[str, AnyJson] = Field(default_factory=dict)
    immutable: bool = False

    def step(self) -> TaskSpec:
        return TaskSpec(self.task, list(self.args), self.kwargs, **self._common, immutable=self.immutable)


class WaitStep(StepOfDocument):
    """A step that waits for a signal."""

    kind: ClassVar[str] = "wait_for"
    wait_for: str
    timeout: float | None = None

    def step(self) -> WaitSpec:
        return wait_for(self.wait_for, timeout=self.timeout, step_id=self.step_id)


class SleepForStep(StepOfDocument):
    """A step that waits for some seconds."""

    kind: ClassVar[str] = "sleep_for"
    sleep_for: float

    def step(self) -> SleepSpec:
        return sleep_for(self.sleep_for, step_id=self.step_id)


class SleepUntilStep(StepOfDocument):
    """A step that waits until a time."""

    kind: ClassVar[str] = "sleep_until"
    sleep_until: AwareDatetime

    def step(self) -> SleepSpec:
        return sleep_until(self.sleep_until, step_id=self.step_id)


class RecordedStep(StepOfDocument):
    """A step that ran before its prompt or arguments were kept: only its activity is known."""

    kind: ClassVar[str] = "recorded"
    recorded: ActivityName
    ran: Ran

    @property
    def stem(self) -> str:
        return self.recorded

    def step(self) -> Step:
        text = (
            "a version that did not keep what the step was given ran it; write it down, as an `agent` with a `prompt`"
        )
        raise InvalidInput("invalid_document", "recorded", text)


class _Block(StepOfDocument):
    timeout: float | None = None


class _Joins(_Block):
    join: Literal["all", "any"] | int = "all"
    on_failure: OnFailure | None = None
    max_at_once: int | None = None

    @property
    def _joining(self) -> dict[str, Any]:
        most = {} if self.max_at_once is None else {"max_at_once": self.max_at_once}
        return {
            "join": self.join,
            "on_failure": self.on_failure,
            "timeout": self.timeout,
            "step_id": self.step_id,
            **most,
        }


class ParallelStep(_Joins):
    """A block of named branches."""

    kind: ClassVar[str] = "parallel"
    parallel: Branches

    def step(self) -> BlockSpec:
        return parallel({name: made(steps) for name, steps in self.parallel.items()}, **self._joining)

    @property
    def inner(self) -> Mapping[str, Inner]:
        return {f"parallel.{name}": steps for name, steps in self.parallel.items()}


class ForEachStep(_Joins):
    """A block that runs the same steps for each item."""

    kind: ClassVar[str] = "for_each"
    for_each: Inner
    over: Annotated[JsonValue, WithJsonSchema(_OVER)]

    def step(self) -> BlockSpec:
        over: Any = self.over
        return for_each(made(self.for_each), over=over, **self._joining)

    @property
    def inner(self) -> Mapping[str, Inner]:
        return {"for_each": self.for_each}


class SubWorkflowStep(_Block):
    """A block of one branch."""

    kind: ClassVar[str] = "sub_workflow"
    sub_workflow: Inner

    def step(self) -> BlockSpec:
        return sub_workflow(made(self.sub_workflow), timeout=self.timeout, step_id=self.step_id)

    @property
    def inner(self) -> Mapping[str, Inner]:
        return {"sub_workflow": self.sub_workflow}


KINDS = (
    *("agent", "function", "task", "wait_for", "sleep_for", "sleep_until"),
    *("parallel", "for_each", "sub_workflow"),
)
RECORDED = RecordedStep.kind
STEPS: Mapping[str, type[StepOfDocument]] = MappingProxyType(
    {
        f"<{model.kind}>": model
        for model in (
            *(AgentStep, FunctionStep, TaskStep, WaitStep, SleepForStep, SleepUntilStep),
            *(ParallelStep, ForEachStep, SubWorkflowStep, RecordedStep),
        )
    }
)  # by the tags that stand for them in the places of faults


def _kind_of(given: object) -> str | None:
    """Return the tag of a step; no field has its form, so that it can be told from the fields in a path."""
    if isinstance(given, StepOfDocument):
        return f"<{given.kind}>"
    kind = next((kind for kind in (*KINDS, RECORDED) if isinstance(given, Mapping) and kind in given), None)
    return f"<{kind}>" if kind is not None else None


DocumentStep: TypeAlias = Annotated[
    Annotated[AgentStep, Tag("<agent>")]
    | Annotated[FunctionStep, Tag("<function>")]
    | Annotated[TaskStep, Tag("<task>")]
    | Annotated[WaitStep, Tag("<wait_for>")]
    | Annotated[SleepForStep, Tag("<sleep_for>")]
    | Annotated[SleepUntilStep, Tag("<sleep_until>")]
    | Annotated[ParallelStep, Tag("<parallel>")]
    | Annotated[ForEachStep, Tag("<for_each>")]
    | Annotated[SubWorkflowStep, Tag("<sub_workflow>")]
    | Annotated[RecordedStep, Tag("<recorded>")],
    Discriminator(
        _kind_of,
        custom_error_type="invalid_document",
        custom_error_message="a step has one of " + ", ".join(f"`{kind}`" for kind in KINDS),
    ),
]


def _some_steps(steps: tuple[StepOfDocument, ...]) -> tuple[StepOfDocument, ...]:
    # A `min_length` would also count steps with faults as missing.
    if not steps:
        raise PydanticCustomError("invalid_block", "a branch has at least one step")
    return steps


def _some_branches(branches: dict[str, Inner]) -> dict[str, Inner]:
    if not branches:
        raise PydanticCustomError("invalid_block", "a block has at least one branch")
    return branches


Inner: TypeAlias = Annotated[
    tuple[DocumentStep, ...], AfterValidator(_some_steps), Field(json_schema_extra={"minItems": 1})
]
Branches: TypeAlias = Annotated[
    dict[str, Inner], AfterValidator(_some_branches), Field(json_schema_extra={"minProperties": 1})
]

ParallelStep.model_rebuild()
ForEachStep.model_rebuild()
SubWorkflowStep.model_rebuild()


def made(steps: Iterable[StepOfDocument]) -> list[Step]:
    """Return the steps that are sent."""
    return [step.step() for step in steps]


def inner_of(steps: Iterable[StepOfDocument], path: str) -> Iterator[tuple[str, StepOfDocument]]:
    """Yield steps and those of their branches, innermost first, each with its path."""
    for index, step in enumerate(steps):
        for name, inner in step.inner.items():
            yield from inner_of(inner, f"{path}[{index}].{name}")
        yield f"{path}[{index}]", step


def places_of(steps: Iterable[Placed], path: str, wire: str) -> Iterator[tuple[str, str]]:
    """Yield where each step stands on the slip, one after the other, and where in the document."""
    for position, (index, step) in enumerate(steps):
        here, there = f"{path}[{index}]", f"{wire}[{position}]"
        yield there, here
        for number, (name, inner) in enumerate(step.inner.items()):
            yield from places_of(enumerate(inner), f"{here}.{name}", f"{there}.branches[{number}].steps")


Placed: TypeAlias = tuple[int, StepOfDocument]  # a step, and its index in its itinerary
