"""What is checked before a workflow is recorded, so that anything a worker would refuse is refused in the caller."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from paigeant_celery.activities.port import Activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.port import Transport
from paigeant_celery.core.block_faults import block_faults
from paigeant_celery.core.content import StoredApart
from paigeant_celery.core.errors import InvalidInput, MessageError
from paigeant_celery.core.files import carries_files, with_files_apart
from paigeant_celery.core.message import PaigeantMessage, encode, parse
from paigeant_celery.core.names import CORRELATION_ID_RULE, is_correlation_id
from paigeant_celery.core.slip import BlockSpec, Step, is_step, steps_in
from paigeant_celery.core.wait_inputs import checked_moment

__all__ = [
    "check_blocks",
    "check_deadline",
    "check_kind",
    "check_queues",
    "checked_correlation_id",
    "checked_envelope",
    "checked_step",
    "checked_steps",
    "files_apart",
]


def checked_correlation_id(correlation_id: str | None) -> str:
    """Return the id of a new workflow: the one that was given, or a random one."""
    if correlation_id is None:
        return str(uuid.uuid4())
    if not isinstance(correlation_id, str):
        text = f"must be a string, not a {type(correlation_id).__name__}; use {CORRELATION_ID_RULE}"
        raise InvalidInput("bad_correlation_id", "correlation_id", text)
    if not is_correlation_id(correlation_id):
        raise InvalidInput("bad_correlation_id", "correlation_id", f"use {CORRELATION_ID_RULE}")
    return correlation_id


def check_deadline(deadline: object, now: datetime) -> None:
    """Refuse a deadline that is none, or has passed."""
    if deadline is None:
        return
    if not isinstance(deadline, datetime):
        raise InvalidInput("invalid_input", "deadline", f"must be a `datetime`, not a {type(deadline).__name__}")
    if checked_moment(deadline, "deadline") <= now:
        raise InvalidInput("deadline_passed", "deadline", f"{deadline.isoformat()} is in the past")


def check_kind(step: object, *, path: str) -> None:
    """Raise `InvalidInput` for what is no step."""
    if not is_step(step):
        text = (
            "a step is an `ActivitySpec` or `FunctionSpec`, as `agent.activity(…)` and `function.activity(…)` return, "
            f"not a {type(step).__name__}"
        )
        raise InvalidInput("invalid_input", path, text)


def checked_step(place: str, step: Step) -> Step:
    """Check a step against its activity if this process has loaded it, and add the activity's queue."""
    check_kind(step, path=place)
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


def checked_steps(path: str, steps: Iterable[Step]) -> list[Step]:
    """Check steps and those of their branches, and add the queues of their activities."""
    checked = [checked_step(f"{path}[{index}]", step) for index, step in enumerate(steps)]
    return [
        step.with_branches(
            branch.model_copy(
                update={"steps": tuple(checked_steps(f"{path}[{index}].branches[{number}].steps", branch.steps))}
            )
            for number, branch in enumerate(step.branches)
        )
        if isinstance(step, BlockSpec)
        else step
        for index, step in enumerate(checked)
    ]


def check_blocks(steps: Iterable[Step], path: str, earlier: Sequence[str], most: int) -> None:
    """Refuse blocks that cannot work: over a step that is not before them, or with more branches than may be.

    `earlier` are the ids of the steps that have run by then, of the slips around as well.
    """
    for fault in block_faults(steps, path, most=most, earlier=earlier):
        raise InvalidInput(*fault)


def check_queues(message: PaigeantMessage, transport: Transport) -> None:
    """Refuse steps whose messages no broker could take, as far as this process knows where they are sent."""
    for path, step, _ in steps_in(message.slip.itinerary, "itinerary"):
        try:
            transport.publisher.queue_for(step.activity, step.queue)
        except InvalidInput as error:
            raise InvalidInput(error.reason, f"{path}.{error.path}", error.text) from None


def files_apart(message: PaigeantMessage, transport: Transport) -> tuple[PaigeantMessage, Mapping[str, str]]:
    """Return the message to send, and the files of its prompts that the store must hold; without one all travel."""
    settings = transport.settings
    inline = settings.inline_output_size if transport.store is not None else sys.maxsize
    storing = StoredApart(inline=inline, largest=settings.max_output_size)
    try:
        return with_files_apart(message, storing), storing.blobs
    except InvalidInput as error:
        raise InvalidInput(error.reason, error.path.removeprefix("slip."), error.text) from None


def checked_envelope(message: PaigeantMessage, transport: Transport) -> str:
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
