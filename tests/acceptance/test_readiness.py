"""`celery … paigeant ready` asks real workers: it says no when one no longer claims or sweeps, and why."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import yaml
from click.testing import CliRunner

from paigeant_celery import FunctionSpec, WorkflowDispatcher
from paigeant_celery.cli import paigeant
from tests.support.processes import Deployment, Process, deployment, eventually
from tests.support.servers import redis_server
from tests.support.starting import run

ROOT = Path(__file__).parents[2]
WITHIN = 60.0
PATIENCE = "10"  # seconds for an answer, on a busy machine
POOLS = ["prefork", "threads", "solo", "gevent"]

pytestmark = pytest.mark.acceptance


class Probe:
    """A worker, and what asks it as a probe does."""

    def __init__(self, made: Deployment, *more: str, pool: str = "prefork", slots: int = 2) -> None:
        self.made = made
        self.node = f"worker-{made.prefix}@{socket.gethostname()}"
        self.worker: Process = made.ready_worker("napping", *more, pool=pool, slots=slots)

    def ask(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Return the exit code and the document."""
        arguments = ["ready", "--json", "--silence", "3", "--timeout", PATIENCE, *(options or ("-d", self.node))]
        app = self.made.transport().app
        result = CliRunner().invoke(paigeant, arguments, obj=SimpleNamespace(app=app))
        return result.exit_code, json.loads(result.output)

    def codes(self) -> set[str]:
        """Return why it is not ready; empty if it is, or does not answer."""
        _, told = self.ask()
        return {finding["code"] for worker in told["workers"] for finding in worker["findings"]}

    def becomes_ready(self) -> None:
        """Wait until it is ready. On Redis a worker may say so before it hears what is broadcast."""
        eventually(lambda: self.ask()[0] == 0, within=WITHIN, what="the worker is not ready")

    def dispatch(self, activity: str, *arguments: str) -> str:
        itinerary = [FunctionSpec(activity, dict(zip(("path",), arguments, strict=False)))]
        return WorkflowDispatcher().dispatch_workflow_sync(self.made.transport(), itinerary=itinerary)

    def result(self, correlation_id: str) -> Any:
        return WorkflowDispatcher().handle(correlation_id, self.made.transport()).result_sync(WITHIN).output


@pytest.fixture
def started(redis_url: str, tmp_path: Path) -> Any:
    """Start workers with a probe."""
    made = []

    def start(**options: Any) -> Probe:
        context = deployment(redis_url, tmp_path / f"made-{len(made)}")
        made.append(context)
        return Probe(context.__enter__(), **options)

    yield start
    for context in made:
        context.__exit__(None, None, None)


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_runs_steps_is_ready_also_while_it_runs_one(
    started: Callable[..., Probe], tmp_path: Path, pool: str
) -> None:
    """A probe that failed while the only slot is busy would end workers for working."""
    probe, gate = started(pool=pool, slots=1), tmp_path / "gate"
    probe.becomes_ready()
    running = probe.dispatch("busy", str(gate))
    eventually(Path(f"{gate}.begun").exists, within=WITHIN)

    code, told = probe.ask()

    assert (code, told["ready"], told["unanswered"]) == (0, True, [])
    (worker,) = told["workers"]
    assert (worker["worker"], worker["findings"]) == (probe.node, [])
    assert {"busy", "blocking", "quick"} <= {*worker["serves"]}
    assert worker["pid"] == probe.worker.pid
    gate.touch()
    assert probe.result(running) == "done"


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_whose_event_loop_stands_still_is_not_ready_until_it_turns_again(
    started: Callable[..., Probe], tmp_path: Path, pool: str
) -> None:
    """All steps of the process stand still with it, and nothing else says so before their timeouts."""
    probe, gate = started(pool=pool), tmp_path / "gate"
    probe.becomes_ready()
    running = probe.dispatch("blocking", str(gate))
    eventually(Path(f"{gate}.begun").exists, within=WITHIN)

    eventually(lambda: probe.codes() == {"loop_silent"}, within=WITHIN, what="nobody noticed")
    assert probe.ask()[0] == 1
    assert probe.ask("-d", probe.node, "--silence", "600")[0] == 0, "a liveness probe has more patience"

    gate.touch()
    assert probe.result(running) == "done"
    probe.becomes_ready()


def test_a_child_that_is_stopped_is_seen_whether_or_not_it_has_run_a_step(started: Callable[..., Probe]) -> None:
    """Its messages are taken, and nobody works on them."""
    probe = started(slots=1)
    probe.becomes_ready()
    (child,) = probe.made.transport().app.control.inspect([probe.node]).stats()[probe.node]["pool"]["processes"]

    os.kill(child, signal.SIGSTOP)
    try:
        eventually(lambda: probe.codes() == {"process_stopped"}, within=WITHIN)
    finally:
        os.kill(child, signal.SIGCONT)
    probe.becomes_ready()

    ran_in = probe.result(probe.dispatch("quick"))
    os.kill(ran_in, signal.SIGSTOP)
    try:
        eventually(lambda: probe.codes() == {"process_stopped", "loop_silent", "lease_silent"}, within=WITHIN)
    finally:
        os.kill(ran_in, signal.SIGCONT)
    probe.becomes_ready()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_whose_store_is_away_is_not_ready_until_it_is_back(redis_url: str, tmp_path: Path, pool: str) -> None:
    """It takes messages, and can do nothing about them."""
    with redis_server() as store, deployment(redis_url, tmp_path, store=store.url) as made:
        probe = Probe(made, pool=pool)
        probe.becomes_ready()
        probe.result(probe.dispatch("quick"))

        store.stop()
        eventually(lambda: "sweep_silent" in probe.codes(), within=WITHIN)
        _, told = probe.ask()
        texts = [finding["text"] for finding in told["workers"][0]["findings"] if finding["code"] == "sweep_silent"]
        assert "cannot reach the store" in texts[0]

        store.start()
        probe.becomes_ready()


