"""A process that is forked from loaded libraries cannot be told from a fresh one by the program that it runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.processes import Process, eventually, script_environment
from tests.support.starting import FORKS, run, start

pytestmark = pytest.mark.skipif(not FORKS, reason="this system starts all processes cold")

SIGHT = """
import inspect, json, locale, logging, os, signal, sys, threading, time, warnings

def stream(it):
    return [
        type(it.buffer).__name__, it.name, it.mode, it.encoding, it.errors, it.line_buffering, it.write_through,
        it.fileno(), it.isatty(), it is getattr(sys, f"__{it.name.strip('<>')}__"),
    ]

main = sys.modules["__main__"]
print(json.dumps({
    "command": [sys.argv, sys.orig_argv, sys.executable, sys.warnoptions], "path": sys.path,
    "folder": os.getcwd(), "environment": dict(os.environ), "umask": os.umask(0o22),
    "main": {name: str(value) for name, value in vars(main).items() if name.startswith("__")},
    "spec": [getattr(main.__spec__, name, None) for name in ("name", "origin", "parent")],
    "signals": {one.name: str(signal.getsignal(one)) for one in signal.Signals if one in signal.valid_signals()},
    "blocked": [str(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "threads": [one.name for one in threading.enumerate()], "here": threading.current_thread().name,
    "filters": [str(one) for one in warnings.filters], "streams": [*map(stream, (sys.stdin, sys.stdout, sys.stderr))],
    "files": [file for file in range(100) if os.path.exists(f"/dev/fd/{file}") and os.isatty(file) is False],
    "leads": [os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid()],
    "locale": locale.setlocale(locale.LC_ALL), "zone": time.tzname,
    "logging": [logging.root.level, logging.root.handlers], "hook": str(sys.excepthook),
    "found": [str(one) for one in sys.path_hooks], "limit": sys.getrecursionlimit(),
}))
"""
FORMS = {
    "file": ["script.py", "one"],
    "file elsewhere": ["./shop/../shop/script.py"],
    "link": ["link.py", "--flag"],
    "folder": ["shop", "--flag", "one"],
    "folder in another spelling": ["./shop/"],
    "module": ["-m", "shop.script", "bär"],
    "package": ["-m", "shop"],
    "code": ["-c", SIGHT, "one"],
    "warnings": ["-W", "error", "-W", "ignore::DeprecationWarning", "-m", "shop"],
}  # fmt: skip

HELD = "import time; print('ready.', flush=True); time.sleep(60)"


def python(folder: Path, *arguments: str, cold: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(
        [sys.executable, *arguments], cwd=folder, environment={**script_environment(), **environment}, within=60,
        cold=cold,
    )  # fmt: skip


def held(folder: Path) -> Process:
    process = Process([sys.executable, "-c", HELD], folder=folder, environment=script_environment(), name="held")
    process.wait_for_log("ready.", within=60)
    return process


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").touch()
    for file in ("script.py", "shop/script.py", "shop/__main__.py"):
        (tmp_path / file).write_text(SIGHT)
    (tmp_path / "link.py").symlink_to("shop/script.py")
    return tmp_path


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("form", FORMS)
def test_a_forked_program_sees_what_a_fresh_one_sees(shop: Path, form: str, unbuffered: str) -> None:
    """What a test learns of a forked worker holds for the one that a service manager starts."""
    environment = {"PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": f"folder:{shop}", "COLOUR": "gr\u00fcn"}

    fresh, forked = (python(shop, *FORMS[form], cold=cold, **environment) for cold in (True, False))

    assert fresh.stderr == forked.stderr == ""
    sights = [json.loads(re.sub(" at 0x[0-9a-f]+", "", done.stdout)) for done in (fresh, forked)]
    assert sights[1] == sights[0]
    assert sights[0]["leads"] == [True, True]


def test_the_libraries_are_loaded_and_nothing_of_the_programs(tmp_path: Path) -> None:
    """There is no app and no activity, nothing waits for one, and no module is loaded that would change an app."""
    code = (
        "import json, sys; loaded = set(sys.modules); from celery import _state\n"
        "from paigeant_celery.activities.registry import registry\n"
        "apps = [_state.default_app, _state._tls.current_app, *_state._get_active_apps()]\n"
        "finalizers = [made.__module__ for made in _state._on_app_finalizers if 'paigeant' in made.__module__]\n"
        "print(json.dumps([\n"
        "    sorted(loaded & {'pydantic_ai', 'kombu', 'paigeant_celery.worker'}),\n"
        "    sorted(loaded & {'paigeant_celery.celery', 'paigeant_celery.tasks', 'celery.__main__'}),\n"
        "    apps, finalizers, registry.names(), len(registry._subscribers),\n"
        "]))\n"
    )

    assert json.loads(python(tmp_path, "-c", code).stdout) == [
        ["kombu", "paigeant_celery.worker", "pydantic_ai"], [], [None, None], [], [], 0
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("print('done')", 0),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('no')", 1),
        ("import os; os._exit(4)", 4),
        ("def fail():\n    raise ValueError('no')\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    fail()", 1),
        ("import runpy; runpy.run_module('no_such_module')", 1),
        ("1 +", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("import atexit, sys; atexit.register(print, 'last'); sys.exit(2)", 2),
        ("import threading, time; threading.Timer(0.2, print, ['late']).start()", 0),
    ],
)
def test_a_forked_program_ends_as_a_fresh_one_does(tmp_path: Path, code: str, exit_code: int) -> None:
    """Exit codes, tracebacks, and what is done at the exit."""
    (tmp_path / "script.py").write_text(code)

    fresh, forked = (python(tmp_path, "script.py", cold=cold) for cold in (True, False))

    assert fresh.returncode == exit_code
    errors = forked.stderr if exit_code != -signal.SIGINT else without_server(forked.stderr)
    assert (forked.returncode, forked.stdout, errors) == (fresh.returncode, fresh.stdout, fresh.stderr)


def test_programs_can_be_interrupted_although_the_tests_run_in_the_background_of_a_script() -> None:
    """A shell lets such a job ignore SIGINT; a test that sends it would wait for an end that does not come."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.support.starting import heed_interrupts, run\n"
        "heed_interrupts()\n"
        "command = [sys.executable, '-c', 'import os, signal; os.kill(os.getpid(), signal.SIGINT)']\n"
        "for cold in (True, False):\n"
        "    print(run(command, cwd=Path(), environment=os.environ, within=60, cold=cold).returncode)\n"
    )

    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", code],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip

    assert done.stdout.split() == [str(-signal.SIGINT)] * 2


def without_server(errors: str) -> str:
    """Leave out the lines of the server's file, through which an interrupt must go to end the process as it does."""
    return re.sub(r'  File "[^"]*forkserver\.py".*\n(    .*\n)*', "", errors)


def test_no_two_forked_programs_draw_the_same_numbers(tmp_path: Path) -> None:
    """Retries would otherwise be delayed by the same jitter, and names drawn twice."""
    code = "import os, random, uuid; print(random.random(), uuid.uuid4(), os.urandom(8).hex())"

    first, second = (python(tmp_path, "-c", code).stdout.split() for _ in range(2))

    assert not set(first) & set(second)


def test_a_forked_program_can_be_killed_from_the_moment_of_its_start(tmp_path: Path) -> None:
    """It leads its group before its starter goes on."""
    for _ in range(20):
        process = Process([sys.executable, "-c", HELD], folder=tmp_path, environment=script_environment(), name="held")
        process.kill()
        assert process.ended() == -signal.SIGKILL


def test_a_forked_program_is_stopped_continued_and_asked_to_end(tmp_path: Path) -> None:
    """A stop is no end."""
    process = held(tmp_path)

    os.killpg(process.pid, signal.SIGSTOP)
    with pytest.raises(AssertionError, match="still runs after"):
        process.ended(within=0.2)
    assert process.running
    os.killpg(process.pid, signal.SIGCONT)

    assert process.terminate() == -signal.SIGTERM
    assert not process.running


def test_one_thread_can_look_while_another_waits(tmp_path: Path) -> None:
    """Who notes when a process was last seen must not stand still."""
    process = held(tmp_path)

    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(process.ended, within=60) for _ in range(2)]
        began = time.monotonic()
        while time.monotonic() - began < 0.2:
            assert process.running
        process.kill()

        assert [one.result() for one in waiting] == [-signal.SIGKILL] * 2


