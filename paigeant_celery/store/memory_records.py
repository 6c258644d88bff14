"""The records of the store in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from paigeant_celery.core.flow import Failure, WorkflowState
from paigeant_celery.core.hops import Hop
from paigeant_celery.store.memory_events import Events

__all__ = ["Kept", "Workflow"]


@dataclass(kw_only=True)
class Workflow:
    correlation_id: str
    content: str
    hop_id: str
    created_at: datetime
    updated_at: datetime
    events: Events
    state: WorkflowState = "running"
    envelope: str | None = None
    failure: Failure | None = None
    hop_ids: list[str] = field(default_factory=list)
    blobs: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Kept:
    """A hop with what travels, and what belongs to it: the envelope until it is closed."""

    hop: Hop
    workflow: Workflow
    queue: str
    envelope: str | None
    letter: str | None = None
    journal: dict[str, str] = field(default_factory=dict)
