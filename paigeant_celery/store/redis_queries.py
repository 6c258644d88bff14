"""Questions about all workflows on Redis."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.message import first_step_in
from paigeant_celery.core.queries import (
    CurrentState,
    WorkflowQuery,
    current_state,
    cursor_of,
    milliseconds,
    place_of_cursor,
)
from paigeant_celery.store.port import WorkflowRecord
from paigeant_celery.store.query_port import ListedPage, ListedWorkflow

__all__ = ["counts_of", "listed_of", "page_of"]


def listed_of(record: WorkflowRecord) -> ListedWorkflow:
    """Return a workflow as a list shows it."""
    try:
        step = first_step_in(record.envelope)
    except MessageError:
        step = None
    left = record.failure is not None and record.failure.error_class == "newer_version"
    return ListedWorkflow(
        correlation_id=record.correlation_id,
        state=current_state(
            record.state,
            running=record.running,
            suspended=record.suspended,
            retrying=record.retry_at is not None and not left,
        ),
        activity=step.activity if step is not None else "",
        step_id=(step.step_id if step is not None else None) or "",
        queue=record.queue,
        attempt=record.attempt,
        created_at=record.created_at,
        updated_at=record.updated_at,
        failure=record.failure,
        waits_for=tuple(dict.fromkeys(wait.name for wait in record.waits if wait.state == "open")),
    )


def page_of(found: Sequence[ListedWorkflow], query: WorkflowQuery) -> ListedPage:
    """Return those that fit a query."""
    place = place_of_cursor(query.after) if query.after is not None else None
    fitting = [workflow for workflow in found if _fits(workflow, query)]
    if query.prefix is not None:
        fitting = sorted(fitting, key=lambda workflow: workflow.correlation_id)
        fitting = [workflow for workflow in fitting if place is None or workflow.correlation_id > place[1]]
    else:
        fitting = sorted(fitting, key=_newest_first)
        fitting = [workflow for workflow in fitting if place is None or _newest_first(workflow) > (-place[0], place[1])]
    page, more = fitting[: query.limit], len(fitting) > query.limit
    return ListedPage(items=tuple(page), next=cursor_of(page[-1].created_at, page[-1].correlation_id) if more else None)


def counts_of(found: Sequence[ListedWorkflow]) -> Mapping[str, Mapping[CurrentState, int]]:
    """Return how many workflows stand at each activity, by state."""
    counts: defaultdict[str, Counter[CurrentState]] = defaultdict(Counter)
    for workflow in found:
        counts[workflow.activity][workflow.state] += 1
    return {activity: dict(states) for activity, states in sorted(counts.items())}


def _newest_first(workflow: ListedWorkflow) -> tuple[int, str]:
    return -milliseconds(workflow.created_at), workflow.correlation_id


def _fits(workflow: ListedWorkflow, query: WorkflowQuery) -> bool:
    return (
        (query.prefix is None or workflow.correlation_id.startswith(query.prefix))
        and (query.since is None or workflow.created_at >= query.since)
        and (query.before is None or workflow.created_at < query.before)
        and (query.activity is None or workflow.activity == query.activity)
        and (not query.states or workflow.state in query.states)
        and (query.waits_for is None or query.waits_for in workflow.waits_for)
    )
