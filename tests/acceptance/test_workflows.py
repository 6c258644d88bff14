"""Whole workflows over two real workers, each with only some of the activities."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pytest_celery import CeleryTestSetup

from paigeant_celery import (
    ActivitySpec,
    ExecutedStep,
    FunctionSpec,
    StepPolicy,
    WorkflowDispatcher,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowParked,
)
from paigeant_celery.broker.outbox import delivery_of
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.transport import CeleryTransport, transport_of
from paigeant_celery.core.message import PaigeantMessage, parse
from paigeant_celery.store.earlier import executed_of
from paigeant_celery.store.port import WorkflowRecord
from tests.support.logs import uncaught
from tests.support.processes import Deployment, eventually, run_script
from tests.support.promptness import prompt_result

WITHIN = 20.0  # seconds within which a workflow must end; the steps themselves take milliseconds
ONCE = StepPolicy(max_attempts=1)  # no second attempt, which would wait a second for a sweep
KINDS = (
    "BaseException", "OwnBaseException", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "MemoryError",
    "RecursionError", "CancelledError",
)  # fmt: skip
RETRIED = "SystemExit"
# Retried as the deployment allows; one kind stands for all, and `--proof=full` retries each.
TRIES = [
    *(pytest.param(kind, None if kind == RETRIED else ONCE, id=kind) for kind in KINDS),
    *(pytest.param(kind, None, id=f"{kind} retried", marks=pytest.mark.proof) for kind in KINDS if kind != RETRIED),
]
CANARY = "tangerine"  # part of prompts and error texts; must not appear in any log

MakeStep = Callable[[str, StepPolicy | None], ActivitySpec | FunctionSpec]

pytestmark = pytest.mark.xdist_group("short leases")

READ_ELSEWHERE = """
import json, sys
from celery import Celery
from paigeant_celery import WorkflowDispatcher, get_transport

url, prefix, correlation_id = sys.argv[1:]
app = Celery("reading", broker=url)
app.conf.update(paigeant_store_url="broker", paigeant_prefix=prefix)
handle = WorkflowDispatcher().handle(correlation_id, get_transport(app=app))
result = handle.result_sync(20)
status = handle.status_sync()
print(json.dumps({
    "output": result.output, "state": status.state, "executed": status.executed,
    "events": [[event.type, event.hop_id] for event in handle.events_sync()],
}))
assert "pydantic_ai" not in sys.modules
"""

DISPATCH_ELSEWHERE = """
import sys
from celery import Celery
from paigeant_celery import ActivitySpec, WorkflowDispatcher, get_transport
from paigeant_celery.activities.registry import registry

