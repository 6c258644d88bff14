"""How long a step stands still when its worker is killed: ours against a plain Celery task.

    python tests/benchmarks/recovery.py [--kills N] [--lanes N] [--seed N] [--quick]

A step runs on one worker and records its beginning. At a random moment of the run (up to one interval between two
renewals of a lease) a process of that worker gets SIGKILL. The measured time is from before the signal to the step's
second beginning. Cases:

- `slip, same host`: a worker and its pool are killed together; another worker is on the same host.
- `slip, other host`: the same, but the workers seem to be on different machines: each has a different boot id, so
  neither can see that the other's processes are gone, and the lease must lapse (10 s, the default).
- `slip, child of two` and `slip, only child`: a process of a prefork pool is killed while its worker lives; another
  process of the pool is free, or there is none. The worker then takes no message before its pool has noticed; the
  pool looks every five seconds unless the loss wakes it up.
- `celery, …`: a Celery task on the same Redis server, with `acks_late` and `reject_on_worker_lost`. If a worker is
  killed, Celery waits for `visibility_timeout`, one hour by default; here it is 5 s, as short as it can be for a step
  of a few seconds, and checked every second (by default about every 100 s). A step that takes longer than this
  timeout is begun twice without any kill, so a deployment with long steps cannot choose it. If a child is killed, its
  worker notices, and the timeout is left at its default.

All workers are prefork pools, with one slot (`child of two`: two) and defaults for everything else. Each case has
several lanes: separate deployments with two workers each (one if a child is killed), which share nothing but the
server. In a round one step is hit in every lane of every case. They wait at the same time, which costs almost no CPU
(the report says how busy the machine was), and workers start only between rounds.

The exit code is 1 if a step of ours was not begun exactly twice or not completed exactly once, or if its workflow did
not complete. It never depends on times or on what the peer did, which the table shows.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import psutil
from celery import Celery

if not __package__:  # when run by its path: the helpers are found, and the installed package goes first
    sys.path.append(str(Path(__file__).parents[2]))

from paigeant_celery import FunctionSpec, WorkflowDispatcher
from tests.proof.chaos.history import Run, runs_in
from tests.support.processes import START_WITHIN, Deployment, Process, deployment, eventually
from tests.support.servers import NoServer, redis_server

TASK = "patient.hold"
SHORT_TIMEOUT, DEFAULT_TIMEOUT = 5.0, 3600.0  # seconds; Kombu's `visibility_timeout`
RENEWAL = 2.5  # seconds between two renewals of a lease; a kill comes at any moment in between
BEGIN_WITHIN = 20.0  # seconds
RECOVER_WITHIN = 60.0  # seconds; a step that has not begun again by then is lost
END_WITHIN = 20.0  # seconds
LOOK_EVERY = 0.05  # seconds between two looks at the steps' notes, which hold the times
LIMIT = 1800  # seconds for everything
DATABASES = 64  # of the server; each of the peer's lanes has one, because Kombu's unacknowledged messages are shared


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is hit, and what is left to go on. Ours have modules, a peer has a `visibility_timeout`."""

    name: str
    child: bool = False
    slots: int = 1
    modules: tuple[str, ...] = ()
    visibility_timeout: float | None = None

    @property
    def workers(self) -> int:
        """How many workers a lane has."""
        return 1 if self.child else 2


SAME_HOST = Case(name="slip, same host", modules=("patient",))
OTHER_HOST = Case(name="slip, other host", modules=("patient", "elsewhere"))
CHILD_OF_TWO = Case(name="slip, child of two", modules=("patient",), child=True, slots=2)
ONLY_CHILD = Case(name="slip, only child", modules=("patient",), child=True)
PEER_WORKER = Case(name="celery, worker", visibility_timeout=SHORT_TIMEOUT)
PEER_CHILD_OF_TWO = Case(name="celery, child of two", visibility_timeout=DEFAULT_TIMEOUT, child=True, slots=2)
PEER_ONLY_CHILD = Case(name="celery, only child", visibility_timeout=DEFAULT_TIMEOUT, child=True)

