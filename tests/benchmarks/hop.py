"""What a hop costs: our slip against a plain Celery chain that runs the same agent.

    python tests/benchmarks/hop.py [--pool threads|prefork] [--rounds N] [--quick]

Contestants, each with one worker of four slots, on one Redis server (a database each), with the same pool, the
same agent whose model answers at once, the same prompts, late acknowledgement and task events:

- `slip`: ours with its store on the same Redis.
- `chain`: `celery.chain` with a result backend on the same Redis, `acks_late`, `reject_on_worker_lost`; its
  task runs the agent on a loop that its thread keeps, the cheapest of the forms that a task can have.
- `bare`: our slip without a store (message only), for what the store costs.

The rounds are interleaved, and each begins with another contestant. All outputs of every workflow are read and
compared with what they must be; a wrong or missing one ends the run with an error. Times never do.

Measured:

- wall time per hop: from the body of the first step of a slip of 20 to that of the last, by 19; one workflow at
  a time. The bodies put the time into their outputs, so nothing depends on how a client waits.
- worker CPU per hop: user and system time of the worker and its children over the slips of a round, by their
  hops; `at load` is the same over the throughput run.
- server CPU per hop: of the Redis server over the throughput run, dispatch and reading of outputs included.
- hops per second: 300 workflows of 5 steps are sent to a stopped worker, which then goes on; from the first body
  to the last.
- peak memory: sum of the peak resident sizes of the worker and its children (shared pages count in each).
- round trips per hop: in a pass of its own, with workers that reach Redis through a counting proxy. A turn is a
  burst of requests followed by a reply, so a pipeline is one turn; the blocking pop that brings a message is
  one as well. Not counted: pops that bring nothing, handshakes, and what Celery publishes for observers (task
  events, heartbeats), which have a line of their own. What an idle worker asks by itself is measured first and
  subtracted in proportion to the time.

The ratio is the median of the ratios of the rounds. On a busy machine only the ratios mean something.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import redis

sys.path.insert(0, str(Path(__file__).parents[1]))  # the helpers of the tests

from contestants import Contestant, prompt_of
from proxy import CountingProxy, running_proxy
from servers import NoServer, redis_server
from workers import Client, Worker, client_for, running_worker

CONTESTANTS: tuple[Contestant, ...] = get_args(Contestant)
CONCURRENCY = 4
LONG, SHORT = 20, 5  # steps of a workflow
WARM_UP = 24  # short workflows sent at once, so that every slot has met its code and connections
TIMEOUT = 60.0  # seconds for one workflow, however many wait before it
SETTLE = 0.2  # seconds until a worker has acknowledged what it finished

WALL, CPU, LOADED = "wall ms/hop", "worker CPU ms/hop", "worker CPU ms/hop, at load"
SERVER, RATE = "server CPU ms/hop, at load", "hops/s"
TRIPS, EVENTS, IDLE = "round trips/hop", "  events for observers/hop", "  idle, subtracted/s"
MEMORY = "peak memory MB"


class WrongOutput(Exception):
    """A workflow gave other outputs than it must."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run."""

    rounds: int
    slips: int  # long workflows of a contestant in a round, one after the other
    load: int  # short workflows of a contestant in a round, all at once
    load_rounds: int
    idle: float  # seconds of watching idle workers


@dataclass(frozen=True, kw_only=True)
class Stand:
    """A contestant that is ready: its worker and its client."""

    worker: Worker
    client: Client


