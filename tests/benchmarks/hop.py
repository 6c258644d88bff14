"""What a hop costs, with targets: our slip against a plain Celery chain, and against a slip without a store.

    python tests/benchmarks/hop.py [--cases threads,growth] [--rounds N] [--against REVISION] [--quick] [--postgres]

Contestants, each with its own worker and client processes, all on one Redis server (a database each), with the same
pool, the same agent and the same prompts, with late acknowledgement and task events:

- `slip`: ours, with its store on the same Redis.
- `chain`: `celery.chain` with a result backend on the same Redis, `acks_late`, `reject_on_worker_lost`; its
  task runs the agent on a loop that its thread keeps, the cheapest of the forms that a task can have.
- `lean`: a plain task that carries prompts and outputs in its argument and sends the next message itself, without store
  and result backend; its agents share one event loop. Only when many agents wait at once.
- `slip@…`, with `--against`: ours as it was in that revision of this repository, with the dependencies that are
  installed now.

Cases (`--cases`, all by default):

- `threads`, `prefork`: a worker of four slots. Wall time and worker CPU of a hop in slips of 20, one at a time; hops
  per second and CPU when 150 workflows of 5 steps are sent to a stopped worker, which then goes on. The models put the
  time into their outputs, so nothing depends on how a client waits. Worker CPU is that of the worker and its children.
- `turns`: request/reply turns of a hop, through a counting proxy.
- `growth`: bytes and CPU of a hop early and late in workflows of 200 steps with outputs of 2 KB.
- `in-flight`: 500 and 1000 agents in flight.
- `dbos`: the workflows of `growth` in DBOS, which is no chain of messages, for a look. Only if it is installed
  (`pip install --group bench`); on SQLite, or on PostgreSQL with `--postgres`.

What each figure is exactly is said at the top of `steady.py`, `round_trips.py`, `growth.py` and `in_flight.py`. The
rounds are interleaved, and the contestants take turns to begin. The ratio is the median of the ratios of the rounds. On
a busy machine only the ratios are meaningful.

All outputs of every workflow are read and compared with what they must be. A wrong or missing one fails the case, as
does a process that ends; the other cases run, and the exit code is 1. Times and missed targets never change it.
"""

from __future__ import annotations

import argparse
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis

if not __package__:  # when run by its path: the helpers are found, and the installed package goes first
    sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks import dbos_growth, growth, in_flight, round_trips, steady
from tests.benchmarks.earlier import NoRevision, earlier
from tests.benchmarks.postgres import find_initdb
from tests.benchmarks.proxy import Turns
from tests.benchmarks.samples import Samples
from tests.benchmarks.stands import CHAIN, LEAN, SLIP, Place, Size, WrongOutput, place
from tests.benchmarks.targets import missed, target_lines
from tests.benchmarks.workers import Contestant
from tests.support.servers import NoServer, redis_server

QUICK = Size(
    rounds=1, slips=1, load=20, counted=5, steps=40, short=2, agents=40, window=1.0, limit=90
)  # fmt: skip
PACKAGES = ("paigeant_celery", "celery", "kombu", "redis", "pydantic-ai-slim")

