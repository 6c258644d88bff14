"""This process among those of its host: names that let another process tell whether it still lives."""

from __future__ import annotations

import os
import platform
import re
import socket
import uuid
from functools import cache
from pathlib import Path

__all__ = ["exists", "goes_on", "host_id", "in_words", "is_gone", "is_stopped", "new_owner_id"]

PROC = Path("/proc")
PARENT = 1  # its index in /proc/<pid>/stat after the name of the command
START_TIME = 19  # the same, in clock ticks since boot
ENDED = {"Z", "X"}  # states of a process that has ended, but whose parent has not noticed yet
STOPPED = {"T", "t"}  # by a signal, or by a debugger
UNKNOWN = "unknown"


def new_owner_id() -> str:
    """Return `host:pid:start:nonce:name` for this process; a forked child gets a different one.

    If the host or the start cannot be read, that part is `unknown`, and nobody judges the process by it. The name is
    that of the machine, for people.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()) or UNKNOWN
    start = _start_of(os.getpid()) or UNKNOWN
    return f"{host_id() or UNKNOWN}:{os.getpid()}:{start}:{uuid.uuid4().hex[:12]}:{name}"


@cache
def host_id() -> str | None:
    """Return what is shared by all processes that see each other's process ids: the boot and the pid namespace.

    Containers on one machine share its boot but have their own process ids. None if the system does not say, as on
    macOS.
    """
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat(PROC / "self/ns/pid").st_ino
    except OSError:
        return None
    return f"{boot}.{namespace}"


def in_words(owner_id: str) -> str:
    """Return what people call the process of an owner, if it is on this host; else the id."""
    process = _process_of(owner_id)
    return f"pid {process[0]} on {platform.node()}" if process is not None else owner_id


def is_gone(owner_id: str) -> bool:
    """Say whether the process of an owner has ended; False if this host cannot tell.

    Process ids are reused after a while, so the start must match too. A process that has ended is gone, even if its
    parent has not noticed yet.
    """
    process = _process_of(owner_id)
    if process is None:
        return False
    pid, start = process
    stat = _stat_of(pid)
    if stat is None:
        return not exists(pid)  # `/proc` may hide other users' processes, which may be alive
    return stat[0] in ENDED or stat[START_TIME] != start


def goes_on(owner_id: str, *, of: str) -> bool:
    """Say whether the process of an owner is there and not stopped, and is the process `of` or a child of it.

    Both are ids of owners. False if this host cannot tell.
    """
    process, above = _process_of(owner_id), _process_of(of)
    if process is None or above is None:
        return False
    stat = _stat_of(process[0])
    if stat is None or stat[0] in ENDED | STOPPED or stat[START_TIME] != process[1]:
        return False
    return str(above[0]) in (str(process[0]), stat[PARENT])


def is_stopped(pid: int) -> bool:
    """Say whether a process is stopped by a signal; False if this host cannot tell."""
    stat = _stat_of(pid)
    return stat is not None and stat[0] in STOPPED


def _process_of(owner_id: str) -> tuple[int, str] | None:
    """Return the process id and the start of an owner on this host; None if this host cannot judge it."""
    host, _, rest = owner_id.partition(":")
    pid, _, rest = rest.partition(":")
    start = rest.partition(":")[0]
    if host_id() is None or host != host_id() or not pid.isdecimal() or start == UNKNOWN:
        return None
    return int(pid), start


def _start_of(pid: int) -> str | None:
    """Return when a process was started, in ticks since boot."""
    stat = _stat_of(pid)
    return stat[START_TIME] if stat is not None else None


def _stat_of(pid: int) -> list[str] | None:
    try:
        # The name of the command is in parentheses and may contain any character.
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def exists(pid: int) -> bool:
    """Say whether there is a process with this id, also one that has ended and waits for its parent to notice."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
