"""The envelope that crosses the queues, and how it is read and written."""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import datetime
from typing import Any, Literal, Self, TypeAlias

from pydantic import AwareDatetime, BaseModel, Field, JsonValue, TypeAdapter, ValidationError

from paigeant_celery.core.budget import WorkflowLimits
from paigeant_celery.core.content import by_digest
from paigeant_celery.core.errors import MessageError, NewerMessage
from paigeant_celery.core.faults import fault_of, kind_fault
from paigeant_celery.core.jsonable import LEAVES, dumps, loads
from paigeant_celery.core.names import (
    CORRELATION_ID_RULE,
    FLOW,
    SPEC_VERSION,
    block_of,
    hop_id,
    is_correlation_id,
    is_step_id,
    name_fault,
    split_hop_id,
)
from paigeant_celery.core.notation import in_one_notation
from paigeant_celery.core.slip import (
    BranchOf,
    RegisteredActivity,
    RoutingSlip,
    Step,
    StepFields,
    WireModel,
    steps_in,
)
from paigeant_celery.core.steps import MOST_DEEP, BlockSpec

__all__ = [
    "PaigeantMessage",
    "content_digest",
    "encode",
    "first_activity_in",
    "first_step_in",
    "parent_of",
    "parse",
    "reread",
    "sha256",
    "step_ids_in",
    "within_trace",
]

_OLD_FORMAT = {"type", "module"}
_STEP: TypeAdapter[Step] = TypeAdapter(Step)
Notation: TypeAlias = Literal["values", "json", "text"]
WITHOUT_FIELDS = {*LEAVES, dict, list, datetime}  # what most fields of a message hold
GIVEN = {"deps", "arguments", "args", "kwargs"}  # of a step: what its caller gave to it as values


class PaigeantMessage(WireModel):
    """One workflow on its way: where it stands, and everything that the next hop needs.

    `message_id` is the id of the hop that the message asks for. `token_ref` is reserved for a reference to the
    credentials of a workflow; a signature would travel beside the envelope, because it covers its exact bytes.
    `stream` asks for the agents' own stream events; `usage_limits` apply to all steps together. Both exist since 1.1.
    """

    spec_version: str = SPEC_VERSION
    message_id: str
    correlation_id: str
    created_at: AwareDatetime
    sent_at: AwareDatetime
    deadline: AwareDatetime | None = None
    trace_context: dict[str, str] = Field(default_factory=dict)
    variables: dict[str, JsonValue] = Field(default_factory=dict)
    slip: RoutingSlip
    registered_activities: tuple[RegisteredActivity, ...] = ()
    token_ref: str | None = None
    stream: bool = Field(default=False, strict=True)
    usage_limits: WorkflowLimits | None = None

    @property
    def place(self) -> str:
        """The place of the hop that the message asks for."""
        return self.slip.place

    @property
    def path(self) -> str:
        """The path of the step to run: its id, in a branch behind the ids of blocks and the names of branches."""
        step = self.slip.next_step
        return self.slip.path_of((step.step_id if step is not None else None) or "")

    @property
    def step(self) -> Step:
        """The step to run; raises `MessageError` at the end of the slip."""
        step = self.slip.next_step
        if step is None:
            raise MessageError("empty_itinerary", "slip.itinerary", "there is no step left to run")
        return step

    @property
    def is_newer(self) -> bool:
        """Whether the message is of a newer minor version than this one."""
        return _check_version(self.spec_version)

    def moved(self, slip: RoutingSlip, *, now: datetime) -> Self:
        """Return the message with the slip moved forward; an older version becomes ours."""
        # An older reader keeps the fields that we add only if the version tells it that there may be some.
        version = self.spec_version if self.is_newer else SPEC_VERSION
        message_id = hop_id(self.correlation_id, slip.place)
        return self.model_copy(update={"slip": slip, "message_id": message_id, "sent_at": now, "spec_version": version})


