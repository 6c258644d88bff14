"""A deployment whose workers record each call of their agents and die at some of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, WorkflowHandle
from paigeant_celery.client.dead_letters import DeadLetters
from paigeant_celery.store.redis import RedisStore
from paigeant_celery.store.totals import sums_in, usage_of
from tests.support.processes import START_WITHIN, Deployment, Process

__all__ = ["Library", "Note"]


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a process noted: that a call was `asked` for, `begun`, `recorded` or `replayed`, or that it was `killed`."""

    what: str
    hop: str
    call: str
    process: str
    pid: int
    at: float


class Library:
    """A deployment whose workers record all calls of agents in its own file."""

    def __init__(self, made: Deployment) -> None:
        self._made = made
        self._calls, self._strikes, self.reading = (made.folder / name for name in ("calls", "strikes", "reading"))
        self._strikes.mkdir()
        self.reading.mkdir()
        self._transport = made.transport()
        self._dispatcher = WorkflowDispatcher()
        self._workers: list[Process] = []
        made.variables.update(
            CALLS_FILE=str(self._calls), STRIKES=str(self._strikes), READING=str(self.reading),
        )  # fmt: skip

    def worker(self, pool: str, *, name: str, slots: int = 1) -> Process:
        """Start a worker without waiting for it."""
        worker = self._made.start_worker("scholar", "reader", pool=pool, slots=slots, name=name)
        self._workers.append(worker)
        return worker

    def ready_worker(self, pool: str = "prefork", *, name: str) -> Process:
        """Start a worker and wait until it takes messages."""
        worker = self.worker(pool, name=name)
        worker.wait_for_log(" ready.", within=START_WITHIN)
        return worker

    def deploy(self, edition: str) -> None:
        """Kill all workers; those that are started from now on have a different version of the code."""
        for worker in self._workers:
            worker.kill()
        self._made.variables["EDITION"] = edition

    def study(self, strike: str) -> WorkflowHandle:
        """Start a workflow whose process dies once, at `strike`."""
        correlation_id = strike.replace(" ", "_")
        (self._strikes / correlation_id).write_text(strike)
        return self._dispatch(FunctionSpec("study", {"question": "go"}), correlation_id)

    def read(self, correlation_id: str, **limits: int) -> WorkflowHandle:
        """Start a workflow of the agent that reads pages, perhaps with limits."""
        return self._dispatch(ActivitySpec("reader", "go"), correlation_id, limits or None)

    def used(self, handle: WorkflowHandle) -> Mapping[str, int]:
        """Return what the store has counted of a workflow with limits."""
        prefix, store = self._transport.settings.prefix, self._transport.store
        assert isinstance(store, RedisStore)
        text = store._server.ask(lambda c: c.redis.hget(f"{prefix}:wf:{handle.correlation_id}", "used"), about="used")
        return usage_of(sums_in(text)).counters

    def letters(self) -> DeadLetters:
        """Return what an operator sees of parked hops."""
        return DeadLetters(self._transport)

    def notes(self, handle: WorkflowHandle) -> list[Note]:
        """Return what was noted about a workflow."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        notes = [Note(**json.loads(line)) for line in lines]
        return [note for note in notes if note.hop.partition(".")[0] == handle.correlation_id]

    def begun(self, handle: WorkflowHandle) -> Counter[str]:
        """How often the code of each call ran."""
        return Counter(note.call for note in self.notes(handle) if note.what == "begun")

    def _dispatch(
        self, step: FunctionSpec | ActivitySpec, correlation_id: str, limits: Mapping[str, int] | None = None
    ) -> WorkflowHandle:
        self._dispatcher.dispatch_workflow_sync(
            self._transport, itinerary=[step], correlation_id=correlation_id, usage_limits=limits
        )
        return self._dispatcher.handle(correlation_id, self._transport)
