"""Running an agent as a step: dependencies, prompt, run, output."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import replace
from functools import cached_property
from types import FrameType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.output import NativeOutput, PromptedOutput, TextOutput, ToolOutput

from paigeant_celery.activities.context import WorkflowContext, WorkflowDependencies, with_previous_output
from paigeant_celery.activities.functions import read_beside
from paigeant_celery.activities.lazy import Limit
from paigeant_celery.activities.making import Making
from paigeant_celery.activities.port import ActivityResult, StepLimits
from paigeant_celery.activities.results import result_of
from paigeant_celery.agents.answered_runs import run_to_end
from paigeant_celery.agents.budget import Budget, usage_of
from paigeant_celery.agents.content import check_prompt, prompt_of, user_prompt
from paigeant_celery.agents.conversations import is_said, read_history, said_by
from paigeant_celery.agents.itinerary import Edit, ItineraryEditing, editing
from paigeant_celery.agents.step_runs import StepRuns
from paigeant_celery.core.conversations import ConversationKey, conversation_of
from paigeant_celery.core.crossing import OWN, Crossed, cross, reader_of, refuse_lost
from paigeant_celery.core.errors import MessageError, UsageError
from paigeant_celery.core.faults import first_fault, raised_by_validator
from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.names import hop_id, is_free_name
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import ActivitySpec, Step, TaskSpec
from paigeant_celery.journal.scope import current_journal

__all__ = ["AgentActivity", "DepsFactory"]

D = TypeVar("D")

DepsFactory: TypeAlias = Callable[
    [Any, WorkflowContext], D | Awaitable[D] | AbstractContextManager[D] | AbstractAsyncContextManager[D]
]

CONTAINERS = {dict, list, tuple, set, frozenset}


class AgentActivity:
    """An agent as the registry and the hop see it."""

    kind: Literal["agent"] = "agent"

    def __init__(
        self,
        agent: AbstractAgent[Any, Any],
        *,
        maker: FrameType,
        name: str | None = None,
        find_name: Callable[[object], str | None] = lambda _: None,
        queue: str | None = None,
        policy: StepPolicy | None = None,
        deps_factory: DepsFactory[Any] | None = None,
        max_added_steps: int = 0,
        allowed_activities: frozenset[str] | None = None,
    ) -> None:
        self._agent, self._name, self._find_name = agent, name, find_name
        self.making = Making.at(maker, agent)
        self.origin, self.queue, self.policy = self.making.calls[0], queue, policy
        self._deps_factory = deps_factory
        self._max_added_steps, self._allowed = max_added_steps, allowed_activities
        self._runs = StepRuns(agent, lambda: self.name, also=[ItineraryEditing()] if max_added_steps else [])
        self._reader: tuple[Any, TypeAdapter[Any]] | None = None  # the type of the deps, and what reads it

    @property
    def name(self) -> str:
        """The agent's name on the slip; raises `UsageError` if it has no name yet."""
        # The agent's own name comes last: pydantic-ai may take it from any variable of the code that runs it.
        name = self._name or self._find_name(self._agent) or self._agent.name
        if name is None or not is_free_name(name):
            raise UsageError("UnnamedAgent: the agent has no name that a slip can use; pass `name=` to it")
        self._name = name
        if self._agent.name is None:
            self._agent.name = name  # so that pydantic-ai's traces and logs use the same name
        return name

    @property
    def description(self) -> str:
        description = getattr(self._agent, "description", None)
        return description if isinstance(description, str) else ""

    def crossed(self, deps: object) -> Crossed:
        """Return deps as the JSON that this agent's own type reads; raises `InvalidInput` if it cannot."""
        try:
            expected = self._expected()
        except MessageError:  # the annotations cannot be read, which `check` says
            expected = OWN
        return cross(deps, path="deps", reader=expected)

    def check(self, step: Step) -> object:
        """Return the step's deps.

        Raises `MessageError` if it is not an agent step, or its deps or parts of its prompt do not fit, and
        `InvalidInput` if they fit, but are not what the caller gave.
        """
        data = self._data_of(step)
        assert isinstance(step, ActivitySpec)
        check_prompt(step.prompt)
        if (expected := self._expected()) is not OWN:
            refuse_lost(step.given, data, reader=expected, path="deps")
        return data

    async def run(self, step: Step, given: Any, context: WorkflowContext, *, limits: StepLimits) -> ActivityResult:
        """Run the agent on the step's prompt with the deps `given`; the output becomes JSON."""
        assert isinstance(step, ActivitySpec)
        edit = Edit(
            context=context,
            max_added_steps=self._max_added_steps,
            allowed_activities=self._allowed,
            limits=limits,
        )
        previous = context.previous_output
        conversation = conversation_of(context.message, step)
        prompt = await user_prompt(step.prompt, context.read_data)
        continued: dict[str, Any] = {}
        is_heard = False
        if conversation is not None:
            continued, is_heard = await asyncio.to_thread(_continued, conversation, context)  # a history may be large
        async with self._deps(given, context) as deps:
            journal = current_journal()
            budget = Budget(context.message, journal)
            is_held = journal is not None and not self._has_output_functions
            holding = journal.holding() if journal is not None and is_held else nullcontext()
            await self._runs.prepare()
            with budget.applied(), editing(edit), holding:
                ran = await run_to_end(
                    self._agent,
                    self._runs,
                    prompt_of(prompt, previous if step.previous_output and not is_heard else None),
                    deps=with_previous_output(deps, previous),
                    usage_limits=budget.left(),
                    usage=budget.usage,
                    **continued,
                )
            output = await read_beside(ran.output, Limit(size=limits.max_output_size))  # it may need the deps
        used = usage_of(ran.usage)
        recorded = result_of(
            output,
            declared=self._declared_output,
            usage=used.counters,
            cost=used.cost,
            inserted=edit.inserted,
            notes=edit.notes(),
        )
        if conversation is None:
            return recorded
        return replace(recorded, said=await asyncio.to_thread(said_by, ran.said))

    @property
    def model(self) -> object:
        """The agent's own model, or its name."""
        return getattr(self._agent, "model", None)

    def giving(self, deps: object) -> AgentActivity:
        """Return the activity with these deps for each step, whatever the step has and whatever makes deps of it."""
        other = copy.copy(self)
        other._deps_factory = lambda _data, _context: nullcontext(deps)
        return other

    async def cancel_jobs(self, records: Mapping[str, str]) -> None:
        """Cancel the jobs that the agent's own runs slept for; its model alone is asked.

        Agents that it runs inside have models that nobody knows here, and so has a run that was given its model.
        """
        await self._runs.cancel_jobs(records)

    def _data_of(self, step: Step) -> Any:
        """Return the step's deps, validated as the type that this worker expects, or None if it expects none."""
        if not isinstance(step, ActivitySpec):
            does = "runs a Celery task" if isinstance(step, TaskSpec) else "calls a function"
            text = f"{step.activity!r} is an agent, but the step {does}; use an `ActivitySpec`"
            raise MessageError("invalid_envelope", "kind", text)
        expected = self._expected()
        if self._deps_factory is not None:
            return step.deps if expected is OWN else self._validated(step.deps, expected)
        if expected is OWN:
            if step.deps is not None:
                text = f"the agent {step.agent_name!r} takes no deps; give it a `deps_type`, or leave out the deps"
                raise MessageError("unexpected_deps", "deps", text)
            return None
        if step.deps is None and isinstance(expected, type) and issubclass(expected, WorkflowDependencies):
            return self._validated({}, expected)
        return self._validated(step.deps, expected)

    def _validated(self, data: Any, expected: Any) -> Any:
        with _faults_of_deps(expected):
            if self._reader is None or self._reader[0] != expected:  # a schema is built once, not in each hop
                self._reader = expected, TypeAdapter(expected)
            return self._reader[1].validate_json(dumps(data))

    def _expected(self) -> Any:
        """Return the type that reads the deps of a step, or OWN if there is none."""
        if self._deps_factory is not None:
            return _first_annotation(self._deps_factory)
        expected = self._agent.deps_type
        return OWN if expected is object or expected is type(None) else expected

    @cached_property
    def _declared_output(self) -> Any:
        """What reads the agent's output if its type is of containers, such as `dict[int, str]`, or OWN."""
        plain = _plain_output_type(self._agent)
        return OWN if plain is OWN else reader_of(plain) or OWN

    @cached_property
    def _has_output_functions(self) -> bool:
        """Whether the last answer is given to functions, whose effects must not come before it is recorded."""
        return any(map(inspect.isroutine, _output_parts(getattr(self._agent, "output_type", OWN))))

    def _deps(self, data: Any, context: WorkflowContext) -> AbstractAsyncContextManager[Any]:
        return nullcontext(data) if self._deps_factory is None else self._made(self._deps_factory, data, context)

    @asynccontextmanager
    async def _made(self, factory: DepsFactory[Any], data: Any, context: WorkflowContext) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            made = factory(data, context)
            if inspect.isawaitable(made):
                made = await made
            expected = getattr(self._agent, "deps_type", None)
            if isinstance(expected, type) and expected is not object and isinstance(made, expected):
                yield made  # even if it can be entered, as pools can: its maker still uses it
            elif isinstance(made, AbstractAsyncContextManager):
                yield await stack.enter_async_context(made)
            elif isinstance(made, AbstractContextManager):
                yield stack.enter_context(made)
            else:
                yield made


