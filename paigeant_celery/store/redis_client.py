"""One Redis database: the client that each process opens, its scripts, and what its errors mean."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import resources
from pkgutil import resolve_name
from ssl import VerifyFlags
from typing import Any, TypeAlias, cast

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.commands.core import Script
from redis.connection import URL_QUERY_ARGUMENT_PARSERS
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from paigeant_celery.activities.real_threads import OfThread, are_greenlets
from paigeant_celery.core.errors import ConfigurationError, OutdatedVersion, StoreCorrupt, Unreachable
from paigeant_celery.core.refusals import Refusal, refusal_of, without_arguments
from paigeant_celery.store.endpoint import NOT_UNDERSTOOD, Endpoint, Plain
from paigeant_celery.store.limits import StoreLimits, with_limits

__all__ = ["PERMISSIONS", "Client", "Reply", "Server", "script_texts"]

SOCKET_TIMEOUT = 1.0  # seconds; with one retry far below the shortest sensible lease
RETRIES = 1
MOST_GREENLETS = 64  # that ask at once; a thousand would open as many connections, which a process may not have
MAX_CONNECTIONS = 1024  # more than the threads of one worker; each call holds one for its round trip
SCRIPTS = (
    "start", "claim", "renew", "touch", "release", "complete", "retry_at", "park", "fail", "cancel", "redrive", "sweep",
    "read", "bury", "letters", "record", "publish", "events", "bind", "resend", "give_back", "format", "probe",
    "wait", "suspend", "resolve", "time_out", "signal", "asked", "waits_of", "hold", "open_block", "branches_of",
    "edit", "listed", "counted", "relist", "look_over",
)  # fmt: skip
# What stands in front of some of them, after `common.lua` and `listing.lua`.
WITH_WAITS = (
    "claim", "read", "redrive", "sweep", "wait", "suspend", "resolve", "time_out", "signal", "asked", "waits_of",
    "branches_of", "edit",
)  # fmt: skip
WITH_BRANCHES = (*WITH_WAITS, "complete", "park", "fail", "cancel", "hold", "open_block")
WITH_SIGNALS = ("wait", "signal", "redrive", "edit")

# A script failed on a value before its first write. Servers before Redis 7 report a refused command in the same words.
_FALLEN = re.compile(r"(?:ERR )?(?:user_script|Error running script)")

DEMOTED = ("READONLY", "MASTERDOWN")
FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
# What a user of the server needs besides the keys of the prefix.
PERMISSIONS = "+@read +@write +@scripting +@connection +@transaction +time -@dangerous +info +config|get"

OF_SENTINELS = (
    "what sentinels ask for is written into `broker_transport_options['sentinel_kwargs']`, or with `sentinel_` before "
    "it into the store's URL: `?sentinel_password=…`"
)

# redis-py leaves some functions untyped, and types every reply as a union with awaitables.
Reply: TypeAlias = Any
_Sentinel, _SentinelPool = cast("Any", Sentinel), cast("Any", SentinelConnectionPool)


@dataclass(frozen=True)
class Client:
    """A client of this process, with the scripts that it can run."""

    pid: int
    lenient: redis.Redis  # for answers of which a part may be no text: its bytes stand as lone surrogates
    redis: redis.Redis
    scripts: Mapping[str, Script]
    turns: AbstractContextManager[Any]


class Server:
    """A database with records under one prefix.

    Raises `Unreachable` if the server is away or refuses, `StoreCorrupt` if something else wrote under the prefix, and
    `OutdatedVersion` if a newer worker has begun and the operation would begin something.
    """

    def __init__(self, endpoint: Endpoint, *, prefix: str, limits: StoreLimits) -> None:
        _refuse_unknown_options(endpoint)
        self.endpoint, self.address = endpoint, endpoint.address
        self.prefix, self.limits = prefix, limits
        self._client: OfThread[Client] = OfThread(_close)

    def run(self, script: str, *arguments: str | int, about: str) -> Reply:
        """Run a script. `about` is the key that it concerns, without the prefix."""
        return self.ask(lambda c: c.scripts[script](args=[self.prefix, *arguments]), about=about)

    def run_leniently(self, script: str, *arguments: str | int, about: str) -> Reply:
        """Run a script whose answer is about many records, so that one that is no text spoils no other.

        The bytes that are no UTF-8 come as lone surrogates, and go back as they came.
        """
        return self.ask(lambda c: c.scripts[script](args=[self.prefix, *arguments], client=c.lenient), about=about)

    def ask(self, question: Callable[[Client], Reply], *, about: str) -> Reply:
        """Put a question to the server. `about` is the key that it concerns, without the prefix."""
        try:
            return self._put(question)
        except UnicodeDecodeError as error:
            raise StoreCorrupt(f"{self.prefix}:{about}", "is not UTF-8 text") from error
        except redis.DataError:
            raise  # an argument is neither text nor a number; nothing was sent
        except RedisError as error:
            raise self._told(error, f"{self.prefix}:{about}") from error

    def permitted(self, question: Callable[[Client], Reply]) -> Reply:
        """Put a question that the server may refuse to answer; None if it does."""
        try:
            return self._put(question)
        except ResponseError:
            return None
        except RedisError as error:
            raise self._told(error, self.prefix) from error

    @contextmanager
    def readable(self, about: str) -> Iterator[None]:
        """Raise `StoreCorrupt` if the body cannot read the answer about a key, `OutdatedVersion` if that is newer."""
        try:
            yield
        except (KeyError, ValueError, TypeError) as error:
            if (found := self.newer_format()) is not None:
                raise OutdatedVersion(self.address, self.prefix, found, self.limits.format) from error
            text = f"has values that this version cannot read ({type(error).__name__})"
            raise StoreCorrupt(f"{self.prefix}:{about}", text) from error

    @property
    def client(self) -> Client | None:
        """The client of this process, with gevent of this thread, if there has been a question."""
        return self._client.value

    def newer_format(self) -> int | None:
        """Return the format of the records if a newer worker has begun, otherwise None."""
        found = self.ask(lambda c: c.redis.hget(f"{self.prefix}:meta", "format"), about="meta")
        is_newer = found is not None and found.isdecimal() and int(found) > self.limits.format
        return int(found) if is_newer else None

    def connected(self) -> Client:
        """Return it, and open it first if it is not there."""
        # No lock: another thread could hold it at a fork, and in the child it would never be released. At first two
        # threads may both make a client; one of the two goes away when its call is done.
        client = self.client
        if client is None or client.pid != os.getpid():
            client = self._client.value = _open(self.endpoint, self.limits)
        return client

    def _put(self, question: Callable[[Client], Reply]) -> Reply:
        client = self.connected()
        with client.turns:
            return question(client)

    def close(self) -> None:
        """Release this process's connections. A later question opens new ones."""
        client, self._client.value = self.client, None
        if client is not None:
            _close(client)

    def refusal_of(self, error: BaseException | None) -> Refusal | None:
        """Return what an error of the client says about the server; None if nothing answers, or with other words."""
        tls = self.endpoint.tls or {}
        files = tuple(str(tls[name]) for name in FILES if tls.get(name) and not os.access(str(tls[name]), os.R_OK))
        return refusal_of(error, rule=f"~{self.prefix}:* {PERMISSIONS}", paths=files, plain=not tls)

    def masters(self) -> set[str] | None:
        """Return the primaries that the sentinels watch; None if there are no sentinels, or none of them answers.

        Raises `Unreachable` if one refuses to tell.
        """
        found: set[str] | None = None
        for sentinel in _sentinels(self.connected().redis):
            try:
                watched: Any = sentinel.sentinel_masters()
                found = {*(found or ()), *map(str, watched)}
            except RedisError as error:
                if (refusal := self.refusal_of(error)) is not None:
                    raise Unreachable(
                        "sentinel", self.address, refusal.cause, refused=True, remedy=OF_SENTINELS
                    ) from error
        return found

    def _told(self, error: RedisError, key: str) -> StoreCorrupt | OutdatedVersion | Unreachable:
        """Return the error of ours for one of the client."""
        text = str(error)
        if text.startswith("FORMAT "):
            return OutdatedVersion(self.address, self.prefix, int(text.split()[1]), self.limits.format)
        if text.startswith("CORRUPT "):
            _, key, what = text.split(" ", 2)
            return StoreCorrupt(key, what)
        if text.startswith("WRONGTYPE"):
            return StoreCorrupt(key, "has another type than this version writes")
        if (refusal := self.refusal_of(error)) is not None:
            self._leave_demoted(refusal)
            return Unreachable("store", self.address, refusal.cause, refused=True, remedy=refusal.remedy)
        if type(error) is ResponseError and _FALLEN.match(text):
            return StoreCorrupt(key, "has values that this version cannot read")
        # The server is there but refuses, which may pass.
        cause = without_arguments(text) if type(error) is ResponseError else type(error).__name__
        return Unreachable("store", self.address, cause)

    def _leave_demoted(self, refusal: Refusal) -> None:
        """Close the connections to a server that is no longer the primary; new ones ask again who is, if only DNS."""
        client = self.client
        if refusal.cause.startswith(DEMOTED) and client is not None:
            for each in (client.redis, client.lenient):
                each.connection_pool.disconnect(inuse_connections=False)


