"""What ends workflows from outside, with a real worker: a deadline that nobody serves, and `cancel` while steps run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, WorkflowFailed, WorkflowHandle
from tests.support.processes import Deployment, deployment, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.together]

WITHIN = 8.0
AT_ONCE = 8
GRACE = 0.2  # seconds from the answer of the store until its thread has acted on it, on a busy machine


@pytest.fixture(scope="module")
def stopping(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("stopping")
    with deployment(redis_url, folder, paigeant_around_step="tellings.noting_the_end") as made:
        made.variables["TOLD_FILE"] = str(folder / "told")
        made.ready_worker("tellings", pool="threads", slots=AT_ONCE)
        yield made


def dispatch(made: Deployment, step: ActivitySpec | FunctionSpec, **options: object) -> WorkflowHandle:
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    return dispatcher.handle(
        dispatcher.dispatch_workflow_sync(transport, itinerary=[step], **options),  # type: ignore[arg-type]
        transport,
    )


def test_a_deadline_is_kept_on_a_queue_that_nobody_serves(stopping: Deployment) -> None:
    """The worker that sweeps has not even loaded the activity."""
    deadline = datetime.now(UTC) + timedelta(seconds=1.5)
    handle = dispatch(stopping, ActivitySpec("nobody", "go"), deadline=deadline)

    with pytest.raises(WorkflowFailed, match="deadline"):
        handle.result_sync(WITHIN)

    assert datetime.now(UTC) - deadline < timedelta(seconds=4)
    assert handle.status_sync().attempt == 0


@pytest.mark.proof
def test_no_call_is_begun_once_the_store_has_told_of_a_cancel(stopping: Deployment) -> None:
    """Whether a record, what is shown live or a renewal was answered, and whatever the code of the step is like."""
    told_file = Path(stopping.variables["TOLD_FILE"])
    steps = [ActivitySpec("restless", "go"), FunctionSpec("stubborn")]
    handles = [dispatch(stopping, steps[n % 2], stream=n % 4 > 1) for n in range(AT_ONCE)]
    hops = {f"{handle.correlation_id}.0" for handle in handles}

    def lines(what: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in told_file.read_text().splitlines()] if told_file.exists() else []
        return [line for line in found if line["what"] == what]

    def hops_that(what: str) -> set[str]:
        return {line["hop"] for line in lines(what)}

    eventually(lambda: hops_that("begin") >= hops, within=WITHIN, what="not all steps make calls")
    for handle in handles:
        assert handle.cancel_sync()
    eventually(lambda: hops_that("end") >= hops, within=WITHIN, what="not all runs ended")

    first = {hop: min(line["at"] for line in lines("told") if line["hop"] == hop) for hop in hops}
    assert [line for line in lines("begin") if line["at"] > first[line["hop"]] + GRACE] == []
    assert {"record", "publish"} <= {line["kind"] for line in lines("told")}
