"""Where a workflow stands, in words, and why."""

from __future__ import annotations

from collections.abc import Sequence

from paigeant_celery.client.readings import BranchStatus, WaitingFor, WorkflowStatus
from paigeant_celery.client.tree import is_left_to_newer, parked_in
from paigeant_celery.core.flow import Failure
from paigeant_celery.store.port import WorkflowRecord

__all__ = ["ANSWERABLE", "failure_of", "standing", "waits_for_branches"]

ANSWERABLE = "`pending()` has what can be answered"
MOST_TOLD = 5  # things that a workflow waits for, in a text


def waits_for_branches(record: WorkflowRecord) -> bool:
    """Say whether the workflow is parked, but its current step waits: it is then a branch of that which is parked."""
    return record.state == "parked" and record.suspended


def failure_of(record: WorkflowRecord, branches: Sequence[BranchStatus]) -> Failure | None:
    """Return why the workflow stands; the store keeps the failure that came last, and that may be over."""
    if not record.suspended or not branches:
        return record.failure
    if record.state != "parked":
        return None
    parked = parked_in(branches)
    return parked.failure if parked is not None else record.failure


def standing(status: WorkflowStatus) -> str:
    """Say where the current step stands."""
    at = f"step {status.step_id!r} "
    if status.failure is not None and is_left_to_newer(status.failure):
        return f"{at}waits on queue {status.queue!r} for a worker of a newer version: {status.failure.text}"
    if status.retry_at is not None and status.failure is not None:
        return f"{at}failed with {status.failure.error_class} and is tried again at {status.retry_at:%H:%M:%S}"
    if status.state == "suspended":
        waits = _told(status.waiting_for) or "something from outside"
        return f"{at}is suspended and waits for {waits}; {ANSWERABLE}"
    if status.state == "running":
        return f"{at}{status.runner.told if status.runner is not None else 'is running'}"
    begun = f"begun {status.attempt} times before" if status.attempt else "no worker has taken it yet"
    return f"{at}waits on queue {status.queue!r}; {begun}"


def _told(waits: Sequence[WaitingFor]) -> str:
    told = [str(wait) for wait in waits[:MOST_TOLD]]
    more = [f"and {len(waits) - MOST_TOLD} more"] if len(waits) > MOST_TOLD else []
    return "; ".join(told + more)
