"""Lines that a test writes next to the product: one JSON object each, in a single write, so that none is torn."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["me", "note", "noted_run"]


def note(path: str, **fields: object) -> None:
    """Append a line; `at` is the wall clock, which a server on the same machine shares."""
    line = json.dumps({"at": time.time(), **fields}) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def me() -> dict[str, object]:
    """Return who writes: the name of the started process that this one belongs to, and its own id.

    The id alone is not enough: in different pid namespaces, processes have the same ids.
    """
    return {"process": os.environ["PROCESS"], "pid": os.getpid()}


@contextmanager
def noted_run(hop_id: str) -> Iterator[None]:
    """Record that a step's body begins, and that it ended or raised; if it dies or is cancelled, it did neither."""
    path, run = os.environ["RUNS_FILE"], uuid.uuid4().hex
    note(path, what="begin", run=run, hop=hop_id, **me())
    try:
        yield
    except Exception:
        note(path, what="raised", run=run, hop=hop_id)
        raise
    note(path, what="end", run=run)
