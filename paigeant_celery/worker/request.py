"""How a worker shows a hop that it holds."""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request

__all__ = ["HopRequest"]


class HopRequest(Request):  # type: ignore[misc]  # Celery ships no types
    """A request whose arguments nobody can look at (`inspect active` would show the whole envelope)."""

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Describe the request as Flower's pages do, without prompts, deps and variables."""
        described: dict[str, Any] = super().info(safe=True)
        return described

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Kill no process, whose other work would go with it: a revoked hop's run is cancelled by its owner."""
        self.send_event("task-revoked", terminated=True, signum=str(signal), expired=False)
