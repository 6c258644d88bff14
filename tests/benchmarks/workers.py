"""The workers and clients of the contestants in `hop.py`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import celery.exceptions
import psutil
from celery import Celery, chain
from celery.result import AsyncResult
from contestants import AGENT, STEP, Contestant, chain_app, prompt_of, slip_app

__all__ = ["Client", "Usage", "Worker", "client_for", "running_worker"]

STOP_TIMEOUT = 15.0  # seconds
LOG_TAIL = 3000  # characters of a worker's log that a failure shows


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a worker and its children have used so far: seconds of CPU, and peak resident bytes."""

    cpu: float
    peak: int


class Worker:
    """A `celery worker` process of our own, which leads a process group."""

    def __init__(self, command: Sequence[str], *, environment: dict[str, str], folder: Path, log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    def usage(self) -> Usage:
        """Return what the process and its children used; raises `RuntimeError` where it ended."""
        if self._process.poll() is not None:
            raise RuntimeError("the worker ended")
        worker, cpu, peak = psutil.Process(self._process.pid), 0.0, 0
        for process in (worker, *worker.children(recursive=True)):
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
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def running_worker(contestant: Contestant, *, broker: str, pool: str, slots: int, folder: Path) -> Iterator[Worker]:
    """Give a worker of a contestant; a failure inside the block shows the end of its log."""
    environment = {
        **os.environ,
        "BENCH_CONTESTANT": contestant,
        "BENCH_BROKER_URL": broker,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "contestants", "worker", "--loglevel", "WARNING"]
    command += ["--pool", pool, "--concurrency", str(slots), "--hostname", f"{contestant}@bench"]
    worker = Worker(command, environment=environment, folder=folder, log=folder / f"{contestant}.log")
    try:
        yield worker
    except BaseException:
        print(f"log of the worker {contestant}:\n{worker.log()}", file=sys.stderr)
        raise
    finally:
        worker.stop()


class Client(Protocol):
    """How work is given to a contestant, and how its outputs are read."""

    def send(self, steps: int) -> Any:
        """Send one workflow and return what finds it again."""
        ...

    def outputs(self, sent: Any, *, timeout: float) -> Sequence[object]:
        """Wait for a workflow and return the outputs of all its steps; raises `TimeoutError`."""
        ...


def client_for(contestant: Contestant, url: str) -> Client:
    """Return the client of a contestant; `url` is its database."""
    return _SlipClient(slip_app(url)) if contestant == "slip" else _ChainClient(chain_app(url))


class _SlipClient:
    def __init__(self, app: Celery) -> None:
        from paigeant_celery import WorkflowDispatcher, get_transport

        self._transport, self._dispatcher = get_transport(app=app), WorkflowDispatcher()

    def send(self, steps: int) -> str:
        from paigeant_celery import ActivitySpec

        itinerary = [ActivitySpec(AGENT, prompt_of(index)) for index in range(steps)]
        return self._dispatcher.dispatch_workflow_sync(self._transport, itinerary=itinerary)

    def outputs(self, sent: str, *, timeout: float) -> Sequence[object]:
        result = self._dispatcher.handle(sent, self._transport).result_sync(timeout)
        return [step.output for step in result.steps]


class _ChainClient:
    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, steps: int) -> AsyncResult:
        first = self._app.signature(STEP, args=(None, prompt_of(0)))
        others = [self._app.signature(STEP, args=(prompt_of(index),)) for index in range(1, steps)]
        return chain(first, *others, app=self._app).apply_async()

    def outputs(self, sent: AsyncResult, *, timeout: float) -> Sequence[object]:
        found: list[object] = []
        step: AsyncResult | None = sent
        while step is not None:  # from the last one, which ends last, to the first
            try:
                found.append(step.get(timeout=timeout))
            except celery.exceptions.TimeoutError as error:
                raise TimeoutError(f"task {step.id} did not end within {timeout:g} s") from error
            step = step.parent
        return found[::-1]


def _peak_memory(process: psutil.Process) -> int:
    """Return the peak resident memory, or the present one where the system does not keep it."""
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)
