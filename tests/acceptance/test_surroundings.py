"""What surrounds a step in a real worker: its streams, its host's context, its host's connections."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, get_transport
from tests.support.processes import (
    HOSTS,
    PROGRAMS,
    START_WITHIN,
    Deployment,
    Process,
    deployment,
    eventually,
    run_script,
)

WITHIN = 30.0
DJANGO_PATH = os.pathsep.join(map(str, (PROGRAMS, HOSTS / "django_project")))

POOLS = ["threads", *(pytest.param(pool, marks=pytest.mark.proof) for pool in ("prefork", "solo"))]
TOOLS = '{"sync_tool":"de","async_tool":"de"}'
KINDS: list[tuple[ActivitySpec | FunctionSpec, str]] = [
    (FunctionSpec("ask_sync"), "de"),
    (FunctionSpec("ask_async"), "de"),
    (FunctionSpec("ask_in_threads"), "de"),
    (FunctionSpec("ask_in_own_loop"), "de"),
    (FunctionSpec("ask_in_transaction", {"seconds": 0.3}), "de"),
    (FunctionSpec("ask_helper"), TOOLS),
    (ActivitySpec("librarian", "ask"), TOOLS),
]


def run(where: Deployment, *steps: ActivitySpec | FunctionSpec) -> dict[str, object]:
    """Run a workflow and return the outputs of its steps."""
    transport, dispatcher = where.transport(), WorkflowDispatcher()
    handle = dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)
    return dict(handle.result_sync(WITHIN).outputs)


@pytest.fixture
def deployed(redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    with deployment(redis_url, tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    "pool", ["prefork", pytest.param("threads", marks=pytest.mark.proof), pytest.param("solo", marks=pytest.mark.proof)]
)
def test_steps_start_processes_under_the_default_settings(deployed: Deployment, pool: str) -> None:
    """Celery puts an object that has no descriptor in the place of the standard streams. MCP servers need one."""
    worker = deployed.ready_worker("bookkeeper", pool=pool)

    outputs = run(deployed, FunctionSpec("post"), FunctionSpec("post_later"), ActivitySpec("bookkeeper", "2 and 3"))

    assert outputs == {"post": 0, "post_later": 0, "bookkeeper": "the sum is 5"}
    log = worker.log()
    for line in ("out of the process", "errors of the process", "out of the async process", "bytes of the step"):
        assert f"\n{line}\n" in log
    assert "WARNING" in next(line for line in log.splitlines() if line.endswith("a line of the step"))
    assert "the abacus adds\n" in log


class Library:
    """A Django project with a worker and a database that can be restarted."""

    def __init__(self, where: Deployment) -> None:
        self._where, self.folder = where, where.folder
        self.app = Celery("library", broker=where.url, set_as_current=False)
        self.app.conf.update(paigeant_store_url="broker", task_ignore_result=True)
        self._transport = get_transport(app=self.app)

    def start_worker(self, pool: str) -> Process:
        """Start its worker and wait until it takes messages."""
        worker = self._where.run(
            "-A", "mysite", "worker", "-l", "INFO", "-P", pool, "-c", "4", "--without-mingle", "--without-gossip",
            name="library", SHOP_WITH="imports", SHOP_STORE="broker", SHOP_BROKER=self._where.url,
            PYTHONPATH=DJANGO_PATH, LIBRARY=str(self.folder), DJANGO_SETTINGS_MODULE="mysite.library_settings",
        )  # fmt: skip
        worker.wait_for_log(" ready.", within=START_WITHIN)
        return worker

    def ask_in_each_way(self) -> list[object]:
        """Run a step of each kind side by side, as workflows of their own; return their outputs."""
        dispatcher = WorkflowDispatcher()
        sent = [
            dispatcher.dispatch_workflow_sync(self._transport, itinerary=[step], variables={"language": "de"})
            for step, _ in KINDS
        ]
        return [dispatcher.handle(one, self._transport).result_sync(WITHIN).output for one in sent]

    def restart_database(self) -> None:
        """Kill all of its connections."""
        (self.folder / "epoch").write_text("second")

    def connections(self) -> int:
        """Return how many connections are open."""
        return len(list((self.folder / "open").iterdir()))


@pytest.mark.parametrize("pool", POOLS)
def test_steps_leave_no_connection_of_django_open_and_outlive_its_database(deployed: Deployment, pool: str) -> None:
    """Celery closes connections around tasks in the task's thread, in which no code of a step runs."""
    library = Library(deployed)
    worker = library.start_worker(pool)
    expected = [output for _, output in KINDS]

    assert library.ask_in_each_way() == expected
    eventually(lambda: library.connections() == 0, what="connections are open")

    library.restart_database()

    assert library.ask_in_each_way() == expected
    eventually(lambda: library.connections() == 0, what="connections are open")
    assert "could not be closed" not in worker.log()


