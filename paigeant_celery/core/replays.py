"""The dump of a hop: all that a replay of its agent's step needs, as one JSON text with a version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from paigeant_celery.core.errors import InvalidInput, NonDeterminismError
from paigeant_celery.core.waits import WHOLE, Answer, Wait, WaitKind, WaitState, make_token, mark_of, without_tokens

__all__ = ["FORMAT", "CallNotRecorded", "DumpedAnswer", "DumpedWait", "HopDump", "read_dump"]

FORMAT: Literal[1] = 1  # increased when older versions could not read it


class CallNotRecorded(NonDeterminismError):
    """A replay came to a call that is not on record, and made none."""

    def __str__(self) -> str:
        return f"step {self.step_id!r}: {self.call} is not on record, and a replay makes no calls: {self.text}"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class DumpedAnswer(_Part):
    """An answer to a part of a wait: its JSON text, who gave it and when."""

    text: str = Field(repr=False)
    by: str = ""
    at: datetime


class DumpedWait(_Part):
    """A wait of the hop, without the token that would let a reader answer it. `mark` tells that from others."""

    mark: str
    wait_id: str
    kind: WaitKind
    name: str
    since: datetime
    until: datetime | None = None
    state: WaitState
    parts: tuple[str, ...] = (WHOLE,)
    answers: dict[str, DumpedAnswer] = Field(default_factory=dict)
    about: str = Field(default="", repr=False)

    @classmethod
    def of(cls, wait: Wait) -> Self:
        """Return what is kept of a wait."""
        answers = {part: DumpedAnswer(text=each.text, by=each.by, at=each.at) for part, each in wait.answers.items()}
        return cls(
            mark=mark_of(wait.token),
            wait_id=wait.wait_id,
            kind=wait.kind,
            name=wait.name,
            since=wait.since,
            until=wait.until,
            state=wait.state,
            parts=wait.parts,
            answers=answers,
            about=wait.about,
        )

    def as_wait(self, hop_id: str, number: int) -> Wait:
        """Return the wait, with a token that leads nowhere."""
        return Wait(
            token=make_token(hop_id, f"replay-{number}"),
            wait_id=self.wait_id,
            kind=self.kind,
            name=self.name,
            since=self.since,
            until=self.until,
            state=self.state,
            parts=self.parts,
            answers={
                part: Answer(text=each.text, by=each.by, at=each.at, call="") for part, each in self.answers.items()
            },
            about=self.about,
        )


class HopDump(_Part):
    """A hop of an agent, as the store had it.

    `envelope` is its message with the records of all steps before it, and `around` are the slips around its branch, the
    innermost first. `records` are its journal, `history` is what its conversation was, and `blobs` have what did not
    travel: outputs of earlier steps and files of prompts. `output` is what the step gave, if it has `ended`.
    """

    format: Literal[1] = FORMAT
    hop_id: str
    path: str
    activity: str
    attempt: int = Field(ge=1)
    envelope: dict[str, JsonValue] = Field(repr=False)
    around: tuple[dict[str, JsonValue], ...] = Field(default=(), repr=False)
    records: dict[str, str] = Field(repr=False)
    waits: tuple[DumpedWait, ...] = ()
    history: tuple[str, ...] = Field(default=(), repr=False)
    blobs: dict[str, str] = Field(default_factory=dict, repr=False)
    ended: bool = False
    output: JsonValue = Field(default=None, repr=False)

    def encode(self) -> str:
        """Write it as ASCII, without anything that would answer a wait."""
        tree = self.model_dump(mode="json")
        return without_tokens(json.dumps(tree, indent=1))


def read_dump(given: str | Mapping[str, object]) -> HopDump:
    """Read a dump; raises `InvalidInput` if it is none, or only another version can read it."""
    try:
        tree = json.loads(given) if isinstance(given, str) else dict(given)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInput("invalid_input", "dump", "is not the JSON of a dump") from error
    version = tree.get("format") if isinstance(tree, dict) else None
    if type(version) is int and version > FORMAT:
        text = f"has format {version}, and this version reads {FORMAT}; install a newer paigeant_celery"
        raise InvalidInput("invalid_input", "dump", text)
    try:
        return HopDump.model_validate(tree)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise InvalidInput("invalid_input", f"dump.{where}", error.errors()[0]["msg"]) from None
