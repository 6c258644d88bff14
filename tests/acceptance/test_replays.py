"""A hop of a killed worker is dumped, and replayed in a process that reaches no server."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from paigeant_celery import ActivitySpec, WorkflowDispatcher
from tests.support.processes import START_WITHIN, Deployment, deployment, eventually, script_environment
from tests.support.starting import run

WITHIN = 60.0  # seconds
NOWHERE = "redis://127.0.0.1:1/0"


def dump(made: Deployment, *arguments: str) -> str:
    """What `celery paigeant replay dump` prints."""
    command = [sys.executable, "-m", "celery", "-A", "paigeant_celery", "paigeant", "replay", "dump", *arguments]
    environment = {**made.environment(), "RUNS_FILE": "/dev/null"}
    done = run(command, cwd=made.configured("shell", early=["dumped"]), environment=environment, within=WITHIN)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def replayed(script: Path, **environment: str) -> tuple[int, list[str]]:
    """Run a script where there is no server, and return its exit code and what it printed."""
    away = {**script_environment(), "PAIGEANT_REDIS_URL": NOWHERE, "RUNS_FILE": str(script.with_suffix(".runs"))}
    done = run(
        [sys.executable, "-W", "error", str(script)],
        cwd=script.parent, environment={**away, **environment}, within=WITHIN, cold=True,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    assert not script.with_suffix(".runs").exists(), "a call was made"
    return done.returncode, done.stdout.splitlines()


def test_the_hop_of_a_killed_worker_is_replayed_without_a_server(redis_url: str, tmp_path: Path) -> None:
    """What happened up to the kill is looked at where the code is, and again after the workflow has ended."""
    gate, scripts = tmp_path / "gate", tmp_path / "scripts"
    scripts.mkdir()
    with deployment(redis_url, tmp_path / "made", paigeant_lease=1.0) as made:
        made.variables["GATE"] = str(gate)
        worker = made.ready_worker("dumped", slots=1, name="first")
        dispatcher, transport = WorkflowDispatcher(), made.transport()
        sent = dispatcher.dispatch_workflow_sync(transport, itinerary=[ActivitySpec("buyer", "Buy a plum.")])
        handle = dispatcher.handle(sent, transport)
        eventually(lambda: "order" in made.runs(), within=WITHIN)
        worker.kill()

        killed, told = scripts / "killed.py", dump(made, sent, "-o", str(scripts / "killed.py"))
        assert f"run `python {killed}`" in told
        assert stat.S_IMODE(killed.stat().st_mode) == 0o600
        gate.touch()
        made.start_worker("dumped", slots=1, name="second").wait_for_log(" ready.", within=START_WITHIN)
        assert handle.result_sync(WITHIN).output == "ordered, politely"
        ended = scripts / "ended.py"
        ended.write_text(dump(made, sent, "buyer"))
        document = json.loads(dump(made, sent, "--json"))

    code, lines = replayed(killed)
    assert (code, lines[0]) == (1, f"step buyer of hop {sent}.0: 3 recorded calls answered, none made")
    assert lines[1].startswith(
        "  failed: step 'buyer': the tool call 'order' in step 2 of run 'buyer:0' is not on record"
    )
    assert replayed(ended) == (
        0, [f"step buyer of hop {sent}.0: 5 recorded calls answered, none made", '  output: "ordered, politely"'],
    )  # fmt: skip
    code, lines = replayed(ended, BROKEN="yes")
    assert (code, lines[1]) == (1, "  failed: ZeroDivisionError: a bug of ours")
    assert "dumped.py" in "".join(lines)
    assert (document["modules"], document["dump"]["path"]) == (["dumped"], "buyer")


@pytest.mark.parametrize("arguments", [("nobody",), ("nobody", "--json")])
def test_the_dump_of_an_unknown_workflow_ends_as_every_command_does(
    redis_url: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """A script that calls it sees the code of what is not known."""
    with deployment(redis_url, tmp_path / "made") as made:
        command = [sys.executable, "-m", "celery", "-A", "paigeant_celery", "paigeant", "replay", "dump", *arguments]
        done = run(command, cwd=made.configured("shell"), environment=made.environment(), within=WITHIN)

    assert done.returncode == 3
    assert "knows no workflow 'nobody'" in done.stdout + done.stderr
