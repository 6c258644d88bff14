"""The client of one Redis database: its options, and its scripts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.commands.core import Script
from redis.connection import parse_url
from redis.exceptions import RedisError
from redis.retry import Retry

from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.store.limits import Limits, written

__all__ = ["Client", "address_of", "open_client", "options_of", "script_texts"]

SOCKET_TIMEOUT = 1.0  # seconds; with one retry far below the shortest sensible lease
RETRIES = 1
MAX_CONNECTIONS = 1024  # more than the threads of one worker; each call holds one for its round trip
SCRIPTS = (
    "start", "claim", "renew", "release", "complete", "retry_at", "park", "fail", "cancel", "redrive", "sweep", "read",
    "bury", "letters", "record", "publish", "events",
)  # fmt: skip

# redis-py leaves it untyped.
_parse_url = cast("Callable[[str], dict[str, Any]]", parse_url)


@dataclass(frozen=True)
class Client:
    """A client of this process, with the scripts that it can run."""

    pid: int
    redis: redis.Redis
    scripts: Mapping[str, Script]


def script_texts(limits: Limits) -> dict[str, str]:
    """Return the scripts by their names, each as it is sent to the server."""
    folder = resources.files("paigeant_celery.store").joinpath("scripts")
    common = written(limits) + folder.joinpath("common.lua").read_text("utf-8")
    return {name: common + folder.joinpath(f"{name}.lua").read_text("utf-8") for name in SCRIPTS}


def open_client(options: Mapping[str, Any], limits: Limits) -> Client:
    """Return a client for this process; nothing is connected yet."""
    client = redis.Redis.from_pool(redis.ConnectionPool(**options))
    scripts = {name: client.register_script(text) for name, text in script_texts(limits).items()}
    return Client(os.getpid(), client, scripts)


def options_of(url: str) -> dict[str, Any]:
    """Return the client's options for `url`, whose query may set timeouts and the like."""
    try:
        parts = urlsplit(url)
        # A password with '#', '?' or '/' cuts the URL in the wrong place; the '@' is then behind the cut.
        if parts.fragment or "@" in parts.path + parts.query:
            raise ValueError
        # redis-py reads a path that is no number as database 0.
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
        redis.ConnectionPool(**options).make_connection()  # connects to nothing; finds options that do not exist
    except (TypeError, ValueError, RedisError):
        # Without the cause and its text, which may show parts of a password.
        raise ConfigurationError(
            [
                "store URL: it is not understood; expected 'redis://user:password@host:6379/0' with options that "
                "redis-py knows, and special characters of the password percent-encoded"
            ]
        ) from None
    return options


def address_of(url: str, options: Mapping[str, Any]) -> str:
    """Return `url` without user, password and options other than the database."""
    scheme, database = url.partition("://")[0], options.get("db", 0)
    if scheme == "unix":
        return f"unix://{options.get('path', '')}?db={database}"
    host = options.get("host", "localhost")
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{options.get('port', 6379)}/{database}"