PEERS = {
    SAME_HOST: PEER_WORKER,
    OTHER_HOST: PEER_WORKER,
    CHILD_OF_TWO: PEER_CHILD_OF_TWO,
    ONLY_CHILD: PEER_ONLY_CHILD,
}
CASES = (*PEERS, PEER_WORKER, PEER_CHILD_OF_TWO, PEER_ONLY_CHILD)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one kill. `seconds` is None if the step did not begin again."""

    seconds: float | None
    runs: int
    completed: bool
    noticed: str = ""

    @property
    def right(self) -> bool:
        """Whether the step was begun exactly twice, and its workflow completed."""
        return self.seconds is not None and self.runs == 2 and self.completed


class Contestant(Protocol):
    """What a lane needs from ours and from the peer."""

    def start_worker(self, name: str) -> Process:
        """Start a worker without waiting for it."""
        ...

    def dispatch(self, correlation_id: str, gate: Path) -> None:
        """Send a workflow of one step, which waits for the gate."""
        ...

    def completed(self, correlation_id: str) -> bool:
        """Say whether the workflow is known to have completed."""
        ...

    def noticed(self, correlation_id: str) -> str:
        """Say how the loss was noticed."""
        ...


class Slip:
    """Ours."""

    def __init__(self, where: Deployment, case: Case) -> None:
        self._where, self._case = where, case
        self._transport, self._dispatcher = where.transport(), WorkflowDispatcher()

    def start_worker(self, name: str) -> Process:
        return self._where.start_worker(*self._case.modules, slots=self._case.slots, name=name, cold=True)

    def dispatch(self, correlation_id: str, gate: Path) -> None:
        self._dispatcher.dispatch_workflow_sync(
            self._transport, itinerary=[FunctionSpec("hold", {"gate": str(gate)})], correlation_id=correlation_id
        )

    def completed(self, correlation_id: str) -> bool:
        handle = self._dispatcher.handle(correlation_id, self._transport)
        if handle.status_sync().state != "completed":
            return False
        return [event.type for event in handle.events_so_far()].count("completed") == 1

    def noticed(self, correlation_id: str) -> str:
        events = self._dispatcher.handle(correlation_id, self._transport).events_so_far()
        return "+".join(event.fields["why"] for event in events if event.type == "resent")


class Peer:
    """A Celery task. All that is known about it is what it recorded."""

    def __init__(self, where: Deployment, case: Case) -> None:
        self._where, self._case = where, case
        where.variables = {"TASK_QUEUE": where.prefix, "VISIBILITY_TIMEOUT": str(case.visibility_timeout)}
        self._app = Celery("sender", broker=where.url, set_as_current=False)

    def start_worker(self, name: str) -> Process:
        return self._where.run(
            "-A", "patient_task", "worker", "-n", f"{name}-{self._where.prefix}@%h", "-P", "prefork",
            "-c", str(self._case.slots), "-l", "INFO", "--without-mingle", "--without-gossip", name=name, cold=True,
        )  # fmt: skip

    def dispatch(self, correlation_id: str, gate: Path) -> None:
        self._app.send_task(TASK, args=(_hop(correlation_id), str(gate)), queue=self._where.prefix)

    def completed(self, correlation_id: str) -> bool:
        runs = runs_in(self._where.runs_file)
        return any(run.hop_id == _hop(correlation_id) and run.ended is not None for run in runs)

    def noticed(self, correlation_id: str) -> str:
        return ""


class Lane:
    """A deployment of one case, in which one step after another is hit."""

    def __init__(self, case: Case, where: Deployment) -> None:
        self.case = case
        self._where = where
        self._contestant: Contestant = Slip(where, case) if case in PEERS else Peer(where, case)
        self._workers: list[Process] = []
        self._started = 0
        self._killed: dict[str, float] = {}  # when, by correlation id
        self._correlation_id = ""
        self.moment = 0.0  # when the running step is to be hit

    def start_workers(self) -> None:
        """Start missing workers without waiting for them."""
        self._workers = [worker for worker in self._workers if worker.running]
        while len(self._workers) < self.case.workers:
            self._started += 1
            self._workers.append(self._contestant.start_worker(f"worker-{self._started}"))

    def wait_until_ready(self) -> None:
        for worker in self._workers:
            worker.wait_for_log(" ready.", within=START_WITHIN * 2)

    def dispatch(self) -> None:
        """Begin the next step."""
        self._correlation_id = f"kill-{len(self._killed) + 1}"
        self._contestant.dispatch(self._correlation_id, self._gate(self._correlation_id))

    def wait_for_begin(self, rng: random.Random) -> None:
        """Wait until the step runs and choose the moment of the kill."""
        (run,) = eventually(lambda: self._runs(self._correlation_id), within=BEGIN_WITHIN, what="the step is not begun")
        self.moment = run.begun + rng.uniform(0, RENEWAL)

    def kill(self) -> None:
        """Send SIGKILL to what runs the step."""
        (run,) = self._runs(self._correlation_id)
        worker = next(worker for worker in self._workers if worker.name == run.process)
        self._killed[self._correlation_id] = time.time()
        if self.case.child:
            os.kill(run.pid, signal.SIGKILL)
        else:
            worker.kill()

    def has_recovered(self) -> bool:
        """Say whether the step began again; if so, let it end."""
        if len(self._runs(self._correlation_id)) < 2:
            return False
        self._gate(self._correlation_id).touch()
        return True

    def is_completed(self) -> bool:
        return self._contestant.completed(self._correlation_id)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield what is known about each kill, in order."""
        for correlation_id, killed in self._killed.items():
            runs = self._runs(correlation_id)
            yield Outcome(
                seconds=runs[1].begun - killed if len(runs) > 1 else None,
                runs=len(runs),
                completed=self._contestant.completed(correlation_id),
                noticed=self._contestant.noticed(correlation_id),
            )

    def _runs(self, correlation_id: str) -> list[Run]:
        return [run for run in runs_in(self._where.runs_file) if run.hop_id == _hop(correlation_id)]

    def _gate(self, correlation_id: str) -> Path:
        return self._where.folder / f"gate-{correlation_id}"


