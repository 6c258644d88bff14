"""A store belongs to one broker, whatever that is called: real servers that move, lose their data, or are others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery
from click.testing import CliRunner, Result

from paigeant_celery import ActivityExecutor, ActivitySpec, WorkflowDispatcher, WorkflowHandle, activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import CeleryTransport, transport_of
from paigeant_celery.cli import paigeant
from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.store.port import BoundBroker, OpenHops
from paigeant_celery.worker.serving import start_checks
from tests.support.processes import START_WITHIN, Deployment, deployment, eventually
from tests.support.sentinels import MASTER, SentinelGroup
from tests.support.servers import Certificates, RedisServer

WITHIN = 30.0  # seconds for what takes about two, most of it the start of a worker

Deploy = Callable[..., CeleryTransport]
STEP = ActivitySpec("draft", "early")


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Give each test an empty registry."""
    with registry.isolated():
        yield


@pytest.fixture
def servers(own_redis: Callable[..., RedisServer], tmp_path: Path) -> tuple[RedisServer, RedisServer]:
    """Two servers; the first one, on which the tests have their broker, also has a socket."""
    return own_redis("--unixsocket", str(tmp_path / "socket")), own_redis("--repl-diskless-sync-delay", "0")


@pytest.fixture
def app_with(servers: tuple[RedisServer, RedisServer]) -> Iterator[Deploy]:
    """Make the transports of hosts with this broker, and with a store on the second server."""
    with ExitStack() as stack:

        def make(broker: object, **options: object) -> CeleryTransport:
            app = stack.enter_context(Celery("shop", broker=broker, set_as_current=False))
            app.conf.update(
                paigeant_store_url=servers[1].url, broker_transport_options=options, task_ignore_result=True
            )
            return transport_of(app)

        yield make


def all_keys(*servers: RedisServer) -> dict[str, list[bytes]]:
    found = {}
    for server in servers:
        for database in (0, 1):
            url = f"{server.url[:-1]}{database}"
            with redis.Redis.from_url(url) as client:
                found[url] = sorted(client.keys("*"))
    return found


def id_at(server: RedisServer) -> str:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return str(client.get("paigeant:broker"))


def call(transport: CeleryTransport, *arguments: str, said: str | None = None) -> Result:
    """Call a command as the `celery` program does."""
    return CliRunner().invoke(paigeant, arguments, obj=SimpleNamespace(app=transport.app), input=said)


