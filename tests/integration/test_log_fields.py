"""The log of real workers: which hop each line belongs to, if the host's format asks for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher
from tests.support.processes import deployment

WITHIN = 30.0
STEPS = [FunctionSpec("alone", {}), FunctionSpec("threaded", {}), ActivitySpec("writer", "note something")]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_each_line_of_a_step_has_its_ids_in_the_format_of_the_host(redis_url: str, tmp_path: Path, pool: str) -> None:
    """Agents, tools and libraries log as ever; the host names the fields in `worker_log_format`, and that is all."""
    log_format = "<%(correlation_id)s %(hop)s %(step)s %(activity)s %(attempt)s> %(message)s"
    with deployment(redis_url, tmp_path, worker_log_format=log_format) as made:
        worker = made.ready_worker("scribe", pool=pool)
        dispatcher, transport = WorkflowDispatcher(), made.transport()
        dispatcher.dispatch_workflow_sync(transport, itinerary=STEPS, correlation_id="w")
        dispatcher.handle("w", transport).result_sync(WITHIN)
        log = worker.log()

    found = set(re.findall(r"(<[^>]*>) written in ([\w ]+)", log))
    new_thread = "<w w.1 threaded threaded 1>" if pool in ("prefork", "solo") else "<- - - - ->"
    assert found == {
        ("<w w.0 alone alone 1>", "a coroutine"),
        ("<w w.1 threaded threaded 1>", "a function"),
        (new_thread, "a new thread"),
        ("<w w.2 writer writer 1>", "a tool"),
        ("<w w.2 writer writer 1>", "an async tool"),
    }
    assert "<- - - - ->" in log  # the worker's own lines
    assert "Logging error" not in log


def test_nothing_is_added_to_a_log_whose_format_asks_for_nothing(redis_url: str, tmp_path: Path) -> None:
    """Nobody's logging changes because we are installed."""
    with deployment(redis_url, tmp_path, worker_log_format="<%(levelname)s> %(message)s") as made:
        worker = made.ready_worker("scribe", pool="solo")
        dispatcher, transport = WorkflowDispatcher(), made.transport()
        dispatcher.dispatch_workflow_sync(transport, itinerary=STEPS[:1], correlation_id="w")
        dispatcher.handle("w", transport).result_sync(WITHIN)

        assert "<WARNING> written in a coroutine" in worker.log()
