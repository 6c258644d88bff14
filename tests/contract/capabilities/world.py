"""What stays outside the process of a row's agent: models and services, which count what is done to them."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4
from weakref import finalize

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel

__all__ = ["Answer", "Effect", "Unit", "World", "current_unit", "in_unit"]

Answer: TypeAlias = (
    str | ModelResponse | Exception | Sequence[Any] | Callable[[Sequence[ModelMessage], AgentInfo], ModelResponse | str]
)


@dataclass(eq=False)
class Unit:
    """A call that the journal makes: what is done in it may be done again only if it was not recorded."""

    recorded: bool = False
    name: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True)
class Effect:
    """Something that was done, in which attempt, and in which recorded call, if in any."""

    what: str
    attempt: int
    unit: Unit | None


_unit: ContextVar[Unit | None] = ContextVar("unit", default=None)


def current_unit() -> Unit | None:
    """Return the unit that runs here."""
    return _unit.get()


@contextmanager
def in_unit(unit: Unit) -> Iterator[None]:
    """Let what is done in the block be done in `unit`."""
    token = _unit.set(unit)
    try:
        yield
    finally:
        _unit.reset(token)


class World:
    """Outlives the attempts of one trial. A row's agent is made anew in each of them, as a new process makes it."""

    def __init__(self) -> None:
        self.attempt = 1
        self.effects: list[Effect] = []
        self.state: dict[str, Any] = {}

    @cached_property
    def folder(self) -> Path:
        """A folder on a disk that outlives the process; removed with the world."""
        folder = Path(tempfile.mkdtemp(prefix="row-"))
        finalize(self, shutil.rmtree, folder)
        return folder

    @property
    def has_folder(self) -> bool:
        """Whether anybody has asked for the folder."""
        return "folder" in vars(self)

    def did(self, what: str) -> int:
        """Count an effect; returns how often it was done, in all attempts together."""
        self.effects.append(Effect(what, self.attempt, _unit.get()))
        return self.count(what)

    def count(self, what: str) -> int:
        """How often something was done, in all attempts together."""
        return sum(effect.what == what for effect in self.effects)

    def recorded(self, what: str) -> bool:
        """Say whether something was done in a call that an earlier attempt recorded."""
        return any(effect.what == what and effect.unit is not None and effect.unit.recorded for effect in self.effects)

    def done(self, *, attempt: int | None = None) -> Counter[str]:
        """Everything that was done, in one attempt or in all."""
        return Counter(effect.what for effect in self.effects if attempt in (None, effect.attempt))

    def model(self, *answers: Answer, name: str = "model", **arguments: Any) -> FunctionModel:
        """Return a model that gives these answers in order in each run and counts its requests.

        An answer is a text, the parts of a response, a response, an error, or a function of the request.
        """

        def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            self.did(f"request to {name}")
            given = answers[min(len(answers) - 1, sum(isinstance(message, ModelResponse) for message in messages))]
            if callable(given):
                given = given(messages, info)
            if isinstance(given, Exception):
                raise given
            if isinstance(given, str):
                given = [TextPart(given)]
            return given if isinstance(given, ModelResponse) else ModelResponse(parts=list(given))

        async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
            for index, part in enumerate(answer(messages, info).parts):
                if isinstance(part, TextPart):
                    for word in part.content.split(" "):
                        yield word if word == part.content.split(" ")[0] else f" {word}"
                elif isinstance(part, ToolCallPart):
                    yield {
                        index: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)
                    }
                else:
                    yield {index: DeltaThinkingPart(content=str(getattr(part, "content", "")))}

        return FunctionModel(answer, stream_function=stream, model_name=name, **arguments)
