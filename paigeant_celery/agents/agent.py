"""Agents as activities: `PaigeantAgent`, and `register_agent` for any other pydantic-ai agent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias

from pydantic_ai import Agent
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.messages import UserContent
from pydantic_ai.tools import AgentDepsT
from typing_extensions import TypeVar

from paigeant_celery.activities.registry import check_name, registry
from paigeant_celery.agents.activity import AgentActivity, DepsFactory
from paigeant_celery.agents.naming import GlobalName, local_name, maker_frame
from paigeant_celery.core.errors import DuplicateActivity, InvalidInput, UsageError
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import ActivitySpec

if TYPE_CHECKING:
    from pydantic_ai import AgentRetries, Tool, models
    from pydantic_ai._instructions import AgentInstructions  # mypy loses the parameter of the public alias
    from pydantic_ai.agent import EndStrategy
    from pydantic_ai.agent.abstract import AgentMetadata, AgentModelSettings
    from pydantic_ai.capabilities import AgentCapability
    from pydantic_ai.concurrency import AnyConcurrencyLimit
    from pydantic_ai.output import OutputSpec
    from pydantic_ai.template import TemplateStr
    from pydantic_ai.tools import RunContext, ToolFuncEither
    from pydantic_ai.toolsets import AgentToolset

__all__ = ["PaigeantAgent", "register_agent"]

OutputT = TypeVar("OutputT", default=str)

# A text, or texts with files and links between them, as pydantic-ai's objects or their JSON.
GivenPrompt: TypeAlias = str | Sequence[UserContent | Mapping[str, object]]

MOST_ADDED_STEPS = 1000


class Runway(Protocol):
    """What an agent needs from a dispatcher."""

    def add(self, step: ActivitySpec) -> None: ...

    def register(self, step: ActivitySpec, *, description: str = "") -> None: ...


class PaigeantAgent(Agent[AgentDepsT, OutputT]):
    """A pydantic-ai agent that can be a step of a workflow; elsewhere it is an ordinary agent.

    It registers itself under its name: `name=`, otherwise the name of the global that holds it in the module
    that made it. All arguments not listed here go to `pydantic_ai.Agent`. One default differs:
    `defer_model_check=True`, so that a process that only dispatches needs no API key.

    - `dispatcher`: the one whose runway `add_to_runway` and `register_activity` use.
    - `can_edit_itinerary`: whether the model gets a tool that inserts registered activities after this step;
      at most `max_added_steps` per run, and only those in `allowed_activities` (None: every registered one).
    - `policy`: limits of its steps. `queue`: the Celery queue of its steps.
    - `deps_factory`: called on the worker with the JSON that arrived (validated by the annotation of the first
      parameter, if it has one) and the `WorkflowContext`. It is a sync or async function; it may return a
      context manager, which is exited when the step ends. Its result is the agent's `deps`.

    A copy of it is an ordinary agent, which can be given to `register_agent` under another name.

    Raises `InvalidInput` (`bad_agent_name`, `invalid_limit`, `invalid_queue`, `invalid_policy`, `invalid_input`).
    """

    dispatcher: Runway | None
    can_edit_itinerary: bool
    max_added_steps: int
    allowed_activities: frozenset[str] | None
    policy: StepPolicy | None
    queue: str | None
    deps_factory: DepsFactory[Any] | None
    _own_activity: AgentActivity

    if TYPE_CHECKING:  # the arguments of the oldest supported pydantic-ai; those of newer ones work too

        def __init__(
            self,
            model: models.Model | models.KnownModelName | str | None = None,
            *,
            output_type: OutputSpec[OutputT] = ...,
            instructions: AgentInstructions[AgentDepsT] = None,
            system_prompt: str | Sequence[str] = (),
            deps_type: type[AgentDepsT] = object,  # type: ignore[assignment]  # `...` is Unknown to Pyright
            name: str | None = None,
            description: TemplateStr[AgentDepsT] | str | None = None,
            model_settings: AgentModelSettings[AgentDepsT] | None = None,
            retries: int | AgentRetries | None = None,
            validation_context: Any | Callable[[RunContext[AgentDepsT]], Any] = None,
            tools: Sequence[Tool[AgentDepsT] | ToolFuncEither[AgentDepsT, ...]] = (),
            toolsets: Sequence[AgentToolset[AgentDepsT]] | None = None,
            defer_model_check: bool = True,
            end_strategy: EndStrategy = "graceful",
            metadata: AgentMetadata[AgentDepsT] | None = None,
            tool_timeout: float | None = None,
            max_concurrency: AnyConcurrencyLimit = None,
            capabilities: Sequence[AgentCapability[AgentDepsT]] | None = None,
            dispatcher: Runway | None = None,
            can_edit_itinerary: bool = False,
            max_added_steps: int = 3,
            allowed_activities: Iterable[str] | None = None,
            policy: StepPolicy | None = None,
            queue: str | None = None,
            deps_factory: DepsFactory[AgentDepsT] | None = None,
        ) -> None: ...

    else:

        def __init__(
            self,
            model=None,
            *,
            dispatcher=None,
            can_edit_itinerary=False,
            max_added_steps=3,
            allowed_activities=None,
            policy=None,
            queue=None,
            deps_factory=None,
            **agent_arguments,
        ) -> None:
            agent_arguments.setdefault("defer_model_check", True)
            super().__init__(model, **agent_arguments)
            self.dispatcher = _checked_runway(dispatcher)
            self.can_edit_itinerary = can_edit_itinerary
            self.max_added_steps = _checked_limit(max_added_steps)
            self.allowed_activities = _checked_names(allowed_activities)
            self.policy, self.queue = policy, queue
            self.deps_factory = _checked_factory(deps_factory)
            self._own_activity = self._registered()

    def _registered(self) -> AgentActivity:
        if self.name is not None:
            check_name(self.name)
        maker = maker_frame(self)
        activity = AgentActivity(
            self,
            name=self.name,
            find_name=GlobalName(maker.f_globals),
            maker=maker,
            queue=self.queue,
            policy=self.policy,
            deps_factory=self.deps_factory,
            max_added_steps=self.max_added_steps if self.can_edit_itinerary else 0,
            allowed_activities=self.allowed_activities,
        )
        registry.add(activity, holder=self)
        return activity

    def activity(
        self,
        prompt: GivenPrompt,
        deps: AgentDepsT | object = None,
        *,
        step_id: str | None = None,
        policy: StepPolicy | None = None,
        conversation: str | None = None,
        conversation_id: str | None = None,
    ) -> ActivitySpec:
        """Return a step that runs this agent on `prompt`; add it nowhere. `deps` crosses the queue as JSON.

        `prompt` is a text, or a sequence of texts, URLs and files, as for `run`. The step goes on with the message
        history of the `conversation` of that name in its workflow, or of the one with that `conversation_id` in any
        workflow, and adds to it when it completes. That takes a store.

        Raises `InvalidInput` if the worker would not read `deps` from JSON as they are.
        """
        self._ensure_name()
        return ActivitySpec(
            self.name or "",
            prompt,
            self._own_activity.crossed(deps),
            step_id,
            policy or self.policy,
            queue=self.queue,
            conversation=conversation,
            conversation_id=conversation_id,
        )

    def add_to_runway(
        self,
        prompt: GivenPrompt,
        deps: AgentDepsT | object = None,
        *,
        step_id: str | None = None,
        policy: StepPolicy | None = None,
        conversation: str | None = None,
        conversation_id: str | None = None,
    ) -> ActivitySpec:
        """Put a step of this agent on the dispatcher's runway and return it."""
        self._ensure_name()
        step = self.activity(
            prompt, deps, step_id=step_id, policy=policy, conversation=conversation, conversation_id=conversation_id
        )
        self._dispatcher("add_to_runway").add(step)
        return step

    def register_activity(
        self,
        prompt: GivenPrompt,
        deps: AgentDepsT | object = None,
        *,
        conversation: str | None = None,
        conversation_id: str | None = None,
    ) -> ActivitySpec:
        """Let agents that may edit the itinerary insert this agent; `prompt` is the default, which they may change."""
        self._ensure_name()
        step = self.activity(prompt, deps, conversation=conversation, conversation_id=conversation_id)
        description = self.description if isinstance(self.description, str) else ""
        self._dispatcher("register_activity").register(step, description=description)
        return step

    @classmethod
    def from_spec(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Always raises, because it would return a plain agent. Use `register_agent(Agent.from_spec(…), name=…)`."""
        raise UsageError(
            "`PaigeantAgent.from_spec` would return a plain `Agent`; use `register_agent(Agent.from_spec(…))`"
        )

    @classmethod
    def from_file(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Always raises, because it would return a plain agent. Use `register_agent(Agent.from_file(…), name=…)`."""
        raise UsageError(
            "`PaigeantAgent.from_file` would return a plain `Agent`; use `register_agent(Agent.from_file(…))`"
        )

    def _ensure_name(self) -> None:
        self._check_copy()
        try:
            _ = self._own_activity.name
        except UsageError:
            self.name = local_name(self)
            check_name(self.name)

    def _check_copy(self) -> None:
        """Raise `DuplicateActivity` if this is a copy under the name of the original, which would run its steps."""
        original = self._own_activity
        if original.making.subject is self:
            return
        registered: Iterable[AgentActivity] = getattr(self, "_paigeant_activities", ())
        if not any(activity.making.subject is self and activity.name == self.name for activity in registered):
            raise DuplicateActivity(original.name, original.origin, f"{original.origin} and then copied")

    def _dispatcher(self, method: str) -> Runway:
        if self.dispatcher is None:
            raise UsageError(f"`{method}` needs a dispatcher; pass `dispatcher=` to the agent {self.name!r}")
        return self.dispatcher


def register_agent(
    agent: AbstractAgent[Any, Any],
    *,
    name: str | None = None,
    policy: StepPolicy | None = None,
    queue: str | None = None,
    deps_factory: DepsFactory[Any] | None = None,
) -> None:
    """Make any pydantic-ai agent an activity, under `name`, its own name, or that of the global that holds it here.

    A worker serves it for as long as something else holds the agent. Raises `InvalidInput` (`bad_agent_name`).
    """
    if not isinstance(agent, AbstractAgent):
        raise InvalidInput("invalid_input", "agent", f"must be a pydantic-ai agent, not a {type(agent).__name__}")
    maker = sys._getframe(1)
    name = agent.name if name is None else name
    name = GlobalName(maker.f_globals)(agent) if name is None else name
    if name is None:
        text = "the agent has no name, and no global variable of this module holds it; pass `name=`"
        raise InvalidInput("bad_agent_name", "name", text)
    check_name(name)
    activity = AgentActivity(
        agent,
        name=name,
        maker=maker,
        queue=queue,
        policy=policy,
        deps_factory=_checked_factory(deps_factory),
    )
    registry.add(activity, holder=agent)


def _checked_runway(dispatcher: Runway | None) -> Runway | None:
    if dispatcher is not None and not (hasattr(dispatcher, "add") and hasattr(dispatcher, "register")):
        text = f"must be a `WorkflowDispatcher`, not a {type(dispatcher).__name__}"
        raise InvalidInput("invalid_input", "dispatcher", text)
    return dispatcher


def _checked_limit(limit: object) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= MOST_ADDED_STEPS:
        raise InvalidInput("invalid_limit", "max_added_steps", f"must be a whole number from 0 to {MOST_ADDED_STEPS}")
    return limit


def _checked_names(names: Iterable[str] | None) -> frozenset[str] | None:
    if names is None:
        return None
    if isinstance(names, str):
        raise InvalidInput("invalid_input", "allowed_activities", "must be a collection of names, not a single string")
    return frozenset(names)


def _checked_factory(factory: DepsFactory[Any] | None) -> DepsFactory[Any] | None:
    if factory is not None and not callable(factory):
        raise InvalidInput("invalid_input", "deps_factory", f"must be callable, but it is a {type(factory).__name__}")
    return factory
