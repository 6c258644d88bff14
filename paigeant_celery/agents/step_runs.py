"""Runs of a step's agent, durable as if the agent had been made with durability.

A capability that is given for a run is bound to the agent and sorted among the others in each run, which costs about a
third of what durability does. The agent itself stays as it is: others run it too, and its step may run it inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

from pydantic_ai import Agent
from pydantic_ai._utils import Some
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.capabilities import AbstractCapability, CombinedCapability

from paigeant_celery.agents.binding import inner
from paigeant_celery.agents.durability import CeleryDurability, bind_operations
from paigeant_celery.agents.left_jobs import cancel_left_jobs
from paigeant_celery.agents.run_context import durable_run, run_with, without_answer
from paigeant_celery.journal.scope import current_journal

__all__ = ["StepRuns"]


@dataclass(frozen=True)
class _Kept:
    """An agent's capabilities with those of its steps among them, and what they were made from."""

    root: CombinedCapability[Any]
    model: object
    all: Some[CombinedCapability[Any]]


class StepRuns:
    """Makes runs of one agent durable; `name` is asked for when the first one begins.

    In its steps the agent has the capabilities in `also` too, which must be bound to no agent.
    """

    def __init__(
        self, agent: AbstractAgent[Any, Any], name: Callable[[], str], *, also: Sequence[AbstractCapability[Any]] = ()
    ) -> None:
        self._agent, self._name, self._also = agent, name, also
        self._durability: CeleryDurability[Any] | None = None  # kept because it keeps the models
        self._kept: _Kept | None = None

    async def prepare(self) -> None:
        """Do what may take long before the first run."""
        if self._is_to_be_durable():
            await bind_operations(self._agent)

    @contextmanager
    def durable(self) -> Iterator[list[AbstractCapability[Any]]]:
        """Make the run that begins in the block durable, with the capabilities that it must be given."""
        with durable_run(self._agent):
            if not self._is_to_be_durable():
                yield [*self._also]
            elif not _runs_as_usual(self._agent):
                yield [self._made(), *self._also]
            else:
                with run_with(self._agent, self._composed(self._agent)):
                    yield []

    async def cancel_jobs(self, records: Mapping[str, str]) -> None:
        """Cancel the jobs that runs slept for whose hop was cancelled, as its journal shows. No run begins."""
        durability = CeleryDurability.from_agent(self._agent) or self._made()
        agent = inner(self._agent)
        await cancel_left_jobs(agent, durability._run_name(agent), records, lambda: durability._model_of(agent))

    def _is_to_be_durable(self) -> bool:
        """Say whether the agent runs in a hop, and is not durable by itself."""
        return current_journal() is not None and CeleryDurability.from_agent(self._agent) is None

    def _made(self) -> CeleryDurability[Any]:
        if self._durability is None:
            self._durability = CeleryDurability(name=self._name())
        return self._durability

    def _composed(self, agent: Agent[Any, Any]) -> Some[CombinedCapability[Any]]:
        root, model = agent.root_capability, agent.model
        kept = self._kept
        if kept is None or kept.root is not root or kept.model is not model:
            bound = self._made().for_agent(agent)
            together = CombinedCapability([without_answer(root), bound, *self._also])
            kept = self._kept = _Kept(root, model, Some(together))
        return kept.all


def _runs_as_usual(agent: AbstractAgent[Any, Any]) -> TypeGuard[Agent[Any, Any]]:
    """Say whether each `run` takes the agent's capabilities once, and from the agent, not from `agent.override`."""
    if not isinstance(agent, Agent) or agent._override_root_capability.get() is not None:
        return False
    return all(getattr(getattr(agent, name), "__func__", None) is getattr(Agent, name) for name in ("run", "iter"))
