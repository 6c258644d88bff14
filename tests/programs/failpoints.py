"""Crash points: a process that loads this module dies where a file says so, or loses the reply to a script.

In the folder `FAILPOINTS`, a file named after the point is removed by the process that dies there, so each file kills
once. `soft.<script>` loses one reply, for which the client library asks again; `hard.<script>` fails the call.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from ledger import me, note

import paigeant_celery.store.redis_client as client_module
from paigeant_celery.broker.publisher import CeleryPublisher
from paigeant_celery.broker.sending import Sending
from paigeant_celery.hop.service import HopService
from paigeant_celery.store.port import Claimed
from paigeant_celery.store.redis import RedisStore

FOLDER = Path(os.environ["FAILPOINTS"])
DISPATCHER = "dispatcher"  # begins the names of processes that dispatch


def taken(name: str) -> bool:
    """Say whether this process is the one that is meant."""
    try:
        (FOLDER / name).unlink()
    except FileNotFoundError:
        return False
    return True


def die_at(name: str) -> None:
    """End the process silently if the file of the point exists."""
    if taken(name):
        note(os.environ["HITS_FILE"], kind=f"at {name}", **me())
        os.kill(os.getpid(), signal.SIGKILL)


def wrap(cls: type, method: str, *, before: Callable[[], None] | None = None, after: Any = None) -> None:
    """Call `before()` before a method and `after(result)` after it."""
    original = getattr(cls, method)

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before()
        result = original(self, *args, **kwargs)
        if after is not None:
            after(result)
        return result

    setattr(cls, method, wrapped)


def dies(name: str) -> Callable[[object], None]:
    """Return what ends the process if a call had a result."""
    return lambda answer: die_at(name) if answer else None


def die_once_sent(sending: Sending[None]) -> None:
    """End the process when the broker has the message."""
    if (FOLDER / "published").exists():
        sending.wait()
        die_at("published")


def in_a_hop() -> bool:
    """Say whether a hop's next message is sent, not a workflow's first one or one that is resent."""
    return DISPATCHER not in os.environ["PROCESS"] and threading.current_thread().name != "paigeant-sweeper"


# Between any two effects of the protocol, in its order.
wrap(RedisStore, "start", after=lambda answer: die_at("started") if answer == "started" else None)
wrap(RedisStore, "claim", before=lambda: die_at("received"))
wrap(RedisStore, "claim", after=lambda answer: die_at("claimed") if isinstance(answer, Claimed) else None)
wrap(HopService, "close", before=lambda: die_at("ran"))
wrap(RedisStore, "complete", after=dies("completed"))
wrap(CeleryPublisher, "begin", after=lambda sending: die_once_sent(sending) if in_a_hop() else None)
wrap(RedisStore, "retry_at", after=dies("retried"))
wrap(RedisStore, "park", after=dies("parked"))
wrap(RedisStore, "fail", after=dies("failed"))
wrap(RedisStore, "release", after=dies("released"))
wrap(RedisStore, "renew", after=dies("renewed"))
wrap(RedisStore, "sweep", after=lambda found: die_at("swept") if found.overdue else None)


open_client = client_module._open
asking = threading.local()


def open_leaky(*given: Any) -> Any:
    """Return a client that loses the replies of scripts after they ran."""
    client = open_client(*given)
    parse = client.redis.parse_response

    def parse_response(connection: Any, command_name: Any, **kwargs: Any) -> Any:
        reply = parse(connection, command_name, **kwargs)
        script = getattr(asking, "script", None)
        if script is not None and taken(f"soft.{script}"):
            note(os.environ["HITS_FILE"], kind=f"soft.{script}")
            raise redis.ConnectionError("the reply is dropped")
        return reply

    client.redis.parse_response = parse_response
    return dataclasses.replace(client, scripts={name: leaky(name, call) for name, call in client.scripts.items()})


def leaky(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def called(**kwargs: Any) -> Any:
        asking.script = name
        try:
            reply = call(**kwargs)
        finally:
            asking.script = None
        if taken(f"hard.{name}"):
            note(os.environ["HITS_FILE"], kind=f"hard.{name}")
            raise redis.TimeoutError("the reply is dropped")
        return reply

    return called


client_module._open = open_leaky