def parent_of(message: PaigeantMessage) -> str | None:
    """Return the hop that sent this one: that of the step before it or, at the beginning of a branch, of its block."""
    if message.slip.executed:
        return hop_id(message.correlation_id, message.slip.executed[-1].place)
    above = block_of(message.message_id)
    return above[0] if above is not None else None


def within_trace(message: PaigeantMessage, trace_context: dict[str, str]) -> PaigeantMessage:
    """Return a message as a part of a trace; unchanged if that is empty."""
    return message.model_copy(update={"trace_context": trace_context}) if trace_context else message


def encode(message: PaigeantMessage) -> str:
    """Write the envelope as the string that travels; its bytes are made only here."""
    return dumps(message.model_dump(mode="json"))


def parse(text: object, *, max_size: int, max_steps: int) -> PaigeantMessage:
    """Read an envelope, or raise `MessageError` with the reason code and the path of the field.

    `max_size` is in bytes of UTF-8 and is checked before anything is parsed; `max_steps` counts executed and
    remaining steps. Raises `NewerMessage` if the message is of a newer minor version and has what this one cannot read.
    """
    if not isinstance(text, str):
        raise MessageError("bad_envelope", "", f"the envelope is a {type(text).__name__}, not a string")
    if len(text) > max_size or len(text.encode(errors="surrogatepass")) > max_size:
        raise MessageError(
            "too_large", "", f"the envelope has more than {max_size} bytes (`paigeant_max_message_size`)"
        )
    tree = loads(text)
    if not isinstance(tree, dict):
        raise MessageError("invalid_envelope", "", f"the envelope is a JSON {type(tree).__name__}, not an object")
    newer = _check_version(tree.get("spec_version"))
    try:
        message = PaigeantMessage.model_validate(tree)
    except ValidationError as error:
        if newer and (path := kind_fault(error)) is not None:
            raise _newer(path, f"this version does not know this kind of step ({_supported()})") from None
        raise MessageError(*fault_of(error)) from None
    if not newer:
        _refuse_unknown(message)
    try:
        _check_slip(message, max_steps)
    except MessageError as odd:
        if newer and odd.reason == "inconsistent_slip":  # it may count and place its steps in another way
            raise _newer(odd.path, f"{odd.text}, as far as this version can tell ({_supported()})") from None
        raise
    for name in message.variables:
        if (fault := name_fault(name)) is not None:
            raise MessageError("invalid_text", "variables", f"the name of a variable {fault}")
    return message


