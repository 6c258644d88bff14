"""Lines that a test writes beside the product: one JSON object each, in one write, so that none is torn."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["me", "note", "noted_run"]


def note(path: str, **fields: object) -> None:
    """Append a line; `at` is the wall clock, which the server of the same machine shares."""
    line = json.dumps({"at": time.time(), **fields}) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def me() -> dict[str, object]:
    """Return who writes: the name of the started process that this one belongs to, and its own id.

    The id alone would say little: in a pid namespace of its own, other processes have the same.
    """
    return {"process": os.environ["PROCESS"], "pid": os.getpid()}


@contextmanager
def noted_run(hop_id: str) -> Iterator[None]:
    """Note that a step's body begins, and that it ended or raised; one that dies or is cancelled did neither."""
    path, run = os.environ["RUNS_FILE"], uuid.uuid4().hex
    note(path, what="begin", run=run, hop=hop_id, **me())
    try:
        yield
    except Exception:
        note(path, what="raised", run=run, hop=hop_id)
        raise
    note(path, what="end", run=run)
