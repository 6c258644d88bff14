"""What a hop costs: our slip against a plain Celery chain that runs the same agent.

    python tests/benchmarks/hop.py [--pool threads|prefork] [--rounds N] [--against REVISION] [--quick]

Contestants, each with one worker of four slots, on one Redis server (a database each), with the same pool, the
same agent whose model answers at once, the same prompts, late acknowledgement and task events:

- `slip`: ours, with its store on the same Redis.
- `chain`: `celery.chain` with a result backend on the same Redis, `acks_late`, `reject_on_worker_lost`; its
  task runs the agent on a loop that its thread keeps, the cheapest of the forms that a task can have.
- `slip@…`, with `--against`: ours as it was in that revision of this repository, with the dependencies that are
  installed now. Each contestant has its own worker and client processes, which load its code.

The rounds are interleaved, and the contestants take turns to begin. All outputs of every workflow are read and
compared with what they must be; a wrong or missing one ends the run with exit code 1. Times never do.

Measured:

- wall time per hop: from the body of the first step of a slip of 20 to that of the last, divided by 19; one workflow
  at a time. The bodies put the time into their outputs, so nothing depends on how a client waits.
- worker CPU per hop: user and system time of the worker and its children over the slips of a round, divided by their
  hops; `at load` is the same over the throughput run.
- server CPU per hop: of the Redis server over the throughput run, including dispatch and reading of outputs.
- hops per second: 300 workflows of 5 steps are sent to a stopped worker, which then goes on; from the first body
  to the last.
- peak memory: sum of the peak resident sizes of the worker and its children (shared pages count in each).
- round trips per hop: in a separate pass, with workers that reach Redis through a counting proxy. A turn is a
  burst of requests followed by a reply, so a pipeline is one turn; the blocking pop that brings a message is
  also one. Not counted: pops that bring nothing, handshakes, and what Celery publishes for observers (task
  events, heartbeats), which have their own line.

The ratio is the median of the ratios of the rounds. On a busy machine only the ratios are meaningful.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import runpy
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import version
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

if not __package__:  # when run by its path: the helpers are found, and the installed package goes first
    sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks.contestants import prompt_of
from tests.benchmarks.proxy import Turns, running_proxy
from tests.benchmarks.workers import Client, Contestant, Worker, running_client, running_worker
from tests.support.servers import NoServer, redis_server

SLIP, CHAIN = Contestant(name="slip", kind="slip"), Contestant(name="chain", kind="chain")
REPOSITORY = Path(__file__).parents[2]
SLOTS = 4
LONG, SHORT = 20, 5  # steps of a workflow
WARM_UP = 24  # short workflows sent at once, so that every slot has warmed up its code and connections
TIMEOUT = 60.0  # seconds for one workflow, however many wait before it
QUIET_TIMEOUT = 10.0  # seconds for a worker to acknowledge what it finished
UNACKNOWLEDGED = "unacked"  # Kombu's key of unacknowledged messages

WALL, CPU, LOADED = "wall ms/hop", "worker CPU ms/hop", "worker CPU ms/hop, at load"
SERVER, RATE = "server CPU ms/hop, at load", "hops/s, at load"
TRIPS, EVENTS = "round trips/hop", "  events for observers/hop"
MEMORY = "peak memory MB"

# What the turns of a hop are for.
PURPOSES = {
    "BRPOP": "receive the message",
    "MULTI+ZADD+HSET+EXEC": "note it as unacknowledged",
    "EVALSHA claim": "claim the hop",
    "EVALSHA complete": "record output and next hop",
    "EVALSHA renew": "renew the lease",
    "EVALSHA sweep": "look for overdue hops",
    "GET": "look for an earlier result",
    "MULTI+SETEX+PUBLISH+EXEC": "store the result",
    "LPUSH": "publish the next message",
    "MULTI+ZREM+HDEL+EXEC": "acknowledge",
}


class WrongOutput(Exception):
    """A workflow's outputs are not what they must be."""


class NoRevision(Exception):
    """The revision to measure against is not available."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run."""

    rounds: int
    slips: int  # long workflows of a contestant in a round, one after the other
    load: int  # short workflows of a contestant in a round, all at once
    load_rounds: int
    counted: int  # long workflows of a contestant whose round trips are counted
    limit: int  # seconds for everything of one contestant


