"""What Celery's connection to the broker resolved to: whether Kombu can make it, and the Redis database behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from celery import Celery
from kombu.transport import get_transport_cls
from kombu.utils.url import maybe_sanitize_url

from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.store.endpoint import MEANT, Endpoint, Plain, plain_options

__all__ = [
    "asks_sentinels",
    "broker_mistakes",
    "broker_urls",
    "holds_a_store",
    "is_in_memory",
    "missing_driver",
    "named_otherwise",
    "other_servers",
    "shown_url",
    "store_of_broker",
]

LEAST_TIMEOUT = 1.0  # seconds
TIMEOUTS_PER_LEASE = 5  # a call and its repetition must leave time to renew the lease
TIMEOUTS = ("socket_timeout", "socket_connect_timeout")
CHECKED_AS = {"none", "optional", "required"}  # redis-py's words, to which Kombu hands on what it is given
RABBITS_WORDS = {"ca_certs", "cert_reqs", "certfile", "keyfile", "ciphers"}  # RabbitMQ's words for what TLS needs

# What others, or redis-py, call a transport of Kombu.
SPELLED = {**MEANT, "unix": "redis+socket", "redis+unix": "redis+socket", "redis-sentinel": "sentinel"}

# What to install for a transport, if its extra has not the name of the URL's scheme.
EXTRAS = {"sqla": "sqlalchemy", "kafka": "confluentkafka"}
WITH_EXTRAS = {
    "azureservicebus", "azurestoragequeues", "confluentkafka", "consul", "gcpubsub", "librabbitmq", "mongodb", "pgmq",
    "pyro", "qpid", "redis", "slmq", "sqlalchemy", "sqs", "zookeeper",
}  # fmt: skip


def broker_urls(conf: Any) -> list[str]:
    """Return the URLs that messages are sent to; several if Celery may fail over."""
    return [url for given in _given(conf.broker_write_url) if isinstance(given, str) for url in given.split(";") if url]


def shown_url(url: str) -> str:
    """Return a broker's URL without password and options; little of it if it is not understood."""
    try:
        if _is_cut(url):
            return f"{_scheme(url)}://…"
        shown, parts = str(maybe_sanitize_url(url)), urlsplit(url)
    except ValueError:
        return f"{_scheme(url)}://…"
    user, separator, rest = shown.partition("@")
    if parts.username and not parts.password and separator:  # a password whose colon was forgotten
        shown = f"{user.partition('://')[0]}://**@{rest}"
    if ":" in (host := parts.hostname or ""):  # Kombu quotes what is in the brackets of IPv6, and leaves these out
        shown = shown.replace(quote(unquote(host), safe=""), f"[{host}]")
    return shown


def named_otherwise(scheme: str) -> str | None:
    """Return what Kombu calls a scheme that it does not know by this name; None if nobody knows."""
    return SPELLED.get(scheme.lower())


def broker_mistakes(app: Celery) -> list[str]:
    """Return why Kombu cannot make a connection, with the remedy. Connects to nothing."""
    if mistakes := list(_mistyped(app.conf)):
        return mistakes
    if meant := [scheme for url in broker_urls(app.conf) if (scheme := url.partition("://")[0].lower()) in SPELLED]:
        return [_no_transport(meant[0])]
    if any(_is_cut(url) for url in broker_urls(app.conf)):
        return [_not_understood()]
    for make in (app.connection_for_write, app.connection_for_read):
        try:
            connection = make()
            _ = connection.transport  # loads its library
            for url in connection.alt or ():
                get_transport_cls(_scheme(url))
        except Exception as error:  # noqa: BLE001 - a library that is broken raises whatever it likes
            return [_unmade(app, error)]
        if mistakes := list(_redis_mistakes(connection)):
            return mistakes
    return []


def missing_driver(error: ImportError, app: Celery) -> ConfigurationError:
    """Return what to say of a library that Kombu misses only when it connects, such as a database's driver."""
    return ConfigurationError([_unloaded(error, _scheme((broker_urls(app.conf) or [""])[0]))])


def asks_sentinels(transport: Any) -> bool:
    """Say whether a transport of Kombu asks sentinels where the Redis is."""
    return "master_name" in getattr(getattr(transport, "Channel", None), "from_transport_options", ())


def is_in_memory(connection: Any) -> bool:
    """Say whether the broker lives in this process."""
    return str(connection.transport.driver_type) == "memory"


def holds_a_store(app: Celery) -> bool:
    """Say whether the broker is a Redis. One whose connection cannot be made holds none."""
    return not broker_mistakes(app) and _is_redis(app.connection_for_write())


def other_servers(app: Celery) -> list[str]:
    """Return to which URLs Celery may fail over from the first, which is the store's; those of sentinels are none."""
    connection = app.connection_for_write()
    return [] if asks_sentinels(connection.transport) else list(dict.fromkeys(connection.alt or ()))[1:]


