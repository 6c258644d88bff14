"""What it costs to find workflows among many: how long a page takes, what the index takes, how long counting takes.

    python tests/benchmarks/queries.py [--workflows N] [--pages N] [--quick]

It records so many workflows of some activities, by a store of its own on a server of its own: of each hundred most are
completed, some wait for a signal, failed, are queued or run. Then it reads

- pages of 50 with filters, each so many times, the first one and one from the middle: the median and the slowest, from
  the call to the answer in this process, in ms, and the CPU of this process and of the server, on which other
  programs of the machine have less influence. A `since` leaves out the older half.
- what the server needs for the index and for all else of a workflow, by `MEMORY USAGE` of the index and by what the
  server used before and after, divided by the number of workflows.

The exit code is 1 if a page is not what it must be. It never depends on times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import redis

if not __package__:  # when run by its path: the helpers are found, and the installed package goes first
    sys.path.append(str(Path(__file__).parents[2]))

from paigeant_celery.core.flow import Failure
from paigeant_celery.core.queries import WorkflowQuery
from paigeant_celery.store.port import Claim, Closing, Completion, HopRecord, NewWait, NewWorkflow, Standing
from paigeant_celery.store.redis import RedisStore
from tests.support.servers import NoServer, redis_server

PAGE = 50
REACH = 50.0  # ms, the median of a filtered page
ACTIVITIES = ("draft", "review", "refund", "publish", "archive")
FAILURE = Failure(step_id="draft", error_class="ValueError", text="no such topic")
ENVELOPE = '{"slip": {"itinerary": []}, "padding": "' + "x" * 1500 + '"}'  # about what a short workflow has


# What scripts answer here, where nobody waits for them: a page of calls is sent at once.
ANSWERS: Mapping[str, Any] = {
    "start": "started",
    "claim": ["running"],
    "complete": 1,
    "fail": 1,
    "wait": [],
    "suspend": [],
}
AT_ONCE = 1000  # calls


class WrongOutput(Exception):
    """A page is not what it must be."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    workflows: int = 100_000
    pages: int = 50


QUICK = Size(workflows=300, pages=2)


def main() -> int:
    """Measure and print."""
    size = _size()
    try:
        with redis_server() as server, redis.Redis.from_url(server.url) as client:
            store = RedisStore(server.url, prefix="p", lease=30.0, ttl=86400.0)
            before, began = _used(client), time.monotonic()
            states = dict(_record_all(store, size))
            print(f"{size.workflows} workflows recorded in {time.monotonic() - began:.0f} s", flush=True)
            print("\n".join(_page_lines(store, client, size, states)), flush=True)
            print("\n".join(_memory_lines(client, size, before)), flush=True)
            store.close()
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2
    except WrongOutput as error:
        print(f"wrong: {error}", file=sys.stderr)
        return 1
    return 0


def _record_all(store: RedisStore, size: Size) -> Iterator[tuple[str, int]]:
    """Record workflows, and yield how many of each state there are."""
    counts: dict[str, int] = {}
    client = store._server.connected()
    for script in ANSWERS:
        client.redis.script_load(client.scripts[script].script)
    pipe = client.redis.pipeline(transaction=False)

    def send(script: str, *arguments: str | int, about: str) -> Any:
        pipe.evalsha(client.scripts[script].sha, 0, "p", *arguments)
        if len(pipe.command_stack) >= AT_ONCE:
            pipe.execute()
        return ANSWERS[script]

    with patch.object(store._server, "run", send):
        for number in range(size.workflows):
            state = _record(store, f"order-{number:07d}-of-a-customer", number)
            counts[state] = counts.get(state, 0) + 1
    pipe.execute()
    yield from counts.items()


def _record(store: RedisStore, workflow: str, number: int) -> str:
    activity = ACTIVITIES[number % len(ACTIVITIES)]
    hop = HopRecord(
        hop_id=f"{workflow}.0",
        queue=f"p.{activity}",
        envelope=ENVELOPE,
        digest="d",
        activity=activity,
        step_id=activity,
    )
    store.start(NewWorkflow(correlation_id=workflow, content="c", hop=hop))
    part = number // len(ACTIVITIES) % 100
    if part < 5:
        return "queued"
    store.claim(
        Claim(hop_id=hop.hop_id, owner=f"host:{number % 8}", token="t", max_attempts=5, digest="d", activity=activity,
              step=activity)
    )  # fmt: skip
    closing = Closing(hop_id=hop.hop_id, owner=f"host:{number % 8}", fence=1)
    if part < 10:
        store.wait(closing, NewWait(wait_id="w", token=f"{hop.hop_id}~secret", kind="signal", name="approval"))
        store.suspend(closing, Standing(tokens=[f"{hop.hop_id}~secret"]))
        return "suspended"
    if part < 11:
        store.fail(closing, FAILURE)
        return "failed"
    store.complete(Completion(closing=closing, envelope=ENVELOPE, next_hop=None, step=activity))
    return "completed"


