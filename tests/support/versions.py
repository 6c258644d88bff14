"""Other versions of the package: copies of this one, with an older envelope, and one of them with an older format."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import paigeant_celery
from paigeant_celery.core.names import SPEC_VERSION
from paigeant_celery.store.limits import LIMITS
from tests.support.processes import HOSTS, PROGRAMS

__all__ = [
    "OLDER_FORMAT",
    "OLDER_SPEC",
    "older_version",
    "reading_no_blocks",
    "whole_slips",
    "without_blocks",
    "without_waits",
]

OLDER_FORMAT = LIMITS.format - 1
OLDER_SPEC = "1.0"

# File, text in this version, and text in an older one. 1.2 knows no slip of which a part is in the store.
WHOLE_SLIPS = (
    (
        "core/slip.py",
        "earlier: Annotated[Earlier | None, Field(exclude_if=lambda earlier: earlier is None)] = None",
        "earlier = property(lambda slip: None)",
    ),
    (
        "hop/with_store.py",
        '"""They may leave it, because the store keeps them."""\n        return True',
        '"""They travel."""\n        return False',
    ),
)
STEPS = "ActivitySpec | FunctionSpec | TaskSpec | WaitSpec | SleepSpec | BlockSpec, "  # of this version
# 1.4 knows no blocks, no branches and no steps of Celery tasks.
NO_BLOCKS = (
    ("core/steps.py", STEPS, "ActivitySpec | FunctionSpec | WaitSpec | SleepSpec, "),
    (
        "core/slip.py",
        "branch: Annotated[BranchOf | None, Field(exclude_if=lambda branch: branch is None)] = None",
        "branch = property(lambda slip: None)",
    ),
)
# 1.3 knows no steps that wait, and nobody takes them.
NO_WAITS = (
    ("core/steps.py", STEPS, "ActivitySpec | FunctionSpec, "),
    NO_BLOCKS[1],
    ("core/slip.py", "if record.gives_output), None)", "), None)"),
    ("activities/registry.py", "registry = Registry([FlowActivity()])", "registry = Registry()"),
)
# It knows agents alone, and no hop that waits for an answer.
CHANGES = (
    *WHOLE_SLIPS,
    *NO_WAITS,
    ("store/limits.py", f"format: int = {LIMITS.format} ", f"format: int = {OLDER_FORMAT} "),
    ("store/scripts/cancel.lua", "redis.call('ZREM', asleep, hop)\nwithdraw_waits(open)\n", ""),
    ("core/names.py", f'SPEC_VERSION = "{SPEC_VERSION}"', f'SPEC_VERSION = "{OLDER_SPEC}"'),
    ("core/steps.py", 'kind: Literal["agent", "agent_1.2"] = "agent"', 'kind: Literal["agent"] = "agent"'),
    ("core/steps.py", 'Annotated[\n    ActivitySpec | FunctionSpec, Field(discriminator="kind")\n]', "ActivitySpec"),
)
# It has the format of its time, too: its workers end when a newer one has begun.
WITHOUT_WAITS = (
    *NO_WAITS,
    ("core/names.py", f'SPEC_VERSION = "{SPEC_VERSION}"', 'SPEC_VERSION = "1.3"'),
    ("store/limits.py", f"format: int = {LIMITS.format} ", f"format: int = {OLDER_FORMAT} "),
)
WITHOUT_BLOCKS = (
    *NO_BLOCKS,
    ("core/names.py", f'SPEC_VERSION = "{SPEC_VERSION}"', 'SPEC_VERSION = "1.4"'),
    ("store/limits.py", f"format: int = {LIMITS.format} ", f"format: int = {OLDER_FORMAT} "),
)


def older_version(folder: Path) -> str:
    """Make a copy that is much older and return the `PYTHONPATH` of its processes, which must be started cold."""
    return _copied(folder, CHANGES)


def whole_slips(folder: Path) -> str:
    """Make a copy of version 1.2, which has the same format: its workers go on beside those of this version."""
    return _copied(
        folder, (*WHOLE_SLIPS, ("core/names.py", f'SPEC_VERSION = "{SPEC_VERSION}"', 'SPEC_VERSION = "1.2"'))
    )


def without_waits(folder: Path) -> str:
    """Make a copy of version 1.3."""
    return _copied(folder, WITHOUT_WAITS)


def without_blocks(folder: Path) -> str:
    """Make a copy of version 1.4."""
    return _copied(folder, WITHOUT_BLOCKS)


def reading_no_blocks(folder: Path) -> str:
    """Make a copy of version 1.4 with the format of this one: its workers go on beside those of this version."""
    return _copied(folder, (*NO_BLOCKS, ("core/names.py", f'SPEC_VERSION = "{SPEC_VERSION}"', 'SPEC_VERSION = "1.4"')))


def _copied(folder: Path, changes: Iterable[tuple[str, str, str]]) -> str:
    copied = folder / "paigeant_celery"
    shutil.copytree(Path(paigeant_celery.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    for name, ours, theirs in changes:
        text = (copied / name).read_text(encoding="utf-8")
        assert text.count(ours) == 1, f"{name} has {text.count(ours)} times {ours!r}"
        (copied / name).write_text(text.replace(ours, theirs), encoding="utf-8")
    return os.pathsep.join(map(str, (folder, PROGRAMS, HOSTS)))
