"""What is put under the faults: our workflows, or plain Celery chains and chords with the same steps."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import redis
from celery import Celery, Signature, chain, chord
from kombu.exceptions import OperationalError

from paigeant_celery import WorkflowDispatcher, WorkflowStatus
from paigeant_celery.core.errors import UnknownWorkflow
from tests.programs.fanning import BRANCHES, FANS, seconds_of
from tests.proof.chaos.history import Event, Workflow, lines_of
from tests.proof.chaos.people import People, end
from tests.proof.chaos.work import Work, meant_of
from tests.support.processes import Deployment, Process

__all__ = ["LEASE", "Chain", "Contestant", "Slip", "settings_of"]

LEASE = 2.0  # seconds; short, so that a frozen worker does not hold up the test
GRACE = 0.2  # seconds for a step after its worker was told to end; shorter than many steps, so that some are given back
BACKOFF = 0.3  # seconds
MAX_ATTEMPTS = 50  # more than one hop is ever hit
SETTINGS = {
    "paigeant_lease": LEASE, "paigeant_max_attempts": MAX_ATTEMPTS, "paigeant_shutdown_grace": GRACE,
    "paigeant_retry_backoff": BACKOFF,
}  # fmt: skip
FOLDS = {"paigeant_inline_log_size": 0}  # each COMPLETE but the first folds the slip
MOST_REDRIVES = 50  # of one workflow
DISPATCH_PATIENCE = 30.0  # seconds for one dispatch to survive an outage
BETWEEN_ATTEMPTS = 0.1  # seconds
QUEUES = ("dig", "plant", "water", "heed", "teller", "_flow")
CHAIN_STEP, CHAIN_BRANCH, CHAIN_JOIN = "toil.step", "toil.branch", "toil.join"
UNACKED = "unacked"  # where Kombu keeps the messages that workers hold
CHAIN_STILL = 2.0  # seconds without any message, after which a chain is taken to have stopped


def settings_of(seed: int) -> dict[str, Any]:
    """Return what workers are set to: with every other seed, the slips are folded."""
    return {**SETTINGS, **(FOLDS if seed % 2 else {})}


class Contestant(Protocol):
    """What the storm needs from a contestant."""

    failpoints: bool
    joins_without_some: bool  # whether a join may do without branches that fail
    where: Deployment

    def queues(self) -> Sequence[str]:
        """Return the names of the lists in which its messages wait."""
        ...

    def start_worker(self, *, pool: str, slots: int, name: str, before: Sequence[str]) -> Process:
        """Start a worker without waiting for it, with something in front of its command."""
        ...

    def dispatch(self, work: Work) -> None:
        """Send a workflow; wait if there is an outage."""
        ...

    def tend(self, works: Sequence[Work]) -> None:
        """Do what a person would have to do."""
        ...

    def over(self, works: Sequence[Work]) -> bool:
        """Whether nothing more will come."""
        ...

    def close(self) -> None:
        """End what it has started itself."""
        ...


class Slip:
    """Ours."""

    failpoints = True
    joins_without_some = True

    def __init__(self, where: Deployment, seed: int) -> None:
        self.where = where
        self._transport, self._dispatcher = where.transport(), WorkflowDispatcher()
        self._dispatching: subprocess.Popen[str] | None = None
        self._started = 0
        self.asked_file, self.heard_file = where.folder / "asked", where.folder / "heard"
        rng = random.Random(f"people {seed}")
        self.people = People(self._transport, self.asked_file, rng, lambda: self._program("answering", "answerer"))
        self._redriven: Counter[str] = Counter()
        self._ended: set[str] = set()

    def queues(self) -> Sequence[str]:
        return [f"{self.where.prefix}.{name}" for name in QUEUES]

    def start_worker(self, *, pool: str, slots: int, name: str, before: Sequence[str]) -> Process:
        return self.where.start_worker("failpoints", "toil", "heed", pool=pool, slots=slots, name=name, before=before)

    def dispatch(self, work: Work) -> None:
        """Let another process send it, which may die halfway and then leaves the workflow to the sweepers."""
        process = self._dispatcher_process()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asdict(work)) + "\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != work.correlation_id:
            assert process.wait(10.0) == -signal.SIGKILL, "the dispatcher ended by itself; see its log"
            self._end_dispatcher()
        if work.waits_at is not None:
            self.people.note_sent(f"{work.correlation_id}.{work.waits_at}", work.way)

    def tend(self, works: Sequence[Work]) -> None:
        """Resend those that were meant to park and are parked, and branches while others go on."""
        for work in works:
            known = work.correlation_id
            if not work.may_park or known in self._ended or self._redriven[known] >= MOST_REDRIVES:
                continue
            with contextlib.suppress(UnknownWorkflow):  # not dispatched yet
                handle = self._dispatcher.handle(known, self._transport)
                status = handle.status_sync()
                paths = [branch.path for branch in status.branches if branch.state == "parked"]
                again = [handle.redrive_sync(path) for path in paths]
                if any(again) or (status.state == "parked" and not paths and handle.redrive_sync()):
                    self._redriven[known] += 1
                elif not status.in_progress and status.state != "parked":
                    self._ended.add(known)

    def over(self, works: Sequence[Work]) -> bool:
        for work in works:
            known = work.correlation_id
            if known in self._ended:
                continue
            status = self._status(known)
            parked_by_plan = status is not None and status.state == "parked" and work.may_park
            if (status is not None and status.in_progress) or (
                parked_by_plan and self._redriven[known] < MOST_REDRIVES
            ):
                return False
            self._ended.add(known)
        return True

    def close(self) -> None:
        self.people.end()
        self._end_dispatcher()

    def _end_dispatcher(self) -> None:
        process, self._dispatching = self._dispatching, None
        if process is not None:
            end(process)

    def outcome(self, work: Work) -> Workflow:
        """Return what the handle of a workflow says."""
        meant = meant_of(work)
        handle = self._dispatcher.handle(work.correlation_id, self._transport)
        try:
            status, events = handle.status_sync(), handle.events_so_far()
            outputs = handle.result_sync(0).outputs if status.state == "completed" else {}
        except UnknownWorkflow:
            return meant
        return replace(
            meant,
            state=status.state if status.failure is None else f"{status.state} with {status.failure.error_class}",
            executed=status.executed,
            outputs={name: outputs[name] for name in outputs if any(name == block.step for block in meant.blocks)},
            events=tuple(
                Event(
                    type=one.type, hop_id=one.hop_id, at=one.at.timestamp(), wait=str(one.fields.get("wait", "")),
                    how=str(one.fields.get("how", "")),
                ) for one in events
            ),
        )  # fmt: skip

    def _status(self, correlation_id: str) -> WorkflowStatus | None:
        try:
            return self._dispatcher.handle(correlation_id, self._transport).status_sync()
        except UnknownWorkflow:
            return None

    def _dispatcher_process(self) -> subprocess.Popen[str]:
        self._dispatching = self._dispatching or self._program("dispatching", "dispatcher")
        return self._dispatching

    def _program(self, module: str, name: str) -> subprocess.Popen[str]:
        """Start a program that answers each line that it is sent."""
        self._started += 1
        folder = self.where.configured(name)
        with (folder / f"{name}{self._started}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module], cwd=folder, text=True, stderr=log,
                env={**self.where.environment(), "PROCESS": f"{name}{self._started}"},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip


class Chain:
    """The control. It has no record of workflows: all that is known about them is what the steps recorded.

    Where ours has a block, it has a chord of as many of the same bodies, none of which always fails.
    """

    failpoints = False
    joins_without_some = False

    def __init__(self, where: Deployment) -> None:
        self.where = where
        # Celery refuses chords without a result backend; those of the workers count them.
        self._app = Celery("control", broker=where.url, backend="cache+memory://", set_as_current=False)
        self._app.conf.update(task_default_queue=where.prefix, task_ignore_result=True)
        self._still_since: float | None = None

    def queues(self) -> Sequence[str]:
        return [self.where.prefix]

    def start_worker(self, *, pool: str, slots: int, name: str, before: Sequence[str]) -> Process:
        return self.where.run(
            "-A", "toil_chain", "worker", "-n", f"{name}-{self.where.prefix}@%h", "-P", pool, "-c", str(slots),
            "-l", "INFO", "--without-mingle", "--without-gossip", name=name, before=before,
        )  # fmt: skip

    def dispatch(self, work: Work) -> None:
        steps = [self._step(work, place) for place in range(work.steps)]
        if work.fans_at == 0:  # nothing here counts results, and what fails halfway would be sent twice
            steps[:2] = reversed(steps[:2])
        deadline = time.monotonic() + DISPATCH_PATIENCE
        while True:
            try:
                chain(*steps, app=self._app).apply_async()
            except (OperationalError, redis.RedisError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(BETWEEN_ATTEMPTS)
            else:
                return

    def _step(self, work: Work, place: int) -> Signature:
        hop = f"{work.correlation_id}.{place}"
        if place != work.fans_at:
            return self._app.signature(CHAIN_STEP, args=(hop, work.seconds), immutable=True, ignore_result=True)
        fan = FANS[work.fan]
        branches = [
            self._app.signature(CHAIN_BRANCH, args=(f"{hop}-{n}.0", seconds_of(fan, n, work.seconds)), immutable=True)
            for n in range(BRANCHES)
        ]
        return chord(branches, self._app.signature(CHAIN_JOIN, args=(hop,), immutable=True), app=self._app)

    def tend(self, works: Sequence[Work]) -> None:
        """Do nothing: there is nothing that a person could do."""

    def over(self, works: Sequence[Work]) -> bool:
        """Whether all have ended, or no message is left that could end one."""
        if not self.unfinished(works):
            return True
        with redis.Redis.from_url(self.where.url) as broker:
            still = not broker.llen(self.where.prefix) and not broker.hlen(UNACKED)
        if not still:
            self._still_since = None
        elif self._still_since is None:
            self._still_since = time.monotonic()
        return self._still_since is not None and time.monotonic() - self._still_since > CHAIN_STILL

    def close(self) -> None:
        self._app.close()

    def unfinished(self, works: Sequence[Work]) -> list[str]:
        """Return the chains that reached neither their last step nor the one that always fails."""
        lines = self._lines()
        done = {line["hop"] for line in lines if line["what"] == "done"}
        raised = {line["hop"] for line in lines if line["what"] == "raised"}
        return [
            work.correlation_id for work in works
            if f"{work.correlation_id}.{work.steps - 1}" not in done
            and (work.doomed_at is None or f"{work.correlation_id}.{work.doomed_at}" not in raised)
        ]  # fmt: skip

    def completions(self) -> list[str]:
        """Return a hop id for each time that a step was done and the next one sent."""
        return [line["hop"] for line in self._lines() if line["what"] == "done"]

    def unjoined(self, works: Sequence[Work]) -> list[str]:
        """Return the chords that began, but whose join never was done."""
        began = {line["hop"] for line in self._lines() if line["what"] == "begin"}
        chords = {f"{work.correlation_id}.{work.fans_at}" for work in works if work.fan}
        return [
            hop for hop in sorted(chords - {*self.completions()})
            if any(f"{hop}-{number}.0" in began for number in range(BRANCHES))
        ]  # fmt: skip

    def _lines(self) -> list[dict[str, str]]:
        return [dict(line) for line in lines_of(Path(self.where.runs_file)) if "hop" in line]
