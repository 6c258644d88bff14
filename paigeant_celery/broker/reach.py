"""One connection to the broker, and what the errors that it raises mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from paigeant_celery.broker.connection import asks_sentinels, broker_urls, missing_driver, shown_url
from paigeant_celery.broker.one_client import keep_one_client
from paigeant_celery.core.errors import PaigeantError, Unreachable
from paigeant_celery.core.refusals import refusal_of

__all__ = [
    "ALL_OF_A_BROKER",
    "ASKING_SENTINELS",
    "Link",
    "asking_broker",
    "away",
    "broker_address",
    "reaching_broker",
    "refuses",
]

CONNECT_TIMEOUT = 4.0  # seconds for one address; Celery's default, `broker_connection_timeout`
LEAST = 1.0  # seconds for each call to the broker, however short a wait for workers is
# Errors with which a broker says no although Kombu counts them as lost connections, or does not know them.
REFUSALS = {"MessageNacked", "AuthenticationError", "NotAllowed", "InvalidPath"}

ALL_OF_A_BROKER = "~* &* +@all -@admin"  # for a Redis; its keys have names of several prefixes

# How each library is told to give up a call on a connection.
TIMEOUTS = {
    "py-amqp": ("read_timeout", "write_timeout"),
    "redis": ("socket_timeout", "socket_connect_timeout"),
}
# With redis-py's own values, one that is away is tried four times, with seconds between, before the next is asked.
ASKING_SENTINELS = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0, "retry": None}


class Link:
    """A connection of our own. One thread uses it; what it asks takes at most `timeout` seconds if the library allows.

    Celery's pools are left alone: they belong to the host, and wait without a bound for a broker that blocks.
    """

    def __init__(self, app: Celery, *, timeout: float) -> None:
        self._app = app
        self.connection: Any = app.connection_for_write()
        self.connection.connect_timeout = min(self.connection.connect_timeout or CONNECT_TIMEOUT, timeout)
        options = self.connection.transport_options = dict(self.connection.transport_options or {})
        for name in TIMEOUTS.get(self.connection.transport.driver_name, ()):
            options[name] = min(options.get(name) or timeout, timeout)
        if asks_sentinels(self.connection.transport):
            options["sentinel_kwargs"] = {**ASKING_SENTINELS, **(options.get("sentinel_kwargs") or {})}
        keep_one_client(self.connection.transport)
        options.setdefault("confirm_publish", True)  # RabbitMQ's; only then it says that it has, or refuses, a message
        self.producer: Any = None
        self.returned = False  # whether the last message had no queue

    def connect(self, *, within: float) -> None:
        """Connect to the first address that answers."""
        self.connection.ensure_connection(
            max_retries=max(1, len(self.connection.alt)), interval_start=0.1, interval_step=0.0, interval_max=0.1,
            timeout=max(0.1, within),
        )  # fmt: skip
        # Others return nothing, and have no place for who is told of it.
        told = self._note_return if self.connection.transport.driver_name == "py-amqp" else None
        self.producer = self._app.amqp.Producer(self.connection, auto_declare=False, on_return=told)

    def close(self, *, broken: bool = False) -> None:
        """Close the connection, without a word to a broker that may not listen."""
        with suppress(Exception):
            if broken:
                self.connection.collect()
            else:
                self.connection.release()

    def declare_again(self) -> None:
        """Declare what was declared here before, since somebody has deleted it."""
        self.connection.declared_entities.clear()

    def _note_return(self, *_: object) -> None:
        self.returned = True

    def abandon(self) -> None:
        """Forget the connection in a forked child. Only the child's copy of the socket is closed.

        A goodbye, or a shutdown of the socket, would end the connection of the parent.
        """
        transport = getattr(self.connection._connection, "_transport", None)  # of py-amqp; redis-py looks at the pid
        sock = getattr(transport, "sock", None)
        if transport is not None and sock is not None:
            transport.sock, transport.connected = None, False
            sock.close()


@contextmanager
def reaching_broker(app: Celery) -> Iterator[None]:
    """Raise `Unreachable` if the broker is away or refuses, `ConfigurationError` if Kombu lacks a library."""
    try:
        yield
    except PaigeantError:
        raise
    except ImportError as error:
        raise missing_driver(error, app) from error
    except Exception as error:
        if (named := refusal_of(error, rule=ALL_OF_A_BROKER)) is not None:
            address = broker_address(app)
            raise Unreachable("broker", address, named.cause, refused=True, remedy=named.remedy) from error
        refused = refuses(app, error)
        if not refused and not away(app, error):
            raise
        said = error.__cause__ if isinstance(error, OperationalError) and error.__cause__ is not None else error
        cause = f"{type(said).__name__}: {said}" if refused else type(error).__name__
        raise Unreachable("broker", broker_address(app), cause.rstrip(": "), refused) from error


@contextmanager
def asking_broker(app: Celery, *, timeout: float) -> Iterator[Any]:
    """Give a connection over which workers are asked something, or raise as `reaching_broker` does.

    One of Celery's would wait without end for a broker that hangs, and so would a person, or a probe.
    """
    within = max(timeout, LEAST)
    with reaching_broker(app), Link(app, timeout=within).connection as connection:
        connection.ensure_connection(max_retries=1, timeout=within)
        yield connection


def refuses(app: Celery, error: BaseException) -> bool:
    """Say whether the broker is there and says no: to the account, the queue or the message."""
    refusals = app.connection_for_write().channel_errors
    seen = (error, error.__cause__) if isinstance(error, OperationalError) else (error,)
    return any(isinstance(each, refusals) or type(each).__name__ in REFUSALS for each in seen if each is not None)


def away(app: Celery, error: BaseException) -> bool:
    """Say whether an error means that the broker does not answer, or not yet."""
    named = refusal_of(error)
    if refuses(app, error) or (named is not None and named.mistake):
        return False
    return isinstance(error, (OperationalError, OSError, *app.connection_for_write().connection_errors))


def broker_address(app: Celery) -> str:
    """Return the address of the app's broker, without password."""
    return shown_url((broker_urls(app.conf) or ["amqp://"])[0])