def replicated(old: RedisServer, new: RedisServer) -> None:
    """Give the second server the data of the first one, as an operator does who moves it."""
    with redis.Redis.from_url(new.url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", urlsplit(old.url).port)
        eventually(lambda: client.info("replication")["master_link_status"] == "up", what="not replicated")
        client.execute_command("REPLICAOF", "NO", "ONE")


def other_names(url: str, folder: Path) -> dict[str, object]:
    """Other ways to name the same database."""
    return {
        "host": url.replace("127.0.0.1", "localhost"),
        "no database": url.removesuffix("/0"),
        "user": url.replace("//", "//default:secret@"),
        "socket": f"redis+socket://{folder / 'socket'}?virtual_host=0",
        "list": [url.replace("127.0.0.1", "localhost"), url],
        "semicolons": f"{url};{url}",
    }


@pytest.mark.parametrize("name", other_names("", Path()))
def test_one_server_has_many_names(
    name: str, app_with: Deploy, servers: tuple[RedisServer, RedisServer], tmp_path: Path
) -> None:
    """Each host of a deployment calls its broker as its own configuration does."""
    if name == "user":
        with redis.Redis.from_url(servers[0].url) as client:
            client.execute_command("ACL", "SETUSER", "default", "on", ">secret", "~*", "&*", "+@all")
            client.execute_command("ACL", "SETUSER", "default", "nopass")
    known = app_with(servers[0].url)
    assert known.store is not None
    assert start_checks(known, embedded=True)
    again = app_with(other_names(servers[0].url, tmp_path)[name])

    assert start_checks(again, embedded=True)
    WorkflowDispatcher().dispatch_workflow_sync(again, itinerary=[STEP])
    WorkflowDispatcher().dispatch_workflow_sync(known, itinerary=[STEP])

    assert known.publisher.waiting("paigeant.draft") == 2
    assert known.store.bound_broker() == BoundBroker(address=again.broker_identity, id=id_at(servers[0]))


def test_a_server_is_the_same_whether_sentinels_name_it_or_a_url(
    app_with: Deploy, own_sentinels: Callable[..., SentinelGroup]
) -> None:
    """What it is known by is asked for as messages are sent, and follows a failover with them."""
    group = own_sentinels()
    known, through = app_with(group.primary().url), app_with(group.url, master_name=MASTER)
    assert known.store is not None
    assert start_checks(known, embedded=True)
    assert start_checks(through, embedded=True)
    through.check_broker()
    group.let_replica_catch_up()
    first, second = (id_at(server) for server in group.servers)

    assert known.store.bound_broker() == BoundBroker(address=through.broker_identity, id=first)
    assert first == second
    other = ";".join(f"sentinel://127.0.0.1:{port}/1" for port in group.ports)
    with pytest.raises(ConfigurationError, match="has no mark of that broker"):
        start_checks(app_with(other, master_name=MASTER), embedded=True)


def test_a_server_is_the_same_with_tls_and_without(
    app_with: Deploy, tls_redis: Callable[..., RedisServer], own_authority: Certificates
) -> None:
    """A deployment may turn TLS on while its workflows are under way."""
    server = tls_redis()
    known = app_with(server.url)
    checked = f"ssl_cert_reqs=required&ssl_ca_certs={own_authority.authority}"
    encrypted = app_with(f"rediss://127.0.0.1:{server.tls_port}/0?{checked}")
    assert start_checks(known, embedded=True)

    encrypted.check_broker()
    assert start_checks(encrypted, embedded=True)


@pytest.mark.parametrize("rights", [("~*", "-@scripting"), ("~paigeant.*", "~_kombu*"), ("%R~paigeant:broker",)])
def test_a_user_who_may_keep_no_id_knows_the_broker_by_its_address(
    app_with: Deploy, servers: tuple[RedisServer, RedisServer], rights: tuple[str, ...]
) -> None:
    """Administrators give an application the keys that it is known to need."""
    with redis.Redis.from_url(servers[0].url) as client:
        client.execute_command("ACL", "SETUSER", "shop", "on", ">secret", "&*", "+@all", *rights)
    limited, known = app_with(servers[0].url.replace("//", "//shop:secret@")), app_with(servers[0].url)
    store = known.store
    assert store is not None

    assert start_checks(limited, embedded=True)
    at_first = store.bound_broker()
    assert start_checks(known, embedded=True)
    assert start_checks(limited, embedded=True)
    limited.check_broker()

    assert at_first == BoundBroker(address=known.broker_identity)
    assert store.bound_broker() == BoundBroker(address=known.broker_identity, id=id_at(servers[0]))


@pytest.mark.parametrize(
    ("refuse", "allow"),
    [(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
     (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"))],
    ids=["full", "replica"],
)  # fmt: skip
def test_a_broker_that_takes_no_id_just_now_is_not_remembered_without_one(
    app_with: Deploy, servers: tuple[RedisServer, RedisServer], refuse: tuple[str, ...], allow: tuple[str, ...]
) -> None:
    """A store that had its bare address would refuse each worker that calls the server by another name."""
    known, renamed = app_with(servers[0].url), app_with(servers[0].url.replace("127.0.0.1", "localhost"))
    store = known.store
    assert store is not None

    with redis.Redis.from_url(servers[0].url) as client:
        client.execute_command(*refuse)
        assert not known.binding.check_worker(serves=True)
        at_first = store.bound_broker()
        client.execute_command(*allow)
    assert renamed.binding.check_worker(serves=True)
    assert known.binding.check_worker(serves=True)

    assert at_first is None
    assert store.bound_broker() == BoundBroker(address=known.broker_identity, id=id_at(servers[0]))


OTHERS: dict[str, Callable[[RedisServer, RedisServer], tuple[str, dict[str, object]]]] = {
    "database": lambda one, _two: (f"{one.url[:-1]}1", {}),
    "server": lambda _one, two: (two.url, {}),
    "key prefix": lambda one, _two: (one.url, {"global_keyprefix": "app:"}),
    "kind": lambda _one, _two: ("filesystem://", {}),
    "the same address, later": lambda one, _two: (one.url, {}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_whoever_has_another_broker_is_refused_before_anything_is_recorded(
    other: str, app_with: Deploy, servers: tuple[RedisServer, RedisServer]
) -> None:
    """What it sends would lie where no worker of the store looks."""

    held = activity(name="served")(lambda: 1)
    known = app_with(servers[0].url)
    assert known.store is not None
    start_checks(known, embedded=True)
    if other == "the same address, later":
        with redis.Redis.from_url(servers[0].url) as client:
            client.set("paigeant:broker", "of somebody else")
    url, options = OTHERS[other](*servers)
    wrong, dispatcher = app_with(url, **options), WorkflowDispatcher()
    before, broker = all_keys(*servers), known.store.bound_broker()

    refused = {
        "worker": lambda: start_checks(wrong, embedded=True),
        "guest": lambda: start_checks(wrong),
        "sync": lambda: dispatcher.dispatch_workflow_sync(wrong, itinerary=[STEP]),
        "async": lambda: asyncio.run(dispatcher.dispatch_workflow(wrong, itinerary=[STEP])),
        "again": lambda: dispatcher.dispatch_workflow_sync(wrong, itinerary=[STEP]),
        "executor": lambda: asyncio.run(ActivityExecutor(wrong, held.name).start(0)),
    }
    for name, act in refused.items():
        with pytest.raises(ConfigurationError) as caught:
            act()
        assert f"belongs to the broker {known.broker_identity} under the prefix 'paigeant'" in str(caught.value), name
        assert "run `celery -A … paigeant rebind`" in str(caught.value)
    assert (all_keys(*servers), known.store.bound_broker()) == (before, broker)
    assert call(wrong, "show", "w").output.startswith("Error: the store redis://")  # which it can read


def test_a_dispatch_keeps_the_steps_of_a_runway_that_it_could_not_send(
    app_with: Deploy, servers: tuple[RedisServer, RedisServer]
) -> None:
    """Once the configuration is right, or the store is bound anew, the same program goes on."""
    known, other = app_with(servers[0].url), app_with(f"{servers[0].url[:-1]}1")
    start_checks(known, embedded=True)
    dispatcher = WorkflowDispatcher()
    dispatcher.add(STEP)
    with pytest.raises(ConfigurationError):
        dispatcher.dispatch_workflow_sync(other)

    assert call(other, "rebind", "--yes").exit_code == 0
    correlation_id = dispatcher.dispatch_workflow_sync(other)

    assert dispatcher.handle(correlation_id, other).status_sync().remaining == ("draft",)
    with pytest.raises(ConfigurationError):
        start_checks(known, embedded=True)


def test_a_server_that_moved_with_its_data_goes_on(
    own_redis: Callable[..., RedisServer], tmp_path: Path, in_a_hurry: str
) -> None:
    """Messages and records are where they were, under another name; nobody has to be asked, and nothing sent again."""
    old, new = own_redis("--repl-diskless-sync-delay", "0"), own_redis()
    with deployment(old.url, tmp_path / "old") as made:
        start_checks(made.transport(), embedded=True)  # as the workers of the old server did
        waits = dispatch(made, STEP, STEP.model_copy(update={"prompt": "late"}))
        replicated(old, new)
        old.stop()

        made.url = made.settings["broker_url"] = new.url
        made.ready_worker("press", in_a_hurry, slots=1)

        moved = WorkflowDispatcher().handle(waits.correlation_id, made.transport())
        assert moved.result_sync(WITHIN).output == "draft(late|draft(early|))"
        assert [event.type for event in moved.events_so_far()].count("resent") <= 1


def test_a_store_that_moved_with_its_data_knows_its_broker(
    app_with: Deploy, servers: tuple[RedisServer, RedisServer], own_redis: Callable[..., RedisServer]
) -> None:
    """The broker stays where it is, and what it is known by has moved with the records."""
    known, new = app_with(servers[0].url), own_redis()
    start_checks(known, embedded=True)
    correlation_id = WorkflowDispatcher().dispatch_workflow_sync(known, itinerary=[STEP])
    replicated(servers[1], new)

    for url in (servers[0].url, servers[0].url.replace("127.0.0.1", "localhost")):
        moved = transport_of(app_with(url).app, store=new.url)
        assert start_checks(moved, embedded=True)
        assert WorkflowDispatcher().handle(correlation_id, moved).status_sync().state == "queued"
        WorkflowDispatcher().dispatch_workflow_sync(moved, itinerary=[STEP])
    with pytest.raises(ConfigurationError):
        start_checks(transport_of(app_with(f"{servers[0].url[:-1]}1").app, store=new.url), embedded=True)


def test_a_broker_that_moved_without_its_data_is_bound_by_a_person(
    own_redis: Callable[..., RedisServer], tmp_path: Path, in_a_hurry: str
) -> None:
    """A worker cannot tell it from a wrong one. All that waited on the old one is sent again, whatever waits there."""
    old, new, store = own_redis(), own_redis(), own_redis()
    with deployment(old.url, tmp_path / "old", store=store.url) as made:
        start_checks(made.transport(), embedded=True)  # as the workers of the old server did
        handles = [dispatch(made, STEP) for _ in range(150)]
        old.stop()
        made.url = made.settings["broker_url"] = new.url
        transport = made.transport()

        refused = made.start_worker("press", in_a_hurry, slots=1, name="refused")
        assert refused.ended(within=START_WITHIN) == 1
        assert f"belongs to the broker {old.url} under the prefix" in refused.log()
        assert "rebind" in refused.log()
        asked = call(transport, "rebind", said="n\n")
        assert transport.store is not None
        assert (asked.exit_code, transport.store.open_hops()) == (1, OpenHops(due=150, running=0, parked=0))
        assert (
            f"old broker: {old.url}\nnew broker: {new.url}\nsteps that wait for a worker or a retry: 150,"
            in asked.output
        )
        said = call(transport, "rebind", said="y\n")
        assert (said.exit_code, said.output.splitlines()[-1]) == (
            0, "the store belongs to the new broker; start its workers"
        )  # fmt: skip
        assert call(transport, "rebind").output.endswith("; nothing is changed\n")

        made.ready_worker("press", in_a_hurry, slots=1, name="second")
        for handle in handles:
            here = WorkflowDispatcher().handle(handle.correlation_id, transport)
            assert here.result_sync(WITHIN).output == "draft(early|)"
    assert sorted(made.runs()) == sorted(f"{handle.correlation_id}.0" for handle in handles)


def test_a_worker_gives_an_emptied_broker_its_id_back_and_leaves_another_one(
    own_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """A new worker that knows the broker by another name starts again; one whose broker was exchanged ends."""
    broker, store = own_redis("--appendonly", "yes"), own_redis()
    with deployment(broker.url, tmp_path, store=store.url) as made, redis.Redis.from_url(broker.url) as client:
        key = f"{made.prefix}:broker"
        worker = made.ready_worker("press", slots=1)
        given = client.get(key)

        client.flushall()
        broker.stop()
        broker.start()
        eventually(lambda: client.get(key) == given, within=WITHIN, what="the id was not given back")
        made.settings["broker_url"] = broker.url.replace("127.0.0.1", "localhost")
        assert dispatch(made, STEP).result_sync(WITHIN).status == "completed"
        client.set(key, "of somebody else")
        broker.stop()  # a connection that is only cut may be made again without a word
        broker.start()

        assert worker.ended(within=WITHIN) == 1
        assert "but another one answers there now" in worker.log()


def dispatch(made: Deployment, *steps: ActivitySpec) -> WorkflowHandle:
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)
