"""Who is put under the faults: our workflows, or a plain Celery chain with the same steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import redis
from celery import Celery, chain
from kombu.exceptions import OperationalError
from processes import Deployment, Process

from chaos.history import Event, Workflow, lines_of
from paigeant_celery import ActivitySpec, FunctionSpec, TransientError, WorkflowDispatcher

__all__ = ["LEASE", "Chain", "Contestant", "Slip"]

LEASE = 2.0  # seconds; short, so that a frozen worker does not hold up the test
MAX_ATTEMPTS = 50  # more than one hop is ever hit
DISPATCH_PATIENCE = 30.0  # seconds for one dispatch to survive an outage
BETWEEN_ATTEMPTS = 0.1  # seconds
STEPS = ("dig", "plant", "water")
CHAIN_STEP = "toil.step"


class Contestant(Protocol):
    """What the storm needs of a contestant."""

    failpoints: bool
    where: Deployment

    def queues(self) -> Sequence[str]:
        """Return the names of the lists in which its messages wait."""
        ...

    def start_worker(self, *, pool: str, slots: int, name: str) -> Process:
        """Start a worker, without waiting for it."""
        ...

    def dispatch(self, correlation_id: str, seconds: float) -> None:
        """Send a workflow whose steps take so long each; an outage is waited for."""
        ...

    def unfinished(self, correlation_ids: Sequence[str]) -> list[str]:
        """Return those that did not end yet."""
        ...


class Slip:
    """Ours."""

    failpoints = True

    def __init__(self, where: Deployment, *, steps: int) -> None:
        self.where = where
        self._steps = steps
        self._transport, self._dispatcher = where.transport(), WorkflowDispatcher()

    def queues(self) -> Sequence[str]:
        return [f"{self.where.prefix}.{step}" for step in STEPS]

    def start_worker(self, *, pool: str, slots: int, name: str) -> Process:
        return self.where.start_worker("failpoints", "toil", pool=pool, slots=slots, name=name)

    def dispatch(self, correlation_id: str, seconds: float) -> None:
        itinerary = [self._step(index, seconds) for index in range(self._steps)]
        deadline = time.monotonic() + DISPATCH_PATIENCE
        while True:
            try:
                self._dispatcher.dispatch_workflow_sync(
                    self._transport, itinerary=itinerary, correlation_id=correlation_id
                )
            except TransientError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(BETWEEN_ATTEMPTS)
            else:
                return

    def unfinished(self, correlation_ids: Sequence[str]) -> list[str]:
        handles = (self._dispatcher.handle(known, self._transport) for known in correlation_ids)
        return [handle.correlation_id for handle in handles if handle.status_sync().state == "running"]

    def outcome(self, correlation_id: str) -> Workflow:
        """Return what the handle of a workflow says."""
        handle = self._dispatcher.handle(correlation_id, self._transport)
        status, events = handle.status_sync(), handle.events_so_far()
        return Workflow(
            correlation_id=correlation_id,
            hops=tuple(f"{correlation_id}.{place}" for place in range(self._steps)),
            steps=tuple(f"step-{index}" for index in range(self._steps)),
            state=status.state if status.failure is None else f"failed with {status.failure.error_class}",
            executed=status.executed,
            events=tuple(Event(type=event.type, hop_id=event.hop_id, at=event.at.timestamp()) for event in events),
        )

    def _step(self, index: int, seconds: float) -> ActivitySpec | FunctionSpec:
        name, step_id = STEPS[index % len(STEPS)], f"step-{index}"
        if name == "plant":
            return ActivitySpec(name, str(seconds), step_id=step_id)
        return FunctionSpec(name, {"seconds": seconds}, step_id=step_id)


class Chain:
    """The control. It has no record of workflows: what is known of them is what the steps noted."""

    failpoints = False

    def __init__(self, where: Deployment, *, steps: int) -> None:
        self.where = where
        self._steps = steps
        self._app = Celery("control", broker=where.url, set_as_current=False)
        self._app.conf.update(task_default_queue=where.prefix, task_ignore_result=True)

    def queues(self) -> Sequence[str]:
        return [self.where.prefix]

    def start_worker(self, *, pool: str, slots: int, name: str) -> Process:
        return self.where.run(
            "-A", "toil_chain", "worker", "-n", f"{name}-{self.where.prefix}@%h", "-P", pool, "-c", str(slots),
            "-l", "INFO", "--without-mingle", "--without-gossip", name=name,
        )  # fmt: skip

    def dispatch(self, correlation_id: str, seconds: float) -> None:
        steps = [
            self._app.signature(CHAIN_STEP, args=(f"{correlation_id}.{place}", seconds), immutable=True)
            for place in range(self._steps)
        ]
        deadline = time.monotonic() + DISPATCH_PATIENCE
        while True:
            try:
                chain(*steps, app=self._app).apply_async()
            except (OperationalError, redis.RedisError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(BETWEEN_ATTEMPTS)
            else:
                return

    def unfinished(self, correlation_ids: Sequence[str]) -> list[str]:
        done = set(self.completions())
        return [known for known in correlation_ids if f"{known}.{self._steps - 1}" not in done]

    def completions(self) -> list[str]:
        """Return a hop id for each time that a step was done and the next one sent."""
        return [line["hop"] for line in lines_of(Path(self.where.runs_file)) if line["what"] == "done"]
