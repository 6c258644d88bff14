"""The storm: a seeded order of faults on the workers and the server of one contestant, while work arrives."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path

import redis

from tests.programs.fanning import FANS
from tests.programs.ledger import note
from tests.programs.stumbles import FOR_GOOD, IN_PASSING
from tests.proof.chaos.contestants import LEASE, UNACKED, Contestant
from tests.proof.chaos.history import ORDERLY_END, latest_runs_in
from tests.proof.chaos.people import WAYS
from tests.proof.chaos.work import Work
from tests.support.processes import START_WITHIN, Process, eventually, own_pids
from tests.support.servers import RedisServer

__all__ = ["ARMED", "LARGE", "SMALL", "Plan", "Storm"]

# Where the protocol may be cut and which replies may be lost, by the names of `failpoints`.
CRASH_POINTS = (
    "started", "received", "claimed", "renewed", "ran", "completed", "published", "retried", "parked", "failed",
    "released", "swept",
    "before wait", "wait recorded", "before asking", "asked", "before suspend", "suspended", "resolved", "signalled",
    "woken", "before hearing", "heard",
    "before pages", "between pages", "pages recorded", "before opening", "opened", "branch published",
    "branches published", "before leaving to branches", "left to branches", "completed and opened",
    "completed and joined", "failed and opened", "failed and joined", "parked and opened", "join found",
    "before block completed", "block completed", "before block failed", "block failed",
)  # fmt: skip
LOST_REPLIES = (
    "soft.start", "hard.start", "soft.claim", "hard.claim", "soft.renew", "hard.renew", "soft.complete",
    "hard.complete", "soft.retry_at", "hard.retry_at", "hard.park", "hard.fail", "hard.release", "hard.sweep",
    "soft.wait", "hard.wait", "soft.suspend", "hard.suspend", "soft.resolve", "hard.resolve", "soft.signal",
    "hard.signal", "soft.hold", "hard.hold", "soft.open_block", "hard.open_block", "soft.branches_of",
    "hard.branches_of", "soft.arrival", "hard.arrival",
)  # fmt: skip
ARMED = frozenset({f"at {point}" for point in CRASH_POINTS} | set(LOST_REPLIES))  # as hits are named
POP_WINDOW = 1.5  # seconds of SIGSTOP in which the server hands a message to a process that never reads it
SETTLE = LEASE / 2  # seconds after SIGCONT in which a frozen owner renews and learns what it lost
ORPHANED = 0.5  # seconds for which a pool's processes may outlive the worker's main process
SERVER_AWAY = (0.1, 0.5)  # seconds between the server's end and its start
PAUSE = (0.05, 0.4)  # seconds between two faults
LOOK_EVERY = 0.02  # seconds between two looks at who runs
STOP_WITHIN = 20.0  # seconds for an orderly end
LONG_STEP = 0.6  # seconds; a step that has just begun and takes this long outlasts the grace period
JUST_BEGUN = 0.15  # seconds
LONG_WITHIN = 5.0  # seconds within which such a step begins somewhere
KILLED = {-signal.SIGKILL, 128 + signal.SIGKILL}  # exit codes; the second through a shell
RESERVE = 0.1  # of the work, held back for the crash points that were not reached yet
FIRST = 6  # workflows before the first fault; some faults wait for a worker that has taken a message
MOST_ROUNDS = 8  # of waiting for them


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is done, and how often each fault strikes.

    A worker is a pool, its slots, and whether it lives in its own pid namespace (if the system has them).
    """

    workflows: int
    steps: int = 3
    workers: tuple[tuple[str, int, bool], ...] = (("prefork", 3, False), ("prefork", 3, True), ("threads", 6, False))
    step_seconds: tuple[float, float] = (0.1, 0.8)
    stumbling: float = 0.08  # of all steps fail once
    ending_otherwise: float = 0.05  # of all workflows always fail, and as many park; all of the second half
    waiting: float = 0.4  # of all workflows have a step that waits, and all of those that are held back
    fanning: float = 0.25  # the same for a step that is a block
    faults: Counter[str] = field(
        default_factory=lambda: Counter(
            kill_group=1, kill_apart=2, kill_main=2, kill_child=3, stop_and_kill=2, freeze=1, duplicate=6, lose_one=3,
            lose_queue=1, cut_clients=2, restart_server=2, roll=3,
        )
    )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.workflows}x{self.steps}"

    def order(self, rng: random.Random) -> list[str]:
        """Return the faults in a seeded order; those that wait for their moment come in the first half."""
        armed = sorted(ARMED)
        # A worker that is told to end gives steps back, and some of those faults wait for that.
        rolls = ["roll"] * self.faults["roll"]
        struck = sorted((self.faults - Counter(rolls)).elements())
        rng.shuffle(struck)
        half = len(struck) // 2
        early, late = [*armed, *struck[:half]], [*rolls, *struck[half:]]
        rng.shuffle(early)
        rng.shuffle(late)
        return early + late

    def works(self, rng: random.Random, seed: int) -> list[Work]:
        """Return the work of a seed."""
        works, ways, fans = [], sorted(WAYS), cycle(FANS)
        reserve = self.workflows - round(self.workflows * RESERVE)
        for number in range(self.workflows):
            seconds, place = round(rng.uniform(*self.step_seconds), 3), rng.randrange(self.steps)
            otherwise = 2 * number >= self.workflows
            turn = number % round(0.5 / self.ending_otherwise)
            waits = rng.random() < self.waiting or number >= reserve
            work = Work(
                correlation_id=f"s{seed}-{number}", seconds=seconds, steps=self.steps,
                doomed_at=place if otherwise and turn == 3 else None,
                parks_at=place if otherwise and turn == 7 else None,
                waits_at=rng.randrange(self.steps) if waits else None,
                way=ways[number % len(ways)] if waits else "",
            )  # fmt: skip
            free = [each for each in range(work.called) if each not in (work.doomed_at, work.parks_at, work.waits_at)]
            if (rng.random() < self.fanning or number >= reserve) and free:
                work = replace(work, fans_at=rng.choice(free), fan=next(fans))
            works.append(work)
        return works


