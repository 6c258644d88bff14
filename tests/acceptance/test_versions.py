"""Workers of two versions side by side, as in each deploy: two formats of the store, and two sets of kinds of steps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from paigeant_celery import (
    ActivitySpec,
    DeadLetters,
    FunctionSpec,
    WorkflowDispatcher,
    WorkflowHandle,
    parallel,
    sleep_for,
    sub_workflow,
    wait_for,
)
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.core.slip import Step
from tests.support.processes import Deployment, Process, deployment, eventually, run_script
from tests.support.versions import OLDER_FORMAT, OLDER_SPEC, older_version, whole_slips, without_blocks, without_waits

WITHIN = 60.0
SMALL = 6  # workflows

# What a web server of the older version does: it dispatches so many workflows of agents, and prints their ids.
OLD_DISPATCHER = """
import sys
from pathlib import Path
from celery import Celery
from paigeant_celery import ActivitySpec, WorkflowDispatcher, get_transport
from paigeant_celery.core.names import SPEC_VERSION
from paigeant_celery.store.limits import LIMITS

app = Celery("dispatching", set_as_current=False)
app.config_from_object("celeryconfig")
transport = get_transport(app=app)
print(LIMITS.format, SPEC_VERSION)
for _ in range(int(sys.argv[2])):
    steps = [ActivitySpec("first", "go"), ActivitySpec("held", sys.argv[1]), ActivitySpec("last", "go")]
    print(WorkflowDispatcher().dispatch_workflow_sync(transport, itinerary=steps))
