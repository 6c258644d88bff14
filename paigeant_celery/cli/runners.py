"""Which worker runs a hop right now, as Celery's own `inspect` tells it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from paigeant_celery.cli.output import shown

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["ANSWER_WITHIN", "WorkerOf", "runners_of"]

ANSWER_WITHIN = 1.0  # seconds that Celery's `inspect` waits for workers, too


@dataclass(frozen=True, kw_only=True)
class WorkerOf:
    """The worker that runs a hop, its process, and when that began."""

    worker: str
    pid: int | None = None
    since: datetime | None = None

    def __str__(self) -> str:
        pid = f" (pid {self.pid})" if self.pid is not None else ""
        since = f" since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since is not None else ""
        return f"on {shown(self.worker)}{pid}{since}"


def runners_of(transport: CeleryTransport, hops: Collection[str]) -> dict[str, WorkerOf]:
    """Return who runs these hops, of the workers that answer in time; nobody if the broker is away."""
    if not hops or transport.in_memory:
        return {}
    try:
        answers = transport.app.control.inspect(timeout=ANSWER_WITHIN).query_task(*hops) or {}
    except Exception:  # noqa: BLE001 - each transport has its own errors, and the store tells the rest without a broker
        return {}
    found: dict[str, WorkerOf] = {}
    for worker, tasks in answers.items():
        for hop, answer in tasks.items() if isinstance(tasks, Mapping) else ():
            if isinstance(answer, (list, tuple)) and len(answer) == 2 and answer[0] == "active":
                found[hop] = _worker_of(worker, answer[1])
    return found


def _worker_of(worker: str, task: Mapping[str, Any]) -> WorkerOf:
    pid, began = task.get("worker_pid"), task.get("time_start")
    return WorkerOf(
        worker=worker,
        pid=pid if isinstance(pid, int) else None,
        since=datetime.fromtimestamp(began, UTC) if isinstance(began, (int, float)) else None,
    )