SMALL = Plan(workflows=75, steps=4)  # of fewer steps no slip has a part to come in the store
LARGE = Plan(workflows=1000, steps=5, faults=Counter({fault: 4 * times for fault, times in SMALL.faults.items()}))


@dataclass(frozen=True)
class Worker:
    """A started worker; `apart` says whether it has its own pid namespace."""

    process: Process
    pool: str
    slots: int
    apart: bool

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def ready(self) -> bool:
        return self.process.running and " ready." in self.process.log()

    @property
    def looping(self) -> bool:
        """Whether it has taken a message, so that its loop watches the children of its pool.

        Celery 5.7 says that it is ready a moment before. A child that dies in between ends the main process with
        `ValueError: file descriptor is None`, which is not a fault of a hop.
        """
        return " received" in self.process.log()

    @property
    def main(self) -> int:
        """The id of Celery's main process; in a namespace, its maker and its first process come before it."""
        pid = self.process.pid
        for _ in range(2 if self.apart else 0):
            pid = _children_of(pid)[0]
        return pid


class Storm:
    """Runs a plan on a contestant. Each hit is recorded in `hits_file`, with the moments before and after it."""

    def __init__(self, contestant: Contestant, server: RedisServer, plan: Plan, seed: int, folder: Path) -> None:
        self._contestant, self._server, self._plan = contestant, server, plan
        self._rng = random.Random(f"faults {seed}")
        self.works = plan.works(random.Random(f"work {seed}"), seed)
        self.hits_file = folder / "hits"
        self.failpoints, self.stumbles = folder / "failpoints", folder / "stumbles"
        self.failpoints.mkdir()
        self.stumbles.mkdir()
        self._let_stumble(random.Random(f"stumbles {seed}"))
        self._workers: list[Worker] = []
        self._started = 0
        self.apart: set[str] = set()  # the names of workers in their own pid namespaces
        self._begun = time.time()
        self._last_seen: dict[str, float] = {}  # when a worker was last seen running, by its name
        self._over = threading.Event()
        self._broker = redis.Redis.from_url(server.url)
        self.unexpected_ends: list[str] = []
        self.struck: Counter[str] = Counter()

    def run(self, *, patience: float) -> None:
        """Send all work, strike with all faults, then wait for the work to end.

        `patience` is in seconds beyond the time that the work takes.
        """
        threading.Thread(target=self._watch, name="watching", daemon=True).start()
        for pool, slots, apart in self._plan.workers:
            self._start(pool, slots, apart=apart and bool(own_pids()))
        for worker in self._workers:
            worker.process.wait_for_log(" ready.", within=START_WITHIN)
        faults = self._plan.order(self._rng)
        reserve = round(len(self.works) * RESERVE)
        with self._dispatching() as released:
            for number, fault in enumerate(faults, 1):
                released(max(FIRST, (len(self.works) - reserve) * number // len(faults)))
                time.sleep(self._rng.uniform(*PAUSE))
                self._strike(fault)
                self._tend()
            for number in range(1, MOST_ROUNDS + 1):
                left = [file.name for file in self.failpoints.iterdir()]
                if not left:
                    break
                released(len(self.works) - reserve + reserve * number // MOST_ROUNDS)
                if {"released", "hard.release"} & set(left):
                    self._strike("roll")
                time.sleep(PAUSE[1])
                self._tend()
        slots = sum(slots for _, slots, _ in self._plan.workers)
        working = 2 * sum(work.seconds * work.bodies for work in self.works) / slots
        deadline = time.monotonic() + working + patience
        while not self._contestant.over(self.works) and time.monotonic() < deadline:
            self._tend()
            time.sleep(0.2)

    def close(self) -> None:
        """Stop watching workers and give back the connections."""
        self._over.set()
        self._broker.close()
        self._contestant.close()

    # The work.

    class _Dispatching:
        def __init__(self, contestant: Contestant, works: Sequence[Work]) -> None:
            self._contestant, self._works = contestant, works
            self._released: queue.SimpleQueue[int] = queue.SimpleQueue()
            self._failure: BaseException | None = None
            self._thread = threading.Thread(target=self._send, name="dispatching", daemon=True)

        def __enter__(self) -> Callable[[int], None]:
            self._thread.start()
            return self._released.put

        def __exit__(self, *_: object) -> None:
            self._released.put(len(self._works))
            self._thread.join(60.0)
            assert not self._thread.is_alive(), "the dispatcher hangs"
            if self._failure is not None:
                raise self._failure

        def _send(self) -> None:
            sent = 0
            try:
                while sent < len(self._works):
                    until = self._released.get()
                    for work in self._works[sent:until]:
                        self._contestant.dispatch(work)
                    sent = max(sent, until)
            except BaseException as failure:
                self._failure = failure

    def _dispatching(self) -> _Dispatching:
        return self._Dispatching(self._contestant, self.works)

    def _let_stumble(self, rng: random.Random) -> None:
        """Write down which steps fail once, and which always."""
        for work in self.works:
            for place in range(work.steps):
                stumbles = rng.random() < self._plan.stumbling or place == work.parks_at
                if stumbles or place == work.doomed_at:
                    how = FOR_GOOD if place == work.doomed_at else IN_PASSING
                    (self.stumbles / f"{work.correlation_id}.{place}").write_text(how)
            for hop, fan, number in work.in_branches:
                doomed = number in fan.doomed and self._contestant.joins_without_some
                if doomed or number in fan.parks or rng.random() < self._plan.stumbling:
                    (self.stumbles / hop).write_text(FOR_GOOD if doomed else IN_PASSING)

    # The workers.

    def _start(self, pool: str, slots: int, *, apart: bool) -> Worker:
        self._started += 1
        process = self._contestant.start_worker(
            pool=pool, slots=slots, name=f"worker{self._started}", before=own_pids() if apart else ()
        )
        worker = Worker(process, pool, slots, apart)
        if apart:
            self.apart.add(worker.name)
        self._workers.append(worker)
        return worker

    def _replace(self, worker: Worker) -> Worker:
        self._workers.remove(worker)
        return self._start(worker.pool, worker.slots, apart=worker.apart)

    def _watch(self) -> None:
        """Record when each worker was last seen, so that a hit is known to have come after that."""
        while not self._over.wait(LOOK_EVERY):
            now = time.time()
            for worker in tuple(self._workers):
                if worker.process.running:
                    self._last_seen[worker.name] = now

    def _tend(self) -> None:
        """Do what a service manager and a person would have to do."""
        self._replace_ended()
        self._contestant.tend(self.works)

    def _replace_ended(self) -> None:
        """Start a new worker for each one that ended, at a crash point or by its own fault."""
        for worker in list(self._workers):
            if worker.process.running:
                continue
            died = worker.process.ended(within=0)
            since = self._last_seen.get(worker.name, self._begun)
            self._note("kill rest", since, process=worker.name, run=worker.process.kill)
            if died not in KILLED:
                self.struck["workers that ended by themselves"] += 1
                self.unexpected_ends.append(f"{worker.name} (exit code {died}): {worker.process.log()[-2000:]}")
            self._replace(worker)

    def _ready(self, *pools: str, apart: bool = False, looping: bool = False) -> Worker:
        """Return a worker of these pools that takes messages; wait for it, and for another that goes on without it."""

        def found() -> list[Worker]:
            self._replace_ended()
            ready = [worker for worker in self._workers if worker.ready]
            if len(ready) < 2:
                return []
            fitting = [worker for worker in ready if worker.pool in pools and worker.apart >= apart]
            return [worker for worker in fitting if worker.looping >= looping]

        return self._rng.choice(eventually(found, within=START_WITHIN, what="no two workers are ready"))

    # The faults.

    def _strike(self, fault: str) -> None:
        if fault.startswith(("at ", "soft.", "hard.")):
            if self._contestant.failpoints:
                (self.failpoints / fault.removeprefix("at ")).touch()
                return
            # The control has no such points; it is killed as often, wherever it is.
            if not fault.startswith("at "):
                return
            fault = "kill_child"
        self.struck[fault] += 1
        with contextlib.suppress(ProcessLookupError):  # a crash point was quicker
            getattr(self, f"_{fault}")()

    def _note(
        self,
        kind: str,
        since: float,
        *,
        process: str | None = None,
        pid: int | None = None,
        run: Callable[[], object] | None = None,
        settle: float = 0.0,
    ) -> None:
        if run is not None:
            run()
        note(str(self.hits_file), kind=kind, since=since, until=time.time() + settle, process=process, pid=pid)

    def _kill(self, worker: Worker, kind: str, since: float) -> None:
        self._note(kind, since, process=worker.name, run=worker.process.kill)
        self._replace(worker)

    def _kill_group(self) -> None:
        self._kill(self._ready("prefork", "threads"), "kill group", time.time())

    def _kill_apart(self) -> None:
        """Kill a worker that others cannot judge by its process ids, if there is one."""
        worker = self._ready("prefork", "threads", apart=any(worker.apart for worker in self._workers))
        self._kill(worker, "kill group", time.time())

    def _kill_main(self) -> None:
        """Kill only the main process; the kernel ends those of its pool, if they got to ask for that."""
        worker = self._ready("prefork")
        pool, since = _children_of(worker.main), time.time()
        os.kill(worker.main, signal.SIGKILL)
        with contextlib.suppress(AssertionError):
            eventually(lambda: not any(map(_lives, pool)), within=ORPHANED)
        self.struck["orphaned processes"] += sum(map(_lives, pool))
        self._kill(worker, "kill main", since)

    def _kill_child(self) -> None:
        worker = self._ready("prefork", looping=True)
        child, since = self._rng.choice(_children_of(worker.main)), time.time()
        inner = _pid_within(child)
        self._note("kill child", since, process=worker.name, pid=inner, run=lambda: os.kill(child, signal.SIGKILL))

    def _stop_and_kill(self) -> None:
        worker = self._ready("prefork", "threads")
        since = time.time()
        os.killpg(worker.process.pid, signal.SIGSTOP)
        time.sleep(POP_WINDOW)
        self._kill(worker, "kill after a stop", since)

    def _freeze(self) -> None:
        worker = self._ready("prefork", "threads")
        since = time.time()
        os.killpg(worker.process.pid, signal.SIGSTOP)
        time.sleep(LEASE + 1.5)
        os.killpg(worker.process.pid, signal.SIGCONT)
        self._note("freeze", since, process=worker.name, settle=SETTLE)

    def _duplicate(self) -> None:
        """Send messages twice: some that wait, and some of running steps."""
        waiting = [(name, item) for name in self._contestant.queues() for item in self._broker.lrange(name, 0, 2)]
        held = [json.loads(value) for value in self._broker.hvals(UNACKED)[:3]]
        for name, item in [*waiting, *((routing_key, json.dumps(message)) for message, _, routing_key in held)]:
            self._broker.lpush(name, item)
        self.struck["duplicated messages"] += len(waiting) + len(held)

    def _lose_one(self) -> None:
        for name in self._contestant.queues():
            if self._broker.lpop(name) is not None:
                self.struck["lost messages"] += 1

    def _lose_queue(self) -> None:
        name = max(self._contestant.queues(), key=self._broker.llen)
        self.struck["lost messages"] += int(self._broker.llen(name))
        self._broker.delete(name)

    def _cut_clients(self) -> None:
        self._broker.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def _restart_server(self) -> None:
        since = time.time()
        self._server.stop()
        time.sleep(self._rng.uniform(*SERVER_AWAY))
        self._server.start()
        self._note("server restarted", since)

    def _roll(self) -> None:
        """Tell a worker to end while it runs a step that outlasts its grace period, and start another in its place."""
        worker = self._busy() or self._ready("prefork", "threads")
        since = time.time()
        os.kill(worker.main, signal.SIGTERM)
        self._replace(worker)
        try:
            died = worker.process.ended(within=STOP_WITHIN)
            if died in KILLED:  # at a crash point
                self._note("kill rest", since, process=worker.name, run=worker.process.kill)
        except AssertionError:
            self.unexpected_ends.append(f"{worker.name} did not end on SIGTERM: {worker.process.log()[-2000:]}")
            self._note("kill the unwilling", time.time(), process=worker.name, run=worker.process.kill)
        self._note(ORDERLY_END, since, process=worker.name)

    def _busy(self) -> Worker | None:
        """Wait for a worker in which a long step has just begun; None if no such step begins."""
        long = {
            f"{work.correlation_id}.{place}"
            for work in self.works if work.seconds >= LONG_STEP
            for place in range(work.steps) if place != work.waits_at
        }  # fmt: skip

        def found() -> list[Worker]:
            lately = time.time() - JUST_BEGUN
            names = {
                run.process for run in latest_runs_in(self._contestant.where.runs_file)
                if run.begun > lately and run.hop_id in long
            }  # fmt: skip
            return [worker for worker in self._workers if worker.name in names and worker.process.running]

        with contextlib.suppress(AssertionError):
            return eventually(found, within=LONG_WITHIN)[0]
        return None


def _children_of(pid: int) -> list[int]:
    """Return the ids of a process's children. Raises `ProcessLookupError` if there are none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        children = []
    if not children:
        raise ProcessLookupError(pid)
    return list(map(int, children))


def _pid_within(pid: int) -> int:
    """Return the id by which a process knows itself: the innermost one, if pid namespaces are nested."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    return next(int(line.split()[-1]) for line in status.splitlines() if line.startswith("NSpid:"))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False
