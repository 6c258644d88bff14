"""The helper of a worker: a process that is nobody's child, shows no secret, and ends with its worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from paigeant_celery.core.settings import Settings
from paigeant_celery.hop import liveness
from paigeant_celery.hop.liveness import host_id
from paigeant_celery.store.endpoint import read_url
from paigeant_celery.worker.touching import Touching
from tests.support.processes import run_script

WITHIN = 30.0  # seconds
SECRET = "tangerine"
AWAY = read_url(f"redis://:{SECRET}@127.0.0.1:1/0")  # nothing listens there
SETTINGS = Settings()

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see whose lease to extend"
)


def eventually(ask: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN
    while not ask():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def helpers(worker: int) -> list[int]:
    """The processes that keep the leases of a worker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"(keeps the leases of process {worker})".encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def loaded(pid: int) -> bool:
    """Whether a helper has begun its work: it has loaded the client of the store."""
    with contextlib.suppress(OSError):
        return "_ssl" in Path(f"/proc/{pid}/maps").read_text()
    return False


def at_work(made: Touching) -> None:
    """Begin, and return when the helper is at work."""
    made.begin()
    eventually(lambda: [pid for pid in helpers(os.getpid()) if loaded(pid)])


@pytest.fixture(scope="module")
def helped() -> Iterator[Touching]:
    """A worker whose helper is at work."""
    made = Touching(AWAY, SETTINGS)
    at_work(made)
    yield made
    made.end()
    eventually(lambda: not helpers(os.getpid()))


def test_there_is_one_helper_however_many_steps_begin(helped: Touching) -> None:
    """A worker runs thousands of steps."""
    for _ in range(3):
        helped.begin()

    assert len(helpers(os.getpid())) == 1


def test_the_helper_is_not_a_child_and_not_in_the_session_of_its_worker(helped: Touching) -> None:
    """A host may wait for any child, and a Ctrl-C goes to the whole group, whose steps go on for a while."""
    (helper,) = helpers(os.getpid())
    stat = Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()

    assert int(stat[1]) != os.getpid()
    assert os.getsid(helper) != os.getsid(0)
    assert os.getpgid(helper) != os.getpgid(0)


def test_the_helper_outlives_the_signals_of_a_service_manager(helped: Touching) -> None:
    """They go to all processes of a service, and its steps may end within the grace period."""
    (helper,) = helpers(os.getpid())

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(helper, number)

    ignored = int(next(line.split()[1] for line in status(helper) if line.startswith("SigIgn")), 16)
    assert all(ignored & (1 << (number - 1)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    assert helpers(os.getpid()) == [helper]


def status(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/status").read_text().splitlines()


def test_the_address_of_the_store_is_nowhere_that_others_could_read(helped: Touching) -> None:
    """Command lines are shown to everyone, and environments are written into reports."""
    (helper,) = helpers(os.getpid())

    assert SECRET not in Path(f"/proc/{helper}/cmdline").read_text()
    assert SECRET not in Path(f"/proc/{helper}/environ").read_text(errors="replace")


def test_the_helper_holds_no_file_of_its_worker(helped: Touching) -> None:
    """A port or a file that it kept open would be taken although the worker has ended."""
    (helper,) = helpers(os.getpid())
    with open(os.devnull) as null:
        pipes = {os.readlink(f"/proc/{helper}/fd/{number}") for number in (0, 1)}
        held = opened(helper) - pipes

        assert null.name in held
        assert opened(os.getpid()) & held == {null.name}


def opened(pid: int) -> set[str]:
    """What a process has open."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the folder itself
            found.add(os.readlink(file))
    return found


def test_the_helper_is_small(helped: Touching) -> None:
    """There is one for each worker."""
    (helper,) = helpers(os.getpid())

    resident = next(int(line.split()[1]) for line in status(helper) if line.startswith("VmRSS"))

    assert resident < 45_000  # kB; 34 500 were seen
    assert "pydantic_core" not in Path(f"/proc/{helper}/maps").read_text()


def test_an_end_that_was_asked_for_is_no_failure(helped: Touching, caplog: pytest.LogCaptureFixture) -> None:
    """An executor stops, and another one starts later in the same program."""
    before = helpers(os.getpid())
    helped.end()
    eventually(lambda: not helpers(os.getpid()))
    at_work(helped)

    assert helpers(os.getpid()) != before
    assert caplog.records == []


def test_a_helper_that_is_killed_is_told_of_and_started_again(
    helped: Touching, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that is short of memory for a moment keeps its leases for the weeks that it goes on."""
    (helper,) = helpers(os.getpid())

    os.kill(helper, signal.SIGKILL)
    eventually(lambda: caplog.records)
    helped.begin()  # a step that begins meanwhile starts no second one
    eventually(lambda: [pid for pid in helpers(os.getpid()) if loaded(pid)])

    (record,) = caplog.records
    assert record.__dict__["action"] == "touching_failed"
    assert "(it was killed, and is started again in 1 s)" in record.getMessage()
    assert len(helpers(os.getpid())) == 1
    assert helper not in helpers(os.getpid())


def test_a_helper_that_says_why_it_ends_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would fail in the same way each time."""
    monkeypatch.setattr(Touching, "_given", lambda *_: b"{}\n")
    made = Touching(AWAY, SETTINGS)

    made.begin()
    eventually(lambda: caplog.records)

    (record,) = caplog.records
    assert "(KeyError)" in record.getMessage()
    assert not made.helps


@pytest.mark.proof
def test_a_killed_helper_is_started_again_under_gevent() -> None:
    """gevent's `waitpid` works in its first thread alone."""
    run_script(UNDER_GEVENT, cold=True)


UNDER_GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import os, signal, sys, gevent
from pathlib import Path
from paigeant_celery.core.settings import Settings
from paigeant_celery.store.endpoint import read_url
from paigeant_celery.worker.touching import Touching

def helpers():
    mark = f"(keeps the leases of process {os.getpid()})".encode()
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if mark in path.read_bytes()]

made = Touching(read_url("redis://127.0.0.1:1/0"), Settings())
made.begin()
with gevent.Timeout(30):
    while not (first := helpers()):
        gevent.sleep(0.01)
    os.kill(first[0], signal.SIGKILL)
    while not [pid for pid in helpers() if pid not in first]:
        gevent.sleep(0.01)
made.end()
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/no/such/python3", "(FileNotFoundError)"),
        ("/usr/bin/uwsgi", "(FileNotFoundError)"),
        ("", "(FileNotFoundError)"),
        (None, "(FileNotFoundError)"),
        (__file__.replace("test_touching", "python"), "(FileNotFoundError)"),
    ],
)
def test_a_helper_that_cannot_start_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str | None, why: str
) -> None:
    """A frozen program, a server that embeds Python, a system that forbids it: steps run all the same."""
    monkeypatch.setattr(sys, "executable", name)
    made = Touching(AWAY, SETTINGS)

    made.begin()
    made.begin()

    (record,) = caplog.records
    assert why in record.getMessage()
    assert "`paigeant_lease` (10 s)" in record.getMessage()
    assert SECRET not in record.getMessage()