url, prefix = sys.argv[1:]
app = Celery("dispatching", broker=url)
app.conf.update(paigeant_store_url="broker", paigeant_prefix=prefix)
steps = [ActivitySpec("draft", "from afar"), ActivitySpec("publish", "it", step_id="last")]
print(WorkflowDispatcher().dispatch_workflow_sync(get_transport(app=app), itinerary=steps))
assert not registry.activities()
assert "pydantic_ai" not in sys.modules
"""


@pytest.fixture
def transport(celery_setup: CeleryTestSetup, stage: Deployment) -> Iterator[CeleryTransport]:
    """The transport of a process that has none of the activities; afterwards no log holds any content."""
    assert len(celery_setup.worker_cluster) == 2
    yield transport_of(celery_setup.app)
    for worker in celery_setup.worker_cluster:
        assert CANARY not in worker.logs()
        assert uncaught(worker.logs()) == []
        assert worker.container.status == "running"


def dispatch(transport: CeleryTransport, *steps: ActivitySpec | FunctionSpec) -> WorkflowHandle:
    dispatcher = WorkflowDispatcher()
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)


def failure(transport: CeleryTransport, *steps: ActivitySpec | FunctionSpec) -> WorkflowFailed:
    with pytest.raises(WorkflowFailed) as raised:
        dispatch(transport, *steps).result_sync(WITHIN)
    return raised.value


def recorded(handle: WorkflowHandle, transport: CeleryTransport) -> WorkflowRecord:
    """What the store knows about a workflow."""
    assert transport.store is not None
    record = transport.store.workflow(handle.correlation_id)
    assert record is not None
    return record


def message_in(record: WorkflowRecord) -> PaigeantMessage:
    """The message that waits, or the last one."""
    return parse(record.envelope, max_size=2**24, max_steps=256)


def ran(message: PaigeantMessage, transport: CeleryTransport) -> tuple[ExecutedStep, ...]:
    """The records of the steps that ran, wherever they are."""
    return executed_of(transport.store, message.correlation_id, message.slip)


def waiting(handle: WorkflowHandle, transport: CeleryTransport) -> Delivery:
    """What is published for the step that a workflow waits for."""
    record = recorded(handle, transport)
    return delivery_of(message_in(record), record.envelope, record.queue, None)


def test_five_steps_cross_two_workers_and_each_gets_the_output_before_it(transport: CeleryTransport) -> None:
    """This is the whole point: a chain of agents and functions runs wherever its agents are loaded."""
    steps = (
        ActivitySpec("topic", "red foxes"),
        ActivitySpec("draft", f"write it, {CANARY}"),
        ActivitySpec("review", "judge it", {"style": "dry"}),
        FunctionSpec("count_letters", {"letter": "i"}),
        ActivitySpec("publish", "print it"),
    )

    result = dispatch(transport, *steps).result_sync(WITHIN)

    title = {"title": "Red Foxes", "words": 2}
    draft = f'draft(write it, {CANARY}|{{"title":"Red Foxes","words":2}})'
    review = f"review(judge it|{draft})"
    letters = {"i": review.count("i")}
    assert result.outputs == {
        "topic": title,
        "draft": draft,
        "review": review,
        "count_letters": letters,
        "publish": f"publish(print it|{json.dumps(letters, separators=(',', ':'))})",
    }
    assert result.status == "completed"
    assert result.usage["requests"] == 4


def test_each_worker_runs_only_the_steps_whose_activities_it_has(
    transport: CeleryTransport, celery_setup: CeleryTestSetup
) -> None:
    """Teams deploy their agents independently."""
    handle = dispatch(transport, ActivitySpec("draft", "a"), ActivitySpec("review", "b"))
    handle.result_sync(WITHIN)

    desk, press = (worker.logs() for worker in celery_setup.worker_cluster)

    assert f"draft[{handle.correlation_id}.0] received" in press
    assert f"review[{handle.correlation_id}.1] received" in desk
    assert f"draft[{handle.correlation_id}.0]" not in desk
    assert f"review[{handle.correlation_id}.1]" not in press


def test_workflows_of_the_same_agents_do_not_mix(transport: CeleryTransport) -> None:
    """Many users ask at once."""

    async def run_all() -> list[object]:
        dispatcher = WorkflowDispatcher()

        async def run(number: int) -> object:
            steps = [ActivitySpec(name, f"{name} {number}") for name in ("draft", "review", "draft")]
            correlation_id = await dispatcher.dispatch_workflow(transport, itinerary=steps)
            return (await dispatcher.handle(correlation_id, transport).result(WITHIN)).output

        return await asyncio.gather(*(run(number) for number in range(6)))

    outputs = asyncio.run(run_all())

    assert outputs == [f"draft(draft {n}|review(review {n}|draft(draft {n}|)))" for n in range(6)]


def test_a_process_without_the_agents_dispatches_and_loads_no_agent_library(
    transport: CeleryTransport, stage: Deployment
) -> None:
    """A web process stays small and needs no provider's package or key."""
    correlation_id = run_script(DISPATCH_ELSEWHERE, stage.url, stage.prefix, cold=True).strip()

    result = WorkflowDispatcher().handle(correlation_id, transport).result_sync(WITHIN)

    assert result.outputs == {"draft": "draft(from afar|)", "last": "publish(it|draft(from afar|))"}


def test_status_events_and_result_are_read_in_another_process(transport: CeleryTransport, stage: Deployment) -> None:
    """The process that dispatches is rarely the one that asks."""
    handle = dispatch(transport, ActivitySpec("draft", "a"), ActivitySpec("review", "b"))

    seen = json.loads(run_script(READ_ELSEWHERE, stage.url, stage.prefix, handle.correlation_id, cold=True))

    first, second = (f"{handle.correlation_id}.{place}" for place in (0, 1))
    assert seen == {
        "output": "review(b|draft(a|))",
        "state": "completed",
        "executed": ["draft", "review"],
        "events": [
            ["started", first],
            ["claimed", first],
            ["completed", first],
            ["claimed", second],
            ["completed", second],
            ["workflow_completed", second],
        ],
    }


def test_status_tells_where_a_running_workflow_stands(transport: CeleryTransport, tmp_path: Path) -> None:
    """Those who wait want to know for what."""
    gate = tmp_path / "gate"
    steps = ActivitySpec("draft", "a"), ActivitySpec("gated", str(gate)), ActivitySpec("publish", "c")
    handle = dispatch(transport, *steps)

    status = eventually(lambda: (found := handle.status_sync()).running and found.step_id == "gated" and found)
    gate.touch()

    assert (status.state, status.activity, status.attempt) == ("running", "gated", 1)
    assert (status.executed, status.remaining) == (("draft",), ("gated", "publish"))
    assert handle.result_sync(WITHIN).output == "publish(c|the gate is open)"