def _continued(conversation: ConversationKey, context: WorkflowContext) -> tuple[dict[str, Any], bool]:
    """Return what a run gets that continues a conversation, and whether the previous output is in its history."""
    history = read_history(context.history, hop_id=context.hop_id)
    message, before, previous = context.message, context.message.slip.previous, context.previous_output
    is_heard = (
        before is not None
        and previous is not None
        and not previous.content  # models are shown no files of earlier answers
        and conversation_of(message, before) == conversation
        and is_said(previous.output, history, hop_id=hop_id(message.correlation_id, before.place))
    )
    return {"message_history": history or None, "conversation_id": conversation.id}, is_heard


@contextmanager
def _faults_of_deps(expected: Any) -> Iterator[None]:
    """Raise `MessageError` for whatever goes wrong when deps are read as this type."""
    try:
        yield
    except ValidationError as error:
        place, _, text = first_fault(error)
        path = ".".join(["deps", *map(str, place)])
        raise MessageError("invalid_deps", path, text) from raised_by_validator(error)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        name = getattr(expected, "__name__", repr(expected))
        text = f"`deps_type` {name} cannot be made from JSON; make it on the worker with `deps_factory=`"
        raise MessageError("invalid_deps", "deps", text) from error
    except Exception as error:
        raise MessageError("invalid_deps", "deps", f"a validator raised {type(error).__name__}") from error


