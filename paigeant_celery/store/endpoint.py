"""Where a Redis database is and how it is reached, in plain values that may cross to another process as JSON."""

from __future__ import annotations

import dataclasses
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from paigeant_celery.core.errors import ConfigurationError

__all__ = ["PORT", "SENTINEL_PORT", "Endpoint", "Plain", "plain_options", "read_url"]

PORT, SENTINEL_PORT = 6379, 26379
VERIFY_MODES = {ssl.CERT_NONE: "none", ssl.CERT_OPTIONAL: "optional", ssl.CERT_REQUIRED: "required"}
SOCKET_SCHEMES = {"unix", "redis+socket"}
SENTINEL = "sentinel"
TRUE = {"1", "true", "yes"}

Plain: TypeAlias = str | int | float | bool | list[str | int] | None

MEANT = {  # what others call it
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+tls": "rediss",
    "rediss+socket": "redis+socket",
    "redis+sentinel": "sentinel",
}
EXAMPLES = "use 'redis://host:6379/0', 'rediss://…', 'unix:///path/to/socket' or 'memory://'"
NOT_UNDERSTOOD = (
    "it is not understood; expected 'redis://user:password@host:6379/0' with options that redis-py knows, and special "
    "characters of the password percent-encoded"
)
NO_MASTER = (
    "it names sentinels but not what they watch; add `?master_name=…` with the name that `sentinel monitor` in the "
    "sentinels' configuration has"
)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A Redis database: on one of `hosts`, or behind the socket at `path`.

    With a `master_name`, `hosts` are sentinels, which tell where the primary of that name is. `tls` has redis-py's
    words, and is None without TLS. Texts show the `address` alone, without user and password.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    master_name: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = None
    tls: Mapping[str, Plain] | None = None
    options: Mapping[str, Plain] = field(default_factory=dict)  # of redis-py's connections
    sentinel_options: Mapping[str, Plain] = field(default_factory=dict)  # the same for those to sentinels

    def __repr__(self) -> str:
        return f"Endpoint({self.address!r})"

    @property
    def address(self) -> str:
        """The URL without user, password and options."""
        if self.path:
            return f"unix://{self.path}?db={self.database}"
        scheme = "rediss" if self.tls is not None else "redis"
        if self.master_name:
            shown = ";".join(f"sentinel://{_shown(*host)}" for host in self.hosts)
            return f"{shown}/{self.database}?master_name={self.master_name}"
        return f"{scheme}://{_shown(*self.hosts[0])}/{self.database}"

    @property
    def verifies(self) -> bool:
        """Whether nobody between here and the server can read along or answer in its place, as far as TLS goes."""
        return self.tls is None or self.tls.get("ssl_cert_reqs", "required") != "none"

    def as_plain(self) -> dict[str, Any]:
        """Return what `json.dumps` takes, with the password: for a pipe to a process of our own, and for no log."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Endpoint:
        """Return what `as_plain` was made of."""
        return cls(**{**plain, "hosts": tuple((str(host), int(port)) for host, port in plain["hosts"])})


def read_url(url: str) -> Endpoint:
    """Return what a store's URL names; raises `ConfigurationError`, which repeats nothing that may be a password."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme not in {"redis", "rediss", SENTINEL, *SOCKET_SCHEMES}:
        raise ConfigurationError([_other_scheme(scheme)])
    try:
        if scheme == SENTINEL:
            return _sentinels(url)
        if ";" in url and "://" in url.partition(";")[2]:
            raise ConfigurationError(["it is a list, but a store is one server; name one, or the sentinels of several"])
        return _socket(url) if scheme in SOCKET_SCHEMES else _server(url, tls=scheme == "rediss")
    except (TypeError, ValueError):
        # Without the cause and its text, which may show parts of a password.
        raise ConfigurationError([NOT_UNDERSTOOD]) from None


def plain_options(given: Mapping[str, object]) -> dict[str, Plain]:
    """Return options of redis-py as plain values; raises `ValueError` with the name of one that can be none."""
    found: dict[str, Plain] = {}
    for name, value in given.items():
        if name == "ssl_cert_reqs":
            found[name] = _verify_mode(value)
            continue
        try:
            found[name] = _plain(value)
        except (TypeError, ValueError):
            raise ValueError(name) from None
    return found


def _plain(value: object) -> Plain:
    if isinstance(value, Enum):  # `ssl.TLSVersion`, `ssl.VerifyFlags`
        return int(value.value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, bytes):
        return value.decode("ascii")
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [_plain(part) for part in value]
        return [part for part in parts if isinstance(part, (str, int))]
    raise TypeError


