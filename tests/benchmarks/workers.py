"""The workers and clients of the contestants in `hop.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import redis
from celery import Celery, chain
from celery.result import AsyncResult
from contestants import AGENT, DONE, STEP, Contestant, chain_app, prompt_of, slip_app

__all__ = ["Client", "Usage", "Worker", "client_for", "running_worker"]

STOP_TIMEOUT = 15.0  # seconds
LOG_TAIL = 3000  # characters of a worker's log that a failure shows


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a worker and its children have used so far: seconds of CPU, and peak resident bytes."""

    cpu: float
    peak: int


class Worker:
    """A `celery worker` process of our own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log

    def usage(self) -> Usage:
        """Return what the process and its children used; raises `RuntimeError` where it ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the worker ended:\n{self.log()}")
        cpu, peak = 0.0, 0
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu += times.user + times.system
                peak += _peak_memory(process)
        return Usage(cpu=cpu, peak=peak)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the worker from taking messages inside the block."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-LOG_TAIL:]

    def stop(self) -> None:
        """End it, and whatever is left of its children."""
        tree = self._tree()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT)
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(STOP_TIMEOUT)

    def _tree(self) -> list[psutil.Process]:
        try:
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


@contextmanager
def running_worker(
    contestant: Contestant, *, broker: str, direct: str, pool: str, concurrency: int, folder: Path
) -> Iterator[Worker]:
    """Give a worker of a contestant; `direct` is the same database as `broker`, past any proxy."""
    log = folder / f"{contestant}-{time.monotonic_ns()}.log"
    environment = {
        **os.environ,
        "BENCH_CONTESTANT": contestant,
        "BENCH_BROKER_URL": broker,
        "BENCH_DIRECT_URL": direct,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "contestants", "worker", "--loglevel", "WARNING"]
    command += ["--pool", pool, "--concurrency", str(concurrency), "--hostname", f"{contestant}@bench"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    worker = Worker(process, log)
    try:
        yield worker
    finally:
        worker.stop()


class Client(Protocol):
    """How work is given to a contestant, and how its outputs are read."""

    def send(self, steps: int) -> Any:
        """Send one workflow and return what finds it again."""
        ...

    def outputs(self, sent: Any, *, timeout: float) -> Sequence[str]:
        """Wait for a workflow and return the outputs of all its steps; raises `TimeoutError`."""
        ...


def client_for(contestant: Contestant, url: str) -> Client:
    """Return the client of a contestant; `url` is its database."""
    if contestant == "chain":
        return _ChainClient(chain_app(url))
    if contestant == "slip":
        return _SlipClient(slip_app(url, store=True))
    return _BareClient(slip_app(url, store=False), url)


class _ChainClient:
    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, steps: int) -> AsyncResult:
        first, *others = [
            self._app.signature(STEP, args=(None, prompt) if index == 0 else (prompt,))
            for index, prompt in enumerate(prompt_of(index, steps) for index in range(steps))
        ]
        return chain(first, *others, app=self._app).apply_async()

    def outputs(self, sent: AsyncResult, *, timeout: float) -> Sequence[str]:
        sent.get(timeout=timeout)
        found: list[str] = []
        step: AsyncResult | None = sent
        while step is not None:
            found.append(step.get(timeout=timeout))
            step = step.parent
        return found[::-1]


class _SlipClient:
    def __init__(self, app: Celery) -> None:
        from paigeant_celery import WorkflowDispatcher, get_transport

        self._transport, self._dispatcher = get_transport(app=app), WorkflowDispatcher()

    def send(self, steps: int) -> str:
        from paigeant_celery import ActivitySpec

        itinerary = [ActivitySpec(AGENT, prompt_of(index, steps)) for index in range(steps)]
        return self._dispatcher.dispatch_workflow_sync(self._transport, itinerary=itinerary)

    def outputs(self, sent: str, *, timeout: float) -> Sequence[str]:
        result = self._dispatcher.handle(sent, self._transport).result_sync(timeout)
        return [str(step.output) for step in result.steps]


class _BareClient(_SlipClient):
    def __init__(self, app: Celery, url: str) -> None:
        super().__init__(app)
        self._redis = redis.Redis.from_url(url, socket_timeout=None)  # each pop has its own

    def outputs(self, sent: str, *, timeout: float) -> Sequence[str]:
        found: Any = self._redis.blpop([DONE + sent], timeout=timeout)
        if found is None:
            raise TimeoutError(f"workflow {sent} did not end within {timeout:g} s")
        return [str(output) for output in json.loads(found[1])]


def _peak_memory(process: psutil.Process) -> int:
    """Return the peak resident memory, or the present one where the system does not keep it."""
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)