def _close(client: Client) -> None:
    if client.pid != os.getpid():
        return  # its connections belong to the parent of this process
    for each in (client.redis, client.lenient):
        each.close()
        for sentinel in _sentinels(each):
            sentinel.close()


def _sentinels(client: redis.Redis) -> list[redis.Redis]:
    """Return the clients that ask where the primary is; none if the address is that of a server."""
    asked = getattr(client.connection_pool, "sentinel_manager", None)
    return list(asked.sentinels) if asked is not None else []


def script_texts(limits: StoreLimits) -> dict[str, str]:
    """Return the scripts by their names, each as it is sent to the server."""
    folder = resources.files("paigeant_celery.store").joinpath("scripts")
    parts = {
        name: with_limits(folder.joinpath(f"{name}.lua").read_text("utf-8"), limits)
        for name in ("common", "listing", "branches", "waits", "signals", *SCRIPTS)
    }

    def text_of(name: str) -> str:
        with_more = {"branches": WITH_BRANCHES, "waits": WITH_WAITS, "signals": WITH_SIGNALS}
        front = [part for part, names in with_more.items() if name in names]
        return "".join(parts[part] for part in ("common", "listing", *front, name))

    return {name: text_of(name) for name in SCRIPTS}


def _open(endpoint: Endpoint, limits: StoreLimits) -> Client:
    """Return a client for this process; nothing is connected yet."""
    client = redis.Redis.from_pool(_pool(endpoint))
    scripts = {name: client.register_script(text) for name, text in script_texts(limits).items()}
    turns = threading.Semaphore(MOST_GREENLETS) if are_greenlets() else nullcontext()
    lenient = redis.Redis.from_pool(_pool(endpoint, encoding_errors="surrogateescape"))
    return Client(os.getpid(), lenient, client, scripts, turns)


