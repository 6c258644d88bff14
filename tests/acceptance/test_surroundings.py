"""What surrounds a step in a real worker: its streams, its host's context, its host's connections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher
from tests.support.processes import Deployment, deployment

WITHIN = 30.0


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
