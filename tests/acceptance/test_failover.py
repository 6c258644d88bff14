"""A primary that dies under load: Sentinel names another one, and workers, broker and store go on there."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from paigeant_celery import FunctionSpec, WorkflowDispatcher, WorkflowHandle
from paigeant_celery.core.errors import NotPublished, NotRecorded, Unreachable
from tests.support.processes import Deployment, deployment, eventually
from tests.support.sentinels import MASTER, SentinelGroup

T = TypeVar("T")

pytestmark = [pytest.mark.proof, pytest.mark.together]

WORKFLOWS = 60
STEPS = 3
STEP_TAKES = 0.15  # seconds
WITHIN = 60.0  # seconds within which everything must have ended; takes about fifteen


@pytest.fixture
def group(own_sentinels: Callable[..., SentinelGroup]) -> SentinelGroup:
    return own_sentinels("--appendonly", "yes", "--maxmemory-policy", "noeviction")


@pytest.fixture
def made(group: SentinelGroup, tmp_path: Path) -> Iterator[Deployment]:
    options = {"master_name": MASTER, "socket_timeout": 5.0}
    with deployment(group.url, tmp_path / "made", broker_transport_options=options) as made:
        made.variables["STUMBLES"] = str(tmp_path)  # where no step is told to fail
        yield made


def dispatch(made: Deployment, *names: str) -> list[WorkflowHandle]:
    """Start workflows of these ids. A dispatch that finds no primary is repeated, as its error says."""
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    steps = [FunctionSpec("dig", {"seconds": STEP_TAKES}, step_id=f"s{place}") for place in range(STEPS)]

    def once(name: str) -> bool:
        try:
            dispatcher.dispatch_workflow_sync(transport, itinerary=steps, correlation_id=name)
        except (NotRecorded, NotPublished):
            return False
        return True

    for name in names:
        eventually(lambda name=name: once(name), within=WITHIN, what=f"{name} was not dispatched")
    return [dispatcher.handle(name, transport) for name in names]


def begun(made: Deployment) -> Counter[str]:
    """How often the body of each hop has begun, in a file that no server can lose."""
    lines = made.runs_file.read_text().splitlines() if made.runs_file.exists() else []
    return Counter(line["hop"] for line in map(json.loads, lines) if line["what"] == "begin")


def patiently(ask: Callable[[], T]) -> T:
    """Ask until the store answers; it is away for a moment, and slow on a machine that does much else."""
    deadline = time.monotonic() + WITHIN
    while True:
        try:
            return ask()
        except Unreachable:
            assert time.monotonic() < deadline


def completed(handles: list[WorkflowHandle]) -> list[str]:
    """The hops that are recorded as completed, each as often as it is."""
    events = (event for handle in handles for event in patiently(handle.events_so_far))
    return [event.hop_id for event in events if event.type == "completed"]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_failover_under_load_loses_nothing_that_the_new_primary_had_received(
    made: Deployment, group: SentinelGroup, pool: str
) -> None:
    """No workflow is lost, and no step that was recorded there runs again."""
    worker = made.ready_worker("toil", pool=pool, slots=4)
    before = dispatch(made, *(f"before-{number}" for number in range(WORKFLOWS)))
    eventually(lambda: len(completed(before)) >= WORKFLOWS // 2, within=WITHIN, what="the worker completes little")

    done = completed(before)
    group.let_replica_catch_up()
    dead = group.kill_primary()
    after = dispatch(made, *(f"after-{number}" for number in range(WORKFLOWS // 4)))
    results = {each.correlation_id: patiently(partial(each.result_sync, WITHIN)) for each in (*before, *after)}

    assert group.primary() is not dead
    assert {result.output for result in results.values()} == {"dug"}
    runs = begun(made)
    assert len(runs) == STEPS * len(results)
    assert [hop for hop in done if runs[hop] != 1] == []
    assert sorted(completed([*before, *after])) == sorted(runs)
    assert worker.running