def test_a_large_output_reaches_the_other_worker_by_reference(transport: CeleryTransport, stage: Deployment) -> None:
    """Documents do not belong in a broker; each step still sees them whole."""
    steps = (
        FunctionSpec("long_text", {"kilobytes": 100}),
        ActivitySpec("draft", "sum it up"),
        FunctionSpec("digest_of", {"step_id": "long_text"}),
    )

    handle = dispatch(transport, *steps)
    result = handle.result_sync(WITHIN)

    text = "0123456789abcdef" * 64 * 100
    draft = f"draft(sum it up|{text})"
    assert result.outputs["long_text"] == text
    assert result.outputs["draft"] == draft
    assert result.output == [hashlib.sha256(part.encode()).hexdigest() for part in (draft, text)]
    message = message_in(recorded(handle, transport))
    assert [record.output_ref is not None for record in ran(message, transport)] == [True, True, False]
    assert len(message.model_dump_json()) < 4096


def test_an_agent_inserts_steps_that_other_workers_run(transport: CeleryTransport) -> None:
    """An agent makes the plan at run time; its worker has none of the other agents."""
    dispatcher = WorkflowDispatcher()
    dispatcher.register(ActivitySpec("draft", "default"), description="Writes.")
    dispatcher.register(ActivitySpec("review", "check it", {"style": "kind"}))
    steps = [ActivitySpec("planner", "plan"), ActivitySpec("publish", "print")]
    handle = dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)

    result = handle.result_sync(WITHIN)

    assert list(result.outputs) == ["planner", "draft-0.1", "review-0.2", "publish"]
    assert result.output == "publish(print|review(check it|draft(inserted|planned)))"
    message = message_in(recorded(handle, transport))
    assert [record.added_by for record in ran(message, transport)] == [None, "planner", "planner", None]
    inserted = [event.fields["activity"] for event in handle.events_sync() if event.type == "step_inserted"]
    assert inserted == ["draft", "review"]


def test_a_failed_step_ends_its_workflow_with_step_class_and_text(transport: CeleryTransport) -> None:
    """Nobody waits forever or has to search logs; the fixture checks that no log holds the text."""
    error = failure(
        transport,
        ActivitySpec("draft", "a"),
        ActivitySpec("failing", f"ValueError no {CANARY}s left", step_id="buy"),
        ActivitySpec("publish", "c"),
    )

    assert (error.step_id, error.error_class, error.text) == ("buy", "ValueError", f"no {CANARY}s left")


@pytest.mark.parametrize(
    "step",
    [
        ActivitySpec("hanging", CANARY),
        ActivitySpec("slow", "60", policy=StepPolicy(timeout=0.3)),
        FunctionSpec("hanging_function", {"seconds": 2.0}, policy=StepPolicy(timeout=0.3)),
    ],
    ids=["the activity's policy", "the step's policy", "code that blocks a thread"],
)
def test_a_step_that_runs_too_long_is_tried_again_and_then_parked(
    transport: CeleryTransport, stage: Deployment, step: ActivitySpec | FunctionSpec
) -> None:
    """A provider that never answers must not hold a workflow forever."""
    started = datetime.now(UTC)

    error = failure(transport, step, ActivitySpec("publish", "never"))

    assert (error.step_id, error.error_class) == (step.activity, "TimeoutError")
    assert error.text == "the step ran longer than 0.3 s"
    assert datetime.now(UTC) - started < timedelta(seconds=5)
    assert isinstance(error, WorkflowParked)
    assert stage.runs().count(f"{error.correlation_id}.0") == stage.settings["paigeant_max_attempts"]


@pytest.mark.parametrize(("kind", "policy"), TRIES)
@pytest.mark.parametrize(
    "make",
    [
        lambda kind, policy: ActivitySpec("failing", f"{kind} {CANARY}", policy=policy),
        lambda kind, policy: ActivitySpec("failing_tool", kind, policy=policy),
        lambda kind, policy: FunctionSpec("failing_function", {"kind": kind, "text": CANARY}, policy=policy),
    ],
    ids=["model", "tool", "function"],
)
def test_an_error_that_would_end_a_process_fails_the_workflow_alone(
    transport: CeleryTransport, stage: Deployment, make: MakeStep, kind: str, policy: StepPolicy | None
) -> None:
    """`sys.exit` in somebody's tool must not take down other people's workflows."""
    handle = dispatch(transport, make(kind, policy))

    with pytest.raises(WorkflowParked) as raised:
        handle.result_sync(WITHIN)

    assert raised.value.error_class == kind
    assert handle.status_sync().attempt == (1 if policy else stage.settings["paigeant_max_attempts"])
    assert prompt_result(dispatch(transport, ActivitySpec("review", "next"))).output == "review(next|)"


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (FunctionSpec("unserializable"), "output_not_serializable"),
        (FunctionSpec("too_large", {"characters": 17 * 1024 * 1024}), "output_too_large"),
    ],
)
def test_an_output_that_cannot_be_recorded_parks_the_step(
    transport: CeleryTransport, step: FunctionSpec, reason: str
) -> None:
    """An output must be JSON of a bounded size, or a later step could not use it; the work is not thrown away."""
    error = failure(transport, step)

    assert isinstance(error, WorkflowParked)
    assert error.error_class == reason
    assert prompt_result(dispatch(transport, ActivitySpec("review", "next"))).output == "review(next|)"