Measure = Callable[[Samples, Sequence[Contestant], Place, Size], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something to measure, and whom ours is measured against."""

    name: str
    measure: Measure
    peer: Contestant | None = CHAIN  # None: ours takes no part


CASES = (
    Case(name="threads", measure=lambda *of: steady.measure(*of, pool="threads")),
    Case(name="prefork", measure=lambda *of: steady.measure(*of, pool="prefork")),
    Case(name="turns", measure=round_trips.measure),
    Case(name="growth", measure=growth.measure),
    Case(name="in-flight", measure=in_flight.measure, peer=LEAN),
)
DBOS = Case(name="dbos", measure=lambda samples, _, *of: dbos_growth.measure(samples, *of, postgres=False), peer=None)
POSTGRES = replace(DBOS, measure=lambda samples, _, *of: dbos_growth.measure(samples, *of, postgres=True))


@dataclass(kw_only=True)
class Report:
    """What the cases brought: samples by case, and why cases failed."""

    samples: dict[str, Samples] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def main() -> int:
    """Run the cases and print their tables; 1 if one failed, 2 if nothing can begin."""
    arguments = _arguments()
    size = QUICK if arguments.quick else Size(rounds=12)
    if arguments.rounds:
        size = replace(size, rounds=arguments.rounds)
    signal.signal(signal.SIGTERM, _give_up)
    signal.signal(signal.SIGALRM, _too_long)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            was = [earlier(arguments.against, folder)] if arguments.against else []
            if arguments.postgres:
                find_initdb()
            print(_surroundings(size))
            report = Report()
            for case in (*CASES, POSTGRES if arguments.postgres else DBOS):
                if case.name in arguments.cases:
                    _run(case, was, size, folder, report)
    except (NoRevision, NoServer) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(_summary(report, [SLIP.name, *(one.name for one in was)])))
    return 1 if report.failed else 0


def _arguments() -> argparse.Namespace:
    usual = [case.name for case in CASES]
    if find_spec("dbos") is not None:
        usual.append(DBOS.name)
    names = [*(case.name for case in CASES), DBOS.name]
    parser = argparse.ArgumentParser(description="What a hop costs, with targets.")
    parser.add_argument("--cases", type=_names_of(names), default=usual, help=f"some of {','.join(names)}")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 12, quick 1)")
    parser.add_argument("--against", metavar="REVISION", help="an earlier state of this repository, as a contestant")
    parser.add_argument("--postgres", action="store_true", help="DBOS on a PostgreSQL of its own, and not on SQLite")
    parser.add_argument("--quick", action="store_true", help="less of everything, for a look")
    return parser.parse_args()


def _names_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := sorted(set(found) - set(known)):
            raise argparse.ArgumentTypeError(f"no case {', '.join(unknown)}; there are {', '.join(known)}")
        if DBOS.name in found and find_spec("dbos") is None:
            raise argparse.ArgumentTypeError("DBOS is not installed; `pip install --group bench` brings it")
        return found

    return names


def _run(case: Case, was: Sequence[Contestant], size: Size, folder: Path, report: Report) -> None:
    """Run a case and print its table, or name it as failed."""
    # Ours and ours as it was are next to each other in every round.
    contestants = [] if case.peer is None else [*was, SLIP, case.peer]
    samples, found = Samples(), None
    try:
        with _at_most(size.limit * max(len(contestants), 1)), place(folder) as where:
            found = case.measure(samples, contestants, where, size)
    except WrongOutput as error:
        report.failed[case.name] = f"wrong output: {error}"
    except TimeoutError as error:
        report.failed[case.name] = f"lost or too late: {error}"
    except (RuntimeError, OSError, subprocess.SubprocessError, redis.RedisError) as error:
        report.failed[case.name] = f"{type(error).__name__}: {error}"
    if case.name in report.failed:
        print(f"\n{case.name}: failed, {report.failed[case.name]}", flush=True)
        return
    report.samples[case.name] = samples
    own = dbos_growth.NAME if case.peer is None else SLIP.name
    others = [] if case.peer is None else [case.peer.name, *(one.name for one in was)]
    print(f"\n{case.name}: all outputs complete and equal")
    print("\n".join(samples.lines(own, others)), flush=True)
    if isinstance(found, dict):
        print("\n".join(_turn_lines(found, contestants, size)), flush=True)


def _turn_lines(turns: dict[str, Turns], contestants: Sequence[Contestant], size: Size) -> Iterator[str]:
    yield "of them:" + " " * 28 + "".join(f"{contestant.name:>14}" for contestant in contestants)
    yield from round_trips.turn_lines(turns, contestants, size.counted)


def _summary(report: Report, own: Sequence[str]) -> Iterator[str]:
    if report.samples.keys() - {DBOS.name}:
        yield ""
        yield from target_lines(report.samples, own)
        titles = missed(report.samples)
        yield "\nmissed: " + ("; ".join(titles) or "none")
    for name, why in report.failed.items():
        yield f"failed: {name} ({why})"


def _surroundings(size: Size) -> str:
    """Say what is measured with; raises `NoServer`."""
    with redis_server() as server, redis.Redis.from_url(server.url) as client:
        found: Any = client.info("server")
    name = found.get("server_name", "redis")
    return (
        f"Python {platform.python_version()}, " + ", ".join(f"{package} {version(package)}" for package in PACKAGES)
        + f"\nserver {name} {found.get(f'{name}_version', found['redis_version'])}\nmedians of {size.rounds} rounds"
    )  # fmt: skip


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _too_long(_number: int, _frame: object) -> None:
    raise TimeoutError("the case took too long")


def _give_up(number: int, _frame: object) -> None:
    """End on a signal as on any error, so that the workers and the server also end.

    Told at once: `timeout` sends it to the server as well, and the logs of the workers that follow say that it is lost.
    """
    signal.signal(number, signal.SIG_IGN)
    print(f"ended by {signal.Signals(number).name}, and by no case", file=sys.stderr, flush=True)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