def main() -> int:
    """Run everything and print the table; 1 if a result of ours is wrong, 2 without a server."""
    arguments = _arguments()
    for ending in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(ending, _give_up)
    signal.alarm(LIMIT)
    rounds = math.ceil(arguments.kills / arguments.lanes)
    try:
        with ExitStack() as stack:
            server = stack.enter_context(redis_server("--databases", str(DATABASES)))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            lanes = _lanes(stack, server.url, folder, arguments.lanes)
            rng = random.Random(arguments.seed)
            busy = [_run_round(lanes, rng) for _ in range(rounds)]
            outcomes = {
                case: [outcome for lane in lanes if lane.case is case for outcome in lane.outcomes()] for case in CASES
            }
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2
    _report(outcomes, busy, arguments)
    return 0 if all(outcome.right for case in PEERS for outcome in outcomes[case]) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How long a step stands still when its worker is killed.")
    parser.add_argument("--kills", type=int, help="of each case (default 20, quick 2)")
    parser.add_argument("--lanes", type=int, help="deployments of each case, hit at the same time (default 4, quick 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    parser.add_argument("--quick", action="store_true", help="few kills, for a look")
    arguments = parser.parse_args()
    arguments.kills = arguments.kills or (2 if arguments.quick else 20)
    arguments.lanes = min(arguments.lanes or (2 if arguments.quick else 4), arguments.kills)
    return arguments


def _give_up(number: int, _frame: object) -> None:
    """End on a signal as on any error, so that the workers and the server also end."""
    for ending in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(f"ended by {signal.Signals(number).name}")


def _lanes(stack: ExitStack, url: str, folder: Path, count: int) -> list[Lane]:
    server, lanes, databases = url.rpartition("/")[0], [], iter(range(1, DATABASES))
    for case in CASES:
        for number in range(count):
            place = folder / f"{case.name.replace(', ', '-').replace(' ', '-')}-{number}"
            database = 0 if case in PEERS else next(databases)
            where = stack.enter_context(deployment(f"{server}/{database}", place))
            lanes.append(Lane(case, where))
    return lanes


def _run_round(lanes: Sequence[Lane], rng: random.Random) -> float:
    """Hit one step in each lane; return how busy the CPUs were, in percent, from first kill to last recovery."""
    for lane in lanes:
        lane.start_workers()
    for lane in lanes:
        lane.wait_until_ready()
    for lane in lanes:
        lane.dispatch()
    for lane in lanes:
        lane.wait_for_begin(rng)
    psutil.cpu_percent()
    pending = sorted(lanes, key=lambda lane: lane.moment)
    for lane in pending:
        time.sleep(max(0.0, lane.moment - time.time()))
        lane.kill()
    pending = _wait(pending, Lane.has_recovered, RECOVER_WITHIN)
    busy = psutil.cpu_percent()
    _wait([lane for lane in lanes if lane not in pending], Lane.is_completed, END_WITHIN)
    return busy


def _wait(lanes: Sequence[Lane], done: Callable[[Lane], bool], within: float) -> list[Lane]:
    """Wait until it is true for all lanes; return those for which it did not become true in time."""
    pending, deadline = list(lanes), time.monotonic() + within
    while pending and time.monotonic() < deadline:
        pending = [lane for lane in pending if not done(lane)]
        time.sleep(LOOK_EVERY)
    return pending


def _report(outcomes: Mapping[Case, Sequence[Outcome]], busy: Sequence[float], arguments: argparse.Namespace) -> None:
    packages = ("paigeant_celery", "celery", "kombu", "redis")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{package} {version(package)}" for package in packages))
    print(f"{arguments.lanes} lanes of each case at once, seed {arguments.seed}")
    shares = ", ".join(f"{percent:.0f}" for percent in busy)
    print(f"{os.cpu_count()} CPUs, in use by whatever runs on the machine while steps waited: {shares} %\n")
    print("\n".join(table_lines(outcomes)))
    print(
        f"\n{PEER_WORKER.name}: visibility_timeout is {SHORT_TIMEOUT:g} s, counted from the delivery; with the default"
    )
    print(f"of {DEFAULT_TIMEOUT:g} s the median would be about an hour. Ratios of the medians:")
    for case, peer in PEERS.items():
        ours, theirs = _seconds(outcomes[case]), _seconds(outcomes[peer])
        if ours and theirs:
            ratio = statistics.median(ours) / statistics.median(theirs)
            print(f"  {f'{case.name} / {peer.name}':<45}{ratio:>8.2f}")


def table_lines(outcomes: Mapping[Case, Sequence[Outcome]]) -> Iterator[str]:
    """Yield the lines of the table; `wrong` counts steps that were lost or did not run exactly twice."""
    figures = ("median", "p95", "min", "max")
    yield f"{'seconds until it began again':<30}{'n':>4}" + "".join(f"{name:>9}" for name in figures) + f"{'wrong':>7}"
    for case, found in outcomes.items():
        seconds, wrong = _seconds(found), sum(not outcome.right for outcome in found)
        numbers = (statistics.median(seconds), percentile(seconds, 95), min(seconds), max(seconds)) if seconds else ()
        noticed = Counter(outcome.noticed for outcome in found if outcome.noticed)
        yield (
            f"{case.name:<30}{len(found):>4}"
            + "".join(f"{number:>9.2f}" for number in numbers or [math.nan] * len(figures))
            + f"{wrong:>7}  "
            + ", ".join(f"{why} {count}" for why, count in noticed.items())
        ).rstrip()


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest measured value that so many percent of the values do not exceed."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def _seconds(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.seconds for outcome in outcomes if outcome.seconds is not None]


def _hop(correlation_id: str) -> str:
    return f"{correlation_id}.0"


if __name__ == "__main__":
    sys.exit(main())
