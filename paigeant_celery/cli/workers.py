"""What the live workers tell of themselves, if they are asked with Celery's own `inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["ask_workers"]

FIELDS = ("host", "pid", "mode", "store", "prefix", "serves", "pool", "slots", "running", "versions")


def ask_workers(transport: CeleryTransport, timeout: float) -> list[dict[str, Any]]:
    """Return what each live worker tells that serves activities; raises `Unreachable` if the broker is away."""
    from paigeant_celery.broker.reach import asking_broker
    from paigeant_celery.worker.self_report import TELL

    control, names = transport.app.control, transport.names
    with asking_broker(transport.app, timeout=timeout) as connection:
        # Workers without us would log that they do not know the command. All that serve anything read a queue of ours.
        read = control.inspect(timeout=timeout, connection=connection).active_queues() or {}
        ours = [
            worker
            for worker, queues in read.items()
            if isinstance(queues, list) and any(names.activity(queue.get("name", "")) is not None for queue in queues)
        ]
        if not ours:
            return []
        replies = control.broadcast(
            TELL, reply=True, timeout=timeout, destination=ours, limit=len(ours), connection=connection
        )
    told = {worker: answer for reply in replies or () for worker, answer in reply.items()}
    return [_worker(worker, told[worker]) for worker in sorted(told) if isinstance(told[worker], Mapping)]


def _worker(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    known = {field: told.get(field) for field in FIELDS}
    return {"worker": name, **known, "serves": known["serves"] or [], "versions": known["versions"] or {}}
