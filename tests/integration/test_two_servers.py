"""The broker in one Redis and the store in another: neither knows the other, and each may lose its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from paigeant_celery import ActivitySpec, DeadLetters, UnknownWorkflow, WorkflowDispatcher, WorkflowHandle
from tests.support.processes import Deployment, deployment, eventually
from tests.support.servers import RedisServer

WITHIN = 30.0  # seconds for what takes about two, most of it the start of a worker
BRIEF_LEASE = 2.0
WORKFLOWS, AT_ONCE, LOSSES = 30, 10, 3


@pytest.fixture
def broker(own_redis: Callable[..., RedisServer]) -> RedisServer:
    """A server that keeps nothing across a restart."""
    return own_redis()


@pytest.fixture
def made(broker: RedisServer, own_redis: Callable[..., RedisServer], tmp_path: Path) -> Iterator[Deployment]:
    with deployment(broker.url, tmp_path / "made", store=own_redis().url) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file that a step of `gated` waits for; it appears when the test ends, if not before."""
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


def dispatch(made: Deployment, gate: Path) -> WorkflowHandle:
    """Start a workflow of two steps; the first one waits for the gate."""
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    steps = [ActivitySpec("gated", str(gate)), ActivitySpec("draft", "after")]
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)


def test_the_step_of_a_killed_worker_runs_on_another_one(made: Deployment, gate: Path) -> None:
    """The broker would hold its message for another hour, but the store knows that nobody runs it."""
    killed = made.ready_worker("press", "troubles", slots=1, name="killed")
    handle = dispatch(made, gate)
    eventually(lambda: len(made.runs()) == 1, within=WITHIN, what="the first run did not begin")
    made.ready_worker("press", "troubles", slots=1, name="second")

    killed.kill()
    eventually(lambda: len(made.runs()) == 2, within=WITHIN, what="the second run did not begin")
    gate.touch()

    assert handle.result_sync(WITHIN).output == "draft(after|the gate is open)"
    assert made.runs() == [f"{handle.correlation_id}.{place}" for place in (0, 0, 1)]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_broker_that_comes_back_empty_loses_no_workflow(
    made: Deployment, broker: RedisServer, gate: Path, pool: str, in_a_hurry: str
) -> None:
    """This holds for the one whose step was running and for those whose messages waited."""
    worker = made.ready_worker("press", "troubles", in_a_hurry, pool=pool, slots=1)
    handles = [dispatch(made, gate) for _ in range(5)]
    eventually(lambda: len(made.runs()) == 1, within=WITHIN, what="the first run did not begin")

    broker.stop()
    worker.wait_for_log("Connection to broker lost")
    broker.start()
    gate.touch()

    for handle in handles:
        assert handle.result_sync(WITHIN).output == "draft(after|the gate is open)"
        assert [event.type for event in handle.events_so_far()].count("completed") == 2
    assert sorted(made.runs()) == sorted(f"{handle.correlation_id}.{place}" for handle in handles for place in (0, 1))


@pytest.mark.xdist_group("short leases")
@pytest.mark.parametrize("pool", ["threads", pytest.param("prefork", marks=pytest.mark.proof)])
def test_a_store_that_loses_its_data_again_and_again_loses_no_workflow_that_has_a_message(
    own_redis: Callable[..., RedisServer], gate: Path, tmp_path: Path, pool: str
) -> None:
    """Neither one whose step runs nor one whose message waits: each is adopted from it, and goes on."""
    broker, store = own_redis(), own_redis()
    with (
        deployment(broker.url, tmp_path / "made", store=store.url, paigeant_lease=BRIEF_LEASE) as made,
        redis.Redis.from_url(store.url) as client,
    ):
        made.ready_worker("press", "troubles", pool=pool, slots=AT_ONCE)
        handles = [dispatch(made, gate) for _ in range(WORKFLOWS)]
        for loss in range(LOSSES):
            wait_for_runs(made, (loss + 1) * AT_ONCE)
            client.flushall()
        wait_for_runs(made, (LOSSES + 1) * AT_ONCE)
        gate.touch()

        eventually(lambda: {state_of(handle) for handle in handles} == {"completed"}, within=WITHIN)
        assert {handle.result_sync(0).output for handle in handles} == {"draft(after|the gate is open)"}
        assert DeadLetters(made.transport()).list() == []


@pytest.mark.proof
@pytest.mark.xdist_group("short leases")
@pytest.mark.parametrize("part", ["hop", "wf"])
def test_a_step_whose_record_or_workflow_alone_is_lost_begins_again(
    own_redis: Callable[..., RedisServer], gate: Path, tmp_path: Path, part: str
) -> None:
    """A server that evicts keys does not ask which belong together."""
    broker, store = own_redis(), own_redis()
    with (
        deployment(broker.url, tmp_path / "made", store=store.url, paigeant_lease=BRIEF_LEASE) as made,
        redis.Redis.from_url(store.url) as client,
    ):
        made.ready_worker("press", "troubles", pool="threads", slots=1)
        handle = dispatch(made, gate)
        wait_for_runs(made, 1)
        names = {"hop": f"hop:{handle.correlation_id}.0", "wf": f"wf:{handle.correlation_id}"}
        client.delete(f"{made.prefix}:{names[part]}")
        wait_for_runs(made, 2)
        gate.touch()

        eventually(lambda: state_of(handle) == "completed", within=WITHIN)
        assert handle.result_sync(0).output == "draft(after|the gate is open)"


@pytest.mark.proof
@pytest.mark.xdist_group("short leases")
def test_what_cannot_go_on_without_the_lost_store_becomes_a_letter(
    own_redis: Callable[..., RedisServer], gate: Path, tmp_path: Path
) -> None:
    """The output of an earlier step was only there, whether the next step runs or its message waits."""
    broker, store = own_redis(), own_redis()
    with (
        deployment(broker.url, tmp_path / "made", store=store.url, paigeant_lease=BRIEF_LEASE) as made,
        redis.Redis.from_url(store.url) as client,
    ):
        made.ready_worker("press", pool="threads", name="press")
        made.ready_worker("troubles", pool="threads", slots=AT_ONCE, name="troubles")
        transport, dispatcher = made.transport(), WorkflowDispatcher()
        steps = [ActivitySpec("draft", "x" * 40_000), ActivitySpec("gated", str(gate))]
        ids = {dispatcher.dispatch_workflow_sync(transport, itinerary=steps) for _ in range(WORKFLOWS)}
        handles = [dispatcher.handle(correlation_id, transport) for correlation_id in ids]
        wait_for_runs(made, WORKFLOWS + AT_ONCE)  # all drafts; the other steps wait for a slot
        eventually(lambda: all(handle.status_sync().executed for handle in handles), within=WITHIN)

        client.flushall()

        letters = DeadLetters(transport)
        eventually(lambda: {letter.correlation_id for letter in letters.list()} == ids, within=WITHIN)
        assert {letter.reason for letter in letters.list()} == {"store_lost"}


def wait_for_runs(made: Deployment, number: int) -> None:
    eventually(lambda: len(made.runs()) >= number, within=WITHIN, what=f"{number} runs did not begin")


def state_of(handle: WorkflowHandle) -> str:
    try:
        return handle.status_sync().state
    except UnknownWorkflow:
        return "unknown"
