"""What an operator sees about steps in a real Flower, and what nobody may see there."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from paigeant_celery import (
    ActivitySpec,
    FunctionSpec,
    StepPolicy,
    WorkflowCancelled,
    WorkflowDispatcher,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowParked,
)
from paigeant_celery.broker.outbox import delivery_of
from paigeant_celery.broker.port import Delivery
from paigeant_celery.core.hop_failures import hop_failed
from paigeant_celery.core.message import parse
from tests.support.processes import START_WITHIN, Deployment, Process, deployment, eventually
from tests.support.servers import free_port

PROMPT, DEPS, VARIABLE, ERROR = "marzipan", "nougat", "praline", "toffee"  # none of them may be seen anywhere
SECRETS = (PROMPT, DEPS, VARIABLE, ERROR)
WITHIN = 15.0
ONCE = StepPolicy(final_on=["ValueError"])


pytestmark = pytest.mark.xdist_group("short leases")


class Flower:
    """A running Flower, with its API and its pages."""

    def __init__(self, made: Deployment, worker: Process | None = None) -> None:
        self.made, self.transport = made, made.transport()
        self.address = f"http://127.0.0.1:{free_port()}"
        self.process = made.run(
            "-A", "paigeant_celery", "flower", "--address=127.0.0.1", f"--port={self.address.rpartition(':')[2]}",
            folder=made.configured("flower"), name="flower", cold=True, FLOWER_UNAUTHENTICATED_API="true",
        )  # fmt: skip
        self.worker = worker or made.ready_worker("counter_desk", "desk", "press", "troubles", pool="prefork", slots=3)
        eventually(self._sees_the_worker, within=START_WITHIN)

    def dispatch(self, *steps: ActivitySpec | FunctionSpec) -> WorkflowHandle:
        dispatcher = WorkflowDispatcher()
        correlation_id = dispatcher.dispatch_workflow_sync(
            self.transport, itinerary=steps, variables={"house": VARIABLE}
        )
        return dispatcher.handle(correlation_id, self.transport)

    def delivery(self, handle: WorkflowHandle) -> Delivery:
        """The message of a workflow's current hop, for sending it once more."""
        store = self.transport.store
        assert store is not None
        record = store.workflow(handle.correlation_id)
        assert record is not None
        return delivery_of(parse(record.envelope, max_size=2**20, max_steps=256), record.envelope, record.queue, None)

    def send(self, *deliveries: Delivery) -> None:
        """Send messages to queues that the worker serves, whichever they were meant for."""
        for delivery in deliveries:
            queue = f"{self.made.prefix}.{delivery.activity}"
            self.transport.publisher.begin(dataclasses.replace(delivery, queue=queue)).wait()

    def shown(self, task_id: str) -> dict[str, Any]:
        """What the API says about a task now; empty while it does not know the task."""
        answer = requests.get(f"{self.address}/api/task/info/{task_id}", timeout=5)
        return answer.json() if answer.ok else {}

    def task(self, task_id: str, state: str) -> dict[str, Any]:
        """What the API says about a task once it is in `state`."""

        def ask() -> dict[str, Any] | None:
            return shown if (shown := self.shown(task_id)).get("state") == state else None

        return eventually(ask, within=WITHIN, what=f"{task_id} is not {state}")

    def page(self, path: str) -> str:
        answer = requests.get(f"{self.address}/{path}", timeout=10)
        assert answer.ok, f"{path}: {answer.status_code}"
        return answer.text

    def everything(self, *task_ids: str) -> str:
        """All pages and answers that could show something about these tasks."""
        worker = f"worker-{self.made.prefix}@"
        name = next(name for name in self._workers() if name.startswith(worker))
        paths = ["tasks", "workers", "broker", "api/tasks", "api/workers?refresh=1", f"worker/{name}"]
        paths += [f"{kind}/{task_id}" for task_id in task_ids for kind in ("task", "api/task/info")]
        return "\n".join(self.page(path) for path in paths)

    def _workers(self) -> dict[str, Any]:
        return requests.get(f"{self.address}/api/workers", timeout=10).json()

    def _sees_the_worker(self) -> bool:
        try:
            names = requests.get(f"{self.address}/api/workers?refresh=1", timeout=10).json()
        except requests.RequestException:
            return False
        return any(name.startswith(f"worker-{self.made.prefix}@") for name in names)


