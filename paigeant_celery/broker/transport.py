"""Transports: a Celery app with the settings and the store that go with it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, cast

from celery import Celery, Task
from celery.app.annotations import resolve_all
from kombu.serialization import prepare_accept_content
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.url import maybe_sanitize_url

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.binding import BrokerBinding
from paigeant_celery.broker.connection import (
    broker_mistakes,
    holds_a_store,
    is_in_memory,
    named_otherwise,
    shown_url,
    store_of_broker,
)
from paigeant_celery.broker.dead_letter_queue import LetterQueue
from paigeant_celery.broker.left_behind import unfinished_in, watch
from paigeant_celery.broker.publisher import CeleryPublisher
from paigeant_celery.broker.reach import broker_address
from paigeant_celery.broker.stand_alone import (
    REDIS_VARIABLE,
    TRANSPORT_VARIABLE,
    StandAloneApp,
    default_redis_url,
)
from paigeant_celery.broker.threads import BrokerThreads
from paigeant_celery.core.errors import ConfigurationError, InvalidInput, UnknownTransport
from paigeant_celery.core.names import Names
from paigeant_celery.core.settings import Settings, read_what_is_valid
from paigeant_celery.store import EXAMPLES, open_store
from paigeant_celery.store.port import Store

__all__ = [
    "Attachment",
    "CeleryTransport",
    "attach",
    "attachment_of",
    "get_transport",
    "transport_of",
]

MEMORY_BROKER = "memory://localhost//"  # the host means nothing, but Kombu warns without one
IN_MEMORY_POLLING = 0.01  # seconds; with Kombu's own default of 1 s every hop would take that long

ATTACHED_AS = "paigeant_attachment"  # the only attribute of ours on a Celery app


# What a task annotation would change about how a hop runs. Time limits are missing, because each message carries its
# own, and so is whatever our tasks neither use nor override, such as `rate_limit`, `on_failure` or `after_return`.
CHANGING = frozenset({
    "Request", "Strategy", "__call__", "acks_late", "acks_on_failure", "acks_on_failure_or_timeout", "acks_on_timeout",
    "annotate", "autoretry_for", "backend", "bind", "compression", "dont_autoretry_for", "expires", "ignore_result",
    "max_retries", "name", "priority", "reject_on_worker_lost", "retry", "retry_backoff", "retry_backoff_max",
    "retry_jitter", "retry_kwargs", "run", "send_events", "serializer", "start_strategy",
    "store_errors_even_if_ignored", "throws", "track_started", "typing",
})  # fmt: skip

logger = logging.getLogger(__name__)


class CeleryTransport:
    """A Celery app, its `Settings`, its store (None: message only) and how to publish through it.

    `faults` is what is wrong with the settings; a transport with faults neither dispatches nor serves.
    """

    def __init__(self, app: Celery, *, settings: Settings, store: Store | None, faults: Sequence[str] = ()) -> None:
        self.app, self.settings, self.store, self.faults = app, settings, store, tuple(faults)
        self.names = Names(settings.prefix)
        threads = BrokerThreads(app, timeout=settings.publish_timeout)
        self.publisher = CeleryPublisher(app, self.names, threads)
        self.letter_queue = LetterQueue(threads, self.names.dead_letters)  # used only if there is no store
        self.letters = self.letter_queue if store is None else None
        self.binding = BrokerBinding(app, store, self.names, threads, address=lambda: self.broker_identity)

    def __repr__(self) -> str:
        return f"CeleryTransport(broker={self.broker!r}, store={self.store_address!r})"

    @property
    def broker(self) -> str:
        """The broker's address without password."""
        return broker_address(self.app)

    @property
    def broker_identity(self) -> str:
        """The broker's address in one form for all URLs: no credentials, and what the URL leaves out is filled in."""
        connection = self.app.connection_for_write()
        default_port = getattr(connection.transport, "default_port", None) or 0
        place = _harmless(connection.virtual_host or "/")
        place = place.strip("/") or ("0" if connection.transport_cls in {"redis", "rediss"} else "")
        host = _harmless(connection.hostname or "localhost")
        return f"{connection.transport_cls}://{host}:{connection.port or default_port}/{place}"

    @property
    def store_address(self) -> str:
        """The store's address without password; `none` if there is no store."""
        return self.store.address if self.store is not None else "none"

    @property
    def in_memory(self) -> bool:
        """Whether the broker lives in this process, so that no other process can reach it."""
        return self.broker.startswith("memory:")

    @property
    def consume_by_default(self) -> Literal["also", "only"]:
        """What a worker of the app serves if neither `paigeant_consume` nor `-Q` says it."""
        return self.app.consume_by_default if isinstance(self.app, StandAloneApp) else "also"

    @property
    def mode(self) -> str:
        """What is promised: `durable`, `in-process` or `message only`."""
        if self.store is None:
            return "message only"
        return "durable" if self.store.shared else "in-process"

    def check_dispatch(self) -> None:
        """Raise `ConfigurationError` if the app's configuration would change how hops run.

        What is dispatched into memory is watched from now on: this process says what it loses when it ends.
        """
        mistakes = list(self.mistakes())
        if mistakes:
            raise ConfigurationError(mistakes)
        if self.in_memory:
            watch(self, unfinished_in(self.store, self.names))

    def check_broker(self) -> None:
        """Raise `ConfigurationError` if the broker is not the one that the store belongs to."""
        self.binding.check_dispatch()

    def serves(self, activity: str) -> bool:
        """Say whether an executor of this process runs the steps of an activity."""
        known = attachment_of(self.app)
        return known is not None and known.serves(activity)

    def mistakes(self) -> Iterator[str]:
        """Yield what is wrong with our settings, and which of the host's would change how hops run."""
        yield from self.faults
        if self.app.conf.task_always_eager:
            yield (
                "`task_always_eager` is set, so a message that is sent would wait forever; "
                "unset it, or use the fixture `workflow_harness` in tests"
            )
        if self.app.conf.task_protocol == 1:
            yield "`task_protocol` is 1, whose messages can carry neither their version nor their limits; use 2"
        accepted = prepare_accept_content(self.app.conf.accept_content or ())  # type: ignore[no-untyped-call]
        if "application/json" not in accepted:
            yield "`accept_content` does not include 'json', the format of our messages; add it"
        yield from self._annotations()

    def _annotations(self) -> Iterator[str]:
        if not self.app.annotations:  # a probe for each activity in each dispatch would be made for nothing
            return
        found = {
            (name, attribute)
            for name in ("*", *registry.built_in, *sorted(registry.names()))
            for attribute in CHANGING.intersection(_annotated(self.app, self.names.task(name)))
        }
        for name, attribute in sorted(found):
            if name == "*" or ("*", attribute) not in found:
                yield (
                    f"`task_annotations` sets `{attribute}` for {self.names.task(name)!r} (perhaps through '*'), which "
                    "would change how hops run; name the tasks it is meant for, or use a function that skips ours"
                )