def test_a_deadline_that_passes_in_the_queue_costs_no_model_call(transport: CeleryTransport, stage: Deployment) -> None:
    """A result that nobody waits for any longer is not paid for."""
    dispatcher = WorkflowDispatcher()
    deadline = datetime.now(UTC) + timedelta(seconds=1)
    nowhere = ActivitySpec("draft", "too late", queue=f"{stage.prefix}.nowhere")
    correlation_id = dispatcher.dispatch_workflow_sync(transport, itinerary=[nowhere], deadline=deadline)
    handle = dispatcher.handle(correlation_id, transport)
    delivery = waiting(handle, transport)
    eventually(lambda: datetime.now(UTC) > deadline)

    transport.publisher.begin(dataclasses.replace(delivery, queue=f"{stage.prefix}.draft")).wait()

    with pytest.raises(WorkflowFailed) as raised:
        handle.result_sync(WITHIN)
    assert raised.value.error_class == "deadline"
    assert "passed before the step" in raised.value.text
    assert f"{correlation_id}.0" not in stage.runs()


def test_a_deadline_that_passes_in_a_step_ends_it(transport: CeleryTransport) -> None:
    """A deadline also limits the step that is running."""
    dispatcher = WorkflowDispatcher()
    deadline = datetime.now(UTC) + timedelta(seconds=1)
    correlation_id = dispatcher.dispatch_workflow_sync(
        transport, itinerary=[ActivitySpec("slow", "60")], deadline=deadline
    )

    with pytest.raises(WorkflowFailed) as raised:
        dispatcher.handle(correlation_id, transport).result_sync(WITHIN)

    assert raised.value.error_class == "deadline"


def test_copies_of_a_message_run_the_agent_once(transport: CeleryTransport, stage: Deployment) -> None:
    """Brokers deliver twice; the model is paid for once."""
    dispatcher = WorkflowDispatcher()
    nowhere = ActivitySpec("review", "once", queue=f"{stage.prefix}.nowhere")
    steps = [nowhere, ActivitySpec("draft", "then")]
    handle = dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)
    delivery = waiting(handle, transport)
    delivery = dataclasses.replace(delivery, queue=f"{stage.prefix}.review")

    for _ in range(8):
        transport.publisher.begin(delivery).wait()
    handle.result_sync(WITHIN)
    for _ in range(4):
        transport.publisher.begin(delivery).wait()

    log = f"review[{handle.correlation_id}.0] received"
    eventually(lambda: stage.desk.log().count(log) == 12)
    assert dispatch(transport, ActivitySpec("review", "behind them")).result_sync(WITHIN)
    assert [stage.runs().count(f"{handle.correlation_id}.{place}") for place in (0, 1)] == [1, 1]
    assert handle.result_sync().outputs == {"review": "review(once|)", "draft": "draft(then|review(once|))"}


def test_copies_that_come_during_a_run_of_ten_leases_run_the_agent_once(
    transport: CeleryTransport, stage: Deployment
) -> None:
    """A model that thinks for a long time is not taken for a dead worker."""
    lease = transport.settings.lease
    handle = dispatch(transport, ActivitySpec("slow", f"{10 * lease:g}"))
    delivery = waiting(handle, transport)
    eventually(lambda: handle.status_sync().running)
    copies, pause = 0, threading.Event()

    while handle.status_sync().running:
        transport.publisher.begin(delivery).wait()
        copies += 1
        pause.wait(lease / 2)

    assert copies >= 10
    assert handle.result_sync(WITHIN).output == f"worked {10 * lease:g} s"
    assert stage.runs().count(f"{handle.correlation_id}.0") == 1
    assert handle.status_sync().attempt == 1


def test_nothing_is_written_to_a_result_backend(transport: CeleryTransport, celery_setup: CeleryTestSetup) -> None:
    """A host's result backend does not fill up with our steps; the store has the outputs."""
    handle = dispatch(transport, ActivitySpec("draft", "a"))
    handle.result_sync(WITHIN)

    with celery_setup.backend.container.client as client:
        assert not client.keys(f"celery-task-meta-{handle.correlation_id}*")
