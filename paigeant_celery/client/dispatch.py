"""Building a routing slip and sending its first message."""

from __future__ import annotations

import asyncio
import difflib
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import cast

from pydantic import JsonValue

from paigeant_celery.activities.port import Activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox, Recorded
from paigeant_celery.broker.port import Transport, checked_transport
from paigeant_celery.broker.sending import Sending
from paigeant_celery.broker.spans import dispatching
from paigeant_celery.broker.tracing import current_trace
from paigeant_celery.client.handle import WorkflowHandle
from paigeant_celery.core.budget import WorkflowLimits
from paigeant_celery.core.content import StoredApart
from paigeant_celery.core.conversations import conversation_of
from paigeant_celery.core.crossing import Crossed, cross
from paigeant_celery.core.errors import (
    EmptyItinerary,
    InvalidInput,
    MessageError,
    NotPublished,
    NotRecorded,
    NotSent,
    PaigeantError,
    StoreCorrupt,
    StoreRequired,
    TransientError,
    Unreachable,
    WorkflowConflict,
)
from paigeant_celery.core.files import carries_files, with_files_apart
from paigeant_celery.core.flow_steps import FlowStep, start_step
from paigeant_celery.core.message import PaigeantMessage, content_digest, encode, parse
from paigeant_celery.core.names import CORRELATION_ID_RULE, FIRST_PLACE, hop_id, is_correlation_id
from paigeant_celery.core.slip import (
    ActivitySpec,
    BlockSpec,
    RegisteredActivity,
    RoutingSlip,
    Step,
    is_step,
    name_steps,
    steps_in,
)
from paigeant_celery.core.task_steps import TaskSignature, is_signature, step_of, steps_of
from paigeant_celery.core.wait_inputs import checked_moment
from paigeant_celery.store.port import NewWorkflow

__all__ = ["WorkflowDispatcher"]


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
        _check_kind(added, path="step")
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
            span.tell("messaging.message.conversation_id", prepared.message.correlation_id)
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
            span.tell("messaging.message.conversation_id", prepared.message.correlation_id)
            return prepared.send()

    def handle(self, correlation_id: str, transport: Transport | None = None) -> WorkflowHandle:
        """Return a handle on a workflow that was dispatched here or anywhere else. Nothing is read yet."""
        return WorkflowHandle(correlation_id, _checked_transport(transport))

    def _prepare(
        self,
        transport: Transport | None,
        itinerary: Iterable[Step | TaskSignature] | None,
        asked: _Asked,
    ) -> _Prepared:
        transport = _checked_transport(transport)
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
            _check_queues(message, transport)
            message, blobs = _with_files_apart(message, transport)
            message = _starting_at(asked.start_at, message)
            envelope = _checked_envelope(message, transport)
        except BaseException:
            if runway is not None:
                runway.give_back()
            raise
        content = content_digest(message, variables=variables.content_of(variables.tree))
        return _Prepared(
            transport=transport, message=message, envelope=envelope, blobs=blobs, content=content, runway=runway
        )


