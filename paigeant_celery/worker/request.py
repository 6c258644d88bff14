"""How a worker shows a hop that it holds."""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from celery.worker.request import Request

from paigeant_celery.activities.real_threads import are_greenlets
from paigeant_celery.worker.hop_events import HopEvents
from paigeant_celery.worker.runtime import ShownAs

__all__ = ["HopRequest"]

logger = logging.getLogger(__name__)

# A thousand greenlets may end at once. Kombu has ten connections to Redis for what they acknowledge, and fails if more
# are needed; the broker then delivers the messages again.
_turn: AbstractContextManager[Any] = threading.Lock() if are_greenlets() else nullcontext()


class HopRequest(Request):  # type: ignore[misc]  # Celery ships no types
    """A request that hides its arguments, because `inspect active` would show the whole envelope.

    It shows how the hop of a dropped copy stands.
    """

    _eventer: Any

    @Request.eventer.setter  # type: ignore[untyped-decorator]
    def eventer(self, eventer: Any) -> None:
        """Keep the sender of events that knows the dispatcher of each connection; Celery hands over a new one."""
        if not isinstance(self._eventer, HopEvents):
            self._eventer = eventer

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Describe the request as Flower's pages do, without prompts, deps or variables."""
        described: dict[str, Any] = super().info(safe=True)
        return described

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Have the leases of this worker kept from outside, from its first step on."""
        self.task.runtime.keep_touched()
        super().on_accepted(pid, time_accepted)

    def acknowledge(self) -> None:
        """Say that the message is done with; greenlets take turns."""
        with _turn:
            super().acknowledge()

    def reject(self, requeue: bool = False) -> None:
        """Put the message back, or drop it; greenlets take turns."""
        with _turn:
            super().reject(requeue=requeue)

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Kill no process, because its other work would be lost; its owner cancels the run of a revoked hop."""
        self.send_event("task-revoked", terminated=True, signum=str(signal), expired=False)

    def cancel(self, pool: Any, signal: Any = None, **more: Any) -> None:
        """Let the hop go on when the broker is lost, because with a store a copy of its message is dropped.

        Celery calls this then, if the host wants that, and in a cold shutdown, which ends all tasks. Without a store
        nobody would drop the copy, so the run ends as the host wants.
        """
        if self.task.runtime.broker_lost and self.task.runtime.drops_copies:
            logger.info(
                "hop %s goes on: a copy of its message, which the broker may deliver, is dropped", self.id,
                extra={"action": "cancel_ignored", "hop": self.id},
            )  # fmt: skip
        else:
            super().cancel(pool, signal, **more)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Show a hop as it stands if its delivery was dropped; Celery calls this whatever a task raises."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # a pool of threads wraps it
        if isinstance(error, ShownAs):
            self.send_event(error.event, **error.fields)
        return super().on_failure(exc_info, send_failed_event, return_ok)
