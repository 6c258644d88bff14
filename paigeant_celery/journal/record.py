"""The journal of a hop: what is recorded of a model or tool call, and how the same call is recognized.

A call is known by what it is for (its run, step, kind, name and call id), never by a counter over all calls, because
parallel calls begin in any order. One record is written for each call when it ends; a later attempt gets the record
instead of making the call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from pydantic import JsonValue

from paigeant_celery.core.causes import Frame, as_lists, frames_from
from paigeant_celery.core.errors import NonDeterminismError

__all__ = [
    "ASLEEP",
    "CUT_OFF",
    "FORMAT",
    "PLACELESS",
    "CallKey",
    "CallKind",
    "Record",
    "RecordedError",
    "change_in",
    "differences",
    "newer_part",
    "number_of",
    "parse_key",
    "parse_record",
]

CUT_OFF = "CancelledError"  # the failure of a call that was cancelled while its run went on
ASLEEP = "asleep"  # the result of the call that cancels a job, if its run was cut off between two polls
FORMAT = 1  # of a record; increased when older versions could not read it
_BEGINNING = re.compile(r'\{"v":([0-9]{1,9})(?:,"n":([0-9]{1,15}))?[,}]')

CallKind: TypeAlias = Literal["model", "tool", "validator", "event", "operation", "start", "wait", "ask"]

# Calls that are made at no certain step of a run, so that their place says nothing about how far it came.
PLACELESS = ("start", "operation", "wait", "ask")

# What a record says about its call that must be the same when it is replayed; the rest may change.
DECISIVE = ("model", "tools", "output")


@dataclass(frozen=True, kw_only=True)
class CallKey:
    """The identity of a call within its hop.

    `run` names the agent's run, `step` counts its model requests, `call_id` is the model's own for a tool call.
    `occurrence` counts calls that are equal in all of these fields.
    """

    run: str
    step: int
    kind: CallKind
    name: str = ""
    call_id: str = ""
    occurrence: int = 0

    def __str__(self) -> str:
        return json.dumps([self.run, self.step, self.kind, self.name, self.call_id, self.occurrence])

    @property
    def label(self) -> str:
        """A name for people to read."""
        of = f" {self.name!r}" if self.name else ""
        return f"the {self.kind} call{of} in step {self.step} of run {self.run!r}"


@dataclass(frozen=True, kw_only=True)
class RecordedError:
    """An error that the run survived, and that a replay must raise again: its class, arguments and frames.

    `form` leads back to the same error, with its attributes and what it came from. Earlier versions recorded no form,
    and before that no frames.
    """

    error_class: str
    args: tuple[JsonValue, ...]
    frames: tuple[Frame, ...] = ()
    form: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A call that ended: its result, or the error that the run survived (then `result` is what came before it).

    `fingerprint` says what the call was made with, as digests and never the prompt itself. `usage` holds the counters
    of agents that ran inside it. `number` is its place in the order in which calls ended, None if it has none, as in
    records of earlier versions. `open` are the keys of calls of earlier steps of its run that had not ended then.
    """

    fingerprint: Mapping[str, str] = field(default_factory=dict)
    result: Any = None
    failure: RecordedError | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    number: int | None = None
    open: tuple[str, ...] = ()

    def encode(self) -> str:
        """Write the record as the text that the store keeps; raises `ValueError` or `TypeError` if it is not JSON."""
        numbered = {"n": self.number} if self.number is not None else {}  # second, so that it is found without parsing
        tree: dict[str, Any] = {"v": FORMAT, **numbered, "of": dict(self.fingerprint)}
        if self.failure is not None:
            tree["failure"] = {"class": self.failure.error_class, "args": list(self.failure.args)}
            if self.failure.frames:
                tree["failure"]["frames"] = as_lists(self.failure.frames)
            if self.failure.form is not None:
                tree["failure"]["form"] = dict(self.failure.form)
        if self.failure is None or self.result is not None:
            tree["result"] = self.result
        if self.usage:
            tree["usage"] = dict(self.usage)
        if self.open:
            tree["open"] = list(self.open)
        text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
        # Lone surrogates, which models may write, cannot be encoded.
        return text if text.isascii() or _has_bytes(text) else json.dumps(tree, separators=(",", ":"))


def newer_part(records: Mapping[str, str]) -> str | None:
    """Say what of the calls in a journal a newer version recorded, so that it must not be replayed; None if nothing.

    Every version begins a record with its format, and names a call by a list with its kind.
    """
    for name, text in records.items():
        if not name.startswith("["):
            continue
        if parse_key(name) is None:
            return "its journal has a call that this version does not know"
        found = _BEGINNING.match(text)
        if found is not None and int(found[1]) > FORMAT:
            return f"its journal has a record of format {found[1]}, and this version reads {FORMAT}"
    return None


def number_of(text: str) -> int | None:
    """Return the number of a record without reading all of it, None if it has none."""
    found = _BEGINNING.match(text)
    return int(found[2]) if found is not None and found[2] else None


def parse_key(text: str) -> CallKey | None:
    """Read the key of a record; None if a later version wrote it."""
    try:
        run, step, kind, name, call_id, occurrence = json.loads(text)
    except (ValueError, TypeError):
        return None
    if kind not in get_args(CallKind):
        return None
    return CallKey(run=run, step=step, kind=kind, name=name, call_id=call_id, occurrence=occurrence)


def parse_record(text: str, *, step_id: str, key: CallKey) -> Record:
    """Read a record; raises `NonDeterminismError` if it is damaged or another version wrote it."""
    try:
        tree = json.loads(text)
        version = tree["v"]
        if version == FORMAT:
            failure = tree.get("failure")
            return Record(
                fingerprint=tree["of"],
                result=tree.get("result"),
                failure=_error(failure) if failure else None,
                usage=tree.get("usage", {}),
                number=tree.get("n"),
                open=tuple(tree.get("open", ())),
            )
    except (ValueError, TypeError, KeyError) as error:
        raise NonDeterminismError(step_id, key.label, "its record is damaged") from error
    raise NonDeterminismError(step_id, key.label, f"its record has format {version}, but this version reads {FORMAT}")


def _error(tree: Mapping[str, Any]) -> RecordedError:
    frames = frames_from(tree.get("frames", ()))
    return RecordedError(error_class=tree["class"], args=tuple(tree["args"]), frames=frames, form=tree.get("form"))


def differences(recorded: Mapping[str, str], current: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return what differs among the things both name: first what forbids a replay, then what only earns a warning.

    What later versions digest in another way has a name like `tools/2`, after the older ones; the last name that both
    have counts.
    """
    both = {name.partition("/")[0]: name for name in recorded if name in current}
    differing = [what for what, name in both.items() if recorded[name] != current[name]]
    return [what for what in differing if what in DECISIVE], [what for what in differing if what not in DECISIVE]


def change_in(names: Sequence[str]) -> str:
    """Say that what a call was made with is not the same any more; reads well for one name and for several."""
    *first, last = names
    return f"its {', '.join(first)} and {last} changed" if first else f"its {last} changed"


def _has_bytes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
