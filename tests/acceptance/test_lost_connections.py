"""Brokers that are lost while steps run, in hosts that want their tasks to end and begin again then."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from paigeant_celery import FunctionSpec, WorkflowDispatcher, WorkflowHandle
from tests.support.processes import Deployment, Process, deployment, eventually
from tests.support.servers import RedisServer

WITHIN = 30.0  # seconds
LOSSES = 2
CANCELS = {
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "broker_transport_options": {"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1},
}


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.proof)])
@pytest.mark.parametrize("apart", [True, pytest.param(False, marks=pytest.mark.proof)], ids=["apart", "together"])
def test_a_step_goes_on_however_often_its_broker_is_lost(
    own_redis: Callable[..., RedisServer], redis_url: str, tmp_path: Path, pool: str, apart: bool
) -> None:
    """Each loss ended the child and spent an attempt; the step was parked although nothing was wrong with it."""
    gate, broker = tmp_path / "gate", own_redis("--appendonly", "yes", "--appendfsync", "always")
    store = redis_url if apart else "broker"
    with deployment(broker.url, tmp_path / "made", store=store, **CANCELS) as made:
        worker = made.ready_worker("long_calls", pool=pool, slots=2)
        handle = dispatch(made, gate)
        eventually(made.runs, within=WITHIN)

        for loss in range(1, LOSSES + 1):
            lose(broker, worker, times=loss)
            dispatch(made, Path(__file__)).result_sync(WITHIN)  # it takes messages again
        gate.touch()

        assert handle.result_sync(WITHIN).output == "held"
        happened = [event.type for event in handle.events_so_far()]
        assert happened == ["started", "claimed", "completed", "workflow_completed"]
        assert made.runs().count(f"{handle.correlation_id}.0") == 1
        assert worker.log().count(f"hop {handle.correlation_id}.0 goes on: a copy of its message") == LOSSES


def test_a_task_of_the_host_ends_with_its_connection_as_the_host_wants(
    own_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """The setting is the host's, and its tasks have nobody who drops a copy; nor have steps without a store."""
    gate, broker = tmp_path / "gate", own_redis("--appendonly", "yes", "--appendfsync", "always")
    settings = {**CANCELS, "paigeant_consume": "also", "task_default_queue": "shop"}
    with deployment(broker.url, tmp_path / "made", store=None, **settings) as made:
        worker = made.ready_worker("long_calls", pool="prefork", slots=2)
        transport, step = made.transport(), FunctionSpec("hold_on", {"gate": str(gate)})
        correlation_id = WorkflowDispatcher().dispatch_workflow_sync(transport, itinerary=[step])
        transport.app.send_task("shop.hold_on", [str(gate)])
        begun = {f"{correlation_id}.0", "shop.hold_on"}
        eventually(lambda: set(made.runs()) == begun, within=WITHIN)

        lose(broker, worker, times=1)

        assert worker.log().count("Terminating it instead") == 2
        assert "goes on: a copy of its message" not in worker.log()
        gate.touch()
        eventually(lambda: sorted(made.runs()) == sorted([*begun, *begun]), within=WITHIN, what="not begun again")


def test_a_cold_shutdown_ends_the_steps_of_a_pool_of_processes(redis_url: str, tmp_path: Path) -> None:
    """Whoever asks for it does not want to wait; another worker begins the steps again."""
    gate = tmp_path / "gate"
    with deployment(redis_url, tmp_path / "made", **CANCELS) as made:
        worker = made.ready_worker("long_calls", pool="prefork", slots=2)
        handle = dispatch(made, gate)
        eventually(made.runs, within=WITHIN)

        os.kill(worker.pid, signal.SIGQUIT)
        worker.ended()

        gate.touch()
        made.ready_worker("long_calls", pool="prefork", slots=2, name="second")
        assert handle.result_sync(WITHIN).output == "held"
        assert len(made.runs()) == 2


def dispatch(where: Deployment, gate: Path) -> WorkflowHandle:
    """Have a step begin that ends when the gate is there."""
    transport, dispatcher = where.transport(), WorkflowDispatcher()
    step = FunctionSpec("hold_on", {"gate": str(gate)})
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=[step]), transport)


def lose(broker: RedisServer, worker: Process, *, times: int) -> None:
    """Restart the broker, for the so-manieth time, and wait until the worker has connected again."""
    broker.stop()
    eventually(lambda: worker.log().count("Connection to broker lost") >= times, within=WITHIN)
    broker.start()
    eventually(lambda: worker.log().count("Connected to redis") > times, within=WITHIN)
