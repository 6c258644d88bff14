"""What runs: an activity as the registry and the hop see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import JsonValue

from paigeant_celery.activities.context import WorkflowContext
from paigeant_celery.activities.making import Making
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import Step

__all__ = ["Activity", "ActivityResult", "CancelsJobs", "CapsAttempts", "StepLimits"]


@dataclass(frozen=True, kw_only=True)
class ActivityResult:
    """What a step produced: its output as JSON and the steps that it inserts after itself.

    `whole_size` is that of a block's output with all its parts. `content` are JSON Pointers to the files and links in
    the output. `usage` has counters such as tokens; `cost` is in US dollars, if it is known. `said` is a line of text,
    what it adds to its conversation.
    """

    output: JsonValue
    whole_size: int | None = None
    content: tuple[str, ...] = ()
    usage: Mapping[str, int] = field(default_factory=dict)
    cost: Decimal | None = None
    inserted: tuple[Step, ...] = ()
    notes: tuple[Mapping[str, str], ...] = ()
    said: str | None = None


class Activity(Protocol):
    """An agent, a function, a Celery task or a step of our own, as the registry and the hop see it."""

    @property
    def kind(self) -> Literal["agent", "function", "task", "flow"]: ...

    @property
    def name(self) -> str:
        """The name on the slip; raises `UsageError` if it has none yet."""
        ...

    @property
    def origin(self) -> str:
        """Where it was made, as `file:line`."""
        ...

    @property
    def making(self) -> Making:
        """How it was made, which tells it from another activity of its name."""
        ...

    @property
    def queue(self) -> str | None: ...

    @property
    def policy(self) -> StepPolicy | None: ...

    @property
    def description(self) -> str: ...

    def check(self, step: Step) -> object:
        """Return what the step was given, as the activity takes it: made once for each attempt.

        Raises `MessageError` (`invalid_deps`, `unexpected_deps`, `invalid_arguments`) if the step does not fit.
        """
        ...

    async def run(self, step: Step, given: Any, context: WorkflowContext, *, limits: StepLimits) -> ActivityResult:
        """Run the step inside the hop's context; `given` is what `check` returned."""
        ...


@runtime_checkable
class CancelsJobs(Protocol):
    """An activity whose steps may wait for jobs at a provider."""

    async def cancel_jobs(self, records: Mapping[str, str]) -> None:
        """Cancel the jobs that a cancelled step has left, as its journal shows; none of its own code runs."""
        ...


@runtime_checkable
class CapsAttempts(Protocol):
    """An activity whose own code says how often it may be tried, whatever policies allow."""

    @property
    def most_attempts(self) -> int | None: ...


@dataclass(frozen=True, kw_only=True)
class StepLimits:
    """How often any workflow of this deployment may visit an activity, and how large an output may be.

    That is in bytes of JSON, and what is recorded or kept of one: no more is read, because it may never end.
    `max_conversation_size` is in bytes, and of a whole history.
    """

    max_visits: int
    max_output_size: int
    max_conversation_size: int = 16 * 1024 * 1024
