"""How long a page in Flower takes: the list among many workflows, filtered and not, and the page of one.

    python tests/benchmarks/pages.py [--workflows N] [--rounds N] [--waits N] [--quick]

One Flower, one server, no worker: so many workflows are recorded, of which every tenth has completed, every twentieth
is parked and every twentieth cancelled. Each round asks for each page once. Beside them stand the pages of two
workflows that a worker has run before: 20 steps, and a block with 50 branches; and blocks with 1000 branches together,
each of which waits for an answer. Times are those of the whole answer, on one connection.

The exit code is 1 if a page did not show what it must. It never depends on times.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import requests

if not __package__:  # when run by its path: the helpers are found, and the installed package goes first
    sys.path.append(str(Path(__file__).parents[2]))

from paigeant_celery import FunctionSpec, for_each, parallel
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.message import sha256
from paigeant_celery.flower.reading import MOST_PENDING
from paigeant_celery.store.port import Claim, Claimed, Closing, Completion, HopRecord, NewWorkflow, Store
from tests.support.flower_pages import FlowerPages, flower_pages
from tests.support.processes import deployment, eventually
from tests.support.servers import NoServer, redis_server

REACH = 300.0  # ms, of each page
SHOWN = 50  # workflows on a page
WRITERS = 4  # threads that record workflows
OWNER = "bench"
WARM = 2  # rounds that do not count: templates are read, connections made
STEPS, BRANCHES = 20, 50
AT_ONCE = 100  # branches of a block that may wait


@dataclass(frozen=True, kw_only=True)
class Size:
    workflows: int = 100_000
    rounds: int = 20
    waits: int = 1000


QUICK = Size(workflows=400, rounds=2, waits=60)


class WrongPage(Exception):
    """A page does not show what it must."""


def measure(size: Size, folder: Path) -> Mapping[str, Sequence[float]]:
    """Return the milliseconds of each page in each round."""
    with redis_server() as server, deployment(server.url, folder) as made:
        worker = made.ready_worker("newsroom", pool="threads", slots=8)
        with flower_pages(made) as flower:
            one, many = _run_one(flower), _run_many(flower, size.waits)
            worker.terminate()  # it would send all that waits for a worker
            store = made.transport().store
            assert store is not None
            _record_all(store, one, size.workflows)
            asked = dict(_pages(one, many, size))
            with requests.Session() as session:
                session.auth = ("ann", "secret")
                for _ in range(WARM):
                    for path, right in asked.values():
                        _ask(session, flower, path, right)
                rounds = [
                    {name: _ask(session, flower, path, right) for name, (path, right) in asked.items()}
                    for _ in range(size.rounds)
                ]
            return {name: [taken[name] for taken in rounds] for name in asked}


def _run_one(flower: FlowerPages) -> str:
    """Run a workflow that has much to show."""
    steps = [FunctionSpec("say", {"text": "word " * 20}, step_id=f"step-{number}") for number in range(STEPS)]
    block = for_each(FunctionSpec("say", {"text": "branch"}), over=list(range(BRANCHES)), step_id="block")
    handle = flower.dispatch(*steps, block)
    handle.result_sync(120)
    return handle.correlation_id


def _run_many(flower: FlowerPages, waits: int) -> str:
    """Run a workflow of many branches until each waits for an answer."""
    asks = FunctionSpec("headline", {"question": "how?"})
    blocks = {
        f"from-{first}": for_each(asks, over=list(range(first, min(first + AT_ONCE, waits))), max_at_once=AT_ONCE)
        for first in range(0, waits, AT_ONCE)
    }
    handle = flower.dispatch(parallel(blocks, step_id="blocks"))
    eventually(lambda: len(handle.pending_sync()) == waits, within=600, what="not all wait")
    return handle.correlation_id


def _record_all(store: Store, one: str, count: int) -> None:
    """Record workflows like the first one at its beginning, in several states."""
    record = store.workflow(one)
    assert record is not None
    template = _template(store, one)

    def put(number: int) -> None:
        name = f"order-{number:06}"
        envelope = template.replace(one, name)
        hop = HopRecord(hop_id=f"{name}.0", queue="nobody", envelope=envelope, digest=sha256(envelope))
        store.start(NewWorkflow(correlation_id=name, content=str(number), hop=hop))
        if number % 20 == 7:
            store.cancel(name)
        elif number % 10 == 3 or number % 20 == 11:
            owner, token = OWNER, os.urandom(8).hex()
            claimed = store.claim(Claim(hop_id=hop.hop_id, owner=owner, token=token, max_attempts=3, digest=hop.digest))
            assert isinstance(claimed, Claimed)
            closing = Closing(hop_id=hop.hop_id, owner=owner, fence=claimed.fence)
            if number % 10 == 3:
                store.complete(Completion(closing=closing, envelope=envelope, next_hop=None, step="step"))
            else:
                store.park(closing, Failure(step_id="step", error_class="ValueError", text="it does not fit"))

    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(put, range(count), chunksize=100):
            pass


def _template(store: Store, one: str) -> str:
    """Return the envelope of a workflow of one step, with the id of the first."""
    from paigeant_celery import WorkflowDispatcher
    from paigeant_celery.testing import WorkflowHarness

    harness = WorkflowHarness()
    WorkflowDispatcher().dispatch_workflow_sync(
        harness.transport, itinerary=[FunctionSpec("say", {"text": "x"}, step_id="step")], correlation_id=one
    )
    record = harness.store.workflow(one)
    assert record is not None
    return record.envelope


def _pages(one: str, many: str, size: Size) -> Iterator[tuple[str, tuple[str, Callable[[str], bool]]]]:
    def lists(count: int) -> Callable[[str], bool]:
        return lambda text: text.count('class="wf-id"') == count

    parked, full = min(SHOWN, size.workflows // 20), lists(min(SHOWN, size.workflows))
    yield "the list", ("/workflows", full)
    yield "the list, parked", ("/workflows?state=parked", lists(parked))
    yield "the list, parked, of one activity", ("/workflows?state=parked&activity=say", lists(parked))
    yield "the list, of the last hour", ("/workflows?age=hour", full)
    yield "the list, by the beginning of ids", ("/workflows?prefix=order-0002", lists(min(SHOWN, 100)))
    yield f"one of {STEPS} steps and {BRANCHES} branches", (f"/workflows/{one}", lambda text: "step-19" in text)
    answers = min(MOST_PENDING, size.waits)
    yield f"one of {size.waits} branches that wait", (
        f"/workflows/{many}", lambda text: text.count('data-wf-wait="') == answers
    )  # fmt: skip


def _ask(session: requests.Session, flower: FlowerPages, path: str, right: Callable[[str], bool]) -> float:
    began = perf_counter()
    answer = session.get(f"{flower.address}{path}", timeout=600)
    taken = 1000 * (perf_counter() - began)
    if not answer.ok or not right(answer.text):
        raise WrongPage(f"{path}: {answer.status_code}")
    return taken


def main() -> int:
    """Measure, and print the table; 1 if a page was wrong, 2 without a server."""
    size = _size()
    packages = ("paigeant_celery", "celery", "redis", "flower", "tornado")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{package} {version(package)}" for package in packages))
    try:
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(lines(measure(size, Path(folder)), size)))
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2
    except WrongPage as error:
        print(f"wrong: {error}", file=sys.stderr)
        return 1
    return 0


def lines(taken: Mapping[str, Sequence[float]], size: Size) -> Iterator[str]:
    """Yield the table."""
    title = f"ms of a page among {size.workflows:,} workflows"
    yield f"\n{title:<48}{'median':>8}{'(lowest - highest)':>20}{'reach':>8}"
    for name, values in taken.items():
        median, spread = statistics.median(values), f"{min(values):.0f} - {max(values):.0f}"
        yield f"{name:<48}{median:>8.0f}{spread:>20}{REACH:>8.0f}  {'reached' if median <= REACH else 'missed'}"


def _size() -> Size:
    parser = argparse.ArgumentParser(description="How long a page in Flower takes.")
    parser.add_argument("--workflows", type=int, help="so many (default 100000, quick 400)")
    parser.add_argument("--rounds", type=int, help="so often (default 20, quick 2)")
    parser.add_argument("--waits", type=int, help="branches that wait for an answer (default 1000, quick 60)")
    parser.add_argument("--quick", action="store_true", help="very little of all, for a look")
    given = parser.parse_args()
    size = QUICK if given.quick else Size()
    given_or = {name: getattr(given, name) or getattr(size, name) for name in ("workflows", "rounds", "waits")}
    return Size(**given_or)


if __name__ == "__main__":
    sys.exit(main())
