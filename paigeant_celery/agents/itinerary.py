"""The capability that lets an agent insert registered activities after its own step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.tools import Tool
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset

from paigeant_celery.activities.context import WorkflowContext
from paigeant_celery.activities.port import StepLimits
from paigeant_celery.agents.recorded_tools import METADATA_KEY
from paigeant_celery.core.content import shown
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.slip import ActivitySpec, RegisteredActivity, Step

__all__ = ["Edit", "Insertion", "ItineraryEditing", "editing"]

TOOL_NAME = "insert_activities"


class Insertion(BaseModel):
    """An activity to insert, as the model asks for it."""

    model_config = ConfigDict(extra="forbid")

    activity: str = Field(description="Name of a registered activity.")
    prompt: str | None = Field(default=None, description="What it should do; left out, its default prompt.")


@dataclass(kw_only=True)
class Edit:
    """What one run of an agent may do to the itinerary, and what it has done.

    Edits are collected here and take effect when the hop commits. A failed run leaves no trace.
    """

    context: WorkflowContext
    max_added_steps: int
    allowed_activities: frozenset[str] | None
    limits: StepLimits
    inserted: tuple[Step, ...] = ()
    refusals: tuple[str, ...] = ()

    def available(self) -> dict[str, RegisteredActivity]:
        """The activities that may be inserted, by name."""
        registered = {entry.step.agent_name: entry for entry in self.context.message.registered_activities}
        if self.allowed_activities is None:
            return registered
        return {name: entry for name, entry in registered.items() if name in self.allowed_activities}

    def insert(self, wanted: Sequence[Insertion]) -> tuple[Step, ...]:
        """Insert all of `wanted` or none; raises an `InvalidInput` that says why."""
        try:
            steps = [self._step(index, insertion) for index, insertion in enumerate(wanted)]
            self._check_limits(steps)
        except InvalidInput as refusal:
            self.refusals = (*self.refusals, refusal.reason)
            raise
        self.inserted = (*self.inserted, *steps)
        return tuple(steps)

    def notes(self) -> tuple[Mapping[str, str], ...]:
        """Events to record with the hop."""
        added = [{"type": "step_inserted", "activity": step.activity} for step in self.inserted]
        return (*added, *({"type": "edit_refused", "reason": reason} for reason in self.refusals))

    def _step(self, index: int, insertion: Insertion) -> ActivitySpec:
        available = self.available()
        if insertion.activity not in available:
            names = ", ".join(sorted(available)) or "none"
            raise InvalidInput("activity_not_allowed", f"[{index}].activity", f"you may insert: {names}")
        return available[insertion.activity].step.asking(insertion.prompt)

    def _check_limits(self, steps: Sequence[Step]) -> None:
        if len(self.inserted) + len(steps) > self.max_added_steps:
            left = self.max_added_steps - len(self.inserted)
            raise InvalidInput("too_many_added_steps", "", f"this step may insert {left} more, not {len(steps)}")
        # The length of the workflow is not checked: a loop that exceeds it is parked, and no model may avoid that.
        visits = self.context.message.slip.visits
        visits.update(step.activity for step in (*self.inserted, *steps))
        for step in steps:
            if visits[step.activity] > self.limits.max_visits:
                text = f"{step.activity!r} may appear {self.limits.max_visits} times in a workflow"
                raise InvalidInput("too_many_visits", "", text)


_edit: ContextVar[Edit | None] = ContextVar("paigeant_itinerary_edit", default=None)


@contextmanager
def editing(edit: Edit) -> Iterator[None]:
    """Let `ItineraryEditing` make this edit in a run that begins inside the block."""
    token = _edit.set(edit)
    try:
        yield
    finally:
        _edit.reset(token)


class ItineraryEditing(AbstractCapability[Any]):
    """Gives the model one tool, `insert_activities`, and tells it what it may insert in this run."""

    def get_instructions(self) -> str | None:
        edit = _edit.get()
        if edit is None or not (available := edit.available()):
            return None
        lines = [
            f"- {name}: {entry.description or 'no description'} Default prompt: {shown(entry.step.prompt)}"
            for name, entry in sorted(available.items())
        ]
        return (
            f"You may add up to {edit.max_added_steps} steps, which run after this one in the order given, "
            f"with the tool {TOOL_NAME}. Activities:\n" + "\n".join(lines)
        )

    def get_toolset(self) -> AbstractToolset[Any] | None:
        edit = _edit.get()
        if edit is None or not edit.available():
            return None
        toolset: FunctionToolset[Any] = FunctionToolset(id="paigeant_itinerary")
        insert = _Insert(edit).insert_activities
        # Calls run one after the other, so that two calls of one response see each other's steps. They run again on
        # each replay, because their effect is only in memory.
        tool: Tool[Any] = Tool(
            insert,
            name=TOOL_NAME,
            sequential=True,
            metadata={METADATA_KEY: False},
            function_schema=replace(_schema(), function=insert),
        )
        toolset.add_tool(tool)
        return toolset


class _Insert:
    """The tool's function for one edit."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit

    def insert_activities(self, steps: list[Insertion]) -> str:
        """Insert activities after this step, all of them or none.

        Args:
            steps: The activities, in the order in which they should run.
        """
        try:
            added = self._edit.insert(steps)
        except InvalidInput as refusal:
            raise ToolFailed(f"Nothing was inserted. {refusal}") from None
        return "Inserted: " + ", ".join(step.activity for step in added)


@lru_cache
def _schema() -> Any:
    """Return the schema of the tool, which is the same in every run."""
    return Tool(_Insert(cast("Edit", None)).insert_activities, takes_ctx=False).function_schema
