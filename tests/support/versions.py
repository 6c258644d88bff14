"""Another version of the package: a copy of this one, with an older format, an older envelope and one kind fewer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import paigeant_celery
from paigeant_celery.core.names import SPEC_VERSION
from paigeant_celery.store.limits import LIMITS
from tests.support.processes import HOSTS, PROGRAMS

__all__ = ["OLDER_FORMAT", "OLDER_SPEC", "older_version"]

OLDER_FORMAT = LIMITS.format - 1
OLDER_SPEC = "1.0"

# File, text in this version, and text in the older one, which knows agents alone.
CHANGES = (
    ("store/limits.py", f"format: int = {LIMITS.format} ", f"format: int = {OLDER_FORMAT} "),
    ("core/names.py", f'SPEC_VERSION = "{SPEC_VERSION}"', f'SPEC_VERSION = "{OLDER_SPEC}"'),
    ("core/slip.py", 'kind: Literal["agent", "agent_1.2"] = "agent"', 'kind: Literal["agent"] = "agent"'),
    ("core/slip.py", 'Annotated[ActivitySpec | FunctionSpec, Field(discriminator="kind")]', "ActivitySpec"),
)


def older_version(folder: Path) -> str:
    """Make the copy and return the `PYTHONPATH` of processes that use it; they must be started cold."""
    copied = folder / "paigeant_celery"
    shutil.copytree(Path(paigeant_celery.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    for name, ours, theirs in CHANGES:
        text = (copied / name).read_text(encoding="utf-8")
        assert text.count(ours) == 1, f"{name} has {text.count(ours)} times {ours!r}"
        (copied / name).write_text(text.replace(ours, theirs), encoding="utf-8")
    return os.pathsep.join(map(str, (folder, PROGRAMS, HOSTS)))