def _queries(store: RedisStore, size: Size) -> Mapping[str, WorkflowQuery]:
    middle = store.standing(f"order-{size.workflows // 2:07d}-of-a-customer")
    assert middle is not None
    return {
        "all": WorkflowQuery(limit=PAGE),
        "failed": WorkflowQuery(states=frozenset(["failed"]), limit=PAGE),
        "completed, from the middle": WorkflowQuery(
            states=frozenset(["completed"]), before=middle.created_at, limit=PAGE
        ),
        "one activity": WorkflowQuery(activity="refund", limit=PAGE),
        "one activity, failed": WorkflowQuery(activity="refund", states=frozenset(["failed"]), limit=PAGE),
        "one activity, suspended, since": WorkflowQuery(
            activity="refund", states=frozenset(["suspended"]), since=middle.created_at, limit=PAGE
        ),
        "waiting for a signal": WorkflowQuery(waits_for="approval", limit=PAGE),
        "waiting for a signal, one activity": WorkflowQuery(waits_for="approval", activity="refund", limit=PAGE),
        "by prefix": WorkflowQuery(prefix="order-00000", limit=PAGE),
        "by prefix, failed": WorkflowQuery(prefix="order-", states=frozenset(["failed"]), limit=PAGE),
    }


def _page_lines(store: RedisStore, client: redis.Redis, size: Size, states: Mapping[str, int]) -> Iterator[str]:
    counted: dict[str, int] = {}
    for each in store.counted().values():
        for state, count in each.items():
            counted[state] = counted.get(state, 0) + count
    if counted != dict(states):
        raise WrongOutput(f"{counted} are counted of {dict(states)}")
    yield f"\n{'a page of 50':<44}{'ms':>8}{'slowest':>10}{'CPU':>10}{'of server':>10}{'items':>7}{'reach':>8}"
    for name, query in _queries(store, size).items():
        before = _server_cpu(client)
        times, items, own = _timed(lambda query=query: store.listed(query), size.pages)  # type: ignore[misc]
        wrong = [each for each in items if query.states and each.state not in query.states]
        if wrong or (not items and query.since is None):  # few are recorded for a look
            raise WrongOutput(f"{name}: {len(wrong)} of {len(items)} do not fit")
        median = statistics.median(times)
        verdict = "reached" if median <= REACH else "missed"
        server = (_server_cpu(client) - before) / size.pages * 1000
        measured = f"{median:>8.2f}{max(times):>10.2f}{own:>10.2f}{server:>10.2f}"
        yield f"{name:<44}{measured}{len(items):>7}{REACH:>8g}  {verdict}"
    times, *_ = _timed(lambda: replace(store.listed(WorkflowQuery(limit=1)), next=str(store.counted())), size.pages)
    yield f"{'counting, with a page of 1':<44}{statistics.median(times):>8.2f}{max(times):>10.2f}"


def _server_cpu(client: redis.Redis) -> float:
    """Return the seconds of CPU that the server has used."""
    info: Any = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _timed(ask: Callable[[], Any], times: int) -> tuple[list[float], tuple[Any, ...], float]:
    found: list[float] = []
    worked = time.process_time()
    for _ in range(times):
        began = time.perf_counter()
        page = ask()
        found.append((time.perf_counter() - began) * 1000)
    return found, page.items, (time.process_time() - worked) / times * 1000


def _memory_lines(client: redis.Redis, size: Size, before: int) -> Iterator[str]:
    index: Any = sum(int(_size_of(client, key)) for key in ("p:index", "p:ended"))
    whole = _used(client) - before
    yield f"\n{'bytes for each workflow':<44}{'of the list':>12}{'of all':>10}"
    yield f"{'':<44}{index / size.workflows:>12.0f}{whole / size.workflows:>10.0f}"


def _size_of(client: redis.Redis, key: str) -> int:
    return int(client.memory_usage(key, samples=0) or 0)  # type: ignore[arg-type]


def _used(client: redis.Redis) -> int:
    info: Any = client.info("memory")
    return int(info["used_memory"])


def _size() -> Size:
    parser = argparse.ArgumentParser(description="What it costs to find workflows among many.")
    parser.add_argument("--workflows", type=int, help="that are recorded (default 100000, quick 300)")
    parser.add_argument("--pages", type=int, help="of each kind (default 50, quick 2)")
    parser.add_argument("--quick", action="store_true", help="very little of all, for a look")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else Size()
    return Size(workflows=arguments.workflows or size.workflows, pages=arguments.pages or size.pages)


if __name__ == "__main__":
    sys.exit(main())
