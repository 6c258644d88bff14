"""Workers that are killed, frozen or robbed of a message: their workflows go on, and each step counts once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from paigeant_celery import ActivitySpec, WorkflowDispatcher, WorkflowHandle
from tests.support.processes import GEVENT, Deployment, Process, deployment, eventually, own_pids
from tests.support.servers import RedisServer

WITHIN = 30.0  # seconds for what takes about two, most of it the start of a worker
SOON = 8.0  # less than the default lease, because on the same host nobody waits for it
BRIEF_LEASE = 1.0

pytestmark = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see processes die")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file that a step of `gated` waits for; it appears when the test ends, if not before."""
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


@pytest.fixture
def made(redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    with deployment(redis_url, tmp_path / "made") as made:
        yield made


@pytest.fixture
def apart() -> tuple[str, ...]:
    """The command that starts a worker in its own pid namespace, as in a container."""
    if own_pids():
        return own_pids()
    text = "`unshare` makes no pid namespace here; it takes root, or user namespaces that are allowed"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def dispatch(where: Deployment, gate: Path) -> WorkflowHandle:
    """Start a workflow of three steps; the second one waits for the gate."""
    transport, dispatcher = where.transport(), WorkflowDispatcher()
    steps = [ActivitySpec("draft", "a"), ActivitySpec("gated", str(gate)), ActivitySpec("draft", "c", step_id="last")]
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)


def runs(where: Deployment, handle: WorkflowHandle) -> list[int]:
    """How often each step's model was called."""
    return [where.runs().count(f"{handle.correlation_id}.{place}") for place in range(3)]


def gated_runs(where: Deployment, handle: WorkflowHandle, times: int) -> None:
    """Wait until the gated step was begun this often."""
    eventually(lambda: runs(where, handle)[1] == times, within=SOON, what=f"it was not begun {times} times")


def expect_whole(handle: WorkflowHandle) -> None:
    """Each step counts once, in the order of the slip."""
    result = handle.result_sync(WITHIN)
    assert [step.step_id for step in result.steps] == ["draft", "gated", "last"]
    completed = [event.hop_id for event in handle.events_so_far() if event.type == "completed"]
    assert completed == [f"{handle.correlation_id}.{place}" for place in range(3)]


def children(process: Process) -> list[int]:
    """Process ids of the slots of a prefork worker."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", GEVENT])
def test_the_step_of_a_killed_worker_runs_on_another_one(made: Deployment, gate: Path, pool: str) -> None:
    """A machine's out-of-memory killer ends a worker; the workflow loses seconds."""
    first = made.ready_worker("press", "troubles", pool=pool, slots=1, name="first")
    handle = dispatch(made, gate)
    gated_runs(made, handle, 1)
    made.ready_worker("press", "troubles", pool=pool, slots=1, name="second")

    first.kill()

    gated_runs(made, handle, 2)
    gate.touch()
    expect_whole(handle)
    assert runs(made, handle) == [1, 2, 1]


def test_the_step_of_a_killed_child_runs_in_the_same_worker(made: Deployment, gate: Path) -> None:
    """A native library crashes one process of the pool."""
    worker = made.ready_worker("press", "troubles", pool="prefork", slots=1)
    handle = dispatch(made, gate)
    gated_runs(made, handle, 1)

    for child in children(worker):
        os.kill(child, signal.SIGKILL)

    gated_runs(made, handle, 2)
    gate.touch()
    expect_whole(handle)
    assert runs(made, handle) == [1, 2, 1]
    assert worker.running


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", GEVENT])
def test_a_worker_that_is_told_to_end_gives_its_step_back(
    redis_url: str, tmp_path: Path, gate: Path, pool: str
) -> None:
    """A deployment at noon takes seconds and costs no workflow an attempt."""
    with deployment(redis_url, tmp_path / "made", paigeant_shutdown_grace=0.5) as made:
        first = made.ready_worker("press", "troubles", pool=pool, slots=1, name="first")
        handle = dispatch(made, gate)
        gated_runs(made, handle, 1)
        made.ready_worker("press", "troubles", pool=pool, slots=1, name="second")

        assert first.terminate() == 0

        gated_runs(made, handle, 2)
        assert handle.status_sync().attempt == 1
        gate.touch()
        expect_whole(handle)
        assert runs(made, handle) == [1, 2, 1]
        assert "released" in [event.type for event in handle.events_so_far()]


def test_a_worker_that_is_ended_by_remote_control_gives_its_step_back(
    redis_url: str, tmp_path: Path, gate: Path
) -> None:
    """Flower's button sends no signal; a worker that it ends must not hang on a step of an hour either."""
    with deployment(redis_url, tmp_path / "made", paigeant_shutdown_grace=0.5) as made:
        first = made.ready_worker("press", "troubles", pool="prefork", slots=1, name="first")
        handle = dispatch(made, gate)
        gated_runs(made, handle, 1)
        made.ready_worker("press", "troubles", pool="prefork", slots=1, name="second")

        app = Celery("remote", broker=made.url, set_as_current=False)
        hosts = [name for answer in app.control.ping(timeout=3) for name in answer]
        app.control.shutdown(destination=[name for name in hosts if name.startswith("first")])

        assert first.ended() == 0
        gated_runs(made, handle, 2)
        assert handle.status_sync().attempt == 1
        gate.touch()
        expect_whole(handle)


