"""Questions about all workflows of the store in memory. It looks at each of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import date, datetime

from paigeant_celery.core import hops as protocol
from paigeant_celery.core.queries import (
    CurrentState,
    WorkflowQuery,
    current_state,
    cursor_of,
    milliseconds,
    place_of_cursor,
)
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.memory_records import Kept, Records, Workflow
from paigeant_celery.store.query_port import HopTimes, ListedPage, ListedWorkflow

__all__ = ["counted", "listed", "standing", "times"]


def listed(records: Records, query: WorkflowQuery, *, now: datetime) -> ListedPage:
    """Return workflows that fit a query."""
    place = place_of_cursor(query.after) if query.after is not None else None
    fitting = [workflow for workflow in records.workflows.values() if _fits(records, workflow, query)]
    if query.prefix is not None:
        found = sorted(fitting, key=lambda workflow: workflow.correlation_id)
        found = [workflow for workflow in found if place is None or workflow.correlation_id > place[1]]
    else:
        found = sorted(fitting, key=_newest_first)
        found = [workflow for workflow in found if place is None or _newest_first(workflow) > (-place[0], place[1])]
    page = [standing(records, workflow, now=now) for workflow in found[: query.limit]]
    more = len(found) > len(page)
    return ListedPage(items=tuple(page), next=cursor_of(page[-1].created_at, page[-1].correlation_id) if more else None)


def counted(records: Records) -> Mapping[str, Mapping[CurrentState, int]]:
    """Return how many workflows stand at each activity, by state."""
    found: defaultdict[str, Counter[CurrentState]] = defaultdict(Counter)
    for workflow in records.workflows.values():
        found[workflow.activity][_state(records, workflow)] += 1
    return {activity: dict(states) for activity, states in sorted(found.items())}


def times(records: Records, *, since: date) -> Mapping[str, HopTimes]:
    """Return how long hops waited and ran since a day, by activity."""
    found: defaultdict[str, dict[str, Counter[int]]] = defaultdict(lambda: {"q": Counter(), "r": Counter()})
    for (day, activity, what, bucket), count in records.times.items():
        if day >= since:
            found[activity][what][bucket] += count
    return {activity: HopTimes(queued=dict(each["q"]), run=dict(each["r"])) for activity, each in sorted(found.items())}


def _newest_first(workflow: Workflow) -> tuple[int, str]:
    return -milliseconds(workflow.created_at), workflow.correlation_id


def _fits(records: Records, workflow: Workflow, query: WorkflowQuery) -> bool:
    if query.prefix is not None and not workflow.correlation_id.startswith(query.prefix):
        return False
    if query.since is not None and workflow.created_at < query.since:
        return False
    if query.before is not None and workflow.created_at >= query.before:
        return False
    if query.activity is not None and workflow.activity != query.activity:
        return False
    if query.states and _state(records, workflow) not in query.states:
        return False
    if query.waits_for is None:
        return True
    return any(query.waits_for in _open_names(records.hops[hop_id]) for hop_id in workflow.hop_ids)


def _state(records: Records, workflow: Workflow) -> CurrentState:
    hop = records.hops[workflow.hop_id].hop
    return current_state(
        workflow.state,
        running=hop.state == "running",
        suspended=hop.state == "suspended",
        retrying=hop.state == "waiting" and not hop.given_back,
    )


def _open_names(kept: Kept) -> tuple[str, ...]:
    """Return the names of what a hop waits for, oldest first."""
    if kept.hop.state in protocol.ENDED:
        return ()
    waits = sorted(kept.waits.values(), key=lambda wait: wait.since)
    return tuple(dict.fromkeys(wait.name for wait in waits if wait.state == "open"))


def _look_below(records: Records, kept: Kept) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return on which queues some branches of a block wait for a worker, and the names of what others wait for.

    It looks at as many as the other store does.
    """
    opened, most = kept.block.opened if kept.block is not None else 0, LIMITS.numbers_below
    numbers = [number for number in range(opened) if number < most or number >= opened - most]
    branches = [kept.branches[number] for number in numbers if kept.branches[number].how is None]
    below = [records.hops[branch.hop_id] for branch in branches[: LIMITS.looked_below]]
    queues = [each.queue for each in below if each.hop.state in ("queued", "waiting")]
    names = [found for each in below if each.hop.state == "suspended" and (found := _open_names(each))]
    told = [name for each in names[: LIMITS.asking_below] for name in each]
    return tuple(dict.fromkeys(queues)), tuple(dict.fromkeys(told))


def standing(records: Records, workflow: Workflow, *, now: datetime) -> ListedWorkflow:
    """Return a workflow as a list shows it."""
    record, kept, hop_id = records.read(workflow.correlation_id), records.hops[workflow.hop_id], workflow.hop_id
    assert record is not None
    hop, state = kept.hop, _state(records, workflow)
    reached = records.line_of(kept.queue).reached
    queues, names = _look_below(records, kept) if state == "suspended" else ((), ())
    lease = records.leases.get(hop.owner or "") if state == "running" else None
    return ListedWorkflow(
        correlation_id=workflow.correlation_id,
        state=_state(records, workflow),
        activity=workflow.activity,
        step_id=workflow.step_id,
        queue=record.queue,
        attempt=record.attempt,
        created_at=record.created_at,
        updated_at=record.updated_at,
        failure=record.failure,
        waits_for=tuple(dict.fromkeys([*_open_names(kept), *names])),
        owner=hop.owner if state == "running" else None,
        running_since=hop.claimed_at if state == "running" else None,
        lapsed_at=lease if lease is not None and lease <= now else None,
        retry_at=records.due[hop_id] if hop.state == "waiting" else None,
        ahead=max(0, hop.sent - reached - 1) if state == "queued" and hop.sent else None,
        last_failure=hop.failure if state == "queued" else None,
        served_at=records.served.get(kept.queue),
        queues_below=queues,
    )
