"""What a Redis server, or the way to it, refuses with: what that means, what to do, and whether waiting can help.

Errors are read by their class names and texts, because those who ask load different clients, and the store may be the
only one here that has one.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Refusal", "refusal_of", "without_arguments"]


@dataclass(frozen=True)
class Refusal:
    """A refusal with a name. A `mistake` stays until somebody corrects it, so it ends a start; others pass."""

    cause: str
    remedy: str
    mistake: bool = False


WORDS = {
    "READONLY": Refusal(
        "READONLY: it is a replica and takes no writes",
        "wait for the failover to end; if it stays, name the primary, or use Redis Sentinel, which finds it",
    ),
    "MISCONF": Refusal(
        "MISCONF: it cannot write to its disk, and so refuses all writes",
        "its log says why; mostly the disk is full, or the folder is not its own",
    ),
    "OOM": Refusal(
        "OOM: the server is full, its `maxmemory` is reached and nothing may be evicted",
        "raise `maxmemory`, or remove what is not needed there",
    ),
    "LOADING": Refusal("LOADING: it still reads its data from disk", "wait until it has"),
    "MASTERDOWN": Refusal(
        "MASTERDOWN: it is a replica that has lost its primary",
        "wait for the failover to end; if it stays, name the primary, or use Redis Sentinel, which finds it",
    ),
    "NOREPLICAS": Refusal(
        "NOREPLICAS: fewer replicas follow it than `min-replicas-to-write` asks for",
        "start them, or lower that number",
    ),
    "BUSY": Refusal(
        "BUSY: a script there has been running for longer than `busy-reply-threshold`",
        "none of ours takes that long; see who runs it, and end it with `SCRIPT KILL`",
    ),
    "MAXCLIENTS": Refusal(
        "all connections that `maxclients` allows are in use", "raise it, or see with `CLIENT LIST` who holds them"
    ),
    "NOPERM": Refusal(
        "NOPERM: the rules of its user do not permit {what}",
        "give the user what the page on brokers and stores lists: `ACL SETUSER … {rule}`",
        mistake=True,
    ),
    "WRONGPASS": Refusal(
        "WRONGPASS: it does not know this user, or not with this password",
        "correct user and password in the URL; special characters are percent-encoded",
        mistake=True,
    ),
    "NOAUTH": Refusal(
        "NOAUTH: it asks for a password, and none is given",
        "write it into the URL: 'redis://user:password@host:6379/0'",
        mistake=True,
    ),
    "DENIED": Refusal(
        "DENIED: it is in protected mode and answers its own machine alone",
        "give it a password and a `bind` address, then set both here",
        mistake=True,
    ),
    "NOMASTER": Refusal(
        "none of the sentinels that answer knows a primary that lives",
        "wait for the failover to end; if it stays, see that the sentinels run, and what `master_name` they watch",
    ),
    "NODB": Refusal(
        "it has no database of this number", "use a smaller one, or raise `databases` of the server", mistake=True
    ),
}

CLASSES = {  # redis-py takes the word off the text of these
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "NoPermissionError": "NOPERM",
    "MasterNotFoundError": "NOMASTER",
}
TEXTS = (  # a server before Redis 7, and each inside of a script, says some of them in the middle of other words
    (re.compile(r"\b(READONLY|MISCONF|OOM|LOADING|MASTERDOWN|NOREPLICAS|BUSY|NOPERM|DENIED)\b"), None),
    (re.compile(r"previous master is now a slave|UNBLOCKED .*state changed"), "READONLY"),
    (re.compile(r"max number of clients"), "MAXCLIENTS"),
    (re.compile(r"ACL failure|user executing the script can't"), "NOPERM"),
    (re.compile(r"DB index|[Ii]nvalid (?:DB|[Dd]atabase)"), "NODB"),
)
UNASKED = re.compile(r"NOAUTH|[Aa]uthentication required|must be called with the client already authenticated")
COMMAND = re.compile(r"run (?:the )?'([\w|]+)'")
KEYS = re.compile(r"\bkeys?\b")

# As a server says to whom it does not understand, but also if it goes away in the middle of a call.
BROKEN_OFF = Refusal(
    "it broke the connection off",
    "start or fix it; if it speaks TLS on this port, write `rediss://`, or set `broker_use_ssl`",
)
ENDED_TLS = Refusal(
    "it ended TLS right after it had begun",
    "start or fix it; if it stays so, the server may want a certificate of ours: set `ssl_certfile` and `ssl_keyfile`",
)

ANOTHER_NAME, NO_AUTHORITY, EXPIRED = {62, 64}, {18, 19, 20, 21}, {9, 10}  # OpenSSL's numbers


def refusal_of(
    error: BaseException | None, *, rule: str = "", paths: tuple[str, ...] = (), plain: bool = False
) -> Refusal | None:
    """Return what an error, or what it was raised from, refuses with; None if nothing answers, or with other words.

    `rule` is the one that a user of the server needs; `paths` are files of TLS that cannot be read; `plain` says that
    TLS was not tried.
    """
    for each in _chain(error):
        if (found := _of_server(each, rule) or _of_tls(each, paths)) is not None:
            return found
        if plain and isinstance(each, ConnectionResetError):
            return BROKEN_OFF
    return None


def without_arguments(text: str) -> str:
    """Return what a server says, without the script or its arguments, which it would repeat after that."""
    return re.split(r" script: [0-9a-f]{40}|, with args ", text)[0][:200]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        # What an error merely came after may have nothing to do with it; clients do raise theirs after an `OSError`.
        after = error.__context__ if isinstance(error.__context__, OSError) else None
        error = error.__cause__ or after


def _of_server(error: BaseException, rule: str) -> Refusal | None:
    name, text = type(error).__name__, without_arguments(str(error))
    if name == "AuthenticationError":
        return WORDS["NOAUTH" if UNASKED.search(text) else "WRONGPASS"]
    if not type(error).__module__.startswith("redis"):
        return None
    word = CLASSES.get(name) or next((word or found[1] for said, word in TEXTS if (found := said.search(text))), None)
    if word != "NOPERM":
        return WORDS.get(word or "")
    asked = COMMAND.search(text)
    what = f"`{asked[1].upper().replace('|', ' ')}`" if asked else "these keys" if KEYS.search(text) else "a command"
    refusal = WORDS["NOPERM"]
    return Refusal(refusal.cause.format(what=what), refusal.remedy.format(rule=rule), mistake=True)


def _of_tls(error: BaseException, paths: tuple[str, ...]) -> Refusal | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        cause = f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
        return Refusal(cause, _for_certificate(error.verify_code), mistake=True)
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return ENDED_TLS
    if isinstance(error, ssl.SSLError) and "timed out" not in str(error):
        reason = str(getattr(error, "reason", None) or error)
        return Refusal(f"TLS fails: {reason}", _for_tls(reason), mistake=True)
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)) and paths:
        return Refusal(
            f"a file of TLS cannot be read: {', '.join(map(repr, paths))}", "correct the path, or who may read it",
            mistake=True,
        )  # fmt: skip
    if isinstance(error, TimeoutError) and "handshake" in str(error):
        return Refusal(
            "nobody answers in TLS, though something listens there",
            "if the server does not speak TLS on this port, write `redis://`, without `broker_use_ssl`",
        )
    return None


def _for_certificate(code: int) -> str:
    if code in ANOTHER_NAME:
        return (
            "connect by a name that stands in the certificate, or have one made for this name; "
            "`ssl_check_hostname` = False accepts any name"
        )
    if code in NO_AUTHORITY:
        return (
            "name the authority that signed it: `ssl_ca_certs` = '/path/ca.pem' in `broker_use_ssl`, or "
            "`?ssl_ca_certs=/path/ca.pem` in the URL"
        )
    if code in EXPIRED:
        return "renew it, and see that the clocks of both machines are right"
    return "see `ssl_ca_certs`, `ssl_check_hostname` and `ssl_cert_reqs` in `broker_use_ssl` or the URL"


def _for_tls(reason: str) -> str:
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return "the server wants a certificate of ours: set `ssl_certfile` and `ssl_keyfile`, signed by its authority"
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason:
        return "the server does not accept our certificate: `ssl_certfile` must be signed by its authority"
    if "WRONG_VERSION" in reason or "RECORD_LAYER" in reason or "PACKET_LENGTH" in reason:
        return "the server does not speak TLS on this port: write `redis://`, or name its TLS port"
    return "see `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` in `broker_use_ssl` or the URL"