def store_of_broker(app: Celery, *, lease: float) -> Endpoint | None:
    """Return the Redis database that messages are sent to; None if the broker is no Redis.

    If there are several URLs it is the first: the store must not move when Celery fails over. Raises
    `ConfigurationError` if a connection cannot be made, or has what a store's cannot.
    """
    if mistakes := broker_mistakes(app):
        raise ConfigurationError(mistakes)
    connection = app.connection_for_write()
    if not _is_redis(connection):
        return None
    mistakes = list(_unshared(connection))
    if mistakes:
        raise ConfigurationError(mistakes)
    if "://" in str(connection.hostname):
        return _socket(connection)
    sentinels = asks_sentinels(connection.transport)
    options = connection.transport_options
    return Endpoint(
        hosts=tuple(_hosts(connection, sentinels=sentinels)),
        master_name=str(options["master_name"]) if sentinels else "",
        database=_database(connection.virtual_host),
        username=connection.userid,
        password=connection.password,
        tls=plain_options(connection.ssl) if connection.ssl else None,
        options={**_timeouts(options, lease), **_provider(getattr(connection, "credential_provider", None))},
        sentinel_options=plain_options(options.get("sentinel_kwargs") or {}) if sentinels else {},
    )


def _given(urls: object) -> list[object]:
    """Return what a setting with one URL or several holds."""
    return list(urls) if isinstance(urls, (list, tuple, set, frozenset)) else [urls] if urls else []


def _mistyped(conf: Any) -> Iterator[str]:
    """Yield settings of another type than Kombu can read, at which it would fail with a text about its own code."""
    for setting, urls in (("broker_url", conf.broker_write_url), ("broker_read_url", conf.broker_read_url)):
        wrong = [type(url).__name__ for url in _given(urls) if not isinstance(url, str)]
        if wrong:
            yield f"`{setting}` must be text, or a list of texts, and has a value of type `{wrong[0]}`"
            return
    options = conf.broker_transport_options
    if not isinstance(options, Mapping):
        yield "`broker_transport_options` must be a dict; set it to `{}` if there is nothing to say"
        return
    for name in TIMEOUTS:
        if (seconds := options.get(name)) is not None and not (isinstance(seconds, (int, float)) and seconds > 0):
            yield f"`broker_transport_options['{name}']` must be a number of seconds above 0, or None"
    if not isinstance(options.get("sentinel_kwargs") or {}, Mapping):
        yield "`broker_transport_options['sentinel_kwargs']` must be a dict, such as `{'password': …}`"


def _is_redis(connection: Any) -> bool:
    return str(connection.transport.driver_type) == "redis"


def _redis_mistakes(connection: Any) -> Iterator[str]:
    """Yield what Kombu stumbles over only when it connects to a Redis, or what silently leaves it without TLS."""
    if not _is_redis(connection):
        return
    if asks_sentinels(connection.transport) and not connection.transport_options.get("master_name"):
        yield (
            "`broker_transport_options` has no `master_name`, so nobody knows which primary the sentinels are asked "
            "for; set it to the name that `sentinel monitor` in their configuration has"
        )
    if _database(connection.virtual_host) < 0:
        yield "the broker's URL ends in something that is no number of a database; end it in '/0'"
    if not isinstance(connection.password, (str, type(None))):
        yield "the broker's password is not text, which Kombu can use on RabbitMQ alone; put it into `broker_url`"
    if connection.ssl:
        yield from _tls_mistakes(connection.ssl)


def _tls_mistakes(given: Any) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield (
            "`broker_use_ssl` must be a dict on Redis: Kombu would connect without TLS; set it to "
            "`{'ssl_cert_reqs': 'required', 'ssl_ca_certs': '/path/to/ca.pem'}`"
        )
        return
    for name in given:
        if str(name) in RABBITS_WORDS:
            yield f"`broker_use_ssl` has `{name}`, which is RabbitMQ's word; on Redis it is `ssl_{name}`"
    mode = given.get("ssl_cert_reqs")
    if isinstance(mode, str) and mode not in CHECKED_AS:
        yield "`broker_use_ssl['ssl_cert_reqs']` must be 'required', 'optional', 'none', or a constant of `ssl`"


def _unshared(connection: Any) -> Iterator[str]:
    """Yield what Kombu takes for its connections and a store cannot, because another process must be able to."""
    yield from _unplain("broker_use_ssl", connection.ssl or {})
    if asks_sentinels(connection.transport):
        of_sentinels = connection.transport_options.get("sentinel_kwargs") or {}
        yield from _unplain("broker_transport_options['sentinel_kwargs']", of_sentinels)
    provider = getattr(connection, "credential_provider", None)
    if provider is not None and not isinstance(provider, str):
        yield (
            "the broker's connection has a `credential_provider` that is an object, which a store cannot share; name "
            "its class in the URL (`?credential_provider=module.Class`), or set `paigeant_store_url` to a URL"
        )


