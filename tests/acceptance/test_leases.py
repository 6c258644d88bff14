"""Steps that keep their process from renewing its lease: what lives keeps its hops, and what hangs or stops loses them.

The workers of this file are started once, and all steps run at the same time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from paigeant_celery import FunctionSpec, StepPolicy, WorkflowDispatcher, WorkflowHandle
from tests.support.processes import Deployment, Process, deployment, eventually

WITHIN = 60.0  # seconds for what takes a few, most of it the start of workers
LEASE = 4.0  # seconds
HELD = 3 * LEASE
FOR_GOOD = 3600.0
BRIEF = 1.5  # seconds that a step may take which hangs

pytestmark = [
    pytest.mark.xdist_group("short leases"),
    pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see whose lease to extend"),
]


@dataclass
class Stage:
    """A deployment in which steps run, by what happens to them, and the workers that run them."""

    where: Deployment
    workers: list[Process]
    steps: dict[str, WorkflowHandle]

    def dispatch(self, what: str, activity: str, **arguments: object) -> None:
        """Have a step begin. `timeout` is how long it may take."""
        policy = StepPolicy(timeout=BRIEF) if what == "hangs" else None
        spec = FunctionSpec(activity, arguments, policy=policy)
        transport, dispatcher = self.where.transport(), WorkflowDispatcher()
        correlation_id = dispatcher.dispatch_workflow_sync(transport, itinerary=[spec])
        self.steps[what] = dispatcher.handle(correlation_id, transport)
        eventually(lambda: self.begun(what), within=WITHIN, what=f"the step of {what} did not begin")

    def begun(self, what: str) -> int:
        """How often a step was begun."""
        return self.where.runs().count(f"{self.steps[what].correlation_id}.0")

    def told(self, what: str) -> Path:
        """Where a step says which process runs it."""
        return self.where.folder / what

    def runs_in(self, what: str) -> int:
        """The process that runs a step."""
        return int(eventually(lambda: self.told(what).exists() and self.told(what).read_text(), within=WITHIN))

    def ready_worker(self, pool: str, slots: int, name: str) -> Process:
        """Start a worker, have it run a step, and wait until somebody keeps its leases."""
        worker = self.where.ready_worker("clenched", pool=pool, slots=slots, name=name)
        self.workers.append(worker)
        return worker

    def kept_worker(self, pool: str, slots: int, name: str) -> None:
        """The same, after its first step, when somebody keeps its leases."""
        worker = self.ready_worker(pool, slots, name)
        self.dispatch("before", "clench", seconds=0.0)
        eventually(lambda: helper_of(worker), within=WITHIN, what="nobody keeps its leases")

    def happened(self, what: str) -> list[str]:
        """What the store knows about a step, with the reason why it was sent again."""
        events = self.steps[what].events_so_far()
        return [f"{event.type} {event.fields.get('why', '')}".strip() for event in events]

    def logs(self) -> str:
        """What all workers have said."""
        return "".join(worker.log() for worker in self.workers)


def helper_of(worker: Process) -> int | None:
    """The process that extends the leases of a worker, if it is connected to the store."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"(keeps the leases of process {worker.pid})".encode() in (folder / "cmdline").read_bytes():
                return int(folder.name) if len(list((folder / "fd").iterdir())) > 3 else None
        except OSError:
            continue  # it has ended meanwhile
    return None


@pytest.fixture(scope="module")
def prefork(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One worker, of which each child runs a step, and one is free."""
    with deployment(redis_url, tmp_path_factory.mktemp("prefork"), paigeant_lease=LEASE) as where:
        where.variables["TOUCHED"] = "yes"
        stage = Stage(where, [], {})
        stage.kept_worker("prefork", 5, "first")
        stage.dispatch("calls", "clench", seconds=HELD)
        for what, activity in (("hangs", "clench"), ("is killed", "clench"), ("is stopped", "pause")):
            stage.dispatch(what, f"{activity}_at_first", seconds=FOR_GOOD, told=str(stage.told(what)))
        os.kill(stage.runs_in("is stopped"), signal.SIGSTOP)
        os.kill(stage.runs_in("is killed"), signal.SIGKILL)
        yield stage


@pytest.fixture(scope="module")
def alone(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A worker with threads and one without, of which nothing moves, and another one that could take their steps."""
    with deployment(redis_url, tmp_path_factory.mktemp("alone"), paigeant_lease=LEASE) as where:
        where.variables["TOUCHED"] = "yes"
        stage = Stage(where, [], {})
        stage.kept_worker("threads", 2, "threads")
        stage.dispatch("is beside", "linger", seconds=HELD)
        stage.dispatch("threads", "clench", seconds=HELD)
        stage.kept_worker("solo", 1, "solo")
        stage.dispatch("solo", "clench_the_loop", seconds=HELD)
        stage.ready_worker("prefork", 3, "second")  # it sweeps whatever its children do
        yield stage


@pytest.mark.together("prefork")
def test_a_call_that_keeps_the_lock_of_a_child_for_three_leases_runs_once(prefork: Stage) -> None:
    """A model that a library loads in C was loaded until its step was parked, although each load ended well."""
    assert prefork.steps["calls"].result_sync(WITHIN).output == "unclenched"
    assert prefork.happened("calls") == ["started", "claimed", "completed", "workflow_completed"]
    assert prefork.begun("calls") == 1


@pytest.mark.together("alone")
@pytest.mark.parametrize("what", ["threads", "solo", "is beside"])
def test_a_call_that_keeps_the_lock_of_a_worker_for_three_leases_runs_once(alone: Stage, what: str) -> None:
    """Nothing of the worker moves meanwhile, and neither do the steps beside; all of them keep their lease."""
    assert alone.steps[what].result_sync(WITHIN).output == ("lingered" if what == "is beside" else "unclenched")
    assert alone.happened(what) == ["started", "claimed", "completed", "workflow_completed"]
    assert alone.begun(what) == 1
    assert "loop_blocked" not in alone.logs()
    assert "is gone" not in alone.logs()


@pytest.mark.together("prefork")
@pytest.mark.parametrize(
    ("what", "why"), [("hangs", "lease_over"), ("is stopped", "lease_over"), ("is killed", "owner_gone")]
)
def test_a_process_that_does_not_go_on_loses_its_step(prefork: Stage, what: str, why: str) -> None:
    """It is there, but its step has taken as long as it may; or it is stopped, which nobody renews; or it is gone."""
    assert prefork.steps[what].result_sync(WITHIN).output == "begun again"

    assert prefork.happened(what)[:4] == ["started", "claimed", f"resent {why}", "claimed"]
    assert prefork.begun(what) == 2
