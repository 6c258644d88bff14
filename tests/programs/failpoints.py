"""Crash points: a process that loads this module dies where a file says so, or loses the reply to a script.

In the folder `FAILPOINTS`, a file named after the point is removed by the process that dies there, so each file kills
once. `soft.<script>` loses one reply, for which the client library asks again; `hard.<script>` fails the call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from ledger import me, note

import paigeant_celery.hop.step_blocks as blocks_module
import paigeant_celery.store.redis_client as client_module
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.publisher import CeleryPublisher
from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.blocks import Block
from paigeant_celery.core.errors import PaigeantError
from paigeant_celery.core.names import block_of
from paigeant_celery.hop.service import HopService
from paigeant_celery.store.branch_port import BranchPage
from paigeant_celery.store.port import Claimed, Closed, Closing, HopRecord, Standing, Suspended, Sweep
from paigeant_celery.store.redis import RedisStore

FOLDER = Path(os.environ["FAILPOINTS"])
OUTSIDE = ("dispatcher", "answerer")  # begin the names of processes that run no hops


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
    """Say whether the next message of a hop is sent: not a first one, one that is sent again, or that of an answer."""
    return not os.environ["PROCESS"].startswith(OUTSIDE) and threading.current_thread().name != "paigeant-sweeper"


def hears(records: Mapping[str, str]) -> bool:
    """Say whether the journal is told what came of a wait."""
    return any(key.startswith("[") and json.loads(key)[2] == "wait" for key in records)


def hear(records: Mapping[str, str], write: Callable[[], bool]) -> bool:
    """Write something, and end the process before or after it if the journal is told what came of a wait."""
    if hears(records):
        die_at("before hearing")
    written = write()
    if hears(records):
        die_at("heard")
    return written


def sweep(store: RedisStore, **asked: Any) -> Sweep:
    """Sweep, and end the process if a hop must be sent that waited until its time was over."""
    found = look(store, **asked)
    if (FOLDER / "woken").exists():
        waits = [wait for hop in found.overdue for wait in store.waits(hop.hop_id)]
        if any(wait.state == "timed_out" for wait in waits):
            die_at("woken")
    return found


def hold(store: RedisStore, closing: Closing, page: BranchPage) -> int | None:
    """Write a page of branches, and end the process before the first one, between two, or after the last one."""
    if page.first == 0:
        die_at("before pages")
    written = hold_page(store, closing, page)
    if written is not None:
        die_at("between pages" if len(page.hops) == PAGE else "pages recorded")
    return written


def send_branches(outbox: Outbox, hops: Sequence[HopRecord]) -> None:
    """Send the first branches, and end the process before, halfway or after that."""
    if not hops:
        return
    die_at("opened")
    if (FOLDER / "branch published").exists():
        with contextlib.suppress(PaigeantError):  # the server is away
            outbox.begin(hops[0]).wait()
        die_at("branch published")
    send_all(outbox, hops)
    die_at("branches published")


def look_at_block(store: RedisStore, hop_id: str) -> Block | None:
    """Read a block, and end the process if its join is met or missed: it is the attempt after that."""
    found = look_up(store, hop_id)
    if found is not None and found.joined is not None:
        joined.add(hop_id)
        die_at("join found")
    return found


def suspend(store: RedisStore, closing: Closing, standing: Standing) -> Suspended | None:
    """Suspend a hop, and end the process before or after that if it is a block."""
    if standing.branches:
        die_at("before leaving to branches")
    found = leave(store, closing, standing)
    if standing.branches and found is not None:
        die_at("left to branches")
    return found


def arrived(how: str, closing: Closing, closed: Closed | None) -> Closed | None:
    """End the process if the end of a hop lets another one go on, which is not sent yet."""
    above = block_of(closing.hop_id)
    for hop in closed.hops if closed is not None else ():
        die_at(f"{how} and joined" if above is not None and hop.hop_id == above[0] else f"{how} and opened")
    return closed


def close_block(close: Callable[..., Closed | None], how: str) -> Callable[..., Closed | None]:
    """Close a hop, and end the process before or after that if it is a block whose branches have ended."""

    def closed(store: RedisStore, first: Any, *more: Any, **named: Any) -> Closed | None:
        closing = first if isinstance(first, Closing) else first.closing
        if closing.hop_id in joined:
            die_at(f"before block {how}")
        answer = arrived(how, closing, close(store, first, *more, **named))
        if closing.hop_id in joined and answer is not None:
            die_at(f"block {how}")
        return answer

    return closed


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

# The same for a hop that waits. `heed` has those around its asking.
wrap(RedisStore, "wait", before=lambda: die_at("before wait"))
wrap(RedisStore, "wait", after=dies("wait recorded"))
wrap(RedisStore, "suspend", before=lambda: die_at("before suspend"))
wrap(RedisStore, "suspend", after=dies("suspended"))
wrap(RedisStore, "resolve", after=lambda found: die_at("resolved") if found.hop is not None else None)
wrap(RedisStore, "signal", after=lambda found: die_at("signalled") if found.hop is not None else None)
write, end, look = RedisStore.record, RedisStore.complete, RedisStore.sweep
RedisStore.record = lambda store, closing, records, **more: hear(  # type: ignore[method-assign]
    records, lambda: write(store, closing, records, **more)
)
RedisStore.complete = lambda store, done: hear(done.records, lambda: end(store, done))  # type: ignore[method-assign]
RedisStore.sweep = sweep  # type: ignore[method-assign]

# The same for a hop that is a block, and for those in its branches, in the order in which they come.
PAGE = blocks_module.PAGE = 3  # branches at once, so that eight of them take several pages
joined: set[str] = set()  # hops of blocks that this process has seen joined
hold_page, look_up, leave = RedisStore.hold, RedisStore.block, RedisStore.suspend
send_all = blocks_module.send_on
RedisStore.hold = hold  # type: ignore[method-assign]
wrap(RedisStore, "open_block", before=lambda: die_at("before opening"))
blocks_module.send_on = send_branches  # type: ignore[assignment]
RedisStore.suspend = suspend  # type: ignore[method-assign]
RedisStore.complete = close_block(RedisStore.complete, "completed")  # type: ignore[method-assign]
RedisStore.fail = close_block(RedisStore.fail, "failed")  # type: ignore[method-assign]
RedisStore.park = close_block(RedisStore.park, "parked")  # type: ignore[method-assign]
RedisStore.block = look_at_block  # type: ignore[method-assign]


open_client = client_module._open
asking = threading.local()


def open_leaky(*given: Any) -> Any:
    """Return a client that loses the replies of scripts after they ran."""
    client = open_client(*given)
    parse = client.redis.parse_response

    def parse_response(connection: Any, command_name: Any, **kwargs: Any) -> Any:
        reply = parse(connection, command_name, **kwargs)
        script = getattr(asking, "script", None)
        if script is not None and lost_reply("soft", script, reply):
            raise redis.ConnectionError("the reply is dropped")
        return reply

    client.redis.parse_response = parse_response
    return dataclasses.replace(client, scripts={name: leaky(name, call) for name, call in client.scripts.items()})


def lost_reply(how: str, script: str, reply: object) -> bool:
    """Say whether the reply to a script is lost; that about the end of a branch is also called an `arrival`."""
    names = ["arrival", script] if script in ("complete", "fail", "park") and isinstance(reply, list) else [script]
    for name in names:
        if taken(f"{how}.{name}"):
            note(os.environ["HITS_FILE"], kind=f"{how}.{name}")
            return True
    return False


def leaky(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def called(**kwargs: Any) -> Any:
        asking.script = name
        try:
            reply = call(**kwargs)
        finally:
            asking.script = None
        if lost_reply("hard", name, reply):
            raise redis.TimeoutError("the reply is dropped")
        return reply

    return called


client_module._open = open_leaky
