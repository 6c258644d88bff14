"""One Redis database: the client that each process opens, its scripts, and what its errors mean."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.commands.core import Script
from redis.connection import parse_url
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from redis.retry import Retry

from paigeant_celery.core.errors import ConfigurationError, StoreCorrupt, Unreachable
from paigeant_celery.store.limits import StoreLimits, as_lua

__all__ = ["Client", "Reply", "Server", "script_texts"]

SOCKET_TIMEOUT = 1.0  # seconds; with one retry far below the shortest sensible lease
RETRIES = 1
MAX_CONNECTIONS = 1024  # more than the threads of one worker; each call holds one for its round trip
SCRIPTS = (
    "start", "claim", "renew", "touch", "release", "complete", "retry_at", "park", "fail", "cancel", "redrive", "sweep",
    "read", "bury", "letters", "record", "publish", "events",
)  # fmt: skip

# A script failed on a value before its first write. Servers before Redis 7 report a refused command in the same words.
_FALLEN = re.compile(r"(?:ERR )?(?:user_script|Error running script)")
_REFUSED = re.compile(r"\b(?:OOM|READONLY|MISCONF|NOREPLICAS|NOPERM|MASTERDOWN)\b")

# redis-py leaves some functions untyped, and types every reply as a union with awaitables.
Reply: TypeAlias = Any
_parse_url = cast("Callable[[str], dict[str, Any]]", parse_url)


@dataclass(frozen=True)
class Client:
    """A client of this process, with the scripts that it can run."""

    pid: int
    redis: redis.Redis
    scripts: Mapping[str, Script]


class Server:
    """A database with records under one prefix.

    Raises `Unreachable` if the server is away or full, and `StoreCorrupt` if something else wrote under the prefix.
    """

    def __init__(self, url: str, *, prefix: str, limits: StoreLimits) -> None:
        self._options = _options(url)
        self.address = _address(url, self._options)
        self.prefix, self.limits = prefix, limits
        self.client: Client | None = None

    def run(self, script: str, *arguments: str | int, about: str) -> Reply:
        """Run a script. `about` is the key that it concerns, without the prefix."""
        return self.ask(lambda c: c.scripts[script](args=[self.prefix, *arguments]), about=about)

    def ask(self, question: Callable[[Client], Reply], *, about: str) -> Reply:
        """Put a question to the server. `about` is the key that it concerns, without the prefix."""
        try:
            return question(self.connected())
        except UnicodeDecodeError as error:
            raise StoreCorrupt(f"{self.prefix}:{about}", "is not UTF-8 text") from error
        except OutOfMemoryError as error:
            cause = "the server is full: its `maxmemory` is reached and nothing may be evicted"
            raise Unreachable("store", self.address, cause) from error
        except ResponseError as error:
            raise self._refusal(error, f"{self.prefix}:{about}") from error
        except redis.DataError:
            raise  # an argument is neither text nor a number; nothing was sent
        except RedisError as error:
            raise Unreachable("store", self.address, type(error).__name__) from error

    def permitted(self, question: Callable[[Client], Reply]) -> Reply:
        """Put a question that the server may refuse to answer; None if it does."""
        try:
            return question(self.connected())
        except ResponseError:
            return None
        except RedisError as error:
            raise Unreachable("store", self.address, type(error).__name__) from error

    @contextmanager
    def readable(self, about: str) -> Iterator[None]:
        """Raise `StoreCorrupt` if the body cannot read the answer about a key."""
        try:
            yield
        except (KeyError, ValueError, TypeError) as error:
            text = f"has values that this version cannot read ({type(error).__name__})"
            raise StoreCorrupt(f"{self.prefix}:{about}", text) from error

    def connected(self) -> Client:
        """Return this process's client."""
        # No lock: another thread could hold it at a fork, and in the child it would never be released. At first two
        # threads may both make a client; one of the two goes away when its call is done.
        client = self.client
        if client is None or client.pid != os.getpid():
            client = self.client = _open(self._options, self.limits)
        return client

    def close(self) -> None:
        """Release this process's connections. A later question opens new ones."""
        client, self.client = self.client, None
        if client is not None and client.pid == os.getpid():
            client.redis.close()

    def _refusal(self, error: ResponseError, key: str) -> StoreCorrupt | Unreachable:
        text = str(error)
        if text.startswith("CORRUPT "):
            _, key, what = text.split(" ", 2)
            return StoreCorrupt(key, what)
        if text.startswith("WRONGTYPE"):
            return StoreCorrupt(key, "has another type than this version writes")
        if type(error) is ResponseError and _FALLEN.match(text) and not _REFUSED.search(text):
            return StoreCorrupt(key, "has values that this version cannot read")
        # The server is there but refuses, which may pass.
        # After these words it would repeat the script or its arguments.
        said = re.split(r" script: [0-9a-f]{40}|, with args ", text)[0][:200]
        return Unreachable("store", self.address, said if type(error) is ResponseError else type(error).__name__)


