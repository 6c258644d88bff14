"""What Celery's connection to the broker resolves to, however it is written, and what is said if it cannot be made."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from celery import Celery

from paigeant_celery import ActivitySpec, WorkflowDispatcher, get_transport
from paigeant_celery.broker.connection import broker_mistakes, other_servers, shown_url, store_of_broker
from paigeant_celery.broker.transport import transport_of
from paigeant_celery.core.errors import ConfigurationError, UnknownTransport
from paigeant_celery.store.endpoint import Endpoint

SECRET = "hunter2"
MASTER = {"broker_transport_options": {"master_name": "main"}}
TLS = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.pem"}

MakeApp = Callable[..., Celery]


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    """Make hosts whose store is the broker."""
    with ExitStack() as stack:

        def make(broker: object = None, **configuration: object) -> Celery:
            app = stack.enter_context(Celery("shop", set_as_current=False))
            urls = {} if broker is None else {"broker_url": broker}
            app.conf.update({**urls, "paigeant_store_url": "broker", **configuration})
            return app

        yield make


def server(host: str = "h", port: int = 6379, **more: Any) -> Endpoint:
    return Endpoint(hosts=((host, port),), **more)


WRITTEN: list[tuple[object, dict[str, object], Endpoint]] = [
    ("redis://h", {}, server()),
    ("redis://", {}, server("127.0.0.1")),
    (f"redis://me:{SECRET}%2F@h:7/3", {}, server("h", 7, username="me", password=f"{SECRET}/", database=3)),
    (["redis://h/1"], {}, server(database=1)),
    (["redis://h/1", "redis://g/1"], {}, server(database=1)),
    ("redis://h/1;redis://g/1", {}, server(database=1)),
    ("redis://r/1", {"broker_write_url": "redis://h/2", "broker_read_url": "redis://r/3"}, server(database=2)),
    ("h", {"broker_transport": "redis", "broker_port": 7, "broker_vhost": "2"}, server("h", 7, database=2)),
    ("redis://h", {"broker_password": SECRET, "broker_user": "me"}, server(username="me", password=SECRET)),
    ("redis+socket:///s", {}, Endpoint(path="/s")),
    (f"redis+socket://:{SECRET}@/a/s.sock?virtual_host=2", {}, Endpoint(path="/a/s.sock", password=SECRET, database=2)),
    ("redis://h", {"broker_use_ssl": TLS}, server(tls={"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem"})),
    ("redis://h", {"broker_use_ssl": {}}, server()),
    ("rediss://h", {}, server(tls={"ssl_cert_reqs": "none"})),
    ("rediss://h", {"broker_use_ssl": TLS}, server(tls={"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem"})),
    (
        "rediss://h?ssl_cert_reqs=CERT_REQUIRED&ssl_check_hostname=false",
        {},
        server(tls={"ssl_cert_reqs": "required", "ssl_check_hostname": False}),
    ),
    (
        "redis://h",
        {"broker_transport_options": {"socket_timeout": 30, "socket_connect_timeout": 1.5, "global_keyprefix": "a:"}},
        server(options={"socket_timeout": 2.0, "socket_connect_timeout": 1.5}),
    ),
    ("redis://h", {"broker_transport_options": {"username": "ignored", "visibility_timeout": 5}}, server()),
    ("sentinel://h", MASTER, server("h", 26379, master_name="main")),
    (
        f"sentinel://:{SECRET}@h:1/2;sentinel://g",
        {
            "broker_transport_options": {"master_name": "main", "sentinel_kwargs": {"password": "s", "ssl": True}},
            "broker_use_ssl": {"ssl_cert_reqs": None},
        },
        Endpoint(
            hosts=(("h", 1), ("g", 26379)), master_name="main", database=2, password=SECRET,
            tls={"ssl_cert_reqs": "none"}, sentinel_options={"password": "s", "ssl": True},
        ),
    ),
    (["sentinel://h:1", "sentinel://g:2"], MASTER, Endpoint(hosts=(("h", 1), ("g", 2)), master_name="main")),
]  # fmt: skip


@pytest.mark.parametrize(("broker", "configuration", "expected"), WRITTEN)
def test_the_store_is_where_the_messages_go(
    make_app: MakeApp, broker: object, configuration: dict[str, object], expected: Endpoint
) -> None:
    """Whatever Celery connects with, the store does too, and no text shows the password."""
    app = make_app(broker, **configuration)
    transport = transport_of(app)

    assert transport.faults == ()
    assert store_of_broker(app, lease=10) == expected
    assert transport.store is not None
    assert transport.store.endpoint == expected
    assert SECRET not in f"{transport!r} {transport.store!r} {transport.store_address}"


@pytest.mark.parametrize(("broker", "configuration", "expected"), WRITTEN)
def test_kombu_itself_connects_to_the_same_place(
    make_app: MakeApp, broker: object, configuration: dict[str, object], expected: Endpoint
) -> None:
    """What we read of a connection is what Kombu makes of it; a version that differs is found here."""
    connection = make_app(broker, **configuration).connection_for_write()
    channel = object.__new__(connection.transport.Channel)  # one that was made would be connected
    channel.connection = connection.transport
    found = channel._connparams()

    given = (found.get("username"), found.get("password"), found["db"], found.get("path", ""))
    assert given == (expected.username, expected.password, expected.database, expected.path)
    assert found["connection_class"].__name__.endswith("SSLConnection") == (expected.tls is not None)
    if not expected.path:
        assert (found["host"], found["port"]) == expected.hosts[0]


@pytest.mark.parametrize(
    ("broker", "configuration", "said"),
    [
        (
            "redis://h",
            {"broker_use_ssl": True},
            "`broker_use_ssl` must be a dict on Redis: Kombu would connect without",
        ),
        ("rediss://h", {"broker_use_ssl": True}, "`broker_use_ssl` must be a dict on Redis"),
        (
            "redis://h",
            {"broker_use_ssl": {"ca_certs": "/ca.pem"}},
            "`broker_use_ssl` has `ca_certs`, which is RabbitMQ's word; on Redis it is `ssl_ca_certs`",
        ),
        (
            "redis://h",
            {"broker_use_ssl": {"ssl_cert_reqs": "CERT_REQUIRED"}},
            "`broker_use_ssl['ssl_cert_reqs']` must be 'required'",
        ),
        (
            "redis://h",
            {"broker_use_ssl": {"ssl_ocsp_context": object()}},
            "`broker_use_ssl` has `ssl_ocsp_context` with a value that a store cannot share",
        ),
        (
            "redis://h",
            {"broker_use_ssl": {"ssl_cart_reqs": 1}},
            "`paigeant_store_url` is 'broker', but redis-py cannot use an option",
        ),
        ("sentinel://h", {}, "`broker_transport_options` has no `master_name`"),
        (f"redis://h/{SECRET}", {}, "the broker's URL ends in something that is no number of a database"),
        (f"redis+socket://{SECRET}/s", {}, "the broker's URL is not understood"),
        ("redis+socket:///s?virtual_host=x", {}, "the `virtual_host` of the broker's socket is no number"),
        ("amqp://h//", {}, "`paigeant_store_url` is 'broker', but a broker of 'amqp' can hold no store; use 'redis://"),
    ],
)
def test_what_neither_broker_nor_store_can_use_is_said_with_what_to_write(
    make_app: MakeApp, broker: str, configuration: dict[str, object], said: str
) -> None:
    """Most of it keeps the broker from being reached as well, with a worse text or none."""
    faults = transport_of(make_app(broker, **configuration)).faults

    assert len(faults) == 1
    assert faults[0].startswith(said)
    assert SECRET not in faults[0]


UNMADE = [
    ("sqs://", "the broker's transport 'sqs' cannot be loaded (ModuleNotFoundError: No module named 'botocore'); inst"),
    ("sqla+sqlite:///x", "the broker's transport 'sqla' cannot be loaded (ModuleNotFoundError: No module named 'sqla"),
    ("kafka://h", "the broker's transport 'kafka' cannot be loaded (NameError: name 'KafkaException' is not defined)"),
    ("zookeeper://h", "the broker's transport 'zookeeper' cannot be loaded (ImportError: The kazoo library is not in"),
    ("qpid://h", "the broker's transport 'qpid' cannot be loaded (RuntimeError); install or repair its library (`pip"),
    ("mongodb://h", "the broker's transport 'mongodb' cannot be loaded"),
    ("redis://h;sqs://", "the broker's transport 'sqs' cannot be loaded"),
    ("valkey://h", "Kombu has no transport 'valkey' for the broker; write 'redis://…' instead, with the same server"),
    ("valkeys://h", "Kombu has no transport 'valkeys' for the broker; write 'rediss://…' instead"),
    ("redsi://h", "Kombu has no transport 'redsi' for the broker; use 'redis://host:6379/0' or 'amqp://host//'"),
    (f"redis://h?socket_timeout={SECRET}", "the broker's URL has options that Kombu does not take there"),
    (f"amqp://h:{SECRET}//", "the broker's URL is not understood"),
    (f"redis://:1?{SECRET}@h/0", "the broker's URL is not understood"),
    (f"redis://:1#{SECRET}@h/0", "the broker's URL is not understood"),
    (f"redis://:1/{SECRET}@h/0", "the broker's URL is not understood"),
    (f"rediss://h?ssl_cert_reqs={SECRET}", "the broker's URL is not understood"),
]


@pytest.mark.parametrize(("broker", "said"), UNMADE)
@pytest.mark.parametrize("store", [None, "broker", "redis://h/1"])
def test_a_broker_that_kombu_cannot_make_is_one_line_with_a_remedy(
    make_app: MakeApp, broker: str, said: str, store: str | None
) -> None:
    """A missing library is a traceback of forty lines otherwise, at a place that has nothing to do with it."""
    app = make_app(broker, paigeant_store_url=store)

    (mistake,) = broker_mistakes(app)
    with pytest.raises(ConfigurationError) as caught:
        get_transport(app=app)

    assert mistake.startswith(said)
    assert caught.value.mistakes == [mistake]
    assert SECRET not in f"{mistake}{transport_of(app)!r}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("url", ["sqs://", "kafka://h", "qpid://h", "sqla+sqlite:///x"])
def test_a_url_given_to_a_program_is_answered_in_the_same_way(url: str) -> None:
    """Nobody has a configuration yet in the first hour."""
    with pytest.raises(ConfigurationError, match=r"the broker's transport '\w+' cannot be loaded"):
        get_transport(url)


def test_sentinels_and_sockets_given_to_a_program_are_durable() -> None:
    """The same address means the same promise to a program and to a worker."""
    over_socket = get_transport("redis+socket:///nowhere/s")

    assert (over_socket.mode, over_socket.store_address) == ("durable", "unix:///nowhere/s?db=0")
    with pytest.raises(ConfigurationError, match="has no `master_name`"):
        get_transport("sentinel://h")


@pytest.mark.parametrize(
    ("broker", "others"),
    [
        ("redis://h/1", []),
        ("redis://h/1;redis://h/1", []),
        (["redis://h/1", "redis://g/1", "redis://f/1"], ["redis://g/1", "redis://f/1"]),
        ("sentinel://h;sentinel://g", []),
    ],
)
def test_servers_to_which_only_the_broker_fails_over_are_known(
    make_app: MakeApp, broker: object, others: list[str]
) -> None:
    """The store stays on the first, which a worker says."""
    assert other_servers(make_app(broker, **MASTER)) == others


def test_a_driver_that_is_missed_only_at_the_first_message_is_named(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy loads the driver of a database when it connects."""
    app = make_app("memory://")

    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(app, "send_task", fail)
    with pytest.raises(ConfigurationError, match=r"No module named 'psycopg'\); install or repair its library"):
        WorkflowDispatcher().dispatch_workflow_sync(get_transport(app=app), itinerary=[ActivitySpec("a", "b")])