@dataclass(frozen=True, kw_only=True)
class Stand:
    """A contestant that is ready: its worker, its client, and its database."""

    name: str
    worker: Worker
    client: Client
    database: redis.Redis

    def run(self, workflows: int, *, steps: int) -> list[list[float]]:
        """Run workflows one after the other and return the times of their bodies."""
        stamps = [self.read(self.client.send(steps), steps=steps) for _ in range(workflows)]
        self.wait_until_quiet()
        return stamps

    def read(self, sent: Any, *, steps: int) -> list[float]:
        """Wait for a workflow and return the times of its bodies; raises `WrongOutput` or `TimeoutError`."""
        return _checked(self.client.outputs(sent, timeout=TIMEOUT), steps)

    def wait_until_quiet(self) -> None:
        """Wait until the worker has acknowledged what it finished."""
        deadline = time.monotonic() + QUIET_TIMEOUT
        while self.database.exists(UNACKNOWLEDGED):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the worker acknowledged nothing for {QUIET_TIMEOUT:g} s")
            time.sleep(0.01)


@dataclass
class Table:
    """Samples by measure and contestant; the samples of one round have the same position."""

    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, measure: str, contestant: str, value: float) -> None:
        self.samples.setdefault(measure, {}).setdefault(contestant, []).append(value)

    def lines(self, own: str, others: Sequence[str]) -> Iterator[str]:
        """Yield the lines of the table; the ratios are those of `own` to each of the others."""
        names = [own, *others]
        yield (
            f"{'':<30}"
            + "".join(f"{name:>14}" for name in names)
            + "".join(f"{f'{own}/{other}':>18}{'(lowest - highest)':>20}" for other in others)
        )
        for measure, found in self.samples.items():
            medians = "".join(f"{statistics.median(found[name]):>14.2f}" for name in names)
            ratios = "".join(_ratio_text(found[own], found[other]) for other in others)
            yield f"{measure:<30}{medians}{ratios}".rstrip()


def main() -> int:
    """Run everything and print the tables; 1 if a workflow was lost or an output wrong, 2 if it cannot begin."""
    arguments = _arguments()
    size = _size(arguments)
    for ending in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(ending, _give_up)
    table, turns = Table(), dict[str, Turns]()
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            contestants = [SLIP, CHAIN]
            if arguments.against:
                contestants.insert(0, _earlier(arguments.against, folder))  # next to ours in every round
            signal.alarm(size.limit * len(contestants))
            with redis_server() as server:
                _measure_times(table, contestants, server.url, arguments.pool, size, folder)
                _measure_trips(table, turns, contestants, server.url, arguments.pool, size, folder)
                _report(table, turns, contestants, server.url, arguments.pool, size)
    except NoRevision as error:
        print(error, file=sys.stderr)
        return 2
    except WrongOutput as error:
        print(f"wrong output: {error}", file=sys.stderr)
        return 1
    except TimeoutError as error:
        print(f"lost: {error}", file=sys.stderr)
        return 1
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a hop costs, against a plain Celery chain.")
    parser.add_argument("--pool", choices=["threads", "prefork"], default="threads")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 7, quick 3)")
    parser.add_argument("--against", metavar="REVISION", help="an earlier state of this repository, as a contestant")
    parser.add_argument("--quick", action="store_true", help="less of everything, for a look")
    return parser.parse_args()


def _size(arguments: argparse.Namespace) -> Size:
    if arguments.quick:
        return Size(rounds=arguments.rounds or 3, slips=2, load=60, load_rounds=1, counted=10, limit=90)
    rounds = arguments.rounds or 7
    return Size(rounds=rounds, slips=4, load=300, load_rounds=min(rounds, 3), counted=25, limit=450)


def _earlier(revision: str, folder: Path) -> Contestant:
    """Return ours as it was in a revision; raises `NoRevision`."""
    archive, code = folder / "earlier.zip", folder / "earlier"
    try:
        name = _git("rev-parse", "--short", "--verify", f"{revision}^{{commit}}").strip()
        _git("archive", "--format=zip", f"--output={archive}", name, "paigeant_celery")
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoRevision(f"cannot read {revision!r}: {getattr(error, 'stderr', None) or error}") from error
    shutil.unpack_archive(archive, code)
    return Contestant(name=f"slip@{name}", kind="slip", code=code)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _give_up(number: int, _frame: object) -> None:
    """End on a signal as on any error, so that the workers and the server also end."""
    for ending in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(f"ended by {signal.Signals(number).name}")


