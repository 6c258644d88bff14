"""The routing slip: the steps to run and the record of those that ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from itertools import count
from typing import Annotated, Literal, Self, TypeAlias, cast

from pydantic import AwareDatetime, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from paigeant_celery.core.content import Prompt, crossing_prompt
from paigeant_celery.core.crossing import Crossed, cross
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.flow_steps import SLEEP, FlowStep, SleepSpec, WaitSpec
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.step_fields import ActivityName, Conversation, StepFields, StepId, WireModel, build
from paigeant_celery.core.task_steps import TaskSpec

__all__ = [
    "ActivitySpec",
    "Earlier",
    "ExecutedStep",
    "FunctionSpec",
    "Later",
    "OutputRef",
    "RegisteredActivity",
    "RoutingSlip",
    "SleepSpec",
    "Step",
    "StepFields",
    "TaskSpec",
    "WaitSpec",
    "WireModel",
    "name_steps",
]

# In US dollars. The bound keeps sums exact to the 10th decimal, and far below what decimals cannot add.
MAX_COST = Decimal(10) ** 12
MOST_COSTS = 10**6  # in a sum; no workflow has so many steps
# The kind of an agent's step that only 1.2 can read. Older workers leave kinds that they do not know to newer ones;
# without that they would refuse the step, or run it without what they do not know.
NEEDS_1_2: Literal["agent_1.2"] = "agent_1.2"
Cost = Annotated[Decimal, Field(ge=0, le=MAX_COST, allow_inf_nan=False)]
Times = Annotated[int, Field(ge=1, strict=True)]


class ActivitySpec(StepFields):
    """A step that runs an agent on a prompt.

    `prompt` is a text, or a sequence of texts, URLs and files: pydantic-ai's `ImageUrl`, `BinaryContent` and the like,
    or their JSON, which has a `kind`. `deps` is JSON, or anything whose own class reads back what pydantic writes of
    it; the worker validates it with the agent's own `deps_type`. `step_id` must be unique within the workflow; by
    default it is made from the agent's name. `previous_output=False` keeps the previous step's output out of the
    prompt.

    Steps of one `conversation` share a message history: those of the workflow that give the same name, or, with
    `conversation_id`, all that give the same id, whatever their workflow. With both, the id counts.

    Raises `InvalidInput` (`bad_agent_name`, `empty_prompt`, `invalid_prompt`, `invalid_text`, `invalid_deps`,
    `bad_conversation`, `secret_without_encryption`, …).
    """

    kind: Literal["agent", "agent_1.2"] = "agent"
    agent_name: ActivityName
    prompt: Prompt
    deps: JsonValue = None
    previous_output: bool = True
    conversation: Conversation = None
    conversation_id: Conversation = None

    def __init__(
        self,
        agent_name: str,
        prompt: str | Sequence[object],
        deps: object = None,
        step_id: str | None = None,
        policy: StepPolicy | None = None,
        *,
        queue: str | None = None,
        previous_output: bool = True,
        conversation: str | None = None,
        conversation_id: str | None = None,
    ) -> None:
        crossed = deps if isinstance(deps, Crossed) else cross(deps, path="deps")
        build(
            self,
            kind="agent" if isinstance(prompt, str) and conversation is conversation_id is None else NEEDS_1_2,
            agent_name=agent_name,
            prompt=crossing_prompt(prompt),
            deps=crossed.tree,
            step_id=step_id,
            policy=policy,
            queue=queue,
            previous_output=previous_output,
            conversation=conversation,
            conversation_id=conversation_id,
        )
        self._given = crossed

    # Validation of a nested step must fill the fields itself; the signature above would refuse the fields of a
    # newer minor version.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind != NEEDS_1_2 and self._is_in_conversation:
            raise PydanticCustomError("invalid_envelope", "a step in a conversation is of a kind that needs 1.2")
        return self

    @property
    def _is_in_conversation(self) -> bool:
        return self.conversation is not None or self.conversation_id is not None

    @property
    def activity(self) -> str:
        return self.agent_name

    def asking(self, prompt: str | None) -> Self:
        """Return the same step without an id, with another prompt if one is given."""
        asked = self if prompt is None else ActivitySpec(self.agent_name, prompt)
        kind = NEEDS_1_2 if self._is_in_conversation else asked.kind
        changed = {"step_id": None, "added_by": None, "prompt": asked.prompt, "kind": kind}
        return self.model_copy(update=changed)


class FunctionSpec(StepFields):
    """A step that calls a function registered by `@activity` with JSON `arguments`.

    Raises `InvalidInput` (`bad_agent_name`, `invalid_arguments`, …).
    """

    kind: Literal["function"] = "function"
    function_name: ActivityName
    arguments: dict[str, JsonValue] = Field(default_factory=dict)

    def __init__(
        self,
        function_name: str,
        arguments: object = None,
        step_id: str | None = None,
        policy: StepPolicy | None = None,
        *,
        queue: str | None = None,
    ) -> None:
        crossed = arguments if isinstance(arguments, Crossed) else cross(arguments or {}, path="arguments")
        build(
            self,
            function_name=function_name,
            arguments=crossed.tree,
            step_id=step_id,
            policy=policy,
            queue=queue,
        )
        self._given = crossed

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @property
    def activity(self) -> str:
        return self.function_name


Step: TypeAlias = Annotated[ActivitySpec | FunctionSpec | TaskSpec | WaitSpec | SleepSpec, Field(discriminator="kind")]


class RegisteredActivity(WireModel):
    """An activity that agents with `can_edit_itinerary` may insert; the model may change only the prompt."""

    description: str = ""
    step: ActivitySpec


class OutputRef(WireModel):
    """An output that the store holds because it is too large to travel: its size in bytes and its digest."""

    size: int = Field(ge=0)
    sha256: str


class ExecutedStep(WireModel):
    """The record of a step that ran; `output` is JSON, or null if `output_ref` says where it is.

    `content` says which parts of the output are files and links, as JSON Pointers; other JSON that looks like one is
    none. It exists since 1.2. `cost` is in US dollars, or null if it is not known.
    """

    step_id: StepId
    place: str
    kind: str
    activity: ActivityName
    attempt: int = Field(ge=1)
    started_at: AwareDatetime
    finished_at: AwareDatetime
    output: JsonValue = None
    output_ref: OutputRef | None = None
    content: tuple[str, ...] = ()
    usage: dict[str, int] = Field(default_factory=dict)
    cost: Cost | None = None
    added_by: StepId | None = None
    conversation: Conversation = None
    conversation_id: Conversation = None

    @property
    def gives_output(self) -> bool:
        """Whether the step has an output of its own; a sleep passes on that of the step before it."""
        return self.kind != SLEEP


class Earlier(WireModel):
    """What travels of the first steps that ran if their records are in the store: how many they are, and their sums.

    `digest` is over the texts of the records, in their order. `visits` counts the steps of each activity, `spoken`
    those that said something in each conversation: `name:NAME`, or `id:ID` if the conversation has an id.
    """

    count: int = Field(ge=1, strict=True)
    digest: str
    usage: dict[str, int] = Field(default_factory=dict)
    cost: Annotated[Decimal, Field(ge=0, le=MAX_COST * MOST_COSTS, allow_inf_nan=False)] | None = None
    visits: dict[str, Times] = Field(default_factory=dict)
    spoken: Annotated[dict[str, Times], Field(exclude_if=lambda spoken: not spoken)] = Field(default_factory=dict)


class Later(WireModel):
    """What travels of the last steps to come if they are in the store: how many they are, and where they begin.

    `page` is the digest of the page that has the first of them, and `size` its length in bytes; that page says how it
    goes on. `visits` counts the steps of each activity.
    """

    count: int = Field(ge=1, strict=True)
    page: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0, strict=True)
    visits: dict[str, Times] = Field(default_factory=dict)


class RoutingSlip(WireModel):
    """The steps still to run, in order, and the record of those that ran.

    Of a long slip only the middle travels, since 1.3. `earlier` says what travels of the first records, and `executed`
    goes on from there; `later` says what travels of the last steps, and they follow those of `itinerary`.
    `compensations` is reserved in the format for activities that undo others.
    """

    itinerary: tuple[Step, ...] = ()
    later: Annotated[Later | None, Field(exclude_if=lambda later: later is None)] = None
    earlier: Annotated[Earlier | None, Field(exclude_if=lambda earlier: earlier is None)] = None
    executed: tuple[ExecutedStep, ...] = ()
    compensations: tuple[JsonValue, ...] = ()

    @property
    def ran(self) -> int:
        """How many steps ran."""
        return len(self.executed) + (self.earlier.count if self.earlier is not None else 0)

    @property
    def place(self) -> str:
        """The position of the next step: the number of steps that ran."""
        return str(self.ran)

    @property
    def length(self) -> int:
        """How many steps ran or are still to run."""
        return self.ran + len(self.itinerary) + (self.later.count if self.later is not None else 0)

    @property
    def next_step(self) -> Step | None:
        """The step to run next, or None at the end."""
        return self.itinerary[0] if self.itinerary else None

    @property
    def previous(self) -> ExecutedStep | None:
        """The record of the step whose output the next one gets: the last one that gave any, which no sleep does."""
        return next((record for record in reversed(self.executed) if record.gives_output), None)

    @property
    def wanted(self) -> ExecutedStep | None:
        """The record of the output that the next step is given; one that waits is given none, whenever it wakes."""
        return None if isinstance(self.next_step, FlowStep) else self.previous

    @property
    def visits(self) -> Counter[str]:
        """How many steps of each activity ran or are still to run."""
        counted = Counter(self.earlier.visits if self.earlier is not None else ())
        counted.update(part.activity for part in (*self.executed, *self.itinerary))
        counted.update(self.later.visits if self.later is not None else ())
        return counted

    def step_ids(self) -> list[str]:
        """The ids of the records and steps that travel, in the order of the slip."""
        return [record.step_id for record in self.executed] + [step.step_id or "" for step in self.itinerary]

    def advanced(self, record: ExecutedStep, inserted: Iterable[Step]) -> RoutingSlip:
        """Return the slip after its next step ran: the step recorded, and `inserted` put before the rest.

        An inserted step without an id gets `NAME-PLACE.NUMBER`. A step that has such an id although nobody inserted it
        keeps the whole slip in the message until that place has passed, so that this needs no list of all ids. Raises
        `InvalidInput` if an id is used twice, or may be.
        """
        left, steps = self.itinerary[1:], tuple(inserted)
        if self.earlier is not None and any(step.step_id is not None for step in steps):
            text = "the ids of the first steps do not travel any more; leave out the ids of inserted steps"
            raise InvalidInput("duplicate_step_id", "step_id", text)
        taken, added = {*self.step_ids()}, list[Step]()
        for number, step in enumerate(steps, 1):
            step_id = step.step_id or _made_id(step.stem, record.place, number, taken)
            taken.add(step_id)
            added.append(step.identified(step_id).inserted_by(record.step_id))
        _check_unique([*self.step_ids(), *(step.step_id or "" for step in added)])
        return self.model_copy(update={"itinerary": (*added, *left), "executed": (*self.executed, record)})


def name_steps(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Give each step without an id one made from its activity's name, numbered from the second on.

    Deterministic: the same steps get the same ids. Raises `InvalidInput` if an id is used twice.
    """
    wanted = list(steps)
    given = [step.step_id for step in wanted if step.step_id is not None]
    _check_unique(given)
    used = set(given)
    named: list[Step] = []
    for step in wanted:
        if step.step_id is None:
            step = step.identified(_free_id(step.stem, used))
            used.add(cast("str", step.step_id))
        named.append(step)
    return tuple(named)


def _check_unique(step_ids: Sequence[str]) -> None:
    twice = next((step_id for step_id, count in Counter(step_ids).items() if count > 1), None)
    if twice is not None:
        raise InvalidInput("duplicate_step_id", "step_id", f"{twice!r} is used twice in the workflow")


def _made_id(name: str, place: str, number: int, taken: Collection[str]) -> str:
    begin = f"{name[:100]}-{place}."  # leaves room for the numbers
    return next(f"{begin}{n}" for n in count(number) if f"{begin}{n}" not in taken)


def _free_id(name: str, used: set[str]) -> str:
    name = name[:120]  # leaves room for the number
    if name not in used:
        return name
    return next(f"{name}-{n}" for n in range(2, len(used) + 3) if f"{name}-{n}" not in used)
