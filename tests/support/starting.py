"""Start a Python program: forked from a server that has imported the libraries, or cold, as its users start it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any, Protocol

from tests.support.forkserver import Program

__all__ = ["FORKS", "Started", "heed_interrupts", "run", "start"]

FORKS = sys.platform == "linux"  # macOS lets loaded frameworks fail in a forked child
SERVER = Path(__file__).with_name("forkserver.py")
SERVER_STOPS_WITHIN = 10.0  # seconds

# Variables that the interpreter or a library reads once, when it is loaded, but for those that a child reads itself.
READ_EARLY = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "KOMBU_", "PYDANTIC_", "OTEL_", "LOGFIRE_", "DYLD_", "MALLOC_")
READ_IN_CHILD = {"PYTHONPATH", "PYTHONUNBUFFERED"}


class Started(Protocol):
    """What a test asks of a process; `subprocess.Popen` is one."""

    pid: int

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit code; raises `TimeoutExpired`."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""


class Forked:
    """A process that the server has forked, and whose end it tells."""

    def __init__(self, connection: socket.socket, command: Sequence[str]) -> None:
        self.args = command
        self.returncode: int | None = None
        self._connection, self._reading, self._told = connection, threading.Lock(), b""
        weakref.finalize(self, connection.close)  # not at its end: another thread may wait for that as well
        self.pid = self._number()

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        return self.returncode if self._over(0.0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit code; raises `TimeoutExpired`."""
        if not self._over(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(list(self.args), timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def _over(self, timeout: float | None) -> bool:
        if self.returncode is None and wait([self._connection], timeout):
            with self._reading:
                if self.returncode is None:
                    self.returncode = self._number()
        return self.returncode is not None

    def _number(self) -> int:
        while b"\n" not in self._told:
            told = self._connection.recv(64)
            if not told:
                raise RuntimeError("the fork server has ended; its errors stand among those of this process")
            self._told += told
        number, _, self._told = self._told.partition(b"\n")
        return int(number)


def heed_interrupts() -> None:
    """Let programs that this process starts be interrupted, also if it is a job in the background of a script.

    A shell lets such a job ignore SIGINT, and so would each process that it starts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def start(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], output: IO[Any],
    errors: IO[Any] | None = None, cold: bool = False,
) -> Started:  # fmt: skip
    """Start a command in a session of its own. Errors go to `output` unless a file for them is named.

    It is forked when that makes no difference to the program, and `cold` does not forbid it.
    """
    program = None if cold else _program(command, cwd, environment)
    errors = output if errors is None else errors
    with open(os.devnull, "rb") as nothing:
        if program is not None:
            return Forked(_ask(program, [stream.fileno() for stream in (nothing, output, errors)]), command)
        return subprocess.Popen(
            command, cwd=cwd, env=dict(environment), stdin=nothing, stdout=output, stderr=errors, start_new_session=True
        )


def run(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], within: float, cold: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and return what it wrote; raises `TimeoutExpired` after `within` seconds."""
    with _text_file() as output, _text_file() as errors:
        process = start(command, cwd=cwd, environment=environment, output=output, errors=errors, cold=cold)
        try:
            code = process.wait(within)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(list(command), code, output.read(), errors.read())


def _text_file() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _program(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> Program | None:
    """Read Python's command line; None for what only a fresh interpreter can run."""
    if not FORKS or command[0] != sys.executable or not all(isinstance(argument, str) for argument in command):
        return None
    warnings, rest = [], list(command[1:])
    while rest[:1] == ["-W"]:
        warnings.append(rest[1])
        rest = rest[2:]
    forms = {"-m": "module", "-c": "code"}
    if rest and rest[0] in forms:
        form, what, *arguments = forms[rest[0]], *rest[1:]
    elif rest and not rest[0].startswith("-"):
        form, what, *arguments = "file", *rest
    else:
        return None
    if _read_early(environment) != _read_early(_server().environment):
        return None
    return Program(
        form=form, what=what, arguments=arguments, warnings=warnings, command=list(command), cwd=str(cwd),
        environment=dict(environment),
    )  # fmt: skip


def _read_early(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environment.items() if name.startswith(READ_EARLY) and name not in READ_IN_CHILD
    }


def _ask(program: Program, streams: Sequence[int]) -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(_server().requests, [b"!"], [theirs.fileno(), *streams])
    ours.sendall(json.dumps(asdict(program)).encode("ascii") + b"\n")
    return ours


@dataclass(frozen=True)
class _Server:
    requests: socket.socket
    environment: Mapping[str, str]


_starting = threading.Lock()


def _server() -> _Server:
    """Return the server of this process, started by whoever needs it first."""
    with _starting:
        return _server_of(os.getpid())


@cache
def _server_of(_pid: int) -> _Server:
    ours, theirs = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if name not in READ_IN_CHILD}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, str(SERVER)], cwd=SERVER.parent, env=environment, stdin=theirs.fileno(),
            start_new_session=True,
        )  # fmt: skip

    def end() -> None:
        ours.close()
        process.wait(SERVER_STOPS_WITHIN)

    atexit.register(end)
    return _Server(ours, environment)
