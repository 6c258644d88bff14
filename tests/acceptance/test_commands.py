"""The command line as an operator uses it: in processes of its own, about real workers and a real server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, WorkflowHandle
from tests.support.command_page import documented, same_shape
from tests.support.processes import Deployment, Process, deployment, eventually
from tests.support.servers import RedisServer
from tests.support.starting import run

WITHIN = 60.0  # seconds
NO_ONE = "redis://127.0.0.1:1/0"

pytestmark = pytest.mark.together("made")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server that a test may stop for a while."""
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def made(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker with an agent that tells a story, and functions."""
    folder = tmp_path_factory.mktemp("commands")
    with deployment(server.url, folder) as made:
        (folder / "releases").mkdir()
        made.variables["RELEASES"] = str(folder / "releases")
        made.ready_worker("teller", pool="prefork", slots=3)
        yield made


def dispatched(made: Deployment, correlation_id: str, *steps: Any, **options: Any) -> WorkflowHandle:
    """Start a workflow under an id."""
    dispatcher, transport = WorkflowDispatcher(), made.transport()
    dispatcher.dispatch_workflow_sync(transport, itinerary=steps, correlation_id=correlation_id, **options)
    return dispatcher.handle(correlation_id, transport)


def release(made: Deployment, correlation_id: str) -> None:
    """Let the steps of a workflow go on that hold their breath."""
    (made.folder / "releases" / correlation_id).touch()


def called(made: Deployment, *arguments: str, app: str = "paigeant_celery", **settings: str) -> tuple[int, Any, str]:
    """Call a command with `--json`; return its exit code, its document and what it wrote to the standard error."""
    done = run(
        [sys.executable, "-m", "celery", "-A", app, "paigeant", *arguments, "--json"],
        cwd=made.configured("called"), environment={**made.environment(), **settings}, within=WITHIN,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout), done.stderr


def watching(made: Deployment, *arguments: str) -> Process:
    """Begin to watch."""
    return made.run(
        "-A", "paigeant_celery", "paigeant", "watch", *arguments, folder=made.configured("watching"), name="watch"
    )


def documents(process: Process) -> list[dict[str, Any]]:
    """Return the lines of JSON that a process has printed so far."""
    found = []
    for line in process.log().splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [each for each in found if isinstance(each, dict)]


def test_watch_shows_what_an_agent_writes_while_it_does_and_ends_with_the_workflow(made: Deployment) -> None:
    """Whoever waits sees that something happens, and the command that comes after it in a script knows how it ended."""
    dispatched(made, "told", ActivitySpec("teller", "Tell."), stream=True)
    seen = watching(made, "told")

    seen.wait_for_log("teller writes:\n  Once upon", within=WITHIN)
    assert seen.running
    assert "a time" not in seen.log()
    release(made, "told")

    assert seen.ended(within=WITHIN) == 0
    assert "teller writes:\n  Once upon a time,\n  in a \\x1b[2Kland\n" in seen.log()
    assert seen.log().endswith("\nworkflow told: completed\n")


def test_watch_goes_on_after_the_store_was_away_and_repeats_and_misses_nothing(
    made: Deployment, server: RedisServer
) -> None:
    """A lost connection is no reason to begin again, nor to take half of a story for the whole."""
    handle = dispatched(made, "outage", ActivitySpec("teller", "Tell."), stream=True)
    seen = watching(made, "outage", "--json")
    eventually(lambda: "Once upon" in seen.log(), within=WITHIN, what="the agent did not begin")
    assert server.pid is not None

    os.kill(server.pid, signal.SIGSTOP)
    try:
        seen.wait_for_log("trying again for 60 s", within=WITHIN)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    release(made, "outage")

    assert seen.ended(within=WITHIN) == 0
    *events, ended = documents(seen)
    assert [event["cursor"] for event in events] == [event.cursor for event in handle.events_so_far()]
    assert ended == {"correlation_id": "outage", "state": "completed", "failure": None}


def test_watch_goes_on_after_any_event(made: Deployment) -> None:
    """Whoever was interrupted passes the last cursor, and gets the rest."""
    dispatched(made, "resumed", ActivitySpec("teller", "Tell."), stream=True)
    release(made, "resumed")
    first = watching(made, "resumed", "--json")
    assert first.ended(within=WITHIN) == 0
    whole = documents(first)

    rest = watching(made, "resumed", "--json", "--after", whole[2]["cursor"])
    without = watching(made, "resumed", "--json", "--no-agents")

    assert (rest.ended(within=WITHIN), documents(rest)) == (0, whole[3:])
    assert without.ended(within=WITHIN) == 0
    assert documents(without) == [each for each in whole if each.get("type") != "agent"]


@pytest.mark.parametrize(("option", "exit_code"), [((), 130), (("--timeout", "0.2"), 4)])
def test_watch_ends_when_it_is_told_to_and_the_workflow_goes_on(
    made: Deployment, option: tuple[str, ...], exit_code: int
) -> None:
    """Neither Ctrl-C nor a time that is over cancels anything, or looks like the end of the workflow."""
    id_ = f"left-{exit_code}"
    handle = dispatched(made, id_, FunctionSpec("hold"))

    seen = watching(made, id_, "--json", *option)
    if not option:
        seen.wait_for_log('"claimed"', within=WITHIN)
        os.killpg(seen.pid, signal.SIGINT)

    assert seen.ended(within=WITHIN) == exit_code
    assert handle.status_sync().in_progress
    release(made, id_)
    assert handle.result_sync(WITHIN).output == "held"


def test_watch_of_a_workflow_that_is_parked_ends_and_fails(made: Deployment) -> None:
    """Nothing more happens until somebody does something."""
    dispatched(made, "parked", FunctionSpec("stumble"))

    seen = watching(made, "parked", "--json")

    assert seen.ended(within=WITHIN) == 1
    ended = documents(seen)[-1]
    assert (ended["state"], ended["failure"]["error_class"]) == ("parked", "ValueError")


def test_show_says_which_worker_runs_a_step_and_since_when(made: Deployment) -> None:
    """Whoever wants to look at that process need not search for it."""
    handle = dispatched(made, "running", FunctionSpec("hold"))
    eventually(lambda: handle.status_sync().running, within=WITHIN, what="the step did not begin")

    code, shown, _ = called(made, "show", "running", "--no-events")

    (runner,) = shown["running_on"].values()
    assert (code, list(shown["running_on"]), shown["steps"][0]["state"]) == (0, ["running.0"], "running")
    assert runner["worker"].startswith(f"worker-{made.prefix}@")
    assert Path(f"/proc/{runner['pid']}").exists() or not Path("/proc").exists()
    assert datetime.fromisoformat(runner["since"]) >= datetime.fromisoformat(shown["created_at"]) - timedelta(minutes=1)
    told = made.run(
        *("-A", "paigeant_celery", "paigeant", "show", "running", "--no-events"),
        folder=made.configured("told"), name="show",
    )  # fmt: skip
    assert told.ended(within=WITHIN) == 0
    assert f"    hold: running, on {runner['worker']} (pid {runner['pid']}) since " in told.log()
    release(made, "running")


def test_a_result_is_printed_or_the_reason_why_there_is_none(made: Deployment) -> None:
    """A script that starts a workflow needs its output, and must not take a failure for one."""
    dispatched(made, "result", FunctionSpec("hold"), FunctionSpec("hold"))
    dispatched(made, "no-result", FunctionSpec("stumble"))

    early = called(made, "result", "result")
    release(made, "result")
    late = called(made, "result", "result", "--timeout", str(WITHIN))
    of_step = called(made, "result", "result", "--step", "hold")
    of_none = called(made, "result", "result", "--step", "nothing")
    parked = called(made, "result", "no-result", "--timeout", str(WITHIN))
    unknown = called(made, "result", "nobody")

    assert [each[0] for each in (early, late, of_step, of_none, parked, unknown)] == [4, 0, 0, 3, 1, 3]
    assert late[1] == {
        "correlation_id": "result", "state": "completed", "output": "held",
        "outputs": {"hold": "held", "hold-2": "held"}, "usage": late[1]["usage"], "cost": None,
    }  # fmt: skip
    assert of_step[1]["output"] == "held"
    codes = [each[1]["error"]["code"] for each in (early, of_none, parked, unknown)]
    assert codes == ["timeout", "unknown_path", "workflow_parked", "unknown_workflow"]
    assert (parked[1]["state"], parked[1]["failure"]["error_class"]) == ("parked", "ValueError")
    assert "`celery … paigeant retry no-result`" in parked[1]["error"]["text"]


def test_agents_lists_the_live_workers_and_what_nobody_serves(made: Deployment) -> None:
    """Who serves what, with how many slots and in which version, without a shell on each machine."""
    code, told, _ = called(made, "agents", "--timeout", "3", "-I", "teller")

    (worker,) = told["workers"]
    assert (code, told["unserved"]) == (0, [])
    assert worker["worker"].startswith(f"worker-{made.prefix}@")
    assert {each["name"]: each["queue"] for each in worker["serves"]} == {
        name: f"{made.prefix}.{name}" for name in ("_flow", "hold", "stumble", "teller")
    }
    assert (worker["pool"], worker["slots"], worker["mode"], worker["prefix"]) == (
        "prefork", 3, "durable", made.prefix,
    )  # fmt: skip
    assert {"python", "celery", "kombu", "redis"} <= worker["versions"].keys()
    (shown,) = documented("agents")
    assert same_shape(shown, told)
    assert worker["store"].startswith("redis://127.0.0.1:")


def test_agents_fails_if_no_worker_answers(made: Deployment, server: RedisServer, tmp_path: Path) -> None:
    """So a script can wait for one."""
    with deployment(server.url, tmp_path) as empty:
        code, told, _ = called(empty, "agents", "--timeout", "0.5")

    assert (code, told) == (1, {"workers": [], "unserved": []})


def test_check_finds_nothing_wrong_with_what_works(made: Deployment) -> None:
    """A deployment that runs gets no alarm, and the lines say what was looked at."""
    code, told, _ = called(made, "check", "--timeout", "3", "-I", "teller")

    assert (code, told["ok"]) == (0, True)
    assert {each["about"] for each in told["findings"] if each["level"] == "fine"} == {
        "settings", "mode", "broker", "store", "packages", "workers",
    }  # fmt: skip
    assert {each["about"] for each in told["findings"] if each["level"] == "warning"} <= {"store", "broker", "packages"}
    (shown,) = documented("check")
    assert same_shape(shown, told)


@pytest.mark.parametrize(
    ("settings", "about", "text"),
    [
        ({"paigeant_leese": 3}, "settings", "`paigeant_leese` is not a setting"),
        ({"task_always_eager": True}, "settings", "unset it"),
        ({"broker_url": NO_ONE, "paigeant_store_url": None}, "broker", "start or fix it"),
        ({"paigeant_store_url": NO_ONE}, "store", "start or fix it"),
        ({"broker_url": "memory://"}, "settings", "set `PAIGEANT_REDIS_URL` or `broker_url`"),
    ],
)
def test_check_finds_what_is_wrong_and_says_what_to_do(
    made: Deployment, tmp_path: Path, settings: dict[str, object], about: str, text: str
) -> None:
    """What would stop a worker is found before one is started, and a script notices."""
    wrong = Deployment(made.url, tmp_path, **settings)  # type: ignore[arg-type]
    wrong.settings["broker_url"] = settings.get("broker_url", made.url)
    wrong.variables.update(made.variables)

    code, told, _ = called(wrong, "check", "--timeout", "0.5", "-I", "teller")

    assert (code, told["ok"]) == (1, False)
    errors = [each["text"] for each in told["findings"] if (each["level"], each["about"]) == ("error", about)]
    assert any(text in each for each in errors), told["findings"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (("show", "nobody"), 3, "unknown_workflow"),
        (("watch", "nobody"), 3, "unknown_workflow"),
        (("cancel", "nobody"), 3, "unknown_workflow"),
        (("retry", "nobody"), 3, "unknown_workflow"),
        (("approve", "nobody.0~x"), 3, "unknown_wait"),
        (("letters", "show", "nobody"), 3, "unknown_letter"),
        (("show",), 2, "usage"),
        (("inbox", "--limit", "many"), 2, "usage"),
        (("inbox", "--after", "x"), 2, "bad_cursor"),
        (("activities", "-I", "no_such_module"), 2, "import_failed"),
    ],
)
def test_each_kind_of_refusal_has_its_exit_code(
    made: Deployment, arguments: tuple[str, ...], exit_code: int, code: str
) -> None:
    """A script branches on the number, and prints the text."""
    done, told, _ = called(made, *arguments)

    assert (done, told["error"]["exit_code"], told["error"]["code"]) == (exit_code, exit_code, code)


@pytest.mark.parametrize("arguments", [("show", "w"), ("inbox",), ("result", "w"), ("watch", "w", "--patience", "0")])
def test_a_store_that_is_away_has_its_own_exit_code(
    made: Deployment, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Trying again later makes sense, unlike for an unknown workflow."""
    away = Deployment(NO_ONE, tmp_path)

    code, told, _ = called(away, *arguments)

    assert (code, told["error"]["code"]) == (5, "unreachable")