# Times.


def _measure_times(
    table: Table, contestants: Sequence[Contestant], url: str, pool: str, size: Size, folder: Path
) -> None:
    with ExitStack() as stack:
        databases = _databases(url, first=0, count=len(contestants))
        stands = [
            _standing(stack, contestant, worker_url=own, client_url=own, pool=pool, folder=folder)
            for contestant, own in zip(contestants, databases, strict=True)
        ]
        for stand in stands:
            _warm_up(stand)
        for round_ in range(size.rounds):
            in_turn = stands[:: -1 if round_ % 2 else 1]
            for stand in in_turn:
                _time_slips(table, stand, size.slips)
            for stand in in_turn if round_ < size.load_rounds else ():
                _time_load(table, stand, size.load)
        for stand in stands:
            table.add(MEMORY, stand.name, stand.worker.usage().peak / 1e6)


def _time_slips(table: Table, stand: Stand, slips: int) -> None:
    before = stand.worker.usage().cpu
    walls = [(stamps[-1] - stamps[0]) / (LONG - 1) for stamps in stand.run(slips, steps=LONG)]
    table.add(WALL, stand.name, statistics.median(walls) * 1000)
    table.add(CPU, stand.name, (stand.worker.usage().cpu - before) / (slips * LONG) * 1000)


def _time_load(table: Table, stand: Stand, workflows: int) -> None:
    hops, before, server_before = workflows * SHORT, stand.worker.usage().cpu, _server_cpu(stand.database)
    with stand.worker.paused():
        sent = [stand.client.send(SHORT) for _ in range(workflows)]
    stamps = [stamp for one in sent for stamp in stand.read(one, steps=SHORT)]
    stand.wait_until_quiet()
    table.add(LOADED, stand.name, (stand.worker.usage().cpu - before) / hops * 1000)
    table.add(SERVER, stand.name, (_server_cpu(stand.database) - server_before) / hops * 1000)
    table.add(RATE, stand.name, (hops - 1) / (max(stamps) - min(stamps)))


def _server_cpu(server: redis.Redis) -> float:
    found: Any = server.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


# Round trips.


def _measure_trips(
    table: Table, turns: dict[str, Turns], contestants: Sequence[Contestant], url: str, pool: str, size: Size,
    folder: Path,
) -> None:  # fmt: skip
    with ExitStack() as stack:
        stands = []
        for contestant, own in zip(
            contestants, _databases(url, first=len(contestants), count=len(contestants)), strict=True
        ):
            proxy = stack.enter_context(running_proxy(urlsplit(url).port or 6379))
            proxied = own.replace(urlsplit(url).netloc, f"127.0.0.1:{proxy.port}")
            stand = _standing(stack, contestant, worker_url=proxied, client_url=own, pool=pool, folder=folder)
            stands.append((stand, proxy))
        for stand, _ in stands:
            _warm_up(stand)
        for stand, proxy in stands:
            before = proxy.turns()
            stand.run(size.counted, steps=LONG)
            found, hops = proxy.turns() - before, size.counted * LONG
            turns[stand.name] = found
            table.add(TRIPS, stand.name, _count(found, "hop") / hops)
            table.add(EVENTS, stand.name, _count(found, "event") / hops)


def _count(turns: Turns, kind: str) -> int:
    return sum(count for (of, _), count in turns.items() if of == kind)


# Shared.


def _standing(
    stack: ExitStack, contestant: Contestant, *, worker_url: str, client_url: str, pool: str, folder: Path
) -> Stand:
    worker = stack.enter_context(running_worker(contestant, broker=worker_url, pool=pool, slots=SLOTS, folder=folder))
    database = stack.enter_context(redis.Redis.from_url(client_url))
    client = stack.enter_context(running_client(contestant, client_url))
    return Stand(name=contestant.name, worker=worker, client=client, database=database)


