"""The storm: a seeded order of faults on the workers and the server of one contestant, while work arrives."""

from __future__ import annotations

import os
import queue
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import redis
from hosts.ledger import note
from processes import START_WITHIN, Process, eventually
from servers import RedisServer

from chaos.contestants import LEASE, Contestant

__all__ = ["CRASH_POINTS", "LOST_REPLIES", "Plan", "Storm"]

# Where the protocol may be cut, by the names of `failpoints`.
CRASH_POINTS = ("claimed", "ran", "completed", "published", "swept")
LOST_REPLIES = ("soft.claim", "hard.claim", "soft.complete", "hard.complete", "soft.renew", "hard.sweep")
POP_WINDOW = 1.5  # seconds of SIGSTOP in which the server hands a message to a process that never reads it
SETTLE = LEASE / 2  # seconds after SIGCONT in which a frozen owner renews, and learns what it lost
SERVER_AWAY = (0.1, 0.5)  # seconds between the server's end and its start
PAUSE = (0.1, 0.5)  # seconds between two faults
# Kombu acknowledges on a connection that is closed already, when the server goes away, and the worker ends with it;
# a plain Celery worker does so, too. A service manager starts it again.
KOMBU_FELL = "'NoneType' object has no attribute 'hostname'"
LOOK_EVERY = 0.02  # seconds between two looks at who runs
STOP_WITHIN = 20.0  # seconds for an orderly end


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is done, and how often each fault strikes."""

    workflows: int
    steps: int = 3
    workers: tuple[tuple[str, int], ...] = (("prefork", 2), ("prefork", 2), ("threads", 4))
    step_seconds: tuple[float, float] = (0.1, 0.8)
    faults: Counter[str] = field(
        default_factory=lambda: Counter(
            kill_group=6, kill_child=8, stop_and_kill=3, freeze=1, duplicate=6, lose_one=3, lose_queue=1,
            cut_clients=2, restart_server=2, roll=2,
        )
    )  # fmt: skip

    def order(self, rng: random.Random) -> list[str]:
        """Return the faults in an order of the seed; those that wait for their moment come in the first half."""
        armed = [*(f"at {point}" for point in CRASH_POINTS), *LOST_REPLIES]
        struck = sorted(self.faults.elements())
        rng.shuffle(struck)
        half = len(struck) // 2
        early = [*armed, *struck[:half]]
        rng.shuffle(early)
        return early + struck[half:]


class Storm:
    """Runs a plan on a contestant. What it hits is noted in `hits`, before and after it strikes."""

    def __init__(self, contestant: Contestant, server: RedisServer, plan: Plan, seed: int, folder: Path) -> None:
        self._contestant, self._server, self._plan = contestant, server, plan
        self._rng = random.Random(f"faults {seed}")
        self._work_rng = random.Random(f"work {seed}")
        self.hits_file = folder / "hits"
        self._failpoints = folder / "failpoints"
        self._failpoints.mkdir()
        self._workers: list[tuple[Process, str, int]] = []
        self._started = 0
        self._begun = time.time()
        self._last_seen: dict[int, float] = {}  # when a worker still ran, by its process id
        self._over = threading.Event()
        self._broker = redis.Redis.from_url(server.url)
        self.correlation_ids = [f"s{seed}-{number}" for number in range(plan.workflows)]
        self.unexpected_ends: list[str] = []
        self.struck: Counter[str] = Counter()

    @property
    def failpoints(self) -> Path:
        """The folder that the workers look at."""
        return self._failpoints

    def run(self, *, patience: float) -> None:
        """Send all work and strike with all faults, then wait for the work to end, at most `patience` seconds."""
        threading.Thread(target=self._watch, name="watching", daemon=True).start()
        for pool, slots in self._plan.workers:
            self._start(pool, slots)
        for worker, _, _ in self._workers:
            worker.wait_for_log(" ready.", within=START_WITHIN)
        faults = self._plan.order(self._rng)
        with self._dispatching() as released:
            for number, fault in enumerate(faults, 1):
                released(len(self.correlation_ids) * number // len(faults))
                time.sleep(self._rng.uniform(*PAUSE))
                self._strike(fault)
                self._tend()
        deadline = time.monotonic() + patience
        while self._contestant.unfinished(self.correlation_ids) and time.monotonic() < deadline:
            self._tend()
            time.sleep(0.2)

    def close(self) -> None:
        """Look at no worker any more, and give the connections back."""
        self._over.set()
        self._broker.close()

    # The work.

    class _Dispatching:
        def __init__(self, contestant: Contestant, work: list[tuple[str, float]]) -> None:
            self._contestant, self._work = contestant, work
            self._released: queue.SimpleQueue[int] = queue.SimpleQueue()
            self._failure: BaseException | None = None
            self._thread = threading.Thread(target=self._send, name="dispatching", daemon=True)

        def __enter__(self) -> Callable[[int], None]:
            self._thread.start()
            return self._released.put

        def __exit__(self, *_: object) -> None:
            self._released.put(len(self._work))
            self._thread.join(60.0)
            assert not self._thread.is_alive(), "the dispatcher hangs"
            if self._failure is not None:
                raise self._failure

        def _send(self) -> None:
            sent = 0
            try:
                while sent < len(self._work):
                    until = self._released.get()
                    for correlation_id, seconds in self._work[sent:until]:
                        self._contestant.dispatch(correlation_id, seconds)
                    sent = max(sent, until)
            except BaseException as failure:
                self._failure = failure

    def _dispatching(self) -> _Dispatching:
        seconds = (round(self._work_rng.uniform(*self._plan.step_seconds), 3) for _ in self.correlation_ids)
        return self._Dispatching(self._contestant, list(zip(self.correlation_ids, seconds, strict=True)))

    # The workers.

    def _start(self, pool: str, slots: int) -> Process:
        self._started += 1
        worker = self._contestant.start_worker(pool=pool, slots=slots, name=f"worker{self._started}")
        self._workers.append((worker, pool, slots))
        return worker

    def _watch(self) -> None:
        """Note when each worker was last seen, so that a hit is known to have come after it."""
        while not self._over.wait(LOOK_EVERY):
            now = time.time()
            for worker, _, _ in tuple(self._workers):
                if worker.running:
                    self._last_seen[worker.pid] = now

    def _tend(self) -> None:
        """Start a new worker for each one that ended: a crash point, or its own fault."""
        for entry in list(self._workers):
            worker, pool, slots = entry
            if worker.running:
                continue
            died = worker.ended(within=0)
            since = self._last_seen.get(worker.pid, self._begun)
            self._note("kill rest", since, group=worker.pid, run=worker.kill)
            if KOMBU_FELL in worker.log():
                self.struck["workers that Kombu ended"] += 1
            elif died != -signal.SIGKILL:
                self.unexpected_ends.append(f"{worker.name} (exit code {died}): {worker.log()[-2000:]}")
            self._workers.remove(entry)
            self._start(pool, slots)

    def _ready(self, *pools: str) -> tuple[Process, str, int]:
        """Return a worker of the pools that takes messages; waits for one."""

        def found() -> list[tuple[Process, str, int]]:
            return [
                entry for entry in self._workers
                if entry[1] in pools and entry[0].running and " ready." in entry[0].log()
            ]  # fmt: skip

        return self._rng.choice(eventually(found, within=START_WITHIN, what="no worker is ready"))

    # The faults.

    def _strike(self, fault: str) -> None:
        if fault.startswith(("at ", "soft.", "hard.")):
            if self._contestant.failpoints:
                (self._failpoints / fault.removeprefix("at ")).touch()
                return
            # The control has no such points; it is killed as often, wherever it is.
            if not fault.startswith("at "):
                return
            fault = "kill_child"
        self.struck[fault] += 1
        getattr(self, f"_{fault}")()

    def _note(
        self, kind: str, since: float, *, run: Callable[[], object] | None = None, settle: float = 0.0, **whom: int
    ) -> None:
        if run is not None:
            run()
        note(
            str(self.hits_file), kind=kind, since=since, until=time.time() + settle,
            pid=whom.get("pid"), group=whom.get("group"),
        )  # fmt: skip

    def _kill(self, entry: tuple[Process, str, int], kind: str, since: float) -> None:
        worker, pool, slots = entry
        self._workers.remove(entry)
        self._note(kind, since, group=worker.pid, run=worker.kill)
        self._start(pool, slots)

    def _kill_group(self) -> None:
        self._kill(self._ready("prefork", "threads"), "kill group", time.time())

    def _kill_child(self) -> None:
        worker, _, _ = self._ready("prefork")
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        if children:
            child = int(self._rng.choice(children))
            self._note("kill child", time.time(), pid=child, run=lambda: os.kill(child, signal.SIGKILL))

    def _stop_and_kill(self) -> None:
        entry = self._ready("prefork", "threads")
        since = time.time()
        os.killpg(entry[0].pid, signal.SIGSTOP)
        time.sleep(POP_WINDOW)
        self._kill(entry, "kill after a stop", since)

    def _freeze(self) -> None:
        worker, _, _ = self._ready("prefork", "threads")
        since = time.time()
        os.killpg(worker.pid, signal.SIGSTOP)
        time.sleep(LEASE + 1.5)
        os.killpg(worker.pid, signal.SIGCONT)
        self._note("freeze", since, group=worker.pid, settle=SETTLE)

    def _duplicate(self) -> None:
        for name in self._contestant.queues():
            for item in self._broker.lrange(name, 0, -1)[:3]:
                self._broker.lpush(name, item)
                self.struck["duplicated messages"] += 1

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
        entry = worker, pool, slots = self._ready("prefork", "threads")
        self._start(pool, slots).wait_for_log(" ready.", within=START_WITHIN)
        if not worker.running:  # a crash point was quicker
            return
        self._workers.remove(entry)
        os.kill(worker.pid, signal.SIGTERM)
        try:
            worker.ended(within=STOP_WITHIN)
        except AssertionError:
            self.unexpected_ends.append(f"{worker.name} did not end on SIGTERM: {worker.log()[-2000:]}")
            self._note("kill the unwilling", time.time(), group=worker.pid, run=worker.kill)
