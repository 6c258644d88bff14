"""Which hop a line of the log belongs to: also lines of agents, tools and libraries that know nothing of hops.

Nothing here changes how anybody logs. A filter that the host puts on its own handlers adds the fields.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["FIELDS", "OWN_FIELDS", "HopLine", "WorkflowLogFilter", "asks_for_fields", "line_here", "within_line"]

ACTION = "action"
NONE = "-"  # what a field is on a line that belongs to no hop

# The fields that a line gets. `docs/telemetry.md` shows both tables.
FIELDS: Mapping[str, str] = {
    "correlation_id": "the correlation id of the workflow",
    "hop": "the id of the hop, which is that of its Celery task",
    "step": "the path of the step",
    "activity": "the activity",
    "attempt": "the number of the attempt",
}
# What lines of ours say beside that, each where it is about that.
OWN_FIELDS: Mapping[str, str] = {
    ACTION: "a fixed word that says what the line is about",
    "asked": "what somebody asked for on a page in Flower",
    "broker": "the broker, without password",
    "by": "who asked for it",
    "error": "the class of an error",
    "key": "the key of a record in the store",
    "mode": "the mode of the transport",
    "queue": "a queue",
    "reason": "the code of why a message was refused, or a delivery dropped",
    "sha256": "the digest of a message that was refused",
    "size": "its size in bytes",
    "trace": "classes and frames of an error, without its text",
    "where": "file, line and function where a step failed",
}


@dataclass(kw_only=True, slots=True)
class HopLine:
    """What is known of the hop that a process is busy with; it becomes more while the delivery is opened."""

    hop: str
    activity: str
    step: str = NONE
    attempt: int | str = NONE

    @property
    def correlation_id(self) -> str:
        """The correlation id of the workflow."""
        return self.hop.partition(".")[0]


_line: ContextVar[HopLine] = ContextVar("paigeant_log_line")
# What the main thread is busy with, as in a child of Celery's prefork pool: the process has no other hop then.
_only: list[HopLine] = []


@contextmanager
def within_line(line: HopLine) -> Iterator[None]:
    """Let lines that are logged inside the block belong to a hop, in tasks and threads that it starts as well."""
    is_main = threading.current_thread() is threading.main_thread()
    token = _line.set(line)
    if is_main:
        _only.append(line)
    try:
        yield
    finally:
        _line.reset(token)
        if is_main:
            _only.remove(line)


def line_here() -> HopLine | None:
    """Return what is known of the hop that this code is part of; None if there is none.

    A thread that was started without its step's context is recognized only if the process is busy with no other hop.
    Threads of our own serve all hops.
    """
    found = _line.get(None)
    if found is not None or not _only:
        return found
    thread = threading.current_thread()
    is_ours = thread is threading.main_thread() or thread.name.startswith("paigeant-")
    return None if is_ours else _only[-1]


def asks_for_fields(format: str) -> bool:  # noqa: A002  # as `logging` and Celery call it
    """Say whether the format of a handler has any of the fields."""
    return any(f"%({name})" in format for name in FIELDS)


class WorkflowLogFilter(logging.Filter):
    """Adds `correlation_id`, `hop`, `step`, `activity` and `attempt` to each line of a handler.

    Put it on a handler, not on a logger: a logger's filters do not see the lines of loggers below it. What a line says
    itself stays; on a line that belongs to no hop each field is `-`.
    """

    def __init__(self) -> None:
        super().__init__()

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; no line is held back."""
        line, own = line_here(), record.__dict__
        hop = own.get("hop")
        about_another = isinstance(hop, str) and line is not None and hop != line.hop
        for name in FIELDS:
            if own.get(name) is None:
                own[name] = NONE if line is None or about_another else getattr(line, name)
        if isinstance(hop, str) and own["correlation_id"] == NONE:
            own["correlation_id"] = hop.partition(".")[0]
        return True
