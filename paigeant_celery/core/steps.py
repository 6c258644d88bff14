"""The steps of workflows: of agents, of functions, of tasks, and of blocks, which have steps of their own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal, Self, TypeAlias, cast

from pydantic import AfterValidator, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from paigeant_celery.core.content import Prompt, crossing_prompt
from paigeant_celery.core.crossing import Crossed, cross
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.flow_steps import FlowStep, Seconds, SleepSpec, WaitSpec
from paigeant_celery.core.names import STEP_ID, name_fault
from paigeant_celery.core.pointers import pointer_fault
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.step_fields import ActivityName, Conversation, StepFields, WireModel, build
from paigeant_celery.core.task_steps import TaskSpec

__all__ = [
    "AT_ONCE",
    "BLOCK",
    "MOST_AT_ONCE",
    "MOST_DEEP",
    "ActivitySpec",
    "BlockSpec",
    "Branch",
    "Form",
    "FunctionSpec",
    "OnFailure",
    "Step",
    "TaskSpec",
    "branch_name_fault",
    "check_unique",
    "is_step",
    "name_steps",
    "over_fault",
    "steps_in",
]

# The kind of an agent's step that only 1.2 can read. Older workers leave kinds that they do not know to newer ones;
# without that they would refuse the step, or run it without what they do not know.
NEEDS_1_2: Literal["agent_1.2"] = "agent_1.2"

BLOCK: Literal["block"] = "block"  # the kind of the step
AT_ONCE = 20  # branches of a block that go on at the same time, unless it says otherwise
MOST_AT_ONCE = 100
MOST_DEEP = 8  # blocks inside each other
MOST_NAMED = 1000  # branches of a `parallel`; those of a `for_each` are limited when they are made
MAX_BRANCH_NAME = 128  # characters

Form: TypeAlias = Literal["parallel", "for_each", "sub_workflow"]
OnFailure: TypeAlias = Literal["fail", "collect"]
Join: TypeAlias = Literal["all"] | Annotated[int, Field(ge=1, strict=True)]

_OVER = re.compile(rf"({STEP_ID.pattern})(?:#(.*))?", re.DOTALL)


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

    def asking(self, prompt: str | Sequence[object] | None) -> Self:
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


def _branch_name(name: str) -> str:
    if fault := branch_name_fault(name):
        raise PydanticCustomError("invalid_block", "{fault}", {"fault": fault})
    return name


def _over(over: str | tuple[JsonValue, ...]) -> str | tuple[JsonValue, ...]:
    if isinstance(over, str) and (fault := over_fault(over)):
        raise PydanticCustomError("invalid_over", "{fault}", {"fault": fault})
    return over


class Branch(WireModel):
    """A slip that a block opens: its name, and its steps in their order."""

    name: Annotated[str, Field(strict=True), AfterValidator(_branch_name)]
    steps: tuple[Step, ...] = Field(min_length=1)


class BlockSpec(FlowStep):
    """A step that opens branches and waits for them. Made by `parallel`, `for_each` and `sub_workflow`.

    A `for_each` has one branch, which is opened once for each item of `over`: the items themselves, or the id of an
    earlier step and, after `#`, where in its output they are. `join` is how many branches must succeed.
    """

    kind: Literal["block"] = BLOCK
    form: Form
    branches: tuple[Branch, ...] = Field(min_length=1, max_length=MOST_NAMED)
    over: Annotated[
        Annotated[str | tuple[JsonValue, ...], AfterValidator(_over)] | None,
        Field(exclude_if=lambda over: over is None),
    ] = None
    join: Join = "all"
    on_failure: OnFailure = "fail"
    max_at_once: Annotated[int, Field(ge=1, le=MOST_AT_ONCE, strict=True)] = AT_ONCE
    timeout: Seconds | None = None

    def __init__(
        self,
        form: Form,
        branches: Sequence[Branch],
        *,
        over: str | tuple[JsonValue, ...] | None = None,
        join: Join = "all",
        on_failure: OnFailure = "fail",
        max_at_once: int = AT_ONCE,
        timeout: float | None = None,
        step_id: str | None = None,
    ) -> None:
        build(
            self,
            form=form,
            branches=tuple(branches),
            over=over,
            join=join,
            on_failure=on_failure,
            max_at_once=max_at_once,
            timeout=timeout,
            step_id=step_id,
        )

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _check_block(self) -> Self:
        if (self.form == "for_each") != (self.over is not None) or (self.form != "parallel" and len(self.branches) > 1):
            raise PydanticCustomError("invalid_block", "its branches do not fit its form")
        if self.join != "all" and self.on_failure == "fail":
            raise PydanticCustomError("invalid_block", "a join of a number collects failures")
        if self.form == "parallel" and self.join != "all" and self.join > len(self.branches):
            raise PydanticCustomError("invalid_block", "its join needs more branches than there are")
        twice = next((name for name, count in Counter(b.name for b in self.branches).items() if count > 1), None)
        if twice is not None:
            raise PydanticCustomError("invalid_block", "two branches are called {name}", {"name": repr(twice)})
        return self

    @property
    def stem(self) -> str:
        return self.form.replace("_", "-")

    @property
    def made_by(self) -> str:
        return self.form

    @property
    def over_step(self) -> tuple[str, str] | None:
        """The step whose output has the items, and the JSON Pointer to them in it; None if the items are here."""
        found = _OVER.fullmatch(self.over) if isinstance(self.over, str) else None
        return (found[1], found[2] or "") if found is not None else None

    def with_branches(self, branches: Iterable[Branch]) -> Self:
        """Return the block with other branches, which are as those that it has."""
        return self.model_copy(update={"branches": tuple(branches)})


Step: TypeAlias = Annotated[
    ActivitySpec | FunctionSpec | TaskSpec | WaitSpec | SleepSpec | BlockSpec, Field(discriminator="kind")
]
STEPS = (ActivitySpec, FunctionSpec, TaskSpec, WaitSpec, SleepSpec, BlockSpec)

Branch.model_rebuild()
BlockSpec.model_rebuild()


def name_steps(steps: Iterable[Step], *, taken: Iterable[str] = ()) -> tuple[Step, ...]:
    """Give each step without an id one made from its activity's name, numbered from the second on.

    Deterministic: the same steps get the same ids. The ids of each branch are its own, and ids that are `taken` are
    those of earlier steps. Raises `InvalidInput` if an id is used twice in a slip.
    """
    wanted = list(steps)
    given = [step.step_id for step in wanted if step.step_id is not None]
    check_unique(given)
    used = {*given, *taken}
    named: list[Step] = []
    for step in wanted:
        if isinstance(step, BlockSpec):
            branches = [branch.model_copy(update={"steps": name_steps(branch.steps)}) for branch in step.branches]
            step = step.with_branches(branches)
        if step.step_id is None:
            step = step.identified(_free_id(step.stem, used))
            used.add(cast("str", step.step_id))
        named.append(step)
    return tuple(named)


def is_step(value: object) -> bool:
    """Say whether a value is a step."""
    return isinstance(value, STEPS)


def steps_in(steps: Iterable[Step], path: str, *, depth: int = 0) -> Iterator[tuple[str, Step, int]]:
    """Yield steps and those of their branches, each with its path and in how many blocks it is."""
    for index, step in enumerate(steps):
        here = f"{path}[{index}]"
        yield here, step, depth
        if isinstance(step, BlockSpec):
            for number, branch in enumerate(step.branches):
                yield from steps_in(branch.steps, f"{here}.branches[{number}].steps", depth=depth + 1)


def check_unique(step_ids: Sequence[str]) -> None:
    twice = next((step_id for step_id, count in Counter(step_ids).items() if count > 1), None)
    if twice is not None:
        raise InvalidInput("duplicate_step_id", "step_id", f"{twice!r} is used twice in the workflow")


def branch_name_fault(name: str) -> str:
    """Say why a branch cannot have this name; "" if it can. It stands in paths, whose parts `/` divides."""
    if (fault := name_fault(name)) is not None:
        return f"the name of a branch {fault}"
    if not name.strip() or len(name) > MAX_BRANCH_NAME or "/" in name or not name.isprintable():
        return f"the name of a branch has 1 to {MAX_BRANCH_NAME} printable characters, not only spaces, and no '/'"
    return ""


def over_fault(over: str) -> str:
    found = _OVER.fullmatch(over)
    if found is None:
        return f"{over[:64]!r} names no step; use the id of an earlier step, such as 'planner' or 'planner#/sources'"
    return pointer_fault(found[2] or "")


def _free_id(name: str, used: set[str]) -> str:
    name = name[:120]  # leaves room for the number
    if name not in used:
        return name
    return next(f"{name}-{n}" for n in range(2, len(used) + 3) if f"{name}-{n}" not in used)
