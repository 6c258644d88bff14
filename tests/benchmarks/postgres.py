"""A PostgreSQL server of our own, for a benchmark."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.servers import NoServer, free_port

__all__ = ["find_initdb", "running_postgres"]

UNPRIVILEGED = "nobody"  # PostgreSQL does not run as root
START_TIMEOUT = 30.0  # seconds


def find_initdb() -> Path:
    """Return the command `initdb`; raises `NoServer` if there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve()
    with suppress(OSError, subprocess.CalledProcessError):
        text = subprocess.run(["pg_config", "--bindir"], check=True, capture_output=True, text=True).stdout
        if (path := Path(text.strip()) / "initdb").exists():
            return path
    raise NoServer("`--postgres` needs PostgreSQL's `initdb` on the PATH (Debian's package `postgresql`)")


@contextmanager
def running_postgres() -> Iterator[str]:
    """Yield the URL of a new server on 127.0.0.1, which ends with the block; raises `NoServer`."""
    initdb, port = find_initdb(), free_port()
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder, user = Path(name), _user()
        if user:
            shutil.chown(folder, UNPRIVILEGED)
        data = folder / "data"
        made = [str(initdb), "-D", str(data), "-U", "bench", "-A", "trust", "-E", "UTF8"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)
        command = [str(initdb.parent / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", name]
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **user) as server,
        ):
            try:
                _wait(initdb.parent / "pg_isready", port, server, folder / "log")
                yield f"postgresql://bench@127.0.0.1:{port}/bench"
            finally:
                server.terminate()


def _user() -> dict[str, Any]:
    """Return what `subprocess` needs to run a command as somebody who is not root; raises `NoServer`."""
    if os.geteuid():
        return {}
    try:
        found = pwd.getpwnam(UNPRIVILEGED)
    except KeyError as error:
        raise NoServer(f"PostgreSQL does not run as root, and there is no user `{UNPRIVILEGED}`") from error
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def _wait(isready: Path, port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    asked = [str(isready), "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(asked, check=False).returncode:
        if server.poll() is not None or time.monotonic() > deadline:
            raise NoServer(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-1000:]}")
        time.sleep(0.05)
