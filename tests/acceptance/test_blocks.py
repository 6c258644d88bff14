"""Blocks with real workers on Redis: their workers are killed at each point, and their branches are cut off in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from paigeant_celery import (
    FunctionSpec,
    WorkflowDispatcher,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowParked,
    for_each,
    parallel,
    sub_workflow,
)
from paigeant_celery.store.port import OpenHops
from tests.support.hurrying import hurry
from tests.support.processes import Deployment, Process, deployment, eventually

WITHIN = 30.0  # seconds for what takes about two, most of it the start of a worker
LEASE = 8.0  # seconds; a run whose workflow has ended is cut off within a quarter of that
PICK, BASKET = FunctionSpec("pick"), FunctionSpec("basket")

# Where a worker may die, in their order: eight branches are recorded in pages of three.
POINTS = [
    "page 0", "page 0 recorded", "page 3", "page 3 recorded", "page 6 recorded", "opening", "opened", "suspending",
    "suspended", "arriving", "arrived", "woken", "joining", "joined",
]  # fmt: skip
FEW = ("page 3 recorded", "opened", "suspending", "arrived", "woken", "joining")

pytestmark = [
    pytest.mark.together,
    pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see processes die"),
]


class Orchard:
    """A deployment whose workers can be made to die at a point of a block."""

    def __init__(self, made: Deployment) -> None:
        self.made, self.transport = made, made.transport()
        self.folder, self.axes = made.folder / "orchard", made.folder / "axes"
        for folder in (self.folder, self.axes):
            folder.mkdir()
        made.variables = {"ORCHARD": str(self.folder), "AXES": str(self.axes)}
        self._workers: list[Process] = []

    def workers(self, count: int = 2) -> list[Process]:
        """Return so many workers that run, started if they do not."""
        self._workers = [worker for worker in self._workers if worker.running]
        for number in range(count - len(self._workers)):
            name = f"worker-{len(list(self.made.folder.iterdir()))}-{number}"
            self._workers.append(
                self.made.start_worker("felling", "orchard", "hurried", name=name, pool="threads", slots=4)
            )
        for worker in self._workers:
            worker.wait_for_log(" ready.", within=WITHIN)
        return self._workers

    def dispatch(self, *steps: Any, **options: Any) -> WorkflowHandle:
        sent = WorkflowDispatcher().dispatch_workflow_sync(self.transport, itinerary=steps, **options)
        return WorkflowHandle(sent, self.transport)

    def open_hops(self) -> OpenHops:
        assert self.transport.store is not None
        return self.transport.store.open_hops()

    def expect_nothing_open(self) -> None:
        nothing = OpenHops(due=0, running=0, parked=0, asleep=0)
        eventually(lambda: self.open_hops() == nothing, within=WITHIN, what=str(self.open_hops()))

    def noted(self, what: str, handle: WorkflowHandle, *places: str) -> None:
        """Wait until the steps at these places have noted something."""
        names = [self.folder / f"{what} {handle.correlation_id}.{place}" for place in places]
        eventually(lambda: all(name.exists() for name in names), within=WITHIN, what=f"not all were {what}")


@pytest.fixture(scope="module")
def orchard(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchard]:
    with (
        pytest.MonkeyPatch.context() as patch,
        deployment(redis_url, tmp_path_factory.mktemp("orchard"), paigeant_lease=LEASE) as made,
    ):
        hurry(patch)
        yield Orchard(made)


@pytest.mark.parametrize(
    "point", [point if point in FEW else pytest.param(point, marks=pytest.mark.proof) for point in POINTS]
)
def test_a_worker_that_dies_in_a_fan_out_loses_nothing_and_doubles_nothing(orchard: Orchard, point: str) -> None:
    """Wherever it dies: every branch is opened once, counts once, and the join is met once."""
    orchard.workers()
    (orchard.axes / point).touch()
    handle = orchard.dispatch(for_each([PICK, BASKET], over=list(range(8)), max_at_once=4, step_id="all"), BASKET)

    assert handle.result_sync(WITHIN).output == [f"picked {number}" for number in range(8)]
    assert not (orchard.axes / point).exists()
    orchard.expect_nothing_open()
    events = handle.events_so_far()
    completed = Counter(event.hop_id for event in events if event.type == "completed")
    branches = [f"{handle.correlation_id}.0-{number}.{place}" for number in range(8) for place in range(2)]
    assert completed == dict.fromkeys([*branches, f"{handle.correlation_id}.0", f"{handle.correlation_id}.1"], 1)
    types = Counter(event.type for event in events)
    assert (types["branches_opened"], types["branch_completed"], types["joined"]) == (1, 8, 1)
    assert types.keys() & {"parked", "failed", "adopted"} == set()
    runs = Counter(orchard.made.runs())
    assert all(1 <= runs[hop] <= 2 for hop in branches)


def test_a_cancelled_workflow_cuts_the_runs_of_its_branches_off(orchard: Orchard) -> None:
    """A person presses a button because they cost money."""
    orchard.workers()
    handle = orchard.dispatch(parallel({"a": for_each(PICK, over=["held", "sold"]), "b": [BASKET, PICK]}))
    inner = "0-0.0-0.0"
    orchard.noted("begun", handle, inner)

    assert handle.cancel_sync()

    orchard.noted("cut off", handle, inner)
    orchard.expect_nothing_open()
    assert [event.type for event in handle.events_so_far()][-1] == "workflow_cancelled"


def test_a_branch_whose_worker_was_killed_is_not_said_to_run(orchard: Orchard) -> None:
    """Nobody is there to take it over, so whoever looks must see that it waits for a worker."""
    workers = orchard.workers()
    handle = orchard.dispatch(for_each([PICK, BASKET], over=["held", "a"], step_id="all"))
    orchard.noted("begun", handle, "0-0.0")
    runner = handle.status_sync().branches[0].runner
    assert runner is not None
    assert runner.pid in [worker.pid for worker in workers]
    assert runner.lapsed_at is None
    eventually(lambda: not handle.status_sync().branches[1].needs_worker, within=WITHIN, what="it did not end")

    for worker in workers:
        worker.kill()

    eventually(lambda: handle.status_sync().branches[0].needs_worker, within=WITHIN, what="its lease is not over")
    (lost, ended), killed = handle.status_sync().branches, datetime.now(UTC)
    assert (lost.state, ended.needs_worker) == ("running", False)
    assert lost.runner is not None
    assert lost.runner.lapsed_at is not None
    assert replace(lost.runner, lapsed_at=None) == runner
    assert lost.runner.lapsed_at <= killed + timedelta(seconds=1)
    shown = orchard.made.run(
        *("-A", "paigeant_celery", "paigeant", "show", handle.correlation_id, "--no-events", "--no-workers"),
        folder=orchard.made.configured("shown"), name="show",
    )  # fmt: skip
    assert shown.ended(within=WITHIN) == 0
    assert f"        pick: running, ran in process {runner.pid} on " in shown.log()
    assert handle.cancel_sync()
    orchard.expect_nothing_open()


def test_a_branch_that_fails_cuts_the_runs_of_the_others_off(orchard: Orchard) -> None:
    """Nothing they would answer is wanted any more, and nothing they still do is written down."""
    orchard.workers()
    handle = orchard.dispatch(for_each([PICK, BASKET], over=["held", "sold", "rotten"], step_id="all"))
    orchard.noted("begun", handle, "0-0.0")

    with pytest.raises(WorkflowFailed) as failed:
        handle.result_sync(WITHIN)

    assert (failed.value.step_id, failed.value.error_class) == ("all/2/pick", "LookupError")
    orchard.noted("cut off", handle, "0-0.0")
    orchard.expect_nothing_open()
    assert [event.type for event in handle.events_so_far()][-1] == "workflow_failed"


def test_a_join_that_is_met_cuts_the_losers_off(orchard: Orchard) -> None:
    """The workflow goes on at once."""
    orchard.workers()
    block = for_each([PICK], over=["held", "sold", "a"], join="any", step_id="all")
    handle = orchard.dispatch(sub_workflow(block), BASKET)

    assert handle.result_sync(WITHIN).output == ["picked a"]
    orchard.expect_nothing_open()


def test_a_parked_branch_is_redriven_and_joined_while_others_wait_for_people(orchard: Orchard) -> None:
    """Each waits for its own person, and nobody holds a worker meanwhile."""
    orchard.workers()
    block = for_each([PICK, BASKET], over=["high", "sold", "a"], step_id="all")
    handle = orchard.dispatch(parallel({"trees": block}), BASKET)
    done = "branch_completed"
    eventually(lambda: done in [event.type for event in handle.events_so_far()], within=WITHIN)
    eventually(lambda: orchard.open_hops() == OpenHops(due=0, running=0, parked=1, asleep=3), within=WITHIN)
    assert handle.signal_sync("paid", "three").outcome == "settled"
    with pytest.raises(WorkflowParked) as parked:
        handle.result_sync(WITHIN)
    assert parked.value.step_id == "parallel/trees/all/0/pick"

    (orchard.folder / "ladder").touch()
    store = orchard.transport.store
    assert store is not None
    assert store.redrive(handle.correlation_id, place="0-0.0-0.0") == "redriven"

    assert handle.result_sync(WITHIN).output == {"trees": ["picked high", "three", "picked a"]}
    orchard.expect_nothing_open()