def _annotated(app: Celery, task_name: str) -> Iterator[str]:
    """Yield the attributes that the host's annotations set for a task."""
    probe = type("Probe", (Task,), {"name": task_name, "abstract": True})
    with suppress(Exception):  # the host's code; Celery never calls it for our tasks
        for annotation in resolve_all(app.annotations, probe):
            yield from annotation


def _harmless(part: str) -> str:
    """Return part of a broker's address, without password and options; some transports keep the whole URL in one."""
    return str(maybe_sanitize_url(part, mask="")).partition("?")[0]


class OwnApp(Celery):  # type: ignore[misc]  # Celery ships no types
    """An app that was made here for a URL and is nobody's host."""


@dataclass(frozen=True, eq=False)
class Attachment:
    """All that we keep on a Celery app, so that it ends with the app; one in which we are `installed` has more."""

    installed: ClassVar[bool] = False

    transport: CeleryTransport

    def serves(self, activity: str) -> bool:
        """Say whether an executor serves an activity. None does if we are not installed."""
        return False


def attachment_of(app: Celery) -> Attachment | None:
    """Return what is attached to an app, or None."""
    return cast("Attachment | None", getattr(app, ATTACHED_AS, None))


def attach(app: Celery, attachment: Attachment) -> None:
    """Keep it on the app, in place of what was there."""
    setattr(app, ATTACHED_AS, attachment)


