"""The processes of the contestants in `hop.py`: workers and clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.contestants import Kind

__all__ = ["Client", "Contestant", "Usage", "Worker", "peak_memory", "running_client", "running_worker"]

HERE = Path(__file__).parent
STOP_TIMEOUT = 15.0  # seconds
LOG_TAIL = 3000  # characters of a worker's log that a failure shows


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A contestant; `code` is the folder of a package that is loaded instead of the installed one."""

    name: str
    kind: Kind
    code: Path | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment of its processes."""
        code = [] if self.code is None else [str(self.code)]
        path = os.pathsep.join([str(HERE), *code, os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "PYTHONPATH": path, "BENCH_CODE": "".join(code)}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a worker and its children have used so far: seconds of CPU, and resident bytes at most and now."""

    cpu: float
    peak: int
    resident: int


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
        """Return what the process and its children used; raises `RuntimeError` if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError("the worker ended")
        worker, cpu, peak, resident = psutil.Process(self._process.pid), 0.0, 0, 0
        for process in (worker, *worker.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu += times.user + times.system
                peak += peak_memory(process)
                resident += process.memory_info().rss
        return Usage(cpu=cpu, peak=peak, resident=resident)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker alone, and not to its children."""
        self._process.send_signal(number)

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
        """End it and what is left of its children."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def running_worker(
    contestant: Contestant, *, broker: str, pool: str, slots: int, folder: Path, number: int = 1
) -> Iterator[Worker]:
    """Yield a worker of a contestant; a failure inside the block shows the end of its log."""
    environment = {**contestant.environment(), "BENCH_CONTESTANT": contestant.kind, "BENCH_BROKER_URL": broker}
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "contestants", "worker", "--loglevel", "WARNING"]
    command += ["--pool", pool, "--concurrency", str(slots), "--hostname", f"{contestant.kind}{number}@bench"]
    worker = Worker(command, environment=environment, folder=folder, log=folder / f"{contestant.name}-{number}.log")
    try:
        yield worker
    except BaseException:
        print(f"log of the worker {contestant.name}:\n{worker.log()}", file=sys.stderr)
        raise
    finally:
        worker.stop()


class Client:
    """Gives work to a contestant and reads its outputs, in its own process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def send(self, prompts: Sequence[str]) -> str:
        """Send one workflow with a step for each prompt and return its id."""
        return str(self._ask(send=list(prompts))["sent"])

    def fan(self, prompts: Sequence[str], *, at_once: int) -> str:
        """Send one workflow with a branch for each prompt, which a join follows, and return its id."""
        return str(self._ask(fan=list(prompts), at_once=at_once)["sent"])

    def outputs(self, sent: str, *, timeout: float) -> Sequence[object]:
        """Wait for a workflow and return the outputs of all its steps; raises `TimeoutError`."""
        answer = self._ask(read=sent, timeout=timeout)
        if "late" in answer:
            raise TimeoutError(answer["late"])
        outputs: Sequence[object] = answer["outputs"]
        return outputs

    def _ask(self, **question: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("the client ended")
        return json.loads(line)


@contextmanager
def running_client(contestant: Contestant, url: str) -> Iterator[Client]:
    """Yield the client of a contestant; `url` is its database."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "clients.py"), contestant.kind, url], env=contestant.environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield Client(process)
        finally:
            process.kill()


def peak_memory(process: psutil.Process) -> int:
    """Return the peak resident memory, or the current one if the system does not keep the peak.

    Raises `psutil.NoSuchProcess` if it has ended.
    """
    with suppress(OSError):  # it may have ended, which then is said in the words of psutil
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)
