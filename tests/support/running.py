"""How the tests are run: how many at a time, which of them, in which order, and what they took.

A plugin of pytest, loaded by the top `conftest.py`.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from xdist.scheduler import LoadGroupScheduling

__all__ = ["Told"]

AT_ONCE = 4  # processes of pytest; on two cores six were no faster, and each takes 7 s of CPU to collect the tests
SHOWN = 15  # files, of those that take longest

FOLDER = pytest.StashKey[Path]()  # in which each process writes down the groups of its tests
TOLD = "told"  # the property of a report that holds what a test says

Told: TypeAlias = Callable[[object], None]


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Told:
    """Show something at the end of the run, whether the test fails or not."""
    return lambda what: record_property(TOLD, str(what))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the size of the proof, and the part of the tests that is run."""
    parser.addoption(
        "--proof", choices=("brief", "full"), default="brief",
        help="full: all sizes, pools and crash points, not only one of each kind (tests/README.md lists them)",
    )  # fmt: skip
    parser.addoption(
        "--shard", type=shard, metavar="N/M",
        help="run the Nth of M parts, counted from 1; a test is in the same part at each run",
    )  # fmt: skip


def shard(text: str) -> tuple[int, int]:
    """Read `2/4`."""
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError(text)
    return int(match[1]), int(match[2])


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run a few files in this process, which starts faster, and everything else in several."""
    args = [Path(str(config.invocation_params.dir), arg.partition("::")[0]) for arg in config.args]
    if config.option.collectonly or all(path.is_file() for path in args):
        return 0
    return AT_ONCE


class Groups(LoadGroupScheduling):
    """Keeps the tests of a group in one process.

    The processes that collect them write down who belongs to which group: since pytest 9.2 xdist 3.8 cannot append it
    to the id of a test any more, and spreads the tests of a group over all processes.
    """

    @cached_property
    def _groups(self) -> Mapping[str, str]:
        files = self.config.stash[FOLDER].iterdir()
        return {nodeid: group for file in files for nodeid, group in json.loads(file.read_text()).items()}

    def _split_scope(self, nodeid: str) -> str:
        return self._groups.get(nodeid) or super()._split_scope(nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups | None:
    """Let groups stay together."""
    return Groups(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_configure_node(node: Any) -> None:
    """Tell a process where to write its groups down."""
    node.workerinput["groups"] = str(node.config.stash[FOLDER] / node.gateway.id)


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of the groups."""
    if not hasattr(config, "workerinput"):
        config.stash[FOLDER] = Path(tempfile.mkdtemp(prefix="groups-"))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder of the groups."""
    if FOLDER in config.stash:
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for, and tell the process that shares the tests out who belongs together."""
    for item in items:
        for mark in item.iter_markers("together"):
            item.add_marker(pytest.mark.xdist_group(group_of(item, mark)))
    kept = [item for item in items if wanted(item, config)]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if not wanted(item, config)])
    items[:] = kept
    if not hasattr(config, "workerinput"):
        return
    # Groups take longest. What is begun last should be short, or three processes wait for the fourth.
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
    groups = {item.nodeid: " ".join(mark.args[0] for mark in item.iter_markers("xdist_group")) for item in items}
    Path(config.workerinput["groups"]).write_text(json.dumps(groups))


def pytest_collection_finish() -> None:
    """Keep what is loaded by now out of garbage collections; some tests and fixtures look through all objects."""
    gc.collect()
    gc.freeze()


def group_of(item: pytest.Item, mark: pytest.Mark) -> str:
    """Name the tests that share what is started."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return " ".join((item.path.stem, *(str(parameters[by]) for by in mark.args if by in parameters)))


def wanted(item: pytest.Item, config: pytest.Config) -> bool:
    """Say whether this size and this part of the tests have an item."""
    if config.option.proof == "brief" and item.get_closest_marker("proof"):
        return False
    if config.option.shard is None:
        return True
    number, parts = config.option.shard
    return int(hashlib.sha256(item.nodeid.encode()).hexdigest(), 16) % parts == number - 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what passed tests have to say, why others were left out, and which files took longest."""
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "duration")]
    for report in reports:
        for name, text in report.user_properties if report.when == "call" else ():
            if name == TOLD:
                terminalreporter.write_line(text)
    for line in [*left_out(terminalreporter.stats.get("skipped", ())), *table(reports)]:
        terminalreporter.write_line(line)


def left_out(reports: Iterable[pytest.TestReport]) -> Sequence[str]:
    """Return for how many tests each thing was missing, so that whoever runs them knows what they have not shown."""
    reasons = Counter(str(report.longrepr[2]) for report in reports if isinstance(report.longrepr, tuple))
    return [f"{count} skipped: {reason.removeprefix('Skipped: ')}" for reason, count in reasons.most_common()]


def table(reports: Iterable[pytest.TestReport]) -> Sequence[str]:
    """Return the seconds of the files that took longest, and of all."""
    seconds: Counter[str] = Counter()
    for report in reports:
        seconds[report.nodeid.partition("::")[0]] += report.duration  # type: ignore[assignment]
    rows = [*seconds.most_common(SHOWN), (f"all {len(seconds)} files", seconds.total())]
    if len(seconds) < 2:
        return ()
    return ["seconds of tests by file", *(f"{taken:7.1f}  {name}" for name, taken in rows)]