@pytest.mark.parametrize(
    ("url", "meant"),
    [("unix:///s", "redis+socket"), ("redis+tls://h", "rediss"), (f"redis-sentinel://:{SECRET}@h", "sentinel")],
)
def test_other_names_of_a_transport_are_answered_with_kombus(make_app: MakeApp, url: str, meant: str) -> None:
    """Clients have names of their own, and those of the store are redis-py's."""
    with pytest.raises(UnknownTransport, match=rf"write '{re.escape(meant)}://…' with the same server") as caught:
        get_transport(url)
    (mistake,) = broker_mistakes(make_app(url))

    assert f"write '{meant}://…' instead" in mistake
    assert SECRET not in f"{caught.value}{mistake}"


@pytest.mark.parametrize(
    ("broker", "configuration", "said"),
    [
        (b"redis://h", {}, "`broker_url` must be text, or a list of texts, and has a value of type `bytes`"),
        ({"default": f"redis://:{SECRET}@h"}, {}, "`broker_url` must be text, or a list of texts, and has a value of"),
        ([f"redis://:{SECRET}@h", None], {}, "`broker_url` must be text, or a list of texts, and has a value of type"),
        ("redis://h", {"broker_read_url": 5}, "`broker_read_url` must be text"),
        ("redis://h", {"broker_transport": "nope"}, "Kombu has no transport 'nope' for the broker"),
        ("redis://h", {"broker_transport_options": None}, "`broker_transport_options` must be a dict"),
        (
            "redis://h",
            {"broker_transport_options": {"socket_timeout": "3"}},
            "`broker_transport_options['socket_timeout']` must be a number of seconds above 0",
        ),
        (
            "sentinel://h",
            {"broker_transport_options": {"master_name": "main", "sentinel_kwargs": SECRET}},
            "`broker_transport_options['sentinel_kwargs']` must be a dict",
        ),
        (
            "redis://h?credential_provider=no.such.Class",
            {},
            (
                "`paigeant_store_url` is 'broker', but redis-py cannot",
                "the broker's URL has options that Kombu does not",
            ),
        ),  # an older Kombu does not know it
    ],
)
def test_a_setting_of_the_wrong_kind_is_a_mistake_with_its_name(
    make_app: MakeApp, broker: object, configuration: dict[str, object], said: str | tuple[str, ...]
) -> None:
    """It would end the start with an error from the middle of Kombu or of a client."""
    transport = transport_of(make_app(broker, **configuration))

    (fault,) = transport.faults
    assert fault.startswith(said)
    assert SECRET not in f"{fault}{transport!r}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://{SECRET}@h/0", "redis://**@h/0"),
        (f"redis://me:{SECRET}@h/0", "redis://me:**@h/0"),
        ("redis://[::1]:7/0", "redis://[::1]:7/0"),
        (f"redis://:{SECRET}@[fe80::1]/0", "redis://:**@[fe80::1]/0"),
    ],
)
def test_an_address_is_shown_as_it_is_written_but_for_what_may_be_a_password(url: str, shown: str) -> None:
    """Whoever forgets the colon before a password has it where the user stands."""
    assert shown_url(url) == shown