def _unplain(setting: str, given: Mapping[str, object]) -> Iterator[str]:
    try:
        plain_options(given)
    except ValueError as error:
        yield f"`{setting}` has `{error}` with a value that a store cannot share; set `paigeant_store_url` to a URL"


def _socket(connection: Any) -> Endpoint:
    """Read `redis+socket://`, which Kombu leaves to its transport."""
    parts = urlsplit(connection.hostname)
    query = dict(parse_qsl(parts.query))
    if parts.scheme != "socket" or parts.hostname or not parts.path.strip("/"):
        raise ConfigurationError([_not_understood()])
    database = _database(query.get("virtual_host", connection.virtual_host))
    if database < 0:
        raise ConfigurationError(["the `virtual_host` of the broker's socket is no number of a database"])
    return Endpoint(
        path=unquote(parts.path),
        database=database,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        options=_provider(query.get("credential_provider")),
    )


def _hosts(connection: Any, *, sentinels: bool) -> Iterator[tuple[str, int]]:
    default = int(connection.transport.default_port)
    each = [urlsplit(url) for url in connection.alt or () if str(url).startswith("sentinel://")] if sentinels else []
    if not each:
        yield connection.hostname or "127.0.0.1", int(connection.port or default)
    for parts in each:
        yield unquote(parts.hostname or "127.0.0.1"), parts.port or default


def _database(virtual_host: object) -> int:
    """Return the number of a database, as Kombu reads it; -1 if it is none."""
    text = str(virtual_host or "0").removeprefix("/") or "0"
    return int(text) if text.isdecimal() else -1


def _timeouts(options: Mapping[str, Any], lease: float) -> dict[str, Plain]:
    longest = max(LEAST_TIMEOUT, lease / TIMEOUTS_PER_LEASE)
    return {name: min(float(options[name]), longest) for name in TIMEOUTS if options.get(name)}


def _provider(named: str | None) -> dict[str, Plain]:
    return {"credential_provider": named} if named else {}


def _is_cut(url: str) -> bool:
    """Say whether a password that is not percent-encoded ends a URL of Redis too early: its '@' is then too late."""
    if not _scheme(url).startswith(("redis", "sentinel")) or url.startswith("redis+socket"):
        return False
    rest = url.partition("://")[2]
    return "@" in rest[min((rest.find(mark) for mark in "/?#" if mark in rest), default=len(rest)) :]


def _scheme(url: str) -> str:
    return url.partition("://")[0].partition("+")[0] if "://" in url else "amqp"


def _unmade(app: Celery, error: Exception) -> str:
    """Return why Kombu cannot make a connection, without texts that may quote a URL."""
    read = [url for url in _given(app.conf.broker_read_url) if isinstance(url, str)]
    schemes = [_scheme(url) for url in (*broker_urls(app.conf), *read)]
    if app.conf.broker_transport:  # which counts instead
        schemes = [str(app.conf.broker_transport)]
    for scheme in dict.fromkeys(schemes):
        try:
            get_transport_cls(scheme)
        except Exception as cause:  # noqa: BLE001 - as above
            return _unloaded(cause, scheme)
    if isinstance(error, TypeError):
        return (
            "the broker's URL has options that Kombu does not take there; put what is no `ssl_…` option into "
            "`broker_transport_options`"
        )
    return (
        _not_understood() if isinstance(error, (ValueError, KeyError)) else _unloaded(error, (schemes or ["amqp"])[0])
    )


def _unloaded(error: Exception, scheme: str) -> str:
    if isinstance(error, KeyError) and "No such transport" in str(error):
        return _no_transport(scheme)
    said = f": {error}" if isinstance(error, (ImportError, NameError)) else ""
    extra = EXTRAS.get(scheme.lower(), scheme.lower())
    named = f"`pip install 'kombu[{extra}]'`" if extra in WITH_EXTRAS else "the library that it needs"
    return (
        f"the broker's transport {scheme!r} cannot be loaded ({type(error).__name__}{said}); install or repair its "
        f"library ({named}), or use another broker"
    )


def _no_transport(scheme: str) -> str:
    meant = SPELLED.get(scheme.lower())
    remedy = f"write '{meant}://…' instead, with the same server" if meant is not None else (
        "use 'redis://host:6379/0' or 'amqp://host//'"
    )  # fmt: skip
    return f"Kombu has no transport {scheme!r} for the broker; {remedy}"


def _not_understood() -> str:
    return (
        "the broker's URL is not understood; expected 'redis://user:password@host:6379/0' or 'amqp://user:password@"
        "host:5672/vhost', with special characters of the password percent-encoded"
    )