def test_a_worker_whose_children_cannot_claim_is_not_ready_until_they_can(redis_url: str, tmp_path: Path) -> None:
    """The main process sweeps well; each message that it hands over comes back to the queue."""
    with deployment(redis_url, tmp_path) as made:
        cut_off = tmp_path / "cut_off"
        made.variables["CUT_OFF"] = str(cut_off)
        probe = Probe(made, "cut_off", slots=1)
        probe.becomes_ready()
        cut_off.touch()
        waiting = probe.dispatch("quick")

        eventually(lambda: probe.codes() == {"claims_fail"}, within=WITHIN, what="nobody noticed")

        cut_off.unlink()
        probe.result(waiting)
        probe.becomes_ready()


def test_a_worker_tells_what_it_serves_after_its_queues_were_changed(started: Callable[..., Probe]) -> None:
    """An operator drains it, and then lets it go on."""
    probe = started()
    probe.becomes_ready()
    control = probe.made.transport().app.control

    def serves() -> set[str]:
        _, told = probe.ask()
        return {name for worker in told["workers"] for name in worker["serves"]}

    control.cancel_consumer(f"{probe.made.prefix}.quick", destination=[probe.node])
    eventually(lambda: "quick" not in serves() and "busy" in serves(), within=WITHIN)
    assert probe.ask()[0] == 0
    for name in serves():
        control.cancel_consumer(f"{probe.made.prefix}.{name}", destination=[probe.node])
    eventually(lambda: probe.codes() == {"reads_nothing"}, within=WITHIN)
    control.add_consumer(f"{probe.made.prefix}.quick", destination=[probe.node])

    probe.becomes_ready()
    assert "quick" in serves()
    probe.result(probe.dispatch("quick"))


def test_a_worker_that_an_update_has_overtaken_is_not_ready(started: Callable[..., Probe], redis_url: str) -> None:
    """A deploy that rolls back leaves workers that take no more steps."""
    probe = started()
    probe.becomes_ready()

    with redis.Redis.from_url(redis_url) as client:
        client.hset(f"{probe.made.prefix}:meta", "format", 10_000)

    eventually(lambda: "outdated" in probe.codes(), within=WITHIN)


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_that_ends_is_not_ready_and_later_does_not_answer(
    started: Callable[..., Probe], tmp_path: Path, pool: str
) -> None:
    """A service sends it nothing more, and does not take it for one that is hung."""
    probe, gate = started(pool=pool), tmp_path / "gate"
    probe.becomes_ready()
    probe.dispatch("busy", str(gate))
    eventually(Path(f"{gate}.begun").exists, within=WITHIN)

    os.kill(probe.worker.pid, signal.SIGTERM)
    eventually(lambda: probe.ask()[0] != 0, within=WITHIN)
    gate.touch()
    probe.worker.ended()

    code, told = probe.ask()
    assert (code, told["ready"], told["unanswered"]) == (4, False, [probe.node])


def test_the_program_asks_all_workers_and_says_what_it_found(started: Callable[..., Probe]) -> None:
    """This is what an operator types."""
    probe = started()
    probe.becomes_ready()
    folder = probe.made.configured("asking")
    command = [sys.executable, "-m", "celery", "-A", "paigeant_celery", "paigeant", "ready"]

    done = run(command, cwd=folder, environment=probe.made.environment(), within=WITHIN)

    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["worker", "ready", "serves"]
    assert lines[1][:2] == [probe.node, "yes"]


def test_no_worker_is_ended_because_its_store_is_away_and_one_that_hangs_is(tmp_path: Path) -> None:
    """An orchestrator that ends all workers during an outage of Redis makes all steps begin again after it."""
    page = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
    (block,) = (each for each in re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S) if "livenessProbe" in each)
    probes = {name: probe["exec"]["command"] for name, probe in yaml.safe_load(block).items()}
    with redis_server() as server, deployment(server.url, tmp_path) as made:
        probe = Probe(made)
        probe.becomes_ready()
        environment = {**made.environment(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        folder, own = made.configured("probing"), f"-A paigeant_celery paigeant ready -d {probe.node} --timeout 5"

        def asked(name: str) -> int:
            shell, option, line = probes[name]
            line = re.sub(r"-A shop paigeant ready -d worker@\$HOSTNAME( --timeout 5)?", own, line)
            assert own in line
            return run([shell, option, line], cwd=folder, environment=environment, within=WITHIN).returncode

        assert (asked("readinessProbe"), asked("livenessProbe")) == (0, 0)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            hanging = asked("readinessProbe"), asked("livenessProbe")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        server.stop()
        away = asked("readinessProbe"), asked("livenessProbe")
        server.start()
        probe.becomes_ready()
        os.kill(probe.worker.pid, signal.SIGSTOP)
        stopped = asked("readinessProbe"), asked("livenessProbe")

    assert (hanging, away) == ((5, 0), (5, 0))
    assert stopped == (4, 1)
