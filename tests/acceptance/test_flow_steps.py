"""Workflows that wait in steps of their own, with real workers: no slot is held, and no worker is missed."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from paigeant_celery import (
    ActivityExecutor,
    ActivitySpec,
    DeadLetters,
    FunctionSpec,
    WorkflowDispatcher,
    WorkflowHandle,
    activity,
    sleep_for,
    wait_for,
)
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import CeleryTransport
from tests.support.processes import deployment, eventually

WITHIN = 30.0


def stands_at(transport: CeleryTransport, handle: WorkflowHandle, step_id: str) -> bool:
    """Say whether a workflow waits in a step, and no worker has it."""
    assert transport.store is not None
    record = transport.store.workflow(handle.correlation_id)
    return record is not None and record.suspended and handle.status_sync().step_id == step_id


@pytest.mark.parametrize("pool", ["threads", pytest.param("prefork", marks=pytest.mark.proof)])
def test_workflows_wait_on_no_worker_and_go_on_on_any(
    redis_url: str, tmp_path: Path, in_a_hurry: str, pool: str
) -> None:
    """The worker that asked is gone when the answer comes, and the next one was told only its own queues."""
    first, last = ActivitySpec("first", "go"), ActivitySpec("last", "go")
    with deployment(redis_url, tmp_path / "deploy") as made:
        transport, dispatcher = made.transport(), WorkflowDispatcher()

        def dispatch(*steps: object) -> WorkflowHandle:
            sent = dispatcher.dispatch_workflow_sync(transport, itinerary=steps)  # type: ignore[arg-type]
            return dispatcher.handle(sent, transport)

        one = made.ready_worker("relay", in_a_hurry, name="one", pool=pool, slots=1)
        assert f"_flow (flow) from {made.prefix}._flow" in one.log()
        handles = [dispatch(first, sleep_for(1.2), wait_for("go"), last) for _ in range(3)]
        for handle in handles:
            eventually(lambda handle=handle: stands_at(transport, handle, "wait-go"), within=WITHIN)
        passing = dispatch(first, last)
        assert passing.result_sync(WITHIN).output == "last(go|first(go|))"  # the only slot is free
        one.kill()

        queues = ",".join(f"{made.prefix}.{name}" for name in ("first", "last"))
        two = made.run(
            "-A", "paigeant_celery", "worker", "-n", f"two-{made.prefix}@%h", "-P", pool, "-c", "1", "-l", "INFO",
            "-Q", queues, "-I", f"relay,{in_a_hurry}",
            folder=made.configured("two", early=[in_a_hurry]), name="two",
        )  # fmt: skip
        two.wait_for_log(" ready.", within=WITHIN)
        control = transport.app.control
        # A worker on Redis says that it is ready before it hears what is broadcast.
        eventually(lambda: f"two-{made.prefix}@" in str(control.ping(timeout=1)), within=WITHIN)
        revoked, *waiting = handles
        control.revoke(f"{revoked.correlation_id}.2", terminate=True)
        eventually(lambda: revoked.status_sync().state == "cancelled", within=WITHIN)
        for number, handle in enumerate(waiting):
            handle.signal_sync("go", number)
        results = [handle.result_sync(WITHIN) for handle in waiting]

        assert [result.outputs["wait-go"] for result in results] == [0, 1]
        assert [result.output for result in results] == ["last(go|0)", "last(go|1)"]
        hops = [f"{handle.correlation_id}.0" for handle in (*handles, passing)]
        hops += [f"{handle.correlation_id}.3" for handle in waiting] + [f"{passing.correlation_id}.1"]
        assert Counter(made.runs()) == dict.fromkeys(hops, 1)
        types = Counter(event.type for event in waiting[0].events_so_far())
        assert types["suspended"] == 2
        assert types.keys() & {"retrying", "parked", "failed", "released"} == set()
        assert DeadLetters(transport).list() == []
        assert two.terminate() == 0


def test_an_executor_serves_the_waits_of_its_deployment_on_redis(redis_url: str, tmp_path: Path) -> None:
    """A program that serves one activity serves what its workflows wait for, too."""
    with registry.isolated(), deployment(redis_url, tmp_path / "deploy") as made:
        held = activity(name="told")(lambda: "told")
        transport, dispatcher = made.transport(), WorkflowDispatcher()

        async def main() -> object:
            serving = asyncio.create_task(ActivityExecutor(transport, "told").start())
            steps = [sleep_for(0.2), wait_for("go"), FunctionSpec("told")]
            sent = await dispatcher.dispatch_workflow(transport, itinerary=steps)
            handle = dispatcher.handle(sent, transport)
            await handle.signal("go", "now")
            result = await handle.result(WITHIN)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            return result.outputs

        assert asyncio.run(main()) == {"wait-go": "now", "told": "told"}
        assert held.name == "told"
