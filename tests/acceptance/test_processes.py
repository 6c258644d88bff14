"""Workers that start late, end early or find no server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from celery import Celery

from paigeant_celery import ActivitySpec, WorkflowDispatcher, WorkflowHandle, get_transport
from paigeant_celery.broker.transport import transport_of
from paigeant_celery.core.errors import NotRecorded, Unreachable
from tests.support.processes import (
    GEVENT,
    START_WITHIN,
    Deployment,
    Process,
    deployment,
    run_script,
    script_environment,
)
from tests.support.servers import RedisServer, free_port

WITHIN = 20.0


@dataclass
class Late:
    """A workflow that was dispatched before its worker was started."""

    handle: WorkflowHandle
    state_before: str
    worker: Process


def dispatch(where: Deployment, *steps: ActivitySpec) -> WorkflowHandle:
    transport = where.transport()
    dispatcher = WorkflowDispatcher()
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)


@pytest.fixture(scope="module", params=["prefork", "threads", "solo", GEVENT])
def late(request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Late]:
    with deployment(redis_url, tmp_path_factory.mktemp("late")) as made:
        handle = dispatch(made, ActivitySpec("draft", "early"), ActivitySpec("draft", "again"))
        state = handle.status_sync().state
        yield Late(handle, state, made.ready_worker("press", pool=request.param, cold=True))


@pytest.mark.together("late")
def test_a_workflow_waits_for_a_worker_that_starts_later(late: Late) -> None:
    """Dispatching needs only a broker and a store."""
    assert late.state_before == "queued"

    result = late.handle.result_sync(WITHIN)

    assert result.outputs == {"draft": "draft(early|)", "draft-2": "draft(again|draft(early|))"}


@pytest.mark.together("late")
def test_a_worker_says_what_it_serves_and_what_it_promises(late: Late, redis_url: str) -> None:
    """At start-up an operator can read whether a worker is set up as intended."""
    log = late.worker.log()

    assert f"[paigeant_celery] mode: durable, store: {redis_url}\n" in log
    for line in ("count_letters (function)", "digest_of (function)", "draft (agent)"):
        assert f"  . {line} from test-" in log
    assert "  settings: worker_prefetch_multiplier 1, visibility_timeout 3600 s (a copy of a longer step " in log


@pytest.mark.together("late")
def test_a_worker_that_has_run_steps_ends_at_sigterm(late: Late) -> None:
    """A deployment replaces its workers; none of our threads may keep one alive."""
    late.handle.result_sync(WITHIN)
    started = time.monotonic()

    assert late.worker.terminate(within=10.0) == 0

    assert time.monotonic() - started < 6.0


def test_the_plain_command_serves_agents_and_leaves_the_tasks_of_others(
    own_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """`celery -A paigeant_celery worker -I …` is all that a first try needs, even next to a Celery application."""
    url = own_redis().url
    with Celery("shop", broker=url, set_as_current=False) as other:
        other.send_task("shop.send_mail")
    environment = {**script_environment(), "PAIGEANT_REDIS_URL": url, "RUNS_FILE": str(tmp_path / "runs")}
    command = [sys.executable, "-m", "celery", "-A", "paigeant_celery", "worker", "-I", "press", "-c", "1"]
    worker = Process(command, folder=tmp_path, environment=environment, name="plain", cold=True)
    try:
        script = (
            "from paigeant_celery import ActivitySpec, WorkflowDispatcher, get_transport\n"
            "dispatcher = WorkflowDispatcher()\n"
            "dispatcher.add(ActivitySpec('draft', 'plainly'))\n"
            "correlation_id = dispatcher.dispatch_workflow_sync(get_transport())\n"
            "print(dispatcher.handle(correlation_id).result_sync(40).output)\n"
        )
        assert run_script(script, cold=True, PAIGEANT_REDIS_URL=url) == "draft(plainly|)\n"
        assert worker.terminate() == 0
        with redis.Redis.from_url(url) as server:
            assert server.llen("celery") == 1
    finally:
        worker.kill()


def test_a_worker_that_starts_before_its_server_connects_when_it_comes(
    own_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """After a power cut everything starts at once, in any order."""
    server = own_redis()
    server.stop()
    with deployment(server.url, tmp_path) as made:
        worker = made.start_worker("press", pool="threads")
        worker.wait_for_log("Cannot connect to redis", within=START_WITHIN)

        server.start()

        worker.wait_for_log(" ready.", within=START_WITHIN)
        assert dispatch(made, ActivitySpec("draft", "at last")).result_sync(WITHIN).output == "draft(at last|)"
        log = worker.log()
        assert f"the store at {server.url}" in log
        assert "Traceback" not in log


def test_a_store_that_may_evict_records_stops_a_worker_even_where_it_comes_later(
    own_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """A record that Redis drops is a workflow that never ends; starting late must not avoid the check."""
    server = own_redis("--maxmemory-policy", "allkeys-lru")
    server.stop()
    with deployment(server.url, tmp_path) as made:
        worker = made.start_worker("press", pool="threads")
        worker.wait_for_log("Cannot connect to redis", within=START_WITHIN)

        server.start()

        assert worker.ended(within=START_WITHIN) == 1
        assert "CRITICAL/MainProcess] paigeant_celery: configuration: " in worker.log()
        assert "`maxmemory-policy allkeys-lru`" in worker.log()
        assert "Traceback" not in worker.log()


def test_a_worker_goes_on_after_its_server_was_away(own_redis: Callable[..., RedisServer], tmp_path: Path) -> None:
    """A restart of Redis must not require restarting every worker."""
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    with deployment(server.url, tmp_path) as made:
        worker = made.ready_worker("press", pool="threads")
        dispatch(made, ActivitySpec("draft", "before")).result_sync(WITHIN)

        server.stop()
        worker.wait_for_log("Connection to broker lost", within=START_WITHIN)
        server.start()

        assert dispatch(made, ActivitySpec("draft", "after")).result_sync(WITHIN).output == "draft(after|)"


def test_dispatch_says_in_one_line_which_store_it_cannot_reach() -> None:
    """The first try on a new machine fails like this and must say what to do."""
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"

    with pytest.raises(NotRecorded) as raised:
        WorkflowDispatcher().dispatch_workflow_sync(get_transport(url), itinerary=[ActivitySpec("draft", "a")])

    text = str(raised.value)
    assert f"the store at {url.replace(':secret@', '')} " in text
    assert "`PAIGEANT_REDIS_URL`" in text
    assert "\n" not in text
    assert "secret" not in text


def test_dispatch_says_in_one_line_which_broker_it_cannot_reach() -> None:
    """The same without a store."""
    port = free_port()
    app = Celery("unreachable", broker=f"redis://:secret@127.0.0.1:{port}/0", set_as_current=False)

    with pytest.raises(Unreachable) as raised:
        WorkflowDispatcher().dispatch_workflow_sync(transport_of(app), itinerary=[ActivitySpec("draft", "a")])

    text = str(raised.value)
    assert "the broker at redis://" in text
    assert f"127.0.0.1:{port}/0" in text
    assert "`PAIGEANT_REDIS_URL`" in text
    assert "\n" not in text
    assert "secret" not in text