def get_transport(
    url: str | None = None, *, app: Celery | None = None, store: str | Store | None = None
) -> CeleryTransport:
    """Return the transport to dispatch to and to run hops from.

    `url` is `"inmemory"`, `"redis"` or a Kombu URL; with a Redis URL that database is both broker and store. `app`
    is an existing Celery app; its store is the setting `paigeant_store_url`. `store` overrides the store, as a URL
    or an object. Without arguments the transport comes from `PAIGEANT_TRANSPORT`, then `PAIGEANT_REDIS_URL`, then
    the Celery app in which paigeant_celery is installed, then `"inmemory"`; a log line says which. If a variable names
    broker and store of that app, the app is taken. A process has only one in-memory transport, because Kombu's
    in-memory broker is shared by the process.

    Opens no connection. Raises `UnknownTransport`, `InvalidInput`, `ConfigurationError` (all mistakes at once).
    """
    if app is not None:
        if not isinstance(app, Celery):
            raise InvalidInput("invalid_input", "app", f"must be a `Celery` app, not a {type(app).__name__}")
        return _chosen("`app=`", transport_of(app, store=store))
    if url is not None:
        if not isinstance(url, str):
            raise InvalidInput(
                "invalid_input", "url", f"must be a string, not a {type(url).__name__}; pass an app as `app=`"
            )
        return _chosen("the argument", _from_url(url, store))
    installed = _installed_app()
    for variable in (TRANSPORT_VARIABLE, REDIS_VARIABLE):
        if not (value := os.environ.get(variable)):
            continue
        if variable == REDIS_VARIABLE and isinstance(installed, StandAloneApp):
            break  # it has read the variable, which stands beneath its configuration
        named = _from_url(value, store, variable)
        if named.faults:
            raise ConfigurationError([f"`{variable}`: {fault}" for fault in named.faults])
        if installed is not None:
            if _is_same(named, transport_of(installed, store=store)):
                break
            logger.warning(
                "`%s` overrides the Celery app %r; pass `app=` to use the app", variable, installed.main,
                extra={"action": "transport_overruled"},
            )  # fmt: skip
        return _chosen(f"`{variable}`", named)
    if installed is not None:
        return _chosen(f"the Celery app {installed.main!r}", transport_of(installed, store=store))
    return _chosen("the default", _from_url("inmemory", store))


def transport_of(app: Celery, *, store: str | Store | None = None) -> CeleryTransport:
    """Return the transport of an app; each app has one. `store` makes a separate one, which the app does not keep.

    Does not raise if settings are wrong: a worker reports them together with everything else.
    """
    known = attachment_of(app)
    if known is not None and (store is None or store is known.transport.store):
        return known.transport
    settings, faults = read_what_is_valid(app.conf)
    if isinstance(app, StandAloneApp):
        faults.extend(app.faults)
    faults.extend(broker_mistakes(app))
    opened = None
    try:
        opened = _opened(app, store, settings)
    except ConfigurationError as error:
        faults.extend(mistake for mistake in error.mistakes if mistake not in faults)
    transport = CeleryTransport(app, settings=settings, store=None if faults else opened, faults=faults)
    if known is None:
        attach(app, Attachment(transport))
    return transport


def _is_same(one: CeleryTransport, other: CeleryTransport) -> bool:
    """Say whether two transports have one broker and one store, so that their settings are all that may differ."""
    places = [(each.broker_identity, each.store_address, each.faults) for each in (one, other)]
    return places[0] == places[1]


def _chosen(by: str, transport: CeleryTransport) -> CeleryTransport:
    if transport.faults:
        raise ConfigurationError(transport.faults)
    logger.info(
        "transport %s, chosen by %s, %s", transport.broker, by, transport.mode,
        extra={"action": "transport_chosen", "broker": transport.broker, "mode": transport.mode},
    )  # fmt: skip
    return transport