@dataclass(kw_only=True)
class _Prepared:
    """A checked workflow that is about to be recorded and sent."""

    transport: Transport
    message: PaigeantMessage
    envelope: str
    blobs: Mapping[str, str]
    content: str
    runway: _Runway | None
    looked: float = 0.0  # seconds for which it was looked at the broker; the message has so much less

    def send(self) -> str:
        first = self._begin()
        with self._telling():
            if first is not None:
                first.wait()
        return self.message.correlation_id

    async def sent(self) -> str:
        """Do what `send` does. The event loop waits neither for the store nor for the broker."""
        first = await asyncio.to_thread(self._begin)
        with self._telling():
            if first is not None:
                await first.arrived()
        return self.message.correlation_id

    def _begin(self) -> Sending[None] | None:
        """Record the workflow and have its first message sent; None if there is nothing to send."""
        outbox = Outbox(self.transport.publisher, registry)
        recorded = self._record(outbox)
        if recorded is None:
            return None
        try:
            known = self.message if recorded.envelope == self.envelope else None
            return outbox.begin(recorded, message=known).sooner(self.looked)
        except MessageError as error:  # only an envelope that the store returned is read again
            self._give_back()
            raise StoreCorrupt(f"{self.message.correlation_id}: envelope", str(error)) from error

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say of a message that was not sent whether its workflow is recorded."""
        try:
            yield
        except TransientError as error:
            refused = isinstance(error, Unreachable) and error.refused
            if self.transport.store is not None:
                raise NotPublished(self.message.correlation_id, str(error), refused) from error
            self._give_back()
            if isinstance(error, Unreachable):
                raise NotSent(*error.args) from error
            raise

    def _record(self, outbox: Outbox) -> Recorded | None:
        """Record the workflow and return what must be sent, or None if it has already begun.

        An existing workflow keeps its own envelope and queue.
        """
        store, correlation_id = self.transport.store, self.message.correlation_id
        hop = outbox.record_of(self.message, self.envelope)
        if store is None:
            return hop
        new = NewWorkflow(
            correlation_id=correlation_id,
            content=self.content,
            hop=hop,
            deadline=self.message.deadline,
            blobs=self.blobs,
        )
        try:
            begun = time.monotonic()
            self.transport.check_broker()
            self.looked = time.monotonic() - begun
            answer = store.start(new)
            others = self._other_contents() if answer == "conflict" else []
            while answer == "conflict" and others:
                answer = store.start(replace(new, content=others.pop(0)))
            if answer == "conflict":
                raise WorkflowConflict(correlation_id)
            existing = store.workflow(correlation_id) if answer == "exists" else None
        except TransientError as error:
            self._give_back()
            raise NotRecorded(correlation_id, str(error)) from error
        except PaigeantError:
            self._give_back()
            raise
        if existing is None:
            return hop
        waits = existing.awaits_message and existing.hop_id == self.message.message_id
        return existing if waits else None

    def _other_contents(self) -> list[str]:
        """Return the digests under which a process without the values, or an older version, recorded the same JSON."""
        found = [content_digest(self.message, notation="json"), content_digest(self.message, notation="text")]
        return [content for content in dict.fromkeys(found) if content != self.content]

    def _give_back(self) -> None:
        if self.runway is not None:
            self.runway.give_back()


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
    correlation_id = asked.correlation_id
    if correlation_id is None:
        correlation_id = str(uuid.uuid4())
    elif not isinstance(correlation_id, str):
        text = f"must be a string, not a {type(correlation_id).__name__}; use {CORRELATION_ID_RULE}"
        raise InvalidInput("bad_correlation_id", "correlation_id", text)
    elif not is_correlation_id(correlation_id):
        raise InvalidInput("bad_correlation_id", "correlation_id", f"use {CORRELATION_ID_RULE}")
    if not isinstance(asked.stream, bool):
        raise InvalidInput("invalid_input", "stream", f"must be True or False, not a {type(asked.stream).__name__}")
    checked = _checked_steps("itinerary", steps)
    offered = tuple(registered)
    for index, entry in enumerate(offered):
        _checked_step(f"registered_activities[{index}]", entry.step)
    named = name_steps(checked)
    _check_blocks(named, "itinerary", (), transport.settings.max_branches)
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


def _checked_steps(path: str, steps: Iterable[Step]) -> list[Step]:
    """Check steps and those of their branches, and add the queues of their activities."""
    checked = [_checked_step(f"{path}[{index}]", step) for index, step in enumerate(steps)]
    return [
        step.with_branches(
            branch.model_copy(
                update={"steps": tuple(_checked_steps(f"{path}[{index}].branches[{number}].steps", branch.steps))}
            )
            for number, branch in enumerate(step.branches)
        )
        if isinstance(step, BlockSpec)
        else step
        for index, step in enumerate(checked)
    ]


def _check_blocks(steps: Iterable[Step], path: str, earlier: Sequence[str], most: int) -> None:
    """Refuse blocks that cannot work: over a step that is not before them, or with more branches than may be.

    `earlier` are the ids of the steps that have run by then, of the slips around as well.
    """
    before = list(earlier)
    for index, step in enumerate(steps):
        here = f"{path}[{index}]"
        if isinstance(step, BlockSpec):
            if step.over_step is not None and step.over_step[0] not in before:
                name = step.over_step[0]
                close = difflib.get_close_matches(name, before, n=3)
                hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
                raise InvalidInput("invalid_over", f"{here}.over", f"no step {name!r} is before the block{hint}")
            count = len(step.over) if isinstance(step.over, tuple) else len(step.branches)
            if count > most:
                text = f"{count} branches, and a block may have {most} (`paigeant_max_branches`)"
                raise InvalidInput("too_many_branches", here, text)
            for number, branch in enumerate(step.branches):
                _check_blocks(branch.steps, f"{here}.branches[{number}].steps", before, most)
        before.append(step.step_id or "")


def _crossed_variables(variables: object) -> Crossed:
    if variables is not None and not isinstance(variables, Mapping):
        raise InvalidInput("invalid_variables", "variables", f"must be a mapping, not a {type(variables).__name__}")
    return cross(dict(variables or {}), path="variables")


def _check_times(asked: _Asked, now: datetime) -> None:
    start = checked_moment(asked.start_at, "start_at") if asked.start_at is not None else None
    deadline = asked.deadline
    if deadline is None:
        return
    if not isinstance(deadline, datetime):
        raise InvalidInput("invalid_input", "deadline", f"must be a `datetime`, not a {type(deadline).__name__}")
    deadline = checked_moment(deadline, "deadline")
    if deadline <= now:
        raise InvalidInput("deadline_passed", "deadline", f"{deadline.isoformat()} is in the past")
    if start is not None and deadline <= start:
        raise InvalidInput("deadline_passed", "deadline", f"{deadline.isoformat()} is not after `start_at`")


def _check_kind(step: object, *, path: str) -> None:
    if not is_step(step):
        text = (
            "a step is an `ActivitySpec` or `FunctionSpec`, as `agent.activity(…)` and `function.activity(…)` return, "
            f"not a {type(step).__name__}"
        )
        raise InvalidInput("invalid_input", path, text)


def _checked_step(place: str, step: Step) -> Step:
    """Check a step against its activity if this process has loaded it, and add the activity's queue."""
    _check_kind(step, path=place)
    activity: Activity | None = registry.find(step.activity)
    if activity is None:
        return step
    try:
        activity.check(step)
    except (MessageError, InvalidInput) as error:
        raise InvalidInput(error.reason, f"{place}.{error.path}".rstrip("."), error.text) from None
    if step.queue is None and activity.queue is not None:
        return step.model_copy(update={"queue": activity.queue})
    return step


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


