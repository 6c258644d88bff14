"""The process that forks test processes: it has imported the libraries once, and each child runs one program.

It is started as a script, with a socket as its standard input. It imports no program, and nothing that makes an app
or an activity. A message on the socket brings a connection and the three standard streams of a new process. What to
run is read from the connection; the process id and, at its end, the exit code are written to it.
"""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import io
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
import types
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

__all__ = ["STREAMS", "Program"]

STREAMS = 3  # standard input, output and errors

# Celery's and Flower's `__main__` are missing: what `-m` names must not be loaded before it runs.
LIBRARIES = (
    "celery.bin.celery", "celery.apps.worker", "celery.backends.redis", "celery.events.state", "celery.fixups.django",
    "celery.concurrency.prefork", "celery.concurrency.solo", "celery.concurrency.thread", "concurrent.futures.thread",
    "kombu.transport.memory", "kombu.transport.pyamqp", "kombu.transport.redis",
    "redis.asyncio", "pydantic_ai", "pydantic_ai.models.function", "pydantic_ai.models.test",
    "pydantic_ai.durable_exec._base", "genai_prices.data",
)  # fmt: skip
PACKAGE = "paigeant_celery"
FACES = {f"{PACKAGE}.celery", f"{PACKAGE}.tasks", f"{PACKAGE}.testing"}  # the first two change an app when loaded


@dataclass(frozen=True)
class Program:
    """What a new process runs: the form of Python's command line, and what surrounds it."""

    form: str  # "module", "code" or "file"
    what: str
    arguments: Sequence[str]
    warnings: Sequence[str]
    command: Sequence[str]
    cwd: str
    environment: dict[str, str]

    def prepare(self) -> None:
        """Give this process the surroundings that a fresh interpreter finds."""
        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.environment)
        first = {"module": "-m", "code": "-c", "file": self.what}[self.form]
        sys.argv[:], sys.orig_argv[:] = [first, *self.arguments], self.command
        paths = self.environment.get("PYTHONPATH", "")
        sys.path[:] = [self._first_path(), *(os.path.abspath(path) for path in paths.split(":") if path), *sys.path]
        sys.warnoptions[:] = self.warnings
        warnings._processoptions(self.warnings)  # type: ignore[attr-defined]
        if "TOUCHED" not in self.environment:  # a helper for each worker would cost all tests a minute
            importlib.import_module(f"{PACKAGE}.worker.touching").Touching.begin = lambda _: None  # type: ignore[attr-defined]
        _open_streams(unbuffered=bool(self.environment.get("PYTHONUNBUFFERED")))
        sys.modules["__main__"] = _fresh_main()

    def run(self) -> None:
        """Run it as `__main__`."""
        match self.form:
            case "module":
                runpy._run_module_as_main(self.what)  # type: ignore[attr-defined]
            case "file" if os.path.isdir(self.what):
                runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
            case "file":
                self._run_file(self._path())
            case _:
                exec(compile(self.what, "<string>", "exec"), vars(sys.modules["__main__"]))

    def _run_file(self, path: str) -> None:
        main = sys.modules["__main__"]
        main.__file__, main.__cached__ = path, None  # type: ignore[attr-defined]
        main.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
        with open(path, "rb") as source:
            code = compile(source.read(), path, "exec")
        exec(code, vars(main))

    def _first_path(self) -> str:
        match self.form:
            case "module":
                return os.getcwd()
            case "code":
                return ""
        path = self._path()
        return path if os.path.isdir(path) else os.path.dirname(os.path.realpath(path))

    def _path(self) -> str:
        return os.path.join(os.getcwd(), self.what)


class Server:
    """Forks on request, and tells how each child ended; it has one thread and no child of its own."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._children: dict[int, socket.socket] = {}
        self._ends, self._wakeup = socket.socketpair()
        for end in (self._ends, self._wakeup):
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()

    def serve(self) -> Program | None:
        """Return the program in each child, prepared; in the server itself None, when nobody asks any more."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for readable in (self._requests, self._ends):
            self._selector.register(readable, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in self._selector.select()}
            if self._ends in ready:
                self._tell_ends()
            if self._requests not in ready:
                continue
            message, descriptors, _, _ = socket.recv_fds(self._requests, 1, 1 + STREAMS)
            if not message:
                self._end_all()
                return None
            program = self._fork(socket.socket(fileno=descriptors[0]), descriptors[1:])
            if program is not None:
                return program

    def _fork(self, connection: socket.socket, streams: Sequence[int]) -> Program | None:
        with connection.makefile("r", encoding="ascii") as reading:
            program = Program(**json.loads(reading.readline()))
        assert threading.active_count() == 1, "a library has started a thread, which no child would have"
        pid = os.fork()
        if pid == 0:
            os.setsid()
            _tell(connection, os.getpid())  # not before it leads a group, which can be killed from now on
            connection.close()
            self._leave(streams)
            program.prepare()
            return program
        for stream in streams:
            os.close(stream)
        self._children[pid] = connection
        return None

    def _leave(self, streams: Sequence[int]) -> None:
        """Keep nothing of the server in a child."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for end in (self._requests, self._ends, self._wakeup, *self._children.values()):
            end.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(STREAMS, os.sysconf("SC_OPEN_MAX"))

    def _tell_ends(self) -> None:
        with suppress(BlockingIOError):
            while self._ends.recv(1024):
                pass
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                connection = self._children.pop(pid)
                _tell(connection, os.waitstatus_to_exitcode(status))
                connection.close()

    def _end_all(self) -> None:
        for pid in self._children:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _tell(connection: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # nobody waits for it any more
        connection.sendall(f"{number}\n".encode())


def _open_streams(*, unbuffered: bool) -> None:
    """Open the standard streams again: the server's were made for other files."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        mode = "r" if name == "stdin" else "w"
        raw = io.FileIO(number, mode, closefd=False)
        raw.name = f"<{name}>"
        buffer = io.BufferedReader(raw) if mode == "r" else raw if unbuffered else io.BufferedWriter(raw)
        line_buffering = not unbuffered and (name == "stderr" or raw.isatty())
        stream = io.TextIOWrapper(
            buffer, encoding=old.encoding, errors=old.errors, newline=None if mode == "r" else "\n",
            line_buffering=line_buffering, write_through=unbuffered,
        )  # fmt: skip
        stream.mode = mode  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _fresh_main() -> types.ModuleType:
    main = types.ModuleType("__main__")
    main.__loader__ = importlib.machinery.BuiltinImporter
    vars(main).update(__annotations__={}, __builtins__=sys.modules["builtins"])
    return main


def _run(program: Program) -> None:
    """Run a program; an error is shown as if this file had no part in it."""
    try:
        program.run()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        _show(error)


def _show(error: BaseException) -> NoReturn:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    sys.exit(1)


def _load() -> None:
    package = importlib.import_module(PACKAGE)
    ours = (found.name for found in pkgutil.walk_packages(package.__path__, f"{PACKAGE}."))
    for module in (*LIBRARIES, *(name for name in ours if name not in FACES)):
        with suppress(ModuleNotFoundError):  # not every version has each, and some are optional
            importlib.import_module(module)


def main() -> None:
    """Serve the socket that is the standard input."""
    requests = socket.socket(fileno=os.dup(0))
    sys.path.pop(0)  # the folder of this file
    _load()
    gc.collect()
    gc.freeze()  # a collection in a child must not copy the pages of what was imported
    program = Server(requests).serve()
    if program is not None:
        _run(program)


if __name__ == "__main__":
    main()
