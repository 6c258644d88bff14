"""This process among those of its host: names by which another process can tell whether it still lives."""

from __future__ import annotations

import os
import uuid
from functools import cache
from pathlib import Path

__all__ = ["host_id", "is_gone", "new_owner_id"]

PROC = Path("/proc")
START_TIME = 19  # its place in /proc/<pid>/stat behind the name of the command, in clock ticks since the boot
ENDED = {"Z", "X"}  # states of a process whose parent has not noticed yet that it ended
UNKNOWN = "unknown"


def new_owner_id() -> str:
    """Return `host:pid:start:nonce` for this process, after a fork another one.

    Where the host or the start cannot be read it is `unknown`, and nobody judges the process by it.
    """
    return f"{host_id() or UNKNOWN}:{os.getpid()}:{_start_of(os.getpid()) or UNKNOWN}:{uuid.uuid4().hex[:12]}"


@cache
def host_id() -> str | None:
    """Return what all processes share that see each other's process ids: the boot and the pid namespace.

    Containers of one machine share its boot, and have process ids of their own. None where the system does not
    say, as on macOS.
    """
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat(PROC / "self/ns/pid").st_ino
    except OSError:
        return None
    return f"{boot}.{namespace}"


def is_gone(owner_id: str) -> bool:
    """Say whether the process of an owner has ended; False where this host cannot tell.

    A process id is used again after a while, so the start must be the same, too. A process that has ended and
    whose parent has not noticed yet is gone.
    """
    host, _, rest = owner_id.partition(":")
    pid, _, rest = rest.partition(":")
    start = rest.partition(":")[0]
    if host_id() is None or host != host_id() or not pid.isdecimal() or start == UNKNOWN:
        return False
    stat = _stat_of(int(pid))
    if stat is None:
        return not _exists(int(pid))  # `/proc` may hide the processes of other users, which live all the same
    return stat[0] in ENDED or stat[START_TIME] != start


def _start_of(pid: int) -> str | None:
    """Return when a process was started, in ticks since the boot."""
    stat = _stat_of(pid)
    return stat[START_TIME] if stat is not None else None


def _stat_of(pid: int) -> list[str] | None:
    try:
        # The name of the command stands in parentheses and may hold any character.
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
