"""The part of the seam to a store that is about all its workflows: which ones, how many, and how long steps take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from paigeant_celery.core.flow import Failure
from paigeant_celery.core.queries import CurrentState, WorkflowQuery

__all__ = ["HopTimes", "ListedPage", "ListedWorkflow", "QueryStore", "Serving"]


@dataclass(frozen=True, kw_only=True)
class ListedWorkflow:
    """A workflow as a list shows it: where its current step stands, or the last one at its end.

    `activity` and `step_id` are empty if nothing is known of them. `waits_for` are the names of the open waits of its
    current step. `owner` runs that since `running_since`; `lapsed_at` is when its lease ended, None if it has
    not. `retry_at` is when the step is tried again. While it is queued, `ahead` is about how many messages of its queue
    are before its own, and `last_failure` is why its last attempt failed. `served_at` is when its queue was last served
    by a worker that sweeps; None if it never was. If it waits for branches, `queues_below` are the queues on which some
    of those wait for a worker, and `waits_for` has what some of them wait for: a list looks at a few of them.
    """

    correlation_id: str
    state: CurrentState
    activity: str
    step_id: str
    queue: str
    attempt: int
    created_at: datetime
    updated_at: datetime
    failure: Failure | None = None
    waits_for: tuple[str, ...] = ()
    owner: str | None = None
    running_since: datetime | None = None
    lapsed_at: datetime | None = None
    retry_at: datetime | None = None
    ahead: int | None = None
    last_failure: Failure | None = None
    served_at: datetime | None = None
    queues_below: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ListedPage:
    """Some workflows in their order, and the cursor behind them; None if there are no more.

    There may be fewer than asked for, although there are more. `unreadable` are the ids of those that belong here and
    whose records nobody can read.
    """

    items: tuple[ListedWorkflow, ...]
    next: str | None = None
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HopTimes:
    """How often hops of an activity waited and ran for how long, by the numbers of buckets (`core/queries.py`)."""

    queued: Mapping[int, int] = field(default_factory=dict)
    run: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """When a worker that serves a queue has swept last, by queue, and when any worker has; all by the store's clock."""

    now: datetime
    swept_at: datetime | None = None
    queues: Mapping[str, datetime] = field(default_factory=dict)


class QueryStore(Protocol):
    """What is known about all workflows. Of a workflow whose record has expired, nothing is."""

    def listed(self, query: WorkflowQuery) -> ListedPage:
        """Return workflows that fit a query."""
        ...

    def counted(self) -> Mapping[str, Mapping[CurrentState, int]]:
        """Return how many workflows stand at each activity, by state; ended ones count for their last one."""
        ...

    def list_older(self) -> bool:
        """List some of the workflows that versions without a list have recorded, and say whether none is left.

        `listed` and `counted` know of no others. A call takes a bounded time, and `look_over` does the same.
        """
        ...

    def times(self) -> Mapping[str, HopTimes]:
        """Return how long hops waited and ran in the last days, by activity."""
        ...

    def serving(self) -> Serving:
        """Return which queues are served by workers that sweep, and when they were."""
        ...

    def standing(self, correlation_id: str) -> ListedWorkflow | None:
        """Return a workflow as a list shows it, or None."""
        ...
