"""pytest-celery's fixtures over local processes: a real server and real workers, without Docker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
    CeleryWorkerContainer,
    RedisContainer,
    RedisTestBackend,
    RedisTestBroker,
)

from tests.support.processes import START_WITHIN, Deployment, Process, deployment

POOLS = ("prefork", "threads")
LOG_SIZE = {"prefork": 4096, "threads": 0}  # with 0 the records of all steps but the last leave the message
LEASE = 1.0  # seconds; short, so that a run of ten leases is a short test; longer than a busy machine stalls


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts real workers."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.acceptance)


class LocalRedis(RedisContainer):
    """A server that runs on this machine, although pytest-celery expects a container."""

    def __init__(self, url: str) -> None:
        self._url = url

    id = name = "local-redis"
    status = "running"
    url = host_url = property(lambda self: self._url)
    hostname = property(lambda self: "127.0.0.1")
    port = property(lambda self: int(self._url.rpartition(":")[2].partition("/")[0]))
    vhost = property(lambda self: self._url.rpartition("/")[2])

    def ready(self) -> bool:
        return True

    def logs(self) -> str:
        return ""

    def reload(self) -> None:
        """Do nothing: there is nothing to look up again."""


class LocalWorker(CeleryWorkerContainer):
    """A worker process, although pytest-celery expects a container; it outlives the test."""

    def __init__(self, process: Process) -> None:
        self._process = process

    id = property(lambda self: str(self._process.pid))
    name = property(lambda self: self._process.name)
    status = property(lambda self: "running" if self._process.running else "exited")

    def ready(self) -> bool:
        self._process.wait_for_log(self.ready_prompt, within=START_WITHIN)
        return True

    def logs(self) -> str:
        return self._process.log()

    def reload(self) -> None:
        """Do nothing: there is nothing to look up again."""


@pytest.fixture(scope="session", params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    """Every pool that steps run in."""
    return str(request.param)


@pytest.fixture(scope="session")
def stage(redis_url: str, pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two workers, each with only some of the activities, for all tests of a pool."""
    brief = {
        "paigeant_lease": LEASE, "paigeant_max_attempts": 2, "paigeant_retry_backoff": 0.0,
        "paigeant_inline_log_size": LOG_SIZE[pool],
    }  # fmt: skip
    with deployment(redis_url, tmp_path_factory.mktemp(pool), **brief) as made:
        made.desk = made.start_worker("desk", "troubles", pool=pool, slots=4, name="desk")
        made.press = made.start_worker("press", pool=pool, slots=2, name="press")
        yield made


@pytest.fixture
def default_redis_broker(redis_url: str) -> LocalRedis:
    return LocalRedis(redis_url)


@pytest.fixture
def default_redis_backend(redis_url: str) -> LocalRedis:
    return LocalRedis(redis_url)


@pytest.fixture
def default_worker_container(stage: Deployment) -> LocalWorker:
    return LocalWorker(stage.desk)


@pytest.fixture
def celery_broker_cluster(celery_redis_broker: RedisTestBroker) -> CeleryBrokerCluster:
    """Only the local server; pytest-celery would also ask for RabbitMQ."""
    return CeleryBrokerCluster(celery_redis_broker)


@pytest.fixture
def celery_backend_cluster(celery_redis_backend: RedisTestBackend) -> CeleryBackendCluster:
    return CeleryBackendCluster(celery_redis_backend)


@pytest.fixture
def celery_worker_cluster(
    celery_setup_worker: CeleryTestWorker, stage: Deployment, celery_setup_app: Celery
) -> CeleryWorkerCluster:
    cluster = CeleryWorkerCluster(celery_setup_worker, CeleryTestWorker(LocalWorker(stage.press), celery_setup_app))
    assert cluster.ready()
    return cluster


@pytest.fixture
def celery_setup_cls(stage: Deployment) -> type[CeleryTestSetup]:
    class Setup(CeleryTestSetup):
        @classmethod
        def create_setup_app(cls, celery_setup_config: dict[str, Any], celery_setup_app_name: str) -> Celery:
            app = Celery(celery_setup_app_name, set_as_current=False)
            app.config_from_object(celery_setup_config)
            stage.configure(app)
            return app

    return Setup
