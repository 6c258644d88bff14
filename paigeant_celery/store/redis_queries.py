"""Questions about all workflows on Redis: which parts of the index are read, and what they say (`listing.lua`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from paigeant_celery.core.errors import StoreCorrupt
from paigeant_celery.core.hops import EPOCH
from paigeant_celery.core.queries import STATES, CurrentState, WorkflowQuery, place_of_cursor
from paigeant_celery.store.query_port import HopTimes, ListedPage, ListedWorkflow, Serving
from paigeant_celery.store.redis_client import Client, Reply, Server
from paigeant_celery.store.redis_older import step_in
from paigeant_celery.store.redis_records import failure_of, moment_of

__all__ = ["read_counts", "read_listed", "read_one", "read_served", "read_times"]

LETTERS: Mapping[CurrentState, str] = {
    "queued": "q", "running": "r", "retrying": "t", "suspended": "s", "completed": "c", "failed": "f", "parked": "p",
    "cancelled": "x",
}  # fmt: skip
STATE_OF = {letter: state for state, letter in LETTERS.items()}
IN_ORDER = [STATE_OF[letter] for letter in "qrtscfpx"]  # as COUNTED counts them

AT_ONCE = 100  # activities that one script counts, and workflows with given ids that it looks at
MOST_SCRIPTS = 10  # for one page, beside those that fill it
MOST_SORTED = 1000  # waits of one name
LAST = 2**53 - 1  # an age is this less the time at which a workflow was recorded, so that the newest come first
DIGITS = len(str(LAST))  # of an age
ABOUT = "index"


def read_listed(server: Server, query: WorkflowQuery) -> ListedPage:
    """Return workflows that fit a query. It takes a round trip, and more if much that is listed does not fit.

    After so many the page is as long as it is, and the next one goes on.
    """
    found: list[ListedWorkflow] = []
    lost: list[str] = []
    behind = place_of_cursor(query.after) if query.after is not None else None
    waiting = _waiting(server, query, behind[1] if behind is not None else "")
    if waiting == []:
        return ListedPage(items=())
    for _ in range(query.limit // server.limits.listed_at_once + MOST_SCRIPTS):
        left = min(query.limit - len(found), server.limits.listed_at_once)
        named = waiting[:AT_ONCE] if waiting is not None else None
        entries, last, unreadable = server.run_leniently("listed", left, *_arguments(query, behind, named), about=ABOUT)
        # One that an older version moved on may stand at another step than the list said.
        found += [each for each in _readable(server, entries, lost) if query.activity in (None, each.activity)]
        lost += unreadable
        if waiting is not None:
            last = last or (waiting[AT_ONCE - 1] if len(waiting) > AT_ONCE else "")
            waiting = [name for name in waiting if name > last]
        with server.readable(ABOUT):
            behind = _place(query, last) if last else None
        if behind is None or len(found) >= query.limit:
            break
    after = f"{behind[0]}:{behind[1]}" if behind is not None else None
    return ListedPage(items=tuple(found), next=after, unreadable=tuple(dict.fromkeys(lost)))


def _waiting(server: Server, query: WorkflowQuery, behind: str) -> list[str] | None:
    """Return the ids of those with a prefix that may wait for something, in their order.

    None if they come in the order of the index that is read anyhow, or are so many that they are not sorted: then all
    with the prefix are looked through.
    """
    if query.prefix is None or query.waits_for is None:
        return None
    begins, (least, greatest) = f"n{query.waits_for}\0", _ages(query)
    of_name = f"[{begins}{least}", f"({begins}{greatest}\x7f"
    texts = server.ask(
        lambda c: c.lenient.zrangebylex(f"{server.prefix}:{ABOUT}", *of_name, start=0, num=MOST_SORTED + 1), about=ABOUT
    )
    if len(texts) > MOST_SORTED:
        return None
    names = {text[len(begins) + DIGITS :].partition(".")[0] for text in texts}
    return sorted(name for name in names if name.startswith(query.prefix) and name > behind)


def read_one(server: Server, correlation_id: str) -> ListedWorkflow | None:
    """Return a workflow as a list shows it."""
    entries, _, lost = server.run_leniently("listed", 1, "named", correlation_id, about=ABOUT)
    found = _readable(server, entries, lost)
    if lost:
        raise StoreCorrupt(f"{server.prefix}:wf:{correlation_id}", "has values that this version cannot read")
    return found[0] if found else None


def read_counts(server: Server) -> Mapping[str, Mapping[CurrentState, int]]:
    """Return how many workflows stand at each activity, by state."""
    found: dict[str, Mapping[CurrentState, int]] = {}
    more, after = 1, ""
    while more:
        entries, more = server.run("counted", after, AT_ONCE, about=ABOUT)
        for activity, counts in entries:
            after = activity
            found[activity] = {state: count for state, count in zip(IN_ORDER, counts, strict=True) if count}
    return dict(sorted(found.items()))


def read_times(server: Server) -> Mapping[str, HopTimes]:
    """Return how long hops waited and ran in the last days."""
    (seconds, _) = server.ask(lambda c: c.redis.time(), about=ABOUT)
    today = int(seconds) * 1000 // server.limits.day
    keys = [f"{server.prefix}:times:{day}" for day in range(today - server.limits.days_kept, today + 1)]

    def look(client: Client) -> Reply:
        with client.redis.pipeline(transaction=False) as commands:
            for key in keys:
                commands.hgetall(key)
            return commands.execute()

    counts: defaultdict[tuple[str, str], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    with server.readable("times"):
        for fields in server.ask(look, about="times"):
            for name, count in fields.items():
                activity, what, bucket = name.rsplit(":", 2)
                counts[activity, what][int(bucket)] += int(count)
    return {
        activity: HopTimes(queued=dict(counts.get((activity, "q"), {})), run=dict(counts.get((activity, "r"), {})))
        for activity in sorted({activity for activity, _ in counts})
    }


def read_served(server: Server) -> Serving:
    """Return which queues are served by workers that sweep, and when they were."""

    def look(client: Client) -> Reply:
        with client.redis.pipeline(transaction=True) as commands:
            commands.time()
            commands.hget(f"{server.prefix}:meta", "swept_at")
            commands.zrange(f"{server.prefix}:served", 0, -1, withscores=True)
            return commands.execute()

    (seconds, micros), swept_at, queues = server.ask(look, about="served")
    with server.readable("served"):
        return Serving(
            now=EPOCH + timedelta(seconds=seconds, microseconds=micros),
            swept_at=moment_of(swept_at) if swept_at is not None else None,
            queues={queue: moment_of(str(int(at))) for queue, at in queues},
        )


# Which parts of the index are read.


def _arguments(
    query: WorkflowQuery, behind: tuple[int, str] | None, named: Sequence[str] | None
) -> Iterator[str | int]:
    states = "".join(sorted(LETTERS[state] for state in query.states))
    least, greatest = _ages(query)
    if query.prefix is not None:
        last = f"(i{behind[1]}!" if behind is not None else f"[i{query.prefix}"
        yield from ("ids", query.waits_for or "", states, query.activity or "", least, greatest)
        yield from (last, f"(i{query.prefix}\x7f") if named is None else ("", "", *named)
    elif query.waits_for is not None:
        begins = f"n{query.waits_for}\0"
        last = f"({begins}{LAST - behind[0]}{behind[1]}/" if behind is not None else f"[{begins}{least}"
        yield from ("waits", query.waits_for, last, f"({begins}{greatest}\x7f", states, query.activity or "")
    else:
        yield "merged"
        for state in query.states or STATES:
            letter = LETTERS[state]
            begins = f"a{query.activity}:{letter}" if query.activity is not None else f"s{letter}"
            yield f"({begins}{LAST - behind[0]}{behind[1]}" if behind is not None else f"[{begins}{least}"
            yield f"({begins}{greatest}\x7f"


def _ages(query: WorkflowQuery) -> tuple[str, str]:
    """Return the least and the greatest age; "" each for any."""
    least = str(LAST - _first_at(query.before) + 1) if query.before is not None else ""
    greatest = str(LAST - _first_at(query.since)) if query.since is not None else ""
    return least, greatest


def _first_at(moment: datetime) -> int:
    """Return the first whole millisecond that is not before a moment."""
    return -((EPOCH - moment) // timedelta(milliseconds=1))


def _place(query: WorkflowQuery, last: str) -> tuple[int, str]:
    """Return behind what a page goes on."""
    if query.prefix is not None:
        return 0, last
    return LAST - int(last[:DIGITS]), last[DIGITS:]


def _readable(server: Server, entries: Sequence[Sequence[Any]], lost: list[str]) -> list[ListedWorkflow]:
    """Return what entries say; the ids of those that this version cannot read are put behind those that are lost."""
    found = []
    for entry in entries:
        try:
            found.append(_listed(server, entry))
        except (KeyError, ValueError, TypeError, ArithmeticError, AttributeError, RecursionError):
            lost.append(entry[0])
    return found


def _listed(server: Server, entry: Sequence[Any]) -> ListedWorkflow:
    (
        workflow, letter, activity, step_id, created_at, updated_at, failure, queue, attempt, owner, since,
        lapsed_at, retry_at, ahead, served_at, last, envelope, waits, below,
    ) = entry  # fmt: skip
    for text in (*entry[:-3], *waits, *below):
        str(text).encode()  # raises for what is no text
    if envelope and (known := step_in(envelope))[0]:  # an older version recorded it
        if known != (activity, step_id):
            server.run("relist", workflow, *known, about=ABOUT)
        activity, step_id = known
    return ListedWorkflow(
        correlation_id=workflow,
        state=STATE_OF[letter],
        activity=activity,
        step_id=step_id,
        queue=queue,
        attempt=int(attempt or 0),
        created_at=moment_of(created_at),
        updated_at=moment_of(updated_at),
        failure=failure_of(failure) if failure else None,
        waits_for=tuple(waits),
        owner=owner or None,
        running_since=moment_of(since) if since else None,
        lapsed_at=moment_of(lapsed_at) if lapsed_at else None,
        retry_at=moment_of(retry_at) if retry_at else None,
        ahead=int(ahead) if ahead else None,
        last_failure=failure_of(last) if last else None,
        served_at=moment_of(served_at) if served_at else None,
        queues_below=tuple(below),
    )
