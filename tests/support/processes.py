"""Processes for tests: Celery workers and scripts, each with its own folder, ended by its own id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from celery import Celery

from paigeant_celery.broker.transport import CeleryTransport, transport_of
from tests.support.starting import run, start

__all__ = [
    "GEVENT",
    "HOSTS",
    "PROGRAMS",
    "START_WITHIN",
    "Deployment",
    "Process",
    "deployment",
    "eventually",
    "own_pids",
    "run_script",
    "script_environment",
]

T = TypeVar("T")

PROGRAMS = Path(__file__).parents[1] / "programs"  # what workers and scripts load, by bare names
HOSTS = PROGRAMS / "hosts"  # whole applications that paigeant_celery is added to

START_WITHIN = 40.0  # seconds; a machine with two cores starts several workers at once
STOP_WITHIN = 15.0

# In front of a command, they give it a pid namespace of its own, which ends with the first of them. The second form is
# for users other than root. The shell is there because nothing inside of a namespace can kill its first process.
GEVENT = pytest.param("gevent", marks=pytest.mark.proof)  # a pool for those whose workers start quickly
PATCHING = {"gevent", "eventlet"}  # pools whose workers replace the standard library before they import anything

BEFORE_THE_STORE = ("hurried", "aged")  # change its limits; it opens before Celery loads modules
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
OWN_PIDS = tuple((*UNSHARE, *more, "sh", "-c", '"$@"; exit $?', "sh") for more in ((), ("--map-root-user",)))


def eventually(ask: Callable[[], T], *, within: float = 10.0, what: str = "") -> T:
    """Ask until the answer is true, and return it; fails with the last answer."""
    deadline = time.monotonic() + within
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"{what or 'not true'} within {within:g} s; last answer: {answer!r}"
        time.sleep(0.02)
    return answer


@cache
def own_pids() -> tuple[str, ...]:
    """Return what starts a command in a pid namespace of its own; empty where this system lets nobody have one."""
    for form in OWN_PIDS:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            tried = subprocess.run([*form, "true"], capture_output=True, stdin=subprocess.DEVNULL, timeout=STOP_WITHIN)
            if tried.returncode == 0:
                return form
    return ()


class Process:
    """A command whose output goes to a file; it leads a group, so that its children end with it.

    A `cold` one is no fork of a process that has imported the libraries.
    """

    def __init__(
        self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], name: str, cold: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._log = folder / f"{name}-{uuid.uuid4().hex[:6]}.log"
        with self._log.open("wb") as output:
            self._process = start(command, cwd=folder, environment=environment, output=output, cold=cold)

    @property
    def pid(self) -> int:
        """Id of the process, which is also that of its group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def log(self) -> str:
        """What it wrote so far."""
        return self._log.read_text(errors="replace")

    def wait_for_log(self, text: str, *, within: float = 10.0) -> str:
        """Wait until it has written `text`, and return all that it wrote."""
        eventually(
            lambda: text in self.log() or not self.running, within=within, what=f"{self.name} did not write {text!r}"
        )
        assert text in self.log(), f"{self.name} ended without writing {text!r}:\n{self.log()[-3000:]}"
        return self.log()

    def ended(self, *, within: float = STOP_WITHIN) -> int:
        """Wait for its end and return its exit code."""
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {within:g} s:\n{self.log()[-3000:]}") from None

    def terminate(self, *, within: float = STOP_WITHIN) -> int:
        """Ask it to end, as a service manager does, and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.ended(within=within)

    def kill(self) -> None:
        """End it and its children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.ended()