@dataclass
class Table:
    """Samples by measure and contestant; the samples of one round stand at the same place."""

    samples: dict[str, dict[Contestant, list[float]]] = field(default_factory=dict)

    def add(self, measure: str, contestant: Contestant, value: float) -> None:
        self.samples.setdefault(measure, {}).setdefault(contestant, []).append(value)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the table."""
        names = ["slip", "chain", "slip/chain", "(lowest - highest)", "bare"]
        yield f"{'':<30}" + "".join(f"{name:>12}" if name[0] != "(" else f"{name:>20}" for name in names)
        for measure, found in self.samples.items():
            middle = {name: statistics.median(values) for name, values in found.items()}
            ratios = [own / peer for own, peer in zip(found["slip"], found["chain"], strict=True) if peer]
            ratio = f"{statistics.median(ratios):>12.2f}" if ratios else f"{'':>12}"
            between = f"{min(ratios):.2f} - {max(ratios):.2f}" if len(ratios) > 1 else ""
            yield (
                f"{measure:<30}{middle['slip']:>12.2f}{middle['chain']:>12.2f}{ratio}{between:>20}"
                f"{middle['bare']:>12.2f}"
            )


def main() -> int:
    """Run everything and print the table; 1 where an output was wrong."""
    arguments = _arguments()
    size = _size(arguments)
    try:
        with redis_server() as server, tempfile.TemporaryDirectory() as folder:
            table, trips = Table(), dict[Contestant, Counter[str]]()
            _measure_times(table, server.url, arguments.pool, size, Path(folder))
            _measure_trips(table, trips, server.url, arguments.pool, size, Path(folder))
            _report(table, trips, server.url, arguments.pool, size)
    except WrongOutput as error:
        print(f"wrong output: {error}", file=sys.stderr)
        return 1
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a hop costs, against a plain Celery chain.")
    parser.add_argument("--pool", choices=["threads", "prefork"], default="threads")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 7)")
    parser.add_argument("--quick", action="store_true", help="less of everything, for a look")
    return parser.parse_args()


def _size(arguments: argparse.Namespace) -> Size:
    if arguments.quick:
        return Size(rounds=arguments.rounds or 3, slips=2, load=60, load_rounds=1, idle=3.0)
    rounds = arguments.rounds or 7
    return Size(rounds=rounds, slips=4, load=300, load_rounds=min(rounds, 3), idle=8.0)


# Times.


def _measure_times(table: Table, url: str, pool: str, size: Size, folder: Path) -> None:
    with redis.Redis.from_url(url) as server, ExitStack() as stack:
        stands = {}
        for database, name in enumerate(CONTESTANTS):
            own = _database(url, database)
            stands[name] = stack.enter_context(_standing(name, broker=own, direct=own, pool=pool, folder=folder))
        for stand in stands.values():
            _warm_up(stand)
        for round_ in range(size.rounds):
            for name in _turned(round_):
                _run_slips(table, name, stands[name], size.slips)
            for name in _turned(round_) if round_ < size.load_rounds else ():
                _run_load(table, name, stands[name], size.load, server)
        for name, stand in stands.items():
            table.add(MEMORY, name, stand.worker.usage().peak / 1e6)


def _run_slips(table: Table, name: Contestant, stand: Stand, slips: int) -> None:
    before, walls = stand.worker.usage(), []
    for _ in range(slips):
        stamps = _checked(stand.client.outputs(stand.client.send(LONG), timeout=TIMEOUT), LONG)
        walls.append((stamps[-1] - stamps[0]) / (LONG - 1))
    time.sleep(SETTLE)
    table.add(WALL, name, statistics.median(walls) * 1000)
    table.add(CPU, name, (stand.worker.usage().cpu - before.cpu) / (slips * LONG) * 1000)


def _run_load(table: Table, name: Contestant, stand: Stand, workflows: int, server: redis.Redis) -> None:
    hops, before, server_before = workflows * SHORT, stand.worker.usage(), _server_cpu(server)
    with stand.worker.paused():
        sent = [stand.client.send(SHORT) for _ in range(workflows)]
    stamps = [stamp for one in sent for stamp in _checked(stand.client.outputs(one, timeout=TIMEOUT), SHORT)]
    time.sleep(SETTLE)
    table.add(LOADED, name, (stand.worker.usage().cpu - before.cpu) / hops * 1000)
    table.add(SERVER, name, (_server_cpu(server) - server_before) / hops * 1000)
    table.add(RATE, name, (hops - 1) / (max(stamps) - min(stamps)))


# Round trips.


def _measure_trips(
    table: Table, trips: dict[Contestant, Counter[str]], url: str, pool: str, size: Size, folder: Path
) -> None:
    with ExitStack() as stack:
        stands, proxies = {}, {}
        for database, name in enumerate(CONTESTANTS, start=len(CONTESTANTS)):
            proxies[name] = stack.enter_context(running_proxy(urlsplit(url).port or 6379))
            proxied = _database(f"redis://127.0.0.1:{proxies[name].port}/0", database)
            stands[name] = stack.enter_context(
                _standing(name, broker=proxied, direct=_database(url, database), pool=pool, folder=folder)
            )
        for stand in stands.values():
            _warm_up(stand)
        idle = _idle_turns(proxies, size.idle)
        for name, stand in stands.items():
            hops, began, before = size.slips * LONG, time.monotonic(), proxies[name].turns()
            for _ in range(size.slips):
                _checked(stand.client.outputs(stand.client.send(LONG), timeout=TIMEOUT), LONG)
            time.sleep(SETTLE)
            took, turns = time.monotonic() - began, proxies[name].turns() - before
            table.add(TRIPS, name, (_count(turns, "hop") - idle[name] * took) / hops)
            table.add(EVENTS, name, _count(turns, "event") / hops)
            table.add(IDLE, name, idle[name])
            trips[name] = Counter()
            for (kind, commands), count in turns.items():
                trips[name][f"{kind}: {_shortened(commands)}"] += count


def _idle_turns(proxies: Mapping[Contestant, CountingProxy], seconds: float) -> dict[Contestant, float]:
    """Return how many turns per second each worker makes by itself."""
    before = {name: proxy.turns() for name, proxy in proxies.items()}
    time.sleep(seconds)
    return {name: _count(proxy.turns() - before[name], "hop") / seconds for name, proxy in proxies.items()}


def _count(turns: Counter[tuple[str, str]], kind: str) -> int:
    return sum(count for (of, _), count in turns.items() if of == kind)


def _shortened(commands: str) -> str:
    return commands if len(commands) <= 60 else f"{commands[:57]}..."


# Shared.


@contextmanager
def _standing(contestant: Contestant, *, broker: str, direct: str, pool: str, folder: Path) -> Iterator[Stand]:
    with running_worker(
        contestant, broker=broker, direct=direct, pool=pool, concurrency=CONCURRENCY, folder=folder
    ) as worker:
        try:
            yield Stand(worker=worker, client=client_for(contestant, direct))
        except BaseException:
            print(f"log of the worker {contestant}:\n{worker.log()}", file=sys.stderr)
            raise


def _warm_up(stand: Stand) -> None:
    for sent in [stand.client.send(SHORT) for _ in range(WARM_UP)]:
        _checked(stand.client.outputs(sent, timeout=TIMEOUT), SHORT)


def _checked(outputs: Sequence[Any], steps: int) -> list[float]:
    """Return the times of the bodies; raises `WrongOutput` unless every step gave what it must, in order."""
    texts = [str(output).partition("|")[0] for output in outputs]
    expected = [f"done {prompt_of(index, steps)}" for index in range(steps)]
    if texts != expected:
        raise WrongOutput(f"{texts!r} instead of {expected!r}")
    stamps = [float(str(output).partition("|")[2]) for output in outputs]
    if stamps != sorted(stamps):
        raise WrongOutput(f"steps ran in another order than they stand: {stamps!r}")
    return stamps


def _turned(round_: int) -> list[Contestant]:
    start = round_ % len(CONTESTANTS)
    return [*CONTESTANTS[start:], *CONTESTANTS[:start]]


def _database(url: str, number: int) -> str:
    return f"{url.rpartition('/')[0]}/{number}"


def _server_cpu(server: redis.Redis) -> float:
    found: Any = server.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def _report(table: Table, trips: Mapping[Contestant, Counter[str]], url: str, pool: str, size: Size) -> None:
    packages = ("paigeant_celery", "celery", "kombu", "redis", "pydantic-ai-slim")
    with redis.Redis.from_url(url) as server:
        found: Any = server.info("server")
    name = found.get("server_name", "redis")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{package} {version(package)}" for package in packages))
    print(f"server {name} {found.get(f'{name}_version', found['redis_version'])}, pool {pool}, {CONCURRENCY} slots")
    print(f"medians of {size.rounds} rounds of {size.slips} workflows of {LONG} steps; ", end="")
    print(f"at load: {size.load_rounds} rounds of {size.load} workflows of {SHORT} steps")
    print("all outputs complete and equal\n")
    print("\n".join(table.lines()))
    print("\nTurns per hop by what was asked, idle ones included:")
    for contestant, counted in trips.items():
        for commands, count in counted.most_common():
            if count / (size.slips * LONG) >= 0.01:
                print(f"{contestant:>6}{count / (size.slips * LONG):>8.2f}  {commands}")


if __name__ == "__main__":
    sys.exit(main())
