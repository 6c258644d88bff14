"""Earlier states of this repository, as contestants beside the present one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.benchmarks.workers import Contestant

__all__ = ["NoRevision", "earlier"]

REPOSITORY = Path(__file__).parents[2]


class NoRevision(Exception):
    """The revision to measure against is not available."""


def earlier(revision: str, folder: Path) -> Contestant:
    """Return ours as it was in a revision; raises `NoRevision`."""
    archive, code = folder / "earlier.zip", folder / "earlier"
    try:
        name = _git("rev-parse", "--short", "--verify", f"{revision}^{{commit}}").strip()
        _git("archive", "--format=zip", f"--output={archive}", name, "paigeant_celery")
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoRevision(f"cannot read {revision!r}: {getattr(error, 'stderr', None) or error}") from error
    shutil.unpack_archive(archive, code)
    return Contestant(name=f"slip@{name}", kind="slip", code=code)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
