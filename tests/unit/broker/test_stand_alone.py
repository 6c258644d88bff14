"""The stand-alone app: whatever its user sets counts, and our defaults stand beneath it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from celery._state import get_current_app

from paigeant_celery import get_transport, install
from paigeant_celery.broker.stand_alone import StandAloneApp
from paigeant_celery.broker.transport import CeleryTransport, transport_of
from paigeant_celery.core.errors import ConfigurationError, UnknownTransport
from paigeant_celery.worker.selection import Selection
from paigeant_celery.worker.serving import banner

LOCAL = "redis://localhost:6379/0"
QUIET = {
    "broker_connection_retry_on_startup": True,
    "worker_prefetch_multiplier": 1,
    "worker_enable_prefetch_count_reduction": False,
    "worker_send_task_events": True,
    "task_ignore_result": True,
}


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StandAloneApp]]:
    """Make the stand-alone app with a `celeryconfig.py` of these lines; None stands for no such file."""
    current, made = get_current_app(), list[StandAloneApp]()
    for variable in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELERY_CONFIG_MODULE"):
        monkeypatch.delenv(variable, raising=False)

    def make(source: str | None, module: str = "celeryconfig") -> StandAloneApp:
        if source is not None:
            config = types.ModuleType(module)
            config.__spec__ = types.SimpleNamespace(name=module)  # type: ignore[assignment]
            exec(source, vars(config))
            monkeypatch.setitem(sys.modules, module, config)
        else:
            monkeypatch.setattr("paigeant_celery.broker.stand_alone.find_spec", lambda _: None)
        made.append(StandAloneApp())
        return made[-1]

    yield make
    for app in made:
        app.close()
    current.set_current()


@pytest.mark.parametrize(
    ("source", "environment", "broker", "store"),
    [
        (None, {}, LOCAL, LOCAL),
        (None, {"PAIGEANT_REDIS_URL": "redis://r:6379/3"}, "redis://r:6379/3", "redis://r:6379/3"),
        ("worker_concurrency = 4", {}, LOCAL, LOCAL),
        ("worker_concurrency = 4", {"PAIGEANT_REDIS_URL": "redis://r:6379/3"}, "redis://r:6379/3", "redis://r:6379/3"),
        ("broker_url = None", {}, LOCAL, LOCAL),
        ("CELERY_BROKER_URL = ''", {"PAIGEANT_REDIS_URL": "redis://r:6379/3"}, "redis://r:6379/3", "redis://r:6379/3"),
        ("broker_url = 'redis://b:6379/1'; beat_schedule = {}", {}, "redis://b:6379/1", "redis://b:6379/1"),
        (
            "broker_url = 'redis://b:6379/1'",
            {"PAIGEANT_REDIS_URL": "redis://r:6379/3"},
            "redis://b:6379/1",
            "redis://b:6379/1",
        ),
        ("broker_url = ['redis://b:6379/1']", {}, "redis://b:6379/1", "redis://b:6379/1"),
        ("BROKER_URL = 'redis://b:6379/1'; CELERYD_CONCURRENCY = 2", {}, "redis://b:6379/1", "redis://b:6379/1"),
        ("CELERYD_CONCURRENCY = 2", {}, LOCAL, LOCAL),
        ("CELERY_BROKER_URL = 'redis://b:6379/1'", {}, "redis://b:6379/1", "redis://b:6379/1"),
        ("BROKER_URL = 'redis://b:6379/1'; worker_concurrency = 2", {}, "redis://b:6379/1", "redis://b:6379/1"),
        ("worker_concurrency = 4", {"CELERY_BROKER_URL": "redis://e:6379/5"}, "redis://e:6379/5", "redis://e:6379/5"),
        ("broker_url = 'redis://b:6379/1'", {"CELERY_BROKER_URL": "amqp://e//"}, "amqp://e//", "none"),
        ("broker_write_url = 'redis://w:6379/1'", {}, "redis://w:6379/1", "redis://w:6379/1"),
        ("broker_url = 'amqp://b//'", {"PAIGEANT_REDIS_URL": LOCAL}, "amqp://b//", "none"),
        ("broker_url = 'memory://'", {}, "memory:///", "none"),
        ("broker_url = 'filesystem://'", {}, "filesystem:///", "none"),
        (
            "broker_url = 'sentinel://s;sentinel://t:1/2'; broker_transport_options = {'master_name': 'm'}",
            {},
            "sentinel://s//",
            "sentinel://s:26379;sentinel://t:1/0?master_name=m",
        ),
        ("broker_url = 'redis://b/1;redis://c/1'", {}, "redis://b/1", "redis://b:6379/1"),
        ("broker_url = ['redis://b/1', 'redis://c/1']", {}, "redis://b/1", "redis://b:6379/1"),
        ("broker_url = 'redis+socket:///s?virtual_host=2'", {}, "redis+socket:///s", "unix:///s?db=2"),
        ("broker_transport = 'redis'; broker_url = 'h'; broker_port = 7000", {}, "h", "redis://h:7000/0"),
        ("paigeant_store_url = 'redis://s:6379/2'", {}, LOCAL, "redis://s:6379/2"),
        (
            "broker_url = 'amqp://b//'; CELERY_PAIGEANT_STORE_URL = 'redis://s:6379/2'",
            {},
            "amqp://b//",
            "redis://s:6379/2",
        ),
        ("paigeant_store_url = None", {}, LOCAL, "none"),
    ],
)
def test_a_file_with_a_line_takes_no_default_away(
    configured: Callable[..., StandAloneApp],
    monkeypatch: pytest.MonkeyPatch,
    source: str | None,
    environment: dict[str, str],
    broker: str,
    store: str,
) -> None:
    """A worker that gets a schedule, or a number of slots, still records its workflows."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    app = configured(source)
    transport = transport_of(app)

    assert transport.faults == ()
    assert (transport.broker.rstrip("/"), transport.store_address) == (broker.rstrip("/"), store)
    assert {name: app.conf[name] for name in QUIET} == QUIET
    assert app.consume_by_default == "only"


