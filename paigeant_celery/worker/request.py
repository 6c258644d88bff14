"""How a worker shows a hop that it holds."""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request

__all__ = ["HopRequest"]


class HopRequest(Request):  # type: ignore[misc]  # Celery ships no types
    """A request that hides its arguments, because `inspect active` would show the whole envelope."""

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Describe the request as Flower's pages do, without prompts, deps or variables."""
        described: dict[str, Any] = super().info(safe=True)
        return described

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Kill no process, because its other work would be lost; its owner cancels the run of a revoked hop."""
        self.send_event("task-revoked", terminated=True, signum=str(signal), expired=False)