def test_what_an_interpreter_reads_at_its_start_is_given_to_a_fresh_one(tmp_path: Path) -> None:
    """A seed of hashes, a locale or an option cannot be changed any more in a fork."""
    code = "import sys; print('pydantic_ai' in sys.modules, sys.flags.hash_randomization, sys.flags.isolated)"

    assert python(tmp_path, "-c", code).stdout == "True 1 0\n"
    assert python(tmp_path, "-c", code, PYTHONHASHSEED="0").stdout == "False 0 0\n"
    assert python(tmp_path, "-c", code, LC_ALL="C").stdout == "False 1 0\n"
    assert python(tmp_path, "-I", "-c", code).stdout == "False 1 1\n"
    assert python(tmp_path, "-c", code, cold=True).stdout == "False 1 0\n"


def test_what_was_forked_ends_with_the_tests(tmp_path: Path) -> None:
    """Whoever kills the tests has no workers left."""
    code = (
        "import os, sys, time; from pathlib import Path; from tests.support.starting import start\n"
        "with open('log', 'wb') as output:\n"
        f"    command = [sys.executable, '-c', {HELD!r}]\n"
        "    process = start(command, cwd=Path.cwd(), environment=os.environ, output=output)\n"
        "print('pid', process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**script_environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    tests = Process([sys.executable, "-c", code], folder=tmp_path, environment=environment, name="tests", cold=True)
    pid = int(re.findall(r"pid (\d+)\n", eventually(lambda: "\n" in tests.log() and tests.log(), within=60))[0])
    os.kill(pid, 0)

    tests.kill()

    eventually(lambda: ended(pid), what="the forked process has not ended")


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_command_that_is_no_python_is_started_as_it_is(tmp_path: Path) -> None:
    """What stands in front of a worker's command, such as `unshare`, starts it itself."""
    with (tmp_path / "log").open("wb") as output:
        process = start(["sh", "-c", "exit 7"], cwd=tmp_path, environment=os.environ, output=output)

    assert process.wait(10) == 7
