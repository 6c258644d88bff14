"""What a worker tells of itself when somebody asks all workers, with Celery's own `inspect`."""

from __future__ import annotations

import os
import socket
from typing import Any

from celery.worker import state as worker_state
from celery.worker.control import inspect_command

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.worker.app_state import installation_of
from paigeant_celery.worker.serving import read_now
from paigeant_celery.worker.versions import versions_here

__all__ = ["TELL", "let_workers_tell"]

TELL = "paigeant_serves"  # the name of the command
POOLS = {"thread": "threads"}  # what `-P` calls a module by another name


def let_workers_tell() -> None:
    """Let the worker of this process answer the command; may be called again."""
    inspect_command(name=TELL)(_told)


def _told(state: Any, **_: Any) -> dict[str, object]:
    """Tell which activities this worker serves, how many steps at once, and in which versions."""
    transport = installation_of(state.app).transport
    pool = state.consumer.pool
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "mode": transport.mode,
        "store": transport.store_address,
        "prefix": transport.settings.prefix,
        "serves": _served(transport),
        "pool": POOLS.get(kind := type(pool).__module__.rpartition(".")[2], kind),
        "slots": state.consumer.controller.stats().get("pool", {}).get("max-concurrency"),
        "running": sum(transport.names.activity(request.name) is not None for request in _active()),
        "versions": versions_here(),
    }


def _served(transport: CeleryTransport) -> list[dict[str, str]]:
    return [
        {"name": name, "kind": registry.get(name).kind, "queue": queue} for name, queue in read_now(transport).items()
    ]


def _active() -> tuple[Any, ...]:
    return tuple(worker_state.active_requests)