@pytest.fixture(scope="module")
def flower(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    brief = {"paigeant_lease": 1.0, "paigeant_max_attempts": 2, "paigeant_retry_backoff": 0.0}
    with deployment(redis_url, tmp_path_factory.mktemp("flower"), **brief) as made:
        yield Flower(made)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file that a step of `gated` waits for; it appears when the test ends, if not before."""
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


def test_each_hop_says_which_step_of_which_workflow_it_is(flower: Flower) -> None:
    """An operator who sees a task must know whose it is without seeing its content."""
    steps = [ActivitySpec("review", PROMPT, {"style": DEPS}, step_id="first-look"), ActivitySpec("draft", PROMPT)]
    handle = flower.dispatch(*steps)
    handle.result_sync(WITHIN)
    first_id, second_id = (f"{handle.correlation_id}.{place}" for place in (0, 1))

    first, second = flower.task(first_id, "SUCCESS"), flower.task(second_id, "SUCCESS")

    assert (first["name"], second["name"]) == (f"{flower.made.prefix}.review", f"{flower.made.prefix}.draft")
    assert first["args"] == f"(workflow {handle.correlation_id}, step 1 of 2: first-look)"
    assert second["args"] == f"(workflow {handle.correlation_id}, step 2 of 2: draft)"
    assert (first["kwargs"], second["kwargs"]) == ("{}", "{}")
    assert first["result"] == repr({"step": "first-look", "outcome": "completed", "next": second_id})
    assert second["result"] == repr({"step": "draft", "outcome": "workflow_completed"})


def test_the_links_between_tasks_follow_the_slip(flower: Flower) -> None:
    """From any hop one click leads to the first, the one before and the one after it."""
    handle = flower.dispatch(*(ActivitySpec(name, PROMPT) for name in ("draft", "review", "publish")))
    handle.result_sync(WITHIN)
    ids = [f"{handle.correlation_id}.{place}" for place in range(3)]

    hops = [flower.task(task_id, "SUCCESS") for task_id in ids]

    assert [hop["root_id"] for hop in hops] == [ids[0]] * 3
    assert [hop["parent_id"] for hop in hops] == [None, *ids[:2]]
    assert [hop["children"] for hop in hops] == [[ids[1]], [ids[2]], []]
    page = flower.page(f"task/{ids[1]}")
    for other in (ids[0], ids[2]):
        assert f'href="/task/{other}"' in page


def test_a_copy_that_comes_during_a_run_leaves_it_started(flower: Flower, gate: Path) -> None:
    """A dropped duplicate must not look as if the work were done."""
    handle = flower.dispatch(ActivitySpec("gated", str(gate)))
    task_id = f"{handle.correlation_id}.0"
    flower.task(task_id, "STARTED")
    delivery = flower.delivery(handle)
    states = []

    def shows(later: str) -> bool:
        states.append(flower.shown(task_id)["state"])
        return flower.shown(later).get("state") == "SUCCESS"

    for _ in range(2):
        flower.transport.publisher.begin(delivery).wait()
    eventually(lambda: flower.worker.log().count("delivery dropped: running") == 2, within=WITHIN)
    later = f"{flower.dispatch(ActivitySpec('draft', PROMPT)).correlation_id}.0"  # its events come after the copies'
    eventually(lambda: shows(later), within=WITHIN)
    states.append(flower.shown(task_id)["state"])

    assert set(states) == {"STARTED"}
    assert handle.status_sync().running
    gate.touch()
    handle.result_sync(WITHIN)
    assert flower.task(task_id, "SUCCESS")["result"] == repr({"step": "gated", "outcome": "workflow_completed"})


def test_one_who_looks_later_sees_by_a_copy_how_the_hop_ended(flower: Flower) -> None:
    """A copy begins like any other delivery; without an end it would be shown as running for ever."""
    unserved = f"{flower.made.prefix}-unserved"
    done = flower.dispatch(
        ActivitySpec("draft", PROMPT, queue=unserved), ActivitySpec("review", PROMPT, queue=unserved)
    )
    failed = flower.dispatch(ActivitySpec("failing", f"ValueError {ERROR}", queue=unserved, policy=ONCE))
    cancelled = flower.dispatch(ActivitySpec("draft", PROMPT, queue=unserved))
    first, failing, never = (flower.delivery(handle) for handle in (done, failed, cancelled))
    flower.send(first, failing)
    shown = flower.task(first.hop_id, "SUCCESS")["result"]
    last = flower.delivery(done)
    flower.send(last)
    done.result_sync(WITHIN)
    with pytest.raises(WorkflowFailed):
        failed.result_sync(WITHIN)
    parked = flower.dispatch(
        ActivitySpec("failing", f"ValueError {ERROR}", queue=unserved, policy=StepPolicy(max_attempts=1))
    )
    waits = flower.delivery(parked)
    flower.send(waits)
    with pytest.raises(WorkflowParked):
        parked.result_sync(WITHIN)
    assert cancelled.cancel_sync()

    later = Flower(flower.made, flower.worker)
    copies = (first, last, failing, waits, never)
    before = [later.shown(copy.hop_id) for copy in copies]
    later.send(*copies)

    assert before == [{}] * 5
    assert later.task(first.hop_id, "SUCCESS")["result"] == shown
    assert later.task(last.hop_id, "SUCCESS")["result"] == repr({"step": "review", "outcome": "workflow_completed"})
    assert later.task(failing.hop_id, "FAILURE")["exception"] == repr(
        hop_failed(failing.hop_id, "failing", "ValueError")
    )
    assert later.task(waits.hop_id, "FAILURE")["exception"] == repr(hop_failed(waits.hop_id, "failing", "ValueError"))
    assert later.task(never.hop_id, "REVOKED")


def test_a_failed_hop_is_a_failure_without_its_text(flower: Flower) -> None:
    """Error texts quote prompts and answers; the handle has them, for those who may read them."""
    handle = flower.dispatch(ActivitySpec("failing", f"ValueError {ERROR}", step_id="buy"))
    with pytest.raises(WorkflowFailed, match=ERROR):
        handle.result_sync(WITHIN)
    task_id = f"{handle.correlation_id}.0"

    shown = flower.task(task_id, "FAILURE")

    assert shown["exception"] == f"ValueError('{task_id}', 'buy', 'ValueError')"
    assert ERROR not in json.dumps(shown)
    assert re.search(
        r'tests/programs/\w+\.py", line \d+, in \S+\n(?!    )', shown["traceback"]
    )  # and no line of source
    assert ERROR not in flower.everything(task_id)


def test_a_hop_that_waits_for_an_answer_is_a_retry_that_says_what_it_waits_for(flower: Flower, tmp_path: Path) -> None:
    """It holds no worker, and nothing is wrong with it; what is asked and the token are not for everybody who looks."""
    asked = tmp_path / "asked"
    handle = flower.dispatch(
        FunctionSpec("asking", {"path": str(asked), "question": PROMPT}), ActivitySpec("draft", PROMPT)
    )
    task_id = f"{handle.correlation_id}.0"

    shown = flower.task(task_id, "RETRY")
    (pending,) = handle.pending_sync()
    page = flower.everything(task_id)
    flower.send(flower.delivery(handle))
    later = f"{flower.dispatch(ActivitySpec('draft', PROMPT)).correlation_id}.0"  # its events come after the copy's
    flower.task(later, "SUCCESS")
    after_a_copy = flower.shown(task_id)

    assert shown["exception"] == "waits for approval"
    assert after_a_copy["state"] == "RETRY"
    assert handle.status_sync().state == "suspended"
    assert pending.question == PROMPT
    assert asked.read_text() == f"{pending.token}\n"

    assert handle.resolve_sync(pending.token, {"yes": DEPS}, by="ann").outcome == "settled"

    assert handle.result_sync(WITHIN).outputs["asking"] == {"yes": DEPS}
    assert flower.task(task_id, "SUCCESS")["result"] == repr(
        {"step": "asking", "outcome": "completed", "next": f"{handle.correlation_id}.1"}
    )
    for secret in (*SECRETS, pending.token, pending.token.partition("~")[2]):
        assert secret not in page
        assert secret not in flower.everything(task_id)
        assert secret not in flower.worker.log()


def test_a_copy_of_a_hop_that_is_tried_again_later_leaves_it_a_retry(flower: Flower) -> None:
    """Otherwise it would be shown as running until its next attempt, which may be a day away."""
    later = StepPolicy(max_attempts=2, backoff=3600)
    handle = flower.dispatch(FunctionSpec("failing_function", {"kind": "ValueError", "text": ERROR}, policy=later))
    task_id = f"{handle.correlation_id}.0"
    shown = flower.task(task_id, "RETRY")

    flower.send(flower.delivery(handle))
    after = f"{flower.dispatch(ActivitySpec('draft', PROMPT)).correlation_id}.0"  # its events come after the copy's
    flower.task(after, "SUCCESS")

    still = flower.shown(task_id)
    assert (still["state"], still["exception"]) == ("RETRY", shown["exception"])
    assert handle.status_sync().state == "retrying"
    assert ERROR not in json.dumps(still)


@pytest.mark.parametrize("terminate", [False, True])
def test_revoking_a_running_hop_cancels_its_workflow(flower: Flower, gate: Path, terminate: bool) -> None:
    """The buttons do what they say, and no process of the pool is killed."""
    handle = flower.dispatch(ActivitySpec("gated", str(gate)), ActivitySpec("draft", PROMPT))
    task_id = f"{handle.correlation_id}.0"
    flower.task(task_id, "STARTED")

    url = f"{flower.address}/api/task/revoke/{task_id}"
    assert requests.post(url, params={"terminate": str(terminate).lower()}, timeout=10).ok

    with pytest.raises(WorkflowCancelled):
        handle.result_sync(WITHIN)
    flower.worker.wait_for_log("workflow cancelled, and its run too")
    assert flower.dispatch(ActivitySpec("draft", PROMPT)).result_sync(WITHIN).output
    assert "WorkerLostError" not in flower.worker.log()


def test_a_hop_that_runs_while_its_workflow_is_cancelled_is_shown_as_revoked(flower: Flower, gate: Path) -> None:
    """Whoever cancels it by its handle sees in Flower that it runs no longer."""
    handle = flower.dispatch(ActivitySpec("gated", str(gate)))
    flower.task(f"{handle.correlation_id}.0", "STARTED")

    assert handle.cancel_sync()

    assert flower.task(f"{handle.correlation_id}.0", "REVOKED")


def test_no_page_shows_prompts_deps_variables_or_outputs(flower: Flower, gate: Path) -> None:
    """Many people can open Flower's pages; this also holds while a step runs."""
    steps = [
        ActivitySpec("review", PROMPT, {"style": DEPS}),
        ActivitySpec("gated", str(gate), step_id="long"),
        ActivitySpec("draft", PROMPT),
    ]
    handle = flower.dispatch(*steps)
    ids = [f"{handle.correlation_id}.{place}" for place in range(3)]
    flower.task(ids[1], "STARTED")

    during = flower.everything(*ids[:2])
    still_running = handle.status_sync().running
    gate.touch()
    result = handle.result_sync(WITHIN)
    flower.task(ids[2], "SUCCESS")
    after = flower.everything(*ids)

    assert still_running
    assert PROMPT in json.dumps(result.outputs)
    for secret in SECRETS:
        assert secret not in during
        assert secret not in after
    assert ids[1] in during
    assert ids[2] in after