def step_ids_in(envelope: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids of the executed and of the remaining steps, as far as they can be told of any later version."""
    slip = _get(loads(envelope), "slip")
    return _ids_in(_get(slip, "executed")), _ids_in(_get(slip, "itinerary"))


def first_step_in(envelope: str) -> Step | None:
    """Return the step to run, if this version knows its kind; the rest may be of any later version."""
    steps = _get(_get(loads(envelope), "slip"), "itinerary")
    try:
        return _STEP.validate_python(steps[0]) if isinstance(steps, list) and steps else None
    except ValidationError:
        return None


def first_activity_in(envelope: str) -> str | None:
    """Return the activity of that step."""
    step = first_step_in(envelope)
    return step.activity if step is not None else None


def _ids_in(steps: JsonValue) -> tuple[str, ...]:
    named = [_get(step, "step_id") for step in steps] if isinstance(steps, list) else []
    return tuple(step_id for step_id in named if isinstance(step_id, str))


def _get(tree: JsonValue, name: str) -> JsonValue:
    return tree.get(name) if isinstance(tree, dict) else None


def _newer(path: str, text: str) -> NewerMessage:
    return NewerMessage("newer_version", path, text)


def reread(envelope: str) -> PaigeantMessage:
    """Read an envelope that somebody accepted before; the limits of this process may be lower than theirs."""
    return parse(envelope, max_size=sys.maxsize, max_steps=sys.maxsize)


def is_newer(envelope: str) -> bool:
    """Say whether an envelope was written by a newer version, which may read what this one cannot."""
    try:
        version = json.loads(envelope)["spec_version"]
        found, own = ([int(part) for part in text.split(".")] for text in (version, SPEC_VERSION))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    return found > own


def content_digest(message: PaigeantMessage, *, variables: JsonValue = None, notation: Notation = "values") -> str:
    """Return a digest of what the caller asked for; equal for a repeated dispatch, whenever it happens.

    By default values that are equal give the same digest, however they are written. `variables` are those of the
    message in the notation of a digest, if the process that has their values knows it. `json` is the digest of a
    process that has no values, only their JSON; `text` that of versions that took the text as it is.
    """
    # It leaves out what a process adds if it has the agents loaded, and fields that a later version may add.
    asked = message.model_dump(
        mode="json",
        include={"deadline": True, "stream": True, "usage_limits": True},
        exclude_defaults=True,
    )
    if message.variables:
        asked["variables"] = message.variables if variables is None or notation != "values" else variables
    if notation != "text":
        asked.update({name: in_one_notation(asked[name]) for name in ("deadline", "variables") if name in asked})
    if message.slip.itinerary:
        asked["slip"] = {"itinerary": [_content_of(step, notation) for step in message.slip.itinerary]}
    registered = sorted(
        dumps(_content_of(activity, notation), canonical=True) for activity in message.registered_activities
    )
    return sha256(dumps([asked, registered], canonical=True))


def _content_of(part: WireModel, notation: Notation) -> dict[str, Any]:
    """Return the content of a step, or of a part of the envelope that holds steps."""
    asked = part.model_dump(mode="json", exclude={"queue", "policy"}, exclude_defaults=True)
    for name in asked.keys() & type(part).model_fields.keys():
        value = getattr(part, name)
        if name == "prompt":
            asked[name] = by_digest(value)
        elif isinstance(value, WireModel):
            asked[name] = _content_of(value, notation)
        elif isinstance(value, tuple) and any(isinstance(inner, WireModel) for inner in value):
            asked[name] = [_content_of(inner, notation) for inner in value]
        elif name in GIVEN and isinstance(part, StepFields) and notation != "text":
            given = part.given.content_of(asked[name]) if notation == "values" else asked[name]
            asked[name] = in_one_notation(given)
    return asked


def sha256(text: str) -> str:
    """Return the hexadecimal SHA-256 of the UTF-8 bytes of `text`."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _check_version(version: object) -> bool:
    """Say whether the message has a newer minor version than ours; raise if the version cannot be read."""
    own_major, own_minor = (int(part) for part in SPEC_VERSION.split("."))
    supported = f"this version reads {own_major}.x"
    if not isinstance(version, str):
        raise MessageError("unsupported_version", "spec_version", f"missing or not a string; {supported}")
    major, _, minor = version.partition(".")
    if not (_is_number(major) and _is_number(minor)) or int(major) != own_major:
        raise MessageError("unsupported_version", "spec_version", f"{version[:32]!r}; {supported}")
    return int(minor) > own_minor


def _supported() -> str:
    return f"it reads all of {SPEC_VERSION}"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 6


def _refuse_unknown(message: PaigeantMessage) -> None:
    path = _unknown_field(message, "") if _has_unknown_field(message) else None
    if path is None:
        return
    hint = "this version does not know the field"
    if path.rpartition(".")[2] in _OLD_FORMAT:
        hint += "; it belongs to an older format that named classes and modules: dispatch the workflow again"
    raise MessageError("unknown_field", path, hint)


def _has_unknown_field(message: PaigeantMessage) -> bool:
    """Say so without the path, which hardly any message needs."""
    parts: list[object] = [message]
    for part in parts:  # which grows by what is in each
        if isinstance(part, tuple):
            parts += part
        elif isinstance(part, BaseModel):
            if part.model_extra:
                return True
            parts += [value for value in vars(part).values() if type(value) not in WITHOUT_FIELDS]
    return False


def _unknown_field(value: Any, path: str) -> str | None:
    if isinstance(value, BaseModel) and value.model_extra:
        name = next(iter(value.model_extra))[:64]
        return f"{path}.{name}" if path else name
    if isinstance(value, BaseModel):
        fields = [(f"{path}.{name}" if path else name, getattr(value, name)) for name in type(value).model_fields]
        return _first(fields)
    if isinstance(value, tuple):
        return _first([(f"{path}[{index}]", part) for index, part in enumerate(value)])
    return None


def _first(fields: list[tuple[str, Any]]) -> str | None:
    return next((found for path, value in fields if (found := _unknown_field(value, path)) is not None), None)


def _check_slip(message: PaigeantMessage, max_steps: int) -> None:
    slip = message.slip
    if not is_correlation_id(message.correlation_id):
        raise MessageError("bad_correlation_id", "correlation_id", CORRELATION_ID_RULE)
    if slip.length > max_steps:
        raise MessageError("too_many_steps", "slip", f"more than {max_steps} steps (`paigeant_max_steps`)")
    if split_hop_id(message.message_id) != (message.correlation_id, slip.place):
        raise MessageError(
            "inconsistent_slip",
            "message_id",
            f"the slip stands at place {slip.place}, but the id says otherwise",
        )
    if slip.earlier is not None and not slip.executed:
        raise MessageError("inconsistent_slip", "slip.executed", "the record of the last step is missing")
    if slip.earlier is not None and slip.previous is None and slip.earlier.visits.keys() - {FLOW}:
        raise MessageError("inconsistent_slip", "slip.executed", "the record of the last output is missing")
    for name, far in (("earlier", slip.earlier), ("later", slip.later)):
        if far is not None and sum(far.visits.values()) != far.count:
            raise MessageError("inconsistent_slip", f"slip.{name}.visits", "they are not as many as the steps")
    if slip.later is not None and (slip.earlier is None or not slip.itinerary):
        raise MessageError("inconsistent_slip", "slip.later", "the steps before these are missing")
    if slip.branch is not None:
        _check_branch(slip.branch)
    for index, record in enumerate(slip.executed):
        if record.place != slip.place_of(slip.ran - len(slip.executed) + index):
            raise MessageError("inconsistent_slip", f"slip.executed[{index}].place", "out of order")
    ids = slip.step_ids()
    if "" in ids:
        raise MessageError("invalid_envelope", "slip.itinerary", "a step has no `step_id`")
    if len(set(ids)) != len(ids):
        raise MessageError("inconsistent_slip", "slip", "a step id appears twice")
    _check_blocks(slip, max_steps)


def _check_branch(branch: BranchOf) -> None:
    parts = branch.path.split("/")
    if len(parts) != 2 * branch.place.count("-") or not all(map(is_step_id, parts[::2])):
        raise MessageError("inconsistent_slip", "slip.branch.path", "it does not fit the place of the branch")


def _check_blocks(slip: RoutingSlip, max_steps: int) -> None:
    above = slip.branch.place.count("-") if slip.branch is not None else 0
    for path, step, depth in steps_in(slip.itinerary, "slip.itinerary"):
        if not isinstance(step, BlockSpec):
            continue
        if above + depth >= MOST_DEEP:
            raise MessageError("too_many_blocks", path, f"more than {MOST_DEEP} blocks are inside each other")
        for number, branch in enumerate(step.branches):
            here = f"{path}.branches[{number}].steps"
            if len(branch.steps) > max_steps:
                raise MessageError("too_many_steps", here, f"more than {max_steps} steps (`paigeant_max_steps`)")
            ids = [inner.step_id for inner in branch.steps]
            if None in ids:
                raise MessageError("invalid_envelope", here, "a step has no `step_id`")
            if len(set(ids)) != len(ids):
                raise MessageError("inconsistent_slip", here, "a step id appears twice")