@pytest.mark.parametrize(
    ("name", "value", "lines"),
    [
        ("worker_prefetch_multiplier", 8, "worker_prefetch_multiplier = 8"),
        ("worker_prefetch_multiplier", 8, "CELERYD_PREFETCH_MULTIPLIER = 8"),
        ("worker_prefetch_multiplier", 8, "CELERY_WORKER_PREFETCH_MULTIPLIER = 8"),
        ("worker_send_task_events", False, "worker_send_task_events = False"),
        ("task_ignore_result", False, "task_ignore_result = False"),
        ("task_ignore_result", False, "result_backend = 'redis://b/9'"),
        ("broker_connection_retry_on_startup", False, "broker_connection_retry_on_startup = False"),
        ("worker_enable_prefetch_count_reduction", True, "worker_enable_prefetch_count_reduction = True"),
        ("imports", ("shop.agents",), "imports = ('shop.agents',)"),
        ("include", ["shop.agents"], "include = ['shop.agents']"),
    ],
)
def test_what_the_user_sets_counts(
    configured: Callable[..., StandAloneApp], name: str, value: object, lines: str
) -> None:
    """Even if it is what Celery would have without us, and in whichever way it is written."""
    assert configured(lines).conf[name] == value


@pytest.mark.parametrize(
    ("lines", "consume", "is_set"),
    [
        ("", "only", False),
        ("beat_schedule = {}", "only", False),
        ("task_queues = []", "also", False),
        ("CELERY_QUEUES = []", "also", False),
        ("task_default_queue = 'celery'", "also", False),
        ("CELERY_DEFAULT_QUEUE = 'jobs'", "also", False),
        ("task_queues = []; paigeant_consume = 'only'", "only", True),
        ("CELERY_PAIGEANT_CONSUME = 'no'", "no", True),
    ],
)
def test_other_queues_are_served_only_if_the_user_names_some(
    configured: Callable[..., StandAloneApp], lines: str, consume: str, is_set: bool
) -> None:
    """On a Redis that is shared, tasks of other applications wait in Celery's default queue."""
    transport = transport_of(configured(lines))
    settings = transport.settings

    assert (settings.consume if settings.consume_is_set else transport.consume_by_default) == consume
    assert settings.consume_is_set == is_set