class Deployment:
    """One prefix on a server, with its workers; `settings` go to the workers and to the dispatching app."""

    def __init__(self, url: str | list[str], folder: Path, *, store: str | None = "broker", **settings: object) -> None:
        self.url, self.folder = url, folder
        self.prefix = f"test-{uuid.uuid4().hex[:12]}"
        self.settings: dict[str, object] = {
            "broker_url": url,
            "broker_connection_retry_on_startup": True,
            "worker_prefetch_multiplier": 1,
            "worker_send_task_events": True,
            "task_ignore_result": True,
            "paigeant_store_url": store,
            "paigeant_prefix": self.prefix,
            **settings,
        }
        self.runs_file = folder / "runs"
        self.variables: dict[str, str] = {}  # more of the environment of its processes
        self._processes: list[Process] = []
        self._transports: dict[str, CeleryTransport] = {}  # by settings
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def first_url(self) -> str:
        """The broker, or the first of several."""
        return self.url if isinstance(self.url, str) else self.url[0]

    def configure(self, app: Celery) -> None:
        """Give an app the settings of the workers."""
        app.conf.update(self.settings)

    def transport(self) -> CeleryTransport:
        """Return the transport of an app that no other test sees, and the same one as long as the settings are.

        Each keeps connections to broker and store for a while.
        """
        known = repr(self.settings)
        if known not in self._transports:
            app = Celery("dispatching", set_as_current=False)
            self.configure(app)
            self._transports[known] = transport_of(app)
        return self._transports[known]

    def environment(self) -> dict[str, str]:
        """Return the environment of its processes."""
        return {
            **script_environment(), "RUNS_FILE": str(self.runs_file), "PAIGEANT_REDIS_URL": self.first_url,
            **self.variables,
        }  # fmt: skip

    def configured(self, name: str, *, early: Sequence[str] = ()) -> Path:
        """Return a folder with the configuration of the stand-alone app, which loads `early` modules itself."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        lines = [f"import {module}" for module in early]
        lines += [f"{key} = {value!r}" for key, value in self.settings.items()]
        (folder / "celeryconfig.py").write_text("\n".join(lines) + "\n")
        return folder

    def start_worker(
        self, *modules: str, pool: str = "prefork", slots: int = 2, name: str = "worker", before: Sequence[str] = (),
        cold: bool = False, level: str = "INFO",
    ) -> Process:  # fmt: skip
        """Start `celery -A paigeant_celery worker` that loads `modules`; does not wait for it."""
        early = [module for module in modules if module in BEFORE_THE_STORE]
        return self.run(
            "-A", "paigeant_celery", "worker", "-n", f"{name}-{self.prefix}@%h", "-P", pool, "-c", str(slots),
            "-l", level, "--without-mingle", "--without-gossip", "-I", ",".join(modules),
            folder=self.configured(name, early=early), name=name, before=before, cold=cold or pool in PATCHING,
        )  # fmt: skip

    def ready_worker(self, *modules: str, **options: Any) -> Process:
        """Start a worker and wait until it takes messages."""
        worker = self.start_worker(*modules, **options)
        worker.wait_for_log(" ready.", within=START_WITHIN)
        return worker

    def run(
        self, *arguments: str, folder: Path | None = None, name: str, before: Sequence[str] = (), cold: bool = False,
        **environment: str,
    ) -> Process:  # fmt: skip
        """Start a `celery` command, with `before` in front of it; its environment says its name."""
        process = Process(
            [*before, sys.executable, "-m", "celery", *arguments],
            folder=folder or self.folder,
            environment={**self.environment(), "PROCESS": name, **environment},
            name=name, cold=cold,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def shell(self, line: str, *, folder: Path, name: str) -> Process:
        """Start what a person types into a shell, where `celery` is that of this Python."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        environment = {**self.environment(), "PROCESS": name, "PATH": path}
        process = Process(["sh", "-c", line], folder=folder, environment=environment, name=name, cold=True)
        self._processes.append(process)
        return process

    def runs(self) -> list[str]:
        """Return the hop ids of all bodies that ran, one for each run."""
        return self.runs_file.read_text().split() if self.runs_file.exists() else []

    def remove(self) -> None:
        """End its processes and remove its keys."""
        for process in self._processes:
            process.kill()
        first = self.first_url
        if not first.startswith("redis:"):
            return
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(first) as client:
            for pattern in (f"{self.prefix}*", f"_kombu.binding.{self.prefix}*"):
                for key in client.scan_iter(pattern, count=1000):
                    client.delete(key)


@contextlib.contextmanager
def deployment(url: str | list[str], folder: Path, **settings: Any) -> Iterator[Deployment]:
    """Give a deployment of our own, ended and removed at the end."""
    made = Deployment(url, folder, **settings)
    try:
        yield made
    finally:
        made.remove()


def script_environment() -> dict[str, str]:
    """Return the environment of a process that finds the programs and none of our variables."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PAIGEANT_", "CELERY_", "DJANGO_", "PYTEST_"))
    }
    return {**kept, "PYTHONPATH": f"{PROGRAMS}{os.pathsep}{HOSTS}", "PYTHONUNBUFFERED": "1", "C_FORCE_ROOT": "1"}


def run_script(
    source: str, *arguments: str, within: float = 40.0, cwd: Path | None = None, cold: bool = False, **environment: str
) -> str:
    """Run Python code in a process of its own, with warnings as errors, and return what it printed."""
    done = run(
        [sys.executable, "-W", "error", "-c", source, *arguments], cwd=cwd or Path.cwd(),
        environment={**script_environment(), **environment}, within=within, cold=cold,
    )  # fmt: skip
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
