"""Options and commands that change a worker's pool while steps run: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, WorkflowHandle
from tests.support.processes import START_WITHIN, Deployment, Process, deployment, eventually

WITHIN = 60.0

pytestmark = pytest.mark.proof


@pytest.fixture
def made(redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    with deployment(redis_url, tmp_path, worker_pool_restarts=True) as made:
        made.variables["STUMBLES"] = str(tmp_path / "nothing stumbles")
        yield made


def ready_worker(made: Deployment, *options: str, pool: str = "prefork") -> Process:
    """Start a worker with these options and wait until it takes messages."""
    worker = made.run(
        "-A", "paigeant_celery", "worker", "-n", f"worker-{made.prefix}@%h", "-P", pool, "-l", "INFO",
        "--without-mingle", "--without-gossip", "-I", "toil", *options,
        folder=made.configured("worker"), name="worker", cold=pool == "gevent",
    )  # fmt: skip
    worker.wait_for_log(" ready.", within=START_WITHIN)
    return worker


def dispatch(made: Deployment, *, workflows: int) -> list[WorkflowHandle]:
    """Start workflows of an async function, an agent and a sync function."""
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    steps = [
        FunctionSpec("dig", {"seconds": 0.1}),
        ActivitySpec("plant", "0.1"),
        FunctionSpec("water", {"seconds": 0.1}),
    ]
    return [
        dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)
        for _ in range(workflows)
    ]


def notes(made: Deployment) -> list[dict[str, Any]]:
    """What the bodies of steps noted."""
    lines = made.runs_file.read_text().splitlines() if made.runs_file.exists() else []
    return [json.loads(line) for line in lines]


def expect_whole(made: Deployment, handles: list[WorkflowHandle]) -> set[int]:
    """Each workflow completes with each step run once; return the processes that ran them."""
    assert {handle.result_sync(WITHIN).output for handle in handles} == {"watered"}
    begun = [note for note in notes(made) if note["what"] == "begin"]
    hops = {f"{handle.correlation_id}.{place}" for handle in handles for place in range(3)}
    assert Counter(note["hop"] for note in begun) == Counter(hops)
    completed = [event.hop_id for handle in handles for event in handle.events_so_far() if event.type == "completed"]
    assert Counter(completed) == Counter(hops)
    return {note["pid"] for note in begun}


@pytest.mark.parametrize("options", [("--max-tasks-per-child", "2"), ("--max-memory-per-child", "1000")])
def test_a_process_that_is_replaced_takes_no_step_with_it(made: Deployment, options: tuple[str, ...]) -> None:
    """Memory that a library leaks is freed, in the middle of the deliveries."""
    ready_worker(made, "-c", "2", *options)

    pids = expect_whole(made, dispatch(made, workflows=8))

    assert len(pids) >= 4


def test_a_pool_follows_its_load(made: Deployment) -> None:
    """More processes when messages wait, fewer when they do not."""
    worker = ready_worker(made, "--autoscale", "4,1")

    pids = expect_whole(made, dispatch(made, workflows=12))

    assert len(pids) > 1
    assert "Scaling up" in worker.log()


GROW: Callable[[Celery], object] = lambda app: app.control.pool_grow(2)  # noqa: E731
SHRINK: Callable[[Celery], object] = lambda app: app.control.pool_shrink(2)  # noqa: E731
RESTART: Callable[[Celery], object] = lambda app: app.control.pool_restart(reload=False)  # noqa: E731


@pytest.mark.parametrize(
    ("pool", "command"),
    [
        pytest.param("prefork", GROW, id="prefork grows"),
        pytest.param("prefork", SHRINK, id="prefork shrinks"),
        pytest.param("prefork", RESTART, id="prefork restarts"),
        pytest.param("gevent", GROW, id="gevent grows"),
        pytest.param("gevent", SHRINK, id="gevent shrinks"),
    ],
)
def test_a_pool_that_is_changed_from_afar_loses_nothing(
    made: Deployment, pool: str, command: Callable[[Celery], object]
) -> None:
    """An operator makes room in the middle of the day."""
    ready_worker(made, "-c", "3", pool=pool)
    handles = dispatch(made, workflows=12)
    eventually(lambda: len(notes(made)) > 6, within=WITHIN)

    with Celery("remote", broker=made.url, set_as_current=False) as app:
        command(app)

    expect_whole(made, handles)
    expect_whole_after(made, handles)


def expect_whole_after(made: Deployment, earlier: list[WorkflowHandle]) -> None:
    """What is dispatched later is served as well."""
    later = dispatch(made, workflows=3)
    assert {handle.result_sync(WITHIN).output for handle in later} == {"watered"}
    assert len(notes(made)) == 2 * 3 * (len(earlier) + len(later))


def test_workers_that_are_started_together_and_detached_serve(made: Deployment) -> None:
    """`celery multi` starts them without a terminal, and stops them."""
    folder = made.configured("multi")
    common = ("--app=paigeant_celery", "--concurrency=1", "--loglevel=INFO", "--include=toil")
    files = (f"--pidfile={folder}/%n.pid", f"--logfile={folder}/%n%I.log")

    def multi(verb: str) -> None:
        name = made.prefix
        process = made.run(
            "multi", verb, f"{name}-one", f"{name}-two", *common, *files, folder=folder, name=verb, cold=True
        )
        assert process.ended(within=WITHIN) == 0, process.log()

    multi("start")
    try:
        eventually(lambda: len(list(folder.glob("*.pid"))) == 2, within=START_WITHIN)
        expect_whole(made, dispatch(made, workflows=6))
    finally:
        multi("stopwait")

    assert list(folder.glob("*.pid")) == []