def _pool(endpoint: Endpoint, **more: Any) -> redis.ConnectionPool:
    options = {**_options(endpoint), **more}
    if not endpoint.master_name:
        return redis.ConnectionPool(**_place(endpoint), **options)
    asking = {
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": SOCKET_TIMEOUT,
        **_typed(endpoint.sentinel_options),
        "retry": Retry(NoBackoff(), 0),  # another sentinel is asked instead
        "retry_on_error": [],
    }
    sentinels = _Sentinel(endpoint.hosts, sentinel_kwargs=asking)
    pool: redis.ConnectionPool = _SentinelPool(endpoint.master_name, sentinels, ssl=endpoint.tls is not None, **options)
    return pool


def _place(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.path:
        return {"connection_class": redis.UnixDomainSocketConnection, "path": endpoint.path}
    secure = redis.Connection if endpoint.tls is None else redis.SSLConnection
    ((host, port),) = endpoint.hosts[:1]
    return {"connection_class": secure, "host": host, "port": port}


def _options(endpoint: Endpoint) -> dict[str, Any]:
    """Return the options of the connections to the data; those of the endpoint may set timeouts and the like."""
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": SOCKET_TIMEOUT,
        "client_name": "paigeant",
        "max_connections": MAX_CONNECTIONS,
        "username": endpoint.username,
        "password": endpoint.password,
        **_typed(endpoint.options),
        **_typed(endpoint.tls or {}),
        "db": endpoint.database,
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.05), retries=RETRIES),
        "retry_on_error": [redis.ConnectionError, redis.TimeoutError],  # redis-py before 6 asks for it
        "decode_responses": True,
    }
    if isinstance(provider := options.get("credential_provider"), str):
        options |= {"credential_provider": resolve_name(provider)(), "username": None, "password": None}
    return options


def _typed(options: Mapping[str, Plain]) -> dict[str, Any]:
    """Return options of redis-py with the types that it wants; those of a URL are texts."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        reader: Any = URL_QUERY_ARGUMENT_PARSERS.get(name) if isinstance(value, str) else None
        found[name] = reader(value) if reader is not None else value
        if name.endswith("_verify_flags") and isinstance(value, list):
            found[name] = [VerifyFlags(int(flag)) for flag in value]
    return found


def _refuse_unknown_options(endpoint: Endpoint) -> None:
    """Raise `ConfigurationError` for options that redis-py does not know or cannot read."""
    try:
        _pool(endpoint).make_connection()  # which connects to nothing
    except Exception:  # noqa: BLE001 - a `credential_provider` that is loaded here raises whatever it likes
        # Without the cause and its text, which may show parts of a password.
        raise ConfigurationError([NOT_UNDERSTOOD]) from None
