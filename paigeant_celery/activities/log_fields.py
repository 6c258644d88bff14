"""Which hop a line of the log belongs to: also lines of agents, tools and libraries that know nothing of hops.

Nothing here changes how anybody logs. A filter that the host puts on its own handlers adds the fields.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["FIELDS", "HopLine", "WorkflowLogFilter", "line_here", "within_line"]

NONE = "-"  # what a field is on a line that belongs to no hop

# The fields that a line gets; `docs/telemetry.md` shows them.
FIELDS = ("workflow", "hop", "step", "activity", "attempt")


@dataclass(kw_only=True, slots=True)
class HopLine:
    """What is known of the hop that a process is busy with; it becomes more while the delivery is opened."""

    hop: str
    activity: str
    step: str = NONE
    attempt: int | str = NONE

    @property
    def workflow(self) -> str:
        """The correlation id."""
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


class WorkflowLogFilter(logging.Filter):
    """Adds `workflow` (the correlation id), `hop`, `step`, `activity` and `attempt` to each line of a handler.

    Put it on a handler, not on a logger: a logger's filters do not see the lines of loggers below it. What a line says
    itself stays; on a line that belongs to no hop each field is `-`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; no line is held back."""
        line, own = line_here(), record.__dict__
        hop = own.get("hop")
        about_another = isinstance(hop, str) and line is not None and hop != line.hop
        for name in FIELDS:
            if name not in own:
                own[name] = NONE if line is None or about_another else getattr(line, name)
        if isinstance(hop, str) and own["workflow"] == NONE:
            own["workflow"] = hop.partition(".")[0]
        return True