"""


class Deploy:
    """A deployment that goes from the older version to this one."""

    def __init__(self, made: Deployment, older: str, hurried: str, *, pool: str) -> None:
        self.made, self.older, self.hurried, self.pool = made, older, hurried, pool
        self.transport: CeleryTransport = made.transport()
        self.handles: list[WorkflowHandle] = []

    def old_worker(self, name: str) -> Process:
        self.made.variables["PYTHONPATH"] = self.older
        try:
            return self.made.start_worker("relay", self.hurried, name=name, pool=self.pool, cold=True)
        finally:
            del self.made.variables["PYTHONPATH"]

    def new_worker(self, name: str) -> Process:
        return self.made.ready_worker("relay", self.hurried, name=name, pool=self.pool)

    def dispatch_old(self, count: int, gate: Path) -> None:
        printed = run_script(
            OLD_DISPATCHER, str(gate), str(count), cwd=self.made.configured("web"), cold=True, PYTHONPATH=self.older
        )
        version, *ids = printed.splitlines()
        assert version == f"{OLDER_FORMAT} {OLDER_SPEC}"
        self.handles += [WorkflowHandle(correlation_id, self.transport) for correlation_id in ids]

    def dispatch_new(self, *itineraries: Sequence[Step]) -> list[WorkflowHandle]:
        dispatcher, before = WorkflowDispatcher(), len(self.handles)
        for itinerary in itineraries:
            sent = dispatcher.dispatch_workflow_sync(self.transport, itinerary=itinerary)
            self.handles.append(dispatcher.handle(sent, self.transport))
        return self.handles[before:]

    def running(self) -> list[WorkflowHandle]:
        return [handle for handle in self.handles if handle.status_sync().running]


def test_a_worker_of_an_older_format_ends_its_steps_and_leaves_the_others_to_newer_workers(
    redis_url: str, tmp_path: Path, in_a_hurry: str
) -> None:
    """A deploy begins with one new worker; from then on the old ones only end what they run."""
    gate = tmp_path / "gate"
    with deployment(redis_url, tmp_path / "deploy") as made:
        deploy = Deploy(made, "", in_a_hurry, pool="threads")
        old = made.ready_worker("relay", in_a_hurry, "aged", name="old", pool="threads")
        deploy.dispatch_new(*[[ActivitySpec("held", str(gate)), ActivitySpec("last", "go")]] * 2)
        eventually(lambda: len(deploy.running()) == 2, within=WITHIN)

        new = deploy.new_worker("new")
        old.wait_for_log("this worker takes no more steps", within=WITHIN)
        deploy.dispatch_new([ActivitySpec("first", "go"), ActivitySpec("last", "go")])
        gate.touch()
        hops = {f"{handle.correlation_id}.{place}" for handle in deploy.handles for place in (0, 1)}
        for handle in deploy.handles:
            handle.result_sync(WITHIN)

        assert Counter(made.runs()) == dict.fromkeys(hops, 1)
        assert DeadLetters(deploy.transport).list() == []
        assert old.terminate() == new.terminate() == 0


@pytest.mark.proof
@pytest.mark.parametrize(("size", "workers", "pool"), [(SMALL, 1, "prefork"), (60, 2, "prefork"), (60, 2, "threads")])
def test_a_rolling_deploy_loses_nothing_and_begins_nothing_twice(
    redis_url: str, tmp_path: Path, in_a_hurry: str, size: int, workers: int, pool: str
) -> None:
    """Old workers meet steps that they cannot read and a store that a newer one uses; nobody has to stop the world."""
    gate = tmp_path / "gate"
    first, weigh, last = ActivitySpec("first", "go"), FunctionSpec("weigh", {"grams": 5}), ActivitySpec("last", "go")
    with deployment(redis_url, tmp_path / "deploy") as made:
        deploy = Deploy(made, older_version(tmp_path / "older"), in_a_hurry, pool=pool)
        old = [deploy.old_worker(f"old-{number}") for number in range(workers)]
        for worker in old:
            worker.wait_for_log(" ready.", within=WITHIN)

        # The web servers are deployed first: nobody can run the functions yet, and the agents before them wait as well.
        # So do agents with files.
        file = {"kind": "binary", "media_type": "image/png", "data": b"x" * 40_000}
        looked = ActivitySpec("first", ["look", file])
        unread = deploy.dispatch_new(*[[first, weigh, last], [weigh, looked], [looked]] * (size // 6))
        eventually(lambda: all(left_to_newer(handle) for handle in unread), within=WITHIN)
        deploy.dispatch_old(size // 3, gate)
        eventually(lambda: len(deploy.running()) == 2 * workers, within=WITHIN)
        begun_by_old = deploy.running()
        new = [deploy.new_worker(f"new-{number}") for number in range(workers)]
        for worker in old:
            worker.wait_for_log("this worker takes no more steps", within=WITHIN)
        if size > SMALL:
            deploy.dispatch_old(size // 6, gate)  # some web servers are late
        deploy.dispatch_new(*[[first, last]] * (size - len(deploy.handles)))
        gate.touch()
        results = [handle.result_sync(WITHIN) for handle in deploy.handles]

        steps = {
            handle.correlation_id: len(result.steps) for handle, result in zip(deploy.handles, results, strict=True)
        }
        hops = [f"{correlation_id}.{place}" for correlation_id, count in steps.items() for place in range(count)]
        events = [event for handle in deploy.handles for event in handle.events_so_far()]
        types = Counter(event.type for event in events)
        assert len(results) == size
        assert Counter(made.runs()) == dict.fromkeys(hops, 1)
        assert DeadLetters(deploy.transport).list() == []
        assert types.keys() & {"parked", "retrying", "failed", "adopted", "redriven", "released"} == set()
        assert types["claimed"] == len(hops) + types["given_back"]
        assert types["given_back"] >= len(unread)
        assert begun_by_old != []
        assert [worker.terminate() for worker in old] == [0] * workers
        for worker in old:
            assert worker.log().count("this worker takes no more steps") == 1
            assert set(canceled_in(worker)) == {f"{made.prefix}.{name}" for name in ("first", "held", "last", "weigh")}

        # Back again: the older version does not start on what the newer one wrote, and says why.
        assert [worker.terminate() for worker in new] == [0] * workers
        again = deploy.old_worker("again")
        assert again.ended(within=WITHIN) != 0
        assert "install that version here too" in again.log()


@pytest.mark.proof
def test_workers_of_version_1_2_leave_folded_slips_to_newer_ones(
    redis_url: str, tmp_path: Path, in_a_hurry: str
) -> None:
    """They run beside each other for as long as a deploy takes; what an old one cannot count, it does not touch."""
    gate, first = tmp_path / "gate", ActivitySpec("first", "go", previous_output=False)
    with deployment(redis_url, tmp_path / "deploy", paigeant_inline_log_size=0) as made:
        deploy = Deploy(made, whole_slips(tmp_path / "older"), in_a_hurry, pool="threads")
        new = deploy.new_worker("new")
        steps = [
            first,
            first,
            ActivitySpec("held", str(gate)),
            first,
            ActivitySpec("last", "go", previous_output=False),
        ]
        (handle,) = deploy.dispatch_new(steps)
        eventually(lambda: deploy.running() and handle.status_sync().step_id == "held", within=WITHIN)
        old = deploy.old_worker("old")
        old.wait_for_log(" ready.", within=WITHIN)
        new.kill()
        eventually(lambda: left_to_newer(handle), within=WITHIN)
        assert handle.status_sync().executed == ("first", "first-2")

        # What the old worker can read it runs: short slips, before and after newer workers have read them.
        (begun,) = deploy.dispatch_new([first, ActivitySpec("last", "go")])
        assert begun.result_sync(WITHIN).outputs == {"first": "first(go|)", "last": "last(go|first(go|))"}
        gate.touch()
        again = deploy.new_worker("again")
        deploy.dispatch_new(*[[first] * 6] * 4)
        results = [each.result_sync(WITHIN) for each in deploy.handles]

        assert [len(result.steps) for result in results] == [5, 2, *[6] * 4]
        runs = Counter(made.runs())
        assert runs.pop(f"{handle.correlation_id}.2") == 2  # that of the killed worker, and the one that counts
        assert set(runs.values()) == {1}
        assert len(runs) == 4 + 2 + 4 * 6
        types = Counter(event.type for each in deploy.handles for event in each.events_so_far())
        assert types["completed"] == 5 + 2 + 4 * 6
        assert types["given_back"] >= 1
        assert types.keys() & {"parked", "failed", "adopted"} == set()
        assert DeadLetters(deploy.transport).list() == []
        assert old.terminate() == again.terminate() == 0


@pytest.mark.proof
def test_workers_of_version_1_3_leave_waits_to_newer_ones(redis_url: str, tmp_path: Path, in_a_hurry: str) -> None:
    """The web servers are deployed first; wherever a slip waits, an old worker neither runs nor refuses it."""
    first, last = ActivitySpec("first", "go"), ActivitySpec("last", "go")
    with deployment(redis_url, tmp_path / "deploy") as made:
        deploy = Deploy(made, without_waits(tmp_path / "older"), in_a_hurry, pool="threads")
        old = deploy.old_worker("old")
        old.wait_for_log(" ready.", within=WITHIN)
        plain, later, waiting, ahead = deploy.dispatch_new(
            [first, last], [first, sleep_for(0.1), last], [wait_for("go"), last], [first, last, wait_for("go")]
        )
        assert plain.result_sync(WITHIN).output == "last(go|first(go|))"
        eventually(lambda: left_to_newer(later) and left_to_newer(ahead), within=WITHIN)
        assert (waiting.status_sync().state, waiting.status_sync().failure) == ("queued", None)

        new = deploy.new_worker("new")
        old.wait_for_log("this worker takes no more steps", within=WITHIN)
        for handle in (waiting, ahead):
            handle.signal_sync("go", "gone")
        results = [handle.result_sync(WITHIN) for handle in (later, waiting, ahead)]

        assert [result.output for result in results] == ["last(go|first(go|))", "last(go|gone)", "gone"]
        assert set(Counter(made.runs()).values()) == {1}
        assert len(made.runs()) == 2 + 2 + 1 + 2
        assert DeadLetters(deploy.transport).list() == []
        assert f"{made.prefix}._flow" not in canceled_in(old)
        assert old.terminate() == new.terminate() == 0


@pytest.mark.proof
def test_workers_of_version_1_4_leave_blocks_to_newer_ones(redis_url: str, tmp_path: Path, in_a_hurry: str) -> None:
    """The web servers are deployed first; wherever a slip has a block, an old worker neither runs nor refuses it."""
    first, last = ActivitySpec("first", "go"), ActivitySpec("last", "go")
    block = parallel({"a": [first, last], "b": sub_workflow(wait_for("go"))})
    with deployment(redis_url, tmp_path / "deploy") as made:
        deploy = Deploy(made, without_blocks(tmp_path / "older"), in_a_hurry, pool="threads")
        old = deploy.old_worker("old")
        old.wait_for_log(" ready.", within=WITHIN)
        plain, now, later, waiting = deploy.dispatch_new(
            [first, last], [block, last], [first, block], [wait_for("go"), sub_workflow(first)]
        )
        assert plain.result_sync(WITHIN).output == "last(go|first(go|))"
        eventually(lambda: all(left_to_newer(handle) for handle in (now, later, waiting)), within=WITHIN)

        new = deploy.new_worker("new")
        old.wait_for_log("this worker takes no more steps", within=WITHIN)
        for handle in (now, later, waiting):
            handle.signal_sync("go", "gone")
        results = [handle.result_sync(WITHIN) for handle in (now, later, waiting)]

        gave = {"a": "last(go|first(go|))", "b": "gone"}
        assert results[1].output == {**gave, "a": "last(go|first(go|first(go|)))"}
        assert results[0].outputs["parallel"] == gave
        assert results[2].output == "first(go|gone)"
        assert set(Counter(made.runs()).values()) == {1}
        assert len(made.runs()) == 2 + 3 + 3 + 1
        assert DeadLetters(deploy.transport).list() == []
        assert old.terminate() == new.terminate() == 0


def left_to_newer(handle: WorkflowHandle) -> bool:
    status = handle.status_sync()
    return status.state == "queued" and status.failure is not None and status.failure.error_class == "newer_version"


def canceled_in(worker: Process) -> list[str]:
    """Return the queues that a worker has left, as Celery logs it."""
    return re.findall(r"Canceling queue (\S+)", worker.log())
