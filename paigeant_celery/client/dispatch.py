"""Building a routing slip and sending its first message."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import cast

from pydantic import JsonValue

from paigeant_celery.broker.port import Transport, checked_transport
from paigeant_celery.broker.spans import dispatching
from paigeant_celery.broker.tracing import current_trace
from paigeant_celery.client.beginning import Beginning
from paigeant_celery.client.checks import (
    check_blocks,
    check_deadline,
    check_kind,
    check_queues,
    checked_correlation_id,
    checked_envelope,
    checked_step,
    checked_steps,
    files_apart,
)
from paigeant_celery.client.handle import WorkflowHandle
from paigeant_celery.core.budget import WorkflowLimits
from paigeant_celery.core.conversations import conversation_of
from paigeant_celery.core.crossing import Crossed, cross
from paigeant_celery.core.errors import (
    EmptyItinerary,
    InvalidInput,
    StoreRequired,
)
from paigeant_celery.core.flow_steps import FlowStep, start_step
from paigeant_celery.core.message import PaigeantMessage, content_digest
from paigeant_celery.core.names import FIRST_PLACE, hop_id
from paigeant_celery.core.slip import (
    ActivitySpec,
    RegisteredActivity,
    RoutingSlip,
    Step,
    is_step,
    name_steps,
    steps_in,
)
from paigeant_celery.core.task_steps import TaskSignature, is_signature, step_of, steps_of
from paigeant_celery.core.wait_inputs import checked_moment

__all__ = ["WorkflowDispatcher", "given_transport"]


@dataclass
class _Runway:
    """Steps collected for the next dispatch of one context."""

    steps: list[Step] = field(default_factory=list)
    free: deque[None] = field(default_factory=lambda: deque([None]), repr=False)  # empty while a dispatch has the steps

    @property
    def taken(self) -> bool:
        """Whether a dispatch has the steps."""
        return not self.free

    def take(self) -> bool:
        """Take the steps for one dispatch; False if another dispatch has them."""
        try:
            self.free.pop()  # in one go, and without a lock that another thread could hold at a fork
        except IndexError:
            return False
        return True

    def give_back(self) -> None:
        """Leave the steps to a later dispatch, because this one sent nothing."""
        self.free.append(None)


@dataclass(frozen=True)
class _Asked:
    """What a caller asks of a workflow besides its steps; not checked yet."""

    variables: Mapping[str, object] | None
    correlation_id: str | None
    start_at: datetime | None
    deadline: datetime | None
    stream: bool
    usage_limits: object


class WorkflowDispatcher:
    """Collects steps, builds the slip and sends its first message.

    The runway (`add`, `agent.add_to_runway`) belongs to the current context: threads and concurrent requests
    do not see each other's steps. It is meant for scripts; server code passes `itinerary=[…]`.
    """

    def __init__(self) -> None:
        self._runway: ContextVar[_Runway | None] = ContextVar("paigeant_runway", default=None)
        self._registered: dict[str, RegisteredActivity] = {}

    def add(self, step: Step | TaskSignature) -> None:
        """Put a step on the runway, after those already there. Raises `InvalidInput` if it is no step."""
        added: Step = step_of(step, path="step")
        check_kind(added, path="step")
        runway = self._runway.get()
        if runway is None or runway.taken:
            runway = _Runway()
            self._runway.set(runway)
        runway.steps.append(added)

    def register(self, step: ActivitySpec, *, description: str = "") -> None:
        """Let agents that may edit the itinerary insert `step`; a later registration for the same agent replaces it.

        It goes with every workflow that this dispatcher sends from now on. Raises `InvalidInput` if it is no step of an
        agent.
        """
        if not isinstance(step, ActivitySpec):
            text = f"must be a step of an agent, as `agent.activity(…)` returns, not a {type(step).__name__}"
            raise InvalidInput("invalid_input", "step", text)
        self._registered[step.agent_name] = RegisteredActivity(description=description, step=step)

    async def dispatch_workflow(
        self,
        transport: Transport | None = None,
        *,
        itinerary: Iterable[Step | TaskSignature] | None = None,
        variables: Mapping[str, object] | None = None,
        correlation_id: str | None = None,
        start_at: datetime | None = None,
        deadline: datetime | None = None,
        stream: bool = False,
        usage_limits: object = None,
    ) -> str:
        """Record the workflow, send its first message and return its correlation id.

        The steps are `itinerary`, otherwise those on the runway, which are then taken: a second dispatch never repeats
        them. A signature of a Celery task (`charge.s(17)`) is a step, too. `correlation_id` makes the call idempotent:
        the same id with the same content returns the existing workflow (its message is sent again if it still waits;
        copies run once). `start_at` is an aware datetime: until then the workflow waits in a step of its own, `start`,
        which `sleep_until` makes. `deadline` is one too; a step that would begin later fails the workflow.
        `stream=True` lets the agents ask their models for streams and tell readers of `handle.events()` what happens.

        `usage_limits` (pydantic-ai's `UsageLimits`, `WorkflowLimits` or a mapping of the same names) apply to all agent
        steps together: each is given what is left, and one that would use more fails the workflow with
        `UsageLimitExceeded`. They are taken as given: a `UsageLimits()` has a `request_limit` of 50, which is then that
        of the workflow. Besides that, no single step makes more than pydantic-ai's own 50 requests.

        Raises `InvalidInput` and `EmptyItinerary` before anything is enqueued, `WorkflowConflict` if the id belongs to
        other content, `NotRecorded` if the store is away (it may have recorded the workflow if only the reply was
        lost), `NotPublished` if the workflow was recorded but not sent within `paigeant_publish_timeout`, so that a
        sweep sends it, `NotSent` if there is no store either, and `StoreCorrupt` if the existing workflow's record
        cannot be read. To try again after `NotRecorded` or `NotPublished`, pass the `correlation_id` of the error.
        """
        asked = _Asked(variables, correlation_id, start_at, deadline, stream, usage_limits)
        with dispatching() as span:
            prepared = self._prepare(transport, itinerary, asked)
            prepared.named_in(span)
            return await prepared.sent()

    def dispatch_workflow_sync(
        self,
        transport: Transport | None = None,
        *,
        itinerary: Iterable[Step | TaskSignature] | None = None,
        variables: Mapping[str, object] | None = None,
        correlation_id: str | None = None,
        start_at: datetime | None = None,
        deadline: datetime | None = None,
        stream: bool = False,
        usage_limits: object = None,
    ) -> str:
        """Do what `dispatch_workflow` does, for code without an event loop."""
        asked = _Asked(variables, correlation_id, start_at, deadline, stream, usage_limits)
        with dispatching() as span:
            prepared = self._prepare(transport, itinerary, asked)
            prepared.named_in(span)
            return prepared.send()

    def handle(self, correlation_id: str, transport: Transport | None = None) -> WorkflowHandle:
        """Return a handle on a workflow that was dispatched here or anywhere else. Nothing is read yet."""
        return WorkflowHandle(correlation_id, given_transport(transport))

    def _prepare(
        self,
        transport: Transport | None,
        itinerary: Iterable[Step | TaskSignature] | None,
        asked: _Asked,
    ) -> Beginning:
        transport = given_transport(transport)
        transport.check_dispatch()
        alone = isinstance(itinerary, str) or is_step(itinerary) or is_signature(itinerary)
        if itinerary is not None and (alone or not isinstance(itinerary, Iterable)):
            text = f"is a list of steps, not a {type(itinerary).__name__}; put the step into one"
            raise InvalidInput("invalid_input", "itinerary", text)
        listed = list(steps_of(itinerary)) if itinerary is not None else None
        runway = self._runway.get() if listed is None else None
        if runway is not None and not runway.take():
            runway = None
        steps: list[Step] = listed if listed is not None else list(runway.steps if runway else ())
        try:
            variables = _crossed_variables(asked.variables)
            message = _first_message(steps, asked, variables, self._registered.values(), transport)
            _check_store(message, transport, waits_for_start=asked.start_at is not None)
            check_queues(message, transport)
            message, blobs = files_apart(message, transport)
            message = _starting_at(asked.start_at, message)
            envelope = checked_envelope(message, transport)
        except BaseException:
            if runway is not None:
                runway.give_back()
            raise
        content = content_digest(message, variables=variables.content_of(variables.tree))
        return Beginning(
            transport=transport,
            message=message,
            envelope=envelope,
            blobs=blobs,
            content=content,
            others=partial(_other_contents, message, content),
            give_back=runway.give_back if runway is not None else lambda: None,
        )


def _first_message(
    steps: list[Step],
    asked: _Asked,
    variables: Crossed,
    registered: Iterable[RegisteredActivity],
    transport: Transport,
) -> PaigeantMessage:
    if not steps:
        raise EmptyItinerary
    length, limit = len(steps) + (asked.start_at is not None), transport.settings.max_steps
    if length > limit:
        raise InvalidInput("too_many_steps", "itinerary", f"{length} steps exceed `paigeant_max_steps` ({limit})")
    now = datetime.now(UTC)
    _check_times(asked, now)
    correlation_id = checked_correlation_id(asked.correlation_id)
    if not isinstance(asked.stream, bool):
        raise InvalidInput("invalid_input", "stream", f"must be True or False, not a {type(asked.stream).__name__}")
    checked = checked_steps("itinerary", steps)
    offered = tuple(registered)
    for index, entry in enumerate(offered):
        checked_step(f"registered_activities[{index}]", entry.step)
    named = name_steps(checked)
    check_blocks(named, "itinerary", (), transport.settings.max_branches)
    return PaigeantMessage(
        message_id=hop_id(correlation_id, FIRST_PLACE),
        correlation_id=correlation_id,
        created_at=now,
        sent_at=now,
        deadline=asked.deadline,
        trace_context=current_trace(),
        variables=cast("dict[str, JsonValue]", variables.tree),
        slip=RoutingSlip(itinerary=named),
        registered_activities=offered,
        stream=asked.stream,
        usage_limits=WorkflowLimits.given(asked.usage_limits),
    )


def _other_contents(message: PaigeantMessage, known: str) -> list[str]:
    """Return the digests under which a process without the values, or an older version, recorded the same JSON."""
    found = [content_digest(message, notation="json"), content_digest(message, notation="text")]
    return [content for content in dict.fromkeys(found) if content != known]


def _crossed_variables(variables: object) -> Crossed:
    if variables is not None and not isinstance(variables, Mapping):
        raise InvalidInput("invalid_variables", "variables", f"must be a mapping, not a {type(variables).__name__}")
    return cross(dict(variables or {}), path="variables")


def _check_times(asked: _Asked, now: datetime) -> None:
    start = checked_moment(asked.start_at, "start_at") if asked.start_at is not None else None
    deadline = asked.deadline
    check_deadline(deadline, now)
    if start is not None and deadline is not None and deadline <= start:
        raise InvalidInput("deadline_passed", "deadline", f"{deadline.isoformat()} is not after `start_at`")


def _check_store(message: PaigeantMessage, transport: Transport, *, waits_for_start: bool) -> None:
    """Raise `StoreRequired` for what only a store can keep."""
    if transport.store is not None:
        return
    if waits_for_start:
        raise StoreRequired("start_at")
    waiting = next((step for step in message.slip.itinerary if isinstance(step, FlowStep)), None)
    if waiting is not None:
        raise StoreRequired(waiting.made_by)
    steps = [step for _, step, _ in steps_in(message.slip.itinerary, "")]
    steps += [entry.step for entry in message.registered_activities]
    if any(conversation_of(message, step) is not None for step in steps):
        raise StoreRequired("conversation")


def _starting_at(start_at: datetime | None, message: PaigeantMessage) -> PaigeantMessage:
    """Return the message with a step in front that waits until the workflow is to start, if it starts later.

    It is there even if that time is over, because a repeated dispatch must have the same content.
    """
    if start_at is None:
        return message
    first = start_step(start_at, taken=message.slip.step_ids())
    slip = message.slip.model_copy(update={"itinerary": (first, *message.slip.itinerary)})
    return message.model_copy(update={"slip": slip})


def given_transport(transport: Transport | None) -> Transport:
    """Return the transport that a caller gave, or the default one; raises `InvalidInput` for anything else."""
    from paigeant_celery.broker.transport import get_transport

    if transport is None:
        return get_transport()
    return checked_transport(transport)
