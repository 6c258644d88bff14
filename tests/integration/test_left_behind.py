"""A process that ends while workflows in its memory go on: it says so, because nobody else will ever run them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.processes import script_environment
from tests.support.starting import run

WITHIN = 40.0

BEGINNING = """
import asyncio, os, sys
from celery import Celery
from paigeant_celery import (
    ActivityExecutor, FunctionSpec, StepPolicy, WorkflowDispatcher, WorkflowParked, activity, get_transport
)

@activity
def dig() -> str:
    return "a hole"

@activity
def fall() -> str:
    raise ValueError("fell")

dispatcher, transport = WorkflowDispatcher(), get_transport()

def dispatch(correlation_id, *names, to=None):
    steps = [FunctionSpec(name, policy=StepPolicy(max_attempts=1)) for name in names]
    return dispatcher.dispatch_workflow_sync(to or transport, itinerary=steps, correlation_id=correlation_id)

async def served(correlation_id, *names, within=20):
    executors = [asyncio.create_task(ActivityExecutor(transport, name).start()) for name in ("dig", "fall")]
    try:
        return await dispatcher.handle(dispatch(correlation_id, *names), transport).result(within)
    finally:
        for executor in executors:
            executor.cancel()
        await asyncio.gather(*executors, return_exceptions=True)

"""
REMEDY = (
    ". Set `PAIGEANT_REDIS_URL` (or `PAIGEANT_TRANSPORT`), so that workers run what is dispatched, or run an "
    "`ActivityExecutor` in this process until its workflows have ended."
)
ONE = "paigeant_celery: 1 workflow in the memory of this process has not ended and is lost with it: "


def said_by(ending: str, folder: Path) -> list[str]:
    done = run([sys.executable, "-c", BEGINNING + ending], cwd=folder, environment=script_environment(), within=WITHIN)
    return [line for line in done.stderr.splitlines() if line.startswith("paigeant_celery:")]


@pytest.mark.parametrize(
    ("ending", "named"),
    [
        ("dispatch('w', 'dig')", ["w"]),
        ("dispatch('w', 'dig'); raise ValueError('a mistake of the script')", ["w"]),
        ("dispatch('w', 'dig'); sys.exit(3)", ["w"]),
        (
            "asyncio.run(dispatcher.dispatch_workflow(transport, itinerary=[FunctionSpec('dig')], correlation_id='w'))",
            ["w"],
        ),
        ("try: asyncio.run(served('w', 'dig', 'plant', within=0.5))\nexcept TimeoutError: pass", ["w"]),
        (
            "host = Celery('host', broker='memory://'); get_transport(app=host)\n"
            "dispatch('w', 'dig', to=get_transport(app=host))",
            ["w"],
        ),
        ("dispatch('p', 'dig'); child = os.fork(); dispatch('w', 'dig') if not child else os.wait()", ["w", "p"]),
        (
            "def run():\n    host = Celery('host', broker='memory://', set_as_current=False)\n"
            "    host.conf.paigeant_store_url = 'memory://'\n"
            "    dispatch('w', 'dig', to=get_transport(app=host))\n"
            "run(); import gc; gc.collect()",
            ["w"],
        ),
        (
            "import multiprocessing\n"
            "child = multiprocessing.get_context('fork').Process(target=dispatch, args=('w', 'dig'))\n"
            "child.start(); child.join()",
            ["w"],
        ),
        (
            "from celery.signals import worker_process_shutdown\ndispatch('w', 'dig')\n"
            "worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0); os._exit(0)",
            ["w"],
        ),
    ],
    ids=[
        "end",
        "error",
        "exit",
        "loop",
        "half",
        "message only",
        "forked",
        "owner gone",
        "multiprocessing",
        "prefork",
    ],
)
def test_a_process_names_the_workflows_that_are_lost_with_it(ending: str, named: list[str], tmp_path: Path) -> None:
    """Someone ran it in a shell without the variable, and the ids that it printed are those of nothing."""
    assert said_by(ending, tmp_path) == [f"{ONE}{workflow}{REMEDY}" for workflow in named]


@pytest.mark.parametrize("runner", ["pytest", "django.test.runner"])
def test_tests_say_nothing_of_the_workflows_that_they_leave(runner: str, tmp_path: Path) -> None:
    """They often dispatch only to see what was dispatched."""
    assert said_by(f"import {runner}; dispatch('w', 'dig')", tmp_path) == []


def test_a_process_whose_workflows_have_ended_says_nothing(tmp_path: Path) -> None:
    """Neither does one whose workflow is parked: whoever waited for it was told why."""
    ending = """
assert asyncio.run(served("w", "dig")).output == "a hole"
try:
    asyncio.run(served("p", "fall"))
except WorkflowParked:
    print("parked")
elsewhere = get_transport(app=Celery("host", broker="redis://127.0.0.1:1/0"))
"""
    assert said_by(ending, tmp_path) == []
