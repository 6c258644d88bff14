"""A worker of a host that runs greenlets: its tasks and our steps, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, WorkflowHandle
from tests.support.processes import START_WITHIN, Deployment, Process, deployment, eventually, run_script

WITHIN = 20.0
LEASE = 1.0  # seconds
LONG = 2.0  # seconds, more than a lease

pytestmark = [pytest.mark.together, pytest.mark.xdist_group("short leases")]


class Greenhouse:
    """The host, with a worker of its own."""

    def __init__(self, made: Deployment) -> None:
        self.made, self.transport, self.dispatcher = made, made.transport(), WorkflowDispatcher()
        self.app: Celery = self.transport.app

    def ready_worker(self, name: str = "greenhouse", *, slots: int = 100, pool: str = "gevent") -> Process:
        """Start a worker and wait until it takes messages."""
        worker = self.made.run(
            "-A", "greenhouse", "worker", "-n", f"{name}-{self.made.prefix}@%h", "-P", pool, "-c", str(slots),
            "-l", "INFO", "--without-mingle", "--without-gossip",
            folder=self.made.configured(name), name=name, cold=True,
        )  # fmt: skip
        worker.wait_for_log(" ready.", within=START_WITHIN)
        return worker

    def begin(self, *steps: ActivitySpec | FunctionSpec) -> WorkflowHandle:
        """Dispatch a workflow."""
        sent = self.dispatcher.dispatch_workflow_sync(self.transport, itinerary=steps)
        return self.dispatcher.handle(sent, self.transport)

    def run_loop(self, answer: str) -> object:
        """Let a task of the host have an event loop, and return what it answers."""
        return self.app.send_task("greenhouse.run_loop", [answer]).get(WITHIN)

    def runs(self, handle: WorkflowHandle) -> int:
        """How often the first step of a workflow was begun."""
        lines = self.made.runs_file.read_text().splitlines() if self.made.runs_file.exists() else []
        return sum(f"{handle.correlation_id}.0" in line for line in lines)


def step(name: str, **arguments: object) -> FunctionSpec:
    return FunctionSpec(name, arguments)


@pytest.fixture(scope="module")
def made(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    settings = {
        "imports": ("paigeant_celery.tasks", "greenhouse"), "task_ignore_result": False, "result_backend": redis_url,
        "paigeant_lease": LEASE, "paigeant_retry_backoff": 0.1,
    }  # fmt: skip
    with deployment(redis_url, tmp_path_factory.mktemp("greenhouse"), **settings) as made:
        made.settings["task_default_queue"] = f"{made.prefix}-tasks"
        yield made


@pytest.fixture(scope="module")
def greenhouse(made: Deployment) -> Greenhouse:
    return Greenhouse(made)


@pytest.fixture(scope="module")
def worker(greenhouse: Greenhouse) -> Process:
    return greenhouse.ready_worker()


@pytest.mark.usefixtures("worker")
class TestGevent:
    """One worker, which all of these share."""

    def test_an_agent_with_tools_runs(self, greenhouse: Greenhouse) -> None:
        """Its model and async tools are awaited on a loop; its sync tools have threads."""
        handle = greenhouse.begin(ActivitySpec("gardener", "go"))

        assert handle.result_sync(WITHIN).output == "dug watered"
        assert greenhouse.runs(handle) == 1

    def test_tasks_of_the_host_have_their_own_loops_after_a_step(self, greenhouse: Greenhouse) -> None:
        """Our loop is none of theirs."""
        greenhouse.begin(step("doze", seconds=0.0)).result_sync(WITHIN)

        assert [greenhouse.run_loop(answer) for answer in ("one", "two")] == ["one", "two"]

    @pytest.mark.parametrize("busy", ["reckon", "clog"])
    def test_a_step_that_keeps_its_thread_busy_is_run_once_beside_others(
        self, greenhouse: Greenhouse, tmp_path: Path, busy: str
    ) -> None:
        """It computes, or calls a library that knows nothing of greenlets, for longer than the lease."""
        gate = tmp_path / "gate"
        handle = greenhouse.begin(step(busy, seconds=LONG, gate=str(gate)))
        eventually(lambda: greenhouse.runs(handle) == 1, within=WITHIN)

        beside = greenhouse.begin(step("doze", seconds=0.01), ActivitySpec("gardener", "go"))
        assert beside.result_sync(WITHIN).output == "dug watered"
        assert greenhouse.run_loop("beside") == "beside"
        assert handle.status_sync().state == "running", "the others had to wait for it"

        gate.touch()
        handle.result_sync(WITHIN)
        assert greenhouse.runs(handle) == 1

    def test_a_step_goes_on_beside_a_task_that_computes(self, greenhouse: Greenhouse) -> None:
        """Nothing of the host may cost a lease."""
        handle = greenhouse.begin(step("doze", seconds=0.5))
        eventually(lambda: greenhouse.runs(handle) == 1, within=WITHIN)

        assert greenhouse.app.send_task("greenhouse.spin", [LONG]).get(WITHIN) == "spun"

        handle.result_sync(WITHIN)
        assert (greenhouse.runs(handle), handle.status_sync().attempt) == (1, 1)

    def test_a_step_sends_workflows_and_tasks_from_wherever_it_runs(self, greenhouse: Greenhouse) -> None:
        """A connection that gevent has made belongs to one thread, and a step has others."""
        seeds = [f"{greenhouse.made.prefix}-{number}" for number in range(8)]
        handles = [
            greenhouse.begin(
                step("sow", seed=f"{seed}-sync"), step("sow_later", seed=f"{seed}-async"),
                step("mail", letter="a"), step("mail_later", letter="b"),
            )
            for seed in seeds
        ]  # fmt: skip

        assert all(handle.result_sync(WITHIN).status == "completed" for handle in handles)
        sown = [f"{seed}-{kind}" for seed in seeds for kind in ("sync", "async")]
        for seed in sown:
            greenhouse.dispatcher.handle(seed, greenhouse.transport).result_sync(WITHIN)
        assert [handle.status_sync().attempt for handle in handles] == [1] * len(handles)

    def test_a_running_step_is_cancelled_with_its_workflow(self, greenhouse: Greenhouse) -> None:
        """Within one renewal of the lease."""
        handle = greenhouse.begin(step("doze", seconds=3600.0))
        eventually(lambda: greenhouse.runs(handle) == 1, within=WITHIN)

        assert handle.cancel_sync()

        hop = f"[{handle.correlation_id}.0]"
        eventually(lambda: hop not in str(greenhouse.app.control.inspect(timeout=1.0).active()), within=WITHIN)

    def test_a_step_that_fails_in_passing_completes(self, greenhouse: Greenhouse, tmp_path: Path) -> None:
        """A sweep, which has a thread of its own, sends it again."""
        handle = greenhouse.begin(step("stumble_once", path=str(tmp_path / "stumbled")))

        assert handle.result_sync(WITHIN).output == "recovered"
        assert handle.status_sync().state == "completed"


# What a web process does under `gunicorn -k gevent`, in which each request is a greenlet.
WEB = """
import gevent.monkey
gevent.monkey.patch_all()
import asyncio, json, time
import gevent
from celery import Celery
from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, get_transport