DJANGO_INSIDE = """
import asyncio, sys, threading, time
import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    CACHES={"default": {"BACKEND": "__main__.Cache"}},
)
import django.core.cache.backends.locmem

closed = []

class Cache(django.core.cache.backends.locmem.LocMemCache):
    def close(self):
        closed.append(threading.current_thread().name.split("_")[0].split("-")[-1])

django.setup()
from asgiref.sync import sync_to_async
from django.core.cache import cache
from django.db import connection
from paigeant_celery import ActivityExecutor, FunctionSpec, StepPolicy, WorkflowDispatcher, activity, get_transport

background = []

def ask():
    cache.get("x")
    with connection.cursor() as cursor:
        return cursor.execute("SELECT 1").fetchone()[0]

@activity
def own_thread() -> int:
    return ask()

@activity
async def thread_of_asgiref() -> int:
    return await sync_to_async(ask)()

@activity
async def thread_of_the_loop() -> int:
    return await asyncio.to_thread(ask)

@activity(policy=StepPolicy(timeout=0.2, max_attempts=1))
async def hangs() -> None:
    await sync_to_async(time.sleep)(60)

@activity
async def runs_a_loop_inside() -> int:
    return await sync_to_async(lambda: asyncio.run(sync_to_async(ask)()))()

@activity
async def leaves_a_task() -> int:
    async def task():
        await ended.wait()
        return await sync_to_async(ask)()
    ended = asyncio.Event()
    background.append((asyncio.get_running_loop(), ended, asyncio.create_task(task())))
    return 1

async def main():
    transport, dispatcher = get_transport("inmemory"), WorkflowDispatcher()
    names = sys.argv[2:]
    executors = [asyncio.create_task(ActivityExecutor(transport, name).start()) for name in names]
    for name in names:
        step = await dispatcher.dispatch_workflow(transport, itinerary=[FunctionSpec(name)])
        try:
            output = (await dispatcher.handle(step, transport).result(20)).output
        except Exception as error:
            output = type(error).__name__
        print(name, output, *closed)
        closed.clear()
    loop, ended, task = background[0]
    loop.call_soon_threadsafe(ended.set)
    async def outcome():
        return await task
    print("task", asyncio.run_coroutine_threadsafe(outcome(), loop).result(20))
    for executor in executors:
        executor.cancel()
    await asyncio.gather(*executors, return_exceptions=True)

asyncio.run(main())
"""


def test_an_executor_in_a_django_process_surrounds_steps_too(tmp_path: Path) -> None:
    """Celery's fixup does nothing in one. A call that hangs holds up neither its step nor the process."""
    names = ("own_thread", "thread_of_asgiref", "thread_of_the_loop", "hangs", "runs_a_loop_inside", "leaves_a_task")

    printed = run_script(DJANGO_INSIDE, str(tmp_path / "db"), *names)

    assert printed.splitlines() == [
        "own_thread 1 function",
        "thread_of_asgiref 1 django",
        "thread_of_the_loop 1 asyncio",
        "hangs WorkflowParked",
        "runs_a_loop_inside 1",
        "leaves_a_task 1",
        "task 1",
    ]