def test_a_step_that_ends_within_the_grace_is_recorded(made: Deployment, gate: Path) -> None:
    """Nearly finished work is not paid for twice."""
    first = made.ready_worker("press", "troubles", pool="prefork", slots=1, name="first")
    handle = dispatch(made, gate)
    gated_runs(made, handle, 1)

    os.kill(first.pid, signal.SIGTERM)
    first.wait_for_log("Warm shutdown")
    gate.touch()

    assert first.ended() == 0
    assert handle.status_sync().executed == ("draft", "gated")
    made.ready_worker("press", "troubles", pool="prefork", slots=1, name="second")
    expect_whole(handle)
    assert runs(made, handle) == [1, 1, 1]


def test_a_message_that_is_lost_in_the_broker_is_sent_again(made: Deployment, gate: Path, in_a_hurry: str) -> None:
    """Kombu takes a message from Redis before it records that it did; a worker killed in between loses it."""
    gate.touch()
    handle = dispatch(made, gate)
    with redis.Redis.from_url(made.url) as broker:
        assert broker.delete(f"{made.prefix}.draft") == 1

    made.ready_worker("press", "troubles", in_a_hurry)

    expect_whole(handle)
    assert runs(made, handle) == [1, 1, 1]
    assert "resent" in [event.type for event in handle.events_so_far()]


@pytest.mark.xdist_group("short leases")
def test_a_worker_that_was_frozen_for_longer_than_its_lease_writes_nothing(
    redis_url: str, tmp_path: Path, gate: Path
) -> None:
    """A virtual machine is paused and comes back after another one took the step."""
    with deployment(redis_url, tmp_path / "made", paigeant_lease=BRIEF_LEASE) as made:
        frozen = made.ready_worker("press", "troubles", pool="threads", slots=1, name="frozen")
        handle = dispatch(made, gate)
        gated_runs(made, handle, 1)
        made.ready_worker("press", "troubles", pool="threads", slots=1, name="second")
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            gated_runs(made, handle, 2)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        frozen.wait_for_log("hop lost to another owner; its run is cancelled")
        gate.touch()

        expect_whole(handle)
        assert runs(made, handle) == [1, 2, 1]


@pytest.mark.xdist_group("short leases")
@pytest.mark.parametrize("contained", ["the one that runs the step", "the one that looks after it"])
def test_a_worker_in_another_container_is_judged_by_its_lease_alone(
    redis_url: str, tmp_path: Path, gate: Path, apart: tuple[str, ...], contained: str
) -> None:
    """Its process ids mean other processes outside; a step that runs there would begin again each second."""
    inside, outside = (apart, ()) if contained == "the one that runs the step" else ((), apart)
    with deployment(redis_url, tmp_path / "made", paigeant_lease=BRIEF_LEASE) as made:
        first = made.ready_worker("press", "troubles", pool="prefork", slots=1, name="first", before=inside)
        handle = dispatch(made, gate)
        gated_runs(made, handle, 1)
        made.ready_worker("press", "troubles", pool="prefork", slots=1, name="second", before=outside)

        swept(made, times=4)
        assert runs(made, handle) == [1, 1, 0]

        first.kill()
        gated_runs(made, handle, 2)
        gate.touch()
        expect_whole(handle)
        assert [event.fields["why"] for event in handle.events_so_far() if event.type == "resent"] == ["lease_over"]


def swept(where: Deployment, *, times: int) -> None:
    """Wait until workers have swept this often."""
    with redis.Redis.from_url(where.url) as store:
        for _ in range(times):
            last = store.hget(f"{where.prefix}:meta", "swept_at")
            eventually(lambda last=last: store.hget(f"{where.prefix}:meta", "swept_at") != last)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", GEVENT])
def test_a_step_that_outlasts_the_visibility_timeout_runs_once(
    redis_url: str, tmp_path: Path, gate: Path, pool: str
) -> None:
    """A Celery chain would begin a long step again each time; here the copy is dropped."""
    options = {"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    with deployment(redis_url, tmp_path / "made", broker_transport_options=options) as made:
        workers = [made.ready_worker("press", "troubles", pool=pool, slots=1, name=name) for name in ("one", "two")]
        handle = dispatch(made, gate)
        received = f"gated[{handle.correlation_id}.1] received"
        eventually(
            lambda: sum(worker.log().count(received) for worker in workers) >= 2,
            within=WITHIN,
            what="no copy of the step was delivered",
        )
        gate.touch()

        expect_whole(handle)
        assert runs(made, handle) == [1, 1, 1]
        assert handle.status_sync().attempt == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", GEVENT])
@pytest.mark.parametrize(("how", "deliveries"), [("cut", 2), ("restarted", 1)])
def test_a_lost_broker_connection_under_a_run_starts_no_second_one(
    own_redis: Callable[..., RedisServer], tmp_path: Path, gate: Path, pool: str, how: str, deliveries: int
) -> None:
    """The worker reconnects. The server, still alive, delivers the message again, but the worker has the step."""
    server = own_redis("--appendonly", "yes")
    with deployment(server.url, tmp_path / "made") as made:
        worker = made.ready_worker("press", "troubles", pool=pool, slots=2)
        handle = dispatch(made, gate)
        gated_runs(made, handle, 1)

        if how == "cut":
            with redis.Redis.from_url(made.url) as client:
                client.client_kill_filter(_type="normal", skipme=True)
        else:
            server.stop()
        worker.wait_for_log("Connection to broker lost")
        if how == "restarted":
            server.start()
        received = f"gated[{handle.correlation_id}.1] received"
        eventually(
            lambda: (worker.log().count("] Connected to redis"), worker.log().count(received)) == (2, deliveries),
            within=WITHIN,
            what="no copy of the step was delivered",
        )
        gate.touch()

        expect_whole(handle)
        assert runs(made, handle) == [1, 1, 1]
        assert handle.status_sync().attempt == 1
        assert worker.running
        assert "Unrecoverable error" not in worker.log()
