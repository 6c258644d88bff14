"""Why a step does not run, in words: nobody serves its queue, or which process has it, and since when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches

from paigeant_celery.core.names import FLOW
from paigeant_celery.store.query_port import ListedWorkflow, Serving

__all__ = ["Runner", "runner_of", "why_stuck"]

UNSERVED = timedelta(seconds=15)  # a worker that serves a queue says so about once a second, unless it is held up


@dataclass(frozen=True, kw_only=True)
class Runner:
    """The process that runs a step, and since when it does. `host` is the name of its machine, if that is known."""

    host: str
    pid: int | None
    since: datetime | None

    def __str__(self) -> str:
        process = f"process {self.pid}" if self.pid is not None else "a process"
        where = f" on {self.host}" if self.host else ""
        since = f" since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since is not None else ""
        return f"{process}{where}{since}"


def runner_of(found: ListedWorkflow) -> Runner | None:
    """Return which process runs the current step of a workflow; None if none does."""
    if found.owner is None:
        return None
    _, pid, _, _, host, *_ = [*found.owner.split(":"), "", "", "", "", ""]  # older versions do not tell the name
    return Runner(host=host, pid=int(pid) if pid.isdecimal() else None, since=found.running_since)


def why_stuck(activity: str, queue: str, serving: Serving) -> str | None:
    """Say why a step that waits on a queue will not run: no worker serves that. None if one does, or may."""
    served_at = serving.queues.get(queue)
    if served_at is not None and serving.now - served_at <= UNSERVED:
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
