"""Why a step does not run, in words: nobody serves its queue, or which process has it, and since when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches

from paigeant_celery.client.readings import BranchStatus, Runner
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.names import FLOW, Names
from paigeant_celery.store.branch_port import HopReading
from paigeant_celery.store.port import Store
from paigeant_celery.store.query_port import ListedWorkflow, Serving

__all__ = [
    "WAIT_FOR_WORKERS",
    "Outlook",
    "lost_in",
    "needs_worker",
    "outlook_of",
    "runner_of",
    "serving_of",
    "why_stuck",
    "why_stuck_below",
]

WAIT_FOR_WORKERS = ("queued", "retrying")
UNSERVED = timedelta(seconds=15)  # a worker that serves a queue says so about once a second, unless it is held up


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What may be said about when a step runs, or who runs it: as in `WorkflowStatus`."""

    stuck: str | None = None
    runner: Runner | None = None
    ahead: int | None = None
    last_failure: Failure | None = None


def serving_of(store: Store) -> Serving | None:
    """Return who serves which queues; None if that means nothing, because tests deliver the messages themselves."""
    serving = store.serving()
    return serving if store.shared or serving.swept_at is not None else None


def outlook_of(store: Store, correlation_id: str, *, activity: str | None, branches: Sequence[BranchStatus]) -> Outlook:
    """Return what is known of the current step of a workflow, or of those in its branches."""
    found = store.standing(correlation_id)
    waiting = [branch for branch in _all(branches) if branch.needs_worker and branch.queue]
    if found is None or not (waiting or found.state in (*WAIT_FOR_WORKERS, "running")):
        return Outlook()
    stuck: str | None = None
    if waiting or needs_worker(found):
        serving = serving_of(store)
        told = [(each.activity or "", each.queue, f" (in {each.path})") for each in waiting]
        if needs_worker(found):
            told = [(activity or found.activity, found.queue, "")]
        reasons = (
            (why_stuck(name, queue, serving, since=found.updated_at), where)
            for name, queue, where in told
            if serving is not None
        )
        stuck = next((f"{why}{where}" for why, where in reasons if why is not None), None)
    return Outlook(stuck=stuck, runner=runner_of(found), ahead=found.ahead, last_failure=found.last_failure)


def lost_in(branches: Sequence[BranchStatus]) -> Iterator[str]:
    """Yield which steps in branches have lost their process, each with what is known of that."""
    for branch in _all(branches):
        if branch.runner is not None and branch.runner.lapsed_at is not None:
            yield f"{branch.step or branch.path} {branch.runner.told}"


def _all(branches: Sequence[BranchStatus]) -> Iterator[BranchStatus]:
    for branch in branches:
        yield branch
        yield from _all(branch.branches)


def needs_worker(found: ListedWorkflow) -> bool:
    """Say whether a worker must take the current step of a workflow: it waits for one, or has lost its own."""
    return found.state in WAIT_FOR_WORKERS or found.lapsed_at is not None


def runner_of(found: ListedWorkflow | HopReading) -> Runner | None:
    """Return which process runs the current step of a workflow or a branch, or did and is lost; None if none does."""
    if found.owner is None:
        return None
    _, pid, _, _, host, *_ = [*found.owner.split(":"), "", "", "", "", ""]  # older versions do not tell the name
    process = int(pid) if pid.isdecimal() else None
    return Runner(host=host, pid=process, since=found.running_since, lapsed_at=found.lapsed_at)


def why_stuck_below(found: ListedWorkflow, serving: Serving, names: Names) -> str | None:
    """Say why a branch of a workflow that waits for its branches will not run, as far as a list has looked at them."""
    reasons = (
        why_stuck(names.activity(queue) or "", queue, serving, since=found.updated_at) for queue in found.queues_below
    )
    return next((f"{why} (in a branch)" for why in reasons if why is not None), None)


def why_stuck(activity: str, queue: str, serving: Serving, *, since: datetime) -> str | None:
    """Say why a step that waits on a queue will not run: no worker serves that. None if one does, or may.

    `since` is when something happened to its workflow last: workers may be about to start.
    """
    served_at = serving.queues.get(queue)
    if served_at is not None and serving.now - served_at <= UNSERVED:
        return None
    is_alive = any(serving.now - at <= UNSERVED for at in serving.queues.values())
    if not is_alive and serving.now - since <= UNSERVED:
        return None
    if not serving.queues and serving.swept_at is not None and serving.now - serving.swept_at <= UNSERVED:
        return None  # workers of older versions do not say what they serve
    what = f"{activity or 'its step'} waits on {queue}"
    if served_at is not None:
        return f"{what}: no worker has served it since {served_at:%Y-%m-%d %H:%M:%S} UTC"
    meant = _meant(activity, queue, serving)
    return f"{what}: no worker serves it{f'; did you mean {meant}?' if meant else ''}"


def _meant(activity: str, queue: str, serving: Serving) -> str | None:
    """Return the name of a served activity that is much like this one, by the name of its queue."""
    if not activity or not queue.endswith(activity):
        return None
    begins = queue.removesuffix(activity)
    living = (name for name, at in serving.queues.items() if serving.now - at <= UNSERVED)
    names = [name.removeprefix(begins) for name in living if name.startswith(begins)]
    return next(iter(get_close_matches(activity, [name for name in names if name != FLOW], n=1, cutoff=0.7)), None)