def _from_url(url: str, store: str | Store | None, variable: str | None = None) -> CeleryTransport:
    if url in {"inmemory", "memory", "memory://"}:
        return _in_memory() if store is None else transport_of(_app(MEMORY_BROKER), store=store)
    if url == "redis":
        url, variable = default_redis_url(), REDIS_VARIABLE
    scheme, separator, _ = url.partition("://")
    if not separator or named_otherwise(scheme) or scheme.lower().partition("+")[0] not in TRANSPORT_ALIASES:
        shown = shown_url(url) if separator else url.rpartition("@")[2]
        raise UnknownTransport(shown, variable, meant=named_otherwise(scheme) if separator else None)
    return _made_for(url) if store is None else transport_of(_app(url), store=store)


@lru_cache(maxsize=16)
def _made_for(url: str) -> CeleryTransport:
    """Return the transport of a URL; its app and connections are made once per process."""
    app = _app(url)
    return transport_of(app, store="broker" if holds_a_store(app) else None)


@lru_cache(maxsize=1)
def _in_memory() -> CeleryTransport:
    # Kombu has one in-memory broker per process; a second store next to it would claim the first one's hops.
    return transport_of(_app(MEMORY_BROKER), store="memory://")


def _app(broker: str) -> Celery:
    app = OwnApp("paigeant", broker=broker, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        worker_send_task_events=True,
        broker_connection_retry_on_startup=True,
        # One message at a time per slot: a step takes minutes, and waiting messages should wait where others see them.
        worker_prefetch_multiplier=1,
        # In the threads pool Celery restores a reduced count from a step's thread; that stopped a worker on RabbitMQ.
        worker_enable_prefetch_count_reduction=False,
    )
    if broker.startswith("memory:"):
        app.conf.broker_transport_options = {"polling_interval": IN_MEMORY_POLLING}
    return app


def _opened(app: Celery, store: str | Store | None, settings: Settings) -> Store | None:
    """Return the store that was passed, otherwise the one of the settings; raises `ConfigurationError`."""
    where, named = (store, "store URL") if store is not None else (settings.store_url, "`paigeant_store_url`")
    if where is None and isinstance(app, StandAloneApp) and not settings.store_is_set and holds_a_store(app):
        where = "broker"
    if where == "broker":
        return _opened_of_broker(app, settings, named)
    if not isinstance(where, str):
        return where
    return open_store(where, prefix=settings.prefix, lease=settings.lease, ttl=settings.result_ttl, named=named)


def _opened_of_broker(app: Celery, settings: Settings, named: str) -> Store:
    named = f"{named} is 'broker'"
    endpoint = store_of_broker(app, lease=settings.lease)
    if endpoint is None and not is_in_memory(app.connection_for_write()):
        scheme = str(app.connection_for_write().transport_cls)
        raise ConfigurationError([f"{named}, but a broker of {scheme!r} can hold no store; {EXAMPLES}"])
    with suppress(ConfigurationError):
        return open_store(
            endpoint or "memory://", prefix=settings.prefix, lease=settings.lease, ttl=settings.result_ttl
        )
    raise ConfigurationError([f"{named}, but redis-py cannot use an option of the broker's URL or of `broker_use_ssl`"])


def _installed_app() -> Celery | None:
    if "celery" not in sys.modules:
        return None
    from celery._state import _get_active_apps, get_current_app

    apps = [app for app in _get_active_apps() if not isinstance(app, OwnApp)]
    ours = [app for app in apps if (known := attachment_of(app)) is not None and known.installed]
    # A web process often has not read its configuration yet when it first dispatches.
    ours = ours or [app for app in apps if (app.configured or app._config_source or app._preconf) and imports_us(app)]
    current = get_current_app() if ours else None
    return current if current in ours else next(iter(ours), None)


def imports_us(app: Celery) -> bool:
    """Say whether an app has `paigeant_celery.tasks` among its imports."""
    return "paigeant_celery.tasks" in {*(app.conf.imports or ()), *(app.conf.include or ())}