def test_a_frozen_program_starts_no_copy_of_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its executable may be called anything, but it is the program."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    made = Touching(AWAY, SETTINGS)

    made.begin()

    assert [record.__dict__["action"] for record in caplog.records] == ["touching_failed"]
    assert not made.helps


def test_a_system_that_may_have_no_more_processes_runs_steps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container that is at its limit of processes still has work to do."""

    def refuse(*arguments: object, **named: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "posix_spawn", refuse)

    Touching(AWAY, SETTINGS).begin()

    assert ["(BlockingIOError)" in record.getMessage() for record in caplog.records] == [True]


def test_a_system_that_may_have_no_more_threads_runs_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Celery calls when a step is accepted must not raise, or it ends the worker."""

    def refuse(*arguments: object, **named: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("paigeant_celery.worker.touching.start_thread", refuse)
    made = Touching(AWAY, SETTINGS)

    made.begin()

    assert made.helps
    made.end()


def test_nobody_is_helped_where_no_other_process_could(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Records in memory, no store, or no /proc, as on macOS: there is nothing to say about it at each start."""
    nowhere, elsewhere = Touching(None, SETTINGS), Touching(AWAY, SETTINGS)
    nowhere.begin()
    monkeypatch.setattr(liveness, "PROC", tmp_path)
    host_id.cache_clear()
    try:
        elsewhere.begin()
    finally:
        host_id.cache_clear()

    assert caplog.records == []
    assert not nowhere.helps
    assert not elsewhere.helps


WORKER = """
    import os, time
    from paigeant_celery.core.settings import Settings
    from paigeant_celery.store.endpoint import read_url
    from paigeant_celery.worker.touching import Touching
    made = Touching(read_url("redis://127.0.0.1:1/0"), Settings())
    made.begin()
    child = os.fork()  # a process of a pool, which goes on for a while when its parent is gone
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


def test_the_helper_ends_with_its_worker_even_if_a_child_of_that_goes_on() -> None:
    """A worker that is killed says goodbye to nobody; what it leaves behind must not keep leases alive."""
    with subprocess.Popen(
        [sys.executable, "-c", dedent(WORKER)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as worker:
        try:
            assert worker.stdout is not None
            child = int(worker.stdout.readline())
            eventually(lambda: [pid for pid in helpers(worker.pid) if loaded(pid)])
            worker.kill()

            eventually(lambda: not helpers(worker.pid))
            assert Path(f"/proc/{child}").exists()
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
