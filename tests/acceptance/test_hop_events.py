"""The events of hops, as they come from real workers; some of these gather them until something has them sent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from paigeant_celery import ActivitySpec, WorkflowDispatcher, WorkflowHandle
from tests.support.event_messages import WHOLE, watching
from tests.support.processes import Deployment, deployment, eventually
from tests.support.servers import RedisDatabase, RedisServer

WITHIN = 20.0
proof = pytest.mark.proof


def dispatch(made: Deployment, gate: Path | None = None) -> WorkflowHandle:
    """Start a workflow of three steps, of which the second waits for the gate, if there is one."""
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    second = ActivitySpec("review", "b") if gate is None else ActivitySpec("gated", str(gate))
    steps = [ActivitySpec("draft", "a"), second, ActivitySpec("publish", "c")]
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)


def at_gate(made: Deployment, gate: Path) -> WorkflowHandle:
    """Start a workflow and wait until its second step waits; a worker of one slot is done with the first one."""
    handle = dispatch(made, gate)
    eventually(lambda: f"{handle.correlation_id}.1" in made.runs(), within=WITHIN)
    return handle


@pytest.mark.parametrize(
    ("pool", "settings"),
    [
        pytest.param("threads", {}, id="threads"),
        pytest.param("prefork", {}, id="prefork", marks=proof),
        pytest.param("prefork", {"worker_max_tasks_per_child": 1}, id="children of one task", marks=proof),
        pytest.param("solo", {}, id="solo", marks=proof),
        pytest.param("gevent", {}, id="gevent", marks=proof),
    ],
)
def test_a_worker_sends_what_is_asked_for_and_all_of_it_before_it_ends(
    redis_db: RedisDatabase, tmp_path: Path, pool: str, settings: dict[str, object]
) -> None:
    """Flower's button lets a worker tell of its hops or not; a worker that ends keeps nothing back."""
    with deployment(redis_db.url, tmp_path, worker_send_task_events=False, **settings) as made:
        worker, app = made.ready_worker("desk", "press", "gathering", pool=pool, slots=1), made.transport().app
        with watching(app) as messages:
            before = dispatch(made)
            before.result_sync(WITHIN)
            assert app.control.enable_events(reply=True, limit=1)
            shown = dispatch(made)
            shown.result_sync(WITHIN)
            dispatch(made).result_sync(WITHIN)  # so its only slot is done with the other
            assert app.control.disable_events(reply=True, limit=1)
            after = dispatch(made)
            after.result_sync(WITHIN)
            assert worker.terminate() == 0
            eventually(lambda: "worker-offline" in messages.types, within=WITHIN)

    assert [messages.of(shown, place) for place in range(3)] == [WHOLE] * 3
    assert [messages.of(handle, place) for handle in (before, after) for place in range(3)] == [[]] * 6
    assert messages.states(shown) == ["SUCCESS"] * 3
    assert messages.types.index("worker-offline") > messages.types.index("task-succeeded")


def test_what_a_killed_worker_had_not_sent_is_all_that_is_missing(redis_db: RedisDatabase, tmp_path: Path) -> None:
    """Its workflow goes on, and Flower shows it from there."""
    gate = tmp_path / "gate"
    with deployment(redis_db.url, tmp_path) as made, watching(made.transport().app) as messages:
        first = made.ready_worker("desk", "press", "troubles", "gathering", pool="threads", name="first")
        handle = at_gate(made, gate)
        first.kill()
        assert [messages.of(handle, place) for place in range(3)] == [[], [], []]

        made.ready_worker("desk", "press", "troubles", pool="threads", name="second")
        gate.touch()

        assert [step.step_id for step in handle.result_sync(WITHIN).steps] == ["draft", "gated", "publish"]
        eventually(lambda: messages.of(handle, 2) == WHOLE, within=WITHIN)
        assert messages.of(handle, 0) == []
        assert messages.of(handle, 1) == WHOLE
        assert messages.states(handle) == [None, "SUCCESS", "SUCCESS"]


@pytest.mark.parametrize(
    ("pool", "slots"),  # under gevent, a worker whose slots are full does not look at its connection
    [("threads", 1), pytest.param("prefork", 1, marks=proof), pytest.param("gevent", 2, marks=proof)],
)
def test_events_outlive_the_connection_that_they_wait_for(
    own_redis: Callable[..., RedisServer], tmp_path: Path, pool: str, slots: int
) -> None:
    """Load balancers close connections as they like."""
    gate, broker = tmp_path / "gate", own_redis()
    with deployment(broker.url, tmp_path / "made") as made, watching(made.transport().app) as messages:
        with redis.Redis.from_url(broker.url) as client:
            kept = {one["id"] for one in client.client_list()}
            worker = made.ready_worker("desk", "press", "troubles", "gathering", pool=pool, slots=slots)
            handle = at_gate(made, gate)
            assert messages.of(handle, 0) == []

            for one in client.client_list():
                if one["id"] not in kept:
                    client.client_kill_filter(_id=one["id"])
            worker.wait_for_log("Connection to broker lost", within=WITHIN)
            eventually(lambda: messages.of(handle, 1)[:2] == WHOLE[:2], within=WITHIN)

        gate.touch()
        handle.result_sync(WITHIN)
        assert worker.terminate() == 0
        eventually(lambda: "worker-offline" in messages.types, within=WITHIN)

    assert messages.of(handle, 0)[:3] == WHOLE  # a copy of the message may have come as well
    assert messages.repeated == []
    assert messages.states(handle) == ["SUCCESS"] * 3


@proof
@pytest.mark.parametrize("remap", [False, True], ids=["SIGQUIT", "SIGTERM as SIGQUIT"])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_that_is_ended_cold_keeps_nothing_back(
    redis_db: RedisDatabase, tmp_path: Path, pool: str, remap: bool
) -> None:
    """It cancels its hops in the handler of the signal, and says so."""
    gate = tmp_path / "gate"
    with deployment(redis_db.url, tmp_path) as made, watching(made.transport().app) as messages:
        if remap:
            made.variables["REMAP_SIGTERM"] = "SIGQUIT"
        worker = made.ready_worker("desk", "press", "troubles", "gathering", pool=pool, slots=1)
        handle = at_gate(made, gate)

        os.kill(worker.pid, signal.SIGTERM if remap else signal.SIGQUIT)
        eventually(lambda: "worker-offline" in messages.types, within=WITHIN)
        gate.touch()
        worker.ended()

    assert messages.of(handle, 0) == WHOLE
    assert messages.of(handle, 1)[:2] == WHOLE[:2]
    assert messages.types.index("worker-offline") > messages.types.index("task-started")


@proof
def test_a_lost_child_takes_no_event_with_it(redis_db: RedisDatabase, tmp_path: Path) -> None:
    """All are sent by the worker's main process."""
    gate = tmp_path / "gate"
    with deployment(redis_db.url, tmp_path) as made, watching(made.transport().app) as messages:
        worker = made.ready_worker("desk", "press", "troubles", "gathering", pool="prefork", slots=1)
        handle = at_gate(made, gate)

        for child in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        gate.touch()
        handle.result_sync(WITHIN)
        assert worker.terminate() == 0
        eventually(lambda: "worker-offline" in messages.types, within=WITHIN)

    assert messages.of(handle, 0) == WHOLE
    assert (messages.of(handle, 1)[:2], messages.of(handle, 1)[-1]) == (WHOLE[:2], "succeeded")
    assert messages.states(handle) == ["SUCCESS"] * 3
    assert messages.repeated == []
