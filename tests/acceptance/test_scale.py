"""Many at once: a backlog that is not multiplied, and an outage after which nothing runs twice."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, WorkflowHandle
from paigeant_celery.core.message import sha256
from paigeant_celery.store.port import HopRecord, NewWorkflow
from tests.support.processes import Deployment, deployment, eventually
from tests.support.servers import RedisServer

BACKLOG = 3_000  # hops; one pass looks at a thousand of them
LARGE_BACKLOG = 10_000
# Seconds. A hop is overdue after 5 and again after 10 more. With the passes, 10 000 hops take 26; the whole test of
# 3000 took 18.
LOOKED_AT_TWICE_WITHIN = 60.0

RUNS = 200
LEASE = 2.0  # seconds
OUTAGE = 3 * LEASE
WITHIN = 30.0  # seconds

pytestmark = pytest.mark.xdist_group("measured")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file that a step waits for; it appears when the test ends, if not before."""
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


def dispatch(
    made: Deployment, *steps: ActivitySpec | FunctionSpec, correlation_id: str | None = None
) -> WorkflowHandle:
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    sent = dispatcher.dispatch_workflow_sync(transport, itinerary=steps, correlation_id=correlation_id)
    return dispatcher.handle(sent, transport)


class Backlog:
    """Thousands of workflows that wait for one worker; all are the first one under other names of the same length."""

    def __init__(self, made: Deployment, step: ActivitySpec, size: int) -> None:
        self.names = [f"w{number:05}" for number in range(size)]
        self._prefix, self._queue = made.prefix, f"{made.prefix}.{step.activity}"
        self._client = redis.Redis.from_url(made.url, decode_responses=True)
        dispatch(made, step, correlation_id=self.names[0])
        self._multiply(made)

    def length(self) -> int:
        """How many messages wait in the queue."""
        return cast("int", self._client.llen(self._queue))

    def waits(self, names: Sequence[str]) -> list[int]:
        """How often each hop that is still queued was found overdue."""
        with self._client.pipeline(transaction=False) as commands:
            for name in names:
                commands.hmget(f"{self._prefix}:hop:{name}.0", "state", "waits")
            return [int(waits) for state, waits in commands.execute() if state == "queued"]

    def _multiply(self, made: Deployment) -> None:
        store, first = made.transport().store, self.names[0]
        assert store is not None
        record = store.workflow(first)
        message = json.loads(cast("str", self._client.lindex(self._queue, 0)))
        body = base64.b64decode(message["body"]).decode()
        text = json.dumps({**message, "body": ""})
        assert record is not None
        for some in (self.names[i : i + 500] for i in range(1, len(self.names), 500)):
            messages = []
            for name in some:
                envelope = record.envelope.replace(first, name)
                hop = HopRecord(hop_id=f"{name}.0", queue=self._queue, envelope=envelope, digest=sha256(envelope))
                assert store.start(NewWorkflow(correlation_id=name, content=record.content, hop=hop)) == "started"
                copy: dict[str, Any] = json.loads(text.replace(first, name))
                copy["body"] = base64.b64encode(body.replace(first, name).encode()).decode()
                copy["properties"]["delivery_tag"] = str(uuid.uuid4())
                messages.append(json.dumps(copy))
            self._client.lpush(self._queue, *messages)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def made(redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    with deployment(redis_url, tmp_path / "made") as made:
        yield made


@pytest.mark.parametrize("size", [BACKLOG, pytest.param(LARGE_BACKLOG, marks=pytest.mark.proof)])
def test_a_backlog_is_not_multiplied_and_holds_nobody_else_up(made: Deployment, size: int) -> None:
    """Thousands of hops wait for one slow worker: if they were sent again while in line, there would be many more.

    A hop that waits for something else does not wait behind them, not even if its message was lost.
    """
    backlog, tolerated = Backlog(made, ActivitySpec("slow", "2"), size), size // 100  # copies
    lost = dispatch(made, ActivitySpec("draft", "elsewhere"))
    with redis.Redis.from_url(made.url) as broker:
        assert broker.delete(f"{made.prefix}.draft") == 1
    lengths = [backlog.length()]
    made.start_worker("troubles", pool="threads", slots=1, name="slow")
    made.start_worker("press", pool="threads", slots=1, name="sweeping")

    def looked_at_twice() -> bool:
        lengths.append(backlog.length())
        assert lengths[-1] <= size + tolerated
        return min(backlog.waits(backlog.names[::100])) >= 2

    eventually(looked_at_twice, within=LOOKED_AT_TWICE_WITHIN, what="the backlog was not swept twice")
    eventually(lambda: min(backlog.waits(backlog.names)) >= 2, what="not all of the backlog was swept twice")

    assert min(lengths) > size - tolerated
    assert lost.status_sync().state == "completed"
    runs = made.runs()
    assert len(runs) > 5
    assert max(Counter(runs).values()) == 1
    backlog.close()


def test_after_an_outage_of_the_store_no_run_is_taken_over(
    own_redis: Callable[..., RedisServer], tmp_path: Path, gate: Path
) -> None:
    """Redis is down for three leases; workers go on with their steps, although another worker has free slots.

    This holds even for a worker that comes back after others have swept, because the outage ended all leases.
    """
    server = own_redis("--appendonly", "yes")
    with deployment(server.url, tmp_path / "made", paigeant_lease=LEASE) as made:
        # With free slots: a worker whose slots are all taken does not wait for messages while its server goes away.
        slots = RUNS // 2 + 20
        busy = [made.start_worker("crowd", pool="threads", slots=slots, name=name) for name in ("late", "soon")]
        handles = [dispatch(made, FunctionSpec("attend", {"gate": str(gate)})) for _ in range(RUNS)]
        eventually(lambda: len(made.runs()) == RUNS, within=WITHIN, what="not all runs began")
        made.ready_worker("crowd", pool="threads", slots=RUNS // 2, name="idle")
        eventually(lambda: swept(made)[0] > 0, within=WITHIN, what="nobody swept")  # only then a gap can be seen

        began = time.time()
        server.stop()
        threading.Event().wait(OUTAGE)
        os.kill(busy[0].pid, signal.SIGSTOP)
        server.start()
        eventually(lambda: swept(made)[0] > began, within=WITHIN, what="nobody swept after the outage")
        threading.Event().wait(LEASE / 2)
        os.kill(busy[0].pid, signal.SIGCONT)

        eventually(lambda: swept(made)[0] > swept(made)[1] > began, within=WITHIN, what="the time to come back goes on")
        gate.touch()
        eventually(lambda: {handle.status_sync().state for handle in handles} == {"completed"}, within=WITHIN)
        assert sorted(made.runs()) == sorted(f"{handle.correlation_id}.0" for handle in handles)
        assert {handle.status_sync().attempt for handle in handles} == {1}
        claims = [event for handle in handles for event in handle.events_sync() if event.type == "claimed"]
        assert len(claims) == RUNS
        assert all(worker.running and "Unrecoverable" not in worker.log() for worker in busy)


def swept(made: Deployment) -> tuple[float, float]:
    """When the last sweep was, and until when owners may come back after the last outage."""
    with redis.Redis.from_url(made.url, decode_responses=True) as client:
        swept_at, held_until = client.hmget(f"{made.prefix}:meta", "swept_at", "held_until")
    return float(swept_at or 0) / 1000, float(held_until or 0) / 1000