app = Celery("web", config_source="celeryconfig", set_as_current=False)
dispatcher, transport = WorkflowDispatcher(), get_transport(app=app)
steps = [FunctionSpec("doze", {"seconds": 0.2}), ActivitySpec("gardener", "go")]

def view():
    sent = dispatcher.dispatch_workflow_sync(transport, itinerary=steps)
    handle = dispatcher.handle(sent, transport)
    handle.status_sync()
    return handle.result_sync(30).output

async def asynchronous():
    sent = await dispatcher.dispatch_workflow(transport, itinerary=steps)
    handle = dispatcher.handle(sent, transport)
    await handle.status()
    seen = [event.type async for event in handle.events()]
    return [(await handle.result(30)).output, "completed" in seen]

views = [gevent.spawn(view) for _ in range(20)]
views.append(gevent.spawn(lambda: asyncio.run(asynchronous())))
longest, last = 0.0, time.monotonic()
while not all(each.dead for each in views):
    gevent.sleep(0.01)
    longest, last = max(longest, time.monotonic() - last), time.monotonic()
print(json.dumps({"outputs": [each.value for each in views], "longest": longest}))
"""


@pytest.mark.proof
def test_a_web_process_under_gevent_dispatches_and_reads(made: Deployment, worker: Process) -> None:
    """A request that waits holds up no other one."""
    folder = made.configured("web")
    (folder / "celeryconfig.py").write_text(
        (folder / "celeryconfig.py").read_text().replace("'paigeant_celery.tasks', 'greenhouse'", "")
    )

    seen = json.loads(run_script(WEB, cwd=folder, cold=True, within=60.0).splitlines()[-1])

    assert seen["outputs"] == [*["dug watered"] * 20, ["dug watered", True]]
    assert seen["longest"] < 2.0


@pytest.mark.proof
def test_a_thousand_hops_end_at_once(redis_url: str, tmp_path: Path) -> None:
    """Kombu has ten connections for what is acknowledged, and a process may have a thousand descriptors."""
    with deployment(redis_url, tmp_path, imports=("paigeant_celery.tasks", "greenhouse")) as made:
        greenhouse, gate = Greenhouse(made), tmp_path / "gate"
        worker = greenhouse.ready_worker(slots=1000)
        handles = [greenhouse.begin(step("attend", gate=str(gate))) for _ in range(1000)]
        eventually(lambda: len(made.runs()) == 1000, within=300.0)

        gate.touch()

        assert {handle.result_sync(300.0).output for handle in handles} == {"opened"}
        assert len(list(Path(f"/proc/{worker.pid}/fd").iterdir())) < 300
        assert "Couldn't ack" not in worker.log()
        assert sorted(made.runs()) == sorted(f"{handle.correlation_id}.0" for handle in handles)


@pytest.mark.proof
@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_what_a_killed_worker_ran_is_begun_again_within_seconds(redis_url: str, tmp_path: Path, pool: str) -> None:
    """Its hops are known to be nobody's at the next sweep, however many they are."""
    with deployment(redis_url, tmp_path, imports=("paigeant_celery.tasks", "greenhouse")) as made:
        greenhouse, gate = Greenhouse(made), tmp_path / "gate"
        first = greenhouse.ready_worker("first", pool=pool)
        handles = [greenhouse.begin(step("attend", gate=str(gate))) for _ in range(100)]
        eventually(lambda: len(made.runs()) == 100, within=60.0)
        greenhouse.ready_worker("second", pool=pool)

        first.kill()
        killed = time.monotonic()
        eventually(lambda: len(made.runs()) == 200, within=60.0)
        assert time.monotonic() - killed < made.settings.get("paigeant_lease", 10.0)

        gate.touch()
        assert {handle.result_sync(60.0).output for handle in handles} == {"opened"}
        assert len(made.runs()) == 200


@pytest.mark.proof
def test_steps_without_a_store_run(redis_url: str, tmp_path: Path) -> None:
    """They travel in their messages alone."""
    with deployment(redis_url, tmp_path, store=None, imports=("paigeant_celery.tasks", "greenhouse")) as made:
        greenhouse = Greenhouse(made)
        greenhouse.ready_worker()

        sent = [
            greenhouse.begin(
                ActivitySpec("gardener", "go"), step("reckon", seconds=0.05, gate=__file__), step("doze", seconds=0.01)
            )
            for _ in range(30)
        ]

        hops = {f"{handle.correlation_id}.{place}" for handle in sent for place in range(3)}
        eventually(lambda: all(any(hop in run for run in made.runs()) for hop in hops), within=60.0)
        assert sum(made.runs_file.read_text().count(hop) for hop in hops) == 90
