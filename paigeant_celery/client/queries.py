"""All workflows of a store: which ones, how many, and how long their steps take."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from weakref import WeakKeyDictionary

from paigeant_celery.broker.port import Transport, checked_transport
from paigeant_celery.client.readings import Runner
from paigeant_celery.client.stuck import needs_worker, runner_of, serving_of, why_stuck, why_stuck_below
from paigeant_celery.core.errors import StoreRequired
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.names import Names
from paigeant_celery.core.queries import BOUNDS, CurrentState, checked_query
from paigeant_celery.store.port import Store
from paigeant_celery.store.query_port import ListedPage, ListedWorkflow, Serving

__all__ = [
    "INCOMPLETE",
    "ActivityTimes",
    "Histogram",
    "WorkflowCounts",
    "WorkflowPage",
    "WorkflowSummary",
    "Workflows",
]

logger = logging.getLogger(__name__)

MOST_SAID = 10_000  # workflows of a store about which it is known that they were said
# Of each store, since whoever shows pages makes a `Workflows` for each.
_said_of: WeakKeyDictionary[Store, set[str]] = WeakKeyDictionary()

# What people read of a page that is not complete.
INCOMPLETE = "not all workflows are here: those that an older version recorded are being added, so look again soon"


@dataclass(frozen=True, kw_only=True)
class WorkflowSummary:
    """Where a workflow stands, as a list shows it.

    `state` is as in `WorkflowStatus`, and `activity` and `step_id` are those of its current step, or of the last one
    if it has ended; "" if nothing is known of them. `waits_for` are the names of what its current step waits for, and
    `stuck` says why nobody will run it, if nobody will. If it waits for branches, both are about some of those that
    have not ended: a list looks at ten. `runner`, `ahead` and `last_failure` are as in
    `WorkflowStatus`.
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
    stuck: str | None = None
    runner: Runner | None = None
    ahead: int | None = None
    last_failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class WorkflowPage:
    """Some workflows in their order; `next` is the cursor of what follows, None at the end.

    It may be shorter than was asked for, and even empty, although there are more. `unreadable` are the ids of those
    that belong here and whose records cannot be read. It is not `complete` while workflows that an older version
    recorded may be missing. They are added bit by bit, by workers and by whoever asks.
    """

    items: tuple[WorkflowSummary, ...]
    next: str | None = None
    complete: bool = True
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WorkflowCounts:
    """How many workflows there are by state, and the same for each activity at which they stand.

    `complete` is as in `WorkflowPage`.
    """

    states: Mapping[CurrentState, int]
    activities: Mapping[str, Mapping[CurrentState, int]]
    complete: bool = True


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How often something took so long: `counts` has one number for each of `bounds`, and one for what took longer.

    Each bound is the upper end of its bucket, in seconds.
    """

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    bounds: tuple[float, ...] = field(default=BOUNDS, repr=False)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.counts)

    def quantile(self, part: float) -> float | None:
        """Return the bound below which that part of them is (`0.5` is the median); None if there are none.

        It is too large by at most the width of a bucket, and infinite for what took longer than the last bound.
        """
        wanted, passed = part * self.count, 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            passed += count
            if count and passed >= wanted:
                return bound
        return None


@dataclass(frozen=True, kw_only=True)
class ActivityTimes:
    """How long hops of an activity waited for a worker, and how long those ran that completed or failed."""

    queue: Histogram = Histogram()
    run: Histogram = Histogram()


class Workflows:
    """All workflows of a store. Its calls raise `StoreRequired` without one, and `Unreachable` if it is away."""

    def __init__(self, transport: Transport | None = None) -> None:
        self._transport = _checked_transport(transport)

    def __repr__(self) -> str:
        return f"Workflows({self._transport!r})"

    async def page(
        self,
        *,
        state: CurrentState | Iterable[CurrentState] | None = None,
        activity: str | None = None,
        waits_for: str | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
        prefix: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> WorkflowPage:
        """Return the workflows that fit all that is given, the newest first; with a `prefix`, in the order of ids.

        `state` is one of those of a `WorkflowStatus`, or several. `waits_for` is the name of a wait or a signal, also
        in branches. `since` and `before` are about when a workflow was recorded. `after` is the `next` of a page that
        was read with the same filters. One that changes while pages are read may be missing, and none is there twice
        unless its state changed between those that are asked for. Raises `InvalidInput`.
        """
        return await asyncio.to_thread(
            self.page_sync, state=state, activity=activity, waits_for=waits_for, since=since, before=before,
            prefix=prefix, after=after, limit=limit,
        )  # fmt: skip

    def page_sync(
        self,
        *,
        state: CurrentState | Iterable[CurrentState] | None = None,
        activity: str | None = None,
        waits_for: str | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
        prefix: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> WorkflowPage:
        """Do what `page` does, for code without an event loop."""
        query = checked_query(
            state=state, activity=activity, waits_for=waits_for, since=since, before=before, prefix=prefix,
            after=after, limit=limit,
        )  # fmt: skip
        store = self._store("page")
        complete = store.list_older()
        found = store.listed(query)
        _say_unreadable(store, found)
        in_question = any(needs_worker(each) or each.queues_below for each in found.items)
        serving, names = serving_of(store) if in_question else None, Names(self._transport.settings.prefix)
        return WorkflowPage(
            items=tuple(_summary(each, serving, names) for each in found.items),
            next=found.next,
            complete=complete,
            unreadable=found.unreadable,
        )

    async def counts(self) -> WorkflowCounts:
        """Return how many workflows there are by state, and at which activities they stand.

        Ended ones count until they expire, for their last activity.
        """
        return await asyncio.to_thread(self.counts_sync)

    def counts_sync(self) -> WorkflowCounts:
        """Do what `counts` does, for code without an event loop."""
        store = self._store("counts")
        complete = store.list_older()
        activities = store.counted()
        states = Counter[CurrentState]()
        for each in activities.values():
            states.update(each)
        return WorkflowCounts(states=dict(states), activities=activities, complete=complete)

    async def times(self) -> Mapping[str, ActivityTimes]:
        """Return how long hops waited in queues and ran, by activity, of about the last week."""
        return await asyncio.to_thread(self.times_sync)

    def times_sync(self) -> Mapping[str, ActivityTimes]:
        """Do what `times` does, for code without an event loop."""
        return {
            activity: ActivityTimes(queue=_histogram(times.queued), run=_histogram(times.run))
            for activity, times in self._store("times").times().items()
        }

    def _store(self, operation: str) -> Store:
        if (store := self._transport.store) is None:
            raise StoreRequired(operation)
        return store


def _say_unreadable(store: Store, found: ListedPage) -> None:
    """Log each workflow whose record cannot be read, unless that was said and it could not be read since."""
    said = _said_of.setdefault(store, set())
    said.difference_update(each.correlation_id for each in found.items)
    for name in found.unreadable:
        if name in said:
            continue
        if len(said) >= MOST_SAID:
            said.clear()
        said.add(name)
        fields = {"action": "list_unreadable", "correlation_id": name}
        logger.warning("the record of workflow %s cannot be read", name, extra=fields)


def _checked_transport(transport: Transport | None) -> Transport:
    from paigeant_celery.broker.transport import get_transport

    return get_transport() if transport is None else checked_transport(transport)


def _stuck(found: ListedWorkflow, serving: Serving | None, names: Names) -> str | None:
    if serving is None:
        return None
    if needs_worker(found):
        return why_stuck(found.activity, found.queue, serving, since=found.updated_at)
    return why_stuck_below(found, serving, names)


def _summary(found: ListedWorkflow, serving: Serving | None, names: Names) -> WorkflowSummary:
    return WorkflowSummary(
        correlation_id=found.correlation_id,
        state=found.state,
        activity=found.activity,
        step_id=found.step_id,
        queue=found.queue,
        attempt=found.attempt,
        created_at=found.created_at,
        updated_at=found.updated_at,
        failure=found.failure,
        waits_for=found.waits_for,
        stuck=_stuck(found, serving, names),
        runner=runner_of(found),
        ahead=found.ahead,
        last_failure=found.last_failure,
    )


def _histogram(buckets: Mapping[int, int]) -> Histogram:
    return Histogram(counts=tuple(buckets.get(number, 0) for number in range(len(BOUNDS) + 1)))