@pytest.mark.parametrize("kind", [list, tuple, set])
def test_no_password_is_shown_of_a_list_of_brokers(make_app: MakeApp, kind: Callable[[list[str]], object]) -> None:
    """Celery takes each collection."""
    transport = transport_of(make_app(kind([f"redis://:{SECRET}@h/1"])))

    assert repr(transport) == "CeleryTransport(broker='redis://:**@h/1', store='redis://h:6379/1')"


def test_a_valkey_url_is_answered_with_the_one_to_write() -> None:
    """The server speaks the same protocol, and Kombu knows it by the older name."""
    with pytest.raises(UnknownTransport, match="write 'redis://…' with the same server"):
        get_transport("valkey://h:6379/0")


@pytest.mark.parametrize(
    ("broker", "configuration", "said"),
    [
        ("sentinel://h", {}, "`broker_transport_options` has no `master_name`"),
        ("redis://h", {"broker_use_ssl": True}, "`broker_use_ssl` must be a dict on Redis"),
        ("redis://h/x", {}, "the broker's URL ends in something that is no number of a database"),
        ("redis://h", {"broker_read_url": "sqs://"}, "the broker's transport 'sqs' cannot be loaded"),
    ],
)
@pytest.mark.parametrize("store", [None, "redis://h/1"])
def test_what_kombu_would_stumble_over_is_a_mistake_with_any_store(
    make_app: MakeApp, broker: str, configuration: dict[str, object], said: str, store: str | None
) -> None:
    """It says so itself only when it connects, in a traceback, or not at all."""
    (fault,) = transport_of(make_app(broker, **configuration, paigeant_store_url=store)).faults

    assert fault.startswith(said)