def _first_annotation(factory: Callable[..., Any]) -> Any:
    parameters = list(inspect.signature(factory).parameters.values())
    if not parameters or parameters[0].annotation is inspect.Parameter.empty:
        return OWN
    target = factory if inspect.isroutine(factory) else type(factory).__call__
    try:
        annotation = get_type_hints(inspect.unwrap(target), include_extras=True).get(parameters[0].name, OWN)
    except (NameError, TypeError) as error:
        text = f"the annotations of `deps_factory` cannot be read ({error}); import their names at run time"
        raise MessageError("invalid_deps", "deps", text) from error
    return OWN if annotation is Any else annotation


def _plain_output_type(agent: AbstractAgent[Any, Any]) -> Any:
    """Return the type of an agent's output as far as it is of containers, such as `dict[int, str]`, or OWN.

    Anything else is read by its own class.
    """
    plain = [found for found in _output_types(getattr(agent, "output_type", OWN)) if get_origin(found) in CONTAINERS]
    return Union[tuple(plain)] if plain else OWN  # noqa: UP007 - of any number of types


def _output_types(spec: Any) -> Iterator[Any]:
    """Yield the types of what may be the output, also of what output functions return."""
    for part in _output_parts(spec):
        if not inspect.isroutine(part):
            yield part
            continue
        with suppress(NameError, TypeError):  # annotations that cannot be read
            yield from _output_types(get_type_hints(part, include_extras=True).get("return"))


def _output_parts(spec: Any) -> Iterator[Any]:
    """Yield the types and functions that alternatives and markers of an output are made of."""
    if isinstance(spec, (list, tuple)):
        for part in spec:
            yield from _output_parts(part)
    elif get_origin(spec) in (Union, UnionType):
        yield from _output_parts(get_args(spec))
    elif isinstance(spec, ToolOutput):
        yield from _output_parts(spec.output)
    elif isinstance(spec, (NativeOutput, PromptedOutput)):
        yield from _output_parts(spec.outputs)
    elif isinstance(spec, TextOutput):
        yield from _output_parts(spec.output_function)
    else:
        yield spec
