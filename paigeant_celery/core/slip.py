"""The routing slip: the steps to run and the record of those that ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from decimal import Decimal
from itertools import count
from typing import Annotated

from pydantic import AwareDatetime, Field, JsonValue

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.flow_steps import SLEEP, FlowStep, SleepSpec, WaitSpec
from paigeant_celery.core.step_fields import ActivityName, Conversation, StepFields, StepId, WireModel
from paigeant_celery.core.steps import (
    BLOCK,
    ActivitySpec,
    BlockSpec,
    Branch,
    FunctionSpec,
    Step,
    TaskSpec,
    check_unique,
    is_step,
    name_steps,
    steps_in,
)

__all__ = [
    "ActivitySpec",
    "BlockSpec",
    "Branch",
    "BranchOf",
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
    "is_step",
    "name_steps",
    "steps_in",
]

# In US dollars. The bound keeps sums exact to the 10th decimal, and far below what decimals cannot add.
MAX_COST = Decimal(10) ** 12
MOST_COSTS = 10**6  # in a sum; no workflow has so many steps
Cost = Annotated[Decimal, Field(ge=0, le=MAX_COST, allow_inf_nan=False)]
Times = Annotated[int, Field(ge=1, strict=True)]


class RegisteredActivity(WireModel):
    """An activity that agents with `can_edit_itinerary` may insert; the model may change only the prompt."""

    description: str = ""
    step: ActivitySpec


class OutputRef(WireModel):
    """An output that the store holds because it is too large to travel: its size in bytes and its digest.

    `name` is that under which the store has it; by default it is the id of the step. It exists since 1.5.
    """

    size: int = Field(ge=0)
    sha256: str
    name: Annotated[str | None, Field(exclude_if=lambda name: name is None)] = None


class ExecutedStep(WireModel):
    """The record of a step that ran; `output` is JSON, or null if `output_ref` says where it is.

    `content` says which parts of the output are files and links, as JSON Pointers; other JSON that looks like one is
    none. It exists since 1.2. `cost` is in US dollars, or null if it is not known. The output of a block says where
    those of its branches are (`core/manifests.py`), and `whole_size` how many bytes they have together.
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
    whole_size: Annotated[int | None, Field(ge=0, exclude_if=lambda size: size is None)] = None
    usage: dict[str, int] = Field(default_factory=dict)
    cost: Cost | None = None
    added_by: StepId | None = None
    conversation: Conversation = None
    conversation_id: Conversation = None

    @property
    def gives_output(self) -> bool:
        """Whether the step has an output of its own; a sleep passes on that of the step before it."""
        return self.kind != SLEEP

    @property
    def is_block(self) -> bool:
        """Whether the output is a manifest of the outputs of branches."""
        return self.kind == BLOCK

    @property
    def output_name(self) -> str:
        """The name under which the store has an output that does not travel."""
        ref = self.output_ref
        return ref.name if ref is not None and ref.name is not None else self.step_id


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


class BranchOf(WireModel):
    """Which branch a slip is: the place of its block with its own number, as in `3-1`, and the path of names to it.

    The path has the ids of blocks and the names of branches in turn, as in `readings/4`. `given` is the record whose
    output the first step gets: of the step before the block, or of an item, which then has the id of the block.
    """

    place: str
    path: str = Field(min_length=1)
    given: ExecutedStep | None = None


class RoutingSlip(WireModel):
    """The steps still to run, in order, and the record of those that ran.

    Of a long slip only the middle travels, since 1.3. `earlier` says what travels of the first records, and `executed`
    goes on from there; `later` says what travels of the last steps, and they follow those of `itinerary`. `branch` is
    there if it is not the workflow's own slip, since 1.5.
    `compensations` is reserved in the format for activities that undo others.
    """

    itinerary: tuple[Step, ...] = ()
    later: Annotated[Later | None, Field(exclude_if=lambda later: later is None)] = None
    earlier: Annotated[Earlier | None, Field(exclude_if=lambda earlier: earlier is None)] = None
    executed: tuple[ExecutedStep, ...] = ()
    compensations: tuple[JsonValue, ...] = ()
    branch: Annotated[BranchOf | None, Field(exclude_if=lambda branch: branch is None)] = None

    @property
    def ran(self) -> int:
        """How many steps ran."""
        return len(self.executed) + (self.earlier.count if self.earlier is not None else 0)

    @property
    def place(self) -> str:
        """The place of the next step: the number of steps that ran, behind that of the branch."""
        return self.place_of(self.ran)

    def place_of(self, number: int) -> str:
        """Return the place of a step by its number."""
        return str(number) if self.branch is None else f"{self.branch.place}.{number}"

    def path_of(self, step_id: str) -> str:
        """Return the path of a step: its id, behind the path of the branch."""
        return step_id if self.branch is None else f"{self.branch.path}/{step_id}"

    def name_in_store(self, name: str) -> str:
        """Return the name under which the store has something that is named within this slip."""
        return name if self.branch is None else f"{self.branch.place}:{name}"

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
        own = next((record for record in reversed(self.executed) if record.gives_output), None)
        return own if own is not None or self.branch is None else self.branch.given

    @property
    def wanted(self) -> ExecutedStep | None:
        """The record of the output that the next step is given; one that waits is given none, whenever it wakes."""
        return None if isinstance(self.next_step, FlowStep) else self.previous  # a block hands it on unread

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
            step_id = step.step_id or _made_id(step.stem, str(self.ran), number, taken)
            taken.add(step_id)
            added.append(step.identified(step_id).inserted_by(record.step_id))
        check_unique([*self.step_ids(), *(step.step_id or "" for step in added)])
        return self.model_copy(update={"itinerary": (*added, *left), "executed": (*self.executed, record)})


def _made_id(name: str, place: str, number: int, taken: Collection[str]) -> str:
    begin = f"{name[:100]}-{place}."  # leaves room for the numbers
    return next(f"{begin}{n}" for n in count(number) if f"{begin}{n}" not in taken)