def _warm_up(stand: Stand) -> None:
    for sent in [stand.client.send(SHORT) for _ in range(WARM_UP)]:
        stand.read(sent, steps=SHORT)
    stand.wait_until_quiet()


def _checked(outputs: Sequence[object], steps: int) -> list[float]:
    """Return the times of the bodies; raises `WrongOutput` unless every step returned what it must, in order."""
    texts, stamps = zip(*(str(output).split("|", 1) for output in outputs), strict=True)
    expected = tuple(f"done {prompt_of(index)}" for index in range(steps))
    if texts != expected:
        raise WrongOutput(f"{texts!r} instead of {expected!r}")
    times = [float(stamp) for stamp in stamps]
    if times != sorted(times):
        raise WrongOutput(f"steps ran in another order than they stand: {times!r}")
    return times


def _databases(url: str, *, first: int, count: int) -> list[str]:
    """Return a database for each; none is used twice, because a store remembers the address of its broker."""
    return [f"{url.rpartition('/')[0]}/{first + index}" for index in range(count)]


def _report(
    table: Table, turns: Mapping[str, Turns], contestants: Sequence[Contestant], url: str, pool: str, size: Size
) -> None:
    packages = ("paigeant_celery", "celery", "kombu", "redis", "pydantic-ai-slim")
    with redis.Redis.from_url(url) as server:
        found: Any = server.info("server")
    name = found.get("server_name", "redis")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{package} {version(package)}" for package in packages))
    print(f"server {name} {found.get(f'{name}_version', found['redis_version'])}, pool {pool}, {SLOTS} slots")
    print(f"medians of {size.rounds} rounds of {size.slips} workflows of {LONG} steps; ", end="")
    print(f"at load: {size.load_rounds} rounds of {size.load} workflows of {SHORT} steps")
    print("all outputs complete and equal\n")
    names = [SLIP.name, *(contestant.name for contestant in contestants if contestant != SLIP)]
    print("\n".join(table.lines(names[0], names[1:])))
    print(f"\nThe round trips of a hop, in {size.counted} workflows of {LONG} steps:")
    print("\n".join(_trip_lines(turns, names, _script_names(contestants), size.counted * LONG)))


def _ratio_text(own: Sequence[float], other: Sequence[float]) -> str:
    ratios = [mine / theirs for mine, theirs in zip(own, other, strict=True) if theirs]
    spread = f"{min(ratios):.2f} - {max(ratios):.2f}" if len(ratios) > 1 else ""
    return (f"{statistics.median(ratios):>18.2f}" if ratios else f"{'':>18}") + f"{spread:>20}"


def _trip_lines(
    turns: Mapping[str, Turns], names: Sequence[str], scripts: Mapping[str, str], hops: int
) -> Iterator[str]:
    counted = {name: Counter[str]() for name in names}
    for name, found in turns.items():
        for (kind, commands), count in found.items():
            if kind == "hop":
                counted[name][scripts.get(commands, commands)] += count
    seen = set().union(*counted.values())
    for commands in sorted(seen, key=lambda commands: [*PURPOSES, commands].index(commands)):
        numbers = "".join(f"{counted[name][commands] / hops:>14.2f}" for name in names)
        yield f"  {PURPOSES.get(commands, 'other'):<28}{numbers}    {commands[:60]}"


def _script_names(contestants: Sequence[Contestant]) -> dict[str, str]:
    """Return the names of our scripts by the digest under which the proxy sees their calls."""
    found = {}
    for contestant in contestants:
        package = contestant.code / "paigeant_celery" if contestant.code else resources.files("paigeant_celery")
        folder = package.joinpath("store/scripts")
        common = _limits(package) + folder.joinpath("common.lua").read_bytes()
        for path in folder.iterdir():
            digest = hashlib.sha1(common + path.read_bytes()).hexdigest()
            found[f"EVALSHA {digest}"] = f"EVALSHA {path.name.removesuffix('.lua')}"
    return found


def _limits(package: Traversable) -> bytes:
    """Return what a version of the package writes in front of its scripts: nothing before it had a table of limits."""
    table = package.joinpath("store/limits.py")
    if not table.is_file():
        return b""
    names = runpy.run_path(str(table))
    written: str = names["as_lua"](names["LIMITS"])
    return written.encode()


if __name__ == "__main__":
    sys.exit(main())
