"""The ways to a Redis that hosts have: a worker takes each for broker and store, as Celery resolves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from paigeant_celery import ActivitySpec, WorkflowDispatcher
from paigeant_celery.store.redis_client import PERMISSIONS
from tests.support.processes import Deployment, deployment
from tests.support.servers import Certificates, RedisServer, free_port

WITHIN = 30.0  # seconds for what takes about two, most of it the start of a worker
OF_BROKER = "~paigeant.* ~_kombu.* ~unacked* ~*.pidbox* &* +@pubsub"

Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Deploy]:
    """Make deployments whose store is their broker."""
    with ExitStack() as stack:
        yield lambda url, **settings: stack.enter_context(deployment(url, tmp_path / "made", **settings))


def complete(made: Deployment) -> str:
    """Let a worker run a workflow, and return the log of the worker."""
    worker = made.ready_worker("press", pool="threads", slots=1)
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    handle = dispatcher.handle(
        dispatcher.dispatch_workflow_sync(transport, itinerary=[ActivitySpec("draft", "a")]), transport
    )

    assert handle.result_sync(WITHIN).output == "draft(a|)", worker.log()
    assert worker.terminate() == 0
    return worker.log()


def test_tls_with_an_authority_of_our_own(
    deploy: Deploy, tls_redis: Callable[..., RedisServer], own_authority: Certificates
) -> None:
    """Celery's dict is all that a host has to write."""
    server = tls_redis()
    options = {"ssl_cert_reqs": "required", "ssl_ca_certs": own_authority.authority}

    log = complete(deploy(f"redis://localhost:{server.tls_port}/0", broker_use_ssl=options))

    assert f"mode: durable, store: rediss://localhost:{server.tls_port}/0" in log
    assert "TLS, with a certificate that is verified" in log


def test_a_socket(deploy: Deploy, own_redis: Callable[..., RedisServer], tmp_path: Path) -> None:
    """Kombu has a scheme of its own for it."""
    path = tmp_path / "redis.sock"
    own_redis("--unixsocket", str(path))

    log = complete(deploy(f"redis+socket://{path}?virtual_host=2"))

    assert f"mode: durable, store: unix://{path}?db=2" in log


def test_the_first_of_several_brokers(deploy: Deploy, own_redis: Callable[..., RedisServer]) -> None:
    """The second one is away, and would be another server."""
    server = own_redis()

    log = complete(deploy([server.url, f"redis://127.0.0.1:{free_port()}/0"]))

    assert f"mode: durable, store: {server.url}" in log
    assert "the first broker of 2, and stays there if Celery fails over" in log


def test_a_user_with_the_rights_of_the_page(deploy: Deploy, own_redis: Callable[..., RedisServer]) -> None:
    """Nothing more is asked for, in a whole workflow."""
    server = own_redis("--appendonly", "yes")
    with redis.Redis.from_url(server.url, decode_responses=True) as admin:
        rules = f"~paigeant:* {PERMISSIONS} {OF_BROKER}"
        admin.execute_command("ACL", "SETUSER", "shop", "on", ">pw", *rules.split())

        log = complete(deploy(server.url.replace("//", "//shop:pw@"), paigeant_prefix="paigeant"))
        refused: Any = admin.execute_command("ACL", "LOG")

    assert [(entry["object"], entry["context"]) for entry in refused] == []
    assert "mode: durable" in log
    assert rules in Path("docs/brokers-and-stores.md").read_text(encoding="utf-8")


def fail_to_save(admin: Any) -> None:
    """Have it stop taking writes because its snapshot cannot be written: a folder has its name."""
    Path(admin.config_get("dir")["dir"], "dump.rdb").mkdir()
    admin.config_set("save", "3600 1")
    admin.bgsave()


@pytest.mark.parametrize(
    ("refuse", "permit", "named"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "READONLY"),
        pytest.param(
            ("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0"),
            "NOREPLICAS", marks=pytest.mark.proof,
        ),
        pytest.param(fail_to_save, ("CONFIG", "SET", "save", ""), "MISCONF", marks=pytest.mark.proof),
        pytest.param(
            ("ACL", "SETUSER", "shop", "-@write"), ("ACL", "SETUSER", "shop", "+@all"), "NOPERM",
            marks=pytest.mark.proof,
        ),
    ],
)  # fmt: skip
def test_a_worker_outlasts_what_its_broker_refuses_with(
    deploy: Deploy, own_redis: Callable[..., RedisServer], refuse: Any, permit: tuple[str, ...], named: str
) -> None:
    """Celery takes all of it for an error of the worker, and ends the worker."""
    server = own_redis("--appendonly", "yes")
    with redis.Redis.from_url(server.url, decode_responses=True) as admin:
        admin.execute_command("ACL", "SETUSER", "shop", "on", ">hunter2", "~*", "&*", "+@all")
        made = deploy(server.url.replace("//", "//shop:hunter2@"))
        worker = made.ready_worker("press", pool="threads", slots=1)

        admin.execute_command(*refuse) if isinstance(refuse, tuple) else refuse(admin)
        worker.wait_for_log(f"refuses ({named}", within=WITHIN)
        admin.execute_command(*permit)

    transport, dispatcher = made.transport(), WorkflowDispatcher()
    steps = [ActivitySpec("draft", "a")]
    handle = dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)
    assert handle.result_sync(WITHIN).output == "draft(a|)", worker.log()
    assert worker.terminate() == 0
    assert worker.log().count(f"refuses ({named}") == 1
    assert "hunter2" not in worker.log()


@pytest.mark.proof
def test_a_broker_of_files_carries_what_the_store_keeps(
    deploy: Deploy, own_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """A broker that is no server stands for all of Kombu's others; a worker that is killed loses no workflow."""
    (messages := tmp_path / "messages").mkdir()
    (control := tmp_path / "control").mkdir()
    folders = {"data_folder_in": str(messages), "data_folder_out": str(messages), "control_folder": str(control)}
    made = deploy("filesystem://", store=own_redis().url, broker_transport_options=folders)
    made.ready_worker("press", pool="threads", slots=1).kill()

    assert "mode: durable" in complete(made)
