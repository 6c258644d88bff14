"""A row of the table: how its agent is made, and what is expected of it when its process dies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

from packaging.version import Version
from pydantic_ai.agent import AbstractAgent

from tests.contract.capabilities.world import World

__all__ = ["CORE", "FLOOR", "Function", "Made", "Row", "Shown"]

CORE = "pydantic-ai-slim"
FLOOR = "2.62"  # the oldest version that is supported

Function: TypeAlias = Callable[[], Awaitable[Any]]  # the body of a function step, which runs agents itself
Made: TypeAlias = AbstractAgent[Any, Any] | Function


@dataclass(frozen=True, kw_only=True)
class Row:
    """What `make` returns works in a hop as outside one, whatever its process dies at, unless the row says otherwise.

    `make` is called anew in each attempt; what must outlive a process stands in the world that it gets. It returns an
    agent, which is run as an agent's step runs it, or a function, which is run as a function's step and gives the
    result of an agent's run.

    - `of`: the public classes that the row stands for.
    - `again`: what is done outside recorded calls, and so once more in each attempt: its names in the world, and in
      `runs_again` in words.
    - `refused`: the beginning of the error that the hop ends with, and in `why` the reason in words.
    - `ends`: the beginning of the error that a plain run ends with, and a hop as well.
    - `anew`: fields of messages that a provider makes up in each run.
    - `made_up`: what ids look like that each run makes up anew, as a regular expression.
    - `untried`: why no test tries it. Such a row has no `make`.
    - `waits`: the test that shows it, because the step waits for an answer from outside. It has no `make` either.
    - `other`: what the row says about messages that are not those of a plain run, in words.
    - `since`: the first version of `package` that has it. The row is not made with an older one.
    - `wrong`: what is wrong at present, if the row fails.
    - `brief`: whether the row is among those that are always tried.
    - `killed`: whether it is tried with real workers too, whose processes are killed.
    """

    name: str
    make: Callable[[World], Made] | None = None
    prompt: str = "go"
    deps: Any = None
    of: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    runs_again: str = ""
    refused: str = ""
    why: str = ""
    ends: str = ""
    anew: tuple[str, ...] = ()
    made_up: str = ""
    untried: str = ""
    waits: str = ""
    other: str = ""
    since: str = FLOOR
    package: str = CORE
    wrong: str = ""
    brief: bool = False
    killed: bool = False

    def __post_init__(self) -> None:
        assert bool(self.untried or self.waits) == (self.make is None), self.name
        assert bool(self.again) == bool(self.runs_again), self.name
        assert bool(self.refused) == bool(self.why), self.name

    @property
    def outcome(self) -> str:
        """What the table says about it."""
        if self.waits:
            return "works: the step waits for the answers, without a worker"
        if self.untried:
            return f"not tried: {self.untried}"
        if self.wrong:
            return f"does not work yet: {self.wrong}"
        if self.refused:
            return f"refused: {self.why}"
        said = f"runs again: {self.runs_again}" if self.again else "works"
        return "; ".join(filter(None, (said, self.other, "shown with killed workers too" if self.killed else "")))

    @property
    def is_here(self) -> bool:
        """Whether the installed version has it."""
        try:
            return Version(version(self.package)) >= Version(self.since)
        except PackageNotFoundError:
            return False


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is no run of an agent that can be tried at every point; a test of its own shows it."""

    name: str
    by: str
    outcome: str = "works"
