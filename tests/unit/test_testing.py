"""The test kit does what tests of others expect of it."""

from __future__ import annotations

import asyncio
import gc

from paigeant_celery import FunctionSpec, activity
from paigeant_celery.testing import WorkflowHarness


def made_and_dropped() -> FunctionSpec:
    @activity
    def answer() -> int:
        return 42

    return answer.activity()


def test_a_step_runs_whose_function_nothing_else_holds(workflow_harness: WorkflowHarness) -> None:
    """Tests make agents and functions in functions of their own; when Python collects them is not theirs to know."""
    handle = workflow_harness.dispatch([made_and_dropped()])
    gc.collect()

    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]
    assert handle.result_sync(timeout=0).output == 42
