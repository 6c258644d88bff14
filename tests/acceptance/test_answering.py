"""Somebody answers from a shell what a step of a real worker waits for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paigeant_celery import FunctionSpec, WorkflowDispatcher
from tests.support.processes import Deployment, deployment, eventually

WITHIN = 15.0

pytestmark = pytest.mark.xdist_group("short leases")


def command(made: Deployment, *arguments: str) -> tuple[int, str]:
    """Run `celery paigeant …` as a process of its own; return its exit code and what it printed."""
    process = made.run("-A", "paigeant_celery", "paigeant", *arguments, folder=made.configured("shell"), name="shell")
    return process.ended(), process.log()


def test_an_answer_from_a_shell_counts_while_no_worker_runs(redis_url: str, tmp_path: Path) -> None:
    """A deploy is under way, or the worker has died; whoever answers need not know."""
    with deployment(redis_url, tmp_path, paigeant_lease=1.0) as made:
        worker = made.ready_worker("counter_desk", pool="threads", slots=1)
        transport, asked = made.transport(), tmp_path / "asked"
        steps = [FunctionSpec("asking", {"path": str(asked), "question": "Which size?"})]
        correlation_id = WorkflowDispatcher().dispatch_workflow_sync(transport, itinerary=steps)
        handle = WorkflowDispatcher().handle(correlation_id, transport)
        eventually(lambda: handle.status_sync().state == "suspended", within=WITHIN)
        worker.kill()

        _, listed = command(made, "inbox")
        (token,) = re.findall(rf"^{correlation_id}\.0~\S+$", listed, re.MULTILINE)
        first, second = (command(made, "answer", token, f'"{size}"', "--by", "ann") for size in ("large", "small"))
        waiting = handle.status_sync().state
        made.ready_worker("counter_desk", pool="threads", slots=1)
        result = handle.result_sync(WITHIN)

    assert "question: Which size?" in listed
    assert first == (0, "the workflow goes on\n")
    assert second[0] == 1
    assert "somebody was faster, and this answer does not count: ann answered at " in second[1]
    assert waiting == "queued"
    assert result.output == "large"
    assert asked.read_text() == f"{token}\n"