def _check_queues(message: PaigeantMessage, transport: Transport) -> None:
    """Refuse steps whose messages no broker could take, as far as this process knows where they are sent."""
    for path, step, _ in steps_in(message.slip.itinerary, "itinerary"):
        try:
            transport.publisher.queue_for(step.activity, step.queue)
        except InvalidInput as error:
            raise InvalidInput(error.reason, f"{path}.{error.path}", error.text) from None


def _with_files_apart(message: PaigeantMessage, transport: Transport) -> tuple[PaigeantMessage, Mapping[str, str]]:
    """Return the message to send, and the files of its prompts that the store must hold; without one all travel."""
    settings = transport.settings
    inline = settings.inline_output_size if transport.store is not None else sys.maxsize
    storing = StoredApart(inline=inline, largest=settings.max_output_size)
    try:
        return with_files_apart(message, storing), storing.blobs
    except InvalidInput as error:
        raise InvalidInput(error.reason, error.path.removeprefix("slip."), error.text) from None


def _checked_envelope(message: PaigeantMessage, transport: Transport) -> str:
    """Write the envelope and read it as a worker will, so that anything a worker would refuse is refused here."""
    settings = transport.settings
    envelope = encode(message)
    try:
        parse(envelope, max_size=settings.max_message_size, max_steps=settings.max_steps)
    except MessageError as error:
        travels = error.reason == "too_large" and transport.store is None and carries_files(message)
        remedy = "; with a store (`paigeant_store_url`) the files of prompts do not travel" if travels else ""
        path = error.path.removeprefix("slip.")  # the caller knows no slip
        raise InvalidInput(error.reason, path, f"{error.text}{remedy}") from None
    return envelope


def _checked_transport(transport: Transport | None) -> Transport:
    from paigeant_celery.broker.transport import get_transport

    if transport is None:
        return get_transport()
    return checked_transport(transport)
