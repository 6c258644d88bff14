"""What a daemon says that does not start: its standard output and error lead nowhere, so it stands in the log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import START_WITHIN, eventually, script_environment

WRONG = "paigeant_leese = 3\nbroker_url = 'redis://127.0.0.1:1/0'\n"
SAID = "CRITICAL/MainProcess] paigeant_celery: configuration, 2 mistakes: `paigeant_leese` is not a setting"
UNMADE = "CRITICAL/MainProcess] paigeant_celery: configuration: "
MISSING = "ModuleNotFoundError: No module named 'nowhere'"

DETACHED = ("-A", "paigeant_celery", "worker", "--detach", "-n", "w1@here", "-c", "1")
MULTI = ("multi", "start", "w1@here", "-A", "paigeant_celery", "-c", "1")


@pytest.mark.parametrize(
    ("command", "config", "said"),
    [
        pytest.param(DETACHED, WRONG, SAID, id="--detach"),
        pytest.param(MULTI, WRONG, SAID, id="multi", marks=pytest.mark.proof),
        pytest.param(
            (*DETACHED, "-I", "nowhere"), "", MISSING, id="a module that is not there", marks=pytest.mark.proof
        ),
        pytest.param(
            DETACHED, "broker_url = 'no-such-transport://h'\n", UNMADE, id="before the log", marks=pytest.mark.proof
        ),
    ],
)
def test_a_daemon_that_does_not_start_says_why_in_its_log(
    tmp_path: Path, command: tuple[str, ...], config: str, said: str
) -> None:
    """Whoever started it was told that all is well, and finds no process."""
    (tmp_path / "celeryconfig.py").write_text(config)
    log = tmp_path / "w1.log"

    begun = subprocess.run(
        [sys.executable, "-m", "celery", *command, f"--logfile={tmp_path}/%n.log", f"--pidfile={tmp_path}/%n.pid"],
        cwd=tmp_path, env=script_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert begun.returncode == 0, begun.stderr
    assert "paigeant_celery: " not in begun.stdout + begun.stderr
    eventually(lambda: log.exists() and said in log.read_text(), within=START_WITHIN, what=f"{said!r} is not logged")
    eventually(lambda: not processes_of(tmp_path), within=START_WITHIN, what="the daemon still runs")


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes that name a folder."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if str(folder) in line:
            lines.append(line)
    return lines