def _verify_mode(value: object) -> str:
    """Return redis-py's word for how far a certificate is verified; Celery and `ssl` have others."""
    if value is None or isinstance(value, int):
        return VERIFY_MODES[ssl.VerifyMode(value or 0)]
    word = str(value).lower().removeprefix("ssl.").removeprefix("verifymode.").removeprefix("cert_")
    if word not in VERIFY_MODES.values():
        raise ValueError("ssl_cert_reqs")
    return word


def _server(url: str, *, tls: bool) -> Endpoint:
    parts = _parts(url)
    options = dict(parse_qsl(parts.query))
    return Endpoint(
        hosts=((_host(parts) or "localhost", _port(parts, PORT)),),
        database=_database(parts.path, options),
        username=_given(parts.username, options.pop("username", None)),
        password=_given(parts.password, options.pop("password", None)),
        tls=_own_tls(options) if tls else None,
        options=options,
    )


def _socket(url: str) -> Endpoint:
    parts = _parts(url)
    options = dict(parse_qsl(parts.query))
    number = options.pop("db", options.pop("virtual_host", "0"))  # redis-py's word, and Kombu's
    options.pop("virtual_host", None)
    if not parts.path or parts.hostname:
        raise ValueError
    return Endpoint(
        path=unquote(parts.path),
        database=_database(number, {}),
        username=_given(parts.username, options.pop("username", None)),
        password=_given(parts.password, options.pop("password", None)),
        options=options,
    )


def _sentinels(url: str) -> Endpoint:
    """Read a list of sentinels; user, password, database and options of the data may stand at any of them."""
    each = [_parts(part if "://" in part else f"sentinel://{part}") for part in url.split(";") if part]
    options = dict(option for parts in each for option in parse_qsl(parts.query))
    path = next((parts.path for parts in each if parts.path.strip("/")), "")
    master = options.pop("master_name", "")
    if not master:
        raise ConfigurationError([NO_MASTER])
    of_sentinels = {name: options.pop(name) for name in tuple(options) if name.startswith("sentinel_")}
    ask = {name.removeprefix("sentinel_"): value for name, value in of_sentinels.items()}
    tls = str(options.pop("ssl", "")).lower() in TRUE or any(name.startswith("ssl_") for name in options)
    return Endpoint(
        hosts=tuple((_host(parts) or "localhost", _port(parts, SENTINEL_PORT)) for parts in each),
        master_name=master,
        database=_database(path, options),
        username=_given(*(parts.username for parts in each), options.pop("username", None)),
        password=_given(*(parts.password for parts in each), options.pop("password", None)),
        tls=_own_tls(options) if tls else None,
        options=options,
        sentinel_options=_sentinel_options(ask),
    )


def _sentinel_options(ask: dict[str, str]) -> dict[str, Plain]:
    options: dict[str, Plain] = {**ask}
    if "ssl" in ask or any(name.startswith("ssl_") for name in ask):
        options = {**options, **_own_tls(options), "ssl": ask.get("ssl", "1").lower() in TRUE}
    return options


def _own_tls(options: dict[str, Any]) -> dict[str, Plain]:
    """Take what concerns TLS out of options; whatever a URL of its own does not say is verified."""
    found = {name: options.pop(name) for name in tuple(options) if name.startswith("ssl_")}
    mode = _verify_mode(found.get("ssl_cert_reqs", "required"))
    checks = {} if mode == "none" else {"ssl_check_hostname": True}  # redis-py before 6 does not unless told
    return {**checks, **found, "ssl_cert_reqs": mode}


def _parts(url: str) -> SplitResult:
    parts = urlsplit(url)
    # A password with '#', '?' or '/' cuts the URL in the wrong place; the '@' is then after the cut.
    if parts.fragment or "@" in parts.path + parts.query:
        raise ValueError
    return parts


def _host(parts: SplitResult) -> str:
    return unquote(parts.hostname or "")


def _port(parts: SplitResult, default: int) -> int:
    return parts.port or default


def _database(path: str, options: dict[str, str]) -> int:
    number = options.pop("db", "")
    if re.fullmatch(r"/*[0-9]*/*", path) is None:
        raise ValueError
    return int(number or path.strip("/") or 0)


def _given(*values: str | None) -> str | None:
    """Return the first that is given; those of a URL are percent-encoded, but for the last, which is an option."""
    of_urls = (unquote(value) for value in values[:-1] if value)
    return next(of_urls, values[-1])


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _other_scheme(scheme: str) -> str:
    if not scheme:
        return f"it is not a URL; {EXAMPLES}"
    if scheme in MEANT:
        return f"the scheme {scheme!r} is not supported; write '{MEANT[scheme]}://…' instead, with the same server"
    return f"the scheme {scheme!r} is not supported; {EXAMPLES}"
