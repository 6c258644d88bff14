"""Lines that a test writes beside the product: one JSON object each, in one write, so that none is torn."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["note", "noted_run"]


def note(path: str, **fields: object) -> None:
    """Append a line; `at` is the wall clock, which the server of the same machine shares."""
    line = json.dumps({"at": time.time(), **fields}) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


@contextmanager
def noted_run(hop_id: str) -> Iterator[None]:
    """Note that a step's body begins and that it came to its end; one that raises or dies never did."""
    path, run = os.environ["RUNS_FILE"], uuid.uuid4().hex
    note(path, what="begin", run=run, hop=hop_id, pid=os.getpid(), group=os.getpgrp())
    yield
    note(path, what="end", run=run)