def test_the_module_that_the_command_line_names_is_read(
    configured: Callable[..., StandAloneApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`celery --config` counts more than a file that happens to be there."""
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "elsewhere_config")
    monkeypatch.setitem(sys.modules, "celeryconfig", types.ModuleType("celeryconfig"))

    app = configured("worker_concurrency = 7", module="elsewhere_config")

    assert (app.conf.worker_concurrency, app.conf.broker_url) == (7, LOCAL)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("error", [ImportError, AttributeError, KeyError, ValueError])
def test_a_file_that_cannot_be_loaded_is_named_with_its_error(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Celery would say that this package has no attribute `celery`."""
    monkeypatch.setattr("paigeant_celery.broker.stand_alone.find_spec", lambda _: object())

    def fail(*_: object, **__: object) -> None:
        raise error("hunter2")

    line = fail.__code__.co_firstlineno + 1
    monkeypatch.setattr("celery.loaders.base.BaseLoader.import_from_cwd", fail)
    with pytest.raises(ConfigurationError) as caught:
        StandAloneApp()

    at = f"{__file__}:{line} in {fail.__qualname__}"
    assert caught.value.mistakes == [f"`celeryconfig` cannot be loaded: {error.__name__} at {at}; correct the module"]


def said(transport: CeleryTransport, *chosen: str) -> list[str]:
    return banner(transport, Selection(frozenset(chosen) if chosen else None)).splitlines()


def test_a_worker_says_what_is_so_by_default(
    configured: Callable[..., StandAloneApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program without the variable sends to its own memory, and somebody wonders why this worker does nothing."""
    monkeypatch.setenv("PAIGEANT_TRANSPORT", "amqp://h//")
    by_default = said(transport_of(configured("worker_concurrency = 4")))
    monkeypatch.delenv("PAIGEANT_TRANSPORT")
    without_store = said(transport_of(configured("broker_url = 'amqp://b//'")))
    without_by_wish = said(transport_of(configured("broker_url = 'redis://b'; paigeant_store_url = None")))
    monkeypatch.setenv("PAIGEANT_REDIS_URL", "redis://r:6379/3")
    named = said(transport_of(configured("")))

    assert by_default[:3] == [
        f"[paigeant_celery] mode: durable, store: {LOCAL}",
        f"  . the broker is {LOCAL} by default; programs send to it with `PAIGEANT_REDIS_URL={LOCAL}`, and without it "
        "to their own memory",
        "  . programs that find `PAIGEANT_TRANSPORT` send to what it names; a worker does not read it",
    ]
    assert without_store[:2] == [
        "[paigeant_celery] mode: message only, store: none",
        "  . this broker can hold no store; set `paigeant_store_url` to have one",
    ]
    assert without_by_wish[0] == without_store[0]
    assert without_by_wish[1].startswith("  . no activity is served")
    assert named[0] == "[paigeant_celery] mode: durable, store: redis://r:6379/3"
    assert named[1].startswith("  . no activity is served")


def test_a_hosts_app_has_none_of_our_defaults(configured: Callable[..., StandAloneApp]) -> None:
    """They are for an app that is nobody's host."""
    configured("worker_concurrency = 4")
    with Celery("host", broker="redis://h", set_as_current=False) as host:
        transport = transport_of(host)

        assert {name for name, value in QUIET.items() if host.conf[name] != value} == QUIET.keys()
        assert (transport.store_address, transport.consume_by_default) == ("none", "also")


@pytest.mark.parametrize(
    ("variable", "value", "warned"),
    [
        ("PAIGEANT_REDIS_URL", "redis://r:6379/3", False),
        ("PAIGEANT_REDIS_URL", "redis://another:6379/3", False),
        ("PAIGEANT_TRANSPORT", "redis://:pw@b/1", False),
        ("PAIGEANT_TRANSPORT", "redis://another:6379/3", True),
    ],
)
def test_a_step_of_a_stand_alone_worker_dispatches_to_where_its_worker_is(
    configured: Callable[..., StandAloneApp],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    value: str,
    warned: bool,
) -> None:
    """With the worker's own prefix, and without a warning that the variable overrules what was made of it."""
    app = configured("broker_url = 'redis://b:6379/1'; paigeant_prefix = 'mine'")
    install(app)
    monkeypatch.setenv(variable, value)

    transport = get_transport()

    assert (transport.app is app) == (not warned)
    assert transport.settings.prefix == ("paigeant" if warned else "mine")
    assert ("overrides the Celery app" in caplog.text) == warned


@pytest.mark.parametrize("variable", ["PAIGEANT_TRANSPORT", "PAIGEANT_REDIS_URL"])
def test_a_url_that_is_not_understood_is_reported_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Nobody else in this process has written a URL."""
    monkeypatch.setenv(variable, "redis://:hunter#2@host/0")

    with pytest.raises(ConfigurationError) as caught:
        get_transport()

    assert str(caught.value).startswith(f"configuration: `{variable}`: the broker's URL is not understood")
    assert "hunter" not in str(caught.value)


def test_a_variable_without_a_scheme_is_named_by_worker_and_program(
    configured: Callable[..., StandAloneApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery takes it for the name of a host with RabbitMQ, and the worker would try that for ever."""
    monkeypatch.setenv("PAIGEANT_REDIS_URL", "me:hunter2@localhost:6379")

    for call in (get_transport, lambda: get_transport("redis")):
        with pytest.raises(UnknownTransport) as caught:
            call()
        assert str(caught.value).startswith("`PAIGEANT_REDIS_URL`: 'localhost:6379' is not supported; use 'inmemory'")
    assert transport_of(configured("worker_concurrency = 4")).faults == (
        "`PAIGEANT_REDIS_URL` is not a URL; use 'redis://host:6379/0'",
    )
    assert transport_of(configured("broker_url = 'redis://b'")).faults == ()