def script_texts(limits: StoreLimits) -> dict[str, str]:
    """Return the scripts by their names, each as it is sent to the server."""
    folder = resources.files("paigeant_celery.store").joinpath("scripts")
    common = as_lua(limits) + folder.joinpath("common.lua").read_text("utf-8")
    return {name: common + folder.joinpath(f"{name}.lua").read_text("utf-8") for name in SCRIPTS}


def _open(options: Mapping[str, Any], limits: StoreLimits) -> Client:
    """Return a client for this process; nothing is connected yet."""
    client = redis.Redis.from_pool(redis.ConnectionPool(**options))
    scripts = {name: client.register_script(text) for name, text in script_texts(limits).items()}
    return Client(os.getpid(), client, scripts)


def _options(url: str) -> dict[str, Any]:
    """Return the client's options for `url`, whose query may set timeouts and the like."""
    try:
        parts = urlsplit(url)
        # A password with '#', '?' or '/' cuts the URL in the wrong place; the '@' is then after the cut.
        if parts.fragment or "@" in parts.path + parts.query:
            raise ValueError
        # redis-py reads a path that is not a number as database 0.
        if parts.scheme != "unix" and re.fullmatch(r"/*[0-9]*/*", parts.path) is None:
            raise ValueError
        given = _parse_url(url)
        if isinstance(mode := given.get("ssl_cert_reqs"), str):
            given["ssl_cert_reqs"] = mode.lower().removeprefix("ssl.").removeprefix("cert_")  # Celery's words
        options = {
            "socket_timeout": SOCKET_TIMEOUT,
            "socket_connect_timeout": SOCKET_TIMEOUT,
            "client_name": "paigeant",
            "max_connections": MAX_CONNECTIONS,
            **given,
            "retry": Retry(ExponentialBackoff(cap=0.2, base=0.05), retries=RETRIES),
            "retry_on_error": [redis.ConnectionError, redis.TimeoutError],  # redis-py before 6 asks for it
            "decode_responses": True,
        }
        redis.ConnectionPool(**options).make_connection()  # connects to nothing, but finds unknown options
    except (TypeError, ValueError, RedisError):
        # Without the cause and its text, which may show parts of a password.
        raise ConfigurationError(
            [
                "it is not understood; expected 'redis://user:password@host:6379/0' with options that "
                "redis-py knows, and special characters of the password percent-encoded"
            ]
        ) from None
    return options


def _address(url: str, options: Mapping[str, Any]) -> str:
    """Return `url` without the user, the password, and options other than the database."""
    scheme, database = url.partition("://")[0], options.get("db", 0)
    if scheme == "unix":
        return f"unix://{options.get('path', '')}?db={database}"
    host = options.get("host", "localhost")
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{options.get('port', 6379)}/{database}"
