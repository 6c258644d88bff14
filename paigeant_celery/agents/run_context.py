"""`ctx.in_durable_context` in runs whose durability is given for the run, as it is in agent steps.

pydantic-ai asks the capabilities that the agent was made with. So such an agent gets one more, which does nothing but
answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pydantic_ai import Agent
from pydantic_ai._utils import Some
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.capabilities import AbstractCapability, CombinedCapability
from pydantic_ai.durable_exec import BaseDurabilityCapability

from paigeant_celery.activities.real_threads import real
from paigeant_celery.agents.binding import inner
from paigeant_celery.agents.engine import ENGINE
from paigeant_celery.journal.scope import current_journal

__all__ = ["durable_run", "has_begun", "run_with", "without_answer"]

_lock = real().Lock()
_running: ContextVar[AbstractAgent[Any, Any] | None] = ContextVar("paigeant_durable_agent", default=None)
_lent: ContextVar[Some[CombinedCapability[Any]] | None] = ContextVar("paigeant_lent_capabilities", default=None)


class Answer(AbstractCapability[Any]):
    """Says whether calls are recorded here, in a durable run of this agent, and by which engine."""

    engine_spec = ENGINE

    def __init__(self, agent: AbstractAgent[Any, Any]) -> None:
        self._agent = agent

    @property
    def in_durable_context(self) -> bool:
        return _running.get() is self._agent and current_journal() is not None


BaseDurabilityCapability.register(Answer)  # so that it is asked; it must not take part in runs as an engine does


@contextmanager
def durable_run(agent: AbstractAgent[Any, Any]) -> Iterator[None]:
    """Let the contexts of a run of the agent inside the block say that they are durable, if the block is in a hop."""
    agent = inner(agent)
    if isinstance(agent, Agent):
        _answer_for(agent)
    token = _running.set(agent)
    try:
        yield
    finally:
        _running.reset(token)


def _answer_for(agent: Agent[Any, Any]) -> None:
    with _lock:
        if BaseDurabilityCapability.from_agent(agent) is None:
            agent._root_capability = CombinedCapability([agent.root_capability, Answer(agent)])


def without_answer(root: CombinedCapability[Any]) -> AbstractCapability[Any]:
    """Return an agent's capabilities as they were before it got the one that answers."""
    return root.visit_and_replace(lambda found: None if isinstance(found, Answer) else found) or root


@contextmanager
def run_with(agent: Agent[Any, Any], capabilities: Some[CombinedCapability[Any]]) -> Iterator[None]:
    """Let the next run that the agent begins in the block have these capabilities in the place of its own."""
    lent, overriding = _lent.set(capabilities), agent._override_root_capability.set(capabilities)
    try:
        yield
    finally:
        agent._override_root_capability.reset(overriding)
        _lent.reset(lent)


def has_begun(agent: AbstractAgent[Any, Any] | None) -> None:
    """Note that a run has taken the capabilities of `run_with`; runs of the agent inside it get the agent's own."""
    if (lent := _lent.get()) is not None and isinstance(agent, Agent) and agent._override_root_capability.get() is lent:
        agent._override_root_capability.set(None)
