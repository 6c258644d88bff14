"""What keeps the list of workflows on Redis right, bit by bit; also workflows that versions without a list recorded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.message import first_step_in
from paigeant_celery.core.names import is_correlation_id
from paigeant_celery.store.redis_client import Client, Reply, Server

__all__ = ["list_older", "look_over", "step_in"]

AT_ONCE = 100  # workflows that one script lists, and that are enough for one call
SCANS = 10  # of one call
KEYS = 500  # that one of them looks at, about
LOOKS = 10  # of one call, if there is more to remove than one script does


def look_over(server: Server) -> None:
    """Put some of the list right, remove what has expired, and list some that older versions have recorded."""
    for _ in range(LOOKS):
        is_cut, is_incomplete, *unsure = server.run_leniently("look_over", about="index")
        _list_steps(server, unsure)
        if not is_cut:
            break
    if is_incomplete:
        list_older(server)


def list_older(server: Server) -> bool:
    """List some of the workflows that versions without a list have recorded, and say whether none is left.

    All keys of the database have to be looked through. Whoever comes next goes on where this call ends. While workers
    of an older format are at work, some are always left. When a newer worker raises the format, it begins again.
    """
    meta = f"{server.prefix}:meta"
    format_, listed, place = server.ask(lambda c: c.redis.hmget(meta, "format", "listed", "listing"), about="meta")
    found = int(format_) if (format_ or "").isdecimal() else 0
    if listed == str(found) or found > server.limits.format:
        return bool(listed == str(found))
    if not found and listed == str(server.limits.format):
        return True  # no worker has ever begun, and no older version has dispatched anything
    if not found and not server.ask(lambda c: c.redis.exists(f"{server.prefix}:due"), about="due"):
        return True  # nor has any version
    run = f"{found}:{_server_run(server)}:"
    cursor = _list_some(server, _cursor_in(place or "", run))
    is_older = 0 < found < server.limits.format
    field, value = ("listing", f"{run}{cursor}") if cursor or is_older else ("listed", str(found))
    server.ask(lambda c: c.redis.hset(meta, field, value), about="meta")
    return not cursor and not is_older


def step_in(envelope: str) -> tuple[str, str]:
    """Return activity and id of the step that an envelope is about, "" each if nothing can be read."""
    try:
        step = first_step_in(envelope)
    except (MessageError, UnicodeError):
        step = None
    return (step.activity, step.step_id or "") if step is not None else ("", "")


def _cursor_in(place: str, run: str) -> int:
    """Return where to go on: at the beginning, if the place is one of another format or another run of the server."""
    cursor = place.removeprefix(run)
    return int(cursor) if place.startswith(run) and cursor.isdecimal() else 0


def _server_run(server: Server) -> str:
    """Return what tells this run of the server from others: the place in its keys means nothing to another one."""
    info = server.permitted(lambda c: c.redis.info("server")) or {}
    return str(info.get("run_id", ""))


def _list_some(server: Server, cursor: int) -> int:
    """List some workflows from a place in the keys on; returns the next place, 0 at the end."""
    start, count = f"{server.prefix}:wf:", 0
    for _ in range(SCANS):
        cursor, keys = server.ask(partial(_scanned, place=cursor, match=f"{start}*"), about="wf:")
        names = [key.removeprefix(start) for key in keys]
        _relist(server, [(name, "", "") for name in names if is_correlation_id(name)])
        count += len(names)
        if not cursor or count >= AT_ONCE:
            break
    return cursor


def _scanned(client: Client, *, place: int, match: str) -> Reply:
    return client.lenient.scan(place, match=match, count=KEYS)


def _relist(server: Server, each: Sequence[tuple[str, str, str]]) -> None:
    done = 0
    while done < len(each):
        told = [part for one in each[done : done + AT_ONCE] for part in one]
        count, *reply = server.run_leniently("relist", *told, about="index")
        done += count
        _list_steps(server, reply)


def _list_steps(server: Server, reply: Sequence[str]) -> None:
    """List workflows by the steps that their envelopes are about: each comes behind its workflow."""
    known = [(name, *step_in(envelope)) for name, envelope in zip(reply[::2], reply[1::2], strict=True)]
    if told := [part for one in known if one[1] for part in one]:
        server.run_leniently("relist", *told, about="index")
