"""Owners as processes: a living one is never taken for dead, and a dead one is found."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paigeant_celery.hop import liveness
from paigeant_celery.hop.liveness import goes_on, host_id, in_words, is_gone, new_owner_id

pytestmark = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="this system has no /proc")


def owner_in(python: subprocess.Popen[str]) -> str:
    assert python.stdout is not None
    return python.stdout.readline().strip()


def start() -> subprocess.Popen[str]:
    code = "from paigeant_celery.hop.liveness import new_owner_id\nprint(new_owner_id(), flush=True)\ninput()"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_living_process_is_not_gone() -> None:
    """Taking over what still runs would pay for it twice."""
    assert not is_gone(new_owner_id())


def test_people_are_told_the_process_and_the_host() -> None:
    """Whoever reads a dead letter looks for that worker's log."""
    assert in_words(new_owner_id()) == f"pid {os.getpid()} on {platform.node()}"
    assert in_words("another-boot.4026531836:1:5:abc") == "another-boot.4026531836:1:5:abc"


def test_a_killed_process_is_gone_before_its_parent_looks() -> None:
    """A child of a pool that was killed is missed at once."""
    with start() as other:
        owner = owner_in(other)
        living = is_gone(owner)
        other.kill()
        deadline = time.monotonic() + 20
        while not is_gone(owner):  # nobody has waited for the child: it is a zombie now
            assert time.monotonic() < deadline

    assert not living
    assert is_gone(owner)


def test_another_process_under_the_same_id_is_not_the_owner() -> None:
    """Process ids are reused, in a container soon."""
    host, pid, started, nonce, _ = new_owner_id().split(":")

    assert is_gone(f"{host}:{pid}:{int(started) - 1}:{nonce}")
    assert not goes_on(f"{host}:{pid}:{int(started) - 1}:{nonce}", of=new_owner_id())


@pytest.mark.parametrize(
    "owner",
    [
        "another-boot.4026531836:1:5:abc",
        f"{host_id()}:{os.getpid()}:unknown:abc",
        f"{host_id()}::5:abc",
        f"{host_id()}",
        "unknown:1:unknown:abc",
        "",
    ],
    ids=["another boot", "no start", "no process", "host alone", "no host", "nothing"],  # the same in every process
)
def test_nobody_is_judged_whom_this_host_cannot_see(owner: str) -> None:
    """Then the lease decides, which is slow but right."""
    assert not is_gone(owner)
    assert not goes_on(owner, of=new_owner_id())
    assert not goes_on(new_owner_id(), of=owner)


def test_a_process_and_its_children_go_on_until_they_stop_or_end() -> None:
    """A process that is stopped renews nothing, and nobody may renew for it; else its steps would never go on."""
    here = new_owner_id()
    with start() as other:
        owner = owner_in(other)
        assert goes_on(here, of=here)
        assert goes_on(owner, of=here)
        assert not goes_on(here, of=owner)  # it is above it

        other.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, other.pid, os.WSTOPPED | os.WNOWAIT)
        assert not goes_on(owner, of=here)
        assert not is_gone(owner)

        other.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, other.pid, os.WCONTINUED | os.WNOWAIT)
        assert goes_on(owner, of=here)

        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert not goes_on(owner, of=here)


def test_a_process_of_another_worker_is_left_to_that() -> None:
    """Each worker has a helper of its own, which ends with it."""
    with start() as other:
        owner = owner_in(other)
        host, pid, started, nonce, _ = owner.split(":")

        assert not goes_on(owner, of=f"{host}:{int(pid) + 1}:{started}:{nonce}")
        other.kill()


def test_a_process_that_the_system_hides_is_not_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With `hidepid` the processes of other users are invisible, but their steps go on."""
    with start() as other:
        owner = owner_in(other)
        hidden = tmp_path / "proc"
        (hidden / "self" / "ns").mkdir(parents=True)
        monkeypatch.setattr(liveness, "PROC", hidden)  # this host is known already, and no process of it is seen
        living = is_gone(owner)
        other.kill()
        other.wait()

        assert not living
        assert is_gone(owner)


def test_where_the_system_does_not_say_nobody_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On systems without /proc owners still have ids."""
    monkeypatch.setattr(liveness, "PROC", tmp_path)
    host_id.cache_clear()
    try:
        owner = new_owner_id()
        assert owner.startswith(f"unknown:{os.getpid()}:unknown:")
        assert not is_gone(owner)
    finally:
        host_id.cache_clear()


def test_each_owner_has_an_id_of_its_own() -> None:
    """Two runtimes of one process do not write for each other."""
    assert new_owner_id() != new_owner_id()
