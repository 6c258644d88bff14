"""An agent's durable operations, bound once per process: their schemas may take seconds to build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic_ai.agent import AbstractAgent, WrapperAgent

from paigeant_celery.activities.real_threads import real

__all__ = ["Operations", "inner", "is_bound", "operations_of"]

# By capability and operation: what makes the calls, and how the method was declared.
Operations: TypeAlias = tuple[Mapping[tuple[str, str], Any], Mapping[tuple[str, str], Any]]

KEPT = "_paigeant_operations"  # the attribute of an agent; what it holds is collected with the agent

_lock = real().Lock()


@dataclass(frozen=True)
class _Kept:
    """Operations, with the agent that they belong to: a copy of it has the same attributes."""

    agent: AbstractAgent[Any, Any]
    operations: Operations


def operations_of(agent: AbstractAgent[Any, Any], bind: Callable[[], Operations]) -> Operations:
    """Return the operations of the agent's capabilities, which `bind` makes if nobody asked before."""
    found = _kept(agent)
    if found is not None:
        return found
    with _lock:  # several threads may run the agent's first hops
        found = _kept(agent)
        if found is None:
            found = bind()
            setattr(agent, KEPT, _Kept(agent, found))
    return found


def is_bound(agent: AbstractAgent[Any, Any]) -> bool:
    """Say whether the agent's operations are bound already."""
    return _kept(agent) is not None


def inner(agent: AbstractAgent[Any, Any]) -> AbstractAgent[Any, Any]:
    """Return the agent that runs: the one inside all wrappers."""
    while isinstance(agent, WrapperAgent):
        agent = agent.wrapped
    return agent


def _kept(agent: AbstractAgent[Any, Any]) -> Operations | None:
    kept = getattr(agent, KEPT, None)
    return kept.operations if isinstance(kept, _Kept) and kept.agent is agent else None
